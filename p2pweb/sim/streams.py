"""TCP as peers see it, in memory: connections that take a round trip, arrive in order, push back.

A sender may have `WINDOW_BYTES` under way that nobody has read; the rest waits in its transport,
which tells its protocol to pause as a real one does. What does not get through is sent again, ever
more seldom, so a connection outlives a cut of the way. A host that crashes says nothing, and one
that came back resets what it knows nothing of; a port where nobody listens refuses. Closing with
bytes unread resets the connection, as it does on a real machine. A socket whose system sends probes
(RFC 9293 §3.8.4) notices a silent machine.
"""

from __future__ import annotations

import asyncio
import errno
import math
import re
from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any, cast

from p2pweb.address import Address
from p2pweb.sim.bodies import Answer
from p2pweb.sim.loop import CLOCK_GRAIN_S

if TYPE_CHECKING:
    from p2pweb.sim.network import Host, Network

# What Linux lets a new connection have under way on a long way, about.
WINDOW_BYTES = 256 * 1024
CHUNK_BYTES = 64 * 1024
# Of TCP over Ethernet and IPv4, with time stamps.
PACKET_BYTES = 1_448
# asyncio's own default.
HIGH_WATER_BYTES = 64 * 1024
# Where a host's connections come from: one number for each, as systems hand them out.
PORTS_FROM = 32_768
PORTS_TO = 60_999
# What a request line begins with that asks a peer for something of the peers' own.
_OF_PEERS = re.compile(rb"(?:GET|HEAD|POST|PUT) /\.well-known/p2pweb/([a-z]+)")
_OF_VISITORS = re.compile(rb"(?:GET|HEAD|POST|PUT) /")
# Linux: how long each SYN is waited for, the first after the least that RFC 6298 allows.
SYN_WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
# Linux: the least and the most time after which something is sent again, and when it is given up.
RESEND_S_MIN = 0.2
RESEND_S_MAX = 120.0
GIVE_UP_S = 924.6


class Streams:
    """All listeners and connections of one network."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._listeners: dict[Address, Listener] = {}
        # In order of opening: a crash ends them in that order.
        self._open: dict[StreamTransport, None] = {}
        self._next_port: dict[str, int] = {}

    def listen(
        self, address: Address, protocol_factory: Callable[[], asyncio.BaseProtocol]
    ) -> Listener:
        """Accept connections. OSError where the address is taken or not the host's."""
        self.network.host_at(address[0])
        if address in self._listeners:
            raise OSError(errno.EADDRINUSE, "address already in use")
        listener = self._listeners[address] = Listener(self, address, protocol_factory)
        return listener

    def socket(
        self, host: Host, life: int | None = None, silent_s_max: float = math.inf
    ) -> StreamSocket:
        """A client's socket on a host, in its present life or in the one given.

        Its connections are given up where probes were left unanswered for `silent_s_max`.
        """
        return StreamSocket(self, host, host.life if life is None else life, silent_s_max)

    def forget(self, host: Host) -> None:
        """A host crashed: its ends are gone, and the other ends hear nothing of it."""
        for address in [one for one in self._listeners if one[0] == host.ip]:
            del self._listeners[address]
        for transport in [one for one in self._open if one.host is host]:
            transport.vanish()

    def cut(self, hosts: Collection[Host]) -> None:
        """The way to these was closed: whoever sends probes there will notice."""
        for transport in self._open:
            if transport.host in hosts or transport.other.host in hosts:
                transport.expect_silence()

    def unlisten(self, listener: Listener) -> None:
        if self.is_listening(listener):
            del self._listeners[listener.address]

    def is_listening(self, listener: Listener) -> bool:
        return self._listeners.get(listener.address) is listener

    async def connect(self, host: Host, life: int, address: Address) -> StreamTransport:
        """A round trip; OSError where nobody listens, or nobody answers for two minutes."""
        network = self.network
        target = network.hosts.get(address[0])
        if target is None:
            raise OSError(errno.EHOSTUNREACH, f"no route to {address[0]}")
        handshake = _Handshake(self, host, target, (host.ip, self._port(host)), address)
        for wait_s in SYN_WAITS_S:
            if host.life != life or not host.is_up:
                handshake.give_up()
                raise OSError(errno.ENETDOWN, "the host is down")
            handshake.knock()
            try:
                async with asyncio.timeout(wait_s):
                    transport = await asyncio.shield(handshake.answered)
            except TimeoutError:
                continue
            except asyncio.CancelledError:
                handshake.give_up()
                raise
            if transport is None:
                raise ConnectionRefusedError(errno.ECONNREFUSED, "connection refused")
            return transport
        handshake.give_up()
        raise TimeoutError(errno.ETIMEDOUT, "connection timed out")

    def accept(self, far: StreamTransport, address: Address) -> bool:
        """Give a new connection's far end to whoever listens there; False if nobody does."""
        listener = self._listeners.get(address)
        if listener is None:
            return False
        far.start(listener.protocol_factory())
        return True

    def opened(self, transport: StreamTransport) -> None:
        self._open[transport] = None

    def closed(self, transport: StreamTransport) -> None:
        self._open.pop(transport, None)

    def _port(self, host: Host) -> int:
        port = self._next_port.get(host.ip, PORTS_FROM)
        self._next_port[host.ip] = port + 1 if port < PORTS_TO else PORTS_FROM
        return port


class _Handshake:
    """One connection on its way to be one; `answered` is its near end, or None if refused."""

    def __init__(
        self, streams: Streams, host: Host, target: Host, source: Address, address: Address
    ) -> None:
        self._streams = streams
        self._network = streams.network
        self._host = host
        self._target = target
        self._source = source
        self._address = address
        self._near: StreamTransport | None = None
        self.answered: asyncio.Future[StreamTransport | None]
        self.answered = streams.network.loop.create_future()

    def knock(self) -> None:
        """Send a SYN."""
        network = self._network
        network.note(self._source, self._address, b"SYN")
        if network.reaches(self._host, self._target) and not network.loses():
            network.loop.call_later(network.one_way_s(self._host, self._target), self._arrive)

    def give_up(self) -> None:
        """Nobody waits for it any more."""
        self.answered.cancel()
        if self._near is not None:
            self._near.abort()

    def _arrive(self) -> None:
        network = self._network
        if self.answered.done() or not network.reaches(self._host, self._target):
            return
        # A SYN that comes twice is answered twice, and accepted once.
        if self._near is None:
            near = StreamTransport(self._streams, self._host, self._source, self._address)
            far = StreamTransport(self._streams, self._target, self._address, self._source)
            near.other, far.other = far, near
            if self._streams.accept(far, self._address):
                self._near = near
                self._streams.opened(near)
        if not network.loses():
            back_s = network.one_way_s(self._target, self._host)
            network.loop.call_later(back_s, self._settle, self._near)

    def _settle(self, near: StreamTransport | None) -> None:
        if not self.answered.done() and (near is None or not near.is_closing()):
            self.answered.set_result(near)


class Listener(asyncio.AbstractServer):
    """What `create_server` gives."""

    def __init__(
        self,
        streams: Streams,
        address: Address,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
    ) -> None:
        self._streams = streams
        self.address = address
        self.protocol_factory = protocol_factory

    @property
    def sockets(self) -> list[Listener]:
        return [self]

    def getsockname(self) -> Address:
        return self.address

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._streams.network.loop

    def is_serving(self) -> bool:
        return self._streams.is_listening(self)

    async def start_serving(self) -> None:
        """It has been accepting from the start."""

    async def serve_forever(self) -> None:
        await self._streams.network.loop.create_future()

    def close(self) -> None:
        self._streams.unlisten(self)

    async def wait_closed(self) -> None:
        """Nothing to wait for."""


class StreamSocket:
    """As much of a socket as an HTTP client asks for before its connection has a transport."""

    family = 2
    type = 1
    proto = 0

    def __init__(self, streams: Streams, host: Host, life: int, silent_s_max: float) -> None:
        self._streams = streams
        self._host = host
        self._life = life
        self._silent_s_max = silent_s_max
        self._transport: StreamTransport | None = None

    def setblocking(self, flag: bool) -> None:
        """It never blocks."""

    def fileno(self) -> int:
        return -1

    async def connect(self, address: Any) -> None:
        where: Address = (address[0], address[1])
        self._transport = await self._streams.connect(self._host, self._life, where)
        self._transport.silent_s_max = self._silent_s_max

    def open(self, protocol: asyncio.BaseProtocol) -> StreamTransport:
        """The transport of what was connected."""
        if self._transport is None:
            raise OSError(errno.ENOTCONN, "not connected")
        self._transport.start(protocol)
        return self._transport

    def close(self) -> None:
        if self._transport is not None and not self._transport.is_started:
            self._transport.abort()


class StreamTransport(asyncio.Transport):
    """One end of a connection: a process's transport, and below it what its system does.

    The transport ends (`connection_lost`) as soon as the system has taken all that was written;
    the system sends that, and the end, beyond it.
    """

    other: StreamTransport

    def __init__(self, streams: Streams, host: Host, name: Address, peer: Address) -> None:
        super().__init__()
        self._streams = streams
        self._network = streams.network
        self._loop = streams.network.loop
        self.host = host
        self._life = host.life
        self._name = name
        self._peer = peer
        self._protocol: asyncio.BaseProtocol | None = None
        self._unsent: deque[memoryview] = deque()
        self._unsent_bytes = 0
        self._high_bytes = HIGH_WATER_BYTES
        self._low_bytes = HIGH_WATER_BYTES // 4
        self._is_full = False
        # What arrived while nobody reads; None is the end.
        self._inbox: deque[memoryview | None] = deque()
        self._is_reading = True
        self._is_feeding = False
        self._is_closing = False
        self._eof_written = False
        # Its process has it no more.
        self._is_lost = False
        self._error: Exception | None = None
        # The system's: sent and not read by the other end, whether the end was sent, and whether
        # it knows the connection no more.
        self._under_way_bytes = 0
        self._end_sent = False
        self._is_dead = False
        # What is on its way to the other end, and when each is due there.
        self._line: deque[tuple[float, Callable[[], None]]] = deque()
        self._is_waiting = False
        self._resend_s = RESEND_S_MIN
        self._blocked_since_s: float | None = None
        # How long its system's probes may be left unanswered.
        self.silent_s_max = math.inf
        # What the last request on this connection asked for; both ends know.
        self._asked = "other"
        # Of the end that answers that.
        self._answer: Answer | None = None

    @property
    def is_started(self) -> bool:
        return self._protocol is not None

    def start(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol
        if not self._is_lost:
            self._streams.opened(self)
        protocol.connection_made(self)
        if self._is_lost:
            self._loop.call_soon(protocol.connection_lost, self._error)
        else:
            self._feed()

    # --- what its protocol asks ---

    def get_extra_info(self, name: str, default: object = None) -> object:
        return {"peername": self._peer, "sockname": self._name}.get(name, default)

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self._protocol is not None  # noqa: S101 - asked by its protocol
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def is_closing(self) -> bool:
        return self._is_closing or self._is_lost

    def is_reading(self) -> bool:
        return self._is_reading and not self.is_closing()

    def pause_reading(self) -> None:
        self._is_reading = False

    def resume_reading(self) -> None:
        if not self._is_reading and not self.is_closing():
            self._is_reading = True
            self._loop.call_soon(self._feed)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = HIGH_WATER_BYTES if low is None else 4 * low
        self._high_bytes = high
        self._low_bytes = high // 4 if low is None else low
        self._press()

    def get_write_buffer_size(self) -> int:
        return self._unsent_bytes

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low_bytes, self._high_bytes

    def can_write_eof(self) -> bool:
        return True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._eof_written:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self._is_lost or not data:
            return
        self._unsent.append(memoryview(bytes(data)))
        self._unsent_bytes += len(data)
        self._pump()
        self._press()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        if not self.is_closing() and not self._eof_written:
            self._eof_written = True
            self._pump()

    def close(self) -> None:
        if not self.is_closing():
            self._is_closing = True
            self._pump()

    def abort(self) -> None:
        """Close without what the system has not taken."""
        if not self._is_lost:
            self._lose(None)
            self._close_in_system()

    def vanish(self) -> None:
        """Its host crashed. A dead process's callbacks run all the same: it is disposed of."""
        self._is_dead = True
        self._lose(None)

    def expect_silence(self) -> None:
        """The way to the other end was closed: if it stays so, probes find that out."""
        if self.silent_s_max < math.inf:
            self._loop.call_later(self.silent_s_max, self._probe)

    def _probe(self) -> None:
        if self._is_lost:
            return
        if not self._way_is_open():
            self._give_up()
        elif self.other._has_crashed():
            # The machine is back, and knows nothing of the connection.
            self.hear_reset()

    def _give_up(self) -> None:
        self._is_dead = True
        self._line.clear()
        self._lose(TimeoutError(errno.ETIMEDOUT, "connection timed out"))

    # --- the way out ---

    def _pump(self) -> None:
        """Have the system take what it can hold."""
        while self._unsent and self._under_way_bytes < WINDOW_BYTES:
            chunk = self._unsent.popleft()
            if len(chunk) > CHUNK_BYTES:
                self._unsent.appendleft(chunk[CHUNK_BYTES:])
                chunk = chunk[:CHUNK_BYTES]
            self._unsent_bytes -= len(chunk)
            self._under_way_bytes += len(chunk)
            self._network.note(self._name, self._peer, chunk)
            self._count(chunk)
            self._send(lambda chunk=chunk: self.other.hear(chunk), len(chunk))  # type: ignore[misc]
        if self._unsent or self._is_lost:
            return
        if self._is_closing:
            self._lose(None)
            self._close_in_system()
        elif self._eof_written:
            self._send_end()

    def _count(self, chunk: memoryview) -> None:
        """Add to the traffic between hosts; what a visitor asks on the peer's own is none."""
        if self.other.host is self.host:
            return
        if found := _OF_PEERS.match(chunk):
            self._asked = self.other._asked = found[1].decode()
            self._answer, self.other._answer = None, Answer()
        elif _OF_VISITORS.match(chunk):
            self._asked = self.other._asked = "pages"
        streamed = self._network.traffic.streamed
        size = len(chunk)
        if self._asked == "copies" and self._answer is not None:
            bodies = self._answer.bodies_in(chunk)
            streamed["bodies"] = streamed.get("bodies", 0) + bodies
            size -= bodies
        streamed[self._asked] = streamed.get(self._asked, 0) + size

    def _close_in_system(self) -> None:
        """No process has it any more: what was sent still arrives, and then the end."""
        if any(self._inbox):
            self._is_dead = True
            self._send(self.other.hear_reset)
        else:
            self._send_end()
        self._inbox.clear()

    def _send_end(self) -> None:
        if not self._end_sent and not self._is_dead:
            self._end_sent = True
            self._send(self.other.hear_end)

    def _send(self, arrive: Callable[[], None], size: int = 0) -> None:
        """Put something on its way to the other end, behind all that is on it already."""
        network, target = self._network, self.other.host
        delay_s = network.one_way_s(self.host, target)
        if network.loses(1 + size // PACKET_BYTES):
            delay_s += max(RESEND_S_MIN, 2 * delay_s)
        due_s = self._loop.time() + delay_s
        if self._line:
            due_s = max(due_s, self._line[-1][0])
        self._line.append((due_s, arrive))
        self._wait(due_s)

    def _wait(self, until_s: float) -> None:
        if not self._is_waiting:
            self._is_waiting = True
            self._loop.call_at(until_s, self._deliver)

    def _deliver(self) -> None:
        """Have arrive what is due, if the way is open now."""
        self._is_waiting = False
        now_s, target, has_crashed = self._loop.time(), self.other.host, self._has_crashed()
        while self._line:
            due_s, arrive = self._line[0]
            if due_s - now_s > CLOCK_GRAIN_S:
                self._wait(due_s)
                return
            if not self._way_is_open():
                # What a dead host had sent may arrive, and is not sent again.
                if has_crashed:
                    self._line.clear()
                else:
                    self._send_again_later(now_s)
                return
            self._blocked_since_s = None
            self._resend_s = RESEND_S_MIN
            self._line.popleft()
            if self.other._has_crashed():
                # The machine is back, and knows nothing of the connection.
                self._line.clear()
                self._loop.call_later(self._network.one_way_s(target, self.host), self.hear_reset)
                return
            arrive()

    def _has_crashed(self) -> bool:
        return self.host.life != self._life

    def _way_is_open(self) -> bool:
        here, there = self.host, self.other.host
        return there.is_up and here.part == there.part and (here.is_up or self._has_crashed())

    def _send_again_later(self, now_s: float) -> None:
        if self._blocked_since_s is None:
            self._blocked_since_s = now_s
        elif now_s - self._blocked_since_s >= GIVE_UP_S:
            self._give_up()
            return
        self._wait(now_s + self._resend_s)
        self._resend_s = min(RESEND_S_MAX, 2 * self._resend_s)

    def _press(self) -> None:
        if self._protocol is None or self._is_lost:
            return
        if not self._is_full and self._unsent_bytes > self._high_bytes:
            self._is_full = True
            self._protocol.pause_writing()
        elif self._is_full and self._unsent_bytes <= self._low_bytes:
            self._is_full = False
            self._protocol.resume_writing()

    # --- what arrives ---

    def hear(self, chunk: memoryview) -> None:
        if self._is_dead:
            return
        if self._is_lost:
            # Nobody will ever read it.
            self._is_dead = True
            self._send(self.other.hear_reset)
            return
        self._inbox.append(chunk)
        self._feed()

    def hear_end(self) -> None:
        if not self._is_lost:
            self._inbox.append(None)
            self._feed()

    def hear_reset(self) -> None:
        self._is_dead = True
        self._line.clear()
        self._lose(ConnectionResetError(errno.ECONNRESET, "connection reset by peer"))

    def hear_room(self, size: int) -> None:
        """The other end has read so much."""
        self._under_way_bytes -= size
        if not self._is_lost:
            self._pump()
            self._press()

    def _feed(self) -> None:
        if self._is_feeding:
            return
        self._is_feeding = True
        try:
            while self._inbox and self.is_reading() and self.is_started:
                chunk = self._inbox.popleft()
                if chunk is None:
                    self._give_end()
                else:
                    self._give(chunk)
        finally:
            self._is_feeding = False

    def _give(self, chunk: memoryview) -> None:
        protocol = self._protocol
        taken_bytes = len(chunk)
        if isinstance(protocol, asyncio.BufferedProtocol):
            buffer = memoryview(protocol.get_buffer(len(chunk)))
            taken_bytes = min(len(buffer), len(chunk))
            buffer[:taken_bytes] = chunk[:taken_bytes]
            if taken_bytes < len(chunk):
                self._inbox.appendleft(chunk[taken_bytes:])
            protocol.buffer_updated(taken_bytes)
        else:
            cast(asyncio.Protocol, protocol).data_received(bytes(chunk))
        if not self._is_dead:
            self._send(lambda: self.other.hear_room(taken_bytes))

    def _give_end(self) -> None:
        if not cast(asyncio.Protocol, self._protocol).eof_received():
            self.close()

    def _lose(self, error: Exception | None) -> None:
        """The process has it no more."""
        if self._is_lost:
            return
        self._is_lost = True
        self._error = error
        self._unsent.clear()
        self._unsent_bytes = 0
        if self._is_dead:
            self._inbox.clear()
        self._streams.closed(self)
        if self._protocol is not None:
            self._loop.call_soon(self._protocol.connection_lost, error)
