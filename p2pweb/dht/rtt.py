"""Measured round trips and the timeouts that follow from them (RFC 6298).

Departures from RFC 6298: no 1 s minimum (loopback answers in a millisecond, and a timeout here only
frees a slot: a late answer still counts), and no samples to discard, because each try has a message
id of its own, so Karn's ambiguity does not arise.
"""

from __future__ import annotations

from p2pweb.dht.settings import Settings

# RFC 6298 §2: alpha = 1/8, beta = 1/4, K = 4.
MEAN_WEIGHT = 1 / 8
VARIATION_WEIGHT = 1 / 4
VARIATIONS_ALLOWED = 4
# Where a timeout only has somebody else asked too: a lookup often waits for the dead.
BRISK_VARIATIONS_ALLOWED = 2
# Of the first sample. RFC 6298 takes a half, since a retransmission of TCP's is not to be spurious;
# here one costs a small datagram, and waiting for the dead costs a visitor.
FIRST_VARIATION = 1 / 4

# A late answer may have been held back until we had proved our address: it counts as no more than
# this many timeouts, so one cannot spoil the estimate, and a path that became slow is soon learnt.
LATENESS_MAX = 2


class Rtt:
    """The smoothed round trip to one contact, or to all of them together."""

    __slots__ = ("_settings", "_variation_s", "smoothed_s")

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.smoothed_s: float | None = None
        self._variation_s = 0.0

    def sample(self, rtt_s: float) -> None:
        """Learn from one answer; `rtt_s` is never negative on a monotonic clock."""
        if self.smoothed_s is None:
            self.smoothed_s = rtt_s
            self._variation_s = rtt_s * FIRST_VARIATION
            return
        # RFC 6298 §2.3: the variation is updated with the mean as it was before this sample.
        gap_s = abs(self.smoothed_s - rtt_s)
        self._variation_s += VARIATION_WEIGHT * (gap_s - self._variation_s)
        self.smoothed_s += MEAN_WEIGHT * (rtt_s - self.smoothed_s)

    def timeout_s(self, *, tries: int = 1) -> float | None:
        """How long to wait for the answer to the given try; None when nothing was measured."""
        return self._timeout_s(VARIATIONS_ALLOWED, tries)

    def brisk_timeout_s(self) -> float | None:
        """When to ask somebody else as well; None when nothing was measured."""
        return self._timeout_s(BRISK_VARIATIONS_ALLOWED, tries=1)

    def _timeout_s(self, variations: int, tries: int) -> float | None:
        if self.smoothed_s is None:
            return None
        allowance_s = max(variations * self._variation_s, self._settings.rtt_margin_s)
        return within(self.smoothed_s + allowance_s, self._settings, tries=tries)


def within(timeout_s: float, settings: Settings, *, tries: int = 1) -> float:
    """`timeout_s` between floor and ceiling, doubled for each try after the first."""
    doubled_s = max(settings.rtt_floor_s, timeout_s) * float(1 << tries - 1)
    return min(settings.rtt_ceiling_s, doubled_s)
