"""Letting go of copies: only what others say that they have, the farthest first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

from test_store import KEY, content, file_of, manifest_of

from p2pweb.address import Address
from p2pweb.blobs import segments_of
from p2pweb.dht.contact import Contact, NodeId, distance
from p2pweb.errors import RemoteError
from p2pweb.exchange import wire
from p2pweb.exchange.client import PeerClient
from p2pweb.exchange.reader import T
from p2pweb.manifest import Manifest
from p2pweb.records import record_key
from p2pweb.repair_plan import SMALL_BYTES
from p2pweb.store.items import Item
from p2pweb.store.opening import memory_store
from p2pweb.store.room import BUDGET_BYTES_MIN
from p2pweb.store.store import Store
from p2pweb.trim import Trim

COPIES = 2
# More than those that all keep who keep the record.
SIZE = SMALL_BYTES + 1
OWN = NodeId(bytes(20))
OTHERS = [Contact(NodeId(bytes([n * 37 % 256]) * 20), (f"10.0.0.{n}", 1)) for n in range(1, 7)]
FILES = [file_of(content(SIZE, seed=n), path=f"/{n}") for n in range(40)]
MANIFEST = Manifest.decode(manifest_of(1, *FILES))


def at_once(call: Callable[[], T]) -> Awaitable[T]:
    done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    done.set_result(call())
    return done


def closest(key: bytes) -> list[Contact]:
    return sorted(OTHERS, key=lambda one: distance(one.id, key))


def is_due(key: bytes) -> bool:
    nearer = sum(distance(one.id, key) < distance(OWN, key) for one in OTHERS)
    return nearer < COPIES


class Peers:
    """What the other peers say that they have."""

    def __init__(self, *, silent: int = 0, without_bytes: bool = False) -> None:
        self.silent = silent
        self.without_bytes = without_bytes

    async def copies(
        self, address: Address, wanted: Sequence[tuple[bytes, bool]]
    ) -> wire.Bundle | None:
        if address in [one.address for one in OTHERS[: self.silent]]:
            raise RemoteError("silent")
        keys = {key for key, _ in wanted}
        items = [
            Item(signed, with_bytes=not self.without_bytes)
            for signed in FILES
            if record_key(signed.record) in keys
        ]
        return wire.decode_bundle(wire.encode_bundle(items))


def full_store() -> Store:
    store = memory_store(BUDGET_BYTES_MIN)
    store.commit(
        [Item(signed) for signed in FILES],
        [part for n in range(len(FILES)) for part in segments_of(content(SIZE, seed=n))],
    )
    return store


async def let_go(store: Store, peers: Peers) -> set[bytes]:
    """The keys of what may go after a look."""
    trim = Trim(OWN, store, cast(PeerClient, peers), closest, run=at_once, write=at_once)
    count = await trim.look([one.id for one in OTHERS], MANIFEST, COPIES)
    gone = {
        share.key
        for share in MANIFEST.shares
        if not store.holds(share.key, share.record, with_bytes=True)
    }
    assert len(gone) == count
    return gone


async def test_what_the_closest_have_may_go_and_nothing_that_is_due() -> None:
    store = full_store()
    gone = await let_go(store, Peers())
    assert gone == {share.key for share in MANIFEST.shares if not is_due(share.key)}
    assert 0 < len(gone) < len(FILES)
    assert store.find(next(iter(gone))) is not None, "it stays until its room is needed"
    assert store.live.seq(KEY.site) == 0


async def test_what_one_of_the_closest_does_not_answer_for_stays() -> None:
    gone = await let_go(full_store(), Peers(silent=2))
    assert gone
    for key in gone:
        assert not set(closest(key)[:COPIES]) & set(OTHERS[:2])


async def test_a_record_without_its_bytes_is_no_copy() -> None:
    assert await let_go(full_store(), Peers(without_bytes=True)) == set()
