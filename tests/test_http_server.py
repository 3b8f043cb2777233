"""The server over real sockets: order, framing, bodies, deadlines, admission, endings."""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import os
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO
from unittest.mock import ANY

import aiohttp
import pytest

from p2pweb.errors import UnavailableError
from p2pweb.http.connection import Connection
from p2pweb.http.messages import Body, Lease, Refusal, Request, Response, Span
from p2pweb.http.server import AccessEntry, HttpServer, RequestBody, ServerLimits

BOTH_LOOPS = True

# Long enough for a slow machine, short enough to notice a hang.
PATIENCE_S = 5.0
BIG = bytes(range(256)) * 4096 * 4  # 4 MiB: more than any socket buffer holds
HOST = b"Host: localhost\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
LAST = b"GET / HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"


@dataclass
class Site:
    """A running server, its port, and what it logged."""

    server: HttpServer
    port: int
    entries: list[AccessEntry] = field(default_factory=list)

    async def talk(self, stream: bytes, *, half_close: bool = False) -> bytes:
        """Send, and read all until the server closes."""
        async with self.open() as (reader, writer):
            writer.write(stream)
            if half_close:
                writer.write_eof()
            return await asyncio.wait_for(reader.read(), PATIENCE_S)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


async def echo(request: Request, body: RequestBody) -> Response:
    """Answers what it was sent; the path says how."""
    text = await body.read(1024) if request.target == b"/in" else request.target
    return Response(status=200, fields=(("Content-Type", "text/plain"),), body=text)


async def until(holds: Callable[[], object]) -> None:
    """Let the loop turn until something holds; no time is waited for."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 - what is watched has no event of its own
            await asyncio.sleep(0)


def only_connection(site: Site) -> Connection:
    (connection,) = site.server._connections
    return connection


@asynccontextmanager
async def serve(
    handler: Callable[[Request, RequestBody], Awaitable[Response]] = echo, **limits: float
) -> AsyncIterator[Site]:
    entries: list[AccessEntry] = []
    server = HttpServer(
        handler,
        limits=ServerLimits(**limits),  # type: ignore[arg-type]
        now_unix=lambda: 784111777.5,
        log=entries.append,
    )
    await server.start([("127.0.0.1", 0)])
    try:
        yield Site(server, server.addresses[0][1], entries)
    finally:
        await asyncio.wait_for(server.close(0), PATIENCE_S)


async def read_answer(
    reader: asyncio.StreamReader, *, has_body: bool = True
) -> tuple[int, dict[str, str], bytes]:
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
    status, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    length = int(fields.get("content-length", "0")) if has_body else 0
    body = await asyncio.wait_for(reader.readexactly(length), PATIENCE_S)
    return int(status.split(" ")[1]), fields, body


@dataclass
class Stored:
    """Bytes to be sent from memory, so many at a time, or from a file."""

    data: bytes
    fails_at: int | None = None
    step_bytes: int = 65536
    path: Path | None = None
    opened: int = 0
    reads: int = 0
    closed: int = 0
    file: BinaryIO | None = None

    def open(self) -> Stored:
        self.opened += 1
        if self.path is not None:
            self.file = self.path.open("rb")
        return self

    def fileno(self) -> int | None:
        return None if self.file is None else self.file.fileno()

    async def read(self, start: int, stop: int) -> memoryview:
        self.reads += 1
        await asyncio.sleep(0)
        if self.fails_at is not None and start >= self.fails_at:
            raise OSError("the source ran dry")
        return memoryview(self.data)[start : min(stop, start + self.step_bytes)]

    def close(self) -> None:
        self.closed += 1
        if self.file is not None:
            self.file.close()

    def answer(self, size_bytes: int | None = None) -> Response:
        size_bytes = len(self.data) if size_bytes is None else size_bytes
        body = Body(size_bytes=size_bytes, pieces=(Span(0, size_bytes),), open=self.open)
        return Response(status=200, body=body)


# Answers


async def test_answer_has_date_server_and_length() -> None:
    async with serve() as site:
        assert await site.talk(LAST) == (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nServer: p2pweb\r\n"
            b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
            b"Content-Length: 1\r\nConnection: close\r\n\r\n/"
        )


async def test_head_of_an_answer_goes_out_with_its_body(monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[bytes] = []
    plain = Connection.write
    monkeypatch.setattr(
        Connection, "write", lambda self, data: (writes.append(data), plain(self, data))[1]
    )
    async with serve() as site:
        answer = await site.talk(LAST)
    assert writes == [answer]


async def test_connection_is_kept_alive() -> None:
    async with serve() as site, site.open() as (reader, writer):
        for target in (b"/a", b"/b"):
            writer.write(GET.replace(b"/", target, 1))
            status, fields, body = await read_answer(reader)
            assert (status, body) == (200, target)
            assert "connection" not in fields


async def test_pipelined_answers_come_in_order() -> None:
    async def slow_first(request: Request, body: RequestBody) -> Response:
        for _ in range(10 if request.target == b"/0" else 0):
            await asyncio.sleep(0)
        return Response(status=200, body=request.target + b"\n")

    targets = [b"/%d" % number for number in range(50)]
    stream = b"".join(GET.replace(b"/", target, 1) for target in targets)
    async with serve(slow_first) as site, site.open() as (reader, writer):
        writer.write(stream)
        for target in targets:
            assert (await read_answer(reader))[2] == target + b"\n"


async def test_pipelined_requests_wait_as_bytes() -> None:
    handled = 0
    go = asyncio.Event()

    async def held(request: Request, body: RequestBody) -> Response:
        nonlocal handled
        handled += 1
        await go.wait()
        return Response(status=204)

    async with serve(held, requests_max=100_000) as site, site.open() as (reader, writer):
        count = 10_000
        writer.write(GET * count)
        await until(lambda: site.server._connections)
        connection = only_connection(site)
        await until(lambda: connection._reading_paused and handled)
        assert handled == 1
        assert connection.parser.buffered_bytes == ServerLimits().read_ahead_bytes_max
        go.set()
        for _ in range(count):
            await read_answer(reader)


async def test_head_has_the_fields_of_get_and_no_body() -> None:
    async def handler(request: Request, body: RequestBody) -> Response:
        return Stored(b"abc", fails_at=0).answer()

    async with serve(handler) as site:
        got = await site.talk(b"HEAD / HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
    assert b"Content-Length: 3\r\n" in got
    assert got.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("status", [204, 304])
async def test_answers_without_content_have_no_length(status: int) -> None:
    async def handler(request: Request, body: RequestBody) -> Response:
        return Response(status=status, body=b"never sent")

    async with serve(handler) as site:
        got = await site.talk(LAST)
    assert b"Content-Length" not in got
    assert got.endswith(b"\r\n\r\n")


async def test_http_1_0_closes_unless_asked() -> None:
    async with serve() as site:
        assert b"Connection: close\r\n" in await site.talk(b"GET / HTTP/1.0\r\n\r\n")
        async with site.open() as (reader, writer):
            for _ in range(2):
                writer.write(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
                assert (await read_answer(reader))[1]["connection"] == "keep-alive"


async def test_connection_ends_after_its_last_request() -> None:
    async with serve(requests_max=2) as site:
        got = await site.talk(GET * 3)
    assert got.count(b"HTTP/1.1 200") == 2
    assert got.count(b"Connection: close") == 1


async def test_half_closed_client_is_still_answered() -> None:
    async with serve() as site:
        assert (await site.talk(GET * 2, half_close=True)).count(b"HTTP/1.1 200") == 2
        assert await site.talk(GET[:-2], half_close=True) == b""
        assert await site.talk(b"", half_close=True) == b""


async def test_malformed_request_is_refused_and_the_connection_closed() -> None:
    async with serve() as site:
        got = await site.talk(GET + b"GET /\r\n\r\n" + GET)
        assert got.count(b"HTTP/1.1 ") == 2
        assert b"HTTP/1.1 400 Bad Request" in got
        assert [entry.status for entry in site.entries] == [200, 400]


# Streamed bodies


@pytest.mark.parametrize("way", ["memory", "file"])
async def test_long_body_arrives_whole(way: str, tmp_path: Path) -> None:
    stored = Stored(BIG)
    if way == "file":
        stored.path = tmp_path / "big"
        stored.path.write_bytes(BIG)

    async def handler(request: Request, body: RequestBody) -> Response:
        return stored.answer()

    async with serve(handler) as site, site.open() as (reader, writer):
        for _ in range(2):
            writer.write(GET)
            status, _, body = await read_answer(reader)
            assert status == 200
            assert body == BIG
    assert all(entry.complete and entry.sent_bytes == len(BIG) for entry in site.entries)
    assert (stored.opened, stored.closed) == (2, 2)
    assert (stored.reads == 0) is (way == "file")


async def test_body_of_several_pieces_arrives_in_order() -> None:
    stored = Stored(BIG)
    pieces = (b"--a\r\n", Span(10, 20), b"\r\n--a\r\n", Span(0, len(BIG)), b"\r\n--a--\r\n")
    expected = b"--a\r\n" + BIG[10:20] + b"\r\n--a\r\n" + BIG + b"\r\n--a--\r\n"

    async def handler(request: Request, body: RequestBody) -> Response:
        made = Body(size_bytes=len(expected), pieces=pieces, open=stored.open)
        return Response(status=206, body=made)

    async with serve(handler) as site, site.open() as (reader, writer):
        writer.write(GET * 2)
        for _ in range(2):
            assert await read_answer(reader) == (206, ANY, expected)
    assert [entry.sent_bytes for entry in site.entries] == [len(expected)] * 2


async def test_long_body_follows_what_was_written_before_it() -> None:
    stored = Stored(BIG)
    short = bytes(20_000)

    def handler(request: Request, body: RequestBody) -> Response:
        return stored.answer() if request.target == b"/long" else Response(status=200, body=short)

    async with serve(handler) as site, site.open() as (reader, writer):
        writer.write((GET * 9 + GET.replace(b"/", b"/long", 1)) * 3)
        for number in range(30):
            assert (await read_answer(reader))[2] == (BIG if number % 10 == 9 else short)


async def test_slow_reader_holds_the_source_back_and_nothing_in_memory() -> None:
    stored = Stored(BIG * 16)

    async def handler(request: Request, body: RequestBody) -> Response:
        return stored.answer()

    async with serve(handler) as site, site.open() as (_, writer):
        writer.transport.pause_reading()
        writer.write(GET)
        await until(lambda: site.server._connections)
        connection = only_connection(site)
        await until(lambda: connection._write_waiter)
        assert connection._transport.get_write_buffer_size() == 0
        assert stored.reads < 500


@pytest.mark.parametrize(
    "response",
    [
        lambda: Stored(b"abc").answer(9),
        lambda: Stored(bytes(100_000), fails_at=65536).answer(),
        lambda: Stored(b"", path=Path("/dev/null")).answer(9),
    ],
    ids=["ends early", "raises", "short file"],
)
async def test_broken_body_is_visibly_incomplete(response: Callable[[], Response]) -> None:
    async def handler(request: Request, body: RequestBody) -> Response:
        return response()

    async with serve(handler) as site, aiohttp.ClientSession() as session:
        with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ClientOSError)):
            async with session.get(f"http://127.0.0.1:{site.port}/") as answer:
                await answer.read()
        await until(lambda: site.entries)
        assert not site.entries[0].complete


async def test_body_whose_pieces_are_not_its_size_is_a_500() -> None:
    async def handler(request: Request, body: RequestBody) -> Response:
        made = Body(size_bytes=9, pieces=(b"abc",), open=Stored(b"").open)
        return Response(status=200, body=made)

    async with serve(handler) as site:
        assert (await site.talk(GET)).startswith(b"HTTP/1.1 500 ")


async def test_body_that_fails_before_its_first_byte_is_a_500() -> None:
    stored = Stored(b"abc", fails_at=0)

    async def handler(request: Request, body: RequestBody) -> Response:
        return stored.answer()

    async with serve(handler) as site:
        assert (await site.talk(GET)).startswith(b"HTTP/1.1 500 ")
    assert stored.closed == 1


async def test_body_that_is_refused_when_opened_is_that_refusal() -> None:
    def refuse() -> Stored:
        raise Refusal(503, "no peer has it")

    async def handler(request: Request, body: RequestBody) -> Response:
        return Response(status=200, body=Body(size_bytes=9, pieces=(Span(0, 9),), open=refuse))

    async with serve(handler) as site, site.open() as (reader, writer):
        writer.write(GET)
        assert (await read_answer(reader))[0] == 503


# Answers at once, and answers repeated


async def test_answer_is_repeated_while_its_lease_lasts() -> None:
    asked = 0
    lease = Lease(math.inf)

    def handler(request: Request, body: RequestBody) -> Response:
        nonlocal asked
        asked += 1
        return Response(status=200, body=request.target + b" %d" % asked, lease=lease)

    async with serve(handler) as site, site.open() as (reader, writer):
        got = []
        for target in (b"/a", b"/a", b"/b", b"/a"):
            writer.write(GET.replace(b"/", target, 1))
            got.append((await read_answer(reader))[2])
        assert got == [b"/a 1", b"/a 1", b"/b 2", b"/a 1"]
        lease.end()
        writer.write(GET.replace(b"/", b"/a", 1))
        assert (await read_answer(reader))[2] == b"/a 3"
        assert len(site.entries) == 5


async def test_long_answer_is_repeated_and_read_anew() -> None:
    asked = 0
    stored = Stored(BIG)

    def handler(request: Request, body: RequestBody) -> Response:
        nonlocal asked
        asked += 1
        return replace(stored.answer(), lease=Lease(math.inf))

    async with serve(handler) as site, site.open() as (reader, writer):
        for _ in range(3):
            writer.write(GET)
            assert (await read_answer(reader))[2] == BIG
        writer.write(GET + LAST)
        assert (await read_answer(reader))[2] == BIG
        assert (await read_answer(reader))[1]["connection"] == "close"
    # Pipelined heads are not looked up.
    assert (asked, stored.opened, stored.closed) == (3, 5, 5)
    assert [entry.sent_bytes for entry in site.entries] == [len(BIG)] * 5


async def test_bytes_that_cannot_be_had_when_an_answer_is_repeated_are_a_503() -> None:
    def refuse() -> Stored:
        raise UnavailableError("no peer has them")

    def handler(request: Request, body: RequestBody) -> Response:
        return Response(status=200, body=Body(size_bytes=9, pieces=(Span(0, 9),), open=refuse))

    async with serve(handler) as site, site.open() as (reader, writer):
        writer.write(GET)
        status, fields, page = await read_answer(reader)
        assert (status, fields["retry-after"]) == (503, "5")
        assert b"no peer has them" in page


async def test_repeated_answer_has_the_date_of_its_own_second() -> None:
    now_s = 784111777.0

    def handler(request: Request, body: RequestBody) -> Response:
        return Response(status=200, body=b"same", lease=Lease(math.inf))

    async with serve(handler) as site, site.open() as (reader, writer):
        site.server.now_unix = lambda: now_s
        dates = []
        for _ in range(4):
            writer.write(GET)
            dates.append((await read_answer(reader))[1]["date"][-6:-4])
            now_s += 0.5
    assert dates == ["37", "37", "38", "38"]


@pytest.mark.parametrize(
    "head",
    [
        b"HEAD / HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        b"\r\n" + GET,
        GET[:-2] + b"X-Long: " + bytes([120]) * 5000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\nGE",
    ],
)
async def test_repeated_answers_are_the_first_one(head: bytes) -> None:
    def handler(request: Request, body: RequestBody) -> Response:
        return Response(status=200, fields=(("X-A", "b"),), body=b"same", lease=Lease(math.inf))

    async with serve(handler) as site, site.open() as (reader, writer):
        got = []
        for _ in range(3):
            writer.write(head)
            got.append(await read_answer(reader, has_body=not head.startswith(b"HEAD")))
        assert got[0] == got[1] == got[2]


@pytest.mark.parametrize("long", [False, True])
async def test_repeated_answer_to_a_last_request_closes(long: bool) -> None:
    asked = 0
    stored = Stored(BIG)

    def handler(request: Request, body: RequestBody) -> Response:
        nonlocal asked
        asked += 1
        response = stored.answer() if long else Response(status=200, body=b"short")
        return replace(response, lease=Lease(math.inf))

    async with serve(handler) as site:
        for last in (LAST, b"GET / HTTP/1.0\r\n\r\n"):
            got = [await site.talk(last) for _ in range(3)]
            assert got[0] == got[1] == got[2]
            assert b"\r\nConnection: close\r\n" in got[0]
            assert got[0].endswith(BIG if long else b"\r\n\r\nshort")
    assert asked == 2


async def test_no_answer_is_repeated_beyond_the_last_request() -> None:
    def handler(request: Request, body: RequestBody) -> Response:
        return Response(status=200, body=b"x", lease=Lease(math.inf))

    async with serve(handler, requests_max=3) as site, site.open() as (reader, writer):
        closes = []
        for _ in range(3):
            writer.write(GET)
            closes.append((await read_answer(reader))[1].get("connection"))
        assert closes == [None, None, "close"]
        assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""


async def test_repeated_answers_wait_for_a_slow_reader() -> None:
    def handler(request: Request, body: RequestBody) -> Response:
        return Response(status=200, body=bytes(30_000), lease=Lease(math.inf))

    async with serve(handler, requests_max=100_000) as site, site.open() as (reader, writer):
        writer.transport.pause_reading()
        for _ in range(2000):
            writer.write(GET)
            await asyncio.sleep(0)
        connection = only_connection(site)
        await until(lambda: connection._write_waiter)
        assert connection._transport.get_write_buffer_size() < 64 * 1024
        writer.transport.resume_reading()
        for _ in range(2000):
            assert len((await read_answer(reader))[2]) == 30_000


# Handlers


async def test_refusal_of_a_handler_keeps_the_connection() -> None:
    async def handler(request: Request, body: RequestBody) -> Response:
        raise Refusal(404, "nothing is here")

    async with serve(handler) as site, site.open() as (reader, writer):
        for _ in range(2):
            writer.write(GET)
            status, _, page = await read_answer(reader)
            assert status == 404
            assert b"Nothing is here." in page


async def test_failing_handler_is_logged_and_answered_500(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(request: Request, body: RequestBody) -> Response:
        raise KeyError("secret")

    async with serve(handler) as site:
        got = await site.talk(GET)
    assert got.startswith(b"HTTP/1.1 500 ")
    assert b"secret" not in got
    (record,) = [record for record in caplog.records if record.name == "p2pweb.http"]
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None


async def test_field_that_would_split_the_answer_is_a_500() -> None:
    async def handler(request: Request, body: RequestBody) -> Response:
        return Response(status=200, fields=(("X-A", "b\r\nX-C: d"),))

    async with serve(handler) as site:
        assert (await site.talk(GET)).startswith(b"HTTP/1.1 500 ")


async def test_cancelled_source_aborts_the_connection() -> None:
    async def handler(request: Request, body: RequestBody) -> Response:
        raise asyncio.CancelledError

    async with serve(handler) as site, site.open() as (reader, writer):
        writer.write(GET)
        with pytest.raises(ConnectionError):
            assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
            raise ConnectionError


@pytest.mark.parametrize("way", ["reset", "close"])
async def test_visitor_who_leaves_cancels_the_handler(way: str) -> None:
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    started = asyncio.Event()

    async def handler(request: Request, body: RequestBody) -> Response:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.set_result("cancelled")
            raise
        raise AssertionError

    async with serve(handler, half_closed_s=0.05) as site, site.open() as (_, writer):
        writer.write(GET)
        await asyncio.wait_for(started.wait(), PATIENCE_S)
        if way == "reset":
            option = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
        writer.close()
        assert await asyncio.wait_for(ended, PATIENCE_S) == "cancelled"


async def test_content_is_closed_when_the_visitor_leaves() -> None:
    stored = Stored(BIG)

    async def handler(request: Request, body: RequestBody) -> Response:
        return stored.answer()

    async with serve(handler) as site, site.open() as (reader, writer):
        writer.write(GET)
        await reader.readexactly(1000)
        writer.transport.abort()
        await until(lambda: stored.closed)


# Request bodies


def post(body: bytes, fields: bytes = b"", target: bytes = b"/in") -> bytes:
    length = b"Content-Length: %d\r\n" % len(body)
    return b"POST " + target + b" HTTP/1.1\r\n" + HOST + length + fields + b"\r\n" + body


async def test_sized_and_chunked_bodies_are_read() -> None:
    chunked = (
        b"POST /in HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
        b"2\r\nhe\r\n3;x\r\nllo\r\n0\r\nT: u\r\n\r\n"
    )
    async with serve() as site, site.open() as (reader, writer):
        for stream in (post(b"hello"), chunked, post(b"hello")):
            for at in range(len(stream)):
                writer.write(stream[at : at + 1])
                await writer.drain()
            assert (await read_answer(reader))[2] == b"hello"
        writer.write(post(b""))
        assert (await read_answer(reader))[2] == b""


async def test_continue_is_sent_only_when_the_body_is_read() -> None:
    async with serve() as site, site.open() as (reader, writer):
        head, _, body = post(b"hello", b"Expect: 100-continue\r\n").partition(b"\r\n\r\n")
        writer.write(head + b"\r\n\r\n")
        got = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        assert got == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        status, fields, text = await read_answer(reader)
        assert (status, text) == (200, b"hello")
        assert "connection" not in fields
        # A body that comes along needs no asking.
        writer.write(post(b"hello", b"Expect: 100-continue\r\n"))
        assert (await read_answer(reader))[2] == b"hello"


async def test_unread_expected_body_gets_the_final_status_and_a_close() -> None:
    async with serve() as site:
        stream = post(b"hello", b"Expect: 100-continue\r\n", b"/other")
        got = await site.talk(stream[: -len(b"hello")])
        assert b"100 Continue" not in got
        assert b"Connection: close" in got


async def test_declared_body_above_the_limit_is_refused_before_it_is_sent() -> None:
    async with serve() as site:
        stream = post(bytes(1025), b"Expect: 100-continue\r\n")
        got = await site.talk(stream[:-1025])
        assert got.startswith(b"HTTP/1.1 413 ")


async def test_chunked_body_above_the_limit_is_refused() -> None:
    async with serve() as site:
        head = b"POST /in HTTP/1.1\r\n" + HOST + b"Connection: close\r\n"
        chunks = (b"200\r\n" + bytes(512) + b"\r\n") * 3 + b"0\r\n\r\n"
        got = await site.talk(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
        assert got.startswith(b"HTTP/1.1 413 ")


async def test_malformed_body_is_refused_and_the_connection_closed() -> None:
    async with serve() as site:
        head = b"POST /in HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
        got = await site.talk(head + b"zz\r\n" + GET)
        assert got.startswith(b"HTTP/1.1 400 ")
        assert got.count(b"HTTP/1.1 ") == 1


async def test_body_that_breaks_off_is_refused() -> None:
    async with serve() as site:
        assert (await site.talk(post(b"hello")[:-1], half_close=True)).startswith(b"HTTP/1.1 400 ")


async def test_small_unread_body_is_drained() -> None:
    async with serve() as site, site.open() as (reader, writer):
        for _ in range(3):
            stream = post(bytes(60_000), target=b"/other")
            writer.write(stream[:-30_000])
            assert (await read_answer(reader))[0] == 200
            writer.write(stream[-30_000:])


@pytest.mark.parametrize("chunked", [False, True])
async def test_large_unread_body_ends_the_connection_after_the_answer(chunked: bool) -> None:
    async with serve() as site, site.open() as (reader, writer):
        if chunked:
            head = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
            stream = head + (b"8000\r\n" + bytes(0x8000) + b"\r\n") * 20
        else:
            stream = post(bytes(600_000), target=b"/")
        writer.write(stream)
        got = await asyncio.wait_for(reader.read(), PATIENCE_S)
        assert got.startswith(b"HTTP/1.1 200 ")
        assert got.count(b"HTTP/1.1 ") == 1


async def test_unread_malformed_body_ends_the_connection_after_the_answer() -> None:
    async with serve() as site:
        head = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
        got = await site.talk(head + b"zz\r\n" + GET)
        assert got.count(b"HTTP/1.1 ") == 1


async def test_slow_handler_holds_the_sender_back() -> None:
    go = asyncio.Event()

    async def handler(request: Request, body: RequestBody) -> Response:
        await go.wait()
        total = 0
        async for piece in body:
            total += len(piece)
        return Response(status=200, body=b"%d" % total)

    async with serve(handler) as site, site.open() as (reader, writer):
        writer.write(post(BIG))
        await until(lambda: site.server._connections)
        connection = only_connection(site)
        await until(lambda: connection._reading_paused)
        assert connection.parser.buffered_bytes == ServerLimits().read_ahead_bytes_max
        go.set()
        assert (await read_answer(reader))[2] == b"%d" % len(BIG)


async def test_body_has_one_reader_at_a_time() -> None:
    async def handler(request: Request, body: RequestBody) -> Response:
        first = asyncio.ensure_future(body.read(10))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError):
            await body.read(10)
        return Response(status=200, body=await first)

    async with serve(handler) as site, site.open() as (reader, writer):
        stream = post(b"hello")
        writer.write(stream[:-5])
        await until(lambda: only_connection(site)._read_waiter)
        writer.write(b"hello")
        assert (await read_answer(reader))[2] == b"hello"


# Deadlines


async def test_silent_visitor_is_closed_silently() -> None:
    async with serve(first_byte_s=0.05) as site:
        assert await site.talk(b"") == b""
    async with serve(first_byte_s=0.05) as site:
        assert await site.talk(b"\r\n") == b""


async def test_unfinished_head_is_told_408() -> None:
    async with serve(head_s=0.05) as site:
        assert (await site.talk(GET[:-1])).startswith(b"HTTP/1.1 408 ")
        assert site.entries[0].status == 408


async def test_idle_connection_is_closed_silently() -> None:
    async with serve(keep_alive_s=0.05) as site:
        assert (await site.talk(GET)).endswith(b"\r\n\r\n/")


async def test_slow_body_is_told_408() -> None:
    async with serve(body_base_s=0.05) as site:
        told = await site.talk(post(b"hello")[:-1])
        assert told.startswith(b"HTTP/1.1 408 ")
        assert b"Connection: close\r\n" in told


async def test_slow_rest_of_an_answered_body_is_closed() -> None:
    async with serve(body_base_s=0.05) as site:
        got = await site.talk(post(b"hello", target=b"/")[:-1])
        assert got.startswith(b"HTTP/1.1 200 ")


SLOW = {"write_idle_s": 0.2, "write_idle_under_pressure_s": 0.1}


@pytest.mark.parametrize("way", ["bytes", "memory", "closing"])
async def test_visitor_who_does_not_read_is_aborted(way: str) -> None:
    async def handler(request: Request, body: RequestBody) -> Response:
        whole = BIG * 4
        return Stored(whole).answer() if way == "memory" else Response(status=200, body=whole)

    async with serve(handler, **SLOW) as site, site.open() as (_, writer):
        writer.transport.pause_reading()
        writer.write(LAST if way == "closing" else GET)
        await until(lambda: site.entries and not site.server._connections)


async def test_nothing_is_kept_for_a_visitor_who_does_not_read() -> None:
    async def handler(request: Request, body: RequestBody) -> Response:
        return Stored(BIG * 4).answer()

    async with serve(handler, **SLOW) as site, site.open() as (_, writer):
        writer.transport.pause_reading()
        writer.write(GET)
        with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as visitor:
            # Else the kernel would go on offering what it holds, and end the connection after it.
            option = (socket.SOL_SOCKET, socket.SO_ERROR)
            await until(lambda: visitor.getsockopt(*option) == errno.ECONNRESET)


async def test_visitor_who_drips_is_aborted_and_one_who_reads_is_spared() -> None:
    async def handler(request: Request, body: RequestBody) -> Response:
        return Response(status=200, body=BIG * 4)

    async with serve(handler) as site, site.open() as (reader, writer):
        writer.write(LAST)
        await until(lambda: site.server._connections)
        connection = only_connection(site)
        await until(lambda: connection._write_waiter)
        # The timer rings by hand: time is not what this is about.
        await reader.readexactly(len(BIG))
        connection._give_up()
        assert connection._stalled_since_s == connection._since_s
        assert not connection._transport.is_closing()
        connection._stalled_since_s -= 1
        connection._give_up()
        assert connection._stalled_since_s < connection._since_s
        assert not connection._transport.is_closing()
        connection._stalled_since_s -= 60
        connection._give_up()
        assert connection._transport.is_closing()


async def test_lingering_is_bounded() -> None:
    async with serve(linger_s=0.05) as site, site.open() as (reader, writer):
        writer.write(b"GET /\r\n\r\n")
        await asyncio.wait_for(reader.read(), PATIENCE_S)
        await until(lambda: not site.server._connections)
    async with serve(linger_bytes_max=1000) as site, site.open() as (reader, writer):
        writer.write(b"GET /\r\n\r\n")
        await asyncio.wait_for(reader.read(), PATIENCE_S)
        writer.write(bytes(2000))
        await until(lambda: not site.server._connections)


# Admission


async def test_oldest_idle_connection_makes_room() -> None:
    async with (
        serve(connections_max=2) as site,
        site.open() as (oldest, oldest_writer),
        site.open() as (second, second_writer),
    ):
        for reader, writer in ((second, second_writer), (oldest, oldest_writer)):
            writer.write(GET)
            await read_answer(reader)
            now_s = asyncio.get_running_loop().time()
            await until(lambda: asyncio.get_running_loop().time() > now_s)  # noqa: B023
        async with site.open() as (third, third_writer):
            third_writer.write(GET)
            assert (await read_answer(third))[0] == 200
            # The second has been idle for longer than the one that was opened before it.
            assert await asyncio.wait_for(second.read(), PATIENCE_S) == b""
            oldest_writer.write(GET)
            assert (await read_answer(oldest))[0] == 200


@pytest.mark.parametrize("per_address", [False, True])
async def test_busy_server_refuses_with_503(per_address: bool) -> None:
    started = asyncio.Event()

    async def handler(request: Request, body: RequestBody) -> Response:
        started.set()
        await asyncio.Event().wait()
        raise AssertionError

    limits = {"connections_per_address_max": 1, "counts_loopback": True}
    chosen = limits if per_address else {"connections_max": 1}
    async with serve(handler, **chosen) as site, site.open() as (_, writer):
        writer.write(GET)
        await started.wait()
        got = await site.talk(b"")
        assert got.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 5\r\n" in got


async def test_loopback_is_not_counted_unless_asked_for() -> None:
    async with (
        serve(connections_per_address_max=1) as site,
        site.open() as (one, first),
        site.open() as (two, second),
    ):
        for reader, writer in ((one, first), (two, second)):
            writer.write(GET)
            assert (await read_answer(reader))[0] == 200


async def test_oldest_idle_connection_of_an_address_makes_room() -> None:
    async with (
        serve(connections_per_address_max=1, counts_loopback=True) as site,
        site.open() as (one, _),
        site.open() as (two, second),
    ):
        second.write(GET)
        assert (await read_answer(two))[0] == 200
        assert await asyncio.wait_for(one.read(), PATIENCE_S) == b""
    assert site.server._per_address == {}


async def test_head_under_way_makes_room_when_none_is_idle() -> None:
    async with serve(connections_max=1) as site, site.open() as (one, first):
        first.write(GET[:-2])
        await until(lambda: site.server._connections and only_connection(site).parser.begun)
        async with site.open() as (two, second):
            second.write(GET)
            assert (await read_answer(two))[0] == 200
            told = await asyncio.wait_for(one.read(), PATIENCE_S)
            assert told.startswith(b"HTTP/1.1 408 ")


async def test_upload_under_way_makes_room_and_is_told_so() -> None:
    async with serve(connections_max=1) as site, site.open() as (one, first):
        first.write(post(b"hello")[:-1])
        await until(lambda: site.server._connections and only_connection(site)._read_waiter)
        async with site.open() as (two, second):
            second.write(GET)
            assert (await read_answer(two))[0] == 200
            told = await asyncio.wait_for(one.read(), PATIENCE_S)
            assert told.startswith(b"HTTP/1.1 408 ")


async def test_keep_alive_is_shorter_under_pressure() -> None:
    async with serve(connections_max=1, keep_alive_s=60, keep_alive_under_pressure_s=0.05) as site:
        assert (await site.talk(GET)).startswith(b"HTTP/1.1 200 ")


# Start and close


async def test_close_ends_idle_connections_and_lets_answers_finish() -> None:
    go, started = asyncio.Event(), asyncio.Event()

    async def handler(request: Request, body: RequestBody) -> Response:
        if request.target == b"/slow":
            started.set()
            await go.wait()
        return Response(status=200, body=b"done")

    async with (
        serve(handler) as site,
        site.open() as (idle, idle_writer),
        site.open() as (busy, busy_writer),
    ):
        idle_writer.write(GET)
        await read_answer(idle)
        busy_writer.write(GET.replace(b"/", b"/slow", 1))
        await started.wait()
        closing = asyncio.ensure_future(site.server.close(PATIENCE_S))
        assert await asyncio.wait_for(idle.read(), PATIENCE_S) == b""
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", site.port)
        assert not closing.done()
        go.set()
        status, fields, body = await read_answer(busy)
        assert (status, body, fields["connection"]) == (200, b"done", "close")
        await asyncio.wait_for(closing, PATIENCE_S)


async def test_close_aborts_what_outlasts_the_grace() -> None:
    started = asyncio.Event()
    ended: list[str] = []

    async def handler(request: Request, body: RequestBody) -> Response:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("handler")
        raise AssertionError

    async with serve(handler) as site, site.open() as (_, writer):
        writer.write(GET)
        await started.wait()
        await asyncio.wait_for(site.server.close(0.02), PATIENCE_S)
        assert ended == ["handler"]
    assert [(entry.status, entry.complete) for entry in site.entries] == [(0, False)]


async def test_server_listens_on_several_addresses_or_on_none() -> None:
    server = HttpServer(echo, limits=ServerLimits(), now_unix=lambda: 0.0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError):
            await server.start([("127.0.0.1", 0), taken.getsockname()])
    assert server.addresses == ()
    await server.start([("127.0.0.1", 0), ("127.0.0.1", 0)])
    for _, port in server.addresses:
        assert (await Site(server, port).talk(LAST)).startswith(b"HTTP/1.1 200 ")
    await server.close(0)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6 beside IPv4")
async def test_ipv6_any_takes_ipv4_too() -> None:
    server = HttpServer(echo, limits=ServerLimits(counts_loopback=True), now_unix=lambda: 0.0)
    try:
        await server.start([("::", 0)])
    except OSError:
        pytest.skip("IPv6 is switched off")
    site = Site(server, server.addresses[0][1])
    assert (await site.talk(LAST)).startswith(b"HTTP/1.1 200 ")
    await server.close(0)


# Clients that people use


async def test_aiohttp_reuses_connections() -> None:
    async with serve() as site, aiohttp.ClientSession() as session:
        for _ in range(5):
            async with session.post(f"http://127.0.0.1:{site.port}/in", data=b"hello") as answer:
                assert await answer.read() == b"hello"


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_curl_uploads_with_expect() -> None:
    async with serve() as site:
        command = ["curl", "-s", "-H", "Expect: 100-continue", "-d", "hello", "-w", "%{http_code}"]
        curl = await asyncio.create_subprocess_exec(
            *command, f"http://127.0.0.1:{site.port}/in", stdout=asyncio.subprocess.PIPE
        )
        output, _ = await asyncio.wait_for(curl.communicate(), PATIENCE_S)
        assert output == b"hello200"
