"""What a store is handed, and what it answers. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from p2pweb.blobs import Part
from p2pweb.records import Signed, record_key


@dataclass(frozen=True, slots=True)
class Item:
    """A verified record to keep at the key of one of its segments, with its bytes or without.

    `passing` is for those that are to be placed on other peers, and may then go.
    """

    signed: Signed
    segment: int = 0
    with_bytes: bool = True
    passing: bool = False

    @property
    def key(self) -> bytes:
        """The DHT key, 20 bytes, at which it lies."""
        return record_key(self.signed.record, self.segment)

    @property
    def parts(self) -> list[Part]:
        """The bytes that it stands for, with them or without."""
        return self.signed.record.parts(self.segment)


@dataclass(frozen=True, slots=True)
class Held:
    """The record is on disk; `wants` names the bytes that it still lacks."""

    wants: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Stale:
    """Not kept, for this signed value: a record of the same site of this seq or a higher one."""

    newer: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """Not kept, and why."""

    why: str


@dataclass(frozen=True, slots=True)
class Full:
    """Not kept, for want of room; `why` says how much is used.

    With `for_now`, there will be room when what is being passed on has gone.
    """

    why: str
    for_now: bool = False


Outcome = Held | Stale | Refused | Full
