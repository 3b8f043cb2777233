"""Reading from holders: what is fetched ahead, and that nothing is fetched over and over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TypeVar, cast

import pytest

from p2pweb.address import Address
from p2pweb.blobs import BLOCK_BYTES, SEGMENT_BLOCKS, BlobId
from p2pweb.dht.overlay import Overlay
from p2pweb.exchange import reader as reader_module
from p2pweb.exchange.client import PeerClient
from p2pweb.exchange.reader import FETCH_BLOCKS, BlobContent, BlobReader, Source
from p2pweb.store.store import Store

T = TypeVar("T")

SIZE_BYTES = 64 * BLOCK_BYTES
BLOCK = bytes(BLOCK_BYTES)


class EmptyStore:
    """A disk on which nothing is, and nothing is to be."""

    def read_block(self, blob: BlobId, block: int) -> None:
        return None

    def read_hashes(self, blob: BlobId) -> bytes:
        return b"hashes"

    def has(self, blob: BlobId, segment: int) -> bool:
        return False

    def is_warranted(self, blob: BlobId, segment: int) -> bool:
        return False


class SecondSegment(EmptyStore):
    """A disk that has the second segment of everything."""

    def read_block(self, blob: BlobId, block: int) -> bytes | None:
        return BLOCK if self.has(blob, block // SEGMENT_BLOCKS) else None

    def has(self, blob: BlobId, segment: int) -> bool:
        return segment == 1


class LostSegment(SecondSegment):
    """A disk that has lost it."""

    def read_block(self, blob: BlobId, block: int) -> None:
        return None


class Holder:
    """The one peer that has everything, as client and overlay know it; it answers when it may."""

    def __init__(self) -> None:
        self.asked: list[range] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def blocks_or_pointer(
        self,
        address: Address,
        blob: BlobId,
        hashes: bytes,
        group: range,
        *,
        serves_at: int | None = None,
        began: Callable[[], None],
        came: Callable[[int, bytes], None],
    ) -> list[bytes]:
        self.asked.append(group)
        await self.may_answer.wait()
        for number in group:
            came(number, BLOCK)
        return [BLOCK for _ in group]

    def find_value(self, key: bytes) -> Holder:
        return self

    async def __aenter__(self) -> Holder:
        return self

    async def __aexit__(self, *failure: object) -> None:
        pass

    async def __aiter__(self) -> AsyncIterator[SimpleNamespace]:
        contact = SimpleNamespace(address=("192.0.2.1", 8001))
        yield SimpleNamespace(extra={"has": True}, contact=contact)


async def run(call: Callable[[], T]) -> T:
    return call()


@asynccontextmanager
async def reading(holder: Holder, store: EmptyStore | None = None) -> AsyncIterator[BlobReader]:
    client, overlay = cast(PeerClient, holder), cast(Overlay, holder)
    reader = BlobReader(cast(Store, store or EmptyStore()), client, overlay, run)
    try:
        yield reader
    finally:
        holder.may_answer.set()
        await reader.close()


def source(number: int) -> Source:
    return Source(BlobId(SIZE_BYTES, bytes([number] * 32)), lambda _: bytes([number] * 20))


async def read_block(content: BlobContent, block: int) -> None:
    data = await content.read(block * BLOCK_BYTES, SIZE_BYTES)
    assert len(data) == BLOCK_BYTES


async def asked(holder: Holder, groups: int) -> None:
    """Let the loop turn until so many groups have been asked for."""
    async with asyncio.timeout(5):
        while len(holder.asked) < groups:  # noqa: ASYNC110 - what is watched has no event
            await asyncio.sleep(0)


def group(first: int) -> range:
    return range(first, first + FETCH_BLOCKS)


async def test_lone_reader_has_the_next_group_fetched_while_it_reads() -> None:
    holder = Holder()
    async with reading(holder) as reader:
        content = reader.open(source(1))
        await read_block(content, 0)
        await asked(holder, 2)
        for block in range(1, 13):
            await read_block(content, block)
        await asked(holder, 5)
        assert holder.asked[:4] == [range(1), group(1), group(5), group(9)]


async def test_reader_who_comes_up_with_what_is_being_fetched_still_reads_ahead() -> None:
    holder = Holder()
    async with reading(holder) as reader:
        content = reader.open(source(1))
        await read_block(content, 0)
        holder.may_answer.clear()
        await asked(holder, 2)
        coming = asyncio.ensure_future(read_block(content, 1))
        await asyncio.sleep(0)
        holder.may_answer.set()
        await coming
        await asked(holder, 3)
        assert holder.asked == [range(1), group(1), group(5)]


async def test_what_is_on_this_disk_is_not_fetched_ahead() -> None:
    # Others may not have it at all.
    holder = Holder()
    async with reading(holder, SecondSegment()) as reader:
        content = reader.open(source(1))
        for block in range(SIZE_BYTES // BLOCK_BYTES):
            await read_block(content, block)
    fetched = {block // SEGMENT_BLOCKS for group in holder.asked for block in group}
    assert fetched == {0, 2, 3}
    assert len(holder.asked) <= 4 + 3 * SEGMENT_BLOCKS // FETCH_BLOCKS


async def test_what_this_disk_has_lost_does_not_end_reading_ahead() -> None:
    holder = Holder()
    async with reading(holder, LostSegment()) as reader:
        content = reader.open(source(1))
        for block in range(SIZE_BYTES // BLOCK_BYTES):
            await read_block(content, block)
    assert len(holder.asked) <= 4 + SIZE_BYTES // BLOCK_BYTES // FETCH_BLOCKS


async def test_crowd_of_readers_fetches_hardly_more_than_it_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Room for a block of each, and for no group.
    readers, step_bytes = 8, BLOCK_BYTES // 4
    monkeypatch.setattr(reader_module, "PASSING_BYTES", readers * BLOCK_BYTES)
    holder = Holder()
    async with reading(holder) as reader:
        contents = [reader.open(source(number)) for number in range(readers)]
        # In turn, each so much as its visitor takes at once.
        for at in range(0, SIZE_BYTES, step_bytes):
            for content in contents:
                await content.read(at, SIZE_BYTES)
    fetched_bytes = sum(map(len, holder.asked)) * BLOCK_BYTES
    assert fetched_bytes < 2 * readers * SIZE_BYTES
