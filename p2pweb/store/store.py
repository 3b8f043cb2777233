"""The one door to what a peer keeps. It verifies records and bytes, in and out.

In: `commit` takes a batch of verified records and of segments, proves each segment, refuses bytes
that no record warrants, writes, syncs, and only then says what is held. Out: `read_block` proves
each block against its root; bytes that have rotted are removed, never returned.

A key keeps the versions of its record that somebody may still need: those newer than the live
version (a publish under way), the live one, and the one before it (downloads under way, peers
that have not switched). Bytes that no kept record warrants are freed.

Synchronous. Reads and writes use one connection each, so a reader never waits for a commit; each
may be called from any one thread at a time.
"""

import contextlib
import errno
import fcntl
import logging
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from p2pweb import records
from p2pweb.blobs import (
    SEGMENT_BLOCKS,
    BlobId,
    InvalidBlockError,
    SegmentData,
    check_block,
    check_hashes,
)
from p2pweb.errors import CorruptError, UsageError
from p2pweb.keys import SiteId
from p2pweb.records import InvalidRecordError, Signed, SiteRecord, open_record
from p2pweb.store.books import Books, Part, connect
from p2pweb.store.segments import SegmentFolder, Segments, SegmentShelf

log = logging.getLogger("p2pweb.store")

# Measured (ARCHITECTURE.md): up to here a row costs less than a file, to write and to read.
INLINE_BYTES_MAX = 64 * 1024
# A publisher that fails and tries again leaves a newer record each time; only the site's key can
# make them, and two are what a retry needs.
UNPUBLISHED_KEPT = 2
# Beside the live one: for downloads under way, and peers that have not switched.
SUPERSEDED_KEPT = 1


@dataclass(frozen=True, slots=True)
class Item:
    """A verified record to keep at the key of one of its segments, with its bytes or without."""

    signed: Signed
    segment: int = 0
    with_bytes: bool = True


@dataclass(frozen=True, slots=True)
class Held:
    """The record is on disk; `wants` names the bytes that it still lacks."""

    wants: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Stale:
    """The store has another record of this seq or a newer one there, and keeps that."""

    seq: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Not kept, and why."""

    why: str


Outcome = Held | Stale | Refused


@dataclass(frozen=True, slots=True)
class Kept:
    """What lies at a key: a verified record, for which segment, and whether its bytes are here."""

    signed: Signed
    segment: int
    has_bytes: bool


class Store:
    """Open with `open_store` or `memory_store`; `close` when done."""

    def __init__(
        self, writer: Books, reader: Books, segments: Segments, folder_lock: int | None = None
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._segments = segments
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock() if reader is not writer else self._write_lock
        self._folder_lock = folder_lock
        self._unwarranted: list[Part] = []
        segments.keep_only(writer.parts_in_files())

    def close(self) -> None:
        """Close the books and let another process have the directory."""
        with self._write_lock:
            self._reader.connection.close()
            self._writer.connection.close()
            if self._folder_lock is not None:
                os.close(self._folder_lock)
                self._folder_lock = None

    @property
    def is_writing(self) -> bool:
        """Whether a commit is under way, so that another one would wait for it."""
        return self._write_lock.locked()

    # Writing

    def commit(self, items: Sequence[Item], segments: Sequence[SegmentData] = ()) -> list[Outcome]:
        """Keep a batch; durable when this returns. One outcome for each item, in order.

        The records are verified by their type: only `open_record` and `sign` make a `Signed`.
        InvalidBlockError, and nothing kept, where a segment is not what its root says or no
        record, in the batch or here before, warrants it. OSError where the disk fails.
        """
        for data in segments:
            data.check()
        with self._write_lock:
            with self._transaction():
                outcomes = [self._put_record(item) for item in items]
                for data in segments:
                    self._put_segment(data)
                self._segments.sync()
                self._forget_superseded(items)
                freed = self._free_unwarranted()
                outcomes = [
                    Held(tuple(self._writer.missing(_key(item), item.signed.record.seq)))
                    if isinstance(outcome, Held)
                    else outcome
                    for item, outcome in zip(items, outcomes, strict=True)
                ]
            # The books no longer name them: a crash before this leaves files for `keep_only`.
            for blob, segment in freed:
                self._segments.remove(blob, segment)
        return outcomes

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        connection = self._writer.connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("COMMIT")
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise OSError(errno.EIO, f"the database refused a write: {error}") from None
            raise

    def _put_record(self, item: Item) -> Outcome:
        record, value = item.signed.record, item.signed.value
        if not 0 <= item.segment < record.segment_count:
            return Refused(f"the record has no segment {item.segment}")
        key = _key(item)
        for newest in self._writer.rows(key)[:1]:
            # Of two records of one seq every peer keeps the same one.
            if (newest.seq, newest.value) > (record.seq, value):
                return Stale(newest.seq)
            if newest.value == value and newest.with_bytes >= item.with_bytes:
                return Held(())
        self._unwarranted += self._writer.delete_record(key, record.seq)
        self._writer.add_record(key, item.segment, item.signed, with_bytes=item.with_bytes)
        return Held(())

    def _put_segment(self, data: SegmentData) -> None:
        part = (data.blob, data.segment)
        if not self._writer.is_warranted(part):
            raise InvalidBlockError(
                f"no record kept here names segment {data.segment} of blob {data.blob}"
            )
        if self._writer.has(part):
            return
        inline = len(data.data) <= INLINE_BYTES_MAX
        if not inline:
            self._segments.write(data.blob, data.segment, data.data)
        self._writer.add_segment(data, inline=inline)

    def _forget_superseded(self, items: Sequence[Item]) -> None:
        """Delete the records that nobody needs any more, where this batch may have made some."""
        keys: dict[bytes, SiteId] = {}
        for item in items:
            site = item.signed.record.site
            keys[_key(item)] = site
            if isinstance(item.signed.record, SiteRecord):
                # A version may have gone live, which counts for every key of the site.
                most = SUPERSEDED_KEPT + 1
                keys.update(dict.fromkeys(self._writer.crowded_keys(site, most), site))
        live = {site: self._writer.live_seq(site) for site in dict.fromkeys(keys.values())}
        for key, site in keys.items():
            seqs = [row.seq for row in self._writer.rows(key)]
            newer = [seq for seq in seqs if seq > (live[site] or 0)]
            older = seqs[len(newer) :]
            for seq in newer[UNPUBLISHED_KEPT:] + older[SUPERSEDED_KEPT + 1 :]:
                self._unwarranted += self._writer.delete_record(key, seq)

    def _free_unwarranted(self) -> list[Part]:
        """Delete the bytes that no record names any more; those that are files, to be removed."""
        candidates, self._unwarranted = dict.fromkeys(self._unwarranted), []
        return [
            part
            for part in candidates
            if not self._writer.is_warranted(part) and self._writer.delete_segment(part)
        ]

    def _drop(self, part: Part) -> None:
        """Remove bytes that turned out damaged, so that they count as wanted again."""
        with self._write_lock:
            with self._transaction():
                is_file = self._writer.delete_segment(part)
            if is_file:
                self._segments.remove(*part)

    # Reading

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Books]:
        """The reader's books. CorruptError where the database cannot be read."""
        with self._read_lock:
            try:
                yield self._reader
            except sqlite3.DatabaseError as error:
                raise CorruptError(f"the database on this disk is damaged: {error}") from None

    def find(self, key: bytes) -> Kept | None:
        """What a DHT key (20 bytes) holds: of a site the live version, of a path the newest one
        that the live version may name. CorruptError where the database cannot be read."""
        with self._reading() as books:
            rows = books.rows(key)
            live = books.live_seq(rows[0].site) if rows else None
            for row in rows:
                if row.is_site and live is None:
                    return None
                is_oldest = row is rows[-1] and not row.is_site
                if live is None or row.seq <= live or is_oldest:
                    try:
                        signed = open_record(row.value)
                    except InvalidRecordError as error:
                        log.warning("a record on this disk has changed, not used: %s", error)
                        continue
                    return Kept(
                        signed, row.segment, row.with_bytes and not books.missing(key, row.seq)
                    )
        return None

    def live_site(self, site: SiteId) -> Signed | None:
        """The site's newest version whose manifest is here whole."""
        kept = self.find(records.dht_key(records.site_name(site)))
        return kept.signed if kept else None

    def sites(self) -> list[SiteId]:
        """The sites of which there is any record, in order."""
        with self._reading() as books:
            return [SiteId(site) for site in books.sites()]

    def has(self, blob: BlobId, segment: int) -> bool:
        """Whether a segment's bytes are here."""
        with self._reading() as books:
            return books.has((blob, segment))

    def is_warranted(self, blob: BlobId, segment: int) -> bool:
        """Whether a record kept here names this segment, so that the store would take it."""
        with self._reading() as books:
            return books.is_warranted((blob, segment))

    def read_hashes(self, blob: BlobId) -> bytes | None:
        """The joined block hashes, proved; empty for a blob of one block; None if not here."""
        if blob.block_count == 1:
            return b""
        with self._reading() as books:
            hashes = books.hashes(blob)
        if hashes is None:
            return None
        try:
            check_hashes(blob, hashes)
        except InvalidBlockError as error:
            log.warning("bytes on this disk have changed and are not used: %s", error)
            return None
        return hashes

    def read_block(self, blob: BlobId, block: int) -> bytes | None:
        """One block, proved against its root; None where it is not here.

        CorruptError, and the segment removed, where the bytes on disk have changed.
        """
        part = (blob, block // SEGMENT_BLOCKS)
        with self._reading() as books:
            row = books.content(part)
        if row is None:
            return None
        data = row[0] if row[0] is not None else self._segments.read_block(blob, block)
        hashes = self.read_hashes(blob)
        if hashes is not None and data is not None:
            with contextlib.suppress(InvalidBlockError):
                check_block(blob, block, hashes, data)
                return data
        self._drop(part)
        raise CorruptError(f"block {block} of blob {blob} on this disk is damaged; it was removed")

    def read_segment(self, blob: BlobId, segment: int) -> SegmentData | None:
        """A whole segment, each block proved; None where it is not here.

        CorruptError, and the segment removed, where the bytes on disk have changed.
        """
        blocks: list[bytes] = []
        for number in blob.segment_blocks(segment):
            block = self.read_block(blob, number)
            if block is None:
                return None
            blocks.append(block)
        hashes = self.read_hashes(blob)
        if hashes is None:
            return None
        return SegmentData(blob=blob, segment=segment, hashes=hashes, data=b"".join(blocks))


def _key(item: Item) -> bytes:
    return records.record_key(item.signed.record, item.segment)


def open_store(folder: Path) -> Store:
    """The store in a directory, made if need be, for this process alone.

    UsageError where another process has it, it cannot be written, or it is damaged.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise UsageError(f"cannot use the data directory {folder}: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        other = os.read(lock, 20).decode("ascii", "replace").strip()
        os.close(lock)
        process = f" (process {other})" if other else ""
        raise UsageError(
            f"the data directory {folder} is in use by another peer{process}: "
            "stop that one, or give this one a directory of its own with --data"
        ) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    database = folder / "records.sqlite"
    try:
        writer, reader = Books(connect(str(database))), Books(connect(str(database)))
        return Store(writer, reader, SegmentFolder(folder / "blobs"), lock)
    except sqlite3.DatabaseError as error:
        os.close(lock)
        raise UsageError(
            f"the database {database} cannot be used ({error}): move the directory {folder} away "
            "and start again, and the other peers will still have the site"
        ) from None
    except OSError as error:
        os.close(lock)
        raise UsageError(f"cannot use the data directory {folder}: {error.strerror}") from None


def memory_store() -> Store:
    """A store that is gone with its process."""
    books = Books(connect(":memory:"))
    return Store(books, books, SegmentShelf())
