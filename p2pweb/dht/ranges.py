"""Address ranges: what somebody who rents one of them has all of.

A range is an IPv4 /24 or an IPv6 /48, the longest prefixes that are routed on the Internet: there
is no smaller piece to be had of one's own, and a /48 is what tunnel brokers give away. An IPv4
address that is written in an IPv6 one (6to4, NAT64) belongs to its own range: their prefixes hold
all of IPv4.

Addresses that are not routed on the Internet belong to no range: whoever answers from one is on
this machine, or in a network of ours that may well be a single /24.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address

from p2pweb.dht.settings import Settings

RANGE_BYTES_IPV4 = 24 // 8
RANGE_BYTES_IPV6 = 48 // 8

# Listed here, because what `ipaddress` calls private differs between releases of Python, and has
# 6to4 in it.
UNROUTED_IPV4 = tuple(
    IPv4Network(network)
    for network in (
        "10.0.0.0/8",
        "100.64.0.0/10",  # behind a provider's NAT, RFC 6598
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.2.0/24",  # documentation, as the next two, RFC 5737
        "198.51.100.0/24",
        "203.0.113.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks, RFC 2544
    )
)
UNROUTED_IPV6 = tuple(
    IPv6Network(network) for network in ("::1/128", "2001:db8::/32", "fc00::/7", "fe80::/10")
)
NAT64 = IPv6Network("64:ff9b::/96")

# A contact that comes and goes is parsed once; as many as `contact` caches.
RANGES_CACHED = 16_384


@lru_cache(maxsize=RANGES_CACHED)
def range_of(host: str) -> bytes | None:
    """The range of an IP literal: its prefix, 3 bytes or 6. None where there is none to limit."""
    parsed = ip_address(host)
    if isinstance(parsed, IPv4Address):
        if any(parsed in network for network in UNROUTED_IPV4):
            return None
        return parsed.packed[:RANGE_BYTES_IPV4]
    if any(parsed in network for network in UNROUTED_IPV6):
        return None
    if parsed in NAT64:
        return parsed.packed[-4:][:RANGE_BYTES_IPV4]
    if parsed.sixtofour is not None:
        return parsed.sixtofour.packed[:RANGE_BYTES_IPV4]
    return parsed.packed[:RANGE_BYTES_IPV6]


class RangeCounts:
    """How many contacts of each range there are: in all, and in each bucket."""

    def __init__(self, settings: Settings) -> None:
        self._most = settings.range_limit
        self._most_in_bucket = settings.range_bucket_limit
        self._counts: dict[tuple[bytes, int | None], int] = {}

    def has_room(self, host: str, bucket: int) -> bool:
        """Whether one more of this address's range may be in the bucket."""
        known = self._range_of(host)
        return known is None or (
            self._counts.get((known, None), 0) < self._most
            and self._counts.get((known, bucket), 0) < self._most_in_bucket
        )

    def add(self, host: str, bucket: int) -> None:
        """A contact is there now."""
        self._count(host, bucket, 1)

    def remove(self, host: str, bucket: int) -> None:
        """A contact that was added is there no more."""
        self._count(host, bucket, -1)

    def _count(self, host: str, bucket: int, change: int) -> None:
        known = self._range_of(host)
        if known is not None:
            for key in ((known, None), (known, bucket)):
                count = self._counts.get(key, 0) + change
                if count:
                    self._counts[key] = count
                else:
                    del self._counts[key]

    def _range_of(self, host: str) -> bytes | None:
        return range_of(host) if self._most else None
