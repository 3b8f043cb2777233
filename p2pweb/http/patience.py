"""How long a visitor who takes next to nothing of an answer is waited for.

Knows neither clock nor socket: it is told the time, and how much is still to be taken.
"""

from __future__ import annotations

from p2pweb.http.service import ServerLimits


class ReaderWatch:
    """Looks now and then how much of what was written a visitor has still to take."""

    __slots__ = ("_limits", "_stalled_since_s", "_untaken_bytes")

    def __init__(self, limits: ServerLimits) -> None:
        self._limits = limits
        self._untaken_bytes = 0
        self._stalled_since_s = 0.0

    def begin(self, untaken_bytes: int, now_s: float) -> float:
        """So much is to be taken; in how many seconds to look again."""
        self._untaken_bytes = untaken_bytes
        self._stalled_since_s = now_s
        return self._limits.write_idle_under_pressure_s

    def look(self, untaken_bytes: int, now_s: float, *, is_under_pressure: bool) -> float | None:
        """So much is left; in how many seconds to look again, None if the visitor is given up.

        Below the least rate it counts as taking nothing: somebody who drips is not waited for.
        """
        limits = self._limits
        interval_s = limits.write_idle_under_pressure_s
        taken_bytes = self._untaken_bytes - untaken_bytes
        if taken_bytes >= limits.write_rate_bytes_per_s * interval_s:
            return self.begin(untaken_bytes, now_s)
        self._untaken_bytes = untaken_bytes
        patience_s = interval_s if is_under_pressure else limits.write_idle_s
        left_s = patience_s - (now_s - self._stalled_since_s)
        return min(interval_s, left_s) if left_s > 0 else None
