"""Scrubbing: the pace of a look through everything, and what becomes of what it finds."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from test_store import content, damage, put

from p2pweb.exchange.reader import T
from p2pweb.scrub import STEPS_MIN, Scrub
from p2pweb.store.opening import memory_store, open_store
from p2pweb.store.store import Store

DAY_S = 86_400.0


def at_once(call: Callable[[], T]) -> Awaitable[T]:
    done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    done.set_result(call())
    return done


def scrub_of(store: Store, damaged: Callable[[], None] = lambda: None) -> Scrub:
    return Scrub(store, at_once, random.Random(1), DAY_S, damaged)


async def test_everything_is_read_within_the_time(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for number in range(20):
        put(store, content(1_000_000, seed=number), path=f"/{number}")
    scrub = scrub_of(store)
    after, steps, total_s = 0, 0, 0.0
    while steps == 0 or after:
        after, pause_s = await scrub.step(after)
        steps, total_s = steps + 1, total_s + pause_s
    assert steps == 5
    assert 0 < total_s <= DAY_S
    store.close()


async def test_an_empty_store_is_not_asked_over_and_over() -> None:
    assert await scrub_of(memory_store()).step(0) == (0, DAY_S / STEPS_MIN)


async def test_what_is_found_damaged_is_told_once(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    put(store, b"rots")
    damage(tmp_path)
    told: list[None] = []
    scrub = scrub_of(store, lambda: told.append(None))
    await scrub.step(0)
    await scrub.step(0)
    assert len(told) == 1
    store.close()


async def test_a_peer_scrubs_from_its_start_until_it_stops(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    put(store, b"rots")
    damage(tmp_path)
    found = asyncio.Event()
    scrub = scrub_of(store, found.set)
    scrub._rng = random.Random(0)
    store.last_row = lambda: 0  # type: ignore[method-assign]
    scrub.start()
    async with asyncio.timeout(10):
        await found.wait()
    await scrub.close()
    store.close()


async def test_a_disk_that_cannot_be_read_is_tried_again_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = memory_store()
    tried = asyncio.Event()

    def fails(*_: object) -> None:
        tried.set()
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(store, "look_through", fails)
    scrub = scrub_of(store)
    task = scrub.start()
    async with asyncio.timeout(10):
        await tried.wait()
        await asyncio.sleep(0)
    assert not task.done()
    assert "cannot be looked through" in caplog.text
    await scrub.close()
