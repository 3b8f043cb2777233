"""What a server's user meets: handlers, request bodies, limits, access entries.

Flow: the server calls a `Handler` with a `Request` and its `RequestBody`, gets a `Response`, and
reports an `AccessEntry`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from p2pweb.http.messages import Refusal, Request, Response
from p2pweb.http.parser import DEFAULT_LIMITS, Limits


class RequestBody:
    """A request's body, read from the network only as far as it is asked for.

    Iterate over it for bytes as they come, or `read` it whole. Either raises `Refusal`: 400 where
    it is malformed or breaks off, 408 where it comes too slowly. It has one reader at a time.
    """

    def __init__(
        self, content_length: int | None, next_data: Callable[[], Awaitable[bytes]]
    ) -> None:
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


Handler = Callable[[Request, RequestBody], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """How long a peer waits for a visitor, and how much of itself it gives to one."""

    # An honest client sends its head in one flight; ten seconds allow for a poor mobile link.
    first_byte_s: float = 10.0
    head_s: float = 10.0
    # A body may take this long, and a second more for each so many bytes that have come.
    body_base_s: float = 20.0
    body_rate_bytes_per_s: int = 500
    # Without a byte taken for so long, the reader is gone or means harm.
    write_idle_s: float = 30.0
    # Browsers reuse a connection within seconds or not at all.
    keep_alive_s: float = 15.0
    keep_alive_under_pressure_s: float = 5.0
    # Above this share of `connections_max` the shorter keep-alive holds.
    pressure_share: float = 0.75
    # A connection should end some day, so that load can move.
    requests_max: int = 1000
    # Well below the 1,024 descriptors that many systems grant, which the store shares.
    connections_max: int = 768
    # Browsers open six to a host; a school behind one address shares these.
    connections_per_address_max: int = 64
    # What may wait, received but not dispatched, before reading pauses.
    buffered_bytes_max: int = 64 * 1024
    # Reading this much of an unwanted body is cheaper than a new connection.
    drain_bytes_max: int = 64 * 1024
    # RFC 9112 §9.6: how long, and how much, to read after the half-close so that the last answer
    # is not lost to a reset.
    linger_s: float = 2.0
    linger_bytes_max: int = 4 * 1024 * 1024
    # A client that has closed its half may still read; most have left. The answer must begin
    # within this time.
    half_closed_s: float = 5.0
    # The transport's buffer: above it, writing waits.
    write_buffer_bytes_max: int = 64 * 1024
    # Whether `connections_per_address_max` holds for this machine's own visitors too: a proxy in
    # front of the peer is one of them, and speaks for everybody.
    counts_loopback: bool = False
    parser: Limits = DEFAULT_LIMITS


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessEntry:
    """One answer, for the access log. `method` is "" where the head was refused.

    `sent_bytes` counts the body as handed to the transport. `complete` is False where the
    connection broke off before the whole answer was handed over; `status` is 0 where it broke
    off before its head.
    """

    address: str
    method: str
    host: str
    target: bytes
    status: int
    sent_bytes: int
    duration_s: float
    complete: bool
