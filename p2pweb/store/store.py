"""The one door to what a peer keeps. It verifies records and bytes, in and out.

In: `commit` takes a batch of verified records and of segments, proves each segment, refuses bytes
that no record warrants, writes, syncs, and only then says what is held. Out: `read_block` proves
each block against its root; bytes that have rotted are removed, never returned.

A key keeps the records that somebody may still need: those that the live version's manifest names,
those that the one before names (downloads under way, peers that have not switched), and the newest
of those that are newer than the live version (a publish under way, or one that failed). The bare
number of a record does not tell whether it lives: a publish that failed leaves records behind.
Bytes that no kept record warrants are freed.

Synchronous. Reads and writes use one connection each, so a reader never waits for a commit; each
may be called from any one thread at a time.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
from p2pweb.manifest import InvalidManifestError, Manifest
from p2pweb.records import InvalidRecordError, Record, Signed, SiteRecord, open_record, payload_of
from p2pweb.store.books import Books, Part, Row, connect
from p2pweb.store.live import LiveVersion, order_of
from p2pweb.store.segments import SegmentFolder, Segments, SegmentShelf

log = logging.getLogger("p2pweb.store")

# Measured (ARCHITECTURE.md): up to here a row costs less than a file, to write and to read.
INLINE_BYTES_MAX = 64 * 1024
# A publisher that fails and tries again leaves a newer record each time; only the site's key can
# make them, and two are what a retry needs.
UNPUBLISHED_KEPT = 2


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
    """Not kept, for this signed value: a record of the same site of this seq or a higher one."""

    newer: bytes


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
        # Its values are replaced after a commit and never changed: read without a lock.
        self._live = {row.site: self._load_live(row) for row in _newest(writer)}

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
                refused = {
                    part
                    for item, outcome in zip(items, outcomes, strict=True)
                    if not isinstance(outcome, Held)
                    for part in item.signed.record.parts(item.segment)
                }
                for data in segments:
                    self._put_segment(data, refused)
                self._segments.sync()
                live = self._go_live()
                freed = self._free_unwarranted()
                outcomes = [
                    self._wants(item, live) if isinstance(outcome, Held) else outcome
                    for item, outcome in zip(items, outcomes, strict=True)
                ]
            self._live |= live
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
        record = item.signed.record
        if not 0 <= item.segment < record.segment_count:
            return Refused(f"the record has no segment {item.segment}")
        key = _key(item)
        live = self._live.get(record.site)
        if live is not None and not live.allows(item.signed):
            return Stale(live.signed.value)
        rows = self._writer.rows(key)
        for row in rows:
            if row.value == item.signed.value:
                if row.with_bytes >= item.with_bytes:
                    return Held(())
                self._unwarranted += self._writer.delete_record(row)
        # Of the records newer than the live version, only one of a higher seq crowds another out:
        # what was answered Held must not go because somebody sends an old attempt again.
        live_seq = live.signed.record.seq if live else 0
        newer = [row for row in rows if row.seq > live_seq and row.value != item.signed.value]
        if record.seq > live_seq and len(newer) >= UNPUBLISHED_KEPT:
            if record.seq <= newer[-1].seq:
                return Stale(newer[0].value)
            for row in newer[UNPUBLISHED_KEPT - 1 :]:
                self._unwarranted += self._writer.delete_record(row)
        self._writer.add_record(key, item.segment, item.signed, with_bytes=item.with_bytes)
        return Held(())

    def _wants(self, item: Item, changed: dict[SiteId, LiveVersion]) -> Outcome:
        """Held, with what is lacking; or the version that went live just now, and took it away."""
        for row in self._writer.rows(_key(item)):
            if row.value == item.signed.value:
                return Held(tuple(self._writer.missing(row)))
        return Stale(changed[item.signed.record.site].signed.value)

    def _put_segment(self, data: SegmentData, refused: set[Part]) -> None:
        part = (data.blob, data.segment)
        if not self._writer.is_warranted(part):
            if part in refused:
                return  # Its record was sent along, and told why it is not kept.
            raise InvalidBlockError(
                f"no record kept here names segment {data.segment} of blob {data.blob}"
            )
        if self._writer.has(part):
            return
        inline = len(data.data) <= INLINE_BYTES_MAX
        if not inline:
            self._segments.write(data.blob, data.segment, data.data)
        self._writer.add_segment(data, inline=inline)

    def _go_live(self) -> dict[SiteId, LiveVersion]:
        """The versions whose manifests are whole since this batch; what they supersede goes."""
        changed: dict[SiteId, LiveVersion] = {}
        for site, known in self._live.items():
            if known.manifest is None:
                changed |= {row.site: self._load_live(row) for row in _newest(self._writer, site)}
        for row in self._writer.site_rows(lived=False):
            before = changed.get(row.site) or self._live.get(row.site)
            if before is not None and row.order <= order_of(before.signed):
                continue
            if not row.with_bytes or self._writer.missing(row):
                continue
            live = self._load_live(row)
            if live.manifest is None:
                continue  # Its own site signed nonsense: the version never comes to life.
            self._writer.set_lived(row)
            live = replace(live, before=before.manifest if before else None)
            self._forget_superseded(row, live, before)
            changed[row.site] = live
        return changed

    def _forget_superseded(self, lived: Row, live: LiveVersion, before: LiveVersion | None) -> None:
        """Delete what neither this version nor the one before names."""
        kept = {lived.value, before.signed.value if before else b""}
        named = live.payloads()
        for row in self._writer.rows_of_site(lived.site):
            is_needed = row.value in kept or payload_of(row.value) in named
            # Of two publishes of one seq the other may still win; the next version frees the
            # loser's files.
            is_over = row.seq < lived.seq or (row.seq == lived.seq and row.is_site)
            if is_over and not is_needed:
                self._unwarranted += self._writer.delete_record(row)

    def _load_live(self, row: Row) -> LiveVersion:
        """A live version with its manifest, if that can be read; the caller holds the writer."""
        signed = open_record(row.value)
        assert isinstance(signed.record, SiteRecord)  # noqa: S101 - it lies at a site's key
        blob = signed.record.manifest
        try:
            blocks = [self._read(self._writer, blob, n) for n in range(blob.block_count)]
            manifest = Manifest.decode(b"".join(block or b"" for block in blocks))
            if (manifest.site, manifest.seq) != (signed.record.site, signed.record.seq):
                raise InvalidManifestError("it is another version's")
        except (CorruptError, InvalidManifestError) as error:
            if isinstance(error, _DamagedError):
                self._writer.delete_segment(error.part)  # So that it is wanted again.
            log.warning("the manifest of version %d is not to be had: %s", row.seq, error)
            return LiveVersion(signed, None, None)
        return LiveVersion(signed, manifest, None)

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
        """What a DHT key (20 bytes) holds: of a site the live version, of a path the record that
        this one names, else the newest. CorruptError where the database cannot be read."""
        with self._reading() as books:
            rows = books.rows(key)
            if not rows:
                return None
            live = self._live.get(rows[0].site)
            opened = [(row, signed) for row in rows if (signed := _open(row)) is not None]
            for row, signed in opened:
                chosen = row.lived if row.is_site else live is None or live.has(signed.record)
                if chosen:
                    break
            else:
                if not opened or opened[0][0].is_site:
                    return None
                row, signed = opened[0]
            return Kept(signed, row.segment, row.with_bytes and not books.missing(row))

    def holds(self, key: bytes, record: Record, *, with_bytes: bool) -> bool:
        """Whether just this record lies at a key, and, where they are asked for, all its bytes."""
        payload = records.encode_record(record)
        with self._reading() as books:
            return any(
                payload_of(row.value) == payload
                and (not with_bytes or (row.with_bytes and not books.missing(row)))
                for row in books.rows(key)
            )

    def live_seq(self, site: SiteId) -> int:
        """The seq of the live version; 0 where none is known here."""
        live = self._live.get(site)
        return live.signed.record.seq if live else 0

    def is_live(self, record: Record) -> bool:
        """Whether the live version has just this of the record's path."""
        live = self._live.get(record.site)
        return live is not None and live.has(record)

    def live_site(self, site: SiteId) -> Signed | None:
        """The site's newest version whose manifest was here whole."""
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
        with self._reading() as books:
            return _hashes(books, blob)

    def read_block(self, blob: BlobId, block: int) -> bytes | None:
        """One block, proved against its root; None where it is not here.

        CorruptError, and the segment removed, where the bytes on disk have changed.
        """
        try:
            with self._reading() as books:
                return self._read(books, blob, block)
        except _DamagedError as damage:
            with contextlib.suppress(OSError):  # On a full disk it stays, and is never used.
                self._drop(damage.part)
            raise CorruptError(f"{damage}; it was removed") from None

    def _read(self, books: Books, blob: BlobId, block: int) -> bytes | None:
        """As `read_block`, with one connection; _DamagedError where the bytes have changed."""
        part = (blob, block // SEGMENT_BLOCKS)
        row = books.content(part)
        if row is None:
            return None
        try:
            data = row[0] if row[0] is not None else self._segments.read_block(blob, block)
        except OSError as error:
            raise CorruptError(f"a file on this disk cannot be read: {error.strerror}") from None
        hashes = _hashes(books, blob)
        if hashes is not None and data is not None:
            with contextlib.suppress(InvalidBlockError):
                check_block(blob, block, hashes, data)
                return data
        raise _DamagedError(part, f"block {block} of blob {blob} on this disk is damaged")

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


def _open(row: Row) -> Signed | None:
    try:
        return open_record(row.value)
    except InvalidRecordError as error:
        log.warning("a record on this disk has changed and is not used: %s", error)
        return None


def _newest(books: Books, site: SiteId | None = None) -> list[Row]:
    """The newest record that lived of each site, or of one."""
    newest: dict[SiteId, Row] = {}
    for row in books.site_rows(lived=True):
        if site in (None, row.site) and _open(row) is not None:
            newest.setdefault(row.site, row)
    return list(newest.values())


def _hashes(books: Books, blob: BlobId) -> bytes | None:
    """A blob's joined block hashes, proved."""
    if blob.block_count == 1:
        return b""
    hashes = books.hashes(blob)
    if hashes is not None:
        try:
            check_hashes(blob, hashes)
        except InvalidBlockError as error:
            log.warning("hashes on this disk have changed and are not used: %s", error)
            return None
    return hashes


class _DamagedError(CorruptError):
    """Bytes that are not what their root says, and where they lie."""

    def __init__(self, part: Part, text: str) -> None:
        super().__init__(text)
        self.part = part


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
    database = folder / "records.sqlite"
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        writer, reader = Books(connect(str(database))), Books(connect(str(database)))
        return Store(writer, reader, SegmentFolder(folder / "blobs"), lock)
    except sqlite3.OperationalError as error:
        os.close(lock)
        raise UsageError(f"cannot use the database {database}: {error}") from None
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
