"""Following a holder to whom it points, over real sockets: what a bad pointer costs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TypeVar, cast

import msgspec
import pytest
from peer_duties import duties
from peer_processes import free_ports

from p2pweb.address import Address
from p2pweb.blobs import BLOCK_BYTES, BlobId, segments_of
from p2pweb.dht.overlay import Overlay
from p2pweb.errors import RemoteError, UnavailableError
from p2pweb.exchange import holders as holders_module
from p2pweb.exchange import reader as reader_module
from p2pweb.exchange import wire
from p2pweb.exchange.client import PeerClient
from p2pweb.exchange.crowd import Crowd
from p2pweb.exchange.holders import AGAIN_AFTER_S, LOOKUPS_MAX
from p2pweb.exchange.reader import BlobReader, Source
from p2pweb.exchange.service import PeerService
from p2pweb.http.messages import Request, Response
from p2pweb.http.server import HttpServer
from p2pweb.http.service import AccessEntry, RequestBody, ServerLimits
from p2pweb.http.target import parse_target
from p2pweb.keys import SiteKey
from p2pweb.records import Encoding, FileRecord, record_key, sign
from p2pweb.store.items import Item
from p2pweb.store.opening import memory_store
from p2pweb.store.store import Store

T = TypeVar("T")

KEY = SiteKey(b"k" * 32)
DATA = bytes(range(256)) * (6 * BLOCK_BYTES // 256)
SEGMENTS = segments_of(DATA)
BLOB = SEGMENTS[0].blob
RECORD = FileRecord(
    public_key=KEY.public_key,
    path="/hot.bin",
    seq=1,
    media_type="application/octet-stream",
    encodings=(Encoding("identity", BLOB.size_bytes, BLOB.root),),
)
SOURCE = Source(BLOB, lambda segment: record_key(RECORD, segment))

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def run(call: Callable[[], T]) -> T:
    return call()


class Around:
    """An overlay in which one peer has everything."""

    def __init__(self, holder: Address) -> None:
        self._holder = holder

    def find_value(self, key: bytes) -> Around:
        return self

    async def __aenter__(self) -> Around:
        return self

    async def __aexit__(self, *failure: object) -> None:
        pass

    async def __aiter__(self) -> AsyncIterator[SimpleNamespace]:
        yield SimpleNamespace(extra={"has": True}, contact=SimpleNamespace(address=self._holder))


class Late(Around):
    """An overlay in which that peer is silent for one lookup."""

    lookups = 0

    async def __aiter__(self) -> AsyncIterator[SimpleNamespace]:
        self.lookups += 1
        if self.lookups > 1:
            async for found in super().__aiter__():
                yield found


class Points(Crowd):
    """Points everybody to one place."""

    def __init__(self, pointed: Address) -> None:
        super().__init__()
        self._pointed = pointed
        self.pointed = self.sent_here = 0

    def place(self, blob: BlobId, blocks: range, reader: Address, now: float) -> Address:
        self.pointed += 1
        return self._pointed

    def sent(self, blob: BlobId, blocks: range, now: float) -> None:
        self.sent_here += 1


@asynccontextmanager
async def served(
    store: Store,
    reader: BlobReader | None,
    port: int = 0,
    log: Callable[[AccessEntry], None] | None = None,
) -> AsyncIterator[tuple[Address, object]]:
    service = PeerService(store, duties(lambda _: True), run, run, reader)

    def handle(request: Request, body: RequestBody) -> Awaitable[Response]:
        return service.handle(request, parse_target(request.target).path, None, body)

    server = HttpServer(handle, limits=ServerLimits(), now_unix=lambda: 0.0, log=log)
    await server.start([("127.0.0.1", port)])
    try:
        yield server.addresses[0], service._giving
    finally:
        await server.close(1.0)


@asynccontextmanager
async def pointing_to(pointed: Address) -> AsyncIterator[tuple[BlobReader, Points]]:
    """A reader, and what its one holder does, which points to this place."""
    store, empty = memory_store(), memory_store()
    store.commit([Item(sign(RECORD, KEY))], SEGMENTS)
    async with served(store, None) as (holder, giving):
        points = Points(pointed)
        giving._crowd = points  # type: ignore[attr-defined]
        client = PeerClient()
        reader = BlobReader(empty, client, cast(Overlay, Around(holder)), run, port=1)
        try:
            yield reader, points
        finally:
            await reader.close()
            await client.close()
    store.close()
    empty.close()


@asynccontextmanager
async def listening(handler: Handler) -> AsyncIterator[Address]:
    """A program that is no peer; it counts nothing and ends with the test."""
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()
    finally:
        server.close()


async def test_a_pointer_to_a_peer_that_is_just_reading_the_same_is_worth_a_copy() -> None:
    store, empty = memory_store(), memory_store()
    store.commit([Item(sign(RECORD, KEY))], SEGMENTS)
    client = PeerClient()
    async with served(store, None) as (holder, _):
        first = BlobReader(empty, client, cast(Overlay, Around(holder)), run)
        async with served(empty, first) as (passes_on, _), pointing_to(passes_on) as (second, held):
            both = await asyncio.gather(first.read_all(SOURCE), second.read_all(SOURCE))
            assert both == [DATA, DATA]
            assert held.pointed > held.sent_here
        await first.close()
    await client.close()
    store.close()
    empty.close()


async def test_a_holder_that_one_lookup_did_not_hear_of_is_found_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, empty = memory_store(), memory_store()
    store.commit([Item(sign(RECORD, KEY))], SEGMENTS)
    client = PeerClient()
    async with served(store, None) as (holder, _):
        late = Late(holder)
        reader = BlobReader(empty, client, cast(Overlay, late), run)
        assert await reader.read_all(SOURCE) == DATA
        # And nobody is looked for for ever.
        monkeypatch.setattr(holders_module, "AGAIN_AFTER_S", [0.0] * len(AGAIN_AFTER_S))
        none = Late(holder)
        none.lookups = -100
        lost = BlobReader(empty, client, cast(Overlay, none), run)
        with pytest.raises(UnavailableError):
            await lost.read_all(SOURCE)
        assert none.lookups == -100 + LOOKUPS_MAX * (1 + len(AGAIN_AFTER_S))
        await reader.close()
        await lost.close()
    await client.close()
    store.close()
    empty.close()


async def test_what_is_in_memory_is_passed_on_with_what_proves_it() -> None:
    store, empty = memory_store(), memory_store()
    store.commit([Item(sign(RECORD, KEY))], SEGMENTS)
    client = PeerClient()
    async with served(store, None) as (holder, _):
        reader = BlobReader(empty, client, cast(Overlay, Around(holder)), run)
        async with served(empty, reader) as (address, _):
            assert await client.hashes(address, BLOB) is None
            assert await client.blocks(address, BLOB, SEGMENTS[0].hashes, range(2)) is None
            assert await reader.read_all(SOURCE) == DATA
            hashes = await client.hashes(address, BLOB)
            assert hashes == SEGMENTS[0].hashes
            found = await client.blocks(address, BLOB, hashes, range(1, 5))
            assert found is not None and b"".join(found) == DATA[BLOCK_BYTES : 5 * BLOCK_BYTES]
        await reader.close()
    await client.close()
    store.close()
    empty.close()


async def test_a_pointer_to_a_dead_peer_costs_one_try() -> None:
    async with pointing_to(("127.0.0.1", free_ports(1)[0])) as (reader, holder):
        assert await reader.read_all(SOURCE) == DATA
        assert (holder.pointed, holder.sent_here) == (1, 3)


async def test_a_pointer_to_a_liar_costs_one_try() -> None:
    asked: list[bytes] = []

    async def lie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        body = bytes(4 * BLOCK_BYTES)
        writer.write(b"HTTP/1.1 206 Partial Content\r\nContent-Length: %d\r\n\r\n" % len(body))
        writer.write(body)
        writer.close()

    async with listening(lie) as liar, pointing_to(liar) as (reader, holder):
        assert await reader.read_all(SOURCE) == DATA
        assert len(asked) == 1
        # It is not told where this peer serves, so it cannot point further.
        assert wire.PORT_FIELD.lower().encode() not in asked[0].lower()
        assert (holder.pointed, holder.sent_here) == (1, 3)


async def test_a_pointer_to_one_that_hangs_costs_one_bounded_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(holders_module, "POINTED_S", 0.2)
    asked: list[bytes] = []
    hangs = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        await hangs.wait()
        writer.close()

    async with listening(hang) as stuck, pointing_to(stuck) as (reader, holder):
        async with asyncio.timeout(10):
            assert await reader.read_all(SOURCE) == DATA
        assert len(asked) == 1
        assert (holder.pointed, holder.sent_here) == (1, 3)
        hangs.set()


async def test_a_pointer_of_a_pointed_peer_is_not_followed() -> None:
    asked: list[bytes] = []

    async def point_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        location = wire.pointer(("127.0.0.1", 9), BLOB, 0).encode()
        writer.write(b"HTTP/1.1 307 Temporary Redirect\r\nContent-Length: 0\r\n")
        writer.write(b"Location: " + location + b"\r\n\r\n")
        writer.close()

    async with listening(point_on) as other, pointing_to(other) as (reader, _):
        assert await reader.read_all(SOURCE) == DATA
        assert len(asked) == 1


@pytest.mark.parametrize("sent", [b"", b"x"])
async def test_whoever_begins_to_send_is_known_from_those_that_are_silent(sent: bytes) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 206 Partial Content\r\nContent-Length: 1000\r\n\r\n" + sent)
        writer.close()

    client, told = PeerClient(), []
    async with listening(drip) as dripping:
        with pytest.raises(RemoteError):
            await client.blocks_or_pointer(
                dripping, BLOB, SEGMENTS[0].hashes, range(1), began=lambda: told.append(sent)
            )
    assert told == ([sent] if sent else [])
    await client.close()


@dataclass
class Reading:
    """One peer that keeps nothing, on a socket of its own, and the bytes that it sent to others."""

    reader: BlobReader
    sent_bytes: int = 0
    requests: int = 0

    def note(self, entry: AccessEntry) -> None:
        self.sent_bytes += entry.sent_bytes
        self.requests += entry.request is not None and b"/blob/" in entry.request.target


@asynccontextmanager
async def crowd(data: bytes, count: int) -> AsyncIterator[tuple[Source, list[Reading]]]:
    """One holder of these bytes, the first, and so many readers."""
    segments = segments_of(data)
    blob = segments[0].blob
    encoding = Encoding("identity", blob.size_bytes, blob.root)
    record = msgspec.structs.replace(RECORD, encodings=(encoding,))
    store, empty = memory_store(), memory_store()
    signed = sign(record, KEY)
    store.commit([Item(signed, segment) for segment in range(blob.segment_count)], segments)
    ports = free_ports(1 + count)
    around = cast(Overlay, Around(("127.0.0.1", ports[0])))
    async with AsyncExitStack() as stack:
        peers: list[Reading] = []
        for number, port in enumerate(ports):
            disk = empty if number else store
            # Readers have connections of their own, as peers have.
            client = PeerClient()
            stack.push_async_callback(client.close)
            peer = Reading(BlobReader(disk, client, around, run, port=port))
            stack.push_async_callback(peer.reader.close)
            await stack.enter_async_context(served(disk, peer.reader, port, peer.note))
            peers.append(peer)
        yield Source(blob, lambda segment: record_key(record, segment)), peers
    store.close()
    empty.close()


async def test_a_crowd_is_served_by_its_readers_and_not_by_one_peer_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # All ten share one loop, which may be slow: then nobody is to be taken for hanging.
    monkeypatch.setattr(holders_module, "POINTED_S", 60.0)
    monkeypatch.setattr(holders_module, "HEDGE_S", 60.0)
    monkeypatch.setattr(holders_module, "HEDGE_S_MAX", 60.0)
    monkeypatch.setattr(reader_module, "PASS_ON_S", 60.0)
    data, readers = random.Random(1).randbytes(24 * BLOCK_BYTES), 9
    async with crowd(data, readers) as (source, peers):
        visits = [peer.reader.read_all(source) for peer in peers[1:] for _ in range(2)]
        for found in await asyncio.gather(*visits):
            assert found == data
        # Who is slow for long is passed over; `tools/bench crowd` measures shares.
        assert max(peer.sent_bytes for peer in peers) < len(data) * readers / 2
        assert sum(peer.sent_bytes for peer in peers) < 1.5 * readers * len(data)


async def test_a_crowd_on_a_small_file_costs_its_holder_one_request_of_each_peer() -> None:
    data, readers = random.Random(1).randbytes(20_000), 6
    async with crowd(data, readers) as (source, peers):
        visits = [peer.reader.read_all(source) for peer in peers[1:] for _ in range(20)]
        for found in await asyncio.gather(*visits):
            assert found == data
        assert peers[0].requests == readers
        assert [peer.requests for peer in peers[1:]] == [0] * readers


async def test_fifty_visitors_of_one_peer_cost_one_fetch_of_each_block() -> None:
    async with pointing_to(("127.0.0.1", free_ports(1)[0])) as (reader, holder):

        async def visit(number: int) -> None:
            for _ in range(number % 7):
                await asyncio.sleep(0)
            assert await reader.read_all(SOURCE) == DATA

        await asyncio.gather(*map(visit, range(50)))
        # One block, then four, then what is left: each once.
        assert holder.sent_here == 3
