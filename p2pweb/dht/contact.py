"""Who a peer is in the overlay: ids, addresses, distance.

Owns the meaning of an id (20 bytes) and of an address (an IP literal and a port), and refuses
everything that is neither: host names, ports outside 1 to 65,535, addresses nobody can answer from.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import NewType

from msgspec import Struct

ID_BYTES = 20
ID_BITS = 8 * ID_BYTES

# Parsing an IP literal costs more than decoding the whole node list that carries it, and a network
# repeats the same literals all day. Sixteen thousand entries are about 2 MB: more hosts than a peer
# has heard of, and enough for a simulation of ten thousand peers in one process.
CANONICAL_CACHE_ENTRIES = 16_384

# The longest IP literal is an IPv6 address with an IPv4 one at its end; the cache holds no more.
HOST_CHARACTERS_MAX = len("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255")

NodeId = NewType("NodeId", bytes)
Address = tuple[str, int]


class Contact(Struct, frozen=True, gc=False):
    """A peer as others name it: its id (20 bytes) and the UDP address that it answers from."""

    id: NodeId
    address: Address


def node_id(raw: bytes) -> NodeId:
    """The id made of `raw`, 20 bytes. Raises ValueError for any other length."""
    if len(raw) != ID_BYTES:
        raise ValueError(f"a node id is {ID_BYTES} bytes, not {len(raw)}")
    return NodeId(raw)


def key_for(name: str) -> bytes:
    """The 20-byte key of a name: SHA-1 of its UTF-8, as the `kademlia` package hashes names."""
    return hashlib.sha1(name.encode(), usedforsecurity=False).digest()


def distance(one: bytes, other: bytes) -> int:
    """The XOR metric of Kademlia §2.1."""
    return int.from_bytes(one, "big") ^ int.from_bytes(other, "big")


@lru_cache(maxsize=CANONICAL_CACHE_ENTRIES)
def canonical_host(host: str) -> str | None:
    """The one spelling of an IP literal, IPv4 when it is mapped into IPv6; None when unusable.

    Unusable are host names, scoped (link-local with a zone) literals, and the unspecified,
    multicast and broadcast addresses: nothing can answer from them.
    """
    try:
        parsed = ip_address(host)
    except ValueError:
        return None
    if isinstance(parsed, IPv6Address):
        if parsed.scope_id is not None:
            return None
        parsed = parsed.ipv4_mapped or parsed
    if parsed.is_unspecified or parsed.is_multicast or str(parsed) == "255.255.255.255":
        return None
    return str(parsed)


def canonical(host: str, port: int) -> Address | None:
    """The one spelling of an address, or None when no peer can be reached there."""
    if len(host) > HOST_CHARACTERS_MAX or not 0 < port < 1 << 16:
        return None
    known = canonical_host(host)
    return None if known is None else (known, port)
