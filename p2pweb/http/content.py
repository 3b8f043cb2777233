"""A plan and where its bytes lie → the response.

What is short is read here, before any status is sent: what cannot be had raises where an answer can
still say so. Of what is long the first bytes are read, for the same reason, and the rest when it
is sent.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

from p2pweb.http.messages import SHORT_BODY_BYTES_MAX, Body, Content, Response, Span
from p2pweb.http.plan import Plan


def respond_without_content(answer: Plan) -> Response:
    """The response to a plan with nothing to read: HEAD, an empty file, a 304, an error."""
    size_bytes = answer.content_length or 0
    body = Body(size_bytes=size_bytes, pieces=(), open=_never) if size_bytes else b""
    return Response(status=answer.status, fields=answer.fields, body=body)


async def respond(answer: Plan, open_content: Callable[[], Content]) -> Response:
    """The response that a plan asks for. Whatever is raised for the first bytes passes through."""
    response = respond_without_content(answer)
    if not answer.pieces:
        return response
    size_bytes = answer.content_length or 0
    with closing(open_content()) as content:
        if size_bytes <= SHORT_BODY_BYTES_MAX:
            return replace(response, body=await _read_all(answer, content))
        first = next(piece for piece in answer.pieces if isinstance(piece, Span))
        await content.read(first.start, first.stop)
    body = Body(size_bytes=size_bytes, pieces=answer.pieces, open=open_content)
    return replace(response, body=body)


async def _read_all(answer: Plan, content: Content) -> bytes:
    read: list[bytes | memoryview] = []
    for piece in answer.pieces:
        if isinstance(piece, bytes):
            read.append(piece)
            continue
        at = piece.start
        while at < piece.stop:
            data = await content.read(at, piece.stop)
            read.append(data)
            at += len(data)
    whole = read[0] if len(read) == 1 else b"".join(read)
    return whole if isinstance(whole, bytes) else bytes(whole)


class FileContent:
    """An open file that is all of a representation; owns the descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    async def read(self, start: int, stop: int) -> bytes:
        return self.read_now(start, stop)

    def read_now(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to `stop`; fewer where the file has been cut short."""
        return os.pread(self._descriptor, stop - start, start)

    def close(self) -> None:
        os.close(self._descriptor)


def _never() -> Content:
    raise AssertionError("an answer without content has a body to send")
