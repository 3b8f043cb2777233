"""Finds the bytes of blobs: in memory, on this peer's disk, or at the holders.

Which holders, `holders` knows. A block that many visitors wait for is fetched once. What is in
memory here, or on its way, is passed on to other peers whom a holder has sent here.

A segment that a record kept here warrants, but whose bytes are missing or damaged, is put back on
the disk after it was fetched.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from p2pweb.address import Address
from p2pweb.blobs import (
    BLOCK_BYTES,
    SEGMENT_BLOCKS,
    SEGMENT_BYTES,
    BlobId,
    InvalidBlockError,
    SegmentData,
)
from p2pweb.delta import WHOLE_BYTES_MAX, rebuild
from p2pweb.dht.overlay import Overlay
from p2pweb.errors import CorruptError, UnavailableError
from p2pweb.exchange.block_cache import BlockCache
from p2pweb.exchange.client import DELTAS_MAX, READ_IDLE_S, PeerClient
from p2pweb.exchange.doubt import Doubt
from p2pweb.exchange.holders import Holders
from p2pweb.manifest import Manifest
from p2pweb.store.store import Store

log = logging.getLogger("p2pweb.exchange")

# What a visitor's browser needs at once of a busy small site; the system's page cache has the rest.
CACHE_BYTES = 32 * 1024 * 1024
CACHED_BLOB_BYTES_MAX = CACHE_BYTES // 8
# For what is longer: a visitor's current block and those fetched ahead, for a dozen at one time.
# With more of them nothing is fetched ahead; beyond 64, blocks are read or fetched again.
PASSING_BYTES = 16 * 1024 * 1024
# With so many blocks being fetched, none are before anybody waits for them.
BLOCKS_AHEAD_MAX = 128
# Another peer waits no longer for what is on its way here.
PASS_ON_S = READ_IDLE_S
# In place of a block's number: the blob's joined hashes.
HASHES = -1
# The first block alone, so that the visitor sees something; then 1 MiB a request, which keeps
# a long way busy and can still be given up cheaply.
FETCH_BLOCKS = 4
# Segments being put back on the disk at one time; more are tried at their next reading.
RESTORES_MAX = 4

T = TypeVar("T")


class Runner(Protocol):
    """Runs a blocking call beside the event loop, or, simulated, at once."""

    def __call__(self, call: Callable[[], T], /) -> Awaitable[T]: ...


@dataclass(frozen=True, slots=True)
class Source:
    """A blob, and the DHT key (20 bytes) of each of its segments."""

    blob: BlobId
    key_of: Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class _Fetch:
    """Blocks on their way here, and who waits for single ones of them."""

    group: range
    task: asyncio.Task[list[bytes]]
    awaited: dict[int, asyncio.Future[None]]


class BlobReader:
    """All reading of one peer; `close` ends what is under way.

    `port` is where this peer passes on what it reads; None where it does not.
    """

    def __init__(
        self,
        store: Store,
        client: PeerClient,
        overlay: Overlay,
        run: Runner,
        *,
        doubt: Doubt | None = None,
        port: int | None = None,
    ) -> None:
        """`doubt` is what others use too, if anybody does."""
        self._store = store
        self._holders = Holders(client, overlay, doubt or Doubt(), port)
        self._run = run
        self._cache = BlockCache(CACHE_BYTES)
        self._passing = BlockCache(PASSING_BYTES)
        # For each block on its way, once.
        self._fetches: dict[tuple[BlobId, int], _Fetch] = {}
        self._restores: dict[tuple[BlobId, int], asyncio.Task[bool]] = {}

    async def close(self) -> None:
        tasks = [*(fetch.task for fetch in self._fetches.values()), *self._restores.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._holders.close()

    async def read_all(self, source: Source) -> bytes:
        """The whole blob. UnavailableError where a part of it cannot be had."""
        size_bytes = source.blob.size_bytes
        return b"".join([chunk async for chunk in self.chunks(source, 0, size_bytes)])

    async def updated(
        self, source: Source, base: Manifest, base_root: bytes, versions: int
    ) -> bytes | None:
        """The blob of a manifest so many versions later, made of an earlier one, whose blob has
        `base_root`; None where it is to be read whole."""
        if source.blob.size_bytes <= WHOLE_BYTES_MAX or not 1 <= versions <= DELTAS_MAX:
            return None
        deltas = await self._holders.deltas(source.key_of(0), source.blob, base_root, versions)
        return await self._run(lambda: rebuild(base, deltas, source.blob)) if deltas else None

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

    # For other peers

    def passes_on(self, blob: BlobId, blocks: range) -> bool:
        """Whether these blocks are in memory, or on their way there."""
        return all(
            (blob, block) in self._fetches or self._cached(blob, block) is not None
            for block in blocks
        )

    async def passing(self, blob: BlobId, block: int) -> bytes | None:
        """A proved block that is in memory, or on its way there; None where it is not had so."""
        data = self._cached(blob, block)
        fetch = self._fetches.get((blob, block))
        if data is not None or fetch is None:
            return data
        came = fetch.awaited.get(block)
        if came is None:
            came = fetch.awaited[block] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(PASS_ON_S):
                # Others wait for it too.
                await asyncio.shield(came)
        except TimeoutError:
            return None
        return self._cached(blob, block)

    def hashes_at_hand(self, blob: BlobId) -> bytes | None:
        """A blob's joined block hashes, proved, if they are in memory."""
        return self._cache.get((blob, HASHES))

    # Here

    async def _here(self, blob: BlobId, block: int) -> bytes | None:
        """A block from memory or from this peer's disk; None where it is on neither."""
        data = self._cached(blob, block)
        if data is None and (blob, block) not in self._fetches:
            data = await self._run(lambda: _if_sound(lambda: self._store.read_block(blob, block)))
            if data is None:
                # It may have come while the disk was asked.
                return self._cached(blob, block)
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
        fetch = self._start_fetch(source, group)
        # One visitor who leaves must not end the fetch that others wait for.
        blocks = await asyncio.shield(fetch.task)
        return blocks[group.start - fetch.group.start :]

    def _start_fetch(self, source: Source, group: range) -> _Fetch:
        blob = source.blob
        fetch = self._fetches.get((blob, group.start))
        if fetch is None:
            coming = (block for block in group if (blob, block) in self._fetches)
            group = range(group.start, next(coming, group.stop))
            awaited: dict[int, asyncio.Future[None]] = {}
            task = asyncio.ensure_future(self._fetch_now(source, group, awaited))
            fetch = _Fetch(group, task, awaited)
            self._fetches.update(dict.fromkeys(((blob, block) for block in group), fetch))
            task.add_done_callback(lambda _: self._fetched(blob, fetch))
        return fetch

    def _fetched(self, blob: BlobId, fetch: _Fetch) -> None:
        for block in fetch.group:
            del self._fetches[blob, block]
        for came in fetch.awaited.values():
            _wake(came)
        if not fetch.task.cancelled():
            # Those who still wait get it; with nobody waiting it is no news.
            fetch.task.exception()

    def _fetch_ahead(self, source: Source, group: range) -> bool:
        """Fetch what will be wanted next, beside what goes on; False where too much is going on.

        It waits in the cache.
        """
        blob, block = source.blob, group.start
        if self._cached(blob, block):
            return True
        if len(self._fetches) >= BLOCKS_AHEAD_MAX:
            return False
        self._start_fetch(source, group)
        return True

    def _is_on_disk(self, blob: BlobId, block: int) -> bool:
        return bool(_if_sound(lambda: self._store.has(blob, block // SEGMENT_BLOCKS)))

    async def _fetch_now(
        self, source: Source, group: range, awaited: dict[int, asyncio.Future[None]]
    ) -> list[bytes]:
        blob, segment = source.blob, group.start // SEGMENT_BLOCKS

        def came(number: int, block: bytes) -> None:
            self._keep(blob, number, block)
            if number in awaited:
                _wake(awaited[number])

        hashes = await self._hashes(source, segment)
        blocks = await self._holders.blocks(source.key_of(segment), blob, hashes, group, came)
        self._restore(source, segment)
        return blocks

    async def _hashes(self, source: Source, segment: int) -> bytes:
        """A blob's joined block hashes, from wherever a segment is."""
        blob = source.blob
        if blob.block_count == 1:
            return b""
        hashes = self.hashes_at_hand(blob) or await self._run(
            lambda: _if_sound(lambda: self._store.read_hashes(blob))
        )
        if hashes is None:
            hashes = await self._holders.hashes(source.key_of(segment), blob)
        self._cache.put((blob, HASHES), hashes)
        return hashes

    def remember(self, key: bytes, address: Address) -> None:
        """Ask there first for the bytes that belong to a key (20 bytes)."""
        self._holders.remember(key, address)

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
            # Of a long file some segments are on this disk, which may be where they are alone.
            is_here = reader._is_on_disk(blob, following.start)
            if is_here or reader._fetch_ahead(self._source, following):
                self._due, self._next = following.start, following.stop
            if is_here:
                self._fetched_from = following.stop
        offset = block * BLOCK_BYTES
        return memoryview(data)[start - offset : stop - offset]


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


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
