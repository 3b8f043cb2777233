"""What one peer looks after in its rounds of repair, with a disk and neighbours of memory."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TypeVar, cast

import msgspec
import pytest

from p2pweb import fetching as fetching_module
from p2pweb import repair as repair_module
from p2pweb.blobs import blob_of, segments_of
from p2pweb.dht.contact import Contact, NodeId
from p2pweb.dht.events import Found
from p2pweb.dht.overlay import ContactState, Overlay
from p2pweb.errors import NotAPeerError, RemoteError
from p2pweb.exchange.client import PeerClient
from p2pweb.exchange.doubt import Doubt
from p2pweb.exchange.reader import BlobReader
from p2pweb.exchange.wire import PROTOCOL, Bundle, PeerInfo, decode_bundle, encode_bundle
from p2pweb.fetching import TRIES_MAX
from p2pweb.keys import SiteKey
from p2pweb.manifest import Entry, Manifest
from p2pweb.pages import Pages
from p2pweb.records import (
    Encoding,
    FileRecord,
    Record,
    SiteRecord,
    dht_key,
    sign,
    site_name,
)
from p2pweb.repair import Repair
from p2pweb.sites import SiteVersion
from p2pweb.store.items import Item
from p2pweb.store.opening import memory_store
from p2pweb.store.store import Store

T = TypeVar("T")

KEY = SiteKey(b"k" * 32)
FILES = 10
PATIENCE_S = 20.0


async def run(call: Callable[[], T]) -> T:
    return call()


def contacts(*numbers: int) -> list[Contact]:
    return [Contact(NodeId(bytes([n]) * 20), ("192.0.2.1", n)) for n in numbers]


class Neighbours:
    """An overlay of a few contacts, and a client to which all of them are peers of the site."""

    def __init__(self) -> None:
        self.met: list[bytes] = []
        self.around = 0
        self.explored = 0
        self.known = contacts(1, 2)
        # By name alone.
        self.heard: list[Contact] = []
        # What each says by UDP of whether it keeps the site; the others say nothing.
        self.keeps: dict[Contact, object] = {}
        self.asked: list[Contact] = []
        self.asked_by_http: list[int] = []
        self.faults: dict[int, RemoteError] = {}
        # Those that are not known to be well, as their states are otherwise.
        self.ill: dict[Contact, dict[str, object]] = {}

    def contacts(self) -> list[ContactState]:
        return [
            msgspec.structs.replace(
                ContactState(one.id, one.address, None, 0.0, 0, True), **self.ill.get(one, {})
            )
            for one in self.known
        ]

    async def value_of(self, contact: Contact, key: bytes) -> Found | None:
        assert key == dht_key(site_name(KEY.site))
        self.asked.append(contact)
        if contact not in self.keeps:
            return None
        return Found(contact, b"record", {"has": True, "keeps": self.keeps[contact]})  # type: ignore[dict-item]

    def closest(self, key: bytes, count: int) -> list[Contact]:
        return self.known[:count]

    def heard_of(self, key: bytes, count: int) -> list[Contact]:
        return self.heard[:count]

    def rtt_s(self, contact: Contact) -> float:
        return contact.address[1]

    async def find_node(self, key: bytes, need: int, *, wide: bool) -> list[Contact]:
        assert wide
        self.met.append(key)
        return self.known[:need]

    async def look_around(self, *, again: bool) -> list[Contact]:
        assert again
        self.around += 1
        return self.known

    def refresh_table(self) -> None:
        self.explored += 1

    async def peer_info(self, address: tuple[str, int]) -> PeerInfo:
        self.asked_by_http.append(address[1])
        if fault := self.faults.get(address[1]):
            raise fault
        known = bytes([address[1]]) * 20
        return PeerInfo(p2pweb=PROTOCOL, id=known.hex(), home=KEY.site, version="1")

    async def copies(self, address: tuple[str, int], wanted: object) -> Bundle:
        return Bundle((), (), 0)


def file_of(number: int, seq: int) -> tuple[FileRecord, bytes]:
    data = b"file %d of %d" % (number, seq)
    blob, _ = blob_of(data)
    encodings = (Encoding("identity", blob.size_bytes, blob.root),)
    return FileRecord(
        public_key=KEY.public_key,
        path=f"/{number}.txt",
        seq=seq,
        media_type="text/plain",
        encodings=encodings,
    ), data


def version_of(seq: int, seqs: list[int]) -> SiteVersion:
    """A version whose files last changed in these; a site's record that names its manifest."""
    entries = [
        Entry(
            path=record.path,
            media_type=record.media_type,
            seq=record.seq,
            modified_s=1,
            encodings=record.encodings,
        )
        for record, _ in (file_of(number, each) for number, each in enumerate(seqs))
    ]
    manifest = Manifest(KEY.public_key, seq, entries)
    blob, _ = blob_of(manifest.encode())
    record = SiteRecord(
        public_key=KEY.public_key,
        seq=seq,
        published_s=seq,
        copies=8,
        manifest_size_bytes=blob.size_bytes,
        manifest_root=blob.root,
    )
    return SiteVersion(sign(record, KEY), record, manifest, Pages(manifest))


def keep(store: Store, number: int, seq: int) -> None:
    record, data = file_of(number, seq)
    store.commit([Item(sign(record, KEY))], segments_of(data))


@asynccontextmanager
async def repairing(
    world: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    remembered: Sequence[Contact] = (),
    doubt: Doubt | None = None,
    *,
    begins_early: bool = False,
) -> AsyncIterator[Repair]:
    """Rounds that come at once; `world.looked` has the paths that were looked after."""
    for pause in ("AFTER_VERSION_S", "PAUSE_S"):
        monkeypatch.setattr(repair_module, pause, 0.0)
    monkeypatch.setattr(fetching_module, "LOOKUPS_MAX", 0)
    holds = world.store.holds

    def noted(key: bytes, record: Record, *, with_bytes: bool) -> bool:
        world.looked.append(record.path)
        world.ever.add(record.path)
        is_held: bool = holds(key, record, with_bytes=with_bytes)
        return is_held

    monkeypatch.setattr(world.store, "holds", noted)

    async def live() -> SiteVersion:
        world.rounds += 1
        version: SiteVersion = world.version
        return version

    repair = Repair(
        bytes(20),
        world.store,
        cast(PeerClient, world.neighbours),
        cast(Overlay, world.neighbours),
        cast(BlobReader, None),
        doubt or Doubt(),
        live,
        run=run,
        write=run,
        rng=random.Random(1),
        remembered=remembered,
    )
    if begins_early:
        repair.begin()
        for _ in range(3):
            await asyncio.sleep(0)
        assert world.neighbours.met
    chore = repair.start()
    try:
        yield repair
        assert not chore.done() or chore.exception() is None
    finally:
        await repair.close()
        world.store.close()


def world_of(seqs: list[int]) -> SimpleNamespace:
    """A peer that has the whole of a site's first version, and two neighbours."""
    store = memory_store()
    for number in range(FILES):
        keep(store, number, 1)
    return SimpleNamespace(
        store=store,
        neighbours=Neighbours(),
        version=version_of(1, seqs),
        looked=[],
        ever=set(),
        rounds=0,
    )


async def looked_after(world: SimpleNamespace, repair: Repair) -> list[str]:
    """What a round looks after that begins now, or the one that has begun, once it is over."""
    world.looked.clear()
    rounds = world.rounds
    repair.has_version()
    async with asyncio.timeout(PATIENCE_S):
        # One round more: then that one is over.
        while world.rounds < rounds + 2:
            await asyncio.sleep(0.01)
            repair.has_version()
    return sorted(world.looked)


async def test_of_a_new_version_only_what_changed_is_looked_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    everything = [f"/{number}.txt" for number in range(FILES)]
    seqs = [1] * FILES
    world = world_of(seqs)
    async with repairing(world, monkeypatch) as repair:
        # The first round may be the one that has begun, or the one before.
        assert set(await looked_after(world, repair)) <= set(everything)
        assert sorted(set(world.ever)) == everything
        assert await looked_after(world, repair) == []

        seqs[4] = 2
        keep(world.store, 4, 2)
        world.version = version_of(2, seqs)
        assert await looked_after(world, repair) == ["/4.txt"]

        # What is lacking then is looked after until it is there, with all the rest.
        seqs[5] = 3
        world.version = version_of(3, seqs)
        assert set(await looked_after(world, repair)) >= {"/5.txt"}
        keep(world.store, 5, 3)
        assert set(await looked_after(world, repair)) == set(everything)
        assert await looked_after(world, repair) == []

        # Other neighbours, or other copies wanted, and other things are due.
        world.neighbours.known.append(Contact(NodeId(b"\3" * 20), ("192.0.2.1", 3)))
        assert await looked_after(world, repair) == everything
        record = msgspec.structs.replace(world.version.record, copies=2, seq=4)
        world.version = SiteVersion(
            sign(record, KEY), record, world.version.manifest, world.version.pages
        )
        assert await looked_after(world, repair) == everything


async def test_only_a_newcomer_and_who_comes_back_among_strangers_meets_those_farther_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known, strangers = Neighbours().known, contacts(7, 8)
    for remembered, seen in (
        ([], (0, [bytes(20)], 0)),
        (known, (1, [], 0)),
        ([known[0], strangers[0]], (1, [], 0)),
        (strangers, (1, [bytes(20)], 1)),
    ):
        world = world_of([1] * FILES)
        async with repairing(world, monkeypatch, remembered) as repair:
            await looked_after(world, repair)
            around = world.neighbours
            assert (around.around, around.met, around.explored) == seen


async def test_who_met_the_others_before_it_goes_on_with_rounds_meets_them_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = world_of([1] * FILES)
    async with repairing(world, monkeypatch, begins_early=True) as repair:
        await looked_after(world, repair)
        assert world.neighbours.met == [bytes(20)]


async def test_who_failed_is_asked_for_copies_last_until_it_sends_some(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    does: list[Callable[[int], Bundle]] = []
    asked: list[int] = []
    first, second = (one.address for one in Neighbours().known)

    def has(seq: int) -> Bundle:
        record, data = file_of(4, seq)
        return decode_bundle(encode_bundle([Item(sign(record, KEY))], segments_of(data)))

    def lies(seq: int) -> Bundle:
        forged = [msgspec.structs.replace(part, data=b"x") for part in has(seq).parts]
        return msgspec.structs.replace(has(seq), parts=tuple(forged))

    def has_not(seq: int) -> Bundle:
        return Bundle((), (), 0)

    def fails(seq: int) -> Bundle:
        raise RemoteError("it does not answer in time")

    async def copies(address: tuple[str, int], wanted: object) -> Bundle:
        asked.append(address[1])
        return does[address[1] - 1](seqs[4])

    # What each of the two does with one version after the other, and who is asked, in order.
    turns: list[tuple[tuple[Callable[[int], Bundle], ...], list[int]]] = [
        ((fails, has), [1, 2]),
        ((has, has), [2]),
        ((has, has_not), [2, 1]),
        ((lies, has), [1, 2]),
        ((has, has), [2]),
    ]
    seqs = [1] * FILES
    world, doubt = world_of(seqs), Doubt()
    async with repairing(world, monkeypatch, doubt=doubt) as repair:
        await looked_after(world, repair)
        monkeypatch.setattr(world.neighbours, "copies", copies)
        for seq, (deeds, order) in enumerate(turns, 2):
            does[:] = deeds
            asked.clear()
            seqs[4] = seq
            world.version = version_of(seq, seqs)
            assert "/4.txt" in await looked_after(world, repair)
            assert asked == order
            now = asyncio.get_running_loop().time()
            assert [doubt.has(one, now) for one in (first, second)] == [order[-1] == 2, False]


async def test_who_keeps_the_site_is_asked_by_udp_and_of_those_who_do_not_say_by_http(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = world_of([1] * FILES)
    around = world.neighbours
    around.known = [Contact(NodeId(bytes([n]) * 20), ("192.0.2.1", n)) for n in range(1, 9)]
    keeper, other, silent, unclear, unproved, struck, stock, mute = around.known
    around.faults = {7: NotAPeerError("no"), 8: RemoteError("no")}
    around.keeps = {keeper: True, other: False, unclear: 1}
    around.ill = {unproved: {"proved": False}, struck: {"strikes": 1}}
    async with repairing(world, monkeypatch) as repair:
        # The first round is one of those that ask nobody.
        await looked_after(world, repair)
        await looked_after(world, repair)
        assert set(around.asked) == {*around.known} - {unproved, struck}
        assert set(around.asked_by_http) == {3, 4, 7, 8}
        assert repair.known_keepers(around.known) == {keeper, silent, unclear}
        # Who is not known counts as one.
        assert repair.keepers([other, stock, mute, unproved, struck]) == [mute, unproved, struck]

        # Who answers again is asked.
        around.ill = {}
        await looked_after(world, repair)
        await looked_after(world, repair)
        assert set(around.asked) == set(around.known)
        assert repair.known_keepers(around.known) == {*around.known} - {other, stock, mute}


async def test_those_farther_off_are_met_at_once_by_what_was_heard_and_then_by_what_is_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = world_of([1] * FILES)
    # The first byte of the farthest that were heard of is 20, and of the farthest that is there 40.
    world.neighbours.heard = contacts(*range(1, 21))
    world.neighbours.known = contacts(*range(21, 41))
    async with repairing(world, monkeypatch) as repair:
        await looked_after(world, repair)
        bits = [int.from_bytes(key).bit_length() - 1 for key in world.neighbours.met]
    assert bits == [-1, 156, 157, 158]


class Lacking(Neighbours):
    """None of them has anything; `asked_for` says of whom each key was asked, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_for: dict[bytes, list[int]] = {}

    async def copies(
        self, address: tuple[str, int], wanted: Sequence[tuple[bytes, bool]]
    ) -> Bundle:
        for key, _ in wanted:
            self.asked_for.setdefault(key, []).append(address[1])
        return Bundle((), (), 0)


def lacking_world(neighbours: Lacking) -> SimpleNamespace:
    """A peer that has nothing of a site yet."""
    world = world_of([1] * FILES)
    world.store.close()
    world.store, world.neighbours = memory_store(), neighbours
    return world


async def test_what_one_lacks_others_are_asked_for_while_somebody_else_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    others_asked = asyncio.Event()

    class Halves(Lacking):
        """The first two are near half of the keys each, the third near all."""

        def closest(self, key: bytes, count: int) -> list[Contact]:
            return contacts(1 + key[0] % 2, 3)

        async def copies(
            self, address: tuple[str, int], wanted: Sequence[tuple[bytes, bool]]
        ) -> Bundle:
            bundle = await super().copies(address, wanted)
            if address[1] == 2:
                await others_asked.wait()
            elif address[1] == 3:
                others_asked.set()
            return bundle

    world = lacking_world(neighbours := Halves())
    async with repairing(world, monkeypatch) as repair:
        await looked_after(world, repair)
    assert {tuple(asked[:2]) for asked in neighbours.asked_for.values()} == {(1, 3), (2, 3)}


async def test_of_those_near_a_key_only_so_many_are_asked_in_vain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    neighbours = Lacking()
    neighbours.known = contacts(*range(1, TRIES_MAX + 3))
    world = lacking_world(neighbours)
    async with repairing(world, monkeypatch) as repair:
        await looked_after(world, repair)
        await looked_after(world, repair)
    assert len(neighbours.asked_for) == FILES
    for asked in neighbours.asked_for.values():
        # The next is the first of another round.
        assert len(set(asked[:TRIES_MAX])) == TRIES_MAX
        assert asked[TRIES_MAX] in asked[:TRIES_MAX]
