"""Ids in order, and exactly the nearest of them to any key."""

from __future__ import annotations

from bisect import bisect_left, insort
from itertools import pairwise

from p2pweb.dht.contact import ID_BITS, ID_BYTES, NodeId


class IdOrder:
    """A set of ids. Adding and removing cost O(n) moves of a word each, as a list's do."""

    __slots__ = ("_sorted",)

    def __init__(self) -> None:
        self._sorted: list[int] = []

    def __len__(self) -> int:
        return len(self._sorted)

    def add(self, known: NodeId) -> None:
        """Add an id that is not there."""
        insort(self._sorted, int.from_bytes(known, "big"))

    def remove(self, known: NodeId) -> None:
        """Remove an id that is there."""
        del self._sorted[bisect_left(self._sorted, int.from_bytes(known, "big"))]

    def at(self, index: int) -> NodeId:
        """The id at a place in the order, from 0 on."""
        return NodeId(self._sorted[index].to_bytes(ID_BYTES, "big"))

    def strata(self, bits: int) -> list[int]:
        """How many ids begin with each number of so many bits, from zero on."""
        width = 1 << ID_BITS - bits
        ends = [bisect_left(self._sorted, width * number) for number in range((1 << bits) + 1)]
        return [stop - start for start, stop in pairwise(ends)]

    def nearest(self, key: bytes, count: int) -> list[NodeId]:
        """The `count` ids nearest to a key, nearest first: exactly those, or all there are.

        Ids that share a prefix with the key stand together in sorted order and are nearer than all
        others, so only the smallest such run that holds `count` ids needs ordering by distance.
        """
        target = int.from_bytes(key, "big")
        low, high = 0, len(self._sorted)
        # The longest shared prefix whose run is big enough: runs shrink as prefixes grow.
        shortest, longest = 0, ID_BITS
        while shortest < longest:
            middle = (shortest + longest + 1) // 2
            shift = ID_BITS - middle
            start = target >> shift << shift
            first = bisect_left(self._sorted, start)
            last = bisect_left(self._sorted, start + (1 << shift))
            if last - first >= count:
                shortest, low, high = middle, first, last
            else:
                longest = middle - 1
        run = sorted(self._sorted[low:high], key=target.__xor__)[:count]
        return [NodeId(number.to_bytes(ID_BYTES, "big")) for number in run]
