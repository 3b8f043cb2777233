"""Long answers over real sockets: whole, in order, from memory or a file, or visibly broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest.mock import ANY

import aiohttp
import pytest
from http_site import BIG, GET, Stored, fill, only_connection, read_answer, reset, serve, until

from p2pweb.http.messages import Body, Refusal, Request, Response, Span
from p2pweb.http.server import RequestBody

BOTH_LOOPS = True


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
        await until(lambda: connection.outlet.is_waiting)
        assert connection.outlet.unsent_bytes == 0
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


async def test_visitor_who_leaves_before_a_long_answer_is_no_news(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def handler(request: Request, body: RequestBody) -> Response:
        is_long = request.target == b"/long"
        return Stored(BIG).answer() if is_long else Response(status=200, body=bytes(9_000))

    async with serve(handler) as site, site.open() as (_, writer):
        connection = await fill(site, writer)
        writer.write(GET.replace(b"/", b"/long", 1))
        await until(lambda: connection.outlet.is_waiting)
        # The long answer waits for what is left of the short ones.
        assert connection.outlet.unsent_bytes
        reset(writer)
        await until(lambda: not site.server._connections)
    assert not site.entries[-1].complete
    assert not caplog.records
