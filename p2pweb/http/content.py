"""A plan and the bytes that it names → the response.

The first bytes are waited for here, before any status is sent: what cannot be had raises where an
answer can still say so. The rest is made while it is sent.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable

from p2pweb.http.messages import Body, Response
from p2pweb.http.plan import Plan


async def respond(
    answer: Plan, read: Callable[[int, int], AsyncGenerator[bytes, None]]
) -> Response:
    """The response that a plan asks for.

    `read(start, stop)` yields those bytes of the chosen representation. It is not called where the
    answer has no content. Whatever it raises before its first bytes passes through.
    """
    size = answer.content_length or 0
    if answer.start == answer.stop:
        # HEAD, an empty file, or an answer without content.
        body = Body(size_bytes=size, chunks=_never_sent()) if size else b""
        return Response(status=answer.status, fields=answer.fields, body=body)
    chunks = read(answer.start, answer.stop)
    first = await anext(chunks)
    if len(first) == size:
        await chunks.aclose()
        return Response(status=answer.status, fields=answer.fields, body=first)
    whole = _with_first(first, chunks)
    # Begun, so that closing it closes `chunks`: a generator that has not begun runs nothing.
    await anext(whole)
    body = Body(size_bytes=size, chunks=whole)
    return Response(status=answer.status, fields=answer.fields, body=body)


async def _with_first(
    first: bytes, rest: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    try:
        yield b""
        yield first
        async for chunk in rest:
            yield chunk
    finally:
        await rest.aclose()


async def _never_sent() -> AsyncIterator[bytes]:
    raise AssertionError("an answer without content has a body to send")
    yield b""
