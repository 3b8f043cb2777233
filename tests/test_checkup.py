"""What a peer finds out about itself and tries for others, and the doctor with real processes."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
from peer_processes import PATIENCE_S, SAMPLE, PeerProcess, free_ports, network, publish, run_cli

from p2pweb import checkup
from p2pweb.address import Address
from p2pweb.checkup import REACH_PAUSE_S, REACHED_MAX, REACHES_MAX, Reacher, probe_disk
from p2pweb.dht.overlay import Overlay
from p2pweb.errors import RemoteError, UnavailableError
from p2pweb.exchange import wire
from p2pweb.exchange.client import PeerClient
from p2pweb.exchange.facts import REACH_OPTION, Reached, asker_of
from p2pweb.exchange.wire import PROTOCOL, PeerInfo
from p2pweb.http.messages import Request
from p2pweb.http.parser import RequestParser
from p2pweb.node import PeerNode, PeerOptions, start_peer
from p2pweb.sim.loop import SimLoop

ID = "ab" * 20
# Where the relay of a test stands, which is to its two sides what a router with NAT is.
ROUTER = "127.0.0.9"


# Trying others


@dataclass
class Others:
    """An overlay and a client that reach those that are listed."""

    by_udp: list[Address] = field(default_factory=list)
    by_tcp: dict[Address, str] = field(default_factory=dict)
    slow_s: float = 0.0

    async def ping(self, address: Address) -> float | None:
        await asyncio.sleep(self.slow_s)
        return 0.01 if address in self.by_udp else None

    async def peer_info(self, address: Address) -> PeerInfo:
        if address not in self.by_tcp:
            raise RemoteError("nobody there")
        return PeerInfo(p2pweb=PROTOCOL, id=self.by_tcp[address], home=None, version="1")

    def reacher(self) -> Reacher:
        return Reacher(cast(PeerClient, self), cast(Overlay, self))


HERE = ("192.0.2.7", 8001)


@pytest.mark.parametrize(
    ("others", "found"),
    [
        (Others(), Reached(udp=False, tcp=False)),
        (Others([HERE]), Reached(udp=True, tcp=False)),
        (Others([], {HERE: ID}), Reached(udp=False, tcp=True)),
        (Others([HERE], {HERE: ID}), Reached(udp=True, tcp=True)),
        # Another peer stands there.
        (Others([HERE], {HERE: "cd" * 20}), Reached(udp=True, tcp=False)),
        (Others([HERE], {HERE: ID}, slow_s=60.0), Reached(udp=False, tcp=True)),
    ],
)
def test_who_asks_is_tried_by_udp_and_tcp(others: Others, found: Reached) -> None:
    loop = SimLoop()
    assert loop.run_until_complete(others.reacher().reach(ID, HERE)) == found
    assert loop.time() < 6.0
    loop.close()


def test_a_machine_is_tried_once_in_a_while_whatever_its_port() -> None:
    async def main() -> None:
        reacher = Others().reacher()
        await reacher.reach(ID, HERE)
        with pytest.raises(UnavailableError):
            await reacher.reach(ID, (HERE[0], 9))
        await reacher.reach(ID, ("192.0.2.8", 8001))
        # On loopback every port is a peer.
        await asyncio.gather(*(reacher.reach(ID, ("127.0.0.1", port)) for port in (1, 2)))
        await asyncio.sleep(REACH_PAUSE_S)
        await reacher.reach(ID, HERE)
        for number in range(REACHED_MAX + 1):
            await reacher.reach(ID, (f"198.51.{number >> 8}.{number & 255}", 1))
        assert len(reacher._tried) == REACHED_MAX

    loop = SimLoop()
    loop.run_until_complete(main())
    loop.close()


def test_only_so_many_are_tried_at_one_time() -> None:
    async def main() -> None:
        reacher = Others(slow_s=1.0).reacher()
        asks = [reacher.reach(ID, (f"192.0.2.{n}", 1)) for n in range(REACHES_MAX + 1)]
        found = await asyncio.gather(*asks, return_exceptions=True)
        assert [isinstance(one, UnavailableError) for one in found] == [False] * 4 + [True]
        await reacher.reach(ID, HERE)

    loop = SimLoop()
    loop.run_until_complete(main())
    loop.close()


def request(connection: str = REACH_OPTION) -> Request:
    parser = RequestParser()
    parser.receive(f"GET / HTTP/1.1\r\nHost: a\r\nConnection: {connection}\r\n\r\n".encode())
    found = parser.next_event()
    assert isinstance(found, Request)
    return found


def test_the_address_tried_is_the_senders_own() -> None:
    assert asker_of(request(), f"{ID}/8001", "192.0.2.7") == (ID, HERE)
    assert asker_of(request(), f"{ID}/8001", "::ffff:192.0.2.7") == (ID, HERE)


@pytest.mark.parametrize(
    ("connection", "rest", "sender"),
    [
        # Pages in browsers, and proxies.
        ("close", f"{ID}/8001", "192.0.2.7"),
        (wire.STATUS_OPTION, f"{ID}/8001", "192.0.2.7"),
        (REACH_OPTION, f"{ID}/0", "192.0.2.7"),
        (REACH_OPTION, f"{ID}/65536", "192.0.2.7"),
        (REACH_OPTION, f"{ID}/192.0.2.8:1", "192.0.2.7"),
        (REACH_OPTION, "8001", "192.0.2.7"),
        (REACH_OPTION, f"{ID}/8001", ""),
        (REACH_OPTION, f"{ID}/8001", "fe80::1%eth0"),
    ],
)
def test_nobody_else_is_tried(connection: str, rest: str, sender: str) -> None:
    assert asker_of(request(connection), rest, sender) is None


# The disk


def test_a_disk_that_works_has_no_fault(tmp_path: Path) -> None:
    disk = probe_disk(tmp_path)
    assert disk.free_bytes > 0 and disk.sync_s > 0 and not disk.fault
    assert disk.data == str(tmp_path) and list(tmp_path.iterdir()) == []


def test_a_disk_that_cannot_be_written_to_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert probe_disk(tmp_path / "gone\x1b").fault == "No such file or directory"
    assert probe_disk(tmp_path / "gone\x1b").data.endswith("gone?")

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    disk = probe_disk(tmp_path)
    assert disk.fault == "No space left on device" and disk.free_bytes > 0


# Peers in this process


@asynccontextmanager
async def peer(
    data: Path, *join: PeerNode, host: str = "127.0.0.1", ahead_s: float = 0.0
) -> AsyncIterator[PeerNode]:
    (port,) = free_ports(1)
    options = PeerOptions(
        port=port,
        data=data,
        hosts=(host,),
        join=tuple(one.overlay.addresses[0] for one in join),
    )
    node = await start_peer(options, wall=lambda: time.time() + ahead_s, entropy=os.urandom)
    try:
        yield node
    finally:
        await node.close()


async def test_a_wrong_clock_is_told_by_the_median_of_the_others(tmp_path: Path) -> None:
    async with (
        peer(tmp_path / "1") as first,
        peer(tmp_path / "2", first, ahead_s=86_400.0) as wrong,
        peer(tmp_path / "3", first) as third,
    ):
        await third.overlay.ping(wrong.overlay.addresses[0])
        facts = await wrong._checkup.facts(wrong.status)
        assert facts.clock_ahead_s is not None and abs(facts.clock_ahead_s - 86_400.0) < 5.0
        fourth = peer(tmp_path / "4", first, wrong, third)
        async with fourth as node:
            facts = await node._checkup.facts(node.status)
            assert facts.clock_ahead_s is not None and abs(facts.clock_ahead_s) < 5.0


async def test_a_peer_asks_from_the_address_that_it_listens_on(tmp_path: Path) -> None:
    async with (
        peer(tmp_path / "1") as first,
        peer(tmp_path / "2", first, host="127.0.0.2") as other,
    ):
        facts = await other._checkup.facts(other.status)
        (found,) = facts.reached
        assert (found.tcp, found.udp) == (True, True)


async def test_not_all_peers_are_on_one_machine_where_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with peer(tmp_path / "1") as first, peer(tmp_path / "2", first) as other:
        assert (await other._checkup.facts(other.status)).one_machine
        monkeypatch.setattr(checkup, "_is_loopback", lambda host: False)
        # A socket can be bound to it, so it is this machine's.
        assert (await other._checkup.facts(other.status)).one_machine
        monkeypatch.setattr(checkup, "_is_own", lambda host: False)
        assert not (await other._checkup.facts(other.status)).one_machine


def test_own_addresses_are_those_that_a_socket_can_be_bound_to() -> None:
    assert checkup._is_own("127.0.0.1")
    # Documentation's own (RFC 5737, RFC 3849), which no machine has.
    assert not checkup._is_own("192.0.2.1")
    assert not checkup._is_own("2001:db8::1")


# The command, with real processes


def doctor(peer: PeerProcess) -> tuple[int, list[str]]:
    """The exit code, and the names of what was found."""
    done = run_cli("doctor", "--peer", peer.address)
    assert done.stderr == ""
    return done.returncode, [line.partition(":")[0] for line in done.stdout.splitlines()]


def test_the_doctor_of_nobody_is_one_sentence() -> None:
    (port,) = free_ports(1)
    done = run_cli("doctor", "--peer", f"127.0.0.1:{port}")
    assert done.returncode == 1
    assert done.stderr.startswith(f"p2pweb: 127.0.0.1:{port} cannot be reached")
    assert done.stderr.count("\n") == 1


def test_the_doctor_finds_a_lone_peer_and_peers_on_one_machine(tmp_path: Path) -> None:
    with network(tmp_path / "peers", 1) as (lone,):
        assert doctor(lone) == (2, ["alone"])
        assert lone.get(f"{wire.PREFIX}facts").status == 403
        (port,) = free_ports(1)
        other = PeerProcess(port, tmp_path / "peers" / "other", [lone.port])
        try:
            other.start()
            publish(SAMPLE, lone, tmp_path / "key")
            assert doctor(other) == (2, ["one machine"])
            lone.kill_9()
            deadline = time.monotonic() + PATIENCE_S
            # It was counted a moment ago, and says so.
            while doctor(other)[1][-1] != "copies":
                assert time.monotonic() < deadline
        finally:
            other.kill_9()


class Relay(asyncio.DatagramProtocol):
    """A way to a port of 127.0.0.1 that is seen there as coming from `ROUTER`, and that nobody can
    go the other way: NAT without a forwarded port."""

    def __init__(self, target: int) -> None:
        self._target = ("127.0.0.1", target)
        self._flows: dict[Address, socket.socket] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Address) -> None:
        if addr not in self._flows:
            flow = self._flows[addr] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            flow.setblocking(False)
            flow.bind((ROUTER, 0))
            flow.connect(self._target)
            asyncio.get_running_loop().add_reader(flow, self._back, flow, addr)
        self._flows[addr].send(data)

    def _back(self, flow: socket.socket, addr: Address) -> None:
        self._transport.sendto(flow.recv(2_048), addr)

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(*self._target, local_addr=(ROUTER, 0))
        await asyncio.gather(_pass_on(reader, there[1]), _pass_on(there[0], writer))

    def close(self) -> None:
        self._transport.close()
        for flow in self._flows.values():
            asyncio.get_running_loop().remove_reader(flow)
            flow.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def test_the_doctor_finds_a_port_that_others_cannot_reach(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    with network(tmp_path / "peers", 1) as (public,):
        own_port, relay_port = free_ports(2)
        _, relay = await loop.create_datagram_endpoint(
            lambda: Relay(public.port), local_addr=(ROUTER, relay_port)
        )
        server = await asyncio.start_server(relay.connect, ROUTER, relay_port)
        hidden = PeerProcess(own_port, tmp_path / "peers" / "hidden")
        try:
            joins = ("--join", f"{ROUTER}:{relay_port}")
            await asyncio.to_thread(hidden.start, *joins)
            done = await asyncio.to_thread(run_cli, "doctor", "--peer", hidden.address)
        finally:
            await asyncio.to_thread(hidden.kill_9)
            server.close()
            relay.close()
        tcp, udp, rest = done.stdout.splitlines()
        where = f"port: {ROUTER}:{relay_port} cannot reach this peer's"
        assert tcp.startswith(f"{where} TCP port {own_port} ")
        assert udp.startswith(f"{where} UDP port {own_port} ")
        assert rest.startswith("one machine: ")
        assert done.returncode == 2
