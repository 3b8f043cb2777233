"""A peer's address, `host:port`: one port number, TCP for HTTP and UDP for Kademlia."""

import ipaddress
import re

from p2pweb.errors import UsageError

Address = tuple[str, int]
"""A host (a name, or an IPv4 or IPv6 literal without brackets) and a port number."""

_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})")


def parse_address(text: str) -> Address:
    """Read `host:port`, the host of an IPv6 literal in brackets. UsageError where it is none."""
    match = _ADDRESS.fullmatch(text.strip())
    if match and 1 <= int(match[3]) <= 65_535:
        literal, name, port = match.groups()
        try:
            return (str(ipaddress.IPv6Address(literal)) if literal else name.lower()), int(port)
        except ValueError:
            pass  # Falls through to the one sentence below.
    raise UsageError(f"{text!r} is no peer address: write HOST:PORT, as in 192.168.1.10:8001")


def format_address(address: Address) -> str:
    """`host:port`, an IPv6 literal in brackets."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
