"""One wait at a time, on one timer of the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

# uvloop counts in milliseconds, and what is due sooner gets a handle that has no `when`.
_TIMER_S_MIN = 0.001


class Deadline:
    """Calls `on_due` when a wait has lasted too long; the wait has then ended."""

    __slots__ = ("_due_s", "_loop", "_on_due", "_timer", "since_s")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_due: Callable[[], None]) -> None:
        self._loop = loop
        self._on_due = on_due
        self._timer: asyncio.TimerHandle | None = None
        self._due_s: float | None = None
        # When the wait began, in the loop's time. Setting it anew moves nothing by itself, and so
        # costs nothing: it is `extend` that counts from there, once the deadline is due.
        self.since_s = 0.0

    @property
    def is_running(self) -> bool:
        """Whether anything is waited for."""
        return self._due_s is not None

    def start(self, within_s: float) -> None:
        """Wait for something from now on."""
        self.since_s = self._loop.time()
        self._set(self.since_s + max(within_s, _TIMER_S_MIN))

    def extend(self, within_s: float) -> None:
        """Let the same wait take so long in all."""
        self._set(max(self.since_s + within_s, self._loop.time() + _TIMER_S_MIN))

    def stop(self) -> None:
        """Nothing is waited for any more."""
        self._due_s = None

    def close(self) -> None:
        """The timer is not needed again."""
        self._due_s = None
        if self._timer is not None:
            self._timer.cancel()

    def _set(self, due_s: float) -> None:
        """The timer is moved only if it would ring too late: mostly it rings too early, and then
        sets itself anew."""
        self._due_s = due_s
        if self._timer is not None:
            if self._timer.when() <= due_s:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(due_s, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._due_s is None:
            return
        if self._due_s - self._loop.time() >= _TIMER_S_MIN:
            self._timer = self._loop.call_at(self._due_s, self._ring)
            return
        self._due_s = None
        self._on_due()
