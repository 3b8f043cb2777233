"""One run: a scenario and a seed in, what was seen out."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from p2pweb.sim.arrivals import Arrival
from p2pweb.sim.copies import Survey
from p2pweb.sim.latency import Latency
from p2pweb.sim.ledger import Ledger
from p2pweb.sim.loop import SimLoop
from p2pweb.sim.network import Conditions, Network
from p2pweb.sim.outside import simulated
from p2pweb.sim.scenario import Scenario
from p2pweb.sim.sites import SiteVisitors
from p2pweb.sim.workload import Visitors
from p2pweb.sim.world import World

# The curves of a report have so many points.
POINTS = 120
# Overlays leave no cycles behind, and to look for some takes a fifth of the time with ten thousand
# of them. So only what is new is looked through, when there is so much of it; all at the end.
NEW_OBJECTS = 100_000
NEVER = 1_000_000


@dataclass(frozen=True, slots=True)
class Sample:
    """What had been sent up to one moment, and how many peers lived then."""

    at_s: float
    datagrams: int
    bytes: int
    live: int


@dataclass(slots=True, kw_only=True)
class Run:
    """What was seen. Times are virtual but for `wall_s` and `cpu_s`, which are of the measured part
    alone (`grow_cpu_s` of what came before)."""

    scenario: Scenario
    seed: int
    began_s: float
    ended_s: float
    ledger: Ledger
    samples: list[Sample]
    by_kind: dict[str, tuple[int, int]]
    streamed: dict[str, int]
    peer_seconds: float
    contacts: list[int]
    contacts_dead: float
    trace: str
    wall_s: float
    cpu_s: float
    grow_cpu_s: float
    faults: list[str] = field(default_factory=list)
    surveys: list[Survey] = field(default_factory=list)
    arrivals: list[Arrival] = field(default_factory=list)


def run(scenario: Scenario, seed: int, progress: Callable[[str, float], None]) -> Run:
    """Run to the end. `progress` hears what is going on and how much of that is done (0 to 1)."""
    loop = SimLoop()
    latency = Latency(seed, median_rtt_s=scenario.way.median_rtt_s)
    way = scenario.way
    conditions = Conditions(loss=way.loss, duplicated=way.duplicated, delayed=way.delayed)
    network = Network(loop, seed, latency=latency, conditions=conditions)
    asyncio.set_event_loop(loop)
    collecting = gc.get_threshold()
    if scenario.peers_are != "whole":
        gc.set_threshold(NEW_OBJECTS, NEVER)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(simulated(network, seed))
            folder = None
            if scenario.peers_are == "whole":
                folder = Path(stack.enter_context(_disks()))
            return loop.run_until_complete(_run(network, scenario, seed, folder, progress))
    finally:
        gc.unfreeze()
        gc.set_threshold(*collecting)
        asyncio.set_event_loop(None)
        loop.close()


def _disks() -> tempfile.TemporaryDirectory[str]:
    """Where whole peers keep things: in memory, if this machine has a place for that."""
    memory = Path("/dev/shm")  # noqa: S108 - a directory of its own is made there
    return tempfile.TemporaryDirectory(
        prefix="p2pweb-sim-", dir=memory if memory.is_dir() else None, ignore_cleanup_errors=True
    )


async def _run(
    network: Network,
    scenario: Scenario,
    seed: int,
    folder: Path | None,
    progress: Callable[[str, float], None],
) -> Run:
    loop = network.loop
    cpu_s = time.process_time()
    world = World(network, scenario, seed, folder)
    await world.grow(lambda share: progress("joining", share))
    ledger = Ledger()
    visitors: Visitors | SiteVisitors
    if folder is None:
        visitors = Visitors(world, scenario.workload, ledger, seed)
    else:
        visitors = SiteVisitors(world, scenario, ledger, seed, folder)
    progress("settling", 0.0)
    # From here on, so that what is measured is no longer a network of those who came first.
    if scenario.sessions is not None:
        world.start_sessions(scenario.sessions)
    await asyncio.sleep(scenario.settle_s)
    await visitors.publish_all()
    ledger.begin()
    # What lives now lives long: it is not worth looking through again and again.
    gc.collect()
    gc.freeze()
    grow_cpu_s = time.process_time() - cpu_s
    began_s = loop.time()
    end_s = began_s + scenario.hours * 3_600.0
    for fault in scenario.faults:
        loop.call_at(began_s + fault.at_s, world.befall, fault)
    before = {kind: tuple(counted) for kind, counted in network.traffic.by_kind.items()}
    streamed = dict(network.traffic.streamed)
    samples = [_sample(network, world)]
    peer_seconds = 0.0
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    asking = loop.create_task(visitors.ask_until(end_s))
    step_s = (end_s - began_s) / POINTS
    for point in range(1, POINTS + 1):
        await asyncio.sleep(began_s + point * step_s - loop.time())
        samples.append(_sample(network, world))
        peer_seconds += step_s * (samples[-1].live + samples[-2].live) / 2
        progress("measuring", point / POINTS)
    traffic = {
        kind: (counted[0] - before.get(kind, (0, 0))[0], counted[1] - before.get(kind, (0, 0))[1])
        for kind, counted in network.traffic.by_kind.items()
    }
    streamed = {
        kind: size - streamed.get(kind, 0) for kind, size in network.traffic.streamed.items()
    }
    await asking
    contacts, dead = world.knowledge()
    trace = network.trace()
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    if folder is not None:
        await world.close()
        loop.faults += [f"a task was left: {task!r}" for task in _others()]
    # Whatever failed and was awaited by nobody is told when it is collected.
    gc.unfreeze()
    gc.collect()
    return Run(
        scenario=scenario,
        seed=seed,
        began_s=began_s,
        ended_s=end_s,
        ledger=ledger,
        samples=samples,
        by_kind=traffic,
        streamed=streamed,
        peer_seconds=peer_seconds,
        contacts=contacts,
        contacts_dead=dead,
        trace=trace,
        wall_s=wall_s,
        cpu_s=cpu_s,
        grow_cpu_s=grow_cpu_s,
        faults=[*loop.faults],
        surveys=visitors.surveys if isinstance(visitors, SiteVisitors) else [],
        arrivals=visitors.arrivals if isinstance(visitors, SiteVisitors) else [],
    )


def _others() -> list[asyncio.Task[object]]:
    """Every task but the one that asks."""
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


def _sample(network: Network, world: World) -> Sample:
    traffic = network.traffic
    return Sample(network.loop.time(), traffic.datagrams, traffic.bytes, len(world.live))
