"""What happens in a run: a TOML file, validated.

Times are virtual seconds; those of `[[faults]]` count from the start of the measurement, when
every peer has joined, the network has settled and the values are published.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Struct

from p2pweb.errors import UsageError

Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Seconds = Annotated[float, msgspec.Meta(ge=0.0, le=1e7)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]


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
    mean_s: Annotated[float, msgspec.Meta(gt=0.0)] = 3_600.0
    # Weibull only (Stutzbach and Rejaie 2006: 0.34 to 0.59 in the wild).
    shape: Annotated[float, msgspec.Meta(gt=0.0)] = 0.5
    # Who takes its place, and when: somebody new at once, or the same peer after `away_s` on
    # average, with its disk or without.
    place: Literal["newcomer", "same"] = "newcomer"
    away_s: Seconds = 600.0
    keeps_disk: bool = True


class Fault(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Something that befalls a share of the peers at one moment."""

    at_s: Seconds
    kind: Literal["crash", "return", "part", "heal", "slow"]
    share: Share = 0.0
    # For "slow": so much longer one way. For "return": whether their disks survived.
    slow_s: Seconds = 1.0
    keeps_disk: bool = True


class Hostile(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Peers that lie: to lookups by silence, invented contacts, old or made-up values."""

    share: Share = 0.0
    kind: Literal["silent", "inventing", "rubbish", "stale", "mixed"] = "mixed"


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


class Expected(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What the run has to show; round trips are in units of the median one."""

    found: Share = 0.0
    hit_p50_rtt: float = float("inf")
    hit_p99_rtt: float = float("inf")
    miss_p99_rtt: float = float("inf")
    upkeep_bytes_per_s: float = float("inf")


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
    try:
        return msgspec.convert(raw, Scenario)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}: {error}") from None
