"""What a server's user meets: handlers, request bodies, limits, access entries.

Flow: the server calls a `Handler` with a `Request` and its `RequestBody`, gets a `Response` at once
or awaits it, and reports an `AccessEntry`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec

from p2pweb.http.messages import Refusal, Request, Response
from p2pweb.http.parser import DEFAULT_LIMITS, Limits


class RequestBody:
    """A request's body, read from the network only as far as it is asked for.

    Iterate over it for bytes as they come, or `read` it whole. Either raises `Refusal`: 400 where
    it is malformed or breaks off, 408 where it comes too slowly. It has one reader at a time.
    `sender` is the IP address at the other end of the connection, "" where that is not known.
    """

    def __init__(
        self,
        content_length: int | None,
        next_data: Callable[[], Awaitable[bytes]],
        sender: str = "",
    ) -> None:
        self.sender = sender
        self._content_length = content_length
        self._next_data = next_data

    async def read(self, limit_bytes: int) -> bytes:
        """All that is left of the body; raises `Refusal` 413 if it has more than `limit_bytes`.

        A declared length above the limit is refused before the client is told to send it.
        """
        if self._content_length is not None and self._content_length > limit_bytes:
            raise Refusal(413, "the body is too large")
        pieces: list[bytes] = []
        left_bytes = limit_bytes
        async for data in self:
            left_bytes -= len(data)
            if left_bytes < 0:
                raise Refusal(413, "the body is too large")
            pieces.append(data)
        return b"".join(pieces)

    def __aiter__(self) -> RequestBody:
        return self

    async def __anext__(self) -> bytes:
        data = await self._next_data()
        if not data:
            raise StopAsyncIteration
        return data


# An answer that waits for nothing is returned as it is, which spares a task. `Refusal` and `HangUp`
# are raised.
Handler = Callable[[Request, RequestBody], Response | Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """How long a peer waits for a visitor, and how much of itself it gives to one."""

    # An honest client sends its head in one flight; ten seconds allow for a poor mobile link.
    first_byte_s: float = 10.0
    head_s: float = 10.0
    # A body may take this long, and a second more for each so many bytes that have come.
    body_base_s: float = 10.0
    body_rate_bytes_per_s: int = 500
    # Who has taken next to nothing for so long is gone or means harm. It is looked at once in every
    # shorter time, and under pressure a single one is enough.
    write_idle_s: float = 30.0
    write_idle_under_pressure_s: float = 10.0
    # Below this rate a reader takes next to nothing; a modem was ten times as fast.
    write_rate_bytes_per_s: int = 500
    # Browsers reuse a connection within seconds or not at all.
    keep_alive_s: float = 15.0
    keep_alive_under_pressure_s: float = 5.0
    # Above this share of `connections_max` the shorter waits hold.
    pressure_share: float = 0.75
    # A connection should end some day, so that load can move.
    requests_max: int = 1000
    # At two descriptors each (a long answer takes a second one) within what most systems grant;
    # `listening.server_limits` takes fewer where fewer are granted.
    connections_max: int = 768
    # Browsers open six to a host; a school behind one address shares these.
    connections_per_address_max: int = 64
    # What may wait of a body that its reader asks for.
    buffered_bytes_max: int = 64 * 1024
    # What may wait of anything else, received but not dispatched. It has room for the longest line
    # of a head; with what the transport may hold of answers, it stays below 64 KiB.
    read_ahead_bytes_max: int = 9 * 1024
    # Reading this much of an unwanted body, framing included, is cheaper than a new connection.
    drain_bytes_max: int = 64 * 1024
    # RFC 9112 §9.6: how long, and how much, to read after the half-close so that the last answer
    # is not lost to a reset.
    linger_s: float = 2.0
    linger_bytes_max: int = 4 * 1024 * 1024
    # A client that has closed its half may still read; most have left. The answer must begin
    # within this time.
    half_closed_s: float = 5.0
    # What may wait in the transport: above it, the next request is not looked at. One more short
    # answer may come on top.
    write_buffer_bytes_max: int = 16 * 1024
    # Whether `connections_per_address_max` holds for this machine's own visitors too: a proxy in
    # front of the peer is one of them, and speaks for everybody.
    counts_loopback: bool = False
    parser: Limits = DEFAULT_LIMITS


class AccessEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One answer, for the access log. `request` is None where the head was refused.

    `at_unix` is when it was answered. `sent_bytes` counts the body as handed over. `complete` is
    False where the connection broke off before the whole answer was handed over; `status` is 0
    where it broke off before its head.
    """

    at_unix: float
    address: str
    request: Request | None
    status: int
    sent_bytes: int
    duration_s: float
    complete: bool
