"""A network of memory: hosts, datagrams between them, and what goes wrong on the way.

Owns who is up, who can reach whom, and how long it takes; counts and digests all that is sent.
Streams (`streams`) share all of that.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import struct
from collections.abc import Collection
from dataclasses import dataclass, field

from p2pweb.address import Address
from p2pweb.sim.latency import Latency
from p2pweb.sim.loop import SimLoop
from p2pweb.sim.streams import Streams

# Of a UDP datagram over IPv4, beside what it carries.
HEADER_BYTES = 28
# One virtual second must not bring more datagrams than this for each host: a storm is a fault of
# the peers, and without a limit a run of hours would never end.
STORM_DATAGRAMS_PER_HOST = 2_000
# Small networks have bursts that one host's share would not allow.
STORM_DATAGRAMS_MIN = 100_000


class StormError(RuntimeError):
    """The peers send one another more and more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What the way does to datagrams: each figure is a share of them."""

    loss: float = 0.0
    duplicated: float = 0.0
    # Held back for as long again as the way takes, so that later ones overtake them.
    delayed: float = 0.0


@dataclass(slots=True, eq=False)
class Host:
    """One machine with one address."""

    number: int
    ip: str
    is_up: bool = True
    # Hosts with different parts cannot reach one another.
    part: int = 0
    # Every datagram to or from it takes so much longer.
    slow_s: float = 0.0
    # What its wall clock is ahead of the others.
    skew_s: float = 0.0
    # How often it crashed: what belongs to an earlier life is over.
    life: int = 0
    sockets: dict[int, DatagramTransport] = field(default_factory=dict)


@dataclass(slots=True)
class Traffic:
    """All datagrams sent so far, by what kind of question they are or answer."""

    datagrams: int = 0
    bytes: int = 0
    # Datagrams and bytes, of questions and answers together.
    by_kind: dict[str, list[int]] = field(default_factory=dict)
    # Bytes of streams between hosts, by what was asked for on the connection, answers included;
    # those of bodies in answers to `copies` are set apart, as "bodies".
    streamed: dict[str, int] = field(default_factory=dict)


# What a question's msgpack begins with after the message id: an array of two, then its name.
_KINDS = {
    b"\x92\xa4ping": "ping",
    b"\x92\xa5stor": "store",
    b"\x92\xa9find": "find_node",
    b"\x92\xaafind": "find_value",
}
# What an answer begins with.
ANSWER = 1
# Of what goes into the trace: when it was sent, and its length.
_HEAD = struct.Struct("<dI")
# Questions whose answers are still to be counted; those lost go when there are this many.
_ASKED_MAX = 1 << 20


class DatagramTransport(asyncio.DatagramTransport):
    """A bound UDP socket of a simulated host."""

    def __init__(
        self, network: Network, host: Host, port: int, protocol: asyncio.DatagramProtocol
    ) -> None:
        super().__init__()
        self.network = network
        self.host = host
        self.address: Address = (host.ip, port)
        self.protocol = protocol
        self._is_closing = False

    def get_extra_info(self, name: str, default: object = None) -> object:
        return self.address if name == "sockname" else default

    def sendto(self, data: bytes, addr: Address | None = None) -> None:  # type: ignore[override]
        if addr is not None and not self._is_closing:
            self.network.send(self, addr, data)

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            if self.host.sockets.get(self.address[1]) is self:
                del self.host.sockets[self.address[1]]
            self.network.loop.call_soon(self.protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()


class Network:
    """Every host of one run."""

    def __init__(
        self, loop: SimLoop, seed: int, *, latency: Latency, conditions: Conditions
    ) -> None:
        self.loop = loop
        self.latency = latency
        self.conditions = conditions
        self.traffic = Traffic()
        self.hosts: dict[str, Host] = {}
        self.streams = Streams(self)
        self._faults = random.Random(f"faults {seed}")
        self._digest = hashlib.blake2b(digest_size=16)
        self._asked: dict[bytes, str] = {}
        self._storm_from = 0.0
        self._storm_datagrams = 0
        loop.network = self

    def add_host(self) -> Host:
        """A machine at an address that nobody has yet."""
        number = self.latency.add()
        # 1.0.0.0 onwards: addresses as strangers have them, none private, no two alike.
        ip = f"{1 + (number >> 16)}.{number >> 8 & 255}.{number & 255}.1"
        host = self.hosts[ip] = Host(number, ip)
        return host

    def trace(self) -> str:
        """A digest of everything sent so far, when, by whom and to whom, in hexadecimal digits."""
        return self._digest.hexdigest()

    def note(self, source: Address, destination: Address, data: bytes | memoryview) -> None:
        """Add to the trace."""
        head = _HEAD.pack(self.loop.time(), len(data))
        way = f"{source[0]}:{source[1]}>{destination[0]}:{destination[1]}|"
        self._digest.update(head + way.encode())
        self._digest.update(data)

    def bind(self, address: Address, protocol: asyncio.DatagramProtocol) -> DatagramTransport:
        """Open a UDP socket. OSError where the host has none to give."""
        host, port = self.host_at(address[0]), address[1]
        if port in host.sockets:
            raise OSError(98, "address already in use")
        transport = host.sockets[port] = DatagramTransport(self, host, port, protocol)
        return transport

    def host_at(self, ip: str) -> Host:
        """The host that has an address; OSError if none has."""
        host = self.hosts.get(ip)
        if host is None or not host.is_up:
            raise OSError(99, f"no host has the address {ip}, or it is down")
        return host

    def crash(self, host: Host) -> None:
        """From now on nothing leaves the host or reaches it; what it had open is gone."""
        host.is_up = False
        host.life += 1
        host.sockets.clear()
        self.streams.forget(host)
        self.streams.cut([host])

    def start(self, host: Host) -> None:
        """The machine is back, with nothing open."""
        host.is_up = True

    def part(self, hosts: Collection[Host]) -> None:
        """From now on these reach one another alone."""
        for host in hosts:
            host.part = 1
        self.streams.cut(hosts)

    def heal(self) -> None:
        """All hosts reach one another again."""
        for host in self.hosts.values():
            host.part = 0

    def reaches(self, one: Host, other: Host) -> bool:
        """Whether the way between two hosts is open."""
        return one.is_up and other.is_up and one.part == other.part

    def one_way_s(self, one: Host, other: Host) -> float:
        """How long it takes now."""
        return self.latency.one_way_s(one.number, other.number) + one.slow_s + other.slow_s

    def loses(self, packets: int = 1) -> bool:
        """Whether one of so many packets of a stream is lost, and has to be sent again."""
        loss = self.conditions.loss
        return loss > 0.0 and self._faults.random() > (1.0 - loss) ** packets

    def send(self, transport: DatagramTransport, destination: Address, data: bytes) -> None:
        """Have a datagram arrive, or not."""
        source = transport.host
        if not source.is_up or source.sockets.get(transport.address[1]) is not transport:
            return
        loop, address = self.loop, transport.address
        now = loop.time()
        self._count(data, now)
        self.note(address, destination, data)
        target = self.hosts.get(destination[0])
        # `reaches`, and the source is up.
        if target is None or not target.is_up or source.part != target.part:
            return
        conditions, chance = self.conditions, self._faults.random
        if conditions.loss and chance() < conditions.loss:
            return
        copies = 2 if conditions.duplicated and chance() < conditions.duplicated else 1
        for _ in range(copies):
            delay_s = self.one_way_s(source, target)
            if conditions.delayed and chance() < conditions.delayed:
                delay_s *= 2
            loop.at(now + delay_s, self._arrive, source, target, destination[1], data, address)

    def _arrive(self, source: Host, target: Host, port: int, data: bytes, address: Address) -> None:
        socket = target.sockets.get(port)
        # A cut stops what is under way; the sender's death does not.
        if socket is not None and target.is_up and source.part == target.part:
            socket.protocol.datagram_received(data, address)

    def _count(self, data: bytes, now: float) -> None:
        traffic, size = self.traffic, len(data)
        traffic.datagrams += 1
        traffic.bytes += size
        kind = self._kind_of(data)
        counted = traffic.by_kind.get(kind)
        if counted is None:
            counted = traffic.by_kind[kind] = [0, 0]
        counted[0] += 1
        counted[1] += size
        if now - self._storm_from >= 1.0:
            self._storm_from = now
            self._storm_datagrams = 0
        self._storm_datagrams += 1
        if self._storm_datagrams > STORM_DATAGRAMS_MIN:
            most = max(STORM_DATAGRAMS_MIN, STORM_DATAGRAMS_PER_HOST * len(self.hosts))
            if self._storm_datagrams > most:
                raise StormError(f"more than {most} datagrams within one second, at {now:.3f} s")

    def _kind_of(self, data: bytes) -> str:
        """The question that a datagram is or answers."""
        message_id = data[1:21]
        if data and data[0] == ANSWER:
            return self._asked.pop(message_id, "other")
        kind = _KINDS.get(data[21:27], "other")
        if len(self._asked) >= _ASKED_MAX:
            self._asked.clear()
        self._asked[message_id] = kind
        return kind
