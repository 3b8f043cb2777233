"""How much a store may still take: of the budget that its owner gave it, and of its disk. Pure.

Bytes are here for good, or are only passed on: those of a publish that came in through this peer,
until they are with the peers that should hold them. What is here for good is never pushed out by
what comes; what is only passed on makes room for whatever comes.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from p2pweb.errors import UsageError

# The database's log: the commit of one bundle of 4 MiB, and what came since its last checkpoint.
LOG_BYTES = 6 * 1024 * 1024
# What a publish has under way through this peer: three bundles, and the pages around them.
PASSING_BYTES = 13 * 1024 * 1024
# What others need of the same disk, and the database to be read at all.
DISK_RESERVE_BYTES = 16 * 1024 * 1024
# A record with its index entries, and its part of pages that are half empty.
RECORD_BYTES = 1_024
# Below this little but the log would fit.
BUDGET_BYTES_MIN = 32_000_000

_UNITS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_UNITS |= {f"{unit}i": 1024**power for power, unit in enumerate("KMGT", start=1)}


@dataclass(frozen=True, slots=True)
class Room:
    """What is used, and by what: all in bytes.

    `limit_bytes` is the budget, None for none; `disk_free_bytes` what the file system has left;
    `passing_bytes`, a part of those used, are only passed on.
    """

    limit_bytes: int | None
    disk_free_bytes: float
    used_bytes: int
    passing_bytes: int

    @property
    def in_all(self) -> float:
        """What fits beside everything that is here."""
        limit = math.inf if self.limit_bytes is None else self.limit_bytes - LOG_BYTES
        return max(0, min(limit - self.used_bytes, self.disk_free_bytes - DISK_RESERVE_BYTES))

    @property
    def for_good(self) -> float:
        """What may come and stay."""
        free = self.disk_free_bytes - DISK_RESERVE_BYTES
        staying = self.used_bytes - self.passing_bytes
        return max(0, min(self.capacity - staying, free + self.passing_bytes))

    @property
    def capacity(self) -> float:
        """What could be here for good; infinity without a budget."""
        if self.limit_bytes is None:
            return math.inf
        return self.limit_bytes - LOG_BYTES - PASSING_BYTES

    def __str__(self) -> str:
        if self.limit_bytes is None:
            return f"its disk has {megabytes(self.disk_free_bytes)} left"
        staying = self.used_bytes - self.passing_bytes
        budget = (
            f"{megabytes(staying)} of {megabytes(self.capacity)} are used, "
            f"with a budget of {megabytes(self.limit_bytes)} in all"
        )
        if self.disk_free_bytes - DISK_RESERVE_BYTES < self.capacity - staying:
            return f"{budget}, and its disk has {megabytes(self.disk_free_bytes)} left"
        return budget


def megabytes(size_bytes: float) -> str:
    """For people: 31.4 MB."""
    return f"{size_bytes / 1e6:,.1f} MB"


def parse_budget(text: str) -> int:
    """A budget as people write it, 50GB or 512MiB, in bytes. UsageError where it is none."""
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?) ?([kMGT]|[KMGT]i|)B?", text.strip())
    if match is None:
        raise UsageError(f"{text!r} is no size: write one as 50GB or 512MiB")
    size_bytes = int(float(match[1]) * _UNITS[match[2]])
    if size_bytes < BUDGET_BYTES_MIN:
        raise UsageError(
            f"{text!r} is too little for a peer: give it {BUDGET_BYTES_MIN // 10**6}MB at least"
        )
    return size_bytes
