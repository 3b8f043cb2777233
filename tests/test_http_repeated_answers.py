"""Answers that are repeated over real sockets: as the first one, and no longer than they may."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import pytest
from http_site import (
    BIG,
    GET,
    HOST,
    LAST,
    PATIENCE_S,
    Stored,
    only_connection,
    read_answer,
    serve,
    until,
)

from p2pweb.errors import UnavailableError
from p2pweb.http.messages import Body, Lease, Request, Response, Span
from p2pweb.http.server import RequestBody

BOTH_LOOPS = True


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


async def test_empty_lines_between_repeated_requests_are_not_counted_together() -> None:
    def handler(request: Request, body: RequestBody) -> Response:
        return Response(status=200, body=b"x", lease=Lease(math.inf))

    async with serve(handler) as site, site.open() as (reader, writer):
        await until(lambda: site.server._connections)
        parser = only_connection(site).parser
        for _ in range(6):
            before = parser.empty_lines
            writer.write(b"\r\n")
            await until(lambda: parser.empty_lines > before)  # noqa: B023
            writer.write(GET)
            assert (await read_answer(reader))[0] == 200


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
        await until(lambda: connection.outlet.is_waiting)
        assert connection.outlet.unsent_bytes < 64 * 1024
        writer.transport.resume_reading()
        for _ in range(2000):
            assert len((await read_answer(reader))[2]) == 30_000
