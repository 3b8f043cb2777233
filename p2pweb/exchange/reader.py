"""Finds the bytes of blobs: in memory, on this peer's disk, or at the holders.

The holders of a segment are those that answer FIND_VALUE for its key and say that they have the
bytes. A block that many visitors wait for is fetched once. A holder that is slow is overtaken by
the next one, which is asked after a pause; whichever answers first with proved bytes wins.

A segment that a record kept here warrants, but whose bytes are missing or damaged, is put back on
the disk after it was fetched.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable
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
from p2pweb.exchange.client import PeerClient
from p2pweb.store.store import Store

log = logging.getLogger("p2pweb.exchange")

# What a visitor's browser needs at once of a busy small site; the system's page cache has the rest.
CACHE_BYTES = 32 * 1024 * 1024
CACHED_BLOB_BYTES_MAX = CACHE_BYTES // 8
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
        self._known: OrderedDict[bytes, list[Address]] = OrderedDict()
        self._fetches: dict[tuple[BlobId, int, int], asyncio.Task[list[bytes]]] = {}
        self._restores: dict[tuple[BlobId, int], asyncio.Task[None]] = {}

    async def close(self) -> None:
        tasks = [*self._fetches.values(), *self._restores.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def read_all(self, source: Source) -> bytes:
        """The whole blob. UnavailableError where a part of it cannot be had."""
        return b"".join([chunk async for chunk in self.read(source, 0, source.blob.size_bytes)])

    async def read(self, source: Source, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` to `stop`, proved, in chunks of up to 256 KiB.

        What comes from holders is asked for while the consumer takes what came before.
        UnavailableError where no holder could be found that has them.
        """
        blob = source.blob
        block, end = start // BLOCK_BYTES, max(start, stop - 1) // BLOCK_BYTES + 1
        ahead: asyncio.Task[list[bytes]] | None = None
        length = 1
        try:
            while block < end:
                found = None if ahead else await self._here(blob, block)
                if found is not None:
                    blocks = [found]
                else:
                    wanted = _group(block, min(block + length, end))
                    blocks = await (ahead or self._fetch(source, wanted))
                    ahead, length = None, FETCH_BLOCKS
                    after = block + len(blocks)
                    if after < end and self._cache.get((blob, after)) is None:
                        following = _group(after, min(after + length, end))
                        ahead = asyncio.ensure_future(self._fetch(source, following))
                for data in blocks:
                    offset = block * BLOCK_BYTES
                    block += 1
                    yield data[max(0, start - offset) : stop - offset]
        finally:
            if ahead is not None:
                ahead.cancel()
                await asyncio.gather(ahead, return_exceptions=True)

    # Here

    async def _here(self, blob: BlobId, block: int) -> bytes | None:
        """A block from memory or from this peer's disk; None where it is on neither."""
        data = self._cache.get((blob, block))
        if data is None:
            data = await self._run(lambda: _if_sound(lambda: self._store.read_block(blob, block)))
            # A long blob is streamed past the cache, lest it push out everything else.
            if data is not None and blob.size_bytes <= CACHED_BLOB_BYTES_MAX:
                self._cache.put((blob, block), data)
        return data

    # Elsewhere

    async def _fetch(self, source: Source, group: range) -> list[bytes]:
        """Consecutive blocks of one segment from a holder, once for all who want them."""
        key = (source.blob, group.start, group.stop)
        fetch = self._fetches.get(key)
        if fetch is None:
            fetch = asyncio.ensure_future(self._fetch_now(source, group))
            self._fetches[key] = fetch
            fetch.add_done_callback(lambda task: self._fetched(key, task))
        # One visitor who leaves must not end the fetch that others wait for.
        return await asyncio.shield(fetch)

    def _fetched(self, key: tuple[BlobId, int, int], task: asyncio.Task[list[bytes]]) -> None:
        del self._fetches[key]
        if not task.cancelled():
            task.exception()  # Those who still wait get it; with nobody waiting it is no news.

    async def _fetch_now(self, source: Source, group: range) -> list[bytes]:
        blob, segment = source.blob, group.start // SEGMENT_BLOCKS
        hashes = await self._hashes(source, segment)
        blocks = await self._from_holders(
            source, segment, lambda address: self._client.blocks(address, blob, hashes, group)
        )
        for number, block in zip(group, blocks, strict=True):
            self._cache.put((blob, number), block)
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
                    self._remember(key, event.address)
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

    def _remember(self, key: bytes, address: Address) -> None:
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
        task = asyncio.ensure_future(self._fetch_and_keep(source, segment))
        self._restores[place] = task
        task.add_done_callback(lambda _: self._restores.pop(place, None))

    async def _fetch_and_keep(self, source: Source, segment: int) -> None:
        blob = source.blob
        start = segment * SEGMENT_BYTES
        try:
            hashes = await self._hashes(source, segment)
            chunks = self.read(source, start, start + blob.segment_size(segment))
            data = b"".join([chunk async for chunk in chunks])
            whole = SegmentData(blob=blob, segment=segment, hashes=hashes, data=data)
            await self._run(lambda: self._store.commit([], [whole]))
        except (UnavailableError, InvalidBlockError, OSError) as error:
            log.warning("segment %d of blob %s is not back on this disk: %s", segment, blob, error)
        else:
            log.info("segment %d of blob %s is back on this disk", segment, blob)


class BlockCache:
    """Proved blocks in memory, the least recently used going first."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._size_bytes = 0
        self._blocks: OrderedDict[tuple[BlobId, int], bytes] = OrderedDict()

    def get(self, key: tuple[BlobId, int]) -> bytes | None:
        block = self._blocks.get(key)
        if block is not None:
            self._blocks.move_to_end(key)
        return block

    def put(self, key: tuple[BlobId, int], block: bytes) -> None:
        self._size_bytes += len(block) - len(self._blocks.pop(key, b""))
        self._blocks[key] = block
        while self._size_bytes > self._limit_bytes:
            _, oldest = self._blocks.popitem(last=False)
            self._size_bytes -= len(oldest)


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
