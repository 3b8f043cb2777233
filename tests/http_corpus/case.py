"""What a case of the corpus is, and the pieces that cases are written with.

A stream of bytes, the section or the published fault that it comes from, and all that must follow:
the requests that it holds, the refusal that ends it, how the connection fares.
"""

from __future__ import annotations

from dataclasses import dataclass

HOST = b"Host: example.com\r\n"
GET = b"GET / HTTP/1.1\r\n"
POST = b"POST /in HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

# (method, target, body) of one complete request.
Asked = tuple[str, bytes, bytes]
ROOT: Asked = ("GET", b"/", b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One stream and what must come of it, however it is cut into pieces.

    `source` is a section ("9112 §2.2" is RFC 9112 §2.2) or a published fault.
    `requests` are the complete requests, up to the refusal if there is one. The connection ends
    after the first `closes_after` of them, where that is given. `unfinished` says in which part
    of a message the stream stops, if not at its end. `answer_to_broken_off` is what a client that
    closes its half there is told, if anything.
    `h11_differs` says why h11, a careful parser with other goals, reads a case otherwise.
    """

    name: str
    source: str
    stream: bytes
    requests: tuple[Asked, ...]
    refusal: int | None = None
    closes_after: int | None = None
    unfinished: str = ""
    answer_to_broken_off: int | None = None
    h11_differs: str = ""

    @property
    def is_valid(self) -> bool:
        """Whether each byte belongs to a complete request."""
        return self.refusal is None and not self.unfinished

    @property
    def answered(self) -> tuple[Asked, ...]:
        """The requests that a live server answers with what its handler says."""
        return self.requests[: self.closes_after]

    @property
    def last_status(self) -> int | None:
        """The status that a live server says last, of its own accord."""
        if self.closes_after is not None:
            return None
        return self.refusal or self.answer_to_broken_off

    @property
    def survives(self) -> bool:
        """Whether the connection can be used afterwards."""
        return self.is_valid and self.closes_after is None


def accept(
    name: str,
    source: str,
    stream: bytes,
    *requests: Asked,
    closes_after: int | None = None,
    h11_differs: str = "",
) -> Case:
    """A stream of complete requests."""
    return Case(
        name=name,
        source=source,
        stream=stream,
        requests=requests or (ROOT,),
        closes_after=closes_after,
        h11_differs=h11_differs,
    )


def refuse(name: str, source: str, stream: bytes, status: int, *before: Asked) -> Case:
    """A stream that is refused, after the requests `before`."""
    return Case(name=name, source=source, stream=stream, requests=before, refusal=status)


def break_off(name: str, source: str, stream: bytes, part: str, *before: Asked) -> Case:
    """A stream that stops amid a message: in its "head" or its "body"."""
    told = 400 if part == "body" else None
    return Case(
        name=name,
        source=source,
        stream=stream,
        requests=before,
        unfinished=part,
        answer_to_broken_off=told,
    )


def get(fields: bytes = b"", target: bytes = b"/") -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\n" + HOST + fields + b"\r\n"


def line(request_line: bytes) -> bytes:
    return request_line + b"\r\n" + HOST + b"\r\n"


def host(value: bytes) -> bytes:
    return GET + b"Host: " + value + b"\r\n\r\n"


def length(value: bytes) -> bytes:
    return POST + b"Content-Length: " + value + b"\r\n\r\nhello"


def coding(value: bytes) -> bytes:
    return POST + b"Transfer-Encoding: " + value + b"\r\n\r\n0\r\n\r\n"


def asked(target: bytes) -> Asked:
    return ("GET", target, b"")


def posted(body: bytes) -> Asked:
    return ("POST", b"/in", body)
