"""A worker of tools/bench dht: many nodes of one overlay in one process, on 127.0.0.1.

Started as `bench_dht_worker.py SYSTEM SEED SIZE_BYTES`. A line of JSON on standard input is an
order, the line of JSON on standard output its answer; the end of standard input is the end of the
process, whatever it does, so nothing is left behind when the one who started it is killed. It uses
no module that the rivals' Python may lack, other than the rival itself.

Orders: `host` so many nodes that join by these ports; `put` values by their numbers; `get` keys
with the number of the value that is right (-1: nobody has stored one) and how many other nodes
live. Each of the latter is timed here, next to the node that asks. The n-th value of a run is a
function of its seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator

from bench_dht_nodes import FOUND, KINDS, Nodes

# Beside how a call may end by itself.
LATE, FAILED = "late", "failed"
NOBODY_STORED = -1

Order = dict[str, object]


class Worker:
    """Carries out orders, one after the other."""

    def __init__(self, nodes: Nodes, seed: str, size_bytes: int) -> None:
        self._nodes = nodes
        self._seed = seed
        self._size_bytes = size_bytes

    async def carry_out(self, order: Order) -> dict[str, object]:
        match order["do"]:
            case "host":
                ports = await self._nodes.host(
                    order["count"], order["join"], measuring=order["measuring"]
                )
                return {"ports": ports}
            case "put":
                return await self._time(order, self._put)
            case "get":
                return await self._time(order, self._get)
            case unknown:
                raise ValueError(f"no such order: {unknown}")

    async def _put(self, number: int) -> tuple[float, list[object]]:
        at, key, copies, holders = await self._nodes.put(self._value(number))
        return at, [FOUND if copies else FAILED, key, copies, holders]

    async def _get(self, asked: tuple[str, int, int]) -> tuple[float, list[object]]:
        key, number, others = asked
        value = None if number == NOBODY_STORED else self._value(number)
        at, how = await self._nodes.get(key, value, others)
        return at, [how]

    def _value(self, number: int) -> bytes:
        return hashlib.shake_128(f"{self._seed}:{number}".encode()).digest(self._size_bytes)

    async def _time(
        self, order: Order, call: Callable[[object], Awaitable[tuple[float, list[object]]]]
    ) -> dict[str, object]:
        """Milliseconds and outcome of each item that was begun in time, in order."""
        items, patience_s = order["items"], order["patience_s"]
        results: list[list[object]] = [[]] * len(items)
        began = 0
        until = time.perf_counter() + order["begin_within_s"]

        async def go_on() -> None:
            nonlocal began
            while began < len(items) and time.perf_counter() < until:
                place = began
                began += 1
                start = time.perf_counter()
                try:
                    async with asyncio.timeout(patience_s):
                        at, told = await call(items[place])
                except TimeoutError:
                    at, told = time.perf_counter(), [LATE]
                except Exception as error:  # noqa: BLE001 - whatever a rival raises is its outcome
                    at, told = time.perf_counter(), [FAILED]
                    print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                results[place] = [round((at - start) * 1000, 4), *told]

        with _profiled(order.get("profile")):
            await asyncio.gather(*(go_on() for _ in range(order["at_once"])))
        return {"results": results[:began]}


@contextlib.contextmanager
def _profiled(path: object) -> Iterator[None]:
    """Where the measuring process spends its time, for those who ask."""
    if not isinstance(path, str):
        yield
        return
    import cProfile

    profile = cProfile.Profile()
    profile.enable()
    try:
        yield
    finally:
        profile.disable()
        profile.dump_stats(path)


async def serve(worker: Worker, answers_fd: int) -> None:
    loop = asyncio.get_running_loop()
    orders: asyncio.Queue[bytes] = asyncio.Queue()

    def read() -> None:
        for line in sys.stdin.buffer:
            loop.call_soon_threadsafe(orders.put_nowait, line)
        # At once: a loop that is busy, or a rival's threads, must not keep the process.
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        order = json.loads(await orders.get())
        try:
            answer = await worker.carry_out(order)
        except Exception as error:  # noqa: BLE001 - told as the answer
            answer = {"error": f"{type(error).__name__}: {error}"}
        _write(answers_fd, json.dumps(answer).encode() + b"\n")


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def main() -> None:
    name, seed, size_bytes = sys.argv[1:]
    # What a rival prints must not pass for an answer.
    answers_fd = os.dup(1)
    os.dup2(2, 1)
    worker = Worker(KINDS[name](), seed, int(size_bytes))
    _run(serve(worker, answers_fd))


def _run(main_task: Coroutine[object, object, None]) -> None:
    """On uvloop where there is one, as a peer runs."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main_task)
        return
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main_task)


if __name__ == "__main__":
    main()
