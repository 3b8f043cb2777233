"""The way out to one visitor: into the socket at once, else through the transport, or past it.

Owns the order of what is written, and the waits for the visitor to take it. Whatever is short may
wait in the transport, up to a bound; what is long goes past it (`direct`), and only when nothing is
left in it. A transport without a socket takes everything, and no more at one time than that bound.
"""

from __future__ import annotations

import asyncio
import os
from types import TracebackType
from typing import Protocol, Self

from p2pweb.http.deadline import Deadline
from p2pweb.http.patience import ReaderWatch
from p2pweb.http.service import ServerLimits
from p2pweb.http.socket_writer import HasFileno, SocketWriter, discard_untaken, untaken_bytes
from p2pweb.http.transport_writer import TransportWriter


class VisitorLeft(Exception):  # noqa: N818 - nobody's error
    """The connection is lost: whatever is sent now reaches nobody.

    Not a ConnectionError: a handler's own connections raise that.
    """


class Writer(Protocol):
    """Takes the parts of a long answer, one after the other; a context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def fileno(self) -> int | None:
        """The descriptor that can be watched for room; None where the transport tells of it."""

    def send(self, data: bytes | memoryview, *, more: bool) -> int:
        """How many bytes were taken; 0 where there is no room. OSError where the reader is gone."""

    def send_file(self, descriptor: int, start: int, stop: int) -> int | None:
        """The same for bytes of a file; None where there is no room, 0 where the file has ended."""


class Outlet:
    """What is written to one transport; `deadline` is its connection's, and ended by writing."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        limits: ServerLimits,
        deadline: Deadline,
    ) -> None:
        self._loop = loop
        self._transport = transport
        opened: HasFileno | None = transport.get_extra_info("socket")
        self._descriptor = None if opened is None else opened.fileno()
        self._limits = limits
        self._deadline = deadline
        self._watch = ReaderWatch(limits)
        self._waiter: asyncio.Future[None] | None = None
        self._is_lost = False
        # Whether the transport holds as much as it may.
        self.is_full = False
        transport.set_write_buffer_limits(high=limits.write_buffer_bytes_max)

    @property
    def unsent_bytes(self) -> int:
        """What waits in the transport."""
        return self._transport.get_write_buffer_size()

    @property
    def is_waiting(self) -> bool:
        """Whether an answer waits until the visitor has taken some of it."""
        return self._waiter is not None

    # What the transport tells

    def pause(self) -> None:
        self.is_full = True

    def resume(self) -> None:
        self.is_full = False
        self._wake()

    def lose(self) -> None:
        """The connection is lost."""
        self._is_lost = True

    # Writing

    def write(self, data: bytes) -> None:
        """Hand over a part of an answer; raises `VisitorLeft`."""
        if self._is_lost:
            raise VisitorLeft
        self._deadline.stop()
        self.send(data)

    def send(self, data: bytes) -> None:
        """Write what the kernel takes, and leave the rest to the transport: uvloop's own would
        write after all the connections that have something to read have been looked at."""
        transport, descriptor = self._transport, self._descriptor
        if (
            descriptor is not None
            and not transport.get_write_buffer_size()
            and not transport.is_closing()
        ):
            try:
                taken_bytes = os.write(descriptor, data)
            except OSError:
                taken_bytes = 0  # No room; or the visitor is gone, which the transport finds too.
            if taken_bytes == len(data):
                return
            data = data[taken_bytes:]
        transport.write(data)

    async def flushed(self) -> None:
        """Wait until the transport has passed on all that was written; raises `VisitorLeft`."""
        if not self.unsent_bytes:
            return
        self._transport.set_write_buffer_limits(high=0)
        try:
            while self.is_full:
                await self._wait()
        finally:
            # A lost transport has no limits any more; uvloop raises.
            if not self._is_lost:
                self._transport.set_write_buffer_limits(high=self._limits.write_buffer_bytes_max)

    def direct(self) -> Writer:
        """The socket itself, while nothing is left in the transport; raises `VisitorLeft`.

        The transport where it has no socket.
        """
        if self._is_lost:
            raise VisitorLeft
        self._deadline.stop()
        opened: HasFileno | None = self._transport.get_extra_info("socket")
        if opened is None:
            return TransportWriter(self._transport, lambda: self.is_full)
        return SocketWriter(opened)

    async def taken(self, writer: Writer) -> None:
        """Wait until there is room for more behind a writer; raises `VisitorLeft`."""
        descriptor = writer.fileno()
        if descriptor is None:
            while self.is_full:
                await self._wait()
            return
        # uvloop lets nobody watch a transport's own descriptor, so the writer has one of its own.
        self._loop.add_writer(descriptor, self._wake)
        try:
            await self._wait()
        finally:
            self._loop.remove_writer(descriptor)

    def reset(self) -> None:
        """Abort, and have the kernel forget what it holds: for a reader who takes nothing it would
        keep that, up to megabytes, for minutes after the connection has ended here."""
        discard_untaken(self._transport)
        self._transport.abort()

    # The visitor's taking

    def expect_progress(self) -> None:
        """From now on the visitor has to take what was written; `judge` it when the time is up."""
        untaken = untaken_bytes(self._transport)
        self._deadline.start(self._watch.begin(untaken, self._loop.time()))

    def judge(self, *, is_under_pressure: bool) -> None:
        """The time is up: go on waiting, or give up a visitor who takes next to nothing."""
        untaken = untaken_bytes(self._transport)
        now_s = self._loop.time()
        wait_s = self._watch.look(untaken, now_s, is_under_pressure=is_under_pressure)
        if wait_s is None:
            self.reset()
        else:
            self._deadline.start(wait_s)

    async def _wait(self) -> None:
        if self._is_lost:
            raise VisitorLeft
        self._waiter = self._loop.create_future()
        self.expect_progress()
        try:
            await self._waiter
        finally:
            self._waiter = None
            self._deadline.stop()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
