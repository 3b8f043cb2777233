"""Datagrams of a closed network: a MAC in front of each, which none but its peers can make.

Pure. It covers every byte of the datagram, and not who sent it or when: a recorded one can be sent
again. See `secret` for what that means.
"""

from __future__ import annotations

import hashlib
import hmac

from p2pweb.secret import Secret

# An answer of `wire.ANSWER_BYTES_MAX` then has 1,216 bytes and still travels whole: IPv6 carries
# 1,232 of UDP everywhere. The longest datagram stays far below what UDP can carry.
MAC_BYTES = 16
# Of 128 bits of MAC the first is always set. Other nodes take what begins with 0 or 1 for a
# question or an answer, and so pass over every datagram that is sealed.
_FIRST_BIT = 0x80


class Seal:
    """Seals what goes out, and opens what comes in."""

    def __init__(self, secret: Secret) -> None:
        self._keyed = hashlib.blake2b(key=secret.key(b"datagram"), digest_size=MAC_BYTES)

    def seal(self, datagram: bytes) -> bytes:
        """The datagram as it travels, longer by `MAC_BYTES`."""
        return self._mac(datagram) + datagram

    def open(self, sealed: bytes) -> bytes | None:
        """The datagram that was sealed; None where no peer of this network did that."""
        datagram = sealed[MAC_BYTES:]
        return datagram if hmac.compare_digest(sealed[:MAC_BYTES], self._mac(datagram)) else None

    def _mac(self, datagram: bytes) -> bytes:
        state = self._keyed.copy()
        state.update(datagram)
        mac = bytearray(state.digest())
        mac[0] |= _FIRST_BIT
        return bytes(mac)
