"""Where long segments lie: files named by hash, or a dict for a peer without a disk.

Writes become durable in two steps, so that many cost little more than one: `write` syncs the
bytes and gives the file its name, `sync` makes the names durable. Nothing here verifies: that is
the door's work (`store.store`), before the bytes come here and after they leave.
"""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from p2pweb.blobs import BLOCK_BYTES, SEGMENT_BLOCKS, BlobId
from p2pweb.folders import make_folder, sync_folder

# File systems give a file whole pages of this.
PAGE_BYTES = 4_096


class Segments(Protocol):
    """What `Store` asks of the place for long segments."""

    def write(self, blob: BlobId, segment: int, data: bytes) -> None:
        """Keep these bytes, replacing what was there. OSError where that fails."""

    def sync(self) -> None:
        """Make everything written so far durable."""

    def read_block(self, blob: BlobId, block: int) -> bytes | None:
        """The block's bytes as they are now, None where there are none.

        OSError where they cannot be read, which says nothing about them.
        """

    def remove(self, blob: BlobId, segment: int) -> None:
        """Forget a segment; nothing happens where there is none."""

    def keep_only(self, known: Iterable[tuple[BlobId, int]]) -> list[tuple[BlobId, int]]:
        """Remove whatever a crash left behind that no book names; those of the known that are not
        here, or not of their length."""

    @property
    def used_bytes(self) -> int:
        """What the disk has given for all of them."""


class SegmentFolder:
    """One file for each segment, in 256 folders by the first byte of the root."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._unsynced: list[Path] = []
        self._used_bytes = 0
        make_folder(folder)
        # Names that a process made which was killed before it could sync them.
        for one in (folder.parent, folder):
            sync_folder(one)

    def _path(self, blob: BlobId, segment: int) -> Path:
        name = blob.root.hex()
        return self._folder / name[:2] / f"{name}-{blob.size_bytes}.{segment}"

    def write(self, blob: BlobId, segment: int, data: bytes) -> None:
        path = self._path(blob, segment)
        if not path.parent.exists():
            path.parent.mkdir()
            self._unsynced.append(self._folder)
        unfinished = path.with_suffix(f"{path.suffix}.new")
        try:
            with unfinished.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except OSError:
            unfinished.unlink(missing_ok=True)  # On a full disk, half a segment helps nobody.
            raise
        self._used_bytes += _on_disk(len(data))
        self._unsynced.append(path.parent)

    def sync(self) -> None:
        for folder in dict.fromkeys(self._unsynced):
            sync_folder(folder)
        self._unsynced.clear()

    def read_block(self, blob: BlobId, block: int) -> bytes | None:
        segment, number = divmod(block, SEGMENT_BLOCKS)
        try:
            with self._path(blob, segment).open("rb") as file:
                file.seek(number * BLOCK_BYTES)
                return file.read(blob.block_size(block))
        except FileNotFoundError:
            return None

    def remove(self, blob: BlobId, segment: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._path(blob, segment).unlink()
            self._used_bytes -= _on_disk(blob.segment_size(segment))

    def keep_only(self, known: Iterable[tuple[BlobId, int]]) -> list[tuple[BlobId, int]]:
        wanted = {self._path(blob, segment): (blob, segment) for blob, segment in known}
        self._used_bytes = 0
        for path in sorted(self._folder.glob("??/*")):
            place = wanted.get(path)
            if place is not None and path.stat().st_size == place[0].segment_size(place[1]):
                self._used_bytes += _on_disk(path.stat().st_size)
                del wanted[path]
            elif not path.is_dir():
                path.unlink(missing_ok=True)
        return list(wanted.values())

    @property
    def used_bytes(self) -> int:
        return self._used_bytes


class SegmentShelf:
    """Segments in memory."""

    def __init__(self) -> None:
        self._data: dict[tuple[BlobId, int], bytes] = {}
        self._used_bytes = 0

    def write(self, blob: BlobId, segment: int, data: bytes) -> None:
        self._data[blob, segment] = data
        self._used_bytes += len(data)

    def sync(self) -> None:
        """Memory has nothing to sync."""

    def read_block(self, blob: BlobId, block: int) -> bytes | None:
        segment, number = divmod(block, SEGMENT_BLOCKS)
        data = self._data.get((blob, segment))
        start = number * BLOCK_BYTES
        return None if data is None else data[start : start + blob.block_size(block)]

    def remove(self, blob: BlobId, segment: int) -> None:
        self._used_bytes -= len(self._data.pop((blob, segment), b""))

    def keep_only(self, known: Iterable[tuple[BlobId, int]]) -> list[tuple[BlobId, int]]:
        wanted = dict.fromkeys(known)
        self._data = {place: data for place, data in self._data.items() if place in wanted}
        self._used_bytes = sum(map(len, self._data.values()))
        return [place for place in wanted if place not in self._data]

    @property
    def used_bytes(self) -> int:
        return self._used_bytes


def _on_disk(size_bytes: int) -> int:
    return -(-size_bytes // PAGE_BYTES) * PAGE_BYTES
