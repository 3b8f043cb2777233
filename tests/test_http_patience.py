"""How long is waited: for a visitor who takes nothing, and by one timer for many waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from p2pweb.http.deadline import Deadline
from p2pweb.http.patience import ReaderWatch
from p2pweb.http.service import ServerLimits

# Looked at every ten seconds; below 5,000 bytes in ten seconds it is dripping.
LIMITS = ServerLimits(
    write_idle_s=30.0, write_idle_under_pressure_s=10.0, write_rate_bytes_per_s=500
)


def look(watch: ReaderWatch, untaken_bytes: int, now_s: float) -> float | None:
    return watch.look(untaken_bytes, now_s, is_under_pressure=False)


def test_visitor_who_takes_enough_is_waited_for_without_end() -> None:
    watch = ReaderWatch(LIMITS)
    assert watch.begin(1_000_000, 0.0) == 10.0
    for turn in range(1, 101):
        assert look(watch, 1_000_000 - turn * 5_000, turn * 10.0) == 10.0


def test_visitor_who_takes_nothing_has_as_long_as_the_limit_says() -> None:
    watch = ReaderWatch(LIMITS)
    watch.begin(1_000_000, 100.0)
    assert look(watch, 1_000_000, 110.0) == 10.0
    assert look(watch, 1_000_000, 125.0) == 5.0
    assert look(watch, 1_000_000, 130.0) is None


def test_visitor_who_drips_is_one_who_takes_nothing() -> None:
    watch = ReaderWatch(LIMITS)
    watch.begin(1_000_000, 0.0)
    assert look(watch, 995_001, 10.0) == 10.0
    assert look(watch, 990_002, 20.0) == 10.0
    assert look(watch, 985_003, 30.0) is None


def test_pause_is_forgiven_once_enough_is_taken() -> None:
    watch = ReaderWatch(LIMITS)
    watch.begin(1_000_000, 0.0)
    assert look(watch, 1_000_000, 20.0) == 10.0
    assert look(watch, 995_000, 29.0) == 10.0
    assert look(watch, 995_000, 58.0) == 1.0
    assert look(watch, 995_000, 59.0) is None


def test_visitor_who_takes_nothing_under_pressure_is_given_up_at_the_first_look() -> None:
    watch = ReaderWatch(LIMITS)
    watch.begin(1_000_000, 0.0)
    assert watch.look(995_000, 10.0, is_under_pressure=True) == 10.0
    assert watch.look(990_001, 20.0, is_under_pressure=True) is None


class Timer:
    """One call of the loop's to come."""

    def __init__(self, due_s: float, call: Callable[[], None]) -> None:
        self.due_s = due_s
        self.call = call
        self.is_cancelled = False

    def when(self) -> float:
        return self.due_s

    def cancel(self) -> None:
        self.is_cancelled = True


class Clock:
    """As much of a loop as a deadline asks for; its time is turned by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now_s

    def call_at(self, when: float, call: Callable[[], None]) -> Timer:
        self.timers.append(Timer(when, call))
        return self.timers[-1]

    def turn(self, now_s: float) -> None:
        """Let the time be this, and what is due ring."""
        self.now_s = now_s
        for timer in [one for one in self.timers if one.due_s <= now_s]:
            self.timers.remove(timer)
            if not timer.is_cancelled:
                timer.call()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def deadline_on(clock: Clock, on_due: Callable[[], None]) -> Deadline:
    loop: asyncio.AbstractEventLoop = clock  # type: ignore[assignment]
    return Deadline(loop, on_due)


def test_deadline_rings_once_when_its_wait_is_over(clock: Clock) -> None:
    rung: list[float] = []
    deadline = deadline_on(clock, lambda: rung.append(clock.now_s))
    deadline.start(5.0)
    clock.turn(4.9)
    assert deadline.is_running
    clock.turn(5.0)
    clock.turn(60.0)
    assert rung == [5.0]
    assert not deadline.is_running


def test_one_timer_serves_waits_that_follow_each_other(clock: Clock) -> None:
    rung: list[float] = []
    deadline = deadline_on(clock, lambda: rung.append(clock.now_s))
    for now_s in (0.0, 1.0, 2.0, 3.0):
        clock.turn(now_s)
        deadline.start(5.0)
    assert len(clock.timers) == 1
    clock.turn(5.0)
    clock.turn(8.0)
    assert rung == [8.0]


def test_shorter_wait_is_not_missed(clock: Clock) -> None:
    rung: list[float] = []
    deadline = deadline_on(clock, lambda: rung.append(clock.now_s))
    deadline.start(30.0)
    deadline.start(2.0)
    clock.turn(2.0)
    assert rung == [2.0]


def test_wait_that_was_stopped_or_closed_does_not_ring(clock: Clock) -> None:
    deadline = deadline_on(clock, pytest.fail)
    deadline.start(5.0)
    deadline.stop()
    clock.turn(5.0)
    deadline.start(5.0)
    deadline.close()
    clock.turn(60.0)


def test_wait_is_extended_from_where_it_began_last(clock: Clock) -> None:
    rung: list[float] = []

    def on_due() -> None:
        rung.append(clock.now_s)
        if len(rung) == 1:
            deadline.extend(5.0)

    deadline = deadline_on(clock, on_due)
    deadline.start(5.0)
    deadline.since_s = 4.0
    clock.turn(5.0)
    clock.turn(9.0)
    assert rung == [5.0, 9.0]


def test_timer_is_never_set_for_what_is_as_good_as_due(clock: Clock) -> None:
    deadline = deadline_on(clock, lambda: None)
    deadline.start(0.0)
    assert clock.timers[-1].due_s == 0.001
    clock.turn(10.0)
    deadline.since_s = 5.0001
    deadline.extend(5.0)
    assert clock.timers[-1].due_s == 10.001
