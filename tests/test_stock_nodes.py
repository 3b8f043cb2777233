"""Nodes of the unmodified `kademlia` package beside our peers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

import umsgpack
from kademlia.network import Server
from peer_processes import (
    SAMPLE,
    PeerProcess,
    assert_serves,
    files_of,
    free_ports,
    network,
    publish,
)

from p2pweb.dht import wire as overlay_wire
from p2pweb.records import FileRecord, SiteRecord, dht_key, open_record

RUBBISH = [b"rubbish", b"\x00" * 200, "text", 7, 1.5, True]


@asynccontextmanager
async def stock_node(peers: list[PeerProcess]) -> AsyncIterator[Server]:
    """A stock node that has joined by all of these peers."""
    server = Server()
    await server.listen(0, interface="127.0.0.1")
    try:
        found = await server.bootstrap([("127.0.0.1", peer.port) for peer in peers])
        assert len(found) >= len(peers)
        yield server
    finally:
        server.stop()


async def test_a_stock_node_joins_and_reads_the_signed_records(tmp_path: Path) -> None:
    assert version("kademlia") == "2.2.3"
    with network(tmp_path / "peers", 5) as peers:
        summary = await asyncio.to_thread(publish, SAMPLE, peers[0], tmp_path / "key")
        site = summary["site"]
        async with stock_node(peers) as server:
            value = await server.get(f"{site}/index.html")
            record = open_record(value).record
            assert isinstance(record, FileRecord)
            assert (record.site, record.path, record.seq) == (site, "/index.html", 1)

            site_record = open_record(await server.get(site)).record
            assert isinstance(site_record, SiteRecord)
            assert (site_record.site, site_record.seq) == (site, 1)

            assert await server.get(f"{site}/no-such-page") is None


class _Asker(asyncio.DatagramProtocol):
    """Sends bare datagrams and keeps what comes."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.heard.put_nowait(data)


async def test_a_stock_node_answers_a_padded_question_as_any_other() -> None:
    server = Server()
    await server.listen(0, interface="127.0.0.1")
    transport, asker = await asyncio.get_running_loop().create_datagram_endpoint(
        _Asker, local_addr=("127.0.0.1", 0)
    )
    try:
        sender, key = overlay_wire.NodeId(b"s" * 20), b"k" * 18 + b"\0\xc1"
        server.storage[key] = b"value"
        to = server.transport.get_extra_info("sockname")
        for number, (question, body) in enumerate(
            [
                (overlay_wire.Ping(sender), server.node.id),
                (overlay_wire.FindValue(sender, key), {"value": b"value"}),
                (overlay_wire.Store(sender, b"o" * 20, b"other"), True),
                (overlay_wire.FindValue(sender, b"o" * 20), {"value": b"other"}),
            ]
        ):
            for padded in (True, False):
                message_id = bytes([number, padded]) * 10
                data = overlay_wire.encode_question(message_id, question, padded=padded)
                assert (len(data) == overlay_wire.PADDED_BYTES) == padded
                transport.sendto(data, to)
                # Nodes ask whom they do not know for other things meanwhile.
                answer = b""
                while answer[:21] != b"\x01" + message_id:
                    answer = await asyncio.wait_for(asker.heard.get(), 10.0)
                assert umsgpack.unpackb(answer[21:]) == body
    finally:
        transport.close()
        server.stop()


async def test_rubbish_that_stock_nodes_store_under_a_sites_keys_changes_nothing(
    tmp_path: Path,
) -> None:
    with network(tmp_path / "peers", 3) as peers:
        summary = await asyncio.to_thread(publish, SAMPLE, peers[0], tmp_path / "key")
        names = [str(summary["site"]), f"{summary['site']}/index.html"]
        async with stock_node(peers) as one, stock_node(peers) as other:
            for server in (one, other):
                for name in names:
                    for value in RUBBISH:
                        await server.set(name, value)
                    # And in their own storage, where a lookup of ours meets it.
                    server.storage[dht_key(name)] = b"rubbish of my own"

            for peer in peers:
                await asyncio.to_thread(assert_serves, peer, files_of(SAMPLE))
            # A peer without anything of its own, which has to ask around, finds what is signed.
            newcomer = PeerProcess(free_ports(1)[0], tmp_path / "new", [peers[0].port])
            try:
                await asyncio.to_thread(newcomer.start)
                await asyncio.to_thread(assert_serves, newcomer, files_of(SAMPLE))
            finally:
                newcomer.kill_9()
            # A stock reader believes whom it asks; none of ours tells it anything but the record.
            for peer in peers:
                address = ("127.0.0.1", peer.port)
                for name in names:
                    heard = await one.protocol.find_value(address, one.node.id, dht_key(name))
                    assert open_record(heard[1]["value"]).record.seq == 1

        again = await asyncio.to_thread(publish, SAMPLE, peers[1], tmp_path / "key")
        assert again["seq"] == 1
