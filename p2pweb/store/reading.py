"""What a store says without changing anything.

Its own connection and lock: a reader never waits for a commit. Records are verified again, and
bytes proved, each time they are read.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from p2pweb import records
from p2pweb.blobs import SEGMENT_BLOCKS, BlobId, InvalidBlockError, Part, check_block, check_hashes
from p2pweb.errors import CorruptError
from p2pweb.keys import SiteId
from p2pweb.records import InvalidRecordError, Record, Signed, open_record, payload_of
from p2pweb.store.books import Books, Row
from p2pweb.store.live import LiveVersions
from p2pweb.store.segments import Segments

log = logging.getLogger("p2pweb.store")


@dataclass(frozen=True, slots=True)
class Kept:
    """What lies at a key: a verified record, for which segment, and whether its bytes are here."""

    signed: Signed
    segment: int
    has_bytes: bool


class Place(Protocol):
    """Where a store lies."""

    limit_bytes: int | None
    """The budget; None for none."""

    def free_bytes(self) -> float:
        """What its disk has left; infinity for memory."""

    def check(self) -> None:
        """OSError where it is not there any more: what is written then is lost."""

    def suspect(self) -> None:
        """The database turned out damaged: it is looked at when it is opened again."""

    def close(self) -> None:
        """Let another process have it."""


class DamagedError(CorruptError):
    """Bytes that are not what their root says, and where they lie."""

    def __init__(self, part: Part, text: str) -> None:
        super().__init__(text)
        self.part = part


class Reading:
    """The reading half of a `Store`."""

    live: LiveVersions
    """Which versions live here; changed after a commit."""

    def __init__(
        self, reader: Books, segments: Segments, place: Place, lock: threading.Lock
    ) -> None:
        self._reader = reader
        self._segments = segments
        self._place = place
        self._read_lock = lock

    def find(self, key: bytes) -> Kept | None:
        """What a DHT key (20 bytes) holds: of a site the live version, of a path the record that
        this one names, else the newest. CorruptError where the database cannot be read."""
        with self._reading() as books:
            rows = books.rows(key)
            if not rows:
                return None
            live = self.live.get(rows[0].site)
            opened = [(row, signed) for row in rows if (signed := open_row(row)) is not None]
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
        """Whether just this record lies at a key for good, and, where they are asked for, all its
        bytes."""
        payload = records.encode_record(record)
        with self._reading() as books:
            return any(
                payload_of(row.value) == payload
                and not row.passing
                and (not with_bytes or (row.with_bytes and not books.missing(row)))
                for row in books.rows(key)
            )

    def holds_whole(self, wanted: Sequence[tuple[bytes, Record]]) -> list[bool]:
        """Of each key and record, up to some hundred, what `holds` says of it with its bytes."""
        with self._reading() as books:
            found = books.whole([key for key, _ in wanted])
        here = {(key, payload_of(value)) for key, value in found}
        return [(key, records.encode_record(record)) in here for key, record in wanted]

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

    def last_row(self) -> int:
        """Where a look through everything may begin at the latest."""
        with self._reading() as books:
            return books.extent()[0]

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Books]:
        """The reader's books. CorruptError where the database cannot be read."""
        with self._read_lock:
            try:
                yield self._reader
            except sqlite3.DatabaseError as error:
                self._note_damage(error)
                raise CorruptError(
                    f"the database on this disk cannot be read ({error}): start the peer again, "
                    "and it is made anew from other peers"
                ) from None

    def _read(self, books: Books, blob: BlobId, block: int) -> bytes | None:
        """As `read_block`, with one connection; DamagedError where the bytes have changed."""
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
        raise DamagedError(part, f"block {block} of blob {blob} on this disk is damaged")

    def _note_damage(self, error: sqlite3.Error) -> None:
        # The disk that is full, read-only or slow is an OperationalError.
        if type(error) is sqlite3.DatabaseError:
            self._place.suspect()


def open_row(row: Row) -> Signed | None:
    """The record of a row, verified again; None where it is not what was written."""
    try:
        return open_record(row.value)
    except InvalidRecordError as error:
        log.warning("a record on this disk has changed and is not used: %s", error)
        return None


def newest(books: Books, site: SiteId | None = None) -> list[Row]:
    """The newest record that lived of each site, or of one."""
    found: dict[SiteId, Row] = {}
    for row in books.site_rows(lived=True):
        if site in (None, row.site) and open_row(row) is not None:
            found.setdefault(row.site, row)
    return list(found.values())


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
