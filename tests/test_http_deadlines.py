"""How long a visitor is waited for, over real sockets."""

from __future__ import annotations

import asyncio
import errno
import math
import os
import socket

import pytest
from http_site import (
    BIG,
    GET,
    LAST,
    PATIENCE_S,
    Stored,
    only_connection,
    post,
    read_answer,
    serve,
    until,
)

from p2pweb.http.messages import Lease, Request, Response
from p2pweb.http.server import RequestBody

BOTH_LOOPS = True


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


async def test_repeated_answers_put_off_the_end_of_an_idle_connection() -> None:
    def handler(request: Request, body: RequestBody) -> Response:
        return Response(status=200, lease=Lease(math.inf))

    async with serve(handler) as site, site.open() as (reader, writer):
        writer.write(GET)
        await read_answer(reader)
        connection = only_connection(site)
        # The timer rings by hand: time is not what this is about.
        connection._deadline.since_s -= 60
        writer.write(GET)
        await read_answer(reader)
        connection._give_up()
        assert not connection._transport.is_closing()
        assert connection._deadline.is_running
        connection._deadline.since_s -= 60
        connection._give_up()
        assert connection._transport.is_closing()


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
        await until(lambda: connection.outlet.is_waiting)
        # The timer rings by hand: time is not what this is about.
        await reader.readexactly(len(BIG))
        connection._give_up()
        assert not connection._transport.is_closing()
        connection.outlet._watch._stalled_since_s -= 60
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
