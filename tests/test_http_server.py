"""The server over real sockets: answers, handlers, start and close, clients that people use."""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
from collections import Counter

import aiohttp
import pytest
from http_site import (
    BIG,
    GET,
    HOST,
    LAST,
    PATIENCE_S,
    Site,
    Stored,
    echo,
    only_connection,
    post,
    read_answer,
    reset,
    serve,
    until,
)

from p2pweb.http.messages import Refusal, Request, Response
from p2pweb.http.outlet import Outlet
from p2pweb.http.server import HttpServer, RequestBody, ServerLimits

BOTH_LOOPS = True


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
    plain = Outlet.send
    monkeypatch.setattr(
        Outlet, "send", lambda self, data: (writes.append(data), plain(self, data))[1]
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


async def test_pipelined_answers_leave_the_loop_to_others() -> None:
    turn = 0
    answered: Counter[int] = Counter()

    def handler(request: Request, body: RequestBody) -> Response:
        answered[turn] += 1
        return Response(status=200)

    async with serve(handler) as site, site.open() as (reader, writer):
        writer.write(GET * 200)
        while answered.total() < 200:
            await asyncio.sleep(0)
            turn += 1
        for _ in range(200):
            await read_answer(reader)
    assert max(answered.values()) <= 16


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


@pytest.mark.parametrize("amiss", ["", "\r\n"])
async def test_refused_head_request_has_no_body(amiss: str) -> None:
    async with serve(head_s=0.05) as site:
        # Malformed, or never complete.
        got = await site.talk(f"HEAD / HTTP/1.1\r\nHost: localhost\r\nBad{amiss}".encode())
        head, _, body = got.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 " if amiss else b"HTTP/1.1 408 ")
        assert b"Content-Length: 0" not in head
        assert b"\r\nContent-Length: " in head
        assert body == b""
        assert site.entries[0].sent_bytes == 0


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
            reset(writer)
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


async def test_close_keeps_no_connection_whose_body_comes_to_its_end() -> None:
    async with serve() as site, site.open() as (reader, writer):
        stream = post(b"hello", target=b"/other")
        writer.write(stream[:-1])
        await read_answer(reader)
        closing = asyncio.ensure_future(site.server.close(60))
        await asyncio.sleep(0)
        assert site.server._connections
        writer.write(stream[-1:])
        assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
        writer.close()
        await asyncio.wait_for(closing, PATIENCE_S)


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
