"""Deadlines by key: the earliest is known at once, cancelled ones cost nothing for long."""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from math import inf
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

# Cancelled entries stay in the heap until they outnumber the live ones by this factor, so that a
# cancellation is O(1) and memory stays proportional to what is live.
STALE_FACTOR = 2
STALE_ALLOWED = 64


class Deadlines(Generic[K]):
    """A heap of (when, key); one deadline per key, equal deadlines in the order they were set."""

    __slots__ = ("_heap", "_live", "_serial", "earliest")

    def __init__(self) -> None:
        self._live: dict[K, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._serial = 0
        # No deadline is earlier than this. It may itself be of one that was cancelled: whoever
        # wakes then finds nothing to do, which costs less than to be exact each time.
        self.earliest = inf

    def __len__(self) -> int:
        return len(self._live)

    def set(self, key: K, when: float) -> None:
        """Set or move the deadline of a key."""
        self._serial += 1
        self._live[key] = (when, self._serial)
        heapq.heappush(self._heap, (when, self._serial, key))
        if when < self.earliest:
            self.earliest = when
        if len(self._heap) > STALE_FACTOR * len(self._live) + STALE_ALLOWED:
            self._heap = [(at, serial, name) for name, (at, serial) in self._live.items()]
            heapq.heapify(self._heap)

    def cancel(self, key: K) -> None:
        """Forget the deadline of a key, if it has one."""
        self._live.pop(key, None)

    def next(self) -> float:
        """The earliest deadline, exactly; infinity where there is none."""
        while self._heap:
            when, serial, key = self._heap[0]
            if self._live.get(key) == (when, serial):
                self.earliest = when
                return when
            heapq.heappop(self._heap)
        self.earliest = inf
        return inf

    def pop_due(self, now: float) -> list[K]:
        """The keys whose time has come, earliest first; they have no deadline afterwards."""
        due: list[K] = []
        while self.next() <= now:
            key = heapq.heappop(self._heap)[2]
            del self._live[key]
            due.append(key)
        return due
