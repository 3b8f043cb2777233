"""Who got which blocks lately, and whom the others are pointed to."""

from __future__ import annotations

import itertools
import random
from collections import Counter

from p2pweb.address import Address
from p2pweb.blobs import BLOCK_BYTES, BlobId
from p2pweb.exchange.crowd import (
    BLOBS_MAX,
    GIVERS_MAX,
    LATELY_S,
    PLACES,
    RANGES_MAX,
    READERS_MAX,
    READERS_MIN,
    Crowd,
)
from p2pweb.exchange.holders import may_point

BLOB = BlobId(40 * BLOCK_BYTES, bytes(32))
GROUP = range(1, 5)


def peers(count: int) -> list[Address]:
    return [("192.0.2.1", 8001 + number) for number in range(count)]


def groups(blob: BlobId) -> list[range]:
    """As a reader asks for them: one block, then four, none beyond the end of a segment."""
    cuts = [0, 1, 5, 9, 13, *range(16, blob.block_count + 1, 4)]
    return [range(start, stop) for start, stop in itertools.pairwise(cuts)]


def test_few_readers_are_all_sent_the_bytes() -> None:
    crowd = Crowd()
    for group in groups(BLOB):
        for reader in peers(READERS_MIN - 1):
            assert crowd.place(BLOB, group, reader, 0.0) is None


def test_those_who_come_later_are_pointed_to_those_who_came_first() -> None:
    crowd, readers = Crowd(), peers(9)
    placed = [crowd.place(BLOB, GROUP, reader, 0.0) for reader in readers]
    assert placed[:PLACES] == [None, None]
    given = Counter(placed)
    assert max(given.values()) <= PLACES
    for reader, giver in zip(readers[PLACES:], placed[PLACES:], strict=True):
        assert giver is not None
        assert readers.index(giver) < readers.index(reader)


def test_nobody_gives_twice_its_share_whoever_is_first() -> None:
    for seed in range(20):
        rng, crowd, readers = random.Random(seed), Crowd(), peers(19)
        given: Counter[Address | None] = Counter()
        for group in groups(BLOB):
            # Those who are ahead mostly stay so.
            one, other = rng.sample(range(19), 2)
            readers[one], readers[other] = readers[other], readers[one]
            for reader in readers:
                given[crowd.place(BLOB, group, reader, 0.0)] += len(group)
        share = 19 * BLOB.block_count / 20
        assert sum(given.values()) == 19 * BLOB.block_count
        assert max(given.values()) < 2 * share


def test_what_is_sent_to_those_who_come_back_counts_as_given() -> None:
    crowd, readers = Crowd(), peers(6)
    for reader in readers:
        crowd.place(BLOB, GROUP, reader, 0.0)
    crowd.sent(BLOB, range(40), 0.0)
    following = range(5, 9)
    placed = [crowd.place(BLOB, following, reader, 1.0) for reader in readers]
    # Somebody has to be the first.
    assert placed[0] is None
    assert None not in placed[1:]


def test_after_a_while_nobody_is_pointed_to_who_may_have_lost_it() -> None:
    crowd, readers = Crowd(), peers(8)
    for reader in readers[:4]:
        crowd.place(BLOB, GROUP, reader, 0.0)
    assert crowd.place(BLOB, GROUP, readers[4], LATELY_S - 1) is not None
    assert crowd.place(BLOB, GROUP, readers[5], 3 * LATELY_S) is None


def test_who_asks_again_is_not_pointed_to() -> None:
    crowd, readers = Crowd(), peers(3)
    for reader in readers:
        crowd.place(BLOB, GROUP, reader, 0.0)
    for _ in range(5):
        assert crowd.place(BLOB, GROUP, readers[0], 0.0) != readers[0]


def test_memory_is_bounded_whatever_is_asked_for() -> None:
    crowd = Crowd()
    for number in range(BLOBS_MAX + 1):
        crowd.place(BlobId(number, bytes(32)), GROUP, ("192.0.2.1", 1), 0.0)
    assert len(crowd._hot) == BLOBS_MAX
    for number in range(RANGES_MAX + 1):
        crowd.place(BLOB, range(number, number + 4), ("192.0.2.1", 1), 0.0)
    for port in range(1, READERS_MAX + 10):
        crowd.place(BLOB, GROUP, ("192.0.2.2", port), 0.0)
    hot = crowd._hot[BLOB]
    assert len(hot.ranges) == RANGES_MAX
    assert len(hot.given) <= READERS_MAX + 1
    assert len(hot.ranges[GROUP]) <= GIVERS_MAX + 1


def test_nobody_has_a_peer_ask_within_its_own_network() -> None:
    public, private, own = ("8.8.8.8", 80), ("192.168.1.2", 80), ("127.0.0.1", 80)
    assert may_point(public, ("8.8.4.4", 80))
    assert may_point(private, ("192.168.1.3", 80))
    assert may_point(own, ("127.0.0.1", 81))
    assert not may_point(public, private)
    assert not may_point(public, own)
    assert not may_point(private, own)
    assert not may_point(public, ("example.org", 80))
