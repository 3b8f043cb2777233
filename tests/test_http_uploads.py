"""Request bodies over real sockets: read, drained or refused, and never without bound."""

from __future__ import annotations

import asyncio

import pytest
from http_site import BIG, GET, HOST, PATIENCE_S, only_connection, post, read_answer, serve, until

from p2pweb.http.messages import Request, Response
from p2pweb.http.server import RequestBody, ServerLimits

BOTH_LOOPS = True


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


CHUNKED = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "stream",
    [
        post(bytes(600_000), target=b"/"),
        CHUNKED + (b"8000\r\n" + bytes(0x8000) + b"\r\n") * 20,
        # Most of this is framing: the data alone would be little enough to be read.
        CHUNKED + b"1\r\nx\r\n" * 20_000,
    ],
    ids=["sized", "chunked", "tiny chunks"],
)
async def test_large_unread_body_ends_the_connection_after_the_answer(stream: bytes) -> None:
    async with serve() as site, site.open() as (reader, writer):
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
