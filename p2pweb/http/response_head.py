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

# The pages of a small busy site, some 400 bytes each. A redirect that repeats a long query has up
# to 16 KiB.
_HEADS_CACHED = 2048

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


def content_length(status: int, size_bytes: int) -> int | None:
    """RFC 9110 §8.6: no Content-Length with 204; in a 304 it would be the 200's, or nothing."""
    return None if status in (204, 304) else size_bytes


def encode_head(status: int, fields: tuple[tuple[str, str], ...], framing: Framing) -> bytes:
    """The head, up to and with its empty line. Raises ValueError for a status or field amiss."""
    lines = [encode_fields(status, fields), f"Date: {framing.date}\r\n".encode("ascii")]
    if framing.length is not None:
        lines.append(b"Content-Length: %d\r\n" % framing.length)
    if framing.close:
        lines.append(b"Connection: close\r\n")
    elif framing.version == HTTP_1_0:
        # RFC 9112 §9.3: to an HTTP/1.0 client persistence must be said.
        lines.append(b"Connection: keep-alive\r\n")
    lines.append(b"\r\n")
    return b"".join(lines)


@lru_cache(maxsize=_HEADS_CACHED)
def encode_fields(status: int, fields: tuple[tuple[str, str], ...]) -> bytes:
    """All of a head that is a function of the published version: status line, fields, Server."""
    if not 200 <= status <= 599:
        raise ValueError(f"not a final status: {status}")
    lines = [f"HTTP/1.1 {status} {reason_phrase(status)}\r\n"]
    for name, value in fields:
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise ValueError(f"not a field: {name!r}: {value!r}")
        if name.lower() in _RESERVED:
            raise ValueError(f"{name} is written by the connection")
        lines.append(f"{name}: {value}\r\n")
    lines.append(f"Server: {SERVER}\r\n")
    return "".join(lines).encode("latin-1")
