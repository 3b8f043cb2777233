"""A server with a handler of a test's own, and visitors who say and read what they like."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from p2pweb.http.connection import Connection
from p2pweb.http.messages import Body, Request, Response, Span
from p2pweb.http.server import AccessEntry, HttpServer, RequestBody, ServerLimits

# Long enough for a slow machine, short enough to notice a hang.
PATIENCE_S = 5.0
BIG = bytes(range(256)) * 4096 * 4  # 4 MiB: more than any socket buffer holds
HOST = b"Host: localhost\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
LAST = b"GET / HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"


@dataclass
class Site:
    """A running server, its port, and what it logged."""

    server: HttpServer
    port: int
    entries: list[AccessEntry] = field(default_factory=list)

    async def talk(self, stream: bytes, *, half_close: bool = False) -> bytes:
        """Send, and read all until the server closes."""
        async with self.open() as (reader, writer):
            writer.write(stream)
            if half_close:
                writer.write_eof()
            return await asyncio.wait_for(reader.read(), PATIENCE_S)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


def reset(writer: asyncio.StreamWriter) -> None:
    """Leave without a word: the server's next packet finds nobody."""
    option = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
    writer.transport.abort()


async def fill(site: Site, writer: asyncio.StreamWriter) -> Connection:
    """Have the only visitor ask and read nothing, until an answer waits in the transport."""
    writer.transport.pause_reading()
    writer.write(GET)
    await until(lambda: site.entries)
    connection = only_connection(site)
    while not connection.outlet.unsent_bytes:
        answered = len(site.entries)
        writer.write(GET)
        await until(lambda: len(site.entries) > answered)  # noqa: B023
        # Whatever the kernels still take, they take now.
        for _ in range(10):
            await asyncio.sleep(0)
    return connection


async def echo(request: Request, body: RequestBody) -> Response:
    """Answers what it was sent; the path says how."""
    text = await body.read(1024) if request.target == b"/in" else request.target
    return Response(status=200, fields=(("Content-Type", "text/plain"),), body=text)


async def until(holds: Callable[[], object]) -> None:
    """Let the loop turn until something holds; no time is waited for."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 - what is watched has no event of its own
            await asyncio.sleep(0)


def only_connection(site: Site) -> Connection:
    (connection,) = site.server._connections
    return connection


@asynccontextmanager
async def serve(
    handler: Callable[[Request, RequestBody], Awaitable[Response]] = echo, **limits: float
) -> AsyncIterator[Site]:
    entries: list[AccessEntry] = []
    server = HttpServer(
        handler,
        limits=ServerLimits(**limits),  # type: ignore[arg-type]
        now_unix=lambda: 784111777.5,
        log=entries.append,
    )
    await server.start([("127.0.0.1", 0)])
    try:
        yield Site(server, server.addresses[0][1], entries)
    finally:
        await asyncio.wait_for(server.close(0), PATIENCE_S)


async def read_answer(
    reader: asyncio.StreamReader, *, has_body: bool = True
) -> tuple[int, dict[str, str], bytes]:
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
    status, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    length = int(fields.get("content-length", "0")) if has_body else 0
    body = await asyncio.wait_for(reader.readexactly(length), PATIENCE_S)
    return int(status.split(" ")[1]), fields, body


def post(body: bytes, fields: bytes = b"", target: bytes = b"/in") -> bytes:
    length = b"Content-Length: %d\r\n" % len(body)
    return b"POST " + target + b" HTTP/1.1\r\n" + HOST + length + fields + b"\r\n" + body


@dataclass
class Stored:
    """Bytes to be sent from memory, so many at a time, or from a file."""

    data: bytes
    fails_at: int | None = None
    step_bytes: int = 65536
    path: Path | None = None
    opened: int = 0
    reads: int = 0
    closed: int = 0
    file: BinaryIO | None = None

    def open(self) -> Stored:
        self.opened += 1
        if self.path is not None:
            self.file = self.path.open("rb")
        return self

    def fileno(self) -> int | None:
        return None if self.file is None else self.file.fileno()

    async def read(self, start: int, stop: int) -> memoryview:
        self.reads += 1
        await asyncio.sleep(0)
        if self.fails_at is not None and start >= self.fails_at:
            raise OSError("the source ran dry")
        return memoryview(self.data)[start : min(stop, start + self.step_bytes)]

    def close(self) -> None:
        self.closed += 1
        if self.file is not None:
            self.file.close()

    def answer(self, size_bytes: int | None = None) -> Response:
        size_bytes = len(self.data) if size_bytes is None else size_bytes
        body = Body(size_bytes=size_bytes, pieces=(Span(0, size_bytes),), open=self.open)
        return Response(status=200, body=body)
