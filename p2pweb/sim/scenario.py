"""What happens in a run: a TOML file, validated.

Times are virtual seconds; those of `[[faults]]` count from the start of the measurement, when
every peer has joined, the network has settled and the values are published.
"""

from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Struct

from p2pweb.dht.settings import Settings
from p2pweb.errors import UsageError

Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Seconds = Annotated[float, msgspec.Meta(ge=0.0, le=1e7)]
Lasting = Annotated[float, msgspec.Meta(gt=0.0, le=1e7)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Limit = Annotated[float, msgspec.Meta(ge=0.0, le=1e9)]

# Settings of the overlay that at 0 would have it divide by nothing, ask nobody or wait for ever; no
# setting is below 0.
_AT_LEAST_ONE = frozenset({
    "k", "alpha", "strikes_max", "claim_strikes", "queries_max", "ping_tries", "store_tries",
    "lookups_max", "ask_tries", "lone_tries", "asks_max", "paths", "first_hand", "join_need",
    "return_need", "upkeep_alpha", "shortlist_max", "rumours_max", "proved_max", "held_max",
    "held_each_max", "proofs_max", "proof_tries", "ids_each_burst", "known_burst",
    "stranger_burst", "strangers_burst", "buckets_max",
})  # fmt: skip
# Periods and rates: at 0 the overlay would do the same again and again at one moment, or never.
_ABOVE_ZERO = frozenset({
    "probe_every_s", "probe_large_every_s", "refresh_every_s", "gap_every_s", "gone_pause_s",
    "strike_pauses_s", "late_for_s", "ids_each_pause_s", "known_rate",
    "stranger_rate", "strangers_rate", "rtt_initial_s", "rtt_floor_s", "rtt_ceiling_s",
})  # fmt: skip
_PERIOD_S_MIN = 0.001
# Above it two jitters could take a whole period.
_JITTER_MAX = 1.0
_SETTING_MAX = 1e9


class Way(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The network between the peers."""

    median_rtt_s: Seconds = 0.156
    loss: Share = 0.0
    duplicated: Share = 0.0
    delayed: Share = 0.0
    # The wall clocks of the peers differ by up to this, either way.
    skew_s: Seconds = 0.0


class Sessions(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How long a peer stays. A peer that leaves, leaves without a word."""

    kind: Literal["exponential", "weibull"] = "exponential"
    mean_s: Lasting = 3_600.0
    # Weibull only (Stutzbach and Rejaie 2006: 0.34 to 0.59 in the wild).
    shape: Annotated[float, msgspec.Meta(ge=0.1, le=100.0)] = 0.5
    # Who takes its place, and when: somebody new at once, or the same peer after `away_s` on
    # average, with its disk or without.
    place: Literal["newcomer", "same"] = "newcomer"
    away_s: Seconds = 600.0
    keeps_disk: bool = True


class Fault(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Something that befalls a share of the peers at one moment."""

    at_s: Seconds
    kind: Literal["crash", "return", "part", "heal", "slow", "join"]
    share: Share = 0.0
    # For "join" the share is of those that live, as many newcomers. For "slow": so much longer one
    # way. For "return": whether their disks survived.
    slow_s: Seconds = 1.0
    keeps_disk: bool = True


class Hostile(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Peers that lie: to lookups by silence, invented contacts, old or made-up values; "colluding"
    ones name nobody but one another. Among whole peers they also speak the peers' HTTP."""

    share: Share = 0.0
    kind: Literal["silent", "inventing", "rubbish", "stale", "mixed", "colluding"] = "mixed"
    # So many more, once all have joined, whose ids are closer to the key of the first value, or of
    # the site, than that of any honest peer: they collude, and keep nothing.
    sybils: Annotated[int, msgspec.Meta(ge=0, le=1_000)] = 0


class Workload(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What is published and asked for, through random live peers."""

    values: Count = 500
    value_bytes: Annotated[int, msgspec.Meta(ge=64, le=1_024)] = 300
    # "stores": published once by lookups and STORE. "oracle": always on the closest live peers,
    # by no traffic at all, so that only finding them is measured.
    placing: Literal["stores", "oracle"] = "stores"
    gets_per_s: Annotated[float, msgspec.Meta(ge=0.0, le=100_000.0)] = 20.0
    # The share of gets that ask for what was never published.
    misses: Share = 0.2
    # A get ends with the first sound value, or asks all who are near for the newest.
    gets_want: Literal["first", "newest"] = "first"
    # Republished with the next seq so often in a second, all of them taken together.
    updates_per_s: Annotated[float, msgspec.Meta(ge=0.0, le=1_000.0)] = 0.0


class Site(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What whole peers serve; of `[workload]` they take `gets_per_s` and `misses`."""

    files: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 20
    # On average: the sizes are from half of it to one and a half times as much.
    file_bytes: Annotated[int, msgspec.Meta(ge=1, le=100_000_000)] = 4_000
    # New versions after the first, at random moments.
    publishes_per_hour: Annotated[float, msgspec.Meta(ge=0.0, le=1_000.0)] = 0.0
    copies: Annotated[int, msgspec.Meta(ge=1, le=20)] = 8
    # The copies on all disks are counted at this many moments of the run, evenly.
    surveys: Annotated[int, msgspec.Meta(ge=0, le=1_000)] = 0


class Expected(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What the run has to show; round trips are in units of the median one. None is no limit."""

    # The least share of gets that find what there is, of those that begin so long after the start
    # of the measurement.
    found: Share = 0.0
    found_after_s: Seconds = 0.0
    # The least share of misses whose lookup was answered by the nearest live peers.
    proved: Share = 0.0
    hit_p50_rtt: Limit | None = None
    hit_p99_rtt: Limit | None = None
    miss_p99_rtt: Limit | None = None
    upkeep_bytes_per_s: Limit | None = None
    # Everything that a peer sends, but for what carries bodies alone.
    traffic_bytes_per_s: Limit | None = None
    # Whole peers: so long after a publish every peer is at its version.
    news_s: Limit | None = None
    # From so long after the start of the measurement on every survey finds all copies that are due.
    copies_by_s: Seconds | None = None
    # So long after it began to join each newcomer holds all that is due to it, and of the records
    # that it was sent at most so large a share is one that it was sent before.
    newcomers_s: Limit | None = None
    newcomers_twice: Limit | None = None
    # The most files in any survey whose record or whose bytes nobody alive has.
    lost: Limit | None = None
    # The most puts that fail, those before the measurement included.
    puts_failed: Limit | None = None
    # Whole peers: the least share of gets that are answered with any version, and, of those where
    # that would show, with the newest of those whose site's record was acknowledged so long before;
    # None is of those whose publish is over, read back as well. `found` is of gets that come to
    # both.
    served: Share = 0.0
    newest: Share = 0.0
    newest_after_s: Seconds | None = None


class Scenario(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A whole run."""

    about: str
    # "ours" and "stock" are overlay peers alone, "mixed" half of each; "whole" are complete peers,
    # which keep and serve a site.
    peers_are: Literal["ours", "stock", "mixed", "whole"] = "ours"
    peers: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1_000
    hours: Annotated[float, msgspec.Meta(gt=0.0, le=10_000.0)] = 0.1
    # Peers that join in a second, one after the other.
    joins_per_s: Annotated[float, msgspec.Meta(gt=0.0, le=10_000.0)] = 10.0
    settle_s: Seconds = 120.0
    way: Way = Way()
    sessions: Sessions | None = None
    faults: list[Fault] = []
    hostile: Hostile = Hostile()
    workload: Workload = Workload()
    site: Site = Site()
    expected: Expected = Expected()
    # Fields of `p2pweb.dht.settings.Settings` that differ from its defaults.
    settings: dict[str, int | float | list[float]] = {}


def read_scenario(path: Path) -> Scenario:
    """UsageError with one sentence where the file is not a scenario."""
    try:
        raw = tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"cannot read the scenario {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    return validated(raw, str(path))


def validated(raw: object, source: str) -> Scenario:
    """A scenario out of what a file says, or of `msgspec.to_builtins` of one that was changed.

    UsageError with one sentence, which begins with its source.
    """
    try:
        scenario = msgspec.convert(raw, Scenario)
        _check(scenario)
    except (msgspec.ValidationError, UsageError) as error:
        raise UsageError(f"{source}: {error}") from None
    return scenario


def _check(scenario: Scenario) -> None:
    """UsageError where values each of which may be right do not go together."""
    end_s = scenario.hours * 3_600.0
    for fault in scenario.faults:
        if fault.at_s >= end_s:
            raise UsageError(f"the fault at {fault.at_s:g} s would come after the end, {end_s:g} s")
    if scenario.expected.found_after_s >= end_s:
        raise UsageError(f"expected.found_after_s has to be before the run's end, {end_s:g} s")
    sessions = scenario.sessions
    if sessions is not None and sessions.place == "same" and sessions.away_s == 0.0:
        raise UsageError("sessions.away_s has to be above 0 where the same peer comes back")
    if scenario.settings and scenario.peers_are in ("stock", "whole"):
        raise UsageError(f"{scenario.peers_are} peers take no settings")
    settings_of(scenario)


def settings_of(scenario: Scenario) -> Settings:
    """The overlay's settings in a scenario. UsageError where one is unknown, of another kind or out
    of its range."""
    known = [field.name for field in fields(Settings)]
    for name, value in scenario.settings.items():
        if name not in known:
            raise UsageError(f"the overlay has no setting {name}; it has {', '.join(known)}")
        least = 1 if name in _AT_LEAST_ONE else _PERIOD_S_MIN if name in _ABOVE_ZERO else 0
        most = _JITTER_MAX if name == "refresh_jitter" else _SETTING_MAX
        numbers = value if isinstance(value, list) else [value]
        if not numbers or not all(least <= number <= most for number in numbers):
            shown = ",".join(map(str, numbers))
            raise UsageError(f"the setting {name}={shown} is not from {least:g} to {most:g}")
    try:
        settings = msgspec.convert(scenario.settings, Settings)
    except msgspec.ValidationError as error:
        raise UsageError(f"the scenario's settings: {error}") from None
    if settings.paths > settings.k:
        raise UsageError(f"the setting paths={settings.paths} is above k={settings.k}")
    return settings
