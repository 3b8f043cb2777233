"""A closed network on several addresses, and outsiders on others: every packet is looked at."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

from closed_network import Outsider, answer_to, closed_network, requests_to, rubbish, write_secret
from kademlia.network import Server
from namespaces import Capture, own_network
from peer_processes import SAMPLE, publish, run_cli

from p2pweb.dht.contact import Address
from p2pweb.dht.seal import Seal
from p2pweb.secret import load_secret


def test_nobody_at_another_address_hears_anything(tmp_path: Path) -> None:
    peers, outside = [f"10.77.0.{number}" for number in (1, 2, 3)], ["10.77.0.8", "10.77.0.9"]
    secret_text = b"the peers of this test"
    with own_network(*peers, *outside), Capture() as capture, contextlib.ExitStack() as stack:
        closed = stack.enter_context(closed_network(tmp_path, peers))
        flags = ("--secret", str(closed.secret))
        summary = publish(SAMPLE, closed.peers[0], tmp_path / "key", *flags)
        assert summary["exit code"] == 0, summary
        targets = [(peer.host, peer.port) for peer in closed.peers]

        outsider = Outsider(outside[1], closed.peers[0].port)
        stack.callback(outsider.close)
        strangers = Seal(load_secret(write_secret(tmp_path / "strangers", "x" * 16)))
        sent = rubbish(closed.datagram, strangers)
        for target in targets:
            outsider.scan(target, sent, closed.datagram, closed.seal, peers[0])
        assert asyncio.run(_stock_finds(outside[0], targets)) == []
        place = ["--host", outside[0], "--port", str(targets[0][1]), "--data", str(tmp_path / "d")]
        done = run_cli("up", *place, "--join", closed.peers[0].address)
        assert done.returncode == 1 and "cannot join by" in done.stderr
        # All of them are sent on loopback.
        for stream in list(requests_to(closed.peers[1].address, closed.proof))[::5]:
            assert answer_to(targets[1], stream, outside[1]) == b"", stream
        page = b"GET / HTTP/1.1\r\nHost: 10.77.0.2\r\nConnection: close\r\n\r\n"
        assert answer_to(targets[1], page, outside[0]).startswith(b"HTTP/1.1 200 ")
        assert outsider.heard() == []
        for peer in closed.peers:
            peer.stop()

    to_outside = [p for p in capture.packets if p.destination[0] in outside and p.source in targets]
    assert not [packet for packet in to_outside if packet.protocol == socket.IPPROTO_UDP]
    told_by_tcp = b"".join(packet.payload for packet in to_outside)
    assert told_by_tcp.startswith(b"HTTP/1.1 200 ") and told_by_tcp.count(b"HTTP/1.1 ") == 1
    inside = [p for p in capture.packets if {p.source, p.destination} <= set(targets)]
    datagrams = [p.payload for p in inside if p.protocol == socket.IPPROTO_UDP]
    assert datagrams and all(closed.seal.open(datagram) for datagram in datagrams)
    assert not [p for p in capture.packets if p.source in targets and secret_text in p.payload]


async def _stock_finds(host: str, targets: list[Address]) -> list[object]:
    stock = Server()
    await stock.listen(0, interface=host)
    try:
        return list(await stock.bootstrap(targets))
    finally:
        stock.stop()
