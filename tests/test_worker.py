"""One thread for blocking calls: in order, with results and errors, and an end."""

from __future__ import annotations

import asyncio
import threading

import pytest

from p2pweb.worker import Worker


async def test_calls_run_in_order_on_one_other_thread() -> None:
    worker = Worker("test")
    seen: list[tuple[int, str]] = []

    def note(number: int) -> int:
        seen.append((number, threading.current_thread().name))
        return number

    calls = [worker(lambda number=number: note(number)) for number in range(50)]  # type: ignore[misc]
    assert await asyncio.gather(*calls) == list(range(50))
    assert seen == [(number, "test") for number in range(50)]
    worker.close()


async def test_an_error_reaches_who_awaits_it_and_the_next_call_runs() -> None:
    worker = Worker("test")

    def fail() -> None:
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        await worker(fail)
    assert await worker(lambda: 1) == 1
    worker.close()


async def test_a_cancelled_call_disturbs_nobody() -> None:
    worker = Worker("test")
    go = threading.Event()
    cancelled = worker(go.wait)
    cancelled.cancel()
    go.set()
    assert await worker(lambda: 1) == 1
    assert cancelled.cancelled()
    worker.close()


async def test_closing_waits_for_what_was_asked_before() -> None:
    worker = Worker("test")
    done: list[int] = []
    futures = [worker(lambda: done.append(1)) for _ in range(20)]
    worker.close()
    assert len(done) == 20
    await asyncio.gather(*futures)


def test_a_loop_that_has_ended_is_told_nothing() -> None:
    go = threading.Event()

    async def begin() -> Worker:
        worker = Worker("test")
        worker(go.wait)
        return worker

    worker = asyncio.run(begin())
    go.set()
    worker.close()
