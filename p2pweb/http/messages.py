"""What flows between the front end's modules: requests, responses, refusals.

Owns the shapes alone. A `Request` exists only after the parser has accepted a whole head, so its
attributes can be trusted; a `Response` is what a handler returns, and knows nothing of framing:
the lengths, the connection's fate, Date and Server are the connection's to write. Refuses nothing
itself; `Refusal` is how every module says that the client is at fault, `HangUp` that it is owed
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

import msgspec

HttpVersion = tuple[int, int]
HTTP_1_0: HttpVersion = (1, 0)
HTTP_1_1: HttpVersion = (1, 1)

# Up to here a body is handed over in memory, and may wait there for a slow visitor; longer ones go
# from where they lie to the socket. With what the transport may hold it stays below 64 KiB.
SHORT_BODY_BYTES_MAX = 32 * 1024


class Refusal(Exception):  # noqa: N818 - it is an answer to a visitor, not an error of ours
    """The client's message cannot be served as sent; `status` is the answer and `why` its reason.

    `why` is one plain sentence without a full stop. It is shown to the visitor, escaped, so it
    may quote nothing that the visitor should not see.
    """

    def __init__(self, status: int, why: str) -> None:
        super().__init__(status, why)
        self.status = status
        self.why = why


class HangUp(Exception):  # noqa: N818 - it is what becomes of a request, not an error of ours
    """The request gets no answer: its connection is closed without a byte."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One accepted request head.

    `target` is raw: path and query in origin-form, or `b"*"`. An absolute-form target has been
    split: its authority is in `host` and `host_port`, and overrules the Host field.
    Names in `fields` are lower-case, values are stripped of surrounding blanks.
    `host` is lower-case, without port and without the brackets of an IPv6 literal; it is ""
    only for an HTTP/1.0 request that names none. A final dot is kept.
    `content_length` is 0 where there is no body, and None where the body is chunked.
    """

    method: str
    target: bytes
    version: HttpVersion
    fields: tuple[tuple[bytes, bytes], ...]
    host: str
    host_port: int | None
    content_length: int | None
    keep_alive: bool
    expects_continue: bool

    def field(self, name: bytes) -> bytes | None:
        """The field's value, repeated lines joined by ", "; None where it is absent.

        `name` is lower-case.
        """
        found: bytes | None = None
        for key, value in self.fields:
            if key == name:
                # RFC 9110 §5.3: a recipient MAY combine multiple field lines within a field
                # section that have the same field name into one field line.
                found = value if found is None else found + b", " + value
        return found


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes `start` to `stop` (exclusive) of a representation."""

    start: int
    stop: int


Piece = bytes | Span


class Content(Protocol):
    """The bytes of one representation, read at any place while an answer is sent."""

    def fileno(self) -> int | None:
        """The descriptor of a plain file that is all of it, for sendfile; None: use `read`."""

    async def read(self, start: int, stop: int) -> bytes | memoryview:
        """Some of the bytes from `start`, at least one and at most up to `stop`.

        Asked again for what the visitor could not take at once, so it should be cheap to repeat.
        """

    def close(self) -> None:
        """Nothing more will be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A long body, read while it is sent: `size_bytes` bytes in `pieces`, in order.

    The length is always known beforehand, so Content-Length is always sent. Should reading fail
    once the head is out, the connection is aborted: the client sees that bytes are missing.
    `open` is called when the bytes are to be sent, once for each answer; never for HEAD. What it
    raises can still be told in an answer.
    """

    size_bytes: int
    pieces: tuple[Piece, ...]
    open: Callable[[], Content]


class Lease:
    """How long an answer may be repeated without asking anew: until `until_s` of the loop's time.

    Shared by all the answers that depend on one state of things; `end` it when that changes.
    """

    __slots__ = ("until_s",)

    def __init__(self, until_s: float) -> None:
        self.until_s = until_s

    def end(self) -> None:
        self.until_s = -math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A final answer (status 200 to 599).

    `fields` hold no framing: Content-Length, Transfer-Encoding, Connection, Date and Server are
    added when it is sent, and are refused here. The answer to HEAD carries the body that GET
    would have, for its length; the bytes are not sent. `close` ends the connection afterwards.
    While `lease` lasts, the answer holds for every request with the very same head.
    """

    status: int
    fields: tuple[tuple[str, str], ...] = ()
    body: bytes | Body = b""
    close: bool = False
    lease: Lease | None = None


# Python before 3.13 has the names of RFC 7231 for these; a peer's answers do not tell its Python.
_RENAMED = {
    413: "Content Too Large",  # RFC 9110 §15.5.14
    414: "URI Too Long",  # §15.5.15
    416: "Range Not Satisfiable",  # §15.5.17
    422: "Unprocessable Content",  # §15.5.21
}


def reason_phrase(status: int) -> str:
    """The registered reason phrase; "" for an unregistered status, as RFC 9112 §4 allows."""
    try:
        return _RENAMED.get(status) or HTTPStatus(status).phrase
    except ValueError:
        return ""
