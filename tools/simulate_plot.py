"""Pictures of simulated runs: one over time, or several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes

from p2pweb.sim.report import Report
from p2pweb.sim.scenario import Scenario

INCHES = (9.0, 8.0)


def draw_run(path: Path, made: Report) -> None:
    """Success, latency and traffic over time."""
    figure, (success, latency, traffic) = pyplot.subplots(3, 1, sharex=True, figsize=INCHES)
    minutes = [point.at_s / 60 for point in made.points]
    success.plot(minutes, [_percent(point.found) for point in made.points], ".-")
    success.set_ylabel("found, %")
    live = success.twinx()
    live.plot(minutes, [point.live for point in made.points], color="tab:gray")
    live.set_ylabel("peers alive")
    latency.plot(minutes, [point.p50_rtt for point in made.points], label="p50")
    latency.plot(minutes, [point.p99_rtt for point in made.points], label="p99")
    latency.set_ylabel("hits, round trips")
    latency.legend()
    traffic.plot(minutes, [point.bytes_per_peer_s for point in made.points])
    traffic.set_ylabel("bytes a peer and second")
    traffic.set_xlabel("minutes")
    figure.suptitle(f"{made.about}\n{made.peers} peers, seed {made.seed}", wrap=True)
    _save(figure, path, (success, latency, traffic))


def draw_curve(
    path: Path, name: str, varied: Sequence[tuple[str, Scenario]], reports: Sequence[Report]
) -> None:
    """What a lookup costs, and upkeep, for each value of what was varied."""
    figure, (latency, cost, upkeep) = pyplot.subplots(3, 1, sharex=True, figsize=INCHES)
    values = [float(value) for value, _ in varied]
    for share in ("p50", "p99"):
        latency.plot(values, [getattr(made.hits, share) for made in reports], "o-", label=share)
    latency.set_ylabel("hits, round trips")
    latency.legend()
    cost.plot(values, [made.datagrams_per_get for made in reports], "o-", label="datagrams")
    cost.plot(values, [made.cpu_ms_per_get for made in reports], "s-", label="ms of processor")
    cost.set_ylabel("for one get")
    cost.legend()
    upkeep.plot(values, [made.upkeep_bytes_per_s for made in reports], "o-")
    upkeep.set_ylabel("upkeep, bytes a second")
    upkeep.set_xlabel(name)
    if max(values) > 20 * max(1e-9, min(values)):
        upkeep.set_xscale("log")
    figure.suptitle(reports[0].about, wrap=True)
    _save(figure, path, (latency, cost, upkeep))


def _save(figure: matplotlib.figure.Figure, path: Path, axes: Sequence[Axes]) -> None:
    for one in axes:
        one.set_ylim(bottom=0)
        one.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
