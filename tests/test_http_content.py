"""From a plan to a response: what is read, when, and that the source is closed in every case."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from p2pweb.http.content import FileContent, respond, respond_without_content
from p2pweb.http.messages import SHORT_BODY_BYTES_MAX, Body, Piece, Span
from p2pweb.http.plan import Plan

FIELDS = (("Content-Type", "text/plain"),)


class GoneError(Exception):
    """The bytes cannot be had."""


@dataclass
class Stored:
    """Gives out its bytes so many at a time; knows what it was asked and if it was closed."""

    data: bytes
    step_bytes: int = 1 << 30
    asked: list[tuple[int, int]] = field(default_factory=list)
    closed: int = 0
    fails: bool = False

    def fileno(self) -> None:
        """It is no file."""

    async def read(self, start: int, stop: int) -> memoryview:
        self.asked.append((start, stop))
        if self.fails:
            raise GoneError
        return memoryview(self.data)[start : min(stop, start + self.step_bytes)]

    def close(self) -> None:
        self.closed += 1


def send(*pieces: Piece) -> Plan:
    """A plan to send these pieces."""
    sizes = [len(one) if isinstance(one, bytes) else one.stop - one.start for one in pieces]
    return Plan(status=206, fields=FIELDS, pieces=pieces, content_length=sum(sizes))


@pytest.mark.parametrize("status", [200, 304, 412])
async def test_answer_without_content_reads_nothing(status: int) -> None:
    stored = Stored(b"never")
    length = None if status == 304 else 0
    answer = Plan(status=status, fields=FIELDS, content_length=length)
    response = await respond(answer, lambda: stored)
    assert (response.status, response.fields, response.body) == (status, FIELDS, b"")
    assert stored.asked == []


def test_answer_to_head_has_a_length_and_no_bytes() -> None:
    response = respond_without_content(Plan(status=200, fields=FIELDS, content_length=5))
    assert isinstance(response.body, Body)
    assert (response.body.size_bytes, response.body.pieces) == (5, ())
    with pytest.raises(AssertionError):
        response.body.open()


@pytest.mark.parametrize("step_bytes", [1, 3, 100])
async def test_short_body_is_read_whole_and_closed(step_bytes: int) -> None:
    stored = Stored(b"0123456789", step_bytes)
    response = await respond(send(Span(2, 7)), lambda: stored)
    assert (response.status, response.body) == (206, b"23456")
    assert type(response.body) is bytes
    assert stored.closed == 1


async def test_short_body_of_several_pieces_is_joined() -> None:
    stored = Stored(b"0123456789", 2)
    response = await respond(send(b"<", Span(0, 3), b"|", Span(8, 10), b">"), lambda: stored)
    assert response.body == b"<012|89>"


async def test_long_body_is_left_where_it_lies_but_for_its_first_bytes() -> None:
    size = SHORT_BODY_BYTES_MAX + 1
    stored = Stored(bytes(size))
    response = await respond(send(b"<", Span(0, size)), lambda: stored)
    assert isinstance(response.body, Body)
    assert response.body.size_bytes == size + 1
    assert response.body.pieces == (b"<", Span(0, size))
    assert response.body.open() is stored
    assert (stored.asked, stored.closed) == ([(0, size)], 1)


@pytest.mark.parametrize("size", [10, SHORT_BODY_BYTES_MAX + 1])
async def test_bytes_that_cannot_be_had_raise_before_there_is_an_answer(size: int) -> None:
    with pytest.raises(GoneError):
        await respond(send(Span(0, size)), lambda: Stored(b"", fails=True))


async def test_file_is_read_at_any_place(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with path.open("rb") as file:
        content = FileContent(file.fileno())
        assert content.fileno() == file.fileno()
        assert await content.read(2, 5) == b"234"
        assert content.read_now(8, 20) == b"89"


async def test_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")

    content = FileContent(os.open(path, os.O_RDONLY))
    content.close()
    with pytest.raises(OSError):
        content.read_now(0, 1)
