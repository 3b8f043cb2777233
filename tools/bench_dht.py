"""The overlay beside others: values put, got and missed while nodes die.

Started by tools/bench, which prepares what this needs. For every cell (so many nodes, so many of
them killed) it starts a network of each system in turn, lets it settle, puts values, kills the
nodes that are to die, and gets every value once, and as many keys that nobody has stored. Rounds go
from system to system, so that what the machine does meanwhile falls on all of them alike. All of it
is on 127.0.0.1, and every socket is looked at to make sure.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path

from bench_dht_kinds import OURS, RIVALS_DEFAULT, SYSTEMS, Ready, prepare
from bench_dht_network import (
    AT_ONCE_MAX,
    MISSING,
    PATIENCE_S,
    Network,
    WorkerError,
    living,
)
from bench_dht_publish import Published, publish
from bench_dht_report import FIRST_HITS, Cell, as_json, print_report
from bench_flags import Parser, names, numbers
from bench_kinds import BenchError
from bench_machine import busy_note, machine, memory_note

NODES_DEFAULT, NODES_MIN, NODES_MAX = "20,200", 2, 500
KILLED_DEFAULT, KILLED_MAX = "0,30,50,70", 90
GETS_DEFAULT, GETS_MAX = 1000, 100_000
ROUNDS_DEFAULT, ROUNDS_MAX = 2, 100
SECONDS_DEFAULT, SECONDS_MAX = 60, 3600
# After the last node has joined: all of these overlays have filled their tables by then, and their
# first burst of upkeep is over.
SETTLE_S = 5.0
# Enough to see that everything runs.
QUICK_GETS = 10
QUICK_SETTLE_S = 0.5
# The p99 of a publish needs a few hundred.
PUBLISHES_MAX = 300
DESCRIPTORS = 8192

Words = list[str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    systems: list[str]
    nodes: list[int]
    killed: list[int]
    gets: int
    rounds: int
    seconds: int
    settle_s: float
    publish: bool
    as_json: bool
    profile: Path | None
    rivals: Path


def main() -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        options = parse_options()
        _raise_descriptor_limit()
        if options.profile is not None:
            _make_folder(options.profile)
        ready, left_out = prepare(options.systems, options.rivals)
        for name, reason in left_out.items():
            _say(f"{name} is left out: {reason}")
        sys.exit(_run(_bench_until_told(options, ready, left_out)))
    except BenchError as error:
        sys.exit(f"tools/bench dht: {error}")
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)


def parse_options(words: Words = None) -> Options:
    """Read the flags; raises `BenchError` for those that make no sense."""
    parser = Parser(
        prog="tools/bench dht",
        description="Measure the overlay beside others, on loopback, while nodes die.",
        epilog="Systems: "
        + "; ".join(f"{one.name} ({one.what})" for one in SYSTEMS.values())
        + ". Exit code: 0 also where a goal is missed, 1 when the run itself failed.",
    )
    parser.add_argument("--only", metavar="A,B", help=f"of {', '.join(SYSTEMS)}; default: all")
    parser.add_argument(
        "--nodes", metavar="N,N", default=NODES_DEFAULT, help="default: %(default)s"
    )
    parser.add_argument(
        "--killed", metavar="%,%", default=KILLED_DEFAULT, help="percent; default: %(default)s"
    )
    parser.add_argument(
        "--gets",
        metavar="N",
        type=int,
        help=f"hits of each cell in all rounds, and as many misses; default: {GETS_DEFAULT}",
    )
    parser.add_argument("--rounds", metavar="N", type=int, help=f"default: {ROUNDS_DEFAULT}")
    parser.add_argument(
        "--seconds",
        metavar="N",
        type=int,
        default=SECONDS_DEFAULT,
        help="for the puts, for the hits and for the misses of a cell, in each round; slow calls "
        f"that would take longer are made up to {AT_ONCE_MAX} at once, and what does not fit "
        "is left out; default: %(default)s",
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"one round with {QUICK_GETS} gets a cell"
    )
    parser.add_argument("--no-publish", action="store_true", help="leave out the real peers")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "--profile",
        metavar="DIR",
        type=Path,
        help="write there, for each cell, where our asking process spends its time (cProfile)",
    )
    parser.add_argument(
        "--rivals",
        metavar="DIR",
        type=Path,
        default=RIVALS_DEFAULT,
        help="where rivals are installed at first use; default: .venv/rivals",
    )
    given = parser.parse_args(words)
    gets = given.gets or (QUICK_GETS if given.quick else GETS_DEFAULT)
    rounds = given.rounds or (1 if given.quick else ROUNDS_DEFAULT)
    _check_range("--gets", given.gets, 1, GETS_MAX)
    _check_range("--rounds", given.rounds, 1, ROUNDS_MAX)
    _check_range("--seconds", given.seconds, 1, SECONDS_MAX)
    sizes = numbers("--nodes", given.nodes, NODES_MIN, NODES_MAX)
    killed = numbers("--killed", given.killed, 0, KILLED_MAX)
    for nodes in sizes:
        if _doomed(nodes, max(killed)) == nodes:
            raise BenchError(f"of {nodes} nodes none would live if {max(killed)}% were killed")
    return Options(
        systems=names("system", given.only, list(SYSTEMS), flag="--only"),
        nodes=sizes,
        killed=killed,
        gets=gets,
        rounds=min(rounds, gets),
        seconds=given.seconds,
        settle_s=QUICK_SETTLE_S if given.quick else SETTLE_S,
        publish=not given.no_publish,
        as_json=given.json,
        profile=given.profile,
        rivals=given.rivals.absolute(),
    )


def _doomed(nodes: int, killed: int) -> int:
    """How many of the nodes so many percent are."""
    return round(nodes * killed / 100)


def _check_range(flag: str, given: int | None, least: int, most: int) -> None:
    if given is not None and not least <= given <= most:
        raise BenchError(f"{flag} is a number from {least} to {most}")


# --- the run ---


async def _bench_until_told(options: Options, ready: list[Ready], left_out: dict[str, str]) -> int:
    """`bench`, cancelled by the signals that end a program, so that its processes end with it."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await bench(options, ready, left_out)


async def bench(options: Options, ready: list[Ready], left_out: dict[str, str]) -> int:
    """Measure and tell; the exit code."""
    load = os.getloadavg()[0]
    busy = busy_note(load)
    notes = _notes(options)
    if busy is not None:
        notes.append(busy)
        _say(f"note: {busy}")
    cells: list[Cell] = []
    for nodes in options.nodes:
        for killed in options.killed:
            cells += await _measure_cells(nodes, killed, ready, left_out, options)
    published = None
    if options.publish and OURS in options.systems:
        published = await _publish(options)
    versions = {one.system.name: one.version for one in ready}
    if options.as_json:
        run = {
            **machine(),
            "load_average_before": load,
            "gets": options.gets,
            "rounds": options.rounds,
            "seconds": options.seconds,
            "settle_s": options.settle_s,
        }
        figures = as_json(cells, published, versions, left_out, notes)
        print(json.dumps({"run": run, **figures}, indent=2))
    else:
        print_report(cells, published, versions, left_out, notes)
    return 0


def _notes(options: Options) -> list[str]:
    """What a reader of the figures has to know."""
    from p2pweb.dht.settings import DEFAULTS

    who = (
        "beside these nodes there are two more, which live: one puts, the other gets; each network "
        f"settled for {options.settle_s:g} s after the last node had joined"
    )
    when = (
        f"a call waits {PATIENCE_S:.0f} s at most; 'at once' is how many slow calls were under way "
        f"where, made one by one, they would not have fit into {options.seconds} s"
    )
    where = "everything ran on 127.0.0.1"
    if sys.platform.startswith("linux"):
        where += ", and no process had a socket beyond it"
    small = (
        f"ours knows networks of up to {DEFAULTS.small_network} peers whole, so that there each of "
        "its lookups is one hop"
    )
    notes = [who, when, where, small]
    if options.publish and OURS in options.systems:
        in_memory = memory_note(Path(tempfile.gettempdir()))
        notes += [] if in_memory is None else [in_memory]
    return notes


async def _measure_cells(
    nodes: int,
    killed: int,
    ready: list[Ready],
    left_out: dict[str, str],
    options: Options,
) -> list[Cell]:
    """One cell of every system, round by round; who fails is left out from then on."""
    cells = {
        one.system.name: Cell(system=one.system.name, nodes=nodes, killed=killed) for one in ready
    }
    for number in range(options.rounds):
        gets = options.gets // options.rounds + (number < options.gets % options.rounds)
        for one in ready:
            name = one.system.name
            if name in left_out:
                continue
            began = time.monotonic()
            place = f"{name}-{nodes}-{killed}-{number}"
            try:
                async with living(one, place) as network:
                    await _measure(network, cells[name], gets, options, place)
            except WorkerError as error:
                if name == OURS:
                    raise BenchError(f"ours fails with {nodes} nodes: {error}") from None
                left_out[name] = f"with {nodes} nodes, of which {killed}% die, {error}"
            seconds = time.monotonic() - began
            _say(
                f"{nodes} nodes, {killed}% killed, round {number + 1} of {options.rounds}: "
                + (left_out.get(name) or f"{name} took {seconds:.0f} s")
            )
    return [cell for cell in cells.values() if cell.hits]


async def _measure(network: Network, cell: Cell, gets: int, options: Options, place: str) -> None:
    """One round of one cell."""
    await network.grow(cell.nodes, _doomed(cell.nodes, cell.killed))
    await asyncio.sleep(options.settle_s)
    puts, stored = await network.put(range(gets), options.seconds)
    network.check_loopback()
    profile = None
    if options.profile is not None and cell.system == OURS:
        profile = options.profile / f"{place}.prof"
    gone = await network.kill_doomed()
    hits, misses = await network.get(stored, options.seconds, profile)
    cell.puts.append(puts)
    cell.hits.append(hits)
    cell.misses.append(misses)
    lost = [
        call.outcome == MISSING and bool(one.holders) and gone.issuperset(one.holders)
        for call, one in zip(hits.made, stored, strict=False)
    ]
    cell.lost += sum(lost)
    cell.first_lost += sum(lost[:FIRST_HITS])


async def _publish(options: Options) -> Published:
    count = min(options.gets, PUBLISHES_MAX)
    _say(f"publishing {count} small files to real peers")
    with tempfile.TemporaryDirectory(prefix="p2pweb-bench-", ignore_cleanup_errors=True) as folder:
        return await publish(count, Path(folder))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BenchError(f"{folder} cannot be made a directory: {error.strerror}") from None


def _raise_descriptor_limit() -> None:
    """Workers inherit it: fifty sessions take several hundred descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _run(main_task: Coroutine[object, object, int]) -> int:
    """On uvloop, as a publisher runs."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main_task)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main_task)


if __name__ == "__main__":
    main()
