"""Nodes of the unmodified `kademlia` package beside our peers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

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
