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
from p2pweb.store.segments import SegmentFolder, Segments, SegmentShelf

log = logging.getLogger("p2pweb.store")

# Measured (ARCHITECTURE.md): up to here a row costs less than a file, to write and to read.
INLINE_BYTES_MAX = 64 * 1024
# A publisher that fails and tries again leaves a newer record each time; only the site's key can
# make them, and two are what a retry needs.
UNPUBLISHED_KEPT = 2
# How long one connection waits for another's lock, in seconds. There are only this process's two.
LOCK_WAIT_S = 30

_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    key BLOB NOT NULL, seq INTEGER NOT NULL, segment INTEGER NOT NULL, site TEXT NOT NULL,
    is_site INTEGER NOT NULL, with_bytes INTEGER NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (key, seq)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS records_by_site ON records (site, is_site, seq);
CREATE TABLE IF NOT EXISTS warrants (
    root BLOB NOT NULL, size INTEGER NOT NULL, segment INTEGER NOT NULL,
    key BLOB NOT NULL, seq INTEGER NOT NULL,
    PRIMARY KEY (root, size, segment, key, seq)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS warrants_by_record ON warrants (key, seq);
CREATE TABLE IF NOT EXISTS segments (
    id INTEGER PRIMARY KEY, root BLOB NOT NULL, size INTEGER NOT NULL, segment INTEGER NOT NULL,
    data BLOB, UNIQUE (root, size, segment)
);
CREATE TABLE IF NOT EXISTS hashes (
    root BLOB NOT NULL, size INTEGER NOT NULL, hashes BLOB NOT NULL, PRIMARY KEY (root, size)
) WITHOUT ROWID;
"""
_SCHEMA_VERSION = 1

Part = tuple[BlobId, int]


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
        self,
        writer: sqlite3.Connection,
        reader: sqlite3.Connection,
        segments: Segments,
        folder_lock: int | None = None,
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._segments = segments
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock() if reader is not writer else self._write_lock
        self._folder_lock = folder_lock
        self._unwarranted: list[Part] = []
        segments.keep_only(self._known_files())

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """The reader's connection. CorruptError where the database cannot be read."""
        with self._read_lock:
            try:
                yield self._reader
            except sqlite3.DatabaseError as error:
                raise CorruptError(f"the database on this disk is damaged: {error}") from None

    def close(self) -> None:
        """Close the books and let another process have the directory."""
        with self._write_lock:
            self._writer.close()
            if self._reader is not self._writer:
                self._reader.close()
            if self._folder_lock is not None:
                os.close(self._folder_lock)
                self._folder_lock = None

    @property
    def is_writing(self) -> bool:
        """Whether a commit is under way, so that another one would wait for it."""
        return self._write_lock.locked()

    def commit(self, items: Sequence[Item], segments: Sequence[SegmentData] = ()) -> list[Outcome]:
        """Keep a batch; durable when this returns. One outcome for each item, in order.

        The records are verified by their type: only `open_record` makes a `Signed`.
        InvalidBlockError, and nothing kept, where a segment is not what its root says or no
        record, in the batch or here before, warrants it. OSError where the disk fails.
        """
        for data in segments:
            data.check()
        with self._write_lock:
            return self._commit(items, segments)

    def _commit(self, items: Sequence[Item], segments: Sequence[SegmentData]) -> list[Outcome]:
        with self._transaction():
            outcomes = [self._put_record(item) for item in items]
            for data in segments:
                self._put_segment(data)
            self._segments.sync()
            self._forget_superseded([item.signed.record.site for item in items])
            freed = self._free_unwarranted()
            outcomes = [
                Held(self._wants(item)) if isinstance(outcome, Held) else outcome
                for item, outcome in zip(items, outcomes, strict=True)
            ]
        # After the books no longer name them: a crash between leaves files that `keep_only` takes.
        for blob, segment in freed:
            self._segments.remove(blob, segment)
        return outcomes

    def find(self, key: bytes) -> Kept | None:
        """What a DHT key (20 bytes) holds: of a site the live version, of a path the newest one
        that the live version may name. CorruptError where the database cannot be read."""
        with self._reading() as reader:
            rows = reader.execute(
                "SELECT seq, segment, with_bytes, value, site, is_site FROM records "
                "WHERE key = ? ORDER BY seq DESC",
                (key,),
            ).fetchall()
            if not rows:
                return None
            live = self._live_seq(reader, rows[0][4])
            for seq, segment, with_bytes, value, _, is_site in rows:
                if live is None and is_site:
                    return None
                if live is None or seq <= live or (not is_site and seq == rows[-1][0]):
                    try:
                        signed = open_record(value)
                    except InvalidRecordError as error:
                        log.warning("a record on this disk has changed, not used: %s", error)
                        continue
                    has = bool(with_bytes) and not self._missing(reader, key, seq)
                    return Kept(signed, segment, has)
            return None

    def live_site(self, site: SiteId) -> Signed | None:
        """The site's newest version whose manifest is here whole."""
        kept = self.find(records.dht_key(records.site_name(site)))
        return kept.signed if kept else None

    def sites(self) -> list[SiteId]:
        """The sites of which there is any record, in order."""
        with self._reading() as reader:
            rows = reader.execute("SELECT DISTINCT site FROM records ORDER BY site")
            return [SiteId(row[0]) for row in rows]

    def read_hashes(self, blob: BlobId) -> bytes | None:
        """The joined block hashes, proved; empty for a blob of one block; None if not here."""
        if blob.block_count == 1:
            return b""
        with self._reading() as reader:
            row = reader.execute(
                "SELECT hashes FROM hashes WHERE root = ? AND size = ?",
                (blob.root, blob.size_bytes),
            ).fetchone()
        if row is None:
            return None
        try:
            check_hashes(blob, row[0])
        except InvalidBlockError as error:
            log.warning("bytes on this disk have changed and are not used: %s", error)
            return None
        return bytes(row[0])

    def read_block(self, blob: BlobId, block: int) -> bytes | None:
        """One block, proved against its root; None where it is not here.

        CorruptError, and the segment removed, where the bytes on disk have changed.
        """
        segment = block // SEGMENT_BLOCKS
        with self._reading() as reader:
            row = reader.execute(
                "SELECT data FROM segments WHERE root = ? AND size = ? AND segment = ?",
                (blob.root, blob.size_bytes, segment),
            ).fetchone()
        if row is None:
            return None
        data = row[0] if row[0] is not None else self._segments.read_block(blob, block)
        hashes = self.read_hashes(blob)
        if hashes is not None and data is not None:
            with contextlib.suppress(InvalidBlockError):
                check_block(blob, block, hashes, data)
                return bytes(data)
        self._drop(blob, segment)
        raise CorruptError(f"block {block} of blob {blob} on this disk is damaged; it was removed")

    def has(self, blob: BlobId, segment: int) -> bool:
        """Whether a segment's bytes are here."""
        with self._reading() as reader:
            return self._has(reader, blob, segment)

    def is_warranted(self, blob: BlobId, segment: int) -> bool:
        """Whether a record kept here names this segment, so that the store would take it."""
        with self._reading() as reader:
            return self._is_warranted(reader, blob, segment)

    # What follows runs inside a transaction of the writer, unless it is given a connection.

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            yield
            self._writer.execute("COMMIT")
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                self._writer.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise OSError(errno.EIO, f"the database refused a write: {error}") from None
            raise

    def _put_record(self, item: Item) -> Outcome:
        signed, record = item.signed, item.signed.record
        if not 0 <= item.segment < record.segment_count:
            return Refused(f"the record has no segment {item.segment}")
        key = records.record_key(record, item.segment)
        newest = self._writer.execute(
            "SELECT seq, value, with_bytes FROM records WHERE key = ? ORDER BY seq DESC LIMIT 1",
            (key,),
        ).fetchone()
        if newest is not None:
            seq, value, with_bytes = newest
            # Of two records of one seq every peer keeps the same one.
            if seq > record.seq or (seq == record.seq and value > signed.value):
                return Stale(seq)
            if value == signed.value and with_bytes >= item.with_bytes:
                return Held(())
        is_site = isinstance(record, SiteRecord)
        self._delete_record(key, record.seq)
        self._writer.execute(
            "INSERT INTO records (key, seq, segment, site, is_site, with_bytes, value) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (key, record.seq, item.segment, record.site, is_site, item.with_bytes, signed.value),
        )
        if item.with_bytes:
            self._writer.executemany(
                "INSERT OR IGNORE INTO warrants (root, size, segment, key, seq) "
                "VALUES (?, ?, ?, ?, ?)",
                [
                    (blob.root, blob.size_bytes, segment, key, record.seq)
                    for blob, segment in record.parts(item.segment)
                ],
            )
        return Held(())

    def _put_segment(self, data: SegmentData) -> None:
        blob, segment = data.blob, data.segment
        if not self._is_warranted(self._writer, blob, segment):
            raise InvalidBlockError(f"no record kept here names segment {segment} of blob {blob}")
        if self._has(self._writer, blob, segment):
            return
        inline = len(data.data) <= INLINE_BYTES_MAX
        if not inline:
            self._segments.write(blob, segment, data.data)
        self._writer.execute(
            "INSERT INTO segments (root, size, segment, data) VALUES (?, ?, ?, ?)",
            (blob.root, blob.size_bytes, segment, data.data if inline else None),
        )
        if data.hashes:
            self._writer.execute(
                "INSERT OR REPLACE INTO hashes (root, size, hashes) VALUES (?, ?, ?)",
                (blob.root, blob.size_bytes, data.hashes),
            )

    def _wants(self, item: Item) -> tuple[Part, ...]:
        record = item.signed.record
        key = records.record_key(record, item.segment)
        return tuple(self._missing(self._writer, key, record.seq))

    def _forget_superseded(self, sites: Sequence[SiteId]) -> None:
        """Delete the records that nobody needs any more."""
        for site in dict.fromkeys(sites):
            live = self._live_seq(self._writer, site)
            crowded = self._writer.execute(
                "SELECT key FROM records WHERE site = ? GROUP BY key HAVING count(*) > 2", (site,)
            ).fetchall()
            for (key,) in crowded:
                seqs = [
                    row[0]
                    for row in self._writer.execute(
                        "SELECT seq FROM records WHERE key = ? ORDER BY seq DESC", (key,)
                    )
                ]
                newer = [seq for seq in seqs if live is None or seq > live]
                older = seqs[len(newer) :]
                for seq in newer[UNPUBLISHED_KEPT:] + older[2:]:
                    self._delete_record(key, seq)

    def _delete_record(self, key: bytes, seq: int) -> None:
        """Delete one row; the bytes that it warranted wait for `_free_unwarranted`."""
        parts = self._writer.execute(
            "SELECT root, size, segment FROM warrants WHERE key = ? AND seq = ?", (key, seq)
        ).fetchall()
        self._writer.execute("DELETE FROM warrants WHERE key = ? AND seq = ?", (key, seq))
        self._writer.execute("DELETE FROM records WHERE key = ? AND seq = ?", (key, seq))
        self._unwarranted += [(BlobId(size, root), segment) for root, size, segment in parts]

    def _free_unwarranted(self) -> list[Part]:
        """Delete the bytes that no record names any more; the files to remove after the commit."""
        candidates, self._unwarranted = dict.fromkeys(self._unwarranted), []
        freed: list[Part] = []
        for blob, segment in candidates:
            if not self._is_warranted(self._writer, blob, segment):
                freed += self._delete_segment(blob, segment)
        return freed

    def _delete_segment(self, blob: BlobId, segment: int) -> list[Part]:
        place = (blob.root, blob.size_bytes, segment)
        row = self._writer.execute(
            "SELECT data IS NULL FROM segments WHERE root = ? AND size = ? AND segment = ?", place
        ).fetchone()
        self._writer.execute(
            "DELETE FROM segments WHERE root = ? AND size = ? AND segment = ?", place
        )
        self._writer.execute(
            "DELETE FROM hashes WHERE root = ?1 AND size = ?2 AND NOT EXISTS "
            "(SELECT 1 FROM segments WHERE root = ?1 AND size = ?2)",
            place[:2],
        )
        return [(blob, segment)] if row and row[0] else []

    def _drop(self, blob: BlobId, segment: int) -> None:
        """Remove bytes that turned out damaged, so that they count as wanted again."""
        with self._write_lock:
            with self._transaction():
                files = self._delete_segment(blob, segment)
            for _ in files:
                self._segments.remove(blob, segment)

    def _live_seq(self, connection: sqlite3.Connection, site: str) -> int | None:
        """The highest seq of the site whose manifest is here whole."""
        row = connection.execute(
            "SELECT max(r.seq) FROM records r WHERE r.site = ? AND r.is_site = 1 "
            "AND r.with_bytes = 1 AND NOT EXISTS ("
            "  SELECT 1 FROM warrants w WHERE w.key = r.key AND w.seq = r.seq AND NOT EXISTS ("
            "    SELECT 1 FROM segments s "
            "    WHERE s.root = w.root AND s.size = w.size AND s.segment = w.segment))",
            (site,),
        ).fetchone()
        return None if row is None else row[0]

    def _missing(self, connection: sqlite3.Connection, key: bytes, seq: int) -> list[Part]:
        rows = connection.execute(
            "SELECT w.root, w.size, w.segment FROM warrants w WHERE w.key = ? AND w.seq = ? "
            "AND NOT EXISTS (SELECT 1 FROM segments s "
            "  WHERE s.root = w.root AND s.size = w.size AND s.segment = w.segment) "
            "ORDER BY w.segment, w.root",
            (key, seq),
        )
        return [(BlobId(size, root), segment) for root, size, segment in rows]

    def _has(self, connection: sqlite3.Connection, blob: BlobId, segment: int) -> bool:
        return (
            connection.execute(
                "SELECT 1 FROM segments WHERE root = ? AND size = ? AND segment = ?",
                (blob.root, blob.size_bytes, segment),
            ).fetchone()
            is not None
        )

    def _is_warranted(self, connection: sqlite3.Connection, blob: BlobId, segment: int) -> bool:
        return (
            connection.execute(
                "SELECT 1 FROM warrants WHERE root = ? AND size = ? AND segment = ? LIMIT 1",
                (blob.root, blob.size_bytes, segment),
            ).fetchone()
            is not None
        )

    def _known_files(self) -> list[Part]:
        rows = self._writer.execute("SELECT root, size, segment FROM segments WHERE data IS NULL")
        return [(BlobId(size, root), segment) for root, size, segment in rows]


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
        writer = _connect(str(database))
        reader = _connect(str(database))
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
    connection = _connect(":memory:")
    return Store(connection, connection, SegmentShelf())


def _connect(database: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        database, timeout=LOCK_WAIT_S, isolation_level=None, check_same_thread=False
    )
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version not in (0, _SCHEMA_VERSION):
        raise sqlite3.DatabaseError(f"it is of version {version}, made by a newer p2pweb")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.executescript(_SCHEMA)
    connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
    return connection
