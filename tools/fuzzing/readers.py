"""Three parsers, one way to tell what they read: ours, h11's server, and llhttp by httptools.

A `Reading` is what a connection would come to: the complete messages up to the first that ends it,
and how it stands after them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import h11
import httptools

from p2pweb.http.messages import Refusal, Request
from p2pweb.http.parser import DEFAULT_LIMITS, BodyData, Limits, RequestParser

WAITS = "waits"  # for the rest of a message, or for the next one
CLOSED = "closed"  # after a message that ends the connection
REFUSED = "refused"
UPGRADED = "upgraded"  # to what is no HTTP/1.1


class Message(NamedTuple):
    method: bytes
    target: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes
    keep_alive: bool


class Reading(NamedTuple):
    """`head` is that of a message whose body has not ended; its `body` is what has come."""

    messages: list[Message]
    end: str
    head: Message | None = None
    status: int = 0
    why: str = ""
    # Ours alone: where each message begins, and where the one begins that has not ended.
    starts: tuple[int, ...] = ()
    # Ours alone: whether a byte of an unended message is there.
    begun: bool = False


class BrokenInvariant(Exception):  # noqa: N818 - it is told as it is
    """Our parser did what it must never do."""


# A head costs two events; a byte of a body one at most, with as many for the edges.
_HEAD_BYTES_MIN = len(b"GET / HTTP/1.0\r\n\r\n")


def read_ours(stream: bytes, cuts: Sequence[int] = (), limits: Limits = DEFAULT_LIMITS) -> Reading:
    """Feed our parser the stream, cut in front of the bytes that `cuts` names, sorted."""
    parser = RequestParser(limits)
    messages: list[Message] = []
    starts = [0]
    head: Request | None = None
    body = b""
    events_left = 2 + 2 * len(stream) // _HEAD_BYTES_MIN + len(stream)
    buffered_max = _buffered_bytes_max(limits)
    start = 0
    try:
        for stop in itertools.chain(cuts, (len(stream),)):
            parser.receive(stream[start:stop])
            start = stop
            while (event := parser.next_event()) is not None:
                events_left -= 1
                if events_left < 0:
                    raise BrokenInvariant("it gives more events than the bytes warrant")
                if isinstance(event, Request):
                    head, body = event, b""
                elif isinstance(event, BodyData):
                    if not event.data:
                        raise BrokenInvariant("it gives an empty piece of a body")
                    body += event.data
                else:
                    if head is None or not parser.ended or parser.body_left_bytes != 0:
                        raise BrokenInvariant("a message ends that has not begun")
                    messages.append(_ours(head, body))
                    if not head.keep_alive:
                        return Reading(messages, CLOSED, starts=tuple(starts))
                    head = None
                    parser.next_request()
                    starts.append(start - parser.buffered_bytes)
            if parser.buffered_bytes > buffered_max:
                raise BrokenInvariant(f"{parser.buffered_bytes} bytes wait without an event")
    except Refusal as refusal:
        _check_stays_refused(parser, refusal)
        # How much of the body came before depends on the cuts.
        unended = None if head is None else _ours(head, b"")
        return Reading(
            messages, REFUSED, unended, refusal.status, refusal.why, starts=tuple(starts)
        )
    unended = None if head is None else _ours(head, body)
    return Reading(messages, WAITS, unended, starts=tuple(starts), begun=parser.begun)


def _ours(head: Request, body: bytes) -> Message:
    return Message(head.method.encode(), head.target, head.fields, body, head.keep_alive)


def _buffered_bytes_max(limits: Limits) -> int:
    """What may wait while no event comes: a head or trailers, with the line that breaks a limit."""
    sections = limits.head_bytes_max + limits.trailer_bytes_max
    lines = limits.target_bytes_max + limits.field_line_bytes_max + limits.chunk_line_bytes_max
    return sections + lines + 64


def _check_stays_refused(parser: RequestParser, refusal: Refusal) -> None:
    for data in (b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"):
        parser.receive(data)
        try:
            parser.next_event()
        except Refusal as again:
            if (again.status, again.why) == (refusal.status, refusal.why) and parser.refused:
                continue
        raise BrokenInvariant("a refusal is not final")


# Larger than any stream: how much to hold is no matter of this comparison.
_H11_EVENT_BYTES_MAX = 1 << 24


def read_h11(stream: bytes) -> Reading:
    """Each message gets a connection of its own, so that no answer need be written."""
    messages: list[Message] = []
    while True:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_H11_EVENT_BYTES_MAX)
        if stream:
            connection.receive_data(stream)
        head: h11.Request | None = None
        body = b""
        try:
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    unended = None if head is None else _h11(head, body, True)
                    return Reading(messages, WAITS, unended)
                if isinstance(event, h11.Request):
                    head = event
                elif isinstance(event, h11.Data):
                    body += event.data
                else:
                    break
        except h11.RemoteProtocolError as error:
            return Reading(messages, REFUSED, why=str(error))
        assert head is not None
        keeps = _h11_keeps_alive(connection)
        messages.append(_h11(head, body, keeps))
        if not keeps:
            return Reading(messages, CLOSED)
        stream = connection.trailing_data[0]


def _h11(head: h11.Request, body: bytes, keeps: bool) -> Message:
    return Message(head.method, head.target, tuple(head.headers), body, keeps)


def _h11_keeps_alive(connection: h11.Connection) -> bool:
    if connection.their_state is h11.MIGHT_SWITCH_PROTOCOL:
        # An answer that switches to nothing tells.
        connection.send(h11.Response(status_code=400, headers=[("Content-Length", "0")]))
        connection.send(h11.EndOfMessage())
    return connection.their_state is h11.DONE


class _Calls:
    """What httptools calls back; it does not wait between two messages."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.closed = False
        self.parser = httptools.HttpRequestParser(self)
        self.on_message_begin()

    def on_message_begin(self) -> None:
        self.head: Message | None = None
        self.target = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.body = b""

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head is None:
            self.fields.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        method = self.parser.get_method()
        self.head = Message(method, self.target, tuple(self.fields), b"", True)

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        assert self.head is not None
        keeps = self.parser.should_keep_alive()
        if not self.closed:
            self.messages.append(self.head._replace(body=self.body, keep_alive=keeps))
        self.closed = self.closed or not keeps
        self.head = None


def read_httptools(stream: bytes) -> Reading:
    calls = _Calls()
    end, why = WAITS, ""
    try:
        calls.parser.feed_data(stream)
    except httptools.HttpParserUpgrade:
        # What was upgraded has no body to this reader.
        if not calls.closed:
            calls.messages.pop()
        end = UPGRADED
    except httptools.HttpParserError as error:
        end, why = REFUSED, repr(error)
    if calls.closed:
        end = CLOSED
    unended = None if calls.head is None else calls.head._replace(body=calls.body)
    return Reading(calls.messages, end, unended if end == WAITS else None, why=why)


READERS = {"h11": read_h11, "httptools": read_httptools}
