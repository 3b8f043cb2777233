"""How far hosts are from one another: a wide-area network in a plane.

Each host has a place, and a last mile of its own. Kademlia simulations commonly take the King data
set (Gummadi et al. 2002), whose median round trip is 156 ms; a plane with a height for each host
fits such measurements well (Vivaldi, Dabek et al. 2004). Here places are uniform in a square, last
miles exponential, and all is scaled so that the median over pairs of hosts is the one asked for.
"""

from __future__ import annotations

import math
import random
from statistics import median

MEDIAN_RTT_S = 0.156
# A last mile's mean, measured in sides of the square: a sixth of a typical distance.
_LAST_MILE = 0.08
# How much one datagram may take longer than the one before it, as a share: what reorders them.
JITTER = 0.1
# So many pairs of hosts settle the scale to within a percent.
_PAIRS_SAMPLED = 20_000


class Latency:
    """One-way delays between hosts, numbered from 0; hosts may be added at any time."""

    def __init__(self, seed: int, *, median_rtt_s: float = MEDIAN_RTT_S) -> None:
        self._places = random.Random(f"places {seed}")
        self._jitter = random.Random(f"jitter {seed}").random
        self._hosts: list[tuple[float, float, float]] = []
        sample = Latency._sample()
        self._scale_s = median_rtt_s / 2 / sample if median_rtt_s else 0.0

    @staticmethod
    def _sample() -> float:
        """The median distance of two hosts before it is scaled: the same in every run."""
        rng = random.Random("scale")
        return median(_apart(_place(rng), _place(rng)) for _ in range(_PAIRS_SAMPLED))

    def add(self) -> int:
        """One more host; its number."""
        self._hosts.append(_place(self._places))
        return len(self._hosts) - 1

    def base_s(self, one: int, other: int) -> float:
        """The delay one way, without what varies."""
        return self._scale_s * _apart(self._hosts[one], self._hosts[other])

    def one_way_s(self, one: int, other: int) -> float:
        """The delay of one datagram."""
        return self.base_s(one, other) * (1.0 + JITTER * self._jitter())


def _place(rng: random.Random) -> tuple[float, float, float]:
    return rng.random(), rng.random(), rng.expovariate(1 / _LAST_MILE)


def _apart(one: tuple[float, float, float], other: tuple[float, float, float]) -> float:
    return math.hypot(one[0] - other[0], one[1] - other[1]) + one[2] + other[2]
