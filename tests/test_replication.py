"""Copies on other peers: what is counted, what goes along unasked, what follows the answer."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar, cast

import pytest
from peer_duties import duties

from p2pweb import replication as replication_module
from p2pweb.address import Address
from p2pweb.blobs import SEGMENT_BYTES, BlobId, Part, SegmentData, segments_of
from p2pweb.dht.contact import Contact, NodeId, distance
from p2pweb.dht.overlay import Overlay
from p2pweb.errors import NotAPeerError, RemoteError
from p2pweb.exchange.client import SENT_UNASKED_BYTES_MAX, PeerClient
from p2pweb.exchange.service import PeerService, Placed
from p2pweb.exchange.wire import (
    BUNDLE_MEDIA_TYPE,
    ItemAnswer,
    PeerInfo,
    decode_answers,
    encode_bundle,
)
from p2pweb.http.messages import Request
from p2pweb.http.service import RequestBody
from p2pweb.keys import SiteKey
from p2pweb.records import Encoding, FileRecord, record_key, sign
from p2pweb.replication import LOOKUPS_MAX, Replication
from p2pweb.store.items import Held, Item, Outcome, Refused
from p2pweb.store.opening import memory_store
from p2pweb.store.store import Store

T = TypeVar("T")

KEY = SiteKey(b"k" * 32)
OTHER_KEY = SiteKey(b"o" * 32)
OWN_ID = bytes(20)
CONTACTS = [Contact(NodeId(bytes([n]) * 20), ("192.0.2.1", n)) for n in range(1, 11)]
COPIES = 3


def small_file(data: bytes, path: str = "/a.txt", key: SiteKey = KEY) -> tuple[Item, SegmentData]:
    """A record with its bytes, up to one segment."""
    (segment,) = segments_of(data)
    record = FileRecord(
        public_key=key.public_key,
        path=path,
        seq=1,
        media_type="text/plain",
        encodings=(Encoding("identity", segment.blob.size_bytes, segment.blob.root),),
    )
    return Item(sign(record, key)), segment


async def run(call: Callable[[], T]) -> T:
    return call()


class Bundles(PeerClient):
    """Peers that keep what they are sent, with a store each, and note the bundles."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[Address, tuple[Item, ...], tuple[SegmentData, ...], int | None]] = []
        self.stores: dict[Address, Store] = {}
        self.strangers: set[Address] = set()
        # Who is at an address instead of the one whom the overlay knows there.
        self.others: dict[Address, bytes] = {}
        self.lies: tuple[tuple[int, bytes, int], ...] = ()
        # Who takes what it is sent and answers nothing, until it is let go.
        self.mute: set[Address] = set()
        self.let_go = asyncio.Event()
        self.cancelled: list[Address] = []

    async def peer_info(self, address: Address) -> PeerInfo:
        if address in self.strangers:
            raise NotAPeerError("no peer")
        known = bytes([address[1]]) * 20
        return PeerInfo(p2pweb=1, id=self.others.get(address, known).hex(), home=None, version="")

    async def send(
        self,
        address: Address,
        items: Sequence[Item],
        segments: Sequence[SegmentData] = (),
        *,
        delta: bytes = b"",
        place_copies: int | None = None,
        passing: bool = False,
    ) -> tuple[ItemAnswer, ...]:
        self.sent.append((address, tuple(items), tuple(segments), place_copies))
        if address in self.mute:
            try:
                await self.let_go.wait()
            except asyncio.CancelledError:
                self.cancelled.append(address)
                raise
        if self.lies:
            return tuple(ItemAnswer("held", wants=self.lies) for _ in items)
        store = self.stores.setdefault(address, memory_store())
        return tuple(map(ItemAnswer.of, store.commit(items, segments)))

    async def end(self) -> None:
        for store in self.stores.values():
            store.close()
        await self.close()


class Known:
    """An overlay of a few contacts."""

    def knows_few(self) -> bool:
        return True

    def closest(self, key: bytes, count: int) -> list[Contact]:
        return sorted(CONTACTS, key=lambda one: distance(one.id, key))[:count]


class Large:
    """An overlay of more contacts than a lookup ends with; notes how many lookups had to find."""

    def __init__(self) -> None:
        self.everybody = [
            Contact(NodeId(bytes([n]) * 20), ("192.0.2.1", n)) for n in range(100, 140)
        ]
        self.needs: list[int] = []
        self.silent: set[Contact] = set()
        # How many more a lookup finds than it was to, because a crowd is next to the key.
        self.crowd = 0
        self.pinged = asyncio.Event()

    def knows_few(self) -> bool:
        return False

    def closest(self, key: bytes, count: int) -> list[Contact]:
        return self.nearest(key)[:count]

    async def ping(self, address: Address) -> float | None:
        self.pinged.set()
        return None if address in {one.address for one in self.silent} else 0.1

    async def find_node(self, key: bytes, need: int | None = None) -> list[Contact]:
        need = need or 20
        self.needs.append(need)
        return [one for one in self.nearest(key) if one not in self.silent][: need + self.crowd]

    def nearest(self, key: bytes) -> list[Contact]:
        return sorted(self.everybody, key=lambda one: distance(one.id, key))


@asynccontextmanager
async def replicating(
    overlay: Known | Large | None = None, store: Store | None = None
) -> AsyncIterator[tuple[Replication, Bundles]]:
    client, store = Bundles(), store or memory_store()
    replication = Replication(OWN_ID, store, client, cast(Overlay, overlay or Known()), run)
    try:
        yield replication, client
    finally:
        await client.end()
        store.close()


# Replication


async def test_few_bytes_travel_with_their_record_in_one_request_to_each_peer() -> None:
    async with replicating() as (replication, client):
        item, segment = small_file(b"few bytes")
        assert await replication.place([item], COPIES, [segment]) == [Placed(COPIES, COPIES)]
        closest = sorted([OWN_ID, *(one.id for one in CONTACTS)], key=_from(item))[:COPIES]
        wanted = {one.address for one in CONTACTS if one.id in closest}
        assert {address for address, *_ in client.sent} == wanted
        assert len(client.sent) == len(wanted)
        assert all(segments == (segment,) for _, _, segments, _ in client.sent)


@pytest.mark.parametrize("limit_bytes", [SEGMENT_BYTES, SENT_UNASKED_BYTES_MAX])
async def test_bytes_are_read_once_for_all_peers_within_the_limit(
    limit_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replication_module, "READ_BYTES_MAX", limit_bytes)
    store, reads = memory_store(), []
    read_segment = store.read_segment

    def counted(blob: BlobId, segment: int) -> SegmentData | None:
        reads.append(blob)
        return read_segment(blob, segment)

    monkeypatch.setattr(store, "read_segment", counted)
    size_bytes = SENT_UNASKED_BYTES_MAX + 1
    files = [small_file(bytes([n]) * size_bytes, f"/{n}.bin") for n in range(3)]
    items = [item for item, _ in files]
    store.commit(items, [segment for _, segment in files])
    async with replicating(store=store) as (replication, client):
        placed = await replication.place(items, 8)
        assert placed == [Placed(8, 8)] * 3
        held = [client.stores[one.address] for one in CONTACTS if one.address in client.stores]
        for item, segment in files:
            copies = [each.read_segment(segment.blob, 0) for each in held]
            assert copies.count(segment) == 8 - (_from(item)(OWN_ID) < _eighth(item))
    assert len(reads) == 3 if limit_bytes == SEGMENT_BYTES else len(reads) > 3


def _eighth(item: Item) -> int:
    """How far from an item's key the eighth closest contact is."""
    return sorted(_from(item)(one.id) for one in CONTACTS)[7]


def _from(item: Item) -> Callable[[bytes], int]:
    key = record_key(item.signed.record)
    return lambda one: distance(one, key)


def _item_far_from_us() -> tuple[Item, SegmentData]:
    """One that this peer itself is not to keep."""
    for number in range(100):
        item, segment = small_file(b"few bytes", f"/{number}.txt")
        if record_key(item.signed.record)[0] >= 128:
            return item, segment
    raise AssertionError("a hundred keys, all of them in one half")


async def test_a_publish_waits_for_the_lookup_of_its_holders_alone() -> None:
    overlay = Large()
    async with replicating(overlay) as (replication, client):
        item, segment = _item_far_from_us()
        nearest = overlay.nearest(record_key(item.signed.record))
        assert await replication.place([item], COPIES, [segment]) == [Placed(COPIES, COPIES)]
        assert overlay.needs == [COPIES]
        assert {address for address, *_ in client.sent} == {one.address for one in nearest[:COPIES]}


async def test_silence_of_all_others_is_copies_missing_and_no_small_network() -> None:
    overlay = Large()
    async with replicating(overlay) as (replication, _):
        overlay.silent = set(overlay.everybody)
        item, segment = _item_far_from_us()
        assert await replication.place([item], COPIES, [segment]) == [Placed(1, COPIES)]


async def test_one_machine_under_two_ids_is_one_copy() -> None:
    overlay = Large()
    async with replicating(overlay) as (replication, client):
        item, segment = _item_far_from_us()
        nearest = overlay.nearest(record_key(item.signed.record))
        first = overlay.everybody.index(nearest[0])
        overlay.everybody[first] = Contact(nearest[0].id, nearest[1].address)
        assert await replication.place([item], COPIES, [segment]) == [Placed(COPIES, COPIES)]
        whole = [address for address, _, segments, _ in client.sent if segments]
        assert sorted(whole) == sorted(nearest[n].address for n in (1, 2, 3))


async def test_where_a_holder_keeps_nothing_the_next_closest_is_found() -> None:
    overlay = Large()
    async with replicating(overlay) as (replication, client):
        item, segment = _item_far_from_us()
        nearest = overlay.nearest(record_key(item.signed.record))
        client.strangers = {nearest[1].address}
        assert await replication.place([item], COPIES, [segment]) == [Placed(COPIES, COPIES)]
        assert overlay.needs == [COPIES, 20]
        whole = [address for address, _, segments, _ in client.sent if segments]
        assert whole == [nearest[n].address for n in (0, 2, 3)]


async def test_next_to_a_crowd_as_many_more_are_sent_a_copy_and_not_counted() -> None:
    overlay = Large()
    overlay.crowd = 10
    async with replicating(overlay) as (replication, client):
        item, segment = _item_far_from_us()
        nearest = overlay.nearest(record_key(item.signed.record))
        assert await replication.place([item], COPIES, [segment]) == [Placed(COPIES, COPIES)]
        sent = {address for address, *_ in client.sent}
        # This peer itself may be one of so many.
        assert sent <= {one.address for one in nearest[: COPIES + 10]}
        assert len(sent) >= COPIES + 10 - 1


async def test_of_a_crowd_that_refuses_a_copy_nobody_is_left_to_doubt() -> None:
    overlay = Large()
    overlay.crowd = 10
    async with replicating(overlay) as (replication, client):
        item, segment = _item_far_from_us()
        nearest = overlay.nearest(record_key(item.signed.record))
        client.strangers = {one.address for one in nearest[:10]}
        assert await replication.place([item], COPIES, [segment]) == [Placed(COPIES, COPIES)]
        sent = {address for address, *_ in client.sent}
        assert sent <= {one.address for one in nearest[10 : 10 + COPIES]}
        assert len(sent) >= COPIES - 1


async def test_of_many_files_the_one_next_to_a_crowd_goes_to_all_that_are_found_there() -> None:
    overlay = Large()
    overlay.crowd = 10
    async with replicating(overlay) as (replication, _):
        files = [small_file(b"%d" % n, f"/{n}.txt") for n in range(LOOKUPS_MAX + 1)]
        items, segments = [item for item, _ in files], [segment for _, segment in files]
        assert await replication.place(items, COPIES, segments) == [Placed(COPIES, COPIES)] * 17
        # Nothing is said of keys beside that of the lookup.
        assert overlay.needs == [20] * len(files)


async def test_many_files_take_few_lookups_and_each_goes_to_its_own_holders() -> None:
    overlay = Large()
    async with replicating(overlay) as (replication, client):
        files = [small_file(b"few bytes", f"/{number}.txt") for number in range(200)]
        segments = [files[0][1]]
        items = [item for item, _ in files]
        placed = await replication.place(items, COPIES, segments)
        assert placed == [Placed(COPIES, COPIES)] * len(items)
        assert len(overlay.needs) < 40
        held: dict[str, set[Address]] = {}
        for address, sent, *_ in client.sent:
            for item in sent:
                held.setdefault(str(item.signed.record.path), set()).add(address)
        for item in items:
            everybody = [*overlay.everybody, Contact(NodeId(OWN_ID), ("192.0.2.1", 1))]
            closest = sorted(everybody, key=lambda one: _from(item)(one.id))[:COPIES]
            wanted = {one.address for one in closest if one.id != OWN_ID}
            assert held[str(item.signed.record.path)] == wanted


async def test_lookups_for_many_files_follow_the_size_of_the_network() -> None:
    lookups = []
    for peers in (40, 250):
        overlay = Large()
        overlay.everybody = [
            Contact(NodeId(hashlib.sha1(b"%d" % n).digest()), ("192.0.2.1", 1 + n))
            for n in range(peers)
        ]
        async with replicating(overlay) as (replication, client):
            client.others = {one.address: bytes(one.id) for one in overlay.everybody}
            files = [small_file(b"few bytes", f"/{number}.txt") for number in range(2_000)]
            items = [item for item, _ in files]
            placed = await replication.place(items, COPIES, [files[0][1]])
        assert placed == [Placed(COPIES, COPIES)] * len(items)
        lookups.append(len(overlay.needs))
    assert lookups[0] < lookups[1] <= 2_000 / 20


# Who takes long


@pytest.fixture
def nobody_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication_module, "LOOK_AFTER_S", 0)


@pytest.mark.usefixtures("nobody_is_waited_for")
async def test_a_holder_that_vanishes_while_it_is_sent_a_copy_is_passed_over() -> None:
    overlay = Large()
    async with replicating(overlay) as (replication, client):
        item, segment = _item_far_from_us()
        nearest = overlay.nearest(record_key(item.signed.record))
        gone = nearest[1]
        client.mute = {gone.address}
        placing = asyncio.ensure_future(replication.place([item], COPIES, [segment]))
        await overlay.pinged.wait()
        overlay.silent = {gone}
        (placed,) = await placing
        assert placed.copies == COPIES
        assert client.cancelled == [gone.address]
        whole = {address for address, _, segments, _ in client.sent if segments}
        assert whole == {nearest[n].address for n in range(4)}


@pytest.mark.usefixtures("nobody_is_waited_for")
async def test_a_holder_that_is_slow_and_answers_pings_is_waited_for() -> None:
    overlay = Large()
    async with replicating(overlay) as (replication, client):
        item, segment = _item_far_from_us()
        nearest = overlay.nearest(record_key(item.signed.record))
        client.mute = {nearest[1].address}
        placing = asyncio.ensure_future(replication.place([item], COPIES, [segment]))
        for _ in range(3):
            overlay.pinged.clear()
            await overlay.pinged.wait()
        client.let_go.set()
        assert await placing == [Placed(COPIES, COPIES)]
        assert {address for address, *_ in client.sent} == {one.address for one in nearest[:COPIES]}


@pytest.mark.usefixtures("nobody_is_waited_for")
async def test_a_publish_that_is_called_off_leaves_no_copy_under_way() -> None:
    overlay = Large()
    async with replicating(overlay) as (replication, client):
        item, segment = _item_far_from_us()
        slow = overlay.nearest(record_key(item.signed.record))[0]
        client.mute = {slow.address}
        placing = asyncio.ensure_future(replication.place([item], COPIES, [segment]))
        await overlay.pinged.wait()
        placing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await placing
        assert client.cancelled == [slow.address]


# What goes along unasked


def reader_of(
    *segments: SegmentData,
) -> tuple[Callable[[Sequence[Part]], Awaitable[list[SegmentData]]], list[Part]]:
    """A `read` that has these, and what it was asked for."""
    had = {(segment.blob, segment.segment): segment for segment in segments}
    asked: list[Part] = []

    async def read(parts: Sequence[Part]) -> list[SegmentData]:
        asked.extend(parts)
        return [had[part] for part in parts if part in had]

    return read, asked


THERE = ("192.0.2.1", 1)


@asynccontextmanager
async def bundles() -> AsyncIterator[Bundles]:
    client = Bundles()
    try:
        yield client
    finally:
        await client.end()


@pytest.mark.parametrize(("beyond", "requests"), [(0, 1), (1, 2)])
async def test_bytes_up_to_the_limit_go_along_and_more_do_not(beyond: int, requests: int) -> None:
    half = SENT_UNASKED_BYTES_MAX // 2
    one, segment = small_file(bytes(half))
    other, other_segment = small_file(b"x" * (half + beyond), "/b.txt")
    async with bundles() as client:
        read, _ = reader_of(segment, other_segment)
        answers = await client.push(THERE, [one, other], read, place_copies=2, unasked=True)
        assert all(answer.is_whole for answer in answers)
        assert [bool(sent) for _, _, sent, _ in client.sent] == [False, True][-requests:]
        assert [copies for *_, copies in client.sent] == [None, 2][-requests:]


async def test_bytes_that_two_records_share_are_sent_once() -> None:
    data = bytes(SENT_UNASKED_BYTES_MAX)
    one, segment = small_file(data)
    other, _ = small_file(data, "/b.txt")
    async with bundles() as client:
        read, asked = reader_of(segment)
        answers = await client.push(THERE, [one, other], read, unasked=True)
        assert all(answer.is_whole for answer in answers)
        assert asked == [(segment.blob, 0)]
        assert len(client.sent) == 1


async def test_a_peer_that_has_the_bytes_already_ignores_them() -> None:
    item, segment = small_file(b"few bytes")
    async with bundles() as client:
        for _ in range(2):
            read, _ = reader_of(segment)
            (answer,) = await client.push(THERE, [item], read, unasked=True)
            assert answer.is_whole
        assert len(client.sent) == 2


async def test_a_record_without_its_bytes_sends_none() -> None:
    item, segment = small_file(b"few bytes")
    async with bundles() as client:
        read, asked = reader_of(segment)
        await client.push(THERE, [Item(item.signed, with_bytes=False)], read, unasked=True)
        assert (len(client.sent), asked) == (1, [])


async def test_bytes_that_are_not_to_be_had_are_still_wanted() -> None:
    item, _ = small_file(b"few bytes")
    async with bundles() as client:
        read, _ = reader_of()
        (answer,) = await client.push(THERE, [item], read, unasked=True)
        assert (answer.state, answer.is_whole) == ("held", False)


@pytest.mark.parametrize("lie", ["sent", "other"])
async def test_a_peer_that_wants_what_it_should_not_is_sent_nothing_more(lie: str) -> None:
    item, segment = small_file(b"few bytes")
    _, other = small_file(b"other bytes")
    wanted = {"sent": segment, "other": other}[lie].blob
    async with bundles() as client:
        client.lies = ((wanted.size_bytes, wanted.root, 0),)
        read, _ = reader_of(segment, other)
        with pytest.raises(RemoteError, match="sent what it should not: it wants bytes that"):
            await client.push(THERE, [item], read, unasked=True)
        assert len(client.sent) == 1


# The peer that is sent them


def request() -> Request:
    return Request(
        method="POST",
        target=b"/.well-known/p2pweb/bundle",
        version=(1, 1),
        fields=((b"content-type", BUNDLE_MEDIA_TYPE.encode()),),
        host="",
        host_port=None,
        content_length=1,
        keep_alive=True,
        expects_continue=False,
    )


async def answers_to(items: Sequence[Item], segments: Sequence[SegmentData]) -> list[Outcome | str]:
    """What a peer that stores the site of KEY alone says; a line of text where it refuses all."""
    store = memory_store()
    pieces = [encode_bundle(items, segments), b""]

    async def next_data() -> bytes:
        return pieces.pop(0)

    service = PeerService(store, duties(lambda site: site == KEY.site), run, run)
    path = "/.well-known/p2pweb/bundle"
    response = await service.handle(request(), path, None, RequestBody(1, next_data))
    assert isinstance(response.body, bytes)
    store.close()
    if response.status != 200:
        return [response.body.decode()]
    return [
        Held(tuple(answer.parts)) if answer.state == "held" else Refused(answer.why)
        for answer in decode_answers(response.body, len(items))
    ]


@pytest.mark.parametrize("more", [0, 10])
async def test_bytes_of_a_refused_record_are_passed_over_and_the_rest_is_kept(more: int) -> None:
    kept = [small_file(b"few bytes %d" % n, f"/{n}.txt") for n in range(1 + more)]
    foreign, foreign_segment = small_file(b"foreign bytes", key=OTHER_KEY)
    shared, _ = small_file(b"few bytes 0", "/shared.txt", OTHER_KEY)
    items = [*(item for item, _ in kept), foreign, shared]
    outcomes = await answers_to(items, [*(segment for _, segment in kept), foreign_segment])
    refused = Refused(f"this peer does not store the site {OTHER_KEY.site}")
    assert outcomes == [Held(())] * (1 + more) + [refused, refused]


async def test_bytes_that_no_record_of_the_bundle_names_are_refused() -> None:
    item, _ = small_file(b"few bytes")
    _, other = small_file(b"other bytes")
    (line,) = await answers_to([item], [other])
    assert "no record kept here names" in str(line)


async def test_bytes_that_are_not_what_their_record_says_are_refused() -> None:
    item, segment = small_file(b"few bytes")
    forged = SegmentData(blob=segment.blob, segment=0, hashes=b"", data=b"new bytes")
    (line,) = await answers_to([item], [forged])
    assert isinstance(line, str)
