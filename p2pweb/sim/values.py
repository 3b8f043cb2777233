"""Values that prove themselves, in place of signed records, and the peers' shelves for them.

A signature would cost more than a whole lookup and show nothing of the overlay: here a keyed hash
stands for it. Whoever has not got the run's secret can repeat old values and make none.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping

from p2pweb.dht.contact import Address, key_for
from p2pweb.dht.serving import Held
from p2pweb.dht.wire import Plain

_MAC_BYTES = 16
_SEQ = struct.Struct(">Q")


def name_of(number: int) -> str:
    """The name of one of the values of a run, from 0 on."""
    return f"value {number}"


class Publisher:
    """Makes the values of one run, and tells them from what others made."""

    def __init__(self, seed: int, value_bytes: int) -> None:
        self._secret = f"publisher {seed}".encode()
        self._padding = bytes(value_bytes - _SEQ.size - _MAC_BYTES)

    def make(self, key: bytes, seq: int) -> bytes:
        """The value of a key in its version `seq`."""
        head = _SEQ.pack(seq)
        return head + self._mac(key, head) + self._padding

    def read(self, key: bytes, value: bytes) -> int | None:
        """The seq of a value; None if it was never made for this key."""
        head = value[: _SEQ.size]
        if len(head) < _SEQ.size or value[_SEQ.size :] != self._mac(key, head) + self._padding:
            return None
        return int(_SEQ.unpack(head)[0])

    def make_name(self, name: str, seq: int) -> bytes:
        """`make` for a key's name."""
        return self.make(key_for(name), seq)

    def read_name(self, name: str, value: bytes) -> int | None:
        """`read` for a key's name."""
        return self.read(key_for(name), value)

    def _mac(self, key: bytes, head: bytes) -> bytes:
        return hashlib.blake2b(key + head, key=self._secret, digest_size=_MAC_BYTES).digest()


class Shelf:
    """What one peer holds: of each key the newest value that proves itself."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self.values: dict[bytes, tuple[int, Held]] = {}

    def find(self, key: bytes) -> Held | None:
        held = self.values.get(key)
        return None if held is None else held[1]

    def store(self, key: bytes, value: bytes, sender: Address) -> bool | Mapping[str, Plain]:
        seq = self._publisher.read(key, value)
        if seq is None:
            return {"refused": "it proves nothing"}
        kept = self.values.get(key)
        if kept is not None and kept[0] > seq:
            return {"stale": kept[0]}
        self.values[key] = (seq, Held(value))
        return True
