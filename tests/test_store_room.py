"""A store with a budget: what it takes, what it lets go, what it refuses."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_store import KEY, content, damage, file_of, go_live, put, read

from p2pweb.blobs import SEGMENT_BYTES, SegmentData, blob_of, segments_of
from p2pweb.errors import CorruptError, UsageError
from p2pweb.records import Signed, record_key
from p2pweb.store.items import Full, Held, Item, Outcome
from p2pweb.store.opening import memory_store, open_store
from p2pweb.store.room import (
    BUDGET_BYTES_MIN,
    DISK_RESERVE_BYTES,
    LOG_BYTES,
    PASSING_BYTES,
    Room,
    parse_budget,
)
from p2pweb.store.store import Store

BUDGET = BUDGET_BYTES_MIN
LONG = 1_900_000
# Of these so many stay.
FIT = (BUDGET - LOG_BYTES - PASSING_BYTES) // LONG


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    is_disk = request.param == "disk"
    opened = open_store(tmp_path / "data", BUDGET) if is_disk else memory_store(BUDGET)
    yield opened
    opened.close()


def offer(store: Store, number: int, *, passing: bool = False, size: int = LONG) -> Outcome:
    data = content(size, seed=number)
    item = Item(file_of(data, path=f"/{number}"), passing=passing)
    return store.commit([item], segments_of(data))[0]


def has(store: Store, number: int, size: int = LONG) -> bool:
    return read(store, content(size, seed=number)) is not None


def key_of(number: int) -> bytes:
    return record_key(file_of(content(LONG, seed=number), path=f"/{number}").record)


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def test_what_there_is_no_room_for_is_refused_and_says_how_much_is_used(store: Store) -> None:
    outcomes = [offer(store, number) for number in range(FIT + 2)]
    assert outcomes[:FIT] == [Held(())] * FIT
    assert [type(outcome) for outcome in outcomes[FIT:]] == [Full, Full]
    assert isinstance(outcomes[-1], Full)
    assert "the disk is full: " in outcomes[-1].why
    assert "with a budget of 32.0 MB in all" in outcomes[-1].why
    assert [has(store, number) for number in range(FIT + 2)] == [True] * FIT + [False] * 2
    assert store.find(key_of(FIT + 1)) is None


@pytest.mark.parametrize("size", [60_000, LONG, SEGMENT_BYTES])
def test_a_directory_never_holds_more_than_its_budget(tmp_path: Path, size: int) -> None:
    store = open_store(tmp_path, BUDGET)
    peak = 0
    bundle = max(1, SEGMENT_BYTES // size // 4)
    for start in range(0, 2 * BUDGET // size, bundle):
        passing = start // bundle % 2 == 0
        contents = [content(size, seed=number) for number in range(start, start + bundle)]
        items = [
            Item(file_of(data, path=f"/{start + n}"), passing=passing)
            for n, data in enumerate(contents)
        ]
        store.commit(items, [part for data in contents for part in segments_of(data)])
        peak = max(peak, on_disk(tmp_path))
    assert BUDGET // 2 < peak <= BUDGET
    store.close()


def test_what_is_only_passed_on_makes_room_the_oldest_first(store: Store) -> None:
    passed = range(100, 100 + 3 * FIT)
    assert all(offer(store, number, passing=True) == Held(()) for number in passed)
    assert not has(store, passed[0])
    assert has(store, passed[-1])
    assert [offer(store, number) for number in range(FIT)] == [Held(())] * FIT
    assert all(has(store, number) for number in range(FIT))


def test_what_is_being_placed_does_not_go_and_others_wait(store: Store) -> None:
    many = (BUDGET - LOG_BYTES) // LONG
    items = [Item(file_of(content(LONG, seed=n), path=f"/{n}"), passing=True) for n in range(many)]
    with store.placing(items):
        for number in range(many):
            offer(store, number, passing=True)
        late = offer(store, many, passing=True)
        assert isinstance(late, Full)
        assert late.for_now
        assert all(has(store, number) for number in range(many - 1))
    assert offer(store, many, passing=True) == Held(())


def test_what_was_passed_on_may_stay_as_far_as_there_is_room(store: Store) -> None:
    many = (BUDGET - LOG_BYTES) // LONG - 1
    for number in range(many):
        offer(store, number, passing=True)
    record = file_of(content(LONG, seed=0), path="/0").record
    assert not store.holds(key_of(0), record, with_bytes=True), "it may go"
    store.retain(key_of(number) for number in range(many))
    kept = [
        store.holds(key_of(n), file_of(content(LONG, seed=n), path=f"/{n}").record, with_bytes=True)
        for n in range(many)
    ]
    assert kept == [True] * FIT + [False] * (many - FIT)


def test_a_copy_offered_again_to_stay_is_counted_only_if_it_may(store: Store) -> None:
    for number in range(FIT):
        offer(store, number)
    assert offer(store, FIT, passing=True) == Held(())
    again = store.commit([Item(file_of(content(LONG, seed=FIT), path=f"/{FIT}"))])[0]
    assert isinstance(again, Full)
    assert has(store, FIT), "it goes on being passed on"
    store.let_pass([key_of(0)])
    assert store.commit([Item(file_of(content(LONG, seed=FIT), path=f"/{FIT}"))]) == [Held(())]


def test_bytes_that_come_after_their_record_find_no_room_and_it_goes_again(store: Store) -> None:
    signed = [file_of(content(LONG, seed=n), path=f"/{n}") for n in range(FIT + 1)]
    for number in range(FIT):
        offer(store, number)
    assert isinstance(store.commit([Item(signed[FIT])])[0], Full), "it would want bytes"
    assert store.commit([Item(signed[FIT], with_bytes=False)]) == [Held(())], "a record still fits"


def test_a_sites_own_record_comes_in_when_files_do_not(store: Store) -> None:
    for number in range(FIT + 1):
        last = offer(store, number)
    assert isinstance(last, Full)
    live = file_of(content(LONG, seed=0), path="/0")
    go_live(store, 1, live)
    assert store.live.seq(KEY.site) == 1


def test_a_new_version_frees_the_one_before_the_last(store: Store) -> None:
    def version(seq: int, number: int) -> Signed:
        data = content(3 * LONG, seed=number)
        put(store, data, path="/long", seq=seq)
        return file_of(data, path="/long", seq=seq)

    for seq in range(1, 6):
        go_live(store, seq, version(seq, seq))
        assert seq == 1 or has(store, seq - 1, 3 * LONG), "downloads under way go on"
    assert not has(store, 3, 3 * LONG)
    assert has(store, 5, 3 * LONG)


def test_a_store_opened_again_knows_what_it_uses_and_what_may_go(tmp_path: Path) -> None:
    store = open_store(tmp_path, BUDGET)
    offer(store, 0)
    offer(store, 1, passing=True)
    before = store.room()
    store.close()
    again = open_store(tmp_path, BUDGET)
    after = again.room()
    assert (after.used_bytes, after.passing_bytes) == (before.used_bytes, before.passing_bytes)
    assert after.passing_bytes == LONG
    again.close()


def test_a_file_cut_short_while_the_peer_was_off_is_wanted_again(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    put(store, content(LONG))
    store.close()
    (path,) = (path for path in (tmp_path / "blobs").rglob("*") if path.is_file())
    path.write_bytes(path.read_bytes()[:-1])
    again = open_store(tmp_path)
    assert not again.has(blob_of(content(LONG))[0], 0)
    assert not path.exists()
    put(again, content(LONG))
    again.close()


def test_a_database_of_the_version_before_is_taken_over(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    put(store, b"old")
    store.close()
    database = sqlite3.connect(tmp_path / "records.sqlite")
    database.executescript(
        "DROP INDEX passing_records; ALTER TABLE records DROP COLUMN passing;"
        "PRAGMA user_version = 1;"
    )
    database.close()
    again = open_store(tmp_path)
    assert read(again, b"old") == b"old"
    assert again.find(record_key(file_of(b"old").record)) is not None
    again.close()


def test_a_directory_that_vanishes_is_no_place_to_count_copies_in(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    store = open_store(folder)
    put(store, b"here")
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"records\.sqlite is gone"):
        put(store, b"lost", path="/lost")
    folder.mkdir()
    (folder / "records.sqlite").touch()
    with pytest.raises(OSError, match="was replaced: start the peer again"):
        put(store, b"lost", path="/lost")
    assert read(store, b"here") == b"here", "what is open is served"
    store.close()


def test_a_damaged_database_is_put_aside_and_the_store_starts_empty(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    put(store, b"here")
    store.close()
    (tmp_path / "records.sqlite").write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 64)
    again = open_store(tmp_path)
    assert (tmp_path / "records.sqlite.damaged").exists()
    assert read(again, b"here") is None
    put(again, b"here")
    assert read(again, b"here") == b"here"
    again.close()


def test_a_page_that_turns_out_damaged_is_told_and_mended_by_a_start(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    contents = [content(20_000, seed=number) for number in range(100)]
    items = [Item(file_of(data, path=f"/{n}")) for n, data in enumerate(contents)]
    store.commit(items, [part for data in contents for part in segments_of(data)])
    store.close()
    again = open_store(tmp_path)
    with (tmp_path / "records.sqlite").open("r+b") as database:
        database.seek(20 * 4096)
        database.write(bytes([0xA5]) * 1_000_000)
    seen: list[str] = []
    for item, data in zip(items, contents, strict=True):
        try:
            again.find(record_key(item.signed.record))
            again.read_block(blob_of(data)[0], 0)
        except CorruptError as error:
            seen.append(str(error))
    again.close()
    assert any("start the peer again" in text for text in seen)
    mended = open_store(tmp_path)
    assert (tmp_path / "records.sqlite.damaged").exists()
    put(mended, b"new")
    mended.close()


@pytest.mark.parametrize("size", [10, 70_000])
def test_a_look_through_everything_finds_what_rotted_and_removes_it(
    tmp_path: Path, size: int
) -> None:
    store = open_store(tmp_path)
    for number in range(5):
        put(store, content(size, seed=number), path=f"/{number}")
    assert looked_through(store) == (10, 0, pytest.approx(1.0))
    damage(tmp_path)
    assert looked_through(store)[1] == 5
    assert looked_through(store)[1] == 0
    assert all(read(store, content(size, seed=number)) is None for number in range(5))
    store.close()
    database = sqlite3.connect(tmp_path / "records.sqlite")
    with database:
        database.execute("UPDATE records SET value = zeroblob(100) WHERE id = 2")
    database.close()
    again = open_store(tmp_path)
    assert looked_through(again)[:2] == (5, 1)
    assert looked_through(again)[:2] == (4, 0)
    again.close()


def looked_through(store: Store) -> tuple[int, int, float]:
    """Rows, damaged ones and the share of everything, in steps of two rows."""
    after, rows, damaged, share = 0, 0, 0, 0.0
    while True:
        look = store.look_through(after, 2, 1_000_000)
        rows, damaged, share = rows + look.rows, damaged + look.damaged, share + look.share
        after = look.after
        if not after:
            return rows, damaged, share


def test_a_look_stops_after_so_many_bytes(store: Store) -> None:
    for number in range(4):
        offer(store, number)
    first = store.look_through(0, 100, LONG + 1)
    assert 0 < first.after < store.last_row()
    assert first.share < 1
    assert store.look_through(first.after, 100, 100 * LONG).after == 0


ROOM = Room(limit_bytes=100_000_000, disk_free_bytes=1e12, used_bytes=0, passing_bytes=0)


def test_room_is_what_the_budget_and_the_disk_leave() -> None:
    assert ROOM.in_all == 100_000_000 - LOG_BYTES
    assert ROOM.for_good == ROOM.capacity == 100_000_000 - LOG_BYTES - PASSING_BYTES
    used = Room(100_000_000, 1e12, used_bytes=60_000_000, passing_bytes=5_000_000)
    assert used.for_good == ROOM.for_good - 55_000_000
    assert used.in_all == ROOM.in_all - 60_000_000
    tight = Room(100_000_000, DISK_RESERVE_BYTES + 7, used_bytes=0, passing_bytes=0)
    assert (tight.in_all, tight.for_good) == (7, 7)
    assert "its disk has" in str(tight)
    free = Room(None, DISK_RESERVE_BYTES - 1, used_bytes=5, passing_bytes=0)
    assert (free.in_all, free.for_good) == (0, 0)
    assert str(free) == "its disk has 16.8 MB left"


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("50GB", 50e9), ("50 GB", 50e9), ("32MB", 32e6), ("512MiB", 2**29), ("1.5T", 1.5e12)],
)
def test_a_budget_is_written_as_people_write_sizes(text: str, size_bytes: float) -> None:
    assert parse_budget(text) == size_bytes


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "50 PB", "1e9", "31MB", "0"])
def test_a_budget_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_budget(text)


def test_segments_are_not_counted_twice(store: Store) -> None:
    data = content(LONG)
    segments: list[SegmentData] = list(segments_of(data))
    for number in range(FIT + 3):
        signed = file_of(data, path=f"/same/{number}")
        assert store.commit([Item(signed)], segments) == [Held(())]
