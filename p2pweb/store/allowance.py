"""What a commit may still take of the room, and what goes when it needs more. Pure.

What is only passed on has a row in the books like all else; here it stands in the order in which it
came, so that the oldest goes first, but for what is being placed on other peers just now.
"""

from __future__ import annotations

import contextlib
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator

from p2pweb.store.room import Room


class Allowance:
    """Of one store. Sizes are bytes; a row is known by its id in the books."""

    def __init__(self) -> None:
        self._passing: OrderedDict[int, tuple[bytes, int]] = OrderedDict()
        self.passing_bytes = 0
        """How much is here only to be passed on; may be read while another thread commits."""
        self._placing: Counter[bytes] = Counter()
        self._for_good = self._in_all = 0.0

    def renew(self, room: Room) -> None:
        """There is so much room from now on."""
        self._for_good, self._in_all = room.for_good, room.in_all

    def take(self, size_bytes: float, *, for_good: bool) -> bool:
        """Whether there is room for so many more bytes, to stay or not; then they are taken."""
        if size_bytes > self._in_all or (for_good and size_bytes > self._for_good):
            return False
        self._in_all -= size_bytes
        self._for_good -= size_bytes if for_good else 0
        return True

    def count_passing(self, rows: Iterable[tuple[int, bytes, int]]) -> None:
        """These rows are passed on and no others: their ids, keys and sizes, the oldest first."""
        self._passing = OrderedDict((number, (key, size)) for number, key, size in rows)
        self.passing_bytes = sum(size for _, size in self._passing.values())

    def passes(self, row: int, key: bytes, size_bytes: int) -> None:
        """What a row stands for is only passed on."""
        self.is_gone(row)
        self._passing[row] = (key, size_bytes)
        self.passing_bytes += size_bytes

    def stays(self, row: int, size_bytes: int) -> bool:
        """Whether what was passed on can stay; then it does."""
        if size_bytes > self._for_good:
            return False
        self._for_good -= size_bytes
        self.is_gone(row)
        return True

    def is_gone(self, row: int) -> None:
        """A row is no more, or not passed on any longer."""
        _, size_bytes = self._passing.pop(row, (b"", 0))
        self.passing_bytes -= size_bytes

    def to_go(self, excess_bytes: float) -> list[tuple[int, bytes]]:
        """The rows, with their keys, that make so much room; all that may go where it is less."""
        going: list[tuple[int, bytes]] = []
        for row, (key, size_bytes) in self._passing.items():
            if excess_bytes > 0 and key not in self._placing:
                excess_bytes -= size_bytes
                going.append((row, key))
        return going

    @contextlib.contextmanager
    def placing(self, keys: Iterable[bytes]) -> Iterator[None]:
        """While what lies at these keys is placed on other peers, it does not go."""
        counted = Counter(keys)
        self._placing += counted
        try:
            yield
        finally:
            self._placing -= counted
