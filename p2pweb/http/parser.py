"""Bytes → request events: the HTTP/1.1 message grammar of RFC 9112, and nothing else.

Owns framing: where a head, a body and a message end. It is strict where leniency has let two
readers disagree about that (request smuggling): whatever two parsers could read differently is
refused. Flow: `receive(data)`, then `next_event()` until it is None ("need more"); after
`EndOfMessage` nothing is parsed until `next_request()`, so pipelined requests wait as bytes.
A `Refusal` means that the client is wrong; the parser is then finished, and so is the connection.
The answer depends on the bytes alone, never on how they were split.

Non-goals: CONNECT tunnels (refused with 501), upgrades (never offered), trailers (checked and
dropped), and any coding but chunked.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial

from p2pweb.http.messages import HTTP_1_0, HTTP_1_1, HttpVersion, Refusal, Request
from p2pweb.http.request_head import Fields, accept_head

# RFC 9110 §9 and RFC 5789. Others are answered 501, as RFC 9110 §9.1 asks.
KNOWN_METHODS = frozenset(
    (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH")
)

# A CRLF too many after a body is an old client's slip (RFC 9112 §2.2); a stream of them is not.
_EMPTY_LINES_MAX = 2

# Enough for an exabyte: conversion stays cheap.
_CHUNK_SIZE_DIGITS_MAX = 15

# What a request line holds besides its target: a method, a version, two spaces.
_LINE_EXTRA_BYTES = 32

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
# RFC 9112 §3: a single space between the parts; the lenient splitting that it permits is not ours.
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
# What a method, or an empty line, begins with.
_LINE_START = re.compile(_TOKEN + rb"|[\r\n]")
_LINE_STARTS = frozenset(byte for byte in range(256) if _LINE_START.match(bytes((byte,))))
# RFC 9112 §5.1: no whitespace between name and colon. RFC 9110 §5.5: no controls but the tab.
# A line that begins with a blank (obs-fold) has no name, and is refused with the rest.
_FIELD_LINE = re.compile(rb"(" + _TOKEN + rb"):([\t\x20-\x7e\x80-\xff]*)")
# A whole head at once, as nearly every one arrives: the same grammar, read in one pass. What this
# does not match is read line by line, which finds out what is amiss.
_HEAD = re.compile(
    rb"(" + _TOKEN + rb") ([\x21-\x7e]++) HTTP/1\.([0-9])\r\n"
    rb"((?:" + _TOKEN + rb":[\t\x20-\x7e\x80-\xff]*+\r\n)*+)\r\n"
)
_FIELD_LINES = re.compile(rb"([^:]+):[ \t]*([^\r]*)\r\n")
# RFC 9112 §7.1.1: extensions are checked so that both ends agree on where the line ends.
_CHUNK_LINE = re.compile(
    rb"([0-9A-Fa-f]+)((?:[ \t]*;[ \t]*" + _TOKEN + rb"(?:[ \t]*=[ \t]*"
    rb"(?:" + _TOKEN + rb'|"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*"'
    rb"))?)*)"
)
# The line of a chunk that fits into what is read at once, without extensions: nearly every one. It
# is shorter than any limit, and any other line is read on its own, which finds out what is amiss.
_PLAIN_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,5})\r\n")
_FIELDS_TOO_LONG = partial(Refusal, 431, "the header fields are too long")
_CHUNK_LINE_TOO_LONG = partial(Refusal, 413, "a chunk has too long extensions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one message may make a peer hold or read; all are per message."""

    # Browsers stop at some thousands of bytes, and no path in a manifest is that long.
    target_bytes_max: int = 8 * 1024
    # Room for the largest cookie that browsers send, which a site of ours never asked for.
    field_line_bytes_max: int = 8 * 1024
    head_bytes_max: int = 32 * 1024
    # Browsers send about twenty.
    fields_max: int = 100
    # A signed upload puts some eighty bytes on a chunk.
    chunk_line_bytes_max: int = 512
    # Extensions carry nothing that we read; their sum is bounded so that they are not a body
    # beside the body (CVE-2023-39326).
    chunk_extensions_bytes_max: int = 16 * 1024
    trailer_bytes_max: int = 8 * 1024


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyData:
    """Some bytes of the body, at least one, with the framing taken off.

    Where chunks end does not show: it is no part of the message (RFC 9112 §7.1.1).
    """

    data: bytes


@dataclass(frozen=True, slots=True)
class EndOfMessage:
    """The body, if there was one, is complete."""


Event = Request | BodyData | EndOfMessage
_END_OF_MESSAGE = EndOfMessage()


class _State(Enum):
    REQUEST_LINE = auto()
    FIELDS = auto()
    SIZED_BODY = auto()
    CHUNK_LINE = auto()
    CHUNK_DATA = auto()
    CHUNK_END = auto()
    TRAILERS = auto()
    DONE = auto()
    REFUSED = auto()


class RequestParser:
    """Reads the requests of one connection, one at a time."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._buffer = bytearray()
        self._refusal: tuple[int, str] | None = None
        self._head_at_once_bytes_max = min(
            limits.target_bytes_max, limits.field_line_bytes_max, limits.head_bytes_max
        )
        self._start_message()

    def _start_message(self) -> None:
        self._state = _State.REQUEST_LINE
        self._scanned_bytes = 0
        self._empty_lines = 0
        self._request_line: tuple[str, bytes, HttpVersion] = ("", b"", HTTP_1_1)
        self._fields: list[tuple[bytes, bytes]] = []
        self._section_left_bytes = self._limits.head_bytes_max
        self._extensions_bytes = 0
        # What is left of the sized body, or of the chunk.
        self._left_bytes = 0
        self._head = b""
        self._is_head_request = False

    @property
    def buffered_bytes(self) -> int:
        """How many received bytes wait to be parsed."""
        return len(self._buffer)

    @property
    def head(self) -> bytes:
        """The very bytes of this request's head, where it was here whole; else b""."""
        return self._head

    @property
    def is_head_request(self) -> bool:
        """Whether this request says HEAD, as far as it was read; after a refusal, whether it did.

        RFC 9110 §9.3.2: what is refused then is refused without content too.
        """
        return self._is_head_request

    @property
    def begun(self) -> bool:
        """Whether a request has begun: a byte of it is here beyond empty lines."""
        return self._state is not _State.REQUEST_LINE or bool(self._buffer)

    @property
    def empty_lines(self) -> int:
        """How many stand before the request that has not begun."""
        return self._empty_lines

    @property
    def ended(self) -> bool:
        """Whether `EndOfMessage` was given out, so that `next_request` may follow."""
        return self._state is _State.DONE

    @property
    def refused(self) -> bool:
        """Whether a refusal has ended this connection's parsing."""
        return self._refusal is not None

    @property
    def body_left_bytes(self) -> int | None:
        """How many bytes of the body were not yet given out; None if it is chunked and unended."""
        if self._state in (_State.SIZED_BODY, _State.DONE):
            return self._left_bytes
        return None

    def receive(self, data: bytes) -> None:
        """Take bytes from the network. They are kept until an event consumes them."""
        self._buffer += data

    def repeat(self, head: bytes) -> None:
        """Take up a request whose very head was read before, and had no body; only before any byte
        of a request is here. `EndOfMessage` is the next event."""
        if self.begun:
            raise RuntimeError("another request has begun")
        self._head = head
        self._state = _State.SIZED_BODY

    def next_event(self) -> Event | None:
        """The next event, or None if more bytes are needed (after `EndOfMessage`: always None).

        Raises `Refusal`, and the same one ever after.
        """
        if self._refusal is not None:
            raise Refusal(*self._refusal)
        try:
            return self._step()
        except Refusal as refusal:
            self._end_with(refusal)
            raise

    def _end_with(self, refusal: Refusal) -> None:
        self._state = _State.REFUSED
        # Not the exception itself: by its traceback it holds every frame that it passed, and so the
        # bytes that were read last, for as long as the connection lingers.
        self._refusal = (refusal.status, refusal.why)
        self._buffer.clear()

    def next_request(self) -> None:
        """Go on to the next request; only after `EndOfMessage`."""
        if self._state is not _State.DONE:
            raise RuntimeError("the message before has not ended")
        self._start_message()

    def _step(self) -> Event | None:
        """Walk the states until one gives an event or lacks bytes."""
        while True:
            state = self._state
            match state:
                case _State.REQUEST_LINE:
                    self._is_head_request = self._buffer.startswith(b"HEAD ")
                    request = self._read_whole_head()
                    if request is not None:
                        return request
                    advanced = self._read_request_line()
                case _State.FIELDS:
                    if self._read_fields():
                        return self._accept_head(*self._request_line, tuple(self._fields))
                    return None
                case _State.SIZED_BODY:
                    return self._read_sized_body()
                case _State.CHUNK_LINE | _State.CHUNK_DATA | _State.CHUNK_END:
                    data = self._read_chunks()
                    if data is not None:
                        return data
                    advanced = self._state is _State.TRAILERS
                case _State.TRAILERS:
                    if self._read_fields():
                        self._state = _State.DONE
                        return _END_OF_MESSAGE
                    return None
                case _:
                    return None
            if not advanced:
                return None

    def _take_line(self, limit_bytes: int, too_long: Callable[[], Refusal]) -> bytes | None:
        """Cut off the next line, without its CRLF; None if it is not complete yet.

        The verdict on an endless line falls at the same byte however the bytes arrive.
        """
        longest = limit_bytes + len(b"\r\n")
        end = self._buffer.find(b"\n", self._scanned_bytes, longest)
        if end < 0:
            if len(self._buffer) >= longest:
                raise too_long()
            self._scanned_bytes = len(self._buffer)
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._scanned_bytes = 0
        # RFC 9112 §2.2 permits a bare LF as a line end. Readers that differ on it have been
        # smuggled through, and no client of today sends one.
        if not line.endswith(b"\r"):
            raise Refusal(400, "a line ends without a carriage return")
        return line[:-1]

    def _read_whole_head(self) -> Request | None:
        """The head if all of it is here and nothing about it is remarkable."""
        buffer = self._buffer
        size_bytes = buffer.find(b"\r\n\r\n", 0, self._head_at_once_bytes_max) + 4
        if size_bytes < 4:
            return None
        head = bytes(buffer[:size_bytes])
        match = _HEAD.fullmatch(head)
        if match is None:
            return None
        method, target, minor, lines = match.groups()
        fields = [
            (name.lower(), value.rstrip(b" \t")) for name, value in _FIELD_LINES.findall(lines)
        ]
        if method not in KNOWN_METHODS or len(fields) > self._limits.fields_max:
            return None
        del buffer[:size_bytes]
        self._scanned_bytes = 0
        self._head = head
        version = HTTP_1_0 if minor == b"0" else HTTP_1_1
        return self._accept_head(method.decode("ascii"), target, version, tuple(fields))

    def _read_request_line(self) -> bool:
        if self._buffer and self._buffer[0] not in _LINE_STARTS:
            # Mostly a browser that was told https://; waiting for a line's end helps nobody.
            raise Refusal(400, "the request line is malformed")
        limit = self._limits.target_bytes_max + _LINE_EXTRA_BYTES
        line = self._take_line(limit, self._judge_endless_line)
        if line is None:
            return False
        if not line:
            self._empty_lines += 1
            if self._empty_lines > _EMPTY_LINES_MAX:
                raise Refusal(400, "too many empty lines stand before the request")
            return True
        self._section_left_bytes -= len(line) + 2
        self._request_line = self._parse_request_line(line)
        self._state = _State.FIELDS
        return True

    def _judge_endless_line(self) -> Refusal:
        # Without a space near its start it is no request line, whatever its length.
        if b" " in self._buffer[:_LINE_EXTRA_BYTES]:
            return Refusal(414, "the address is too long")
        return Refusal(400, "the request line is malformed")

    def _parse_request_line(self, line: bytes) -> tuple[str, bytes, HttpVersion]:
        match = _REQUEST_LINE.fullmatch(line)
        if match is None:
            raise Refusal(400, "the request line is malformed")
        method, target, major, minor = match.groups()
        if major != b"1":
            raise Refusal(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
        if method not in KNOWN_METHODS:
            raise Refusal(501, "the method is not known here")
        if len(target) > self._limits.target_bytes_max:
            raise Refusal(414, "the address is too long")
        # RFC 9110 §6.2: a higher minor version is read as the highest that we conform to.
        return method.decode("ascii"), target, HTTP_1_0 if minor == b"0" else HTTP_1_1

    def _read_fields(self) -> bool:
        """Read field lines up to the empty one; True once that was read. Head and trailers."""
        while True:
            limit = min(self._limits.field_line_bytes_max, max(0, self._section_left_bytes))
            line = self._take_line(limit, _FIELDS_TOO_LONG)
            if line is None:
                return False
            if not line:
                return True
            self._section_left_bytes -= len(line) + 2
            match = _FIELD_LINE.fullmatch(line)
            if match is None:
                raise Refusal(400, "a header field is malformed")
            if len(self._fields) >= self._limits.fields_max:
                raise Refusal(431, "there are too many header fields")
            self._fields.append((match[1].lower(), match[2].strip(b" \t")))

    def _accept_head(
        self, method: str, target: bytes, version: HttpVersion, fields: Fields
    ) -> Request:
        request = accept_head(method, target, version, fields)
        # Trailers have limits of their own.
        self._fields = []
        self._section_left_bytes = self._limits.trailer_bytes_max
        self._left_bytes = request.content_length or 0
        chunked = request.content_length is None
        self._state = _State.CHUNK_LINE if chunked else _State.SIZED_BODY
        return request

    def _read_sized_body(self) -> Event | None:
        if self._left_bytes == 0:
            self._state = _State.DONE
            return _END_OF_MESSAGE
        data = self._take_body()
        return BodyData(data=data) if data else None

    def _take_body(self) -> bytes:
        """What is here of the sized body, or of the chunk."""
        data = bytes(self._buffer[: self._left_bytes])
        del self._buffer[: len(data)]
        self._left_bytes -= len(data)
        return data

    def _read_chunks(self) -> BodyData | None:
        """The data of all the chunks that are here, as one: where they are tiny, an event for each
        would cost a thousand times its bytes."""
        data = bytearray()
        try:
            self._take_plain_chunks(data)
            while self._read_chunk(data):
                self._take_plain_chunks(data)
        except Refusal as refusal:
            if not data:
                raise
            # What came before it is given out first, as if it had come alone.
            self._end_with(refusal)
        return BodyData(data=bytes(data)) if data else None

    def _take_plain_chunks(self, data: bytearray) -> None:
        """Read the chunks that are here whole and have nothing remarkable, in one pass."""
        if self._state is not _State.CHUNK_LINE:
            return
        buffer, at = self._buffer, 0
        while (line := _PLAIN_CHUNK_LINE.match(buffer, at)) is not None:
            start = line.end()
            stop = start + int(line[1], 16)
            if start == stop or not buffer.startswith(b"\r\n", stop):
                break
            data += buffer[start:stop]
            at = stop + 2
        if at:
            del buffer[:at]
            self._scanned_bytes = 0

    def _read_chunk(self, data: bytearray) -> bool:
        """Read a part of a chunk; False if bytes are lacking, or no more chunks follow."""
        match self._state:
            case _State.CHUNK_LINE:
                return self._read_chunk_line()
            case _State.CHUNK_DATA:
                data += self._take_body()
                if self._left_bytes:
                    return False
                self._state = _State.CHUNK_END
                return True
            case _State.CHUNK_END:
                return self._read_chunk_end()
            case _:
                return False

    def _read_chunk_line(self) -> bool:
        limit = self._limits.chunk_line_bytes_max
        line = self._take_line(limit, _CHUNK_LINE_TOO_LONG)
        if line is None:
            return False
        match = _CHUNK_LINE.fullmatch(line)
        if match is None:
            raise Refusal(400, "a chunk has a malformed size")
        size, extensions = match.groups()
        # RFC 9112 §7.1: recipients MUST anticipate large hexadecimal numerals and prevent errors
        # due to integer conversion overflows.
        if len(size) > _CHUNK_SIZE_DIGITS_MAX:
            raise Refusal(413, "a chunk is too large")
        self._extensions_bytes += len(extensions)
        if self._extensions_bytes > self._limits.chunk_extensions_bytes_max:
            raise Refusal(413, "the chunks have too long extensions")
        self._left_bytes = int(size, 16)
        self._state = _State.CHUNK_DATA if self._left_bytes else _State.TRAILERS
        return True

    def _read_chunk_end(self) -> bool:
        ending = self._buffer[:2]
        if not b"\r\n".startswith(ending):
            raise Refusal(400, "a chunk is longer than its size says")
        if len(ending) < 2:
            return False
        del self._buffer[:2]
        self._state = _State.CHUNK_LINE
        return True
