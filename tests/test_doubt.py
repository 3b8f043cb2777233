"""Who is asked last, and for how long; and what that costs a reader, on a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import cast

import pytest

from p2pweb.address import Address
from p2pweb.blobs import BLOCK_BYTES, BlobId
from p2pweb.dht.overlay import Overlay, OverlayClosedError
from p2pweb.errors import BusyError, LateError, RemoteError, UnavailableError
from p2pweb.exchange.client import READ_IDLE_S, PeerClient
from p2pweb.exchange.doubt import DOUBTED_MAX, DOUBTED_S, Doubt
from p2pweb.exchange.holders import (
    AGAIN_AFTER_S,
    ASKED_MAX,
    HEDGE_S,
    HEDGES_MAX,
    KNOWN_HOLDERS_MAX,
    LOOKUPS_MAX,
    Holders,
)
from p2pweb.exchange.wire import Elsewhere
from p2pweb.sim.loop import SimLoop

BLOB = BlobId(BLOCK_BYTES, bytes(32))
BLOCK = bytes(BLOCK_BYTES)
TRIP_S = 0.1
GROUP = range(1)


def key(number: int) -> bytes:
    return bytes([number]) * 20


def peer(number: int) -> Address:
    return ("192.0.2.1", number)


A, B, C, D = map(peer, range(1, 5))


def test_who_failed_is_doubtful_for_a_while_or_until_it_sends_something_proved() -> None:
    doubt = Doubt()
    assert not doubt.has(A, 0.0)
    doubt.failed(A, 0.0)
    doubt.failed(B, 1.0)
    doubt.proved(B)
    doubt.proved(C)
    assert [doubt.has(one, DOUBTED_S - 1) for one in (A, B, C)] == [True, False, False]
    assert not doubt.has(A, DOUBTED_S)


def test_of_many_who_failed_those_are_forgotten_who_did_so_longest_ago() -> None:
    doubt = Doubt()
    for number in range(DOUBTED_MAX):
        doubt.failed(peer(number), float(number) / DOUBTED_MAX)
    # Again: then it was not so long ago.
    doubt.failed(peer(0), 1.0)
    doubt.failed(peer(DOUBTED_MAX), 1.0)
    assert [number for number in range(DOUBTED_MAX + 1) if not doubt.has(peer(number), 1.0)] == [1]


# --- readers ---


@dataclass(frozen=True)
class Does:
    """What a holder does when it is asked: after a while it sends something, or nothing, and then
    a block, a pointer, that it has not got it, or nothing of worth."""

    after_s: float = TRIP_S
    result: list[bytes] | Elsewhere | RemoteError | None = field(default_factory=lambda: [BLOCK])
    begins: bool = False
    gives_block: bool = False


FAULT = RemoteError("it sent what it should not")
GIVES = Does()
SILENT = Does(READ_IDLE_S, FAULT)
DRIPS = Does(READ_IDLE_S, FAULT, begins=True)
STOPS = Does(READ_IDLE_S, FAULT, begins=True, gives_block=True)
GARBAGE = Does(TRIP_S, FAULT)
HAS_NOT = Does(TRIP_S, None)


class Search:
    """A lookup that finds the same peers every time; who stops waiting for it may ask again."""

    def __init__(self, world: World) -> None:
        self._is_closed = world.is_closed
        self._found = list(world.found)
        self._end = world.loop.time() + world.lookup_s

    async def __aenter__(self) -> Search:
        return self

    async def __aexit__(self, *failure: object) -> None:
        pass

    def __aiter__(self) -> Search:
        return self

    async def __anext__(self) -> SimpleNamespace:
        if self._is_closed:
            raise OverlayClosedError("closed")
        if not self._found:
            await asyncio.sleep(self._end - asyncio.get_running_loop().time())
            raise StopAsyncIteration
        contact = SimpleNamespace(address=self._found.pop(0))
        return SimpleNamespace(extra={"has": True}, contact=contact)


class World:
    """Peers by what they do, and whom lookups find, in that order. As client and overlay know
    them. `asked` has who was asked by the last reading, in order."""

    def __init__(self, does: Mapping[Address, Does], *, lookup_s: float = 0.2) -> None:
        self.does = dict(does)
        self.found = list(does)
        self.lookup_s = lookup_s
        self.lookups = 0
        self.is_closed = False
        self.asked: list[Address] = []
        self.asking = self.most_asking = 0
        self.took_s = 0.0
        self.doubt = Doubt()
        self.loop = SimLoop()
        self.holders: Holders

    def read(self, number: int, blob: BlobId = BLOB) -> list[Address]:
        """Who was asked for the block at one key, in order."""
        self.asked, began_s = [], self.loop.time()
        call = self.holders.blocks(key(number), blob, b"", range(1), lambda number, block: None)
        try:
            assert self.loop.run_until_complete(call) == [BLOCK]
        finally:
            self.took_s = self.loop.time() - began_s
        return self.asked

    def doubted(self) -> list[Address]:
        return [one for one in self.does if self.doubt.has(one, self.loop.time())]

    def find_value(self, key: bytes) -> Search:
        self.lookups += 1
        return Search(self)

    async def blocks_or_pointer(
        self,
        address: Address,
        blob: BlobId,
        hashes: bytes,
        group: range,
        *,
        serves_at: int | None = None,
        began: Callable[[], None] = lambda: None,
        came: Callable[[int, bytes], None],
    ) -> list[bytes] | Elsewhere | None:
        does = self.does[address]
        self.asked.append(address)
        self.asking += 1
        self.most_asking = max(self.most_asking, self.asking)
        if does.begins:
            began()
        if does.gives_block:
            came(0, BLOCK)
        try:
            await asyncio.sleep(does.after_s)
        finally:
            self.asking -= 1
        if isinstance(does.result, RemoteError):
            raise does.result
        return does.result

    async def deltas(
        self, address: Address, blob: BlobId, base_root: bytes, versions: int
    ) -> list[bytes]:
        self.asked.append(address)
        if self.does[address] == GARBAGE:
            raise FAULT
        return [b"delta"]


@contextmanager
def world_of(*does: Does, lookup_s: float = 0.2) -> Iterator[World]:
    """Peers 1, 2 and so on, which do this."""
    world = World({peer(number): one for number, one in enumerate(does, 1)}, lookup_s=lookup_s)

    async def begin() -> None:
        world.holders = Holders(cast(PeerClient, world), cast(Overlay, world), world.doubt, None)

    world.loop.run_until_complete(begin())
    try:
        yield world
    finally:
        world.loop.run_until_complete(world.holders.close())
        world.loop.close()
        assert world.loop.faults == []


@pytest.mark.parametrize("liar", [SILENT, DRIPS, GARBAGE], ids=["silent", "drips", "garbage"])
def test_a_liar_is_asked_last_for_every_other_key_until_it_is_forgotten(liar: Does) -> None:
    with world_of(liar, GIVES) as world:
        assert world.read(1) == [A, B]
        assert world.doubted() == [A]
        assert world.read(2) == [B]
        # Also where it is the first of whom it is known that they should have it.
        world.holders.remember(key(3), A)
        assert world.read(3) == [B]
        world.loop.run_until_complete(asyncio.sleep(DOUBTED_S))
        assert world.read(4) == [A, B]


def test_one_that_is_honest_again_is_doubted_no_more() -> None:
    with world_of(GARBAGE, GIVES) as world:
        world.read(1)
        world.does[A], world.does[B] = GIVES, GARBAGE
        assert world.read(2) == [B, A]
        assert world.doubted() == [B]


def test_who_says_that_it_has_not_got_something_is_not_doubted() -> None:
    with world_of(HAS_NOT, GIVES) as world:
        assert world.read(1) == [A, B]
        assert world.doubted() == []
        assert world.read(2) == [A, B]


def test_who_has_sent_a_block_or_points_elsewhere_is_not_doubted_for_being_slow() -> None:
    for slow in (STOPS, Does(0.0, Elsewhere(peer(9)))):
        with world_of(slow, GIVES) as world:
            world.does[peer(9)] = SILENT
            assert set(world.read(1)) == {A, B, *([peer(9)] if slow != STOPS else [])}
            assert world.doubted() == []


def test_who_was_asked_a_moment_before_another_answered_is_not_doubted() -> None:
    # The first is overtaken by the second, which fails, and the third is asked at once.
    with world_of(SILENT, Does(0.5, FAULT), Does(2.0), Does(TRIP_S)) as world:
        world.does[C] = Does(HEDGE_S + TRIP_S / 2)
        assert world.read(1) == [A, B, C, D]
        assert world.doubted() == [A, B]


def test_a_file_with_one_copy_on_a_peer_that_was_slow_once_is_read_as_soon_as_anything() -> None:
    with world_of(SILENT, GIVES, lookup_s=3.0) as world:
        world.read(1)
        world.does[A], world.found = GIVES, [A]
        # It waits for others for as long as it would to overtake it, and not for the lookup.
        world.holders.remember(key(2), A)
        assert world.read(2) == [A]
        assert world.took_s < 2 * HEDGE_S
        assert world.doubted() == []
    with world_of(SILENT, GIVES, lookup_s=0.1) as world:
        world.read(1)
        world.does[A], world.found, world.lookups = GIVES, [A], 0
        assert world.read(2) == [A]
        # Not for another lookup either.
        assert world.lookups == 1
        assert world.took_s == pytest.approx(0.1 + TRIP_S)


def test_where_everybody_lies_everybody_is_asked_once() -> None:
    lookups = LOOKUPS_MAX * (1 + len(AGAIN_AFTER_S))
    with world_of(GARBAGE, GARBAGE) as world:
        for number in (1, 2):
            with pytest.raises(UnavailableError):
                world.read(number)
            assert world.asked == [A, B]
        assert world.lookups == 2 * lookups
    # Also where they are asked while a slow lookup goes on.
    with world_of(GARBAGE, GARBAGE, lookup_s=3.0) as world:
        for number in (1, 2):
            with pytest.raises(UnavailableError):
                world.read(number)
            assert world.asked == [A, B]
        assert world.took_s == pytest.approx(lookups * 3.0 + sum(AGAIN_AFTER_S))


def test_the_only_holder_is_asked_again_where_it_was_too_busy_to_answer() -> None:
    for fault in (LateError("it does not answer in time"), BusyError("it answers 503")):
        busy = Does(READ_IDLE_S, fault)
        with world_of(busy) as world:
            world.loop.call_later(READ_IDLE_S + 0.5, world.does.__setitem__, A, GIVES)
            assert world.read(1) == [A, A]
            assert world.took_s == pytest.approx(READ_IDLE_S + 1.0 + TRIP_S, abs=HEDGE_S)
        with world_of(busy, busy) as world:
            with pytest.raises(UnavailableError):
                world.read(1)
            # Not for ever; and nobody is asked again who has not answered yet.
            assert world.asked == [A, B, A, B, A, B]
            assert world.most_asking <= 2


def test_who_fails_is_replaced_at_once_also_while_others_are_silent() -> None:
    with world_of(SILENT, *[GARBAGE] * 5, GIVES) as world:
        world.read(1)
        assert world.took_s == pytest.approx(HEDGE_S + 6 * TRIP_S)


def test_as_many_may_be_silent_as_may_send() -> None:
    for liar, most in ((SILENT, ASKED_MAX), (DRIPS, HEDGES_MAX)):
        with world_of(*[liar] * 10, GIVES) as world:
            world.read(1)
            assert world.most_asking == most
            assert world.took_s > READ_IDLE_S
        with world_of(*[liar] * (most - 1), GIVES) as world:
            world.read(1)
            assert world.took_s < READ_IDLE_S


def test_four_silent_ones_do_not_keep_a_fifth_from_being_asked() -> None:
    with world_of(*[SILENT] * 4, GIVES) as world:
        world.read(1)
        assert world.took_s == pytest.approx(4 * HEDGE_S + TRIP_S)


def test_the_doubtful_take_no_places_of_those_who_are_looked_for_meanwhile() -> None:
    long = BlobId(2 * BLOCK_BYTES, bytes(32))
    with world_of(*[GARBAGE] * KNOWN_HOLDERS_MAX, GIVES, GIVES) as world:
        world.read(1)
        world.read(2, long)
        world.loop.run_until_complete(asyncio.sleep(1.0))
        world.lookups = 0
        assert [world.read(2) for _ in range(2)] == [[peer(6)], [peer(5)]]
        assert world.lookups == 0


def test_who_fails_to_send_deltas_is_doubtful_too() -> None:
    with world_of(GARBAGE, GIVES) as world:
        deltas = world.holders.deltas(key(1), BLOB, bytes(32), 1)
        assert world.loop.run_until_complete(deltas) == [b"delta"]
        assert world.doubted() == [A]


def test_a_reader_does_not_wait_for_an_overlay_that_was_closed() -> None:
    with world_of(GIVES) as world:
        world.is_closed = True
        with pytest.raises(UnavailableError):
            world.read(1)
        # Whoever is known all the same is asked.
        world.holders.remember(key(1), A)
        assert world.read(1) == [A]
