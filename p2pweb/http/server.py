"""The HTTP server: listeners, the connections they accept, and how many of these may be.

Owns admission (so many connections in all, so many from one address, the one that has waited
longest for its visitor closed to make room) and the orderly end. What happens on a connection is
the connection's.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from p2pweb.http.connection import Connection
from p2pweb.http.fields import format_date
from p2pweb.http.ready import ReadyAnswers
from p2pweb.http.service import AccessEntry, Handler, RequestBody, ServerLimits

__all__ = ["AccessEntry", "Handler", "HttpServer", "RequestBody", "ServerLimits"]

# As many as browsers opening a page at once can leave waiting while the loop is busy.
_BACKLOG = 512
# Addresses that come again, each some 200 bytes.
_ADDRESSES_CACHED = 4096


class HttpServer:
    """Serves one handler on any number of addresses; call from the running loop.

    `now_unix` is the wall clock in seconds, for Date and the access log alone.
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
        self.ready = ReadyAnswers()
        self.incoming = memoryview(bytearray(limits.buffered_bytes_max))
        self.now_unix = now_unix
        self._date_s = -1
        self._date = ""
        self._listeners: list[asyncio.Server] = []
        # A dict where a set would do: it keeps its order, so a simulated run repeats exactly.
        self._connections: dict[Connection, None] = {}
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
        self.ready.clear()
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
            alike = [one for one in self._connections if one.address == connection.address]
            if not _evict_one(alike):
                return False
        elif len(self._connections) >= limits.connections_max and not _evict_one(self._connections):
            return False
        self._connections[connection] = None
        if address:
            self._per_address[address] = self._per_address.get(address, 0) + 1
        return True

    def forget(self, connection: Connection) -> None:
        if connection not in self._connections:
            return
        del self._connections[connection]
        if address := self._counted_address(connection):
            self._per_address[address] -= 1
            if not self._per_address[address]:
                del self._per_address[address]
        if not self._connections and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    def is_under_pressure(self) -> bool:
        return len(self._connections) > self.limits.connections_max * self.limits.pressure_share

    def date(self) -> str:
        now_s = int(self.now_unix())
        if now_s != self._date_s:
            self._date_s = now_s
            self._date = format_date(now_s)
        return self._date

    def _counted_address(self, connection: Connection) -> str:
        """The address that the connection counts for; "" if it is not counted."""
        address, is_loopback = _canonical(connection.address)
        return "" if is_loopback and not self.limits.counts_loopback else address


@lru_cache(maxsize=_ADDRESSES_CACHED)
def _canonical(text: str) -> tuple[str, bool]:
    """An IP address, one spelling for each, and whether it is this machine's own; "" for none."""
    try:
        address = ip_address(text)
    except ValueError:
        return "", False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address), address.is_loopback


def _evict_one(connections: Iterable[Connection]) -> bool:
    """Close the one that has waited longest for its visitor; False if none waits."""
    waiting = [
        (not one.is_answered, since_s, number, one)
        for number, one in enumerate(connections)
        if (since_s := one.waiting_since_s) is not None
    ]
    if not waiting:
        return False
    min(waiting)[-1].evict()
    return True
