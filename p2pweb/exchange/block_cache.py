"""Proved blocks in memory, for all who read them."""

from __future__ import annotations

from collections import OrderedDict

from p2pweb.blobs import BlobId


class BlockCache:
    """So many bytes of blocks, the least recently used going first."""

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
