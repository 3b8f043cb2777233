"""Who is let in over real sockets, and who makes room."""

from __future__ import annotations

import asyncio

import pytest
from http_site import (
    BIG,
    GET,
    LAST,
    PATIENCE_S,
    Stored,
    fill,
    only_connection,
    post,
    read_answer,
    serve,
    until,
)

from p2pweb.http.messages import Request, Response
from p2pweb.http.server import RequestBody

BOTH_LOOPS = True


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


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_head_under_way_makes_room_when_none_is_idle(method: str) -> None:
    async with serve(connections_max=1) as site, site.open() as (one, first):
        first.write(f"{method} / HTTP/1.1\r\n".encode())
        await until(lambda: site.server._connections and only_connection(site).parser.begun)
        async with site.open() as (two, second):
            second.write(GET)
            assert (await read_answer(two))[0] == 200
            told = await asyncio.wait_for(one.read(), PATIENCE_S)
            assert told.startswith(b"HTTP/1.1 408 ")
            assert told.endswith(b"\r\n\r\n") is (method == "HEAD")


async def test_idle_connection_makes_room_before_a_download_that_waits() -> None:
    def handler(request: Request, body: RequestBody) -> Response:
        return Stored(BIG).answer() if request.target == b"/big" else Response(status=200)

    async with (
        serve(handler, connections_max=2) as site,
        site.open() as (downloading, download),
        site.open() as (idle, idle_writer),
    ):
        download.transport.pause_reading()
        download.write(GET.replace(b"/", b"/big", 1))
        await until(lambda: any(one.outlet.is_waiting for one in site.server._connections))
        idle_writer.write(GET)
        await read_answer(idle)
        async with site.open() as (third, third_writer):
            third_writer.write(GET)
            assert (await read_answer(third))[0] == 200
            assert await asyncio.wait_for(idle.read(), PATIENCE_S) == b""
        download.transport.resume_reading()
        assert (await read_answer(downloading))[2] == BIG


async def test_visitor_who_does_not_take_a_last_answer_makes_room() -> None:
    def handler(request: Request, body: RequestBody) -> Response:
        return Response(status=200, body=bytes(9_000))

    async with serve(handler, connections_max=1) as site, site.open() as (_, first):
        await fill(site, first)
        answered = len(site.entries)
        first.write(LAST)
        await until(lambda: len(site.entries) > answered)
        assert only_connection(site).outlet.unsent_bytes
        async with site.open() as (two, second):
            second.write(LAST)
            assert (await read_answer(two))[0] == 200


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
