"""Writing a long answer through a transport that has no socket of its own: a proxy's, a test's.

The counterpart of `socket_writer`: the transport takes bytes until it says that it is full, so it
holds a few of them for each reader where a socket would leave them in the kernel.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from types import TracebackType

# One turn's share: so much may come on top of what fills the transport.
_CHUNK_BYTES = 64 * 1024


class TransportWriter:
    """A transport as a long answer sees it; `is_full` is whether it has asked for a pause."""

    def __init__(self, transport: asyncio.Transport, is_full: Callable[[], bool]) -> None:
        self._transport = transport
        self._is_full = is_full

    def __enter__(self) -> TransportWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """The transport stays open: it is the connection's."""

    def fileno(self) -> None:
        """There is none: the transport tells when it has room again."""

    def send(self, data: bytes | memoryview, *, more: bool) -> int:
        """How many bytes were taken; 0 where there is no room. OSError where the reader is gone."""
        del more
        if not self._has_room():
            return 0
        # A copy: what waits in a transport must not keep a whole block in memory.
        taken = bytes(data[:_CHUNK_BYTES])
        self._transport.write(taken)
        return len(taken)

    def send_file(self, descriptor: int, start: int, stop: int) -> int | None:
        """The same for bytes of a file.

        None where there is no room; 0 where the file has ended. OSError where the reader is gone,
        or the file cannot be read.
        """
        if not self._has_room():
            return None
        taken = os.pread(descriptor, min(stop - start, _CHUNK_BYTES), start)
        self._transport.write(taken)
        return len(taken)

    def _has_room(self) -> bool:
        if self._transport.is_closing():
            raise ConnectionResetError(errno.ECONNRESET, "the reader is gone")
        return not self._is_full()
