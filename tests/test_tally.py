"""Copies counted from bitmaps: against counting one by one."""

from __future__ import annotations

import random

import pytest

from p2pweb import tally as counting
from p2pweb.blobs import SEGMENT_BYTES
from p2pweb.keys import SiteKey
from p2pweb.manifest import Entry, Manifest
from p2pweb.records import Encoding
from p2pweb.tally import (
    Shortage,
    Tally,
    bitmap,
    bytes_of,
    copies_wanted,
    files_of,
    read_bitmap,
    share_count,
    tally,
)

KEY = SiteKey(b"k" * 32)


def manifest(*sizes_bytes: int) -> Manifest:
    """Files of so many bytes, in the order of their names."""
    return Manifest(
        KEY.public_key,
        1,
        [
            Entry(
                path=f"/{number:04}",
                media_type="text/plain",
                seq=1,
                modified_s=1,
                encodings=(
                    Encoding("identity", size_bytes, bytes(32)),
                    Encoding("br", size_bytes // 2, bytes(32)),
                ),
            )
            for number, size_bytes in enumerate(sizes_bytes)
        ],
    )


MIXED = manifest(10, 3 * SEGMENT_BYTES, 0, SEGMENT_BYTES + 1)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 64, 1_000])
def test_a_bitmap_says_of_each_share_what_is_held(count: int) -> None:
    held = [random.Random(count).random() < 0.5 for _ in range(count)]
    data = bitmap(held)
    bits = read_bitmap(data, count)
    assert len(data) == -(-count // 8) and bits is not None
    assert [bool(bits >> number & 1) for number in range(count)] == held


@pytest.mark.parametrize(
    ("data", "shares"), [(b"", 1), (b"\x01", 0), (b"\x01\0", 8), (b"\x02", 1), (b"\xff\x02", 9)]
)
def test_a_bitmap_of_other_shares_is_none(data: bytes, shares: int) -> None:
    assert read_bitmap(data, shares) is None


def test_the_shares_of_a_manifest_are_counted() -> None:
    assert share_count(MIXED) == len(MIXED.shares) == 1 + 3 + 1 + 2


def test_a_file_has_as_many_copies_as_its_worst_off_segment() -> None:
    whole, most = 0b1111111, 0b1110111
    found = tally(MIXED, whole, [whole, whole, most], 3)
    assert found == Tally(files=4, wanted=3, copies=2, worst="/0001", short=1)


def test_only_the_shares_asked_for_are_counted() -> None:
    found = tally(MIXED, 0b1000001, [0b1000001, 0b1], 2)
    assert found == Tally(files=2, wanted=2, copies=1, worst="/0003", short=1)
    nothing = tally(MIXED, 0, [], 2)
    assert nothing == Tally(files=0, wanted=2, copies=2, worst=None, short=0)


def test_more_copies_than_wanted_are_enough() -> None:
    found = tally(manifest(1, 1), 0b11, [0b11] * 5, 3)
    assert found == Tally(files=2, wanted=3, copies=3, worst=None, short=0)


@pytest.mark.parametrize("seed", range(20))
def test_counting_by_hand_comes_to_the_same(seed: int) -> None:
    rng = random.Random(seed)
    site = manifest(*(rng.choice([1, 3 * SEGMENT_BYTES]) for _ in range(30)))
    shares = site.shares
    wanted = rng.randint(1, 8)
    peers = [[rng.random() < rng.choice([0.5, 1.0]) for _ in shares] for _ in range(10)]
    counted = [rng.random() < 0.8 for _ in shares]
    copies: dict[str, int] = {}
    for number, share in enumerate(shares):
        if counted[number]:
            path = share.record.path
            holders = sum(peer[number] for peer in peers)
            copies[path] = min(copies.get(path, wanted), holders)
    worst = min(copies.values())
    numbers = [read_bitmap(bitmap(peer), len(shares)) or 0 for peer in peers]
    found = tally(site, read_bitmap(bitmap(counted), len(shares)) or 0, numbers, wanted)
    assert found.files == len(copies) and found.copies == worst
    assert found.short == sum(one < wanted for one in copies.values())
    assert found.worst == (min(p for p in copies if copies[p] == worst) if found.short else None)


def test_the_bytes_of_shares_are_those_of_all_encodings() -> None:
    assert bytes_of(MIXED, 0) == 0
    assert bytes_of(MIXED, 0b1) == 10 + 5
    # Of the compressed one the second segment has the rest, and there is no third.
    assert bytes_of(MIXED, 0b1100) == 2 * SEGMENT_BYTES + SEGMENT_BYTES // 2
    everything = sum(each.size_bytes for entry in MIXED.entries for each in entry.encodings)
    assert bytes_of(MIXED, 0b1111111) == everything


def test_of_a_site_that_is_too_large_the_rest_is_not_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(counting, "SHARES_MAX", 3)
    assert share_count(MIXED) == 3
    assert files_of(MIXED, 0b111) == ["/0000", "/0001"]
    assert bytes_of(MIXED, 0b100) == SEGMENT_BYTES + SEGMENT_BYTES // 2


@pytest.mark.parametrize(
    ("asked", "peers", "wanted"), [(8, 20, 8), (8, 3, 3), (8, 8, 8), (1, 1, 1)]
)
def test_all_peers_are_wanted_where_there_are_fewer(asked: int, peers: int, wanted: int) -> None:
    assert copies_wanted(asked, peers) == wanted


def test_a_shortage_is_told_once_after_its_grace_and_so_is_its_end() -> None:
    shortage, told = Shortage(), []
    for now, is_short in enumerate([0, 1, 1, 0, 0, 1, 1, 1, 1, 1, 0, 0]):
        shortage, is_news = shortage.after(is_short=bool(is_short), now=float(now), grace_s=3.0)
        if is_news:
            told.append((now, bool(is_short)))
    # The first one was over before its time.
    assert told == [(8, True), (10, False)]
