"""Ten stock nodes among ten peers of ours, on real sockets."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kademlia.network import Server
from test_dht_overlay import Records

from p2pweb.dht.overlay import Overlay

NODES = 10
VALUES = 12


@asynccontextmanager
async def network(*, ours: int, stock: int) -> AsyncIterator[tuple[list[Overlay], list[Server]]]:
    """All joined by one that others joined before them."""
    rng = random.Random(f"{ours} {stock}")
    overlays: list[Overlay] = []
    servers: list[Server] = []
    known: list[tuple[str, int]] = []
    try:
        for number in range(ours + stock):
            if (number % 2 and len(servers) < stock) or len(overlays) == ours:
                server = Server(node_id=rng.randbytes(20))
                servers.append(server)
                await server.listen(0, interface="127.0.0.1")
                address = server.transport.get_extra_info("sockname")
                if known:
                    await server.bootstrap([rng.choice(known)])
            else:
                overlay = Overlay(
                    node_id=rng.randbytes(20), records=Records(), rng=rng, entropy=rng.randbytes
                )
                overlays.append(overlay)
                await overlay.listen([("127.0.0.1", 0)])
                address = overlay.addresses[0]
                if known:
                    assert await overlay.join([rng.choice(known)])
            known.append((address[0], address[1]))
        yield overlays, servers
    finally:
        for server in servers:
            server.stop()
        for overlay in overlays:
            await overlay.close()


async def found_by(nodes: list[Overlay] | list[Server], names: list[str]) -> int:
    """How many of all gets by these nodes bring the value that was put.

    One after the other: all these nodes share one event loop.
    """
    found = 0
    for node in nodes:
        for name in names:
            found += await node.get(name) == name.encode()
    return found


async def put(nodes: list[Overlay] | list[Server], prefix: str) -> list[str]:
    names = [f"{prefix} {number}" for number in range(VALUES)]
    for number, name in enumerate(names):
        assert await nodes[number % len(nodes)].set(name, name.encode())
    return names


async def test_ours_find_everything_and_stock_nodes_no_less_than_among_themselves() -> None:
    async with network(ours=0, stock=2 * NODES) as (_, alone):
        names = await put(alone, "alone")
        among_themselves = await found_by(alone[:NODES], names)
    async with network(ours=NODES, stock=NODES) as (overlays, servers):
        names = await put(overlays, "ours") + await put(servers, "stock")
        assert await found_by(overlays, names) == len(names) * NODES
        by_stock = await found_by(servers, names)
    assert by_stock >= 2 * among_themselves
