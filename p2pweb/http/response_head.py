"""A response's status and fields → the bytes of its head.

Owns what RFC 9112 asks of a head that we send: the status line, the framing, the fields that belong
to the connection. Refuses (ValueError, since it is our own fault) fields that would break the
framing or split the response.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from p2pweb.http.messages import HTTP_1_0, HttpVersion, reason_phrase

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

SERVER = "p2pweb"

# A response has few fields, and nearly all recur.
_FIELDS_CACHED = 1024

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

# Written here and nowhere else: two opinions on framing are what smuggling is made of.
_RESERVED = frozenset(
    (
        *("connection", "content-length", "date", "keep-alive", "server"),
        *("trailer", "transfer-encoding", "upgrade"),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Framing:
    """What the connection knows about an answer. `length` None: no Content-Length at all."""

    version: HttpVersion
    date: str
    length: int | None
    close: bool


def has_body(method: str, status: int) -> bool:
    """RFC 9110 §6.4.1: no content answers HEAD, and none goes with 204 or 304."""
    return method != "HEAD" and status not in (204, 304)


def encode_head(status: int, fields: tuple[tuple[str, str], ...], framing: Framing) -> bytes:
    """The head, up to and with its empty line. Raises ValueError for a status or field amiss."""
    if not 200 <= status <= 599:
        raise ValueError(f"not a final status: {status}")
    lines = [f"HTTP/1.1 {status} {reason_phrase(status)}\r\n"]
    lines += [_encode_field(name, value) for name, value in fields]
    lines.append(f"Date: {framing.date}\r\nServer: {SERVER}\r\n")
    if framing.length is not None:
        lines.append(f"Content-Length: {framing.length}\r\n")
    if framing.close:
        lines.append("Connection: close\r\n")
    elif framing.version == HTTP_1_0:
        # RFC 9112 §9.3: to an HTTP/1.0 client persistence must be said.
        lines.append("Connection: keep-alive\r\n")
    lines.append("\r\n")
    return "".join(lines).encode("latin-1")


@lru_cache(maxsize=_FIELDS_CACHED)
def _encode_field(name: str, value: str) -> str:
    if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
        raise ValueError(f"not a field: {name!r}: {value!r}")
    if name.lower() in _RESERVED:
        raise ValueError(f"{name} is written by the connection")
    return f"{name}: {value}\r\n"
