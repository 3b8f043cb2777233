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
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from p2pweb.blobs import (
    BlobId,
    InvalidBlockError,
    Part,
    SegmentData,
    size_of,
)
from p2pweb.errors import CorruptError
from p2pweb.keys import SiteId
from p2pweb.manifest import InvalidManifestError, Manifest
from p2pweb.records import Record, SiteRecord, open_record, payload_of
from p2pweb.store.allowance import Allowance
from p2pweb.store.books import Books, Row
from p2pweb.store.items import Full, Held, Item, Outcome, Refused, Stale
from p2pweb.store.live import LiveVersion, LiveVersions, order_of
from p2pweb.store.reading import DamagedError, Place, Reading, newest, open_row
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A look through some rows: the row to go on after, how many they were and what part of all
    bytes, and how many were damaged."""

    after: int
    rows: int
    share: float
    damaged: int


class Store(Reading):
    """Open with `opening.open_store` or `opening.memory_store`; `close` when done."""

    def __init__(self, writer: Books, reader: Books, segments: Segments, place: Place) -> None:
        self._write_lock = threading.Lock()
        read_lock = threading.Lock() if reader is not writer else self._write_lock
        super().__init__(reader, segments, place, read_lock)
        self._writer = writer
        self._unwarranted: list[Part] = []
        # The files of the transaction under way.
        self._written: list[Part] = []
        self._allowance = Allowance()
        if lost := segments.keep_only(writer.parts_in_files()):
            log.warning("%d segments are not on this disk any more", len(lost))
            with self._transaction():
                for part in lost:
                    writer.delete_segment(part)
        self._count_passing()
        # The blobs that somebody read, the latest last.
        self._read_lately: OrderedDict[BlobId, None] = OrderedDict()
        self.live = LiveVersions({row.site: self._load_live(row) for row in newest(writer)})

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
                    for part in item.parts
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
            self.live.change(live)
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
        free, passing = self._place.free_bytes(), self._allowance.passing_bytes
        return Room(self._place.limit_bytes, free, used, passing)

    def _count_passing(self) -> None:
        self._allowance.count_passing(
            (row.id, row.key, size_of(self._writer.parts(row)))
            for row in self._writer.passing_rows()
        )

    def _make_room(self, items: Sequence[Item], segments: Sequence[SegmentData]) -> None:
        """Let go of what was only passed on, as far as a commit of these needs its room."""
        room = self._room_to_write()
        parts = {part for item in items if item.with_bytes for part in item.parts}
        parts |= {(data.blob, data.segment) for data in segments}
        needed = size_of(parts) + len(items) * RECORD_BYTES
        if room.in_all < needed:
            with self._transaction():
                for number, key in self._allowance.to_go(needed - room.in_all):
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
        self._allowance.renew(room)

    def _take_room(self, item: Item, size_bytes: float) -> bool:
        """Whether there is room for so many more bytes of an item; then they count as taken."""
        is_site = isinstance(item.signed.record, SiteRecord)
        return self._allowance.take(size_bytes, for_good=not (item.passing or is_site))

    def _full(self, item: Item) -> Full:
        room = self._room_to_write()
        waits = item.passing and size_of(item.parts) <= room.in_all + room.passing_bytes
        return Full(f"the disk is full: {room}", for_now=waits)

    def placing(self, items: Sequence[Item]) -> AbstractContextManager[None]:
        """While these are placed on other peers, nothing else takes their room."""
        return self._allowance.placing(item.key for item in items)

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
            self._allowance.renew(self._room_to_write())
            with self._transaction():
                for row in self._writer.passing_rows():
                    if row.key in wanted:
                        self._mark_passing(row, passing=False)

    def _mark_passing(self, row: Row, *, passing: bool) -> bool:
        """Whether that could be done: what stays must have its room."""
        size_bytes = size_of(self._writer.parts(row))
        if passing:
            self._allowance.passes(row.id, row.key, size_bytes)
        elif not self._allowance.stays(row.id, size_bytes):
            return False
        self._writer.set_passing(row, passing=passing)
        return True

    def _delete_record(self, row: Row) -> None:
        self._allowance.is_gone(row.id)
        self._unwarranted += self._writer.delete_record(row)

    # What a commit is made of

    def _put_record(self, item: Item) -> Outcome:
        record = item.signed.record
        if not 0 <= item.segment < record.segment_count:
            return Refused(f"the record has no segment {item.segment}")
        key = item.key
        live = self.live.get(record.site)
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
            self._allowance.passes(number, key, size_of(item.parts))
        return Held(())

    def _wants(self, item: Item, changed: dict[SiteId, LiveVersion]) -> Outcome:
        """Held, with what is lacking, for which there is room; or the version that went live just
        now, and took it away."""
        for row in self._writer.rows(item.key):
            if row.value == item.signed.value:
                lacking = self._writer.missing(row)
                if not lacking or self._take_room(item, size_of(lacking)):
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
        if not self._allowance.take(size_bytes, for_good=stays):
            return
        inline = size_bytes <= INLINE_BYTES_MAX
        if not inline:
            self._written.append(part)
            self._segments.write(data.blob, data.segment, data.data)
        self._writer.add_segment(data, inline=inline)

    def _go_live(self) -> dict[SiteId, LiveVersion]:
        """The versions whose manifests are whole since this batch; what they supersede goes."""
        changed: dict[SiteId, LiveVersion] = {}
        for site in self.live.damaged():
            changed |= {row.site: self._load_live(row) for row in newest(self._writer, site)}
        for row in self._writer.site_rows(lived=False):
            before = changed.get(row.site) or self.live.get(row.site)
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
            if isinstance(error, DamagedError):
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

    # Reading, where what is damaged is removed

    def was_read(self, record: Record) -> bool:
        """Whether somebody read of a record's bytes lately."""
        return any(blob in self._read_lately for blob, _ in record.parts(0))

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
        except DamagedError as damage:
            with contextlib.suppress(OSError):  # On a full disk it stays, and is never used.
                self._drop(damage.part)
            raise CorruptError(f"{damage}; it was removed") from None

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
        rotten = [row for row in records_seen if open_row(row) is None]
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
        seen_bytes = size_of(parts_seen) + RECORD_BYTES * len(records_seen)
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
