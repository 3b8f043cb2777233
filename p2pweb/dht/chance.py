"""Chance as the core knows it: a source of jitter and order that the caller passes in.

It is never a source of secrets: message ids come from `entropy`.
"""

from __future__ import annotations

from typing import Protocol


class Rng(Protocol):
    """Repeatable random numbers; `random.Random` is one such source."""

    def uniform(self, a: float, b: float) -> float:
        """A number from a to b."""

    def getrandbits(self, k: int, /) -> int:
        """A number of k bits."""
