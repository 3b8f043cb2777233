"""One thread that runs blocking calls for an event loop, one after the other.

`ThreadPoolExecutor` does more and takes two to three times as long to hand a call over and back
(135 µs of processor time instead of 53), which shows where the call itself is as short as a commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Runs(Protocol):
    """Runs blocking calls in the order in which they are made."""

    def __call__(self, call: Callable[[], T], /) -> asyncio.Future[T]:
        """What the call returns or raises."""

    def close(self) -> None:
        """All calls are made."""


class Worker:
    """Call it on the loop's thread with what to run; `close` when done."""

    def __init__(self, name: str = "p2pweb-writer") -> None:
        self._loop = asyncio.get_running_loop()
        self._calls: queue.SimpleQueue[tuple[asyncio.Future[Any], Callable[[], object]] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def __call__(self, call: Callable[[], T], /) -> asyncio.Future[T]:
        """What the call returns or raises. One whose future is cancelled may run all the same."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._calls.put((future, call))
        return future

    def close(self) -> None:
        """Wait for the calls made so far, and take no more."""
        self._calls.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._calls.get()) is not None:
            future, call = job
            result: object = None
            fault: BaseException | None = None
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001 - whoever awaits it meets it
                fault = error
            with contextlib.suppress(RuntimeError):  # The loop has ended: nobody awaits it.
                self._loop.call_soon_threadsafe(_settle, future, result, fault)
            del job, future, call, result, fault  # Not held until the next one comes.


def _settle(future: asyncio.Future[Any], result: object, fault: BaseException | None) -> None:
    if future.done():
        return  # Cancelled meanwhile.
    if fault is None:
        future.set_result(result)
    else:
        future.set_exception(fault)
