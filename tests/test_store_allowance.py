"""What a commit may take of the room, and what makes room for it."""

from __future__ import annotations

from p2pweb.store.allowance import Allowance
from p2pweb.store.room import DISK_RESERVE_BYTES, LOG_BYTES, PASSING_BYTES, Room

KEYS = [bytes([n]) * 20 for n in range(3)]


def allowance(room_bytes: int) -> Allowance:
    """So much is left for what stays, and as much more as a publish has under way."""
    limit = room_bytes + LOG_BYTES + PASSING_BYTES
    given = Allowance()
    given.renew(Room(limit, limit + DISK_RESERVE_BYTES, 0, 0))
    return given


def passing(*sizes: int) -> Allowance:
    given = Allowance()
    given.count_passing((n, KEYS[n], size) for n, size in enumerate(sizes))
    return given


def test_what_is_refused_takes_nothing() -> None:
    given = allowance(100)
    assert not given.take(101, for_good=True)
    assert given.take(100, for_good=True)
    assert not given.take(1, for_good=True)
    # Only passed on, it takes of what is kept free for that.
    assert given.take(PASSING_BYTES, for_good=False)
    assert not given.take(1, for_good=False)


def test_what_is_passed_on_does_not_take_from_what_stays() -> None:
    given = allowance(100)
    assert given.take(PASSING_BYTES, for_good=False)
    assert given.take(100, for_good=True)


def test_the_oldest_go_first_and_no_more_than_needed() -> None:
    given = passing(10, 20, 30)
    assert given.to_go(0) == []
    assert given.to_go(10) == [(0, KEYS[0])]
    assert given.to_go(11) == [(0, KEYS[0]), (1, KEYS[1])]
    assert len(given.to_go(1_000)) == 3


def test_what_is_being_placed_does_not_go_until_all_who_place_it_are_done() -> None:
    given = passing(10, 20)
    with given.placing([KEYS[0]]):
        with given.placing([KEYS[0], KEYS[1]]):
            assert given.to_go(1_000) == []
        assert given.to_go(1_000) == [(1, KEYS[1])]
    assert len(given.to_go(1_000)) == 2


def test_what_is_passed_on_is_counted_once() -> None:
    given = passing(10, 20)
    given.passes(2, KEYS[2], 30)
    given.passes(2, KEYS[2], 40)
    assert given.passing_bytes == 70
    given.is_gone(0)
    given.is_gone(0)
    assert given.passing_bytes == 60


def test_what_was_passed_on_stays_where_there_is_room() -> None:
    given = allowance(25)
    given.count_passing([(0, KEYS[0], 20), (1, KEYS[1], 20)])
    assert given.stays(0, 20)
    assert not given.stays(1, 20)
    assert given.passing_bytes == 20
    assert given.take(5, for_good=True)
    assert not given.take(1, for_good=True)
