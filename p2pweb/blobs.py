"""Blobs: immutable bytes known by (size, root), cut into blocks and segments.

A blob of at most one block has the SHA-256 of its bytes as root; a longer one the SHA-256 of the
joined SHA-256 hashes of its blocks. A block (256 KiB) is the unit of verification: with the
joined hashes, which the root proves, each block is proved by itself. A segment (16 blocks, 4 MiB)
is the unit of placement and of storage. Pure: bytes and numbers in, values out.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

BLOCK_BYTES = 256 * 1024
SEGMENT_BLOCKS = 16
SEGMENT_BYTES = SEGMENT_BLOCKS * BLOCK_BYTES
HASH_BYTES = 32

# 256 segments. A longer file needs more placement keys than one publish should sweep for one
# path, and half an hour on a home uplink; such files belong on a file server.
BLOB_BYTES_MAX = 1024 * 1024 * 1024


class InvalidBlockError(Exception):
    """Bytes that are not what their root says."""


@dataclass(frozen=True, slots=True, order=True)
class BlobId:
    """What a blob is known by: its length in bytes and its root, 32 bytes."""

    size_bytes: int
    root: bytes

    def __str__(self) -> str:
        return f"{self.root.hex()[:12]}… ({self.size_bytes} bytes)"

    @property
    def block_count(self) -> int:
        """At least 1: an empty blob is one empty block."""
        return max(1, -(-self.size_bytes // BLOCK_BYTES))

    @property
    def segment_count(self) -> int:
        """At least 1, likewise."""
        return max(1, -(-self.size_bytes // SEGMENT_BYTES))

    def block_size(self, block: int) -> int:
        """Length of block 0 ≤ `block` < block_count in bytes."""
        return min(BLOCK_BYTES, self.size_bytes - block * BLOCK_BYTES)

    def segment_size(self, segment: int) -> int:
        """Length of segment 0 ≤ `segment` < segment_count in bytes."""
        return min(SEGMENT_BYTES, self.size_bytes - segment * SEGMENT_BYTES)

    def segment_blocks(self, segment: int) -> range:
        """The numbers of the blocks that a segment consists of."""
        first = segment * SEGMENT_BLOCKS
        return range(first, min(first + SEGMENT_BLOCKS, self.block_count))


# A segment of a blob, 0 ≤ segment < segment_count.
Part = tuple[BlobId, int]


def size_of(parts: Iterable[Part]) -> int:
    """How long segments are together, in bytes."""
    return sum(blob.segment_size(segment) for blob, segment in parts)


def blob_of(data: bytes) -> tuple[BlobId, bytes]:
    """The id of these bytes, and their joined block hashes (empty where one block is all)."""
    hasher = BlobHasher()
    for start in range(0, len(data), BLOCK_BYTES):
        hasher.add_block(data[start : start + BLOCK_BYTES])
    return hasher.finish()


class BlobHasher:
    """Hashes a blob handed over block by block, so that a long file is never in memory whole."""

    def __init__(self) -> None:
        self._hashes: list[bytes] = []
        self._size_bytes = 0

    def add_block(self, block: bytes) -> None:
        """The next block: full length (256 KiB), except the last."""
        if self._size_bytes % BLOCK_BYTES or not 0 < len(block) <= BLOCK_BYTES:
            raise ValueError("blocks are 256 KiB long, and only the last may be shorter")
        self._hashes.append(hashlib.sha256(block).digest())
        self._size_bytes += len(block)

    def finish(self) -> tuple[BlobId, bytes]:
        """The id, and the joined block hashes (empty where one block is all)."""
        if not self._hashes:
            return BlobId(0, hashlib.sha256(b"").digest()), b""
        if len(self._hashes) == 1:
            return BlobId(self._size_bytes, self._hashes[0]), b""
        joined = b"".join(self._hashes)
        return BlobId(self._size_bytes, hashlib.sha256(joined).digest()), joined


def segments_of(data: bytes) -> "list[SegmentData]":
    """A whole blob's bytes in segments, each with what proves it."""
    blob, hashes = blob_of(data)
    return [
        SegmentData(
            blob=blob,
            segment=segment,
            hashes=hashes,
            data=data[segment * SEGMENT_BYTES : (segment + 1) * SEGMENT_BYTES],
        )
        for segment in range(blob.segment_count)
    ]


def check_hashes(blob: BlobId, hashes: bytes) -> None:
    """Prove joined block hashes against the root. InvalidBlockError where they are not its own."""
    if blob.block_count == 1:
        if hashes:
            raise InvalidBlockError(f"blob {blob} has one block and no list of hashes")
        return
    if len(hashes) != blob.block_count * HASH_BYTES:
        raise InvalidBlockError(f"blob {blob} takes {blob.block_count} block hashes")
    if hashlib.sha256(hashes).digest() != blob.root:
        raise InvalidBlockError(f"block hashes do not belong to blob {blob}")


def check_block(blob: BlobId, block: int, hashes: bytes, data: bytes | memoryview) -> None:
    """Prove one block against hashes that `check_hashes` has let through.

    InvalidBlockError where the bytes are of another length or content.
    """
    if len(data) != blob.block_size(block):
        raise InvalidBlockError(f"block {block} of blob {blob} has the wrong length")
    wanted = hashes[block * HASH_BYTES : (block + 1) * HASH_BYTES] if hashes else blob.root
    if hashlib.sha256(data).digest() != wanted:
        raise InvalidBlockError(f"block {block} of blob {blob} does not match its hash")


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentData:
    """The bytes of one segment with what proves them. Whoever receives one calls `check`."""

    blob: BlobId
    segment: int
    hashes: bytes
    data: bytes

    def check(self) -> None:
        """Prove every block. InvalidBlockError where anything is not the blob's own."""
        if not 0 <= self.segment < self.blob.segment_count:
            raise InvalidBlockError(f"blob {self.blob} has no segment {self.segment}")
        if len(self.data) != self.blob.segment_size(self.segment):
            raise InvalidBlockError(f"segment {self.segment} of {self.blob} has the wrong length")
        check_hashes(self.blob, self.hashes)
        for block, data in self.blocks():
            check_block(self.blob, block, self.hashes, data)

    def blocks(self) -> Iterator[tuple[int, memoryview]]:
        """Each block's number in the blob, and its bytes."""
        view = memoryview(self.data)
        for offset, block in enumerate(self.blob.segment_blocks(self.segment)):
            yield block, view[offset * BLOCK_BYTES : (offset + 1) * BLOCK_BYTES]
