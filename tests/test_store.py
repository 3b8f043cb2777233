"""The contract that every store keeps, run against each of them."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from p2pweb.blobs import (
    BLOCK_BYTES,
    SEGMENT_BYTES,
    BlobId,
    InvalidBlockError,
    SegmentData,
    blob_of,
    segments_of,
)
from p2pweb.errors import CorruptError, UsageError
from p2pweb.keys import SiteKey
from p2pweb.manifest import Entry, Manifest
from p2pweb.records import Encoding, FileRecord, Signed, SiteRecord, record_key, sign
from p2pweb.store.items import Held, Item, Refused, Stale
from p2pweb.store.opening import memory_store, open_store
from p2pweb.store.store import INLINE_BYTES_MAX, Store

KEY = SiteKey(bytes(range(32)))
OTHER_KEY = SiteKey(bytes(32))

INTERESTING_SIZES = [
    0,  # one empty block
    1,
    INLINE_BYTES_MAX,  # the last to lie in the database
    INLINE_BYTES_MAX + 1,  # the first to be a file
    BLOCK_BYTES,  # the last without a list of hashes
    BLOCK_BYTES + 1,
    SEGMENT_BYTES,
    SEGMENT_BYTES + 1,  # two segments, the second one inline
]

Opener = Callable[[], Store]


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    opened = open_store(tmp_path / "data") if request.param == "disk" else memory_store()
    yield opened
    opened.close()


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def file_of(data: bytes, *, path: str = "/a", seq: int = 1, key: SiteKey = KEY) -> Signed:
    blob, _ = blob_of(data)
    encoding = Encoding("identity", blob.size_bytes, blob.root)
    record = FileRecord(
        public_key=key.public_key,
        path=path,
        seq=seq,
        media_type="text/plain",
        encodings=(encoding,),
    )
    return sign(record, key)


def site_of(manifest: bytes, *, seq: int = 1) -> Signed:
    blob, _ = blob_of(manifest)
    record = SiteRecord(
        public_key=KEY.public_key,
        seq=seq,
        published_s=0,
        copies=8,
        manifest_size_bytes=blob.size_bytes,
        manifest_root=blob.root,
    )
    return sign(record, KEY)


def manifest_of(seq: int, *files: Signed) -> bytes:
    """The manifest of a version that has just these files."""
    entries = [
        Entry(
            path=record.path,
            media_type=record.media_type,
            seq=record.seq,
            modified_s=0,
            encodings=record.encodings,
        )
        for record in (signed.record for signed in files)
        if isinstance(record, FileRecord)
    ]
    return Manifest(KEY.public_key, seq, entries).encode()


def go_live(store: Store, seq: int, *files: Signed) -> Signed:
    """Commit a version's record with its manifest."""
    manifest = manifest_of(seq, *files)
    signed = site_of(manifest, seq=seq)
    assert store.commit([Item(signed)], segments_of(manifest)) == [Held(())]
    return signed


def read(store: Store, data: bytes) -> bytes | None:
    """What the store gives back of a blob, block by block."""
    blob, _ = blob_of(data)
    blocks = [store.read_block(blob, number) for number in range(blob.block_count)]
    return None if None in blocks else b"".join(block for block in blocks if block is not None)


def put(store: Store, data: bytes, **of: object) -> None:
    signed = file_of(data, **of)  # type: ignore[arg-type]
    items = [Item(signed, segment) for segment in range(signed.record.segment_count)]
    assert store.commit(items, segments_of(data)) == [Held(())] * len(items)


@pytest.mark.parametrize("size", INTERESTING_SIZES)
def test_what_was_committed_is_read_back(store: Store, size: int) -> None:
    data = content(size)
    put(store, data)
    assert read(store, data) == data
    blob, hashes = blob_of(data)
    assert store.read_hashes(blob) == hashes
    assert all(store.has(blob, segment) for segment in range(blob.segment_count))


def test_a_record_without_its_bytes_says_what_it_wants_until_it_has_them(store: Store) -> None:
    data = content(SEGMENT_BYTES + 1)
    blob, _ = blob_of(data)
    signed = file_of(data)
    items = [Item(signed, 0), Item(signed, 1)]
    assert store.commit(items) == [Held(((blob, 0),)), Held(((blob, 1),))]
    assert store.find(record_key(signed.record)).has_bytes is False
    assert store.is_warranted(blob, 0) and not store.has(blob, 0)

    first, second = segments_of(data)
    assert store.commit(items, [first]) == [Held(()), Held(((blob, 1),))]
    store.commit([], [second])
    assert store.commit(items) == [Held(()), Held(())]
    assert store.find(record_key(signed.record)).has_bytes is True


def test_a_record_kept_for_itself_wants_no_bytes_and_takes_none(store: Store) -> None:
    data = content(10)
    signed = file_of(data)
    assert store.commit([Item(signed, with_bytes=False)]) == [Held(())]
    with pytest.raises(InvalidBlockError):
        store.commit([], segments_of(data))
    kept = store.find(record_key(signed.record))
    assert kept is not None
    assert (kept.signed, kept.has_bytes) == (signed, False)
    # The same record with its bytes is more; the record alone afterwards takes nothing away.
    assert store.commit([Item(signed)], segments_of(data)) == [Held(())]
    assert store.commit([Item(signed, with_bytes=False)]) == [Held(())]
    assert store.find(record_key(signed.record)).has_bytes is True


def test_bytes_that_no_record_names_are_refused_and_nothing_of_the_batch_is_kept(
    store: Store,
) -> None:
    signed = file_of(content(10))
    with pytest.raises(InvalidBlockError, match="no record"):
        store.commit([Item(signed)], segments_of(content(10, seed=1)))
    assert store.find(record_key(signed.record)) is None


@pytest.mark.parametrize("size", [10, BLOCK_BYTES + 1])
def test_bytes_that_are_not_what_their_root_says_are_refused(store: Store, size: int) -> None:
    data = content(size)
    (good,) = segments_of(data)
    wrong = bytes([data[0] ^ 1]) + data[1:]
    for bad in (
        SegmentData(blob=good.blob, segment=0, hashes=good.hashes, data=wrong),
        SegmentData(blob=good.blob, segment=0, hashes=good.hashes, data=data[:-1]),
        SegmentData(blob=good.blob, segment=1, hashes=good.hashes, data=b""),
        SegmentData(blob=good.blob, segment=0, hashes=good.hashes + b"x", data=data),
    ):
        with pytest.raises(InvalidBlockError):
            store.commit([Item(file_of(data))], [bad])
    assert not store.has(good.blob, 0)


def test_records_of_a_version_under_way_are_kept_beside_one_another_up_to_a_bound(
    store: Store,
) -> None:
    attempts = [file_of(content(1, seed=n), seq=seq) for n, seq in ((1, 5), (2, 5), (3, 6), (4, 4))]
    for signed in attempts[:2]:
        assert isinstance(store.commit([Item(signed)])[0], Held)
    assert isinstance(store.commit([Item(attempts[2])])[0], Held)
    # An older one than those that are kept is refused, with what shows it.
    (outcome,) = store.commit([Item(attempts[3])])
    assert outcome == Stale(attempts[2].value)
    assert store.find(record_key(attempts[0].record)).signed == attempts[2]


def test_a_segment_that_the_record_has_not_got_is_refused(store: Store) -> None:
    assert isinstance(store.commit([Item(file_of(b"a"), segment=1)])[0], Refused)


def test_a_site_is_live_at_the_newest_version_whose_manifest_is_whole(store: Store) -> None:
    one, two = manifest_of(1), manifest_of(2)
    first, second = site_of(one, seq=1), site_of(two, seq=2)
    assert store.live_site(KEY.site) is None
    store.commit([Item(first)])
    assert store.live_site(KEY.site) is None
    store.commit([Item(first)], segments_of(one))
    assert store.live_site(KEY.site) == first
    store.commit([Item(second)])
    assert store.live_site(KEY.site) == first
    store.commit([], segments_of(two))
    assert store.live_site(KEY.site) == second
    assert store.commit([Item(first)]) == [Stale(second.value)]
    assert store.sites() == [KEY.site]


def test_of_two_versions_of_one_seq_every_store_keeps_the_same(store: Store) -> None:
    manifests = [manifest_of(1), manifest_of(1, file_of(b"a"))]
    low, high = sorted(manifests, key=lambda manifest: site_of(manifest).value)
    store.commit([Item(site_of(low))], segments_of(low))
    assert store.live_site(KEY.site) == site_of(low)
    store.commit([Item(site_of(high))], segments_of(high))
    assert store.live_site(KEY.site) == site_of(high)
    assert store.commit([Item(site_of(low))], segments_of(low)) == [Stale(site_of(high).value)]


def test_a_version_whose_manifest_makes_no_sense_never_lives(store: Store) -> None:
    go_live(store, 1)
    for seq, nonsense in ((2, b"nonsense"), (3, manifest_of(4))):
        store.commit([Item(site_of(nonsense, seq=seq))], segments_of(nonsense))
        assert store.live_site(KEY.site).record.seq == 1


def test_a_version_under_way_hides_nothing_of_the_live_one(store: Store) -> None:
    first, second = file_of(b"first", seq=1), file_of(b"second", seq=2)
    put(store, b"first", seq=1)
    go_live(store, 1, first)
    put(store, b"second", seq=2)
    assert store.find(record_key(first.record)).signed == first
    assert read(store, b"first") == b"first"
    assert read(store, b"second") == b"second"
    go_live(store, 2, second)
    assert store.find(record_key(first.record)).signed == second


@pytest.mark.parametrize("size", [10, INLINE_BYTES_MAX + 1])
def test_versions_before_the_last_two_are_freed_with_their_bytes(store: Store, size: int) -> None:
    shared = content(size, seed=99)
    versions = [content(size, seed=seq) for seq in range(1, 6)]
    for seq, data in enumerate(versions, 1):
        files = {"/changed": data, f"/renamed{seq}": shared, f"/passing{seq}": data + b"!"}
        for path, held in files.items():
            put(store, held, path=path, seq=seq)
        go_live(store, seq, *(file_of(h, path=p, seq=seq) for p, h in files.items()))
    assert [read(store, data) for data in versions] == [None] * 3 + versions[3:]
    assert [read(store, data + b"!") for data in versions[:3]] == [None] * 3
    assert read(store, shared) == shared


def test_a_publisher_that_fails_again_and_again_does_not_fill_the_disk(store: Store) -> None:
    live = file_of(b"live", seq=1)
    put(store, b"live", seq=1)
    go_live(store, 1, live)
    for seq in range(2, 8):
        put(store, content(10, seed=seq), seq=seq)
    assert read(store, b"live") == b"live"
    kept = [seq for seq in range(2, 8) if read(store, content(10, seed=seq))]
    assert kept == [6, 7]


def test_what_failed_publishes_left_behind_never_stands_in_for_what_lives(store: Store) -> None:
    live, key = file_of(b"live", seq=1), record_key(file_of(b"live").record)
    put(store, b"live", seq=1)
    go_live(store, 1, live)
    for seq in (2, 3, 4):
        # A publish changed the file and failed; the next one, of another file, succeeded.
        orphan = content(20, seed=seq)
        put(store, orphan, seq=seq)
        go_live(store, seq, live)
        assert store.find(key).signed == live
        assert read(store, b"live") == b"live"
        # Freed when it cannot be another publisher's version of this seq any more; and what
        # goes live no more is not taken again, whoever sends it.
        assert read(store, content(20, seed=seq - 1)) is None
        replayed = store.commit([Item(file_of(orphan, seq=seq))])
        assert replayed == [Stale(store.live_site(KEY.site).value)]
        assert isinstance(store.commit([Item(live)])[0], Held)


def test_of_two_publishes_of_one_seq_either_lives_with_its_files(store: Store) -> None:
    files = [file_of(name, seq=1) for name in (b"one", b"other")]
    manifests = {manifest_of(1, file): file for file in files}
    low, high = sorted(manifests, key=lambda manifest: site_of(manifest).value)
    put(store, b"one", seq=1)
    put(store, b"other", seq=1)
    for manifest in (low, high):
        store.commit([Item(site_of(manifest))], segments_of(manifest))
        assert store.live_site(KEY.site) == site_of(manifest)
        kept = store.find(record_key(manifests[manifest].record))
        assert (kept.signed, kept.has_bytes) == (manifests[manifest], True)


def test_old_attempts_sent_again_crowd_out_nothing_of_a_publish_under_way(store: Store) -> None:
    go_live(store, 1)
    orphans = [file_of(content(9, seed=seed), seq=2) for seed in range(6)]
    mine = min(orphans, key=lambda signed: signed.value)
    put_signed(store, mine, [content(9, seed=seed) for seed in range(6)])
    for orphan in orphans:
        store.commit([Item(orphan, with_bytes=False)])
    go_live(store, 2, mine)
    kept = store.find(record_key(mine.record))
    assert (kept.signed, kept.has_bytes) == (mine, True)


def put_signed(store: Store, signed: Signed, contents: list[bytes]) -> None:
    """Commit a record with whichever of these is its content."""
    (blob,) = signed.record.blobs
    data = next(data for data in contents if blob_of(data)[0] == blob)
    assert store.commit([Item(signed)], segments_of(data)) == [Held(())]


def test_bytes_sent_along_with_a_stale_record_do_not_spoil_the_rest_of_a_batch(
    store: Store,
) -> None:
    go_live(store, 2)
    stale, good = file_of(b"stale", seq=1), file_of(b"good", path="/good", seq=3)
    segments = [*segments_of(b"stale"), *segments_of(b"good")]
    outcomes = store.commit([Item(stale), Item(good)], segments)
    assert [type(outcome) for outcome in outcomes] == [Stale, Held]
    assert read(store, b"good") == b"good"
    assert read(store, b"stale") is None


def test_a_record_that_its_own_batch_supersedes_is_told_so(store: Store) -> None:
    manifest = manifest_of(3)
    items = [Item(file_of(b"over", seq=2), with_bytes=False), Item(site_of(manifest, seq=3))]
    outcomes = store.commit(items, segments_of(manifest))
    assert outcomes == [Stale(items[1].signed.value), Held(())]


def test_a_record_of_the_live_seq_that_the_version_does_not_name_changes_nothing(
    store: Store,
) -> None:
    live = file_of(b"live", seq=2)
    put(store, b"live", seq=2)
    go_live(store, 2, live)
    for seed in range(4):
        other = file_of(content(5, seed=seed), seq=2)
        assert isinstance(store.commit([Item(other, with_bytes=False)])[0], Stale)
    assert store.find(record_key(live.record)).signed == live
    assert read(store, b"live") == b"live"


def test_records_of_two_sites_do_not_meet(store: Store) -> None:
    put(store, b"mine", key=KEY)
    put(store, b"yours", key=OTHER_KEY)
    assert store.sites() == sorted([KEY.site, OTHER_KEY.site])
    assert store.find(record_key(file_of(b"mine").record)).signed.record.site == KEY.site


def test_what_is_not_there_is_none(store: Store) -> None:
    blob, _ = blob_of(content(BLOCK_BYTES + 1))
    assert store.find(bytes(20)) is None
    assert store.read_block(blob, 0) is None
    assert store.read_hashes(blob) is None
    assert not store.has(blob, 0)


# What only a disk can do.


def test_a_version_whose_manifest_rots_gives_way_to_no_older_one(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    live = file_of(b"live", seq=2)
    go_live(store, 1)
    put(store, b"live", seq=2)
    second = go_live(store, 2, live)
    store.close()
    damage(tmp_path)
    again = open_store(tmp_path)
    blob = second.record.manifest
    assert again.live_site(KEY.site) == second
    assert again.read_block(blob, 0) is None, "found damaged, and wanted again"
    kept = again.find(record_key(second.record))
    assert (kept.signed, kept.has_bytes) == (second, False)
    # Nobody can tell now what lives; what does is taken, lest it could never come back.
    assert isinstance(again.commit([Item(live)])[0], Held)
    again.commit([], segments_of(manifest_of(2, live)))
    put(again, b"live", seq=2)
    assert again.find(record_key(live.record)).signed == live
    again.close()


def test_a_file_that_cannot_be_opened_just_now_is_not_taken_for_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = content(INLINE_BYTES_MAX + 1)
    store = open_store(tmp_path)
    put(store, data)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", _no_descriptors)
        with pytest.raises(CorruptError, match="Too many open files"):
            read(store, data)
    assert read(store, data) == data
    store.close()


def _no_descriptors(*_: object, **__: object) -> None:
    raise OSError(errno.EMFILE, "Too many open files")


def test_a_write_that_fails_leaves_no_file_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = content(INLINE_BYTES_MAX + 1)
    store = open_store(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", _disk_full)
        with pytest.raises(OSError, match="No space"):
            store.commit([Item(file_of(data))], segments_of(data))
    assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []
    put(store, data)
    assert read(store, data) == data
    store.close()


def _disk_full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_every_folder_that_is_made_or_gets_a_new_name_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[int, int]] = []

    def sync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        synced.append((status.st_dev, status.st_ino))

    def all_synced(*folders: Path) -> bool:
        return {(path.stat().st_dev, path.stat().st_ino) for path in folders} <= set(synced)

    monkeypatch.setattr(os, "fsync", sync)
    folder = tmp_path / "new" / "data"
    store = open_store(folder)
    assert all_synced(tmp_path, folder.parent, folder)
    synced.clear()
    put(store, content(INLINE_BYTES_MAX + 1))
    assert all_synced(folder / "blobs", *(folder / "blobs").iterdir())
    store.close()
    synced.clear()
    # A process may have been killed between making a folder and syncing it.
    open_store(folder).close()
    assert all_synced(folder, folder / "blobs")


def test_a_commit_into_a_directory_that_is_gone_is_an_error(tmp_path: Path) -> None:
    store = open_store(tmp_path / "data")
    put(store, b"before")
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(OSError, match="is gone"):
        store.commit([Item(file_of(b"after"))], segments_of(b"after"))
    assert read(store, b"before") == b"before"
    store.close()


@pytest.mark.parametrize("size", [0, 10, INLINE_BYTES_MAX + 1, SEGMENT_BYTES + 1])
def test_a_store_opened_again_has_everything(tmp_path: Path, size: int) -> None:
    data = content(size)
    store = open_store(tmp_path)
    put(store, data)
    store.close()
    again = open_store(tmp_path)
    assert read(again, data) == data
    again.close()


@pytest.mark.parametrize("size", [10, INLINE_BYTES_MAX + 1, BLOCK_BYTES + 1])
def test_a_flipped_byte_on_disk_is_an_error_once_and_wanted_afterwards(
    tmp_path: Path, size: int
) -> None:
    data = content(size)
    store = open_store(tmp_path)
    put(store, data)
    store.close()
    damage(tmp_path)
    again = open_store(tmp_path)
    blob = blob_of(data)[0]
    with pytest.raises(CorruptError):
        again.read_block(blob, 0)
    assert again.read_block(blob, 0) is None
    signed = file_of(data)
    assert again.commit([Item(signed)]) == [Held(((blob, 0),))]
    put(again, data)
    assert read(again, data) == data
    again.close()


def damage(folder: Path) -> None:
    """Flip the first byte of every segment, wherever it lies."""
    for path in (folder / "blobs").rglob("*"):
        if path.is_file():
            path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    database = sqlite3.connect(folder / "records.sqlite")
    with database:
        rows = database.execute("SELECT id, data FROM segments WHERE data IS NOT NULL").fetchall()
        for number, inline in rows:
            flipped = bytes([inline[0] ^ 1]) + inline[1:]
            database.execute("UPDATE segments SET data = ? WHERE id = ?", (flipped, number))
    database.close()


def test_damaged_hashes_and_damaged_records_are_as_good_as_absent(tmp_path: Path) -> None:
    data = content(BLOCK_BYTES + 1)
    store = open_store(tmp_path)
    put(store, data)
    store.close()
    database = sqlite3.connect(tmp_path / "records.sqlite")
    with database:
        database.execute("UPDATE hashes SET hashes = zeroblob(64)")
        database.execute("UPDATE records SET value = zeroblob(100)")
    database.close()
    again = open_store(tmp_path)
    assert again.read_hashes(blob_of(data)[0]) is None
    assert again.find(record_key(file_of(data).record)) is None
    again.close()


def test_a_file_that_has_gone_is_wanted_again(tmp_path: Path) -> None:
    data = content(INLINE_BYTES_MAX + 1)
    store = open_store(tmp_path)
    put(store, data)
    (path,) = (p for p in (tmp_path / "blobs").rglob("*") if p.is_file())
    path.unlink()
    with pytest.raises(CorruptError):
        store.read_block(blob_of(data)[0], 0)
    assert store.commit([Item(file_of(data))]) == [Held(((blob_of(data)[0], 0),))]
    store.close()


def test_what_a_crash_left_half_done_is_swept_away(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    data = content(INLINE_BYTES_MAX + 1)
    put(store, data)
    store.close()
    stray = tmp_path / "blobs" / "ab"
    stray.mkdir(exist_ok=True)
    (stray / f"{'ab' * 32}-7.0").write_bytes(b"no book names me")
    (stray / f"{'ab' * 32}-8.0.new").write_bytes(b"unfin")
    again = open_store(tmp_path)
    assert list(stray.iterdir()) == []
    assert read(again, data) == data
    again.close()


def test_one_directory_has_one_store_at_a_time(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with pytest.raises(UsageError, match=f"in use by another peer .process {os.getpid()}"):
        open_store(tmp_path)
    store.close()
    open_store(tmp_path).close()


def test_a_database_of_a_later_version_is_not_touched(tmp_path: Path) -> None:
    open_store(tmp_path).close()
    database = sqlite3.connect(tmp_path / "records.sqlite")
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(UsageError, match="version 99"):
        open_store(tmp_path)


_WRITER = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from p2pweb.store.opening import open_store
from test_store import content, put
store = open_store(Path({folder!r}))
for number in range(1_000_000):
    put(store, content(70_000 if number % 2 else 100, seed=number), path=f"/{{number}}")
    print(number, flush=True)
"""


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    """At every moment: the writer says a number only after its commit, and is killed at random."""
    tests = str(Path(__file__).parent)
    program = _WRITER.format(tests=tests, folder=str(tmp_path))
    acknowledged = -1
    for round_number, lines in enumerate((1, 4, 9)):
        folder = tmp_path / str(round_number)
        program = _WRITER.format(tests=tests, folder=str(folder))
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            for _ in range(lines):
                acknowledged = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
        store = open_store(folder)
        for number in range(acknowledged + 1):
            data = content(70_000 if number % 2 else 100, seed=number)
            assert read(store, data) == data
        store.close()


def test_a_reader_does_not_wait_for_a_commit(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    put(store, b"here")
    with store._write_lock:
        assert store.is_writing
        assert read(store, b"here") == b"here"
        assert store.find(record_key(file_of(b"here").record)) is not None
    assert not store.is_writing
    store.close()


def test_blob_ids_print_short() -> None:
    assert str(BlobId(3, bytes(32))) == "000000000000… (3 bytes)"
