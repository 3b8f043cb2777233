"""The same streams over real sockets to a live server, many connections at once.

Our parser, fed the same bytes, says what the answers must be: one for each complete request up to
the one that closes, then the refusal. Each answer must read well to h11's client; nothing may be
logged as an error; each connection must come to its end.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable
from functools import lru_cache

import h11

from fuzzing.readers import CLOSED, REFUSED, Reading, read_ours
from fuzzing.streams import make_stream
from p2pweb.http.messages import Request, Response
from p2pweb.http.server import HttpServer, RequestBody, ServerLimits

CONNECTIONS_AT_ONCE = 64

# Several ports, so that closed connections do not use up the pairs of ports.
_LISTENERS = 8

# One in so many does not close its half, but waits for a deadline to do that.
_WAITS_EVERY = 64

# Long enough for a busy machine.
_PATIENCE_S = 60.0
_CONNECTIONS_MAX = 8 * CONNECTIONS_AT_ONCE
# Who closes its half is never late, however long the machine stalls.
_PATIENT = ServerLimits(
    first_byte_s=_PATIENCE_S,
    head_s=_PATIENCE_S,
    body_base_s=_PATIENCE_S,
    keep_alive_s=_PATIENCE_S,
    linger_s=_PATIENCE_S,
    half_closed_s=_PATIENCE_S,
    connections_max=_CONNECTIONS_MAX,
)
# For those who wait; a shorter time would be over when the machine stalls.
_HASTY_S = 1.0
_HASTY = ServerLimits(
    first_byte_s=_HASTY_S,
    head_s=_HASTY_S,
    body_base_s=_HASTY_S,
    keep_alive_s=_HASTY_S,
    linger_s=_HASTY_S,
    connections_max=_CONNECTIONS_MAX,
)

_HEAD = re.compile(rb"HTTP/1\.1 [0-9]{3} [^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n")
_CONTENT_LENGTH = re.compile(rb"\r\nContent-Length: ([0-9]+)\r\n")


async def check_live(seed: int, numbers: Iterable[int]) -> list[str]:
    """Send each case; the faults, each a sentence with the number of its case."""
    faults: list[str] = []
    logged = _Logged()
    log = logging.getLogger("p2pweb.http")
    log.addHandler(logged)
    propagates, log.propagate = log.propagate, False
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: faults.append(f"the loop was told: {context}")
    )
    patient, hasty = (
        HttpServer(_answer, limits=limits, now_unix=lambda: 784111777.5)
        for limits in (_PATIENT, _HASTY)
    )
    await patient.start([("127.0.0.1", 0)] * _LISTENERS)
    await hasty.start([("127.0.0.1", 0)])
    left = iter(numbers)
    # The last port is the hasty one's.
    ports = [port for _, port in (*patient.addresses, *hasty.addresses)]
    try:
        await asyncio.gather(
            *(_take_cases(seed, left, ports, faults) for _ in range(CONNECTIONS_AT_ONCE))
        )
    finally:
        for server in (patient, hasty):
            await asyncio.wait_for(server.close(0), _PATIENCE_S)
        log.removeHandler(logged)
        log.propagate = propagates
    return faults + logged.told


class _Logged(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(f"logged: {self.format(record)}")


async def _answer(request: Request, body: RequestBody) -> Response:
    size_bytes = 0
    async for data in body:
        size_bytes += len(data)
    return Response(status=200, body=b"%s %d" % (request.method.encode(), size_bytes))


async def _take_cases(
    seed: int, numbers: Iterable[int], ports: list[int], faults: list[str]
) -> None:
    """Take one case after another from the common iterator."""
    for number in numbers:
        stream = make_stream(seed, number)
        reading = read_ours(stream)
        waits = number % _WAITS_EVERY == 0
        port = ports[-1] if waits else ports[number % _LISTENERS]
        try:
            async with asyncio.timeout(_PATIENCE_S):
                got = await _exchange(stream, port, closes=not waits)
            fault = judge(got, reading, stream, half_closed=not waits)
        except OSError as error:
            # TimeoutError is one.
            fault = repr(error)
        if fault:
            faults.append(f"case {number}: {fault}: {stream!r:.2000}")


class _Client(asyncio.Protocol):
    """Collects what comes until the server closes."""

    def __init__(self, ended: asyncio.Future[bytes]) -> None:
        self._ended = ended
        self._got = bytearray()

    def data_received(self, data: bytes) -> None:
        self._got += data

    def connection_lost(self, exc: Exception | None) -> None:
        if self._ended.done():
            return
        if exc is None:
            self._ended.set_result(bytes(self._got))
        else:
            self._ended.set_exception(exc)


async def _exchange(stream: bytes, port: int, *, closes: bool) -> bytes:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[bytes] = loop.create_future()
    transport, _ = await loop.create_connection(lambda: _Client(ended), "127.0.0.1", port)
    try:
        transport.write(stream)
        if closes:
            transport.write_eof()
        return await ended
    finally:
        transport.abort()


def judge(got: bytes, reading: Reading, stream: bytes, *, half_closed: bool) -> str:
    """What is wrong with the answers to a stream; "" if nothing is."""
    expected = [(message.method, 200) for message in reading.messages]
    if reading.end == REFUSED:
        expected.append((_method_of(reading, stream), reading.status))
    elif reading.end != CLOSED and reading.head is not None:
        # The body breaks off, or does not come.
        expected.append((reading.head.method, 400 if half_closed else 408))
    elif reading.end != CLOSED and reading.begun and not half_closed:
        expected.append((_method_of(reading, stream), 408))
    at = 0
    for number, (method, status) in enumerate(expected):
        if got.startswith(b"HTTP/1.1 100 Continue\r\n\r\n", at):
            at += len(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = _answer_length(got, at, method)
        if length is None:
            return f"answer {number} of {len(expected)} is missing or broken: {got[at:]!r:.300}"
        closes, told = _read_strictly(got[at : at + length], method)
        if told != status:
            return f"answer {number} is {told or 'not HTTP'} where {status} is right"
        ends = number == len(expected) - 1 and (status != 200 or reading.end == CLOSED)
        if closes != ends:
            return f"answer {number} of {len(expected)} says close: {closes}"
        at += length
    return f"{len(got) - at} bytes follow the last answer" if at < len(got) else ""


def _method_of(reading: Reading, stream: bytes) -> bytes:
    """The method of the message that has not ended: RFC 9110 §9.3.2, no content answers HEAD."""
    if reading.head is not None:
        return reading.head.method
    begun = stream[reading.starts[-1] :].removeprefix(b"\r\n").removeprefix(b"\r\n")
    return b"HEAD" if begun.startswith(b"HEAD ") else b"GET"


def _answer_length(got: bytes, at: int, method: bytes) -> int | None:
    head = _HEAD.match(got, at)
    if head is None:
        return None
    length = _CONTENT_LENGTH.search(head[0])
    if length is None:
        return None
    size = len(head[0]) + (0 if method == b"HEAD" else int(length[1]))
    return size if at + size <= len(got) else None


# Answers repeat, and h11 reads slowly.
@lru_cache(maxsize=4096)
def _read_strictly(answer: bytes, method: bytes) -> tuple[bool, int]:
    """Whether the answer closes, and its status; 0 if h11 reads anything but one whole answer."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(answer)
    status, closes = 0, False
    try:
        while True:
            event = client.next_event()
            if isinstance(event, h11.Response):
                status = event.status_code
                closes = (b"connection", b"close") in list(event.headers)
            elif isinstance(event, h11.EndOfMessage):
                return closes, status if client.trailing_data == (b"", False) else 0
            elif not isinstance(event, h11.Data):
                return False, 0
    except h11.RemoteProtocolError:
        return False, 0
