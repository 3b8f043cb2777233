"""Every case of the corpus against a live server over real sockets.

The answers are read by h11's client, which is strict. What a case promises of the connection is
put to the test: one that survives answers another request, one that ends reaches its end.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import h11
import pytest
from http_corpus import CASES, Asked, Case

from p2pweb.http.messages import Request, Response
from p2pweb.http.server import HttpServer, RequestBody, ServerLimits

# Long enough for a slow machine, short enough to notice a hang.
PATIENCE_S = 20.0
CONNECTIONS_AT_ONCE = 64
AFTERWARDS: Asked = ("GET", b"/afterwards", b"")
ASK_AFTERWARDS = b"GET /afterwards HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n"


async def echo(request: Request, body: RequestBody) -> Response:
    """Reads the body, and says what was asked for."""
    pieces = [piece async for piece in body]
    return Response(status=200, body=told(request.method, request.target, b"".join(pieces)))


def told(method: str, target: bytes, body: bytes) -> bytes:
    return b"%s %s %d %s" % (method.encode(), target, len(body), body)


@asynccontextmanager
async def serve() -> AsyncIterator[int]:
    limits = ServerLimits(connections_max=4 * CONNECTIONS_AT_ONCE)
    server = HttpServer(echo, limits=limits, now_unix=lambda: 784111777.5)
    await server.start([("127.0.0.1", 0)])
    try:
        yield server.addresses[0][1]
    finally:
        await asyncio.wait_for(server.close(0), PATIENCE_S)


@dataclass(frozen=True)
class Answer:
    status: int
    fields: dict[bytes, bytes]
    body: bytes
    interim: int


class AnswerReader:
    """Reads one answer after another, with a fresh h11 client for each."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._left = b""

    async def read(self, method: str) -> Answer:
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
        client.send(h11.EndOfMessage())
        if self._left:
            # No bytes would mean the end of the connection.
            client.receive_data(self._left)
        interim = 0
        head: h11.Response | None = None
        body = b""
        while True:
            event = client.next_event()
            if event is h11.NEED_DATA:
                data = await self._reader.read(65536)
                assert data, "the connection ended amid an answer"
                client.receive_data(data)
            elif isinstance(event, h11.InformationalResponse):
                interim += 1
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            else:
                assert isinstance(event, h11.EndOfMessage)
                assert head is not None
                self._left = client.trailing_data[0]
                return Answer(head.status_code, dict(head.headers), body, interim)

    async def end(self) -> bytes:
        """What comes after the last answer."""
        return self._left + await self._reader.read()


async def try_case(case: Case, pieces: list[bytes], port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            # Lets the server see this piece alone, mostly.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        if case.unfinished:
            writer.write_eof()
        await check_answers(case, AnswerReader(reader), writer)
    finally:
        writer.transport.abort()


async def check_answers(case: Case, answers: AnswerReader, writer: asyncio.StreamWriter) -> None:
    asked = list(case.answered)
    if case.survives:
        asked.append(AFTERWARDS)
    for number, request in enumerate(asked):
        if request is AFTERWARDS:
            writer.write(ASK_AFTERWARDS)
        answer = await answers.read(request[0])
        assert answer.status == 200
        assert answer.body == (b"" if request[0] == "HEAD" else told(*request))
        assert not answer.interim or b"expect: 100-continue" in case.stream.lower()
        is_last = request is AFTERWARDS or number + 1 == case.closes_after
        assert (answer.fields.get(b"connection") == b"close") == is_last
    if case.last_status is not None:
        answer = await answers.read("GET")
        assert answer.status == case.last_status
        assert answer.fields.get(b"connection") == b"close"
        assert len(answer.body) == int(answer.fields[b"content-length"]) > 0
    assert await answers.end() == b""


def cut(case: Case, chance: random.Random) -> list[bytes]:
    """The stream in a few pieces, none of which comes after the server may have closed."""
    ends_early = case.closes_after is not None and (
        case.refusal is not None or case.closes_after < len(case.requests)
    )
    count = 0 if ends_early else chance.randrange(1, 5)
    edges = sorted(chance.randrange(len(case.stream) + 1) for _ in range(count))
    starts, stops = [0, *edges], [*edges, len(case.stream)]
    return [case.stream[start:stop] for start, stop in zip(starts, stops, strict=True)]


@pytest.mark.parametrize("way", ["whole", "in pieces"])
async def test_live_server_answers_each_case_as_it_must(way: str) -> None:
    chance = random.Random(1)
    room = asyncio.Semaphore(CONNECTIONS_AT_ONCE)
    failures: list[str] = []

    async def attempt(case: Case, pieces: list[bytes], port: int) -> None:
        async with room:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await try_case(case, pieces, port)
            except (AssertionError, h11.ProtocolError, OSError) as failure:
                # TimeoutError is an OSError.
                failures.append(f"{case.name} ({case.source}): {failure!r} for {pieces!r:.300}")

    async with serve() as port:
        await asyncio.gather(
            *(
                attempt(case, [case.stream] if way == "whole" else cut(case, chance), port)
                for case in CASES
            )
        )
    assert not failures, "\n".join(failures)
