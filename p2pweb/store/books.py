"""The store's books: SQL over one connection, and no judgement.

Which records lie at which key, which bytes they warrant, which bytes are here, small ones with
their content. `Store` decides, verifies and locks; every method here is one step of a transaction
of its, or one read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from p2pweb.blobs import SEGMENT_BYTES, BlobId, Part, SegmentData
from p2pweb.errors import UsageError
from p2pweb.keys import SiteId
from p2pweb.records import Signed, SiteRecord

# How long one connection waits for another's lock, in seconds. There are only this process's two.
LOCK_WAIT_S = 30

_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    id INTEGER PRIMARY KEY, key BLOB NOT NULL, seq INTEGER NOT NULL, segment INTEGER NOT NULL,
    site TEXT NOT NULL, is_site INTEGER NOT NULL, with_bytes INTEGER NOT NULL,
    lived INTEGER NOT NULL, value BLOB NOT NULL, passing INTEGER NOT NULL DEFAULT 0,
    UNIQUE (key, value)
);
CREATE INDEX IF NOT EXISTS records_by_site ON records (site, is_site, seq);
CREATE INDEX IF NOT EXISTS site_records ON records (lived, seq) WHERE is_site = 1;
CREATE INDEX IF NOT EXISTS passing_records ON records (id) WHERE passing = 1;
CREATE TABLE IF NOT EXISTS warrants (
    root BLOB NOT NULL, size INTEGER NOT NULL, segment INTEGER NOT NULL, record INTEGER NOT NULL,
    PRIMARY KEY (root, size, segment, record)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS warrants_by_record ON warrants (record);
CREATE TABLE IF NOT EXISTS segments (
    id INTEGER PRIMARY KEY, root BLOB NOT NULL, size INTEGER NOT NULL, segment INTEGER NOT NULL,
    data BLOB, UNIQUE (root, size, segment)
);
CREATE TABLE IF NOT EXISTS hashes (
    root BLOB NOT NULL, size INTEGER NOT NULL, hashes BLOB NOT NULL, PRIMARY KEY (root, size)
) WITHOUT ROWID;
"""
_SCHEMA_VERSION = 2
# From the version before each to it.
_UPGRADES = {2: "ALTER TABLE records ADD COLUMN passing INTEGER NOT NULL DEFAULT 0"}
# Of a store with a budget the log is checkpointed after so many pages of 4 KiB, and cut back to
# its longest commit. Without one it is SQLite that decides, with fewer syncs.
_LOG_PAGES = 256
_LOG_BYTES_KEPT = 5 * 1024 * 1024
# Pages given back to the disk after one commit, at some 5 µs each.
_VACUUM_PAGES = 4_096


@dataclass(frozen=True, slots=True)
class Row:
    """A record as the books have it, its value not yet verified again.

    `lived` is set on a site's record once its manifest was here whole: from then on it was served.
    `passing` is set while its bytes are here only to be passed on.
    """

    id: int
    key: bytes
    seq: int
    segment: int
    site: SiteId
    is_site: bool
    with_bytes: bool
    lived: bool
    value: bytes
    passing: bool

    @property
    def order(self) -> tuple[int, bytes]:
        """Of two records of one seq every peer prefers the same one."""
        return self.seq, self.value


_ROW = "id, key, seq, segment, site, is_site, with_bytes, lived, value, passing"


class Books:
    """One connection to the books."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    # Records

    def rows(self, key: bytes) -> list[Row]:
        """What lies at a key, the newest first."""
        return self._rows("key = ?", key)

    def rows_of_site(self, site: SiteId) -> list[Row]:
        """Everything of a site, the newest first."""
        return self._rows("site = ?", site)

    def site_rows(self, *, lived: bool) -> list[Row]:
        """The records of whole sites, those that lived or the others, the newest first."""
        return self._rows("is_site = 1 AND lived = ?", lived)

    def _rows(self, condition: str, *parameters: object) -> list[Row]:
        found = self.connection.execute(
            f"SELECT {_ROW} FROM records WHERE {condition} ORDER BY seq DESC, value DESC",  # noqa: S608
            parameters,
        )
        return [
            Row(
                *(number, key, seq, segment, site),
                *(bool(of_site), bool(whole), bool(lived), value, bool(passing)),
            )
            for number, key, seq, segment, site, of_site, whole, lived, value, passing in found
        ]

    def add_record(
        self, key: bytes, segment: int, signed: Signed, *, with_bytes: bool, passing: bool
    ) -> int:
        """Add a row; its id."""
        record = signed.record
        number = self.connection.execute(
            "INSERT INTO records "
            "(key, seq, segment, site, is_site, with_bytes, lived, value, passing) "
            "VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?)",
            (
                *(key, record.seq, segment, record.site),
                *(isinstance(record, SiteRecord), with_bytes, signed.value, passing),
            ),
        ).lastrowid
        assert number is not None  # noqa: S101 - an INSERT has one
        if with_bytes:
            self.connection.executemany(
                "INSERT OR IGNORE INTO warrants (root, size, segment, record) VALUES (?, ?, ?, ?)",
                [
                    (blob.root, blob.size_bytes, part, number)
                    for blob, part in record.parts(segment)
                ],
            )
        return number

    def passing_rows(self) -> list[Row]:
        """What is here only to be passed on, the oldest first."""
        return sorted(self._rows("passing = ?", True), key=lambda row: row.id)

    def set_passing(self, row: Row, *, passing: bool) -> None:
        self.connection.execute("UPDATE records SET passing = ? WHERE id = ?", (passing, row.id))

    def delete_record(self, row: Row) -> list[Part]:
        """Delete one row; the bytes that it warranted, which others may warrant still."""
        parts = self.parts(row)
        self.connection.execute("DELETE FROM warrants WHERE record = ?", (row.id,))
        self.connection.execute("DELETE FROM records WHERE id = ?", (row.id,))
        return parts

    def set_lived(self, row: Row) -> None:
        self.connection.execute("UPDATE records SET lived = 1 WHERE id = ?", (row.id,))

    def sites(self) -> list[str]:
        """The sites of which there is any record, in order."""
        found = self.connection.execute("SELECT DISTINCT site FROM records ORDER BY site")
        return [site for (site,) in found]

    # Bytes

    def missing(self, row: Row) -> list[Part]:
        """The bytes that a record warrants and that are not here."""
        found = self.connection.execute(
            "SELECT w.root, w.size, w.segment FROM warrants w WHERE w.record = ? "
            "AND NOT EXISTS (SELECT 1 FROM segments s "
            "  WHERE s.root = w.root AND s.size = w.size AND s.segment = w.segment) "
            "ORDER BY w.segment, w.root",
            (row.id,),
        )
        return [(BlobId(size, root), segment) for root, size, segment in found]

    def parts(self, row: Row) -> list[Part]:
        """The bytes that a record warrants."""
        found = self.connection.execute(
            "SELECT root, size, segment FROM warrants WHERE record = ?", (row.id,)
        )
        return [(BlobId(size, root), segment) for root, size, segment in found]

    def stays(self, part: Part) -> bool:
        """Whether a file's record warrants a segment for more than passing it on."""
        return (
            self._one(
                "SELECT 1 FROM warrants WHERE {place} AND EXISTS "
                "(SELECT 1 FROM records WHERE id = record AND NOT passing AND NOT is_site) LIMIT 1",
                part,
            )
            is not None
        )

    def whole(self, keys: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        """Key and value of the records at these keys that stay, with all their bytes."""
        marks = ",".join("?" * len(keys))
        return self.connection.execute(
            "SELECT r.key, r.value FROM records r "  # noqa: S608
            f"WHERE r.key IN ({marks}) AND r.with_bytes = 1 AND NOT r.passing AND NOT EXISTS "
            "(SELECT 1 FROM warrants w WHERE w.record = r.id AND NOT EXISTS "
            "  (SELECT 1 FROM segments s "
            "  WHERE s.root = w.root AND s.size = w.size AND s.segment = w.segment))",
            keys,
        ).fetchall()

    def is_warranted(self, part: Part) -> bool:
        return self._one("SELECT 1 FROM warrants WHERE {place} LIMIT 1", part) is not None

    def content(self, part: Part) -> tuple[bytes | None, ...] | None:
        """A segment's row: its bytes, or None inside where a file has them; None for no row."""
        found: tuple[bytes | None] | None = self._one(
            "SELECT data FROM segments WHERE {place}", part
        )
        return found

    def has(self, part: Part) -> bool:
        return self._one("SELECT 1 FROM segments WHERE {place}", part) is not None

    def add_segment(self, data: SegmentData, *, inline: bool) -> None:
        blob = data.blob
        self.connection.execute(
            "INSERT INTO segments (root, size, segment, data) VALUES (?, ?, ?, ?)",
            (blob.root, blob.size_bytes, data.segment, data.data if inline else None),
        )
        if data.hashes:
            self.connection.execute(
                "INSERT OR REPLACE INTO hashes (root, size, hashes) VALUES (?, ?, ?)",
                (blob.root, blob.size_bytes, data.hashes),
            )

    def delete_segment(self, part: Part) -> bool:
        """Delete a segment's row; whether a file has its bytes."""
        row = self._one("SELECT data IS NULL FROM segments WHERE {place}", part)
        self._one("DELETE FROM segments WHERE {place}", part)
        blob, _ = part
        self.connection.execute(
            "DELETE FROM hashes WHERE root = ?1 AND size = ?2 AND NOT EXISTS "
            "(SELECT 1 FROM segments WHERE root = ?1 AND size = ?2)",
            (blob.root, blob.size_bytes),
        )
        return row is not None and bool(row[0])

    def hashes(self, blob: BlobId) -> bytes | None:
        """A blob's joined block hashes, not yet proved again."""
        row = self.connection.execute(
            "SELECT hashes FROM hashes WHERE root = ? AND size = ?", (blob.root, blob.size_bytes)
        ).fetchone()
        return None if row is None else bytes(row[0])

    def used_bytes(self) -> int:
        """The pages that hold something. Those that hold nothing are used again first."""
        (pages,), (unused,), (size_bytes,) = (
            self.connection.execute(f"PRAGMA {name}").fetchone()
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - unused) * size_bytes)

    def give_back(self) -> None:
        """Give pages that hold nothing back to the disk; not inside a transaction."""
        if self.connection.execute("PRAGMA freelist_count").fetchone()[0]:
            self.connection.execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()

    def records_after(self, number: int, count: int) -> list[Row]:
        """So many rows of records that come after one, in order."""
        (last,) = self.connection.execute(
            "SELECT max(id) FROM (SELECT id FROM records WHERE id > ? ORDER BY id LIMIT ?)",
            (number, count),
        ).fetchone()
        return self._rows("id > ? AND id <= ?", number, last or 0)

    def segments_after(self, number: int, count: int) -> list[tuple[int, Part]]:
        """So many rows of segments that come after one, in order."""
        found = self.connection.execute(
            "SELECT id, root, size, segment FROM segments WHERE id > ? ORDER BY id LIMIT ?",
            (number, count),
        )
        return [(row, (BlobId(size, root), segment)) for row, root, size, segment in found]

    def extent(self) -> tuple[int, int, int]:
        """The number of the last row, how many records there are, and the bytes of all segments."""
        found: tuple[int, int, int] = self.connection.execute(
            "SELECT max((SELECT coalesce(max(id), 0) FROM records), coalesce(max(id), 0)), "
            "(SELECT count(*) FROM records), coalesce(sum(min(size - segment * ?1, ?1)), 0) "
            "FROM segments",
            (SEGMENT_BYTES,),
        ).fetchone()
        return found

    def parts_in_files(self) -> list[Part]:
        found = self.connection.execute(
            "SELECT root, size, segment FROM segments WHERE data IS NULL"
        )
        return [(BlobId(size, root), segment) for root, size, segment in found]

    def _one(self, statement: str, part: Part) -> tuple[Any, ...] | None:
        """The first row of a statement about one segment."""
        blob, segment = part
        place = "root = ? AND size = ? AND segment = ?"
        row: tuple[Any, ...] | None = self.connection.execute(
            statement.format(place=place), (blob.root, blob.size_bytes, segment)
        ).fetchone()
        return row


def connect(database: str, *, short_log: bool = False) -> sqlite3.Connection:
    """Open the books in a file, or ":memory:". sqlite3.DatabaseError where they are damaged,
    UsageError where they are of a later version."""
    connection = sqlite3.connect(
        database, timeout=LOCK_WAIT_S, isolation_level=None, check_same_thread=False
    )
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > _SCHEMA_VERSION:
        connection.close()
        raise UsageError(
            f"the database {database} is of version {version}, made by a newer p2pweb: use that, "
            "or give this peer another directory with --data"
        )
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # Of a database that is empty yet.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    if short_log:
        connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES_KEPT}")
    for upgrade in range(version + 1, _SCHEMA_VERSION + 1) if version else ():
        connection.execute(_UPGRADES[upgrade])
    connection.executescript(_SCHEMA)
    connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
    return connection
