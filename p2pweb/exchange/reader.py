"""Finds the bytes of blobs: in memory, on this peer's disk, or at the holders.

The holders of a segment are those that answer FIND_VALUE for its key and say that they have the
bytes. A block that many visitors wait for is fetched once. A holder that is slow is overtaken by
the next one, which is asked after a pause; whichever answers first with proved bytes wins.

A segment that a record kept here warrants, but whose bytes are missing or damaged, is put back on
the disk after it was fetched.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from p2pweb.address import Address, format_address
from p2pweb.blobs import (
    BLOCK_BYTES,
    SEGMENT_BLOCKS,
    SEGMENT_BYTES,
    BlobId,
    InvalidBlockError,
    SegmentData,
)
from p2pweb.dht.overlay import Overlay
from p2pweb.errors import CorruptError, RemoteError, UnavailableError
from p2pweb.exchange.block_cache import BlockCache
from p2pweb.exchange.client import PeerClient
from p2pweb.store.store import Store

log = logging.getLogger("p2pweb.exchange")

# What a visitor's browser needs at once of a busy small site; the system's page cache has the rest.
CACHE_BYTES = 32 * 1024 * 1024
CACHED_BLOB_BYTES_MAX = CACHE_BYTES // 8
# For what is longer: a visitor's current block and those fetched ahead, for a dozen at one time.
# With more of them nothing is fetched ahead; beyond 64, blocks are read or fetched again.
PASSING_BYTES = 16 * 1024 * 1024
# Groups being fetched before anybody waits for them.
FETCHES_AHEAD_MAX = 32
# In place of a block's number: the blob's joined hashes.
HASHES = -1
# The first block alone, so that the visitor sees something; then 1 MiB a request, which keeps
# a long way busy and can still be given up cheaply.
FETCH_BLOCKS = 4
# Twice the median round trip of the wide-area network that DHT-NOTES takes as its measure. On a
# quick network a slow holder costs the same third of a second, once.
HEDGE_S = 0.3
# Holders asked for one range at the same time: one, and one that overtakes it, twice over.
HEDGES_MAX = 4
# Remembered holders: for how many keys, and how many of each.
KNOWN_KEYS_MAX = 4_096
KNOWN_HOLDERS_MAX = 4
# Segments being put back on the disk at one time; more are tried at their next reading.
RESTORES_MAX = 4

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Candidate:
    """One more holder to ask; None where there are no more."""

    address: Address | None


@dataclass(frozen=True, slots=True)
class _Answer(Generic[T]):
    """What a holder came to: None where it has not got the bytes."""

    address: Address
    result: T | RemoteError | None


class Runner(Protocol):
    """Runs a blocking call beside the event loop, or, simulated, at once."""

    def __call__(self, call: Callable[[], T], /) -> Awaitable[T]: ...


@dataclass(frozen=True, slots=True)
class Source:
    """A blob, and the DHT key (20 bytes) of each of its segments."""

    blob: BlobId
    key_of: Callable[[int], bytes]


class BlobReader:
    """All reading of one peer; `close` ends what is under way."""

    def __init__(self, store: Store, client: PeerClient, overlay: Overlay, run: Runner) -> None:
        self._store = store
        self._client = client
        self._overlay = overlay
        self._run = run
        self._cache = BlockCache(CACHE_BYTES)
        self._passing = BlockCache(PASSING_BYTES)
        self._known: OrderedDict[bytes, list[Address]] = OrderedDict()
        self._fetches: dict[tuple[BlobId, int], asyncio.Task[list[bytes]]] = {}
        self._restores: dict[tuple[BlobId, int], asyncio.Task[bool]] = {}

    async def close(self) -> None:
        tasks = [*self._fetches.values(), *self._restores.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def read_all(self, source: Source) -> bytes:
        """The whole blob. UnavailableError where a part of it cannot be had."""
        size_bytes = source.blob.size_bytes
        return b"".join([chunk async for chunk in self.chunks(source, 0, size_bytes)])

    async def chunks(self, source: Source, start: int, stop: int) -> AsyncIterator[memoryview]:
        """The bytes from `start` to `stop`, proved, in chunks of up to 256 KiB."""
        content = self.open(source)
        while start < stop:
            chunk = await content.read(start, stop)
            yield chunk
            start += len(chunk)

    def open(self, source: Source) -> BlobContent:
        """A blob's bytes at any place, as the front end sends them."""
        return BlobContent(self, source)

    def at_hand(self, source: Source) -> bytes | None:
        """A blob of one block, if it is in memory."""
        return self._cache.get((source.blob, 0)) if source.blob.block_count == 1 else None

    # Here

    async def _here(self, blob: BlobId, block: int) -> bytes | None:
        """A block from memory or from this peer's disk; None where it is on neither."""
        data = self._cached(blob, block)
        if data is None:
            data = await self._run(lambda: _if_sound(lambda: self._store.read_block(blob, block)))
            if data is not None:
                self._keep(blob, block, data)
        return data

    def _cached(self, blob: BlobId, block: int) -> bytes | None:
        return self._cache.get((blob, block)) or self._passing.get((blob, block))

    def _keep(self, blob: BlobId, block: int, data: bytes) -> None:
        # A long blob has a cache of its own to pass through, lest it push out everything else.
        is_long = blob.size_bytes > CACHED_BLOB_BYTES_MAX
        (self._passing if is_long else self._cache).put((blob, block), data)

    # Elsewhere

    async def _fetch(self, source: Source, group: range) -> list[bytes]:
        """Consecutive blocks of one segment from a holder, once for all who want them.

        As many as the first who wanted them asked for, at least one.
        """
        # One visitor who leaves must not end the fetch that others wait for.
        return await asyncio.shield(self._start_fetch(source, group))

    def _start_fetch(self, source: Source, group: range) -> asyncio.Task[list[bytes]]:
        key = (source.blob, group.start)
        fetch = self._fetches.get(key)
        if fetch is None:
            fetch = asyncio.ensure_future(self._fetch_now(source, group))
            self._fetches[key] = fetch
            fetch.add_done_callback(lambda task: self._fetched(key, task))
        return fetch

    def _fetched(self, key: tuple[BlobId, int], task: asyncio.Task[list[bytes]]) -> None:
        del self._fetches[key]
        if not task.cancelled():
            task.exception()  # Those who still wait get it; with nobody waiting it is no news.

    def _fetch_ahead(self, source: Source, group: range) -> bool:
        """Fetch what will be wanted next, beside what goes on; False where too much is going on.

        It waits in the cache.
        """
        blob, block = source.blob, group.start
        if self._cached(blob, block):
            return True
        if len(self._fetches) >= FETCHES_AHEAD_MAX:
            return False
        self._start_fetch(source, group)
        return True

    async def _fetch_now(self, source: Source, group: range) -> list[bytes]:
        blob, segment = source.blob, group.start // SEGMENT_BLOCKS
        hashes = await self._hashes(source, segment)
        blocks = await self._from_holders(
            source, segment, lambda address: self._client.blocks(address, blob, hashes, group)
        )
        for number, block in zip(group, blocks, strict=True):
            self._keep(blob, number, block)
        self._restore(source, segment)
        return blocks

    async def _hashes(self, source: Source, segment: int) -> bytes:
        """A blob's joined block hashes, from wherever a segment is."""
        blob = source.blob
        if blob.block_count == 1:
            return b""
        hashes = self._cache.get((blob, HASHES)) or await self._run(
            lambda: _if_sound(lambda: self._store.read_hashes(blob))
        )
        if hashes is None:
            hashes = await self._from_holders(
                source, segment, lambda address: self._client.hashes(address, blob)
            )
        self._cache.put((blob, HASHES), hashes)
        return hashes

    async def _from_holders(
        self, source: Source, segment: int, ask: Callable[[Address], Awaitable[T | None]]
    ) -> T:
        """What the first holder answers, the next one being asked whenever one fails or dawdles."""
        key = source.key_of(segment)
        events: asyncio.Queue[_Candidate | _Answer[T]] = asyncio.Queue()
        tasks: list[asyncio.Task[None]] = []
        holders = self._holders(key)
        faults: list[str] = []
        waiting, seeking, exhausted, overtake = 0, False, False, False

        async def seek() -> None:
            events.put_nowait(_Candidate(await anext(holders, None)))

        async def attempt(address: Address) -> None:
            try:
                events.put_nowait(_Answer(address, await ask(address)))
            except RemoteError as error:
                events.put_nowait(_Answer(address, error))

        try:
            while True:
                may_seek = not seeking and not exhausted and waiting < HEDGES_MAX
                if may_seek and (overtake or not waiting):
                    tasks.append(asyncio.ensure_future(seek()))
                    seeking, may_seek, overtake = True, False, False
                if not waiting and not seeking:
                    raise UnavailableError(_nobody(faults))
                try:
                    event = await asyncio.wait_for(events.get(), HEDGE_S if may_seek else None)
                except TimeoutError:
                    overtake = True
                    continue
                if isinstance(event, _Candidate):
                    seeking = False
                    if event.address is None:
                        exhausted = True
                    else:
                        waiting += 1
                        tasks.append(asyncio.ensure_future(attempt(event.address)))
                    continue
                waiting -= 1
                if event.result is None or isinstance(event.result, RemoteError):
                    lost = f"{format_address(event.address)} has lost it"
                    faults.append(str(event.result or lost))
                    self._forget(key, event.address)
                else:
                    self.remember(key, event.address)
                    return event.result
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await holders.aclose()

    async def _holders(self, key: bytes) -> AsyncGenerator[Address, None]:
        """Where a key's bytes are: who served it before, then whom FIND_VALUE names."""
        asked: list[Address] = []
        for address in list(self._known.get(key, ())):
            asked.append(address)
            yield address
        async with self._overlay.find_value(key) as lookup:
            async for found in lookup:
                if found.extra.get("has") is True and found.contact.address not in asked:
                    asked.append(found.contact.address)
                    yield found.contact.address

    def remember(self, key: bytes, address: Address) -> None:
        """Ask there first for the bytes that belong to a key (20 bytes)."""
        known = self._known.setdefault(key, [])
        if address not in known:
            known.insert(0, address)
            del known[KNOWN_HOLDERS_MAX:]
        self._known.move_to_end(key)
        while len(self._known) > KNOWN_KEYS_MAX:
            self._known.popitem(last=False)

    def _forget(self, key: bytes, address: Address) -> None:
        known = self._known.get(key, [])
        if address in known:
            known.remove(address)

    def _restore(self, source: Source, segment: int) -> None:
        """Put a segment that belongs on this disk back there, beside what the visitor waits for."""
        place = (source.blob, segment)
        if place in self._restores or len(self._restores) >= RESTORES_MAX:
            return
        try:
            if not self._store.is_warranted(*place) or self._store.has(*place):
                return
        except CorruptError as error:
            log.warning("%s", error)
            return
        task = asyncio.ensure_future(self.keep(source, segment))
        self._restores[place] = task
        task.add_done_callback(lambda _: self._restores.pop(place, None))

    async def keep(self, source: Source, segment: int) -> bool:
        """Fetch a segment that a record kept here warrants, and put it on the disk; whether that
        worked."""
        blob = source.blob
        start = segment * SEGMENT_BYTES
        try:
            hashes = await self._hashes(source, segment)
            chunks = self.chunks(source, start, start + blob.segment_size(segment))
            data = b"".join([chunk async for chunk in chunks])
            whole = SegmentData(blob=blob, segment=segment, hashes=hashes, data=data)
            await self._run(lambda: self._store.commit([], [whole]))
        except (UnavailableError, InvalidBlockError, OSError) as error:
            log.warning("segment %d of blob %s is not on this disk: %s", segment, blob, error)
            return False
        log.info("segment %d of blob %s is on this disk", segment, blob)
        return True


class BlobContent:
    """One blob as the front end reads it: in order, mostly, and some places more than once.

    Holds no bytes: what was read is in the caches that all visitors share, or is read again. What
    comes from holders is asked for one group of blocks ahead of what is read.
    """

    def __init__(self, reader: BlobReader, source: Source) -> None:
        self._reader = reader
        self._source = source
        self._group_blocks = 1
        # Once something came from holders: where the last group began, from which block on the
        # next one is due, and where that begins.
        self._fetched_from = 0
        self._due = 0
        self._next: int | None = None
        self._is_crowded = False

    def fileno(self) -> None:
        """Bytes are proved in memory, so no file on the disk will do."""

    def close(self) -> None:
        """What is being fetched ahead goes to the cache."""

    async def read(self, start: int, stop: int) -> memoryview:
        """Bytes from `start` to the end of their block, or to `stop`.

        UnavailableError where no holder could be found that has them.
        """
        reader, blob = self._reader, self._source.blob
        block, end = start // BLOCK_BYTES, max(0, stop - 1) // BLOCK_BYTES + 1
        data = await reader._here(blob, block)
        if data is None:
            was_fetched = self._next is not None and self._fetched_from <= block < self._next
            if was_fetched and (blob, block) not in reader._fetches:
                # It went from the cache before this reader came to it: so many read at one time
                # that fetching more than the next block is work for nothing.
                self._is_crowded = True
            length = 1 if self._is_crowded else self._group_blocks
            blocks = await reader._fetch(self._source, _group(block, min(block + length, end)))
            data = blocks[0]
            self._group_blocks = FETCH_BLOCKS
            self._fetched_from = self._due = block
            self._next = block + len(blocks)
        if (
            not self._is_crowded
            and self._next is not None
            and self._due <= block < self._next < end
        ):
            following = _group(self._next, min(self._next + FETCH_BLOCKS, end))
            if reader._fetch_ahead(self._source, following):
                self._due, self._next = following.start, following.stop
        offset = block * BLOCK_BYTES
        return memoryview(data)[start - offset : stop - offset]


def _if_sound(read: Callable[[], T | None]) -> T | None:
    """What the disk has, None where it is damaged."""
    try:
        return read()
    except CorruptError as error:
        log.warning("%s; a good copy is fetched from another peer", error)
        return None


def _group(block: int, end: int) -> range:
    """Blocks from `block` up to `end`, none beyond the end of its segment."""
    return range(block, min(end, (block // SEGMENT_BLOCKS + 1) * SEGMENT_BLOCKS))


def _nobody(faults: list[str]) -> str:
    if not faults:
        return "no peer that can be reached holds it"
    return f"none of {len(faults)} holders could send it: {'; '.join(faults)}"
