"""The visitors of tools/abuse: honest ones, whose answers count, and impolite ones.

Honest visitors ask at fixed times, whether or not earlier answers have come, so that a server that
stalls cannot hide it. Impolite ones know only how to be a burden, and tell how they were let go.
"""

from __future__ import annotations

import asyncio
import math
import socket
from contextlib import suppress
from dataclasses import dataclass, field

HOST = "127.0.0.1"
# Half of the honest requests come on new connections, half on these.
KEPT = 5
# Longer is no answer.
ANSWER_S = 10.0
# A reader who takes nothing has told the kernel to keep as little as it may.
RECEIVE_BYTES = 4096


def head(path: str, method: str = "GET", *fields: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}", *fields]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()


# --- honest ones ---


@dataclass
class Service:
    """What honest visitors were given."""

    latencies_s: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    # Kept connections that had been closed between two requests, which is no failure: the request
    # is made again on a new one, as browsers do (RFC 9112 §9.3.1).
    reopened: int = 0

    def quantile_ms(self, share: float) -> float:
        if not self.latencies_s:
            return math.inf
        ordered = sorted(self.latencies_s)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class HonestVisitors:
    """So many requests a second for one page, for as long as the context lasts."""

    def __init__(self, port: int, path: str, per_second: int) -> None:
        self.service = Service()
        self._port = port
        self._path = path
        self._interval_s = 1 / per_second
        self._free: list[Streams] = []

    async def __aenter__(self) -> Service:
        self._run = asyncio.ensure_future(self._keep_asking())
        return self.service

    async def __aexit__(self, *_: object) -> None:
        self._run.cancel()
        await asyncio.gather(self._run, return_exceptions=True)
        for _, writer in self._free:
            writer.transport.abort()

    async def _keep_asking(self) -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        asked: set[asyncio.Task[None]] = set()
        number = 0
        try:
            while True:
                task = asyncio.ensure_future(self._ask(due_s, kept=number % 2 == 0))
                asked.add(task)
                task.add_done_callback(asked.discard)
                number += 1
                due_s += self._interval_s
                await asyncio.sleep(due_s - loop.time())
        finally:
            if asked:
                await asyncio.wait(asked, timeout=ANSWER_S)

    async def _ask(self, due_s: float, *, kept: bool) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                await (self._ask_again() if kept else self._ask_once())
        except Exception as error:  # noqa: BLE001 - whatever it is, it was no answer
            self.service.failures.append(f"{type(error).__name__}: {error}")
        else:
            self.service.latencies_s.append(asyncio.get_running_loop().time() - due_s)

    async def _ask_once(self) -> None:
        reader, writer = await asyncio.open_connection(HOST, self._port)
        try:
            await self._read_answer(reader, writer, "Connection: close")
        finally:
            writer.transport.abort()

    async def _ask_again(self) -> None:
        """On the connection that has waited longest, once there are as many as wanted."""
        streams = self._free.pop(0) if len(self._free) >= KEPT else None
        if streams is not None:
            try:
                await self._read_answer(*streams)
            except (OSError, asyncio.IncompleteReadError) as error:
                streams[1].transport.abort()
                if isinstance(error, asyncio.IncompleteReadError) and error.partial:
                    raise
                self.service.reopened += 1
                streams = None
        if streams is None:
            streams = await asyncio.open_connection(HOST, self._port)
            await self._read_answer(*streams)
        self._free.append(streams)

    async def _read_answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *fields: str
    ) -> None:
        writer.write(head(self._path, "GET", *fields))
        answer = await reader.readuntil(b"\r\n\r\n")
        status = answer.split(b"\r\n", 1)[0].decode()
        if " 200 " not in status:
            raise ValueError(status)
        length = answer.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        await reader.readexactly(int(length))


# --- impolite ones ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """One way to be a burden, and what the server has to say to it."""

    name: str
    begins_with: bytes = b""
    # Sent again and again.
    drip: bytes = b""
    every_s: float = 1.0
    # How many bytes are read each time; None: whatever comes.
    reads: int | None = None
    # The status line's beginning; empty where a connection is closed without words, None where an
    # answer is under way and is cut off.
    told: bytes | None = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Farewell:
    """How a visitor was let go."""

    after_s: float
    told: bytes

    def suits(self, manner: Manner) -> bool:
        if manner.told is None:
            return True
        return self.told.startswith(manner.told) and bool(self.told) == bool(manner.told)


async def burden(port: int, manner: Manner, patience_s: float) -> Farewell | None:
    """Behave like that until the server ends it; None where it has not within `patience_s`."""
    loop = asyncio.get_running_loop()
    with socket.socket() as opened:
        opened.setblocking(False)
        if manner.reads is not None:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        await loop.sock_connect(opened, (HOST, port))
        began_s = loop.time()
        if manner.begins_with:
            await loop.sock_sendall(opened, manner.begins_with)
        told = bytearray()
        act = _read_slowly if manner.reads is not None else _drip_and_listen
        try:
            async with asyncio.timeout(patience_s):
                with suppress(ConnectionError):
                    await act(loop, opened, manner, told)
        except TimeoutError:
            return None
        return Farewell(after_s=loop.time() - began_s, told=bytes(told))


async def _drip_and_listen(
    loop: asyncio.AbstractEventLoop, opened: socket.socket, manner: Manner, told: bytearray
) -> None:
    async def listen() -> None:
        while data := await loop.sock_recv(opened, 4096):
            told.extend(data)

    listening = asyncio.ensure_future(listen())
    try:
        while not (await asyncio.wait({listening}, timeout=manner.every_s))[0]:
            if manner.drip:
                await loop.sock_sendall(opened, manner.drip)
        await listening
    finally:
        listening.cancel()


async def _read_slowly(
    loop: asyncio.AbstractEventLoop, opened: socket.socket, manner: Manner, told: bytearray
) -> None:
    """Read so little each time, and notice the end of the connection without reading more."""
    while True:
        if manner.reads:
            with suppress(BlockingIOError):
                data = opened.recv(manner.reads)
                if not data:
                    return
                told.extend(data)
        # An abort is an error of the socket; nothing of it has to be read to see that.
        fault = opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if fault or _is_over(opened):
            return
        await asyncio.sleep(manner.every_s)


# Linux: the first byte of struct tcp_info is the connection's state, and this one is open.
_ESTABLISHED = 1


def _is_over(opened: socket.socket) -> bool:
    kind = getattr(socket, "TCP_INFO", None)
    return kind is not None and opened.getsockopt(socket.IPPROTO_TCP, kind, 1)[0] != _ESTABLISHED


class Crowd:
    """So many connections that drip a head, each opened again as soon as it is closed."""

    def __init__(self, port: int, count: int, pause_s: float) -> None:
        self._port = port
        self._count = count
        self._pause_s = pause_s
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> None:
        manner = Manner(name="crowd", begins_with=head("/")[:-2], drip=b"X-a: b\r\n", every_s=3.0)

        async def stay() -> None:
            while True:
                with suppress(OSError):
                    await burden(self._port, manner, 3600)
                await asyncio.sleep(self._pause_s)

        for _ in range(self._count):
            self._tasks.append(asyncio.ensure_future(stay()))
            await asyncio.sleep(1 / 500)

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
