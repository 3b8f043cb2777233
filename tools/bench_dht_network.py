"""A network of one overlay on this machine: worker processes, each with many nodes.

The nodes that will die live in processes of their own, which are then killed with `kill -9`. The
node that puts and the node that gets each have a process to themselves, so that no other node's
work delays what is timed. Both are members from the start, and live.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory

from bench_dht_kinds import Ready
from bench_kinds import BenchError

# So many nodes in one process keep its memory and its threads within bounds.
NODES_EACH = 50
# For a worker's nodes to join, one after the other, on a busy machine.
HOST_S = 240.0
# How long a put or a get may take before it is given up and counted as late.
PATIENCE_S = 30.0
# Beyond patience, for the answer of a worker whose machine is busy.
GRACE_S = 60.0
STOP_S = 10.0
# Calls are made one by one. Where it turns out after a while, or after another while, that they
# would not fit their time and that they are slow, as many as would fit are made at once, up to a
# limit. Slow calls wait for timeouts; faster ones would wait for each other, and their figures be
# those of the crowd.
PACE_S = 4.0
SLOW_MS = 300.0
AT_ONCE_MAX = 32
# An answer to the longest order: some thousand results of 100 bytes.
ANSWER_BYTES_MAX = 64 * 1024 * 1024
LOOPBACK = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")
NOBODY_STORED = -1
# How a get ends that finds nothing.
MISSING = "missing"
COPIES_UNTOLD = -1
# Of the answer to a put: milliseconds, outcome, key, copies, holders.
PUT_FIELDS = 5

Order = dict[str, object]
Answer = dict[str, object]


class WorkerError(Exception):
    """One sentence: a system does not run, or not any longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One put or get: how long it took and what it came to; of a put, who acknowledged it."""

    ms: float
    outcome: str
    copies: int = COPIES_UNTOLD


@dataclass(slots=True, kw_only=True)
class Calls:
    """Calls of one kind in the order in which they began, and how many were wanted.

    `at_once` of them were under way at the same time, or one at a time at first.
    """

    made: list[Call] = field(default_factory=list)
    wanted: int = 0
    at_once: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A value that was put: its key in hex, who acknowledged it, as far as the system tells."""

    number: int
    key: str
    holders: tuple[int, ...]


class Worker:
    """A process with nodes."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self.ports: list[int] = []

    @classmethod
    async def start(cls, words: Sequence[str], log: Path) -> Worker:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            process = await asyncio.create_subprocess_exec(
                *words,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=output,
                limit=ANSWER_BYTES_MAX,
                # Ctrl-C is for the tool, which then stops its workers.
                start_new_session=True,
            )
        except OSError as error:
            raise WorkerError(f"{words[0]} cannot be started: {error}") from None
        finally:
            os.close(output)
        return cls(process, log)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def order(self, order: Order, patience_s: float) -> Answer:
        """Have it do something, and wait for the answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            async with asyncio.timeout(patience_s):
                self._process.stdin.write(json.dumps(order).encode() + b"\n")
                await self._process.stdin.drain()
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise WorkerError(f"no answer to '{order['do']}' within {patience_s:.0f} s") from None
        except ConnectionError:
            line = b""
        if not line:
            raise WorkerError(f"its process ended at '{order['do']}': {self._last_words()}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"'{order['do']}' failed: {answer['error']}")
        return answer

    async def host(self, count: int, join: Sequence[int], *, measuring: bool = False) -> None:
        order = {"do": "host", "count": count, "join": list(join), "measuring": measuring}
        self.ports = (await self.order(order, HOST_S))["ports"]

    async def time(
        self,
        what: str,
        items: Sequence[object],
        at_once: int,
        begin_within_s: float,
        profile: Path | None = None,
    ) -> list[list[object]]:
        """The results of those items that could be begun in time, in order."""
        order: Order = {
            "do": what,
            "items": list(items),
            "at_once": at_once,
            "patience_s": PATIENCE_S,
            "begin_within_s": begin_within_s,
            "profile": None if profile is None else str(profile),
        }
        return (await self.order(order, begin_within_s + PATIENCE_S + GRACE_S))["results"]

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "it says nothing"

    async def kill(self) -> None:
        """`kill -9`, and return when the process is gone; again: nothing happens."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self._process.wait()

    def check_loopback(self) -> None:
        """Every socket of the process is bound to loopback, from where nothing can leave."""
        if not sys.platform.startswith("linux"):
            return
        inodes = set()
        for descriptor in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                inodes.add(str(descriptor.readlink()).removeprefix("socket:[").removesuffix("]"))
        for table in ("udp", "udp6", "tcp", "tcp6"):
            path = Path(f"/proc/{self.pid}/net/{table}")
            lines = path.read_text().splitlines()[1:] if path.exists() else []
            for words in map(str.split, lines):
                if words[9] in inodes and words[1].split(":")[0] not in LOOPBACK:
                    raise WorkerError(f"it has a {table} socket beyond loopback: {words[1]}")


@dataclass(slots=True, kw_only=True)
class Network:
    """A network that lives; see `living`."""

    ready: Ready
    seed: str
    folder: Path
    lasting: list[Worker] = field(default_factory=list)
    doomed: list[Worker] = field(default_factory=list)
    writer: Worker | None = None
    reader: Worker | None = None

    async def _start(self) -> Worker:
        number = sum(1 for _ in self.folder.iterdir())
        words = [*self.ready.command, self.seed, str(self.ready.system.value_bytes)]
        return await Worker.start(words, self.folder / f"{number}.log")

    async def grow(self, nodes: int, killed: int) -> None:
        """Start these nodes, of whom so many will be killed, and the two that ask."""
        for workers, count in ((self.lasting, nodes - killed), (self.doomed, killed)):
            processes = -(-count // NODES_EACH)
            workers += [await self._start() for _ in range(processes)]
        self.writer, self.reader = await self._start(), await self._start()
        first, *others = self.lasting
        lasting_counts = _shares(nodes - killed, len(self.lasting))
        await first.host(lasting_counts[0], [])
        join = first.ports[:1]
        counts = [*lasting_counts[1:], *_shares(killed, len(self.doomed))]
        await asyncio.gather(
            *(
                worker.host(count, join)
                for worker, count in zip([*others, *self.doomed], counts, strict=True)
            )
        )
        await asyncio.gather(
            *(one.host(1, join, measuring=True) for one in (self.writer, self.reader))
        )

    def check_loopback(self) -> None:
        for worker in self.workers:
            worker.check_loopback()

    async def put(self, numbers: range, seconds: float) -> tuple[Calls, list[Stored]]:
        """Put these values, as many as can be begun within these seconds."""
        assert self.writer is not None
        results, at_once = await _make_rest(self.writer, "put", numbers, [], seconds)
        stored: list[Stored] = []
        for number, result in zip(numbers, results, strict=False):
            if len(result) == PUT_FIELDS:  # Others ended without an answer.
                _, _, key, _, holders = result
                stored.append(Stored(number=number, key=key, holders=tuple(holders)))
        return Calls(made=_calls(results), wanted=len(numbers), at_once=at_once), stored

    async def kill_doomed(self) -> set[int]:
        """Kill the nodes that were to die; the ports of all who cannot answer the one that gets."""
        assert self.reader is not None
        await asyncio.gather(*(worker.kill() for worker in self.doomed))
        return {port for worker in (*self.doomed, self.reader) for port in worker.ports}

    async def get(
        self, stored: Sequence[Stored], seconds: float, profile: Path | None
    ) -> tuple[Calls, Calls]:
        """Get each of these values once, and as many keys that nobody stored; hits and misses.

        They take turns at first, so that both meet the network as it is just after the deaths; what
        is left after `PACE_S` then comes in two parts.
        """
        assert self.writer is not None and self.reader is not None
        others = sum(len(worker.ports) for worker in (*self.lasting, self.writer))
        size = self.ready.system.key_bytes
        values = [(one.key, one.number, others) for one in stored]
        nothing = [(os.urandom(size).hex(), NOBODY_STORED, others) for _ in stored]
        turns = [item for pair in zip(values, nothing, strict=True) for item in pair]
        first = await self.reader.time("get", turns, 1, min(PACE_S, seconds), profile)
        parts = []
        for items, results in ((values, first[::2]), (nothing, first[1::2])):
            made, at_once = await _make_rest(self.reader, "get", items, results, seconds)
            parts.append(Calls(made=_calls(made), wanted=len(items), at_once=at_once))
        hits, misses = parts
        return hits, misses

    @property
    def workers(self) -> list[Worker]:
        """All processes, those included that were killed."""
        asking = [worker for worker in (self.writer, self.reader) if worker is not None]
        return [*self.lasting, *self.doomed, *asking]


@contextlib.asynccontextmanager
async def living(ready: Ready, seed: str) -> AsyncIterator[Network]:
    """A network without nodes yet, whose processes all end with the block, however that ends."""
    with TemporaryDirectory(prefix="p2pweb-bench-", ignore_cleanup_errors=True) as folder:
        network = Network(ready=ready, seed=seed, folder=Path(folder))
        async with _ending(network):
            yield network


@contextlib.asynccontextmanager
async def _ending(network: Network) -> AsyncIterator[None]:
    try:
        yield
    finally:
        try:
            async with asyncio.timeout(STOP_S):
                await asyncio.shield(asyncio.gather(*(worker.kill() for worker in network.workers)))
        except TimeoutError:
            raise BenchError("processes of this bench do not end") from None


def _calls(results: Sequence[Sequence[object]]) -> list[Call]:
    """A put that was answered has more to tell than a get."""
    return [
        Call(ms=one[0], outcome=one[1], copies=one[3] if len(one) == PUT_FIELDS else COPIES_UNTOLD)
        for one in results
    ]


async def _make_rest(
    worker: Worker,
    what: str,
    items: Sequence[object],
    results: Sequence[Sequence[object]],
    seconds: float,
) -> tuple[list[Sequence[object]], int]:
    """Have the calls made that have no result yet; all results, and how many were made at once."""
    made = list(results)
    most = 1
    for begin_within_s in (min(PACE_S, seconds), seconds - PACE_S):
        rest = items[len(made) :]
        if rest and begin_within_s > 0:
            at_once = _at_once(made, len(rest), seconds)
            made += await worker.time(what, rest, at_once, begin_within_s)
            most = max(most, at_once)
    return made, most


def _at_once(results: Sequence[Sequence[object]], left: int, seconds: float) -> int:
    """How many slow calls at once it takes to make those that are left within these seconds."""
    each_ms = sum(result[0] for result in results) / max(1, len(results))
    if each_ms < SLOW_MS:
        return 1
    return max(1, min(AT_ONCE_MAX, ceil(left * each_ms / 1000 / seconds)))


def _shares(count: int, parts: int) -> list[int]:
    """A count in so many parts that differ by one at most."""
    return [count // parts + (part < count % parts) for part in range(parts)]
