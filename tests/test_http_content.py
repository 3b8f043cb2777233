"""From a plan to a response: what is read, when, and that the source is closed in every case."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import pytest

from p2pweb.http.content import respond
from p2pweb.http.messages import Body
from p2pweb.http.plan import Plan

FIELDS = (("Content-Type", "text/plain"),)


class GoneError(Exception):
    """The bytes cannot be had."""


@dataclass
class Source:
    """Yields these chunks, then fails if it is to; knows what it was asked and if it was closed."""

    chunks: list[bytes]
    fails: bool = False
    asked: list[tuple[int, int]] = field(default_factory=list)
    given: int = 0
    closed: bool = False

    async def read(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        self.asked.append((start, stop))
        try:
            for chunk in self.chunks:
                self.given += 1
                yield chunk
            if self.fails:
                raise GoneError
        finally:
            self.closed = True


def send(start: int, stop: int) -> Plan:
    """A plan to send these bytes."""
    return Plan(status=206, fields=FIELDS, start=start, stop=stop, content_length=stop - start)


def stream(body: bytes | Body) -> AsyncGenerator[bytes, None]:
    assert isinstance(body, Body)
    assert isinstance(body.chunks, AsyncGenerator)
    return body.chunks


@pytest.mark.parametrize("status", [200, 304, 412])
async def test_answer_without_content_reads_nothing(status: int) -> None:
    source = Source([b"never"])
    length = None if status == 304 else 0
    answer = Plan(status=status, fields=FIELDS, content_length=length)
    response = await respond(answer, source.read)
    assert (response.status, response.fields, response.body) == (status, FIELDS, b"")
    assert source.asked == []


async def test_head_keeps_the_length_and_reads_nothing() -> None:
    source = Source([b"never"])
    answer = Plan(status=200, fields=FIELDS, content_length=7)
    response = await respond(answer, source.read)
    assert isinstance(response.body, Body)
    assert response.body.size_bytes == 7
    assert source.asked == []
    with pytest.raises(AssertionError, match="without content"):
        await anext(response.body.chunks)


async def test_content_in_one_piece_is_a_body_of_bytes() -> None:
    source = Source([b"whole"])
    response = await respond(send(2, 7), source.read)
    assert (response.status, response.fields, response.body) == (206, FIELDS, b"whole")
    assert source.asked == [(2, 7)]
    assert source.closed


async def test_longer_content_is_streamed_after_its_first_piece() -> None:
    source = Source([b"a", b"bc", b"d"])
    response = await respond(send(0, 4), source.read)
    assert source.given == 1
    assert isinstance(response.body, Body)
    assert response.body.size_bytes == 4
    assert [chunk async for chunk in response.body.chunks] == [b"a", b"bc", b"d"]
    assert source.closed


async def test_what_fails_before_the_first_piece_passes_through() -> None:
    source = Source([], fails=True)
    with pytest.raises(GoneError):
        await respond(send(0, 4), source.read)
    assert source.closed


async def test_what_fails_later_breaks_the_body_off() -> None:
    source = Source([b"a", b"b"], fails=True)
    response = await respond(send(0, 4), source.read)
    chunks = stream(response.body)
    assert [await anext(chunks), await anext(chunks)] == [b"a", b"b"]
    with pytest.raises(GoneError):
        await anext(chunks)
    assert source.closed


@pytest.mark.parametrize("pieces", [0, 1, 2])
async def test_body_that_is_closed_early_closes_its_source(pieces: int) -> None:
    source = Source([b"a", b"b", b"c"])
    response = await respond(send(0, 3), source.read)
    chunks = stream(response.body)
    for _ in range(pieces):
        await anext(chunks)
    await chunks.aclose()
    assert source.closed
