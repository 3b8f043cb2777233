"""Writing straight into a connection's socket, past the transport's buffer.

For long answers: what the kernel does not take at once stays where it lies, in a file or in a cache
that all visitors share, so a slow reader holds none of this peer's memory. Knows no order and no
waiting: its user sees to it that the transport has nothing left to write, and asks again once the
socket has room.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
import sys
import termios
from contextlib import suppress
from types import TracebackType
from typing import Protocol

# Tells the kernel that more follows at once, so that a head and the body's first bytes share a
# packet. Where there is no such flag they may travel apart.
_MSG_MORE = getattr(socket, "MSG_MORE", 0)
# macOS: how many bytes of the send buffer are not acknowledged; Linux has an ioctl instead.
_SO_NWRITE = 0x1024
# How much the kernel may hold that is not even on its way. Without a bound, each reader who takes
# nothing costs it megabytes, and this process the time to hand them over.
_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", None)
_UNSENT_BYTES_MAX = 128 * 1024
# struct linger: on, for no time at all.
_NO_LINGER = struct.pack("ii", 1, 0)


class HasFileno(Protocol):
    """What asyncio and uvloop hand out for a transport's socket."""

    def fileno(self) -> int:
        """The descriptor."""


class SocketWriter:
    """A second descriptor of one connected stream socket; a context manager that closes it."""

    def __init__(self, original: HasFileno) -> None:
        descriptor = os.dup(original.fileno())
        # The family is not looked up: nothing here depends on it.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=descriptor)
        self._socket.setblocking(False)
        if _NOTSENT_LOWAT is not None:
            self._socket.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, _UNSENT_BYTES_MAX)

    def __enter__(self) -> SocketWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, data: bytes | memoryview, *, more: bool) -> int:
        """How many bytes were taken; 0 where there is no room. OSError where the reader is gone."""
        try:
            return self._socket.send(data, _MSG_MORE if more else 0)
        except (BlockingIOError, InterruptedError):
            return 0

    def send_file(self, descriptor: int, start: int, stop: int) -> int | None:
        """The same for bytes of a file, which never pass through this process.

        None where there is no room; 0 where the file has ended. OSError where the reader is gone,
        or the file cannot be read.
        """
        try:
            return os.sendfile(self._socket.fileno(), descriptor, start, stop - start)
        except (BlockingIOError, InterruptedError):
            return None


def untaken_bytes(transport: asyncio.Transport) -> int:
    """What was written and is not acknowledged by the visitor's machine, as far as can be known."""
    waiting_bytes = transport.get_write_buffer_size()
    opened: HasFileno | None = transport.get_extra_info("socket")
    if opened is None:
        return waiting_bytes
    try:
        return waiting_bytes + _unacknowledged_bytes(opened.fileno())
    except OSError:
        return waiting_bytes


def discard_untaken(transport: asyncio.Transport) -> None:
    """Have the socket reset its connection when it is closed, with all that was not taken."""
    opened: HasFileno | None = transport.get_extra_info("socket")
    if opened is not None:
        # Closed already, it has nothing left to discard.
        with suppress(OSError), socket.socket(fileno=os.dup(opened.fileno())) as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)


def _unacknowledged_bytes(descriptor: int) -> int:
    if sys.platform == "darwin":
        with socket.socket(fileno=os.dup(descriptor)) as again:
            return again.getsockopt(socket.SOL_SOCKET, _SO_NWRITE)
    answer = fcntl.ioctl(descriptor, termios.TIOCOUTQ, b"\0" * 4)
    return int(struct.unpack("i", answer)[0])
