"""What flows between the front end's modules: requests, responses, refusals.

Owns the shapes alone. A `Request` exists only after the parser has accepted a whole head, so its
attributes can be trusted; a `Response` is what a handler returns, and knows nothing of framing:
the lengths, the connection's fate, Date and Server are the connection's to write. Refuses nothing
itself; `Refusal` is how every module says that the client is at fault.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from http import HTTPStatus

HttpVersion = tuple[int, int]
HTTP_1_0: HttpVersion = (1, 0)
HTTP_1_1: HttpVersion = (1, 1)


class Refusal(Exception):  # noqa: N818 - it is an answer to a visitor, not an error of ours
    """The client's message cannot be served as sent; `status` is the answer and `why` its reason.

    `why` is one plain sentence without a full stop. It is shown to the visitor, escaped, so it
    may quote nothing that the visitor should not see.
    """

    def __init__(self, status: int, why: str) -> None:
        super().__init__(status, why)
        self.status = status
        self.why = why


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A body made while it is sent: exactly `size_bytes` bytes from `chunks`.

    The length is always known beforehand, so Content-Length is always sent. Should `chunks` raise,
    end early or go on too long, the connection is aborted: the client sees that bytes are missing.
    `chunks` is never started where no body is sent (HEAD); if it is an async generator, it is
    closed in every case. Closing one that was never started runs none of its code, so it may hold
    nothing open before its first step.
    """

    size_bytes: int
    chunks: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A final answer (status 200 to 599).

    `fields` hold no framing: Content-Length, Transfer-Encoding, Connection, Date and Server are
    added when it is sent, and are refused here. The answer to HEAD carries the body that GET
    would have, for its length; the bytes are not sent. `close` ends the connection afterwards.
    """

    status: int
    fields: tuple[tuple[str, str], ...] = ()
    body: bytes | Body = b""
    close: bool = False


def reason_phrase(status: int) -> str:
    """The registered reason phrase; "" for an unregistered status, as RFC 9112 §4 allows."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
