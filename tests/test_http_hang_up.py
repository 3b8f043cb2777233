"""Requests that get no answer: the connection is closed without a byte, whatever the moment."""

from __future__ import annotations

import asyncio

import pytest
from http_site import GET, HOST, PATIENCE_S, Site, post, serve

from p2pweb.http.messages import HangUp, Request, Response
from p2pweb.http.service import Handler, RequestBody

BOTH_LOOPS = True

NOTHING = b"GET /nothing HTTP/1.1\r\n" + HOST + b"\r\n"


def silent(request: Request, body: RequestBody) -> Response:
    if request.target == b"/nothing":
        raise HangUp
    return Response(status=200, body=b"something")


async def silent_later(request: Request, body: RequestBody) -> Response:
    if request.target == b"/in":
        await body.read(1024)
    await asyncio.sleep(0)
    if request.target != b"/":
        raise HangUp
    return Response(status=200, body=b"something")


async def said_to(site: Site, stream: bytes) -> bytes:
    """What comes back until the connection ends; a reset ends it too."""
    got = b""
    async with site.open() as (reader, writer):
        writer.write(stream)
        try:
            async with asyncio.timeout(PATIENCE_S):
                while data := await reader.read(65_536):
                    got += data
        except ConnectionResetError:
            pass
    return got


@pytest.mark.parametrize("handler", [silent, silent_later])
async def test_a_request_that_is_owed_nothing_gets_nothing(handler: Handler) -> None:
    async with serve(handler) as site:
        assert await said_to(site, NOTHING) == b""
        (entry,) = site.entries
        assert (entry.status, entry.sent_bytes, entry.complete) == (0, 0, False)
        # Nothing is read of what follows, and others are served.
        assert await said_to(site, NOTHING + GET) == b""
        async with site.open() as (reader, writer):
            writer.write(GET)
            assert b"something" in await asyncio.wait_for(reader.read(65_536), PATIENCE_S)
            writer.write(NOTHING)
            assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""


async def test_a_body_that_is_not_wanted_is_neither_asked_for_nor_waited_for() -> None:
    async with serve(silent_later) as site:
        for fields in (b"", b"Expect: 100-continue\r\n"):
            stream = post(bytes(1000), fields, b"/nothing")
            assert await said_to(site, stream[:-1000]) == b""


async def test_nothing_is_said_once_the_body_was_read() -> None:
    async with serve(silent_later) as site:
        assert await said_to(site, post(b"hello")) == b""
