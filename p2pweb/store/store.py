"""The one door to what a peer keeps. It verifies records and bytes, in and out.

In: `commit` takes a batch of verified records and of segments, proves each segment, refuses bytes
that no record warrants, writes, syncs, and only then says what is held. Out: `read_block` proves
each block against its root; bytes that have rotted are removed, never returned.

A key keeps the records that somebody may still need: those that the live version's manifest names,
those that the one before names (downloads under way, peers that have not switched), and the newest
of those that are newer than the live version (a publish under way, or one that failed). The bare
number of a record does not tell whether it lives: a publish that failed leaves records behind.
Bytes that no kept record warrants are freed. What there is no room for is answered `Full`, but for
what is only passed on: that goes when something else comes, the oldest first.

Synchronous. Reads and writes use one connection each, so a reader never waits for a commit; each
may be called from any one thread at a time.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import sqlite3
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from p2pweb import records
from p2pweb.blobs import (
    SEGMENT_BLOCKS,
    BlobId,
    InvalidBlockError,
    SegmentData,
    check_block,
    check_hashes,
)
from p2pweb.delta import delta_of
from p2pweb.errors import CorruptError
from p2pweb.keys import SiteId
from p2pweb.manifest import InvalidManifestError, Manifest
from p2pweb.records import InvalidRecordError, Record, Signed, SiteRecord, open_record, payload_of
from p2pweb.store.books import Books, Part, Row
from p2pweb.store.live import LiveVersion, order_of
from p2pweb.store.room import RECORD_BYTES, Room
from p2pweb.store.segments import Segments

log = logging.getLogger("p2pweb.store")

# Measured (ARCHITECTURE.md): up to here a row costs less than a file, to write and to read.
INLINE_BYTES_MAX = 64 * 1024
# A publisher that fails and tries again leaves a newer record each time; only the site's key can
# make them, and two are what a retry needs.
UNPUBLISHED_KEPT = 2
# Blobs of which it is known that they were read, to keep those longer: some 200 bytes each.
READ_LATELY_MAX = 16_384
# Deltas of manifests in memory: those of the last few versions of a site that changes little.
DELTAS_BYTES_MAX = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Item:
    """A verified record to keep at the key of one of its segments, with its bytes or without.

    `passing` is for those that are to be placed on other peers, and may then go.
    """

    signed: Signed
    segment: int = 0
    with_bytes: bool = True
    passing: bool = False


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


@dataclass(frozen=True, slots=True)
class Full:
    """Not kept, for want of room; `why` says how much is used.

    With `for_now`, there will be room when what is being passed on has gone.
    """

    why: str
    for_now: bool = False


Outcome = Held | Stale | Refused | Full


@dataclass(frozen=True, slots=True)
class Kept:
    """What lies at a key: a verified record, for which segment, and whether its bytes are here."""

    signed: Signed
    segment: int
    has_bytes: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A look through some rows: the row to go on after, how many they were and what part of all
    bytes, and how many were damaged."""

    after: int
    rows: int
    share: float
    damaged: int


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


class Store:
    """Open with `opening.open_store` or `opening.memory_store`; `close` when done."""

    def __init__(self, writer: Books, reader: Books, segments: Segments, place: Place) -> None:
        self._writer = writer
        self._reader = reader
        self._segments = segments
        self._place = place
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock() if reader is not writer else self._write_lock
        self._unwarranted: list[Part] = []
        # The files of the transaction under way.
        self._written: list[Part] = []
        # The rows that are only passed on, the oldest first: their keys and sizes.
        self._passing: OrderedDict[int, tuple[bytes, int]] = OrderedDict()
        # Those of them that are being placed, by key.
        self._placing: Counter[bytes] = Counter()
        # What the commit under way may still take for good, and in all.
        self._left_for_good = self._left_in_all = 0.0
        if lost := segments.keep_only(writer.parts_in_files()):
            log.warning("%d segments are not on this disk any more", len(lost))
            with self._transaction():
                for part in lost:
                    writer.delete_segment(part)
        self._count_passing()
        # The blobs that somebody read, the latest last.
        self._read_lately: OrderedDict[BlobId, None] = OrderedDict()
        # Its values are replaced after a commit and never changed: read without a lock.
        self._live = {row.site: self._load_live(row) for row in _newest(writer)}
        # How the manifests that went live differ from those before them, by root; the latest last.
        self._deltas: OrderedDict[bytes, bytes] = OrderedDict()

    def close(self) -> None:
        """Close the books and let another process have the directory."""
        with self._write_lock:
            self._reader.connection.close()
            self._writer.connection.close()
            self._place.close()

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
            self._make_room(items, segments)
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
                self._place.check()
                live = self._go_live()
                outcomes = [
                    self._wants(item, live) if isinstance(outcome, Held) else outcome
                    for item, outcome in zip(items, outcomes, strict=True)
                ]
                freed = self._free_unwarranted()
            self._note_deltas(live)
            self._live |= live
            self._remove_files(freed)
        return outcomes

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        connection = self._writer.connection
        self._written.clear()
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("COMMIT")
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            # The disk may be full: what no book names must not stay on it.
            with contextlib.suppress(OSError):
                self._remove_files(self._written)
            self._unwarranted.clear()
            with contextlib.suppress(sqlite3.Error):
                self._count_passing()
            if isinstance(error, sqlite3.Error):
                raise self._fault(error) from None
            raise

    def _fault(self, error: sqlite3.Error) -> OSError:
        """As what a writer's error is told."""
        self._note_damage(error)
        return OSError(errno.EIO, f"the database refused a write: {error}")

    def _note_damage(self, error: sqlite3.Error) -> None:
        # The disk that is full, read-only or slow is an OperationalError.
        if type(error) is sqlite3.DatabaseError:
            self._place.suspect()

    def _remove_files(self, parts: Iterable[Part]) -> None:
        """Remove files that no book names; a crash before this leaves them for `keep_only`."""
        for blob, segment in parts:
            self._segments.remove(blob, segment)

    # Room

    @property
    def has_budget(self) -> bool:
        return self._place.limit_bytes is not None

    def room(self) -> Room:
        """What is used, and what there is room for."""
        with self._reading() as books:
            return self._room(books)

    def _room_to_write(self) -> Room:
        """The room as the writer sees it. OSError where the disk cannot be read."""
        try:
            return self._room(self._writer)
        except sqlite3.Error as error:
            raise self._fault(error) from None

    def _room(self, books: Books) -> Room:
        used = books.used_bytes() + self._segments.used_bytes
        passing = sum(size for _, size in self._passing.values())
        return Room(self._place.limit_bytes, self._place.free_bytes(), used, passing)

    def _count_passing(self) -> None:
        self._passing.clear()
        for row in self._writer.passing_rows():
            self._passing[row.id] = (row.key, _size(self._writer.parts(row)))

    def _make_room(self, items: Sequence[Item], segments: Sequence[SegmentData]) -> None:
        """Let go of what was only passed on, as far as a commit of these needs its room."""
        room = self._room_to_write()
        parts = {part for item in items if item.with_bytes for part in _parts(item)}
        parts |= {(data.blob, data.segment) for data in segments}
        needed = _size(parts) + len(items) * RECORD_BYTES
        if room.in_all < needed:
            excess = needed - room.in_all
            with self._transaction():
                for number, (key, size_bytes) in list(self._passing.items()):
                    if excess > 0 and key not in self._placing:
                        excess -= size_bytes
                        for row in self._writer.rows(key):
                            if row.id == number:
                                self._delete_record(row)
                freed = self._free_unwarranted()
            self._remove_files(freed)
            room = self._room_to_write()
        if self._place.limit_bytes is not None:
            try:
                self._writer.give_back()
            except sqlite3.Error as error:
                raise self._fault(error) from None
        self._left_for_good, self._left_in_all = room.for_good, room.in_all

    def _take_room(self, item: Item, size_bytes: float) -> bool:
        """Whether there is room for so many more bytes of an item; then they count as taken."""
        is_site = isinstance(item.signed.record, SiteRecord)
        if not item.passing and not is_site:
            if size_bytes > self._left_for_good:
                return False
            self._left_for_good -= size_bytes
        if size_bytes > self._left_in_all:
            return False
        self._left_in_all -= size_bytes
        return True

    def _full(self, item: Item) -> Full:
        room = self._room_to_write()
        waits = item.passing and _size(_parts(item)) <= room.in_all + room.passing_bytes
        return Full(f"the disk is full: {room}", for_now=waits)

    @contextlib.contextmanager
    def placing(self, items: Sequence[Item]) -> Iterator[None]:
        """While these are placed on other peers, nothing else takes their room."""
        keys = Counter(_key(item) for item in items)
        self._placing += keys
        try:
            yield
        finally:
            self._placing -= keys

    def let_pass(self, keys: Iterable[bytes]) -> None:
        """What lies at these keys stays no longer than its room is not needed: others have it."""
        with self._write_lock, self._transaction():
            for row in (row for key in keys for row in self._writer.rows(key)):
                if row.with_bytes and not row.is_site and not row.passing:
                    self._mark_passing(row, passing=True)

    def retain(self, keys: Iterable[bytes]) -> None:
        """Of what lies at these keys to be passed on, that stays for which there is room."""
        wanted = set(keys)
        with self._write_lock:
            room = self._room_to_write()
            self._left_for_good, self._left_in_all = room.for_good, room.in_all
            with self._transaction():
                for row in self._writer.passing_rows():
                    if row.key in wanted:
                        self._mark_passing(row, passing=False)

    def _mark_passing(self, row: Row, *, passing: bool) -> bool:
        """Whether that could be done: what stays must have its room."""
        size_bytes = _size(self._writer.parts(row))
        if passing:
            self._passing[row.id] = (row.key, size_bytes)
        else:
            if size_bytes > self._left_for_good:
                return False
            self._left_for_good -= size_bytes
            self._passing.pop(row.id, None)
        self._writer.set_passing(row, passing=passing)
        return True

    def _delete_record(self, row: Row) -> None:
        self._passing.pop(row.id, None)
        self._unwarranted += self._writer.delete_record(row)

    # What a commit is made of

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
                    stays = item.passing or not (row.passing and item.with_bytes)
                    if stays or self._mark_passing(row, passing=False):
                        return Held(())
                    return self._full(item)
                self._delete_record(row)
        # Of the records newer than the live version, only one of a higher seq crowds another out:
        # what was answered Held must not go because somebody sends an old attempt again.
        live_seq = live.signed.record.seq if live else 0
        newer = [row for row in rows if row.seq > live_seq and row.value != item.signed.value]
        if record.seq > live_seq and len(newer) >= UNPUBLISHED_KEPT:
            if record.seq <= newer[-1].seq:
                return Stale(newer[0].value)
            for row in newer[UNPUBLISHED_KEPT - 1 :]:
                self._delete_record(row)
        if not self._take_room(item, RECORD_BYTES):
            return self._full(item)
        number = self._writer.add_record(
            key, item.segment, item.signed, with_bytes=item.with_bytes, passing=item.passing
        )
        if item.passing:
            self._passing[number] = (key, _size(_parts(item)))
        return Held(())

    def _wants(self, item: Item, changed: dict[SiteId, LiveVersion]) -> Outcome:
        """Held, with what is lacking, for which there is room; or the version that went live just
        now, and took it away."""
        for row in self._writer.rows(_key(item)):
            if row.value == item.signed.value:
                lacking = self._writer.missing(row)
                if not lacking or self._take_room(item, _size(lacking)):
                    return Held(tuple(lacking))
                self._delete_record(row)
                return self._full(item)
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
        # Whoever sends bytes without their record is told when the record comes again.
        size_bytes = len(data.data)
        stays = self._place.limit_bytes is None or self._writer.stays(part)
        if size_bytes > min(self._left_in_all, self._left_for_good if stays else math.inf):
            return
        self._left_in_all -= size_bytes
        self._left_for_good -= size_bytes if stays else 0
        inline = size_bytes <= INLINE_BYTES_MAX
        if not inline:
            self._written.append(part)
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

    def _note_deltas(self, changed: dict[SiteId, LiveVersion]) -> None:
        for site, live in changed.items():
            before = self._live.get(site)
            if before is None or before.manifest is None or live.manifest is None:
                continue
            old, new = before.signed.record.blobs[0], live.signed.record.blobs[0]
            delta = delta_of(before.manifest, old.root, live.manifest, new.size_bytes)
            if delta is not None and new != old:
                self._deltas[new.root] = delta
        while sum(map(len, self._deltas.values())) > DELTAS_BYTES_MAX:
            self._deltas.popitem(last=False)

    def _forget_superseded(self, lived: Row, live: LiveVersion, before: LiveVersion | None) -> None:
        """Delete what neither this version nor the one before names.

        What the one before alone names goes too when there is no room for something else.
        """
        kept = {lived.value, before.signed.value if before else b""}
        named = live.payloads()
        live_now = replace(live, before=None).payloads()
        for row in self._writer.rows_of_site(lived.site):
            is_needed = row.value in kept or payload_of(row.value) in named
            # Of two publishes of one seq the other may still win; the next version frees the
            # loser's files.
            is_over = row.seq < lived.seq or (row.seq == lived.seq and row.is_site)
            may_go = is_over and row.with_bytes and payload_of(row.value) not in live_now
            if is_over and not is_needed:
                self._delete_record(row)
            elif self.has_budget and may_go and not (row.is_site or row.passing):
                self._mark_passing(row, passing=True)

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
                self._note_damage(error)
                raise CorruptError(
                    f"the database on this disk cannot be read ({error}): start the peer again, "
                    "and it is made anew from other peers"
                ) from None

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

    def was_read(self, record: Record) -> bool:
        """Whether somebody read of a record's bytes lately."""
        return any(blob in self._read_lately for blob, _ in record.parts(0))

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

    def live_seq(self, site: SiteId) -> int:
        """The seq of the live version; 0 where none is known here."""
        live = self._live.get(site)
        return live.signed.record.seq if live else 0

    def is_live(self, record: Record) -> bool:
        """Whether the live version has just this of the record's path."""
        live = self._live.get(record.site)
        return live is not None and live.has(record)

    def live_manifest(self, signed: Signed) -> Manifest | None:
        """The manifest of a site's record, if that is the live version and its manifest is here."""
        live = self._live.get(signed.record.site)
        return live.manifest if live is not None and live.signed == signed else None

    def version_before(self, signed: Signed) -> LiveVersion | None:
        """The live version, where this record is a newer one's; None where none is here."""
        live = self._live.get(signed.record.site)
        return live if live is not None and order_of(signed) > order_of(live.signed) else None

    def delta(self, root: bytes) -> bytes | None:
        """How the manifest with this root (32 bytes) differs from the one before it (`delta`); None
        where that is not known, or would not be worth it."""
        return self._deltas.get(root)

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
                self._read_lately[blob] = None
                self._read_lately.move_to_end(blob)
                while len(self._read_lately) > READ_LATELY_MAX:
                    self._read_lately.popitem(last=False)
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

    def last_row(self) -> int:
        """Where a look through everything may begin at the latest."""
        with self._reading() as books:
            return books.extent()[0]

    def look_through(self, after: int, rows_max: int, size_bytes_max: int) -> Look:
        """Prove what comes after a row, up to so many rows and about so many bytes.

        What is damaged is removed. OSError or CorruptError where the disk fails.
        """
        with self._reading() as books:
            _, record_count, total_bytes = books.extent()
            found = books.records_after(after, rows_max)
            parts = books.segments_after(after, rows_max)
        rows = {row.id: row for row in found}
        ends = [max(rows, default=0)] * (len(found) == rows_max)
        size_bytes = 0
        for number, (blob, segment) in parts:
            size_bytes += blob.segment_size(segment)
            if size_bytes >= size_bytes_max:
                ends.append(number)
                break
        else:
            ends += [parts[-1][0]] if len(parts) == rows_max else []
        end = min(ends, default=math.inf)
        records_seen = [row for row in rows.values() if row.id <= end]
        parts_seen = [part for number, part in parts if number <= end]
        rotten = [row for row in records_seen if _open(row) is None]
        damaged = len(rotten)
        for part in parts_seen:
            try:
                self.read_segment(*part)
            except CorruptError as error:
                log.warning("%s", error)
                damaged += 1
        if rotten:
            with self._write_lock:
                with self._transaction():
                    for row in rotten:
                        self._delete_record(row)
                    freed = self._free_unwarranted()
                self._remove_files(freed)
        seen_bytes = _size(parts_seen) + RECORD_BYTES * len(records_seen)
        return Look(
            after=0 if math.isinf(end) else int(end),
            rows=len(records_seen) + len(parts_seen),
            share=seen_bytes / max(1, total_bytes + RECORD_BYTES * record_count),
            damaged=damaged,
        )

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


def _parts(item: Item) -> list[Part]:
    return item.signed.record.parts(item.segment)


def _size(parts: Iterable[Part]) -> int:
    return sum(blob.segment_size(segment) for blob, segment in parts)
