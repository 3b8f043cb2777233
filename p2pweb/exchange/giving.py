"""Gives other peers the bytes of blobs: from this disk, or what this peer's visitors have it read.

Everything is proved block by block: what is on the disk as it leaves, what is in memory when it
came. Nothing is fetched for another peer, but it may wait for what is on its way here already. A
peer that says where it serves may be pointed to another one that was just sent the same (`crowd`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from p2pweb.address import Address
from p2pweb.blobs import BLOCK_BYTES, SEGMENT_BLOCKS, BlobId
from p2pweb.dht.contact import canonical
from p2pweb.errors import CorruptError
from p2pweb.exchange import wire
from p2pweb.exchange.block_cache import BlockCache
from p2pweb.exchange.crowd import POINTED_BYTES_MIN, Crowd
from p2pweb.exchange.reader import BlobReader, Runner
from p2pweb.http.content import respond
from p2pweb.http.messages import Request, Response, Span
from p2pweb.http.plan import Plan, Planner, Representation, Resource
from p2pweb.store.store import Store

# Blocks on their way to other peers: what a slow one could not take at once is sent from here,
# or read from the disk again.
PASSING_BYTES = 8 * 1024 * 1024

_BYTES = "application/octet-stream"
_IMMUTABLE = "max-age=31536000, immutable"
_NOSNIFF = ("X-Content-Type-Options", "nosniff")
_PORT_FIELD = wire.PORT_FIELD.lower().encode()


class Giving:
    """All giving of one peer; without a `reader`, from its disk alone."""

    def __init__(self, store: Store, run: Runner, reader: BlobReader | None) -> None:
        self._store = store
        self._run = run
        self._reader = reader
        self._passing = BlockCache(PASSING_BYTES)
        self._crowd = Crowd()

    async def hashes(self, blob: BlobId, segment: int) -> Response | None:
        """A blob's joined block hashes; None where they are not here. CorruptError where the disk
        has lost them."""
        if segment:
            return None
        hashes = await self._run(lambda: self._store.read_hashes(blob))
        if hashes is None and self._reader is not None:
            hashes = self._reader.hashes_at_hand(blob)
        if hashes is None:
            return None
        fields = (("Content-Type", _BYTES), ("Cache-Control", _IMMUTABLE), _NOSNIFF)
        return Response(status=200, fields=fields, body=hashes)

    async def segment(
        self, request: Request, blob: BlobId, segment: int, sender: str
    ) -> Response | None:
        """The bytes of a segment, or a range of them, or where they are to be asked for instead;
        None where they are not here. `sender` is the IP address of who asks. CorruptError likewise.
        """
        whole = Representation(
            encoding="identity",
            size_bytes=blob.segment_size(segment),
            etag=f'"{blob.root.hex()[:32]}.{segment}"',
        )
        resource = Resource(
            media_type=_BYTES,
            last_modified_s=None,
            representations=(whole,),
            cache_control=_IMMUTABLE,
        )
        plan = Planner(resource).plan(request)
        blocks = _blocks_of(plan, segment)
        if await self._run(lambda: self._store.has(blob, segment)):
            if (other := self._elsewhere(request, plan, blob, blocks, sender)) is not None:
                location = ("Location", wire.pointer(other, blob, segment))
                no_store = ("Cache-Control", "no-store")
                return Response(status=307, fields=(location, no_store, _NOSNIFF), body=b"")
        elif not blocks or self._reader is None or not self._reader.passes_on(blob, blocks):
            return None
        return await respond(plan, lambda: _SegmentContent(self._block, blob, segment))

    def _elsewhere(
        self, request: Request, plan: Plan, blob: BlobId, blocks: range, sender: str
    ) -> Address | None:
        """Whom a peer is to ask for blocks that are here; None where it is sent them."""
        if not blocks or (plan.content_length or 0) < POINTED_BYTES_MIN:
            return None
        now = asyncio.get_running_loop().time()
        port = wire.parse_port(request.field(_PORT_FIELD))
        # Its host is never what it says: nobody has others ask at a third place.
        reader = None if port is None else canonical(sender, port)
        if reader is None:
            self._crowd.sent(blob, blocks, now)
            return None
        return self._crowd.place(blob, blocks, reader, now)

    async def _block(self, blob: BlobId, block: int) -> bytes | None:
        data = self._passing.get((blob, block))
        if data is None and self._reader is not None:
            data = await self._reader.passing(blob, block)
        if data is None:
            data = await self._run(lambda: self._store.read_block(blob, block))
            if data is not None:
                self._passing.put((blob, block), data)
        return data


class _SegmentContent:
    """A segment that is here, or a part of it, as the front end reads it."""

    def __init__(
        self, read: Callable[[BlobId, int], Awaitable[bytes | None]], blob: BlobId, segment: int
    ) -> None:
        self._read = read
        self._blob = blob
        self._segment = segment

    def fileno(self) -> None:
        """Bytes are proved in memory, so the file on the disk will not do."""

    def close(self) -> None:
        """Nothing is held."""

    async def read(self, start: int, stop: int) -> memoryview:
        """Bytes from `start` to the end of their block. CorruptError where they are lost."""
        number = start // BLOCK_BYTES
        data = await self._read(self._blob, self._segment * SEGMENT_BLOCKS + number)
        if data is None:
            raise CorruptError(
                f"segment {self._segment} of blob {self._blob} went while it was read"
            )
        offset = number * BLOCK_BYTES
        return memoryview(data)[start - offset : stop - offset]


def _blocks_of(plan: Plan, segment: int) -> range:
    """The blocks of the blob that a plan for one of its segments sends; empty where it sends none,
    or several ranges."""
    spans = [piece for piece in plan.pieces if isinstance(piece, Span)]
    if len(spans) != 1:
        return range(0)
    first = segment * SEGMENT_BLOCKS
    last = first + (spans[0].stop - 1) // BLOCK_BYTES
    return range(first + spans[0].start // BLOCK_BYTES, last + 1)
