"""A visitor: one HTTP request on one connection, by code that shares nothing with the peers'."""

from __future__ import annotations

import asyncio
import zlib
from dataclasses import dataclass

from p2pweb.address import Address
from p2pweb.sim.network import Host, Network

# Longer than a peer may take over anything that a visitor waits for.
PATIENCE_S = 120.0


class NoAnswerError(Exception):
    """No answer, and why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`body` is decoded. `is_whole` is False where it broke off before the length announced."""

    status: int
    fields: dict[str, str]
    body: bytes
    is_whole: bool
    # When the first of it came, on the loop's clock.
    began_s: float


class _Listening(asyncio.Protocol):
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.data = bytearray()
        self.began_s = 0.0
        self.ended: asyncio.Future[None] = loop.create_future()

    def data_received(self, data: bytes) -> None:
        if not self.data:
            self.began_s = self._loop.time()
        self.data += data

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


async def get(
    network: Network, host: Host, address: Address, name: str, path: str, *, gzip: bool = False
) -> Answer:
    """Ask from a host, by the site's host name. NoAnswerError."""
    loop = network.loop
    opened = network.streams.socket(host)
    request = f"GET {path} HTTP/1.1\r\nHost: {name}:{address[1]}\r\nConnection: close\r\n"
    request += "Accept-Encoding: gzip\r\n\r\n" if gzip else "\r\n"
    try:
        async with asyncio.timeout(PATIENCE_S):
            await opened.connect(address)
            listening = _Listening(loop)
            transport = opened.open(listening)
            try:
                transport.write(request.encode("ascii"))
                await listening.ended
            finally:
                transport.abort()
    except TimeoutError:
        raise NoAnswerError("no answer in time") from None
    except OSError as error:
        raise NoAnswerError(f"no connection: {error.strerror}") from None
    return _read(bytes(listening.data), listening.began_s)


def _read(data: bytes, began_s: float) -> Answer:
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        raise NoAnswerError("the connection broke off before the answer's head")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    fields = {name.lower(): value.strip() for name, _, value in pairs}
    length = fields.get("content-length", "")
    is_whole = length.isdigit() and len(body) == int(length)
    if is_whole and fields.get("content-encoding") == "gzip":
        body = zlib.decompress(body, wbits=31)
    return Answer(int(first.split(" ")[1]), fields, body, is_whole, began_s)
