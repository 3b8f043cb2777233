"""What a run comes to, in figures: pure arithmetic over what was seen."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace

from msgspec import Struct

from p2pweb.sim.arrivals import Arrival
from p2pweb.sim.copies import Survey
from p2pweb.sim.ledger import Get, Outcome
from p2pweb.sim.network import HEADER_BYTES
from p2pweb.sim.run import Run

# Upkeep is what flows although nobody asks for a page: proofs, probes, joining, refreshing.
UPKEEP_KINDS = ("ping", "find_node")
# Of requests between peers those that carry nothing to speak of but bodies, and a publisher's own;
# and the bodies in answers to another.
BODIES = ("blob", "bundle", "pages", "publish", "bodies")
# What gets come to that ask for what nobody ever sent.
MISSES = (Outcome.PROVED_ABSENT, Outcome.NOT_PROVED)
SERVED = (Outcome.FOUND, Outcome.STALE)


class Latencies(Struct, kw_only=True):
    """Of how many, and their percentiles in median round trips of the network."""

    count: int
    p50: float | None
    p95: float | None
    p99: float | None
    most: float | None


class Point(Struct, kw_only=True):
    """A stretch of the run, which ended at `at_s` after the measurement began."""

    at_s: float
    live: int
    # The share of gets that found what there was; None where nobody asked.
    found: float | None
    p50_rtt: float | None
    p99_rtt: float | None
    bytes_per_peer_s: float


class Report(Struct, kw_only=True):
    """`bytes` are those of UDP datagrams without headers, sent, for each live peer and second."""

    about: str
    peers: int
    hours: float
    seed: int
    median_rtt_s: float
    outcomes: dict[str, int]
    found: float | None
    # Of those gets, the share that found any version; and of these, where an older one would have
    # shown, the share that found the newest.
    served: float | None
    newest: float | None
    wrong_bodies: int
    # The share of misses that were proved; None where there were none.
    proved: float | None
    hits: Latencies
    # Of hits of those who want the newest version: until nobody can have a newer one.
    newest_known: Latencies
    misses: Latencies
    puts: Latencies
    # Whole peers: the longest time, in seconds, until a version had reached all; None where nobody
    # watched.
    news_s: float | None
    puts_failed: int
    puts_failed_before: int
    puts_abandoned: int
    bytes_per_peer_s: dict[str, float]
    # Whole peers: HTTP between them, heads and bodies, by what is asked for; but for the bodies in
    # answers to `copies`, which are "bodies".
    http_bytes_per_peer_s: dict[str, float]
    # Datagrams and HTTP, but for bodies and what carries hardly anything else.
    traffic_bytes_per_s: float
    upkeep_bytes_per_s: float
    upkeep_bytes_per_s_with_headers: float
    # Datagrams, both ways, and processor time for each get.
    datagrams_per_get: float | None
    cpu_us_per_datagram: float
    cpu_ms_per_get: float | None
    contacts: int
    contacts_dead: float
    cpu_s: float
    cpu_before_s: float
    trace: str
    violations: list[str]
    faults: list[str]
    # What the scenario expected and did not get.
    missed: list[str]
    points: list[Point]
    # Copies due and lacking, where they were counted; `at_s` from the start of the measurement.
    surveys: list[Survey]
    # Those that faults had join, where they are whole peers; `began_s` likewise.
    newcomers: list[Arrival]


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least this share (0 to 1) of all do not exceed."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def report(run: Run) -> Report:
    """The figures of a run, and which of those that its scenario expects are missed."""
    scenario, ledger = run.scenario, run.ledger
    unit_s = scenario.way.median_rtt_s or 1.0
    asked = [get for get in ledger.gets if get.outcome is not Outcome.ABANDONED]
    found = [get for get in asked if get.outcome is Outcome.FOUND]
    absent = [get for get in asked if get.outcome is Outcome.PROVED_ABSENT]
    missing = [get for get in asked if get.outcome in MISSES]
    wants_newest = scenario.workload.gets_want == "newest" and scenario.peers_are != "whole"
    # A second at least: everybody may have died.
    peer_seconds = max(1.0, run.peer_seconds)
    per_peer = {kind: sent / peer_seconds for kind, (_, sent) in run.by_kind.items()}
    http = {kind: size / peer_seconds for kind, size in run.streamed.items()}
    datagrams = sum(number for number, _ in run.by_kind.values())
    of_gets = run.by_kind.get("find_value", (0, 0))[0]
    upkeep = [run.by_kind.get(kind, (0, 0)) for kind in UPKEEP_KINDS]
    cpu_us = 1e6 * run.cpu_s / max(1, datagrams)
    contacts = sorted(run.contacts)
    made = Report(
        about=scenario.about,
        peers=scenario.peers,
        hours=scenario.hours,
        seed=run.seed,
        median_rtt_s=scenario.way.median_rtt_s,
        outcomes={
            outcome.value: sum(get.outcome is outcome for get in ledger.gets) for outcome in Outcome
        },
        found=_found(asked),
        served=_served(asked),
        newest=_newest(asked),
        wrong_bodies=ledger.wrong_bodies,
        proved=len(absent) / len(missing) if missing else None,
        hits=_latencies([get.took_s for get in found], unit_s),
        newest_known=_latencies([get.ended_s for get in found if wants_newest], unit_s),
        misses=_latencies([get.took_s for get in absent], unit_s),
        puts=_latencies(ledger.puts_s, unit_s),
        news_s=max(ledger.news_s, default=None),
        puts_failed=ledger.puts_failed,
        puts_failed_before=ledger.puts_failed_before,
        puts_abandoned=ledger.puts_abandoned,
        bytes_per_peer_s=per_peer,
        http_bytes_per_peer_s=http,
        traffic_bytes_per_s=sum(per_peer.values())
        + sum(size for kind, size in http.items() if kind not in BODIES),
        upkeep_bytes_per_s=sum(sent for _, sent in upkeep) / peer_seconds,
        upkeep_bytes_per_s_with_headers=sum(sent + HEADER_BYTES * n for n, sent in upkeep)
        / peer_seconds,
        datagrams_per_get=of_gets / len(asked) if asked else None,
        cpu_us_per_datagram=cpu_us,
        cpu_ms_per_get=of_gets * cpu_us / 1e3 / len(asked) if asked else None,
        contacts=contacts[len(contacts) // 2] if contacts else 0,
        contacts_dead=run.contacts_dead,
        cpu_s=run.cpu_s,
        cpu_before_s=run.grow_cpu_s,
        trace=run.trace,
        violations=ledger.violations,
        faults=run.faults,
        missed=[],
        points=_points(run, asked, unit_s),
        surveys=[replace(one, at_s=one.at_s - run.began_s) for one in run.surveys],
        newcomers=[replace(one, began_s=one.began_s - run.began_s) for one in run.arrivals],
    )
    made.missed = _missed(run, made, asked)
    return made


def _found(asked: Sequence[Get]) -> float | None:
    """The share of gets that found what there is; None where nobody asked for such."""
    wanted = [get for get in asked if get.outcome not in MISSES]
    found = sum(get.outcome is Outcome.FOUND for get in wanted)
    return found / len(wanted) if wanted else None


def _served(asked: Sequence[Get]) -> float | None:
    wanted = [get for get in asked if get.outcome not in MISSES]
    return sum(get.outcome in SERVED for get in wanted) / len(wanted) if wanted else None


def _newest(asked: Sequence[Get]) -> float | None:
    stale = sum(get.outcome is Outcome.STALE for get in asked)
    newest = sum(get.outcome is Outcome.FOUND and get.shows for get in asked)
    return newest / (newest + stale) if newest + stale else None


def _latencies(values_s: Sequence[float], unit_s: float) -> Latencies:
    values = sorted(value / unit_s for value in values_s)
    return Latencies(
        count=len(values),
        p50=percentile(values, 0.5),
        p95=percentile(values, 0.95),
        p99=percentile(values, 0.99),
        most=values[-1] if values else None,
    )


def _points(run: Run, asked: list[Get], unit_s: float) -> list[Point]:
    asked = sorted(asked, key=lambda get: get.began_s)
    begins = [get.began_s for get in asked]
    points = []
    for before, now in zip(run.samples, run.samples[1:], strict=False):
        gets = asked[bisect_right(begins, before.at_s) : bisect_right(begins, now.at_s)]
        hits = [get.took_s / unit_s for get in gets if get.outcome is Outcome.FOUND]
        peer_seconds = max(1, (before.live + now.live) / 2) * (now.at_s - before.at_s)
        points.append(
            Point(
                at_s=now.at_s - run.began_s,
                live=now.live,
                found=_found(gets),
                p50_rtt=percentile(hits, 0.5),
                p99_rtt=percentile(hits, 0.99),
                bytes_per_peer_s=(now.bytes - before.bytes) / peer_seconds,
            )
        )
    return points


def _missed(run: Run, made: Report, asked: Sequence[Get]) -> list[str]:
    """What the scenario expects and did not get; what nobody measured is missed too."""
    expected = run.scenario.expected
    judged_from_s = run.began_s + expected.found_after_s
    judged_gets = [get for get in asked if get.began_s >= judged_from_s]
    lost = max((one.lost for one in made.surveys), default=None)
    failed = run.ledger.puts_failed_before + run.ledger.puts_failed
    took = [math.inf if one.took_s is None else one.took_s for one in run.arrivals]
    sent = sum(one.sent for one in run.arrivals)
    twice = sum(one.repeated for one in run.arrivals) / sent if sent else None
    missed = [
        f"{what}: {_figure(figure)} instead of at most {limit:g}"
        for what, figure, limit in (
            ("hits, p50 in round trips", made.hits.p50, expected.hit_p50_rtt),
            ("hits, p99 in round trips", made.hits.p99, expected.hit_p99_rtt),
            ("misses, p99 in round trips", made.misses.p99, expected.miss_p99_rtt),
            ("upkeep, bytes a second", made.upkeep_bytes_per_s, expected.upkeep_bytes_per_s),
            ("traffic, bytes a second", made.traffic_bytes_per_s, expected.traffic_bytes_per_s),
            ("news, seconds until all have it", made.news_s, expected.news_s),
            ("files lost", lost, expected.lost),
            ("puts that failed", failed, expected.puts_failed),
            ("newcomers, seconds", max(took, default=None), expected.newcomers_s),
            ("records sent to newcomers twice", twice, expected.newcomers_twice),
        )
        if limit is not None and (figure is None or figure > limit)
    ]
    missed += [
        f"{what}: {_figure(figure)} instead of at least {limit:g}"
        for what, figure, limit in (
            ("found", _found(judged_gets), expected.found),
            ("any version found", _served(judged_gets), expected.served),
            ("newest version found", _newest(judged_gets), expected.newest),
            ("misses that were proved", made.proved, expected.proved),
        )
        if limit > 0.0 and (figure is None or figure < limit)
    ]
    if expected.copies_by_s is not None:
        judged = [one for one in made.surveys if one.at_s >= expected.copies_by_s]
        short = [one for one in judged if one.records_lacking or one.bodies_lacking or one.lost]
        if short or not judged:
            missed.append(f"copies lacking in {len(short)} of {len(judged)} surveys")
    if run.ledger.violations_count:
        missed.append(f"{run.ledger.violations_count} violations")
    if run.faults:
        missed.append(f"{len(run.faults)} faults that nobody handled")
    return missed


def _figure(figure: float | None) -> str:
    return "nothing measured" if figure is None else f"{figure:.6g}"
