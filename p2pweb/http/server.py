"""The HTTP server: listeners, the connections they accept, and how many of these may be.

Owns admission (so many connections in all, so many from one address, the longest idle closed to
make room) and the orderly end. What happens on a connection is the connection's.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv6Address, ip_address

from p2pweb.http.connection import Connection
from p2pweb.http.fields import format_date
from p2pweb.http.service import AccessEntry, Handler, RequestBody, ServerLimits

__all__ = ["AccessEntry", "Handler", "HttpServer", "RequestBody", "ServerLimits"]

# As many as browsers opening a page at once can leave waiting while the loop is busy.
_BACKLOG = 512


class HttpServer:
    """Serves one handler on any number of addresses; call from the running loop.

    `now_unix` is the wall clock in seconds, for Date alone.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        limits: ServerLimits,
        now_unix: Callable[[], float],
        log: Callable[[AccessEntry], None] | None = None,
    ) -> None:
        self.handler = handler
        self.limits = limits
        self.log = log
        self.closing = False
        self._now_unix = now_unix
        self._date_s = -1
        self._date = ""
        self._listeners: list[asyncio.Server] = []
        # Dicts where sets would do: they keep their order, so a simulated run repeats exactly.
        self._connections: dict[Connection, None] = {}
        self._idle: dict[Connection, None] = {}
        self._begun: dict[Connection, None] = {}
        self._per_address: dict[str, int] = {}
        self._emptied: asyncio.Future[None] | None = None

    async def start(self, addresses: Sequence[tuple[str, int]]) -> None:
        """Listen on all of `addresses`, (IP address, port or 0), or on none.

        An IPv6 address takes IPv6 only, but "::" takes IPv4 too. OSError passes through.
        """
        loop = asyncio.get_running_loop()
        started: list[asyncio.Server] = []
        try:
            for host, port in addresses:
                started.append(await self._listen(loop, host, port))
        except BaseException:
            for listener in started:
                listener.close()
            raise
        self._listeners += started

    async def _listen(
        self, loop: asyncio.AbstractEventLoop, host: str, port: int
    ) -> asyncio.Server:
        def accept() -> Connection:
            return Connection(self, loop)

        if host == "::":
            listening = socket.create_server(
                (host, port), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True
            )
            return await loop.create_server(accept, sock=listening, backlog=_BACKLOG)
        return await loop.create_server(accept, host, port, backlog=_BACKLOG)

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """The (address, port) of each listener, in the order given to `start`."""
        return tuple(
            (name[0], name[1])
            for listener in self._listeners
            for name in (opened.getsockname() for opened in listener.sockets)
        )

    async def close(self, grace_s: float) -> None:
        """Stop listening, close what is idle, give answers in flight `grace_s`, abort the rest.

        Returns when the last connection is gone and its handler has ended.
        """
        self.closing = True
        for listener in self._listeners:
            listener.close()
        for connection in tuple(self._connections):
            connection.close_if_waiting()
        if not self._connections:
            return
        loop = asyncio.get_running_loop()
        self._emptied = loop.create_future()
        grace = loop.call_later(grace_s, self._abort_all)
        try:
            await self._emptied
        finally:
            grace.cancel()

    def _abort_all(self) -> None:
        for connection in tuple(self._connections):
            connection.abort()

    # What connections call

    def admit(self, connection: Connection) -> bool:
        address = self._counted_address(connection)
        limits = self.limits
        if address and self._per_address.get(address, 0) >= limits.connections_per_address_max:
            alike = (one for one in (*self._idle, *self._begun) if one.address == address)
            if not _evict(next(alike, None)):
                return False
        elif len(self._connections) >= limits.connections_max:
            oldest = next(iter(self._idle), None) or next(iter(self._begun), None)
            if not _evict(oldest):
                return False
        self._connections[connection] = None
        if address:
            self._per_address[address] = self._per_address.get(address, 0) + 1
        return True

    def forget(self, connection: Connection) -> None:
        self.note_busy(connection)
        if connection not in self._connections:
            return
        del self._connections[connection]
        if address := self._counted_address(connection):
            self._per_address[address] -= 1
            if not self._per_address[address]:
                del self._per_address[address]
        if not self._connections and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    def note_idle(self, connection: Connection) -> None:
        self._begun.pop(connection, None)
        self._idle[connection] = None

    def note_begun(self, connection: Connection) -> None:
        self._idle.pop(connection, None)
        self._begun[connection] = None

    def note_busy(self, connection: Connection) -> None:
        self._idle.pop(connection, None)
        self._begun.pop(connection, None)

    def keep_alive_s(self) -> float:
        limits = self.limits
        if len(self._connections) > limits.connections_max * limits.pressure_share:
            return limits.keep_alive_under_pressure_s
        return limits.keep_alive_s

    def date(self) -> str:
        now_s = int(self._now_unix())
        if now_s != self._date_s:
            self._date_s = now_s
            self._date = format_date(now_s)
        return self._date

    def _counted_address(self, connection: Connection) -> str:
        """The address that the connection counts for; "" if it is not counted."""
        try:
            address = ip_address(connection.address)
        except ValueError:
            return ""
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return "" if address.is_loopback and not self.limits.counts_loopback else str(address)


def _evict(connection: Connection | None) -> bool:
    """Close a waiting connection to make room; False if there is none."""
    if connection is None:
        return False
    connection.evict()
    return True
