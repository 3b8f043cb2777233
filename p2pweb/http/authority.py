"""`host[:port]` as it stands in a Host field or a target → a validated host and port.

Stricter than RFC 3986, whose host may hold nearly anything: accepted are IPv6 literals and names of
letters, digits, "-", "_" and dots, which is what browsers send and what a site can be called.
Userinfo, commas, paths, percent-encoding, zones and empty hosts are refused (400).
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv6Address

from p2pweb.http.messages import Refusal

# RFC 1035 §2.3.4: no name is longer.
_HOST_CHARS_MAX = 255
_PORT_MAX = 65535
# Visitors of a peer name a few hosts, over and over.
_AUTHORITIES_CACHED = 256

_AUTHORITY = re.compile(
    r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>[0-9A-Za-z_-]+(?:\.[0-9A-Za-z_-]+)*\.?))"
    r"(?::(?P<port>[0-9]{0,5}))?"
)


@lru_cache(maxsize=_AUTHORITIES_CACHED)
def parse_authority(value: bytes) -> tuple[str, int | None]:
    """The host (lower-case, IPv6 compressed and without brackets) and the port, if one is given.

    Raises `Refusal` 400.
    """
    match = _AUTHORITY.fullmatch(value.decode("latin-1"))
    if match is None:
        raise Refusal(400, "the host is malformed")
    # RFC 3986 §3.2.3: the port may be empty, and then is the default one.
    port = int(match["port"]) if match["port"] else None
    if port is not None and port > _PORT_MAX:
        raise Refusal(400, "the port is above 65535")
    if match["name"] is not None:
        if len(match["name"]) > _HOST_CHARS_MAX:
            raise Refusal(400, "the host name is too long")
        return match["name"].lower(), port
    try:
        return IPv6Address(match["ipv6"]).compressed, port
    except ValueError as error:
        raise Refusal(400, "the host is not an IPv6 address") from error
