"""Nodes of the overlays that tools/bench dht measures, as Python hosts them, on 127.0.0.1.

Each kind imports what it is made of when it is asked for nodes: a rival's Python has nothing else.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import hashlib
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Protocol

HOST = "127.0.0.1"
# The copies of a small file that a publish waits for.
COPIES = 8
# How often a session that has nothing to report is asked again.
LIBTORRENT_POLL_MS = 1000
# Beyond what a bench can reach: the protection from strangers would protect from the bench, whose
# nodes all have one IP address.
UNLIMITED = 100_000_000
FOUND, MISSING, WRONG = "found", "missing", "wrong"
# Nothing was found, and fewer answered than have to know.
UNPROVED = "unproved"


class Nodes(Protocol):
    """Nodes of one overlay; `put` and `get` ask through the last of them."""

    async def host(self, count: int, join: list[int], *, measuring: bool) -> list[int]:
        """Start nodes that join by these ports; their ports."""

    async def put(self, value: bytes) -> tuple[float, str, int, list[int]]:
        """When it ended, the key in hex, acknowledgements (0: none, -1: untold), holders' ports."""

    async def get(self, key: str, value: bytes | None, others: int) -> tuple[float, str]:
        """When it ended, and how; `others` is how many other nodes live."""


class Ours:
    """Nodes of p2pweb's overlay."""

    def __init__(self) -> None:
        self._nodes: list[object] = []

    async def host(self, count: int, join: list[int], *, measuring: bool) -> list[int]:
        from p2pweb.dht.overlay import Overlay

        for _ in range(count):
            node = Overlay(
                node_id=os.urandom(20),
                records=_Shelf(),
                rng=random.Random(os.urandom(32)),
                entropy=os.urandom,
            )
            await node.listen([(HOST, 0)])
            if join:
                await node.join([(HOST, port) for port in join])
            else:
                join = [node.addresses[0][1]]
            self._nodes.append(node)
        return [node.addresses[0][1] for node in self._nodes]

    async def put(self, value: bytes) -> tuple[float, str, int, list[int]]:
        node = self._nodes[-1]
        key = hashlib.sha1(value, usedforsecurity=False).digest()
        holders: list[int] = []

        async def store(contact: object) -> None:
            if await node.store(contact, key, value) is True:
                holders.append(contact.address[1])

        closest = (await node.find_node(key, COPIES))[:COPIES]
        await asyncio.gather(*(store(contact) for contact in closest))
        ended, counted = time.perf_counter(), len(holders)
        # As replication does: the rest of the k closest are sent it after the answer, or before
        # where one of the first keeps nothing.
        rest = [one for one in await node.find_node(key) if one not in closest]
        await asyncio.gather(*(store(contact) for contact in rest))
        if counted < len(closest):
            ended, counted = time.perf_counter(), len(holders)
        return ended, key.hex(), counted if counted >= len(closest) else 0, holders

    async def get(self, key: str, value: bytes | None, others: int) -> tuple[float, str]:
        how = MISSING
        async with self._nodes[-1].find_value(bytes.fromhex(key)) as search:
            async for found in search:
                if found.value == value:
                    return time.perf_counter(), FOUND
                how = WRONG
        ended = time.perf_counter()
        if how == MISSING and len(search.closest) < min(COPIES, others):
            how = UNPROVED
        return ended, how


class _Shelf:
    """Records that anybody may store: what is measured is the overlay."""

    def __init__(self) -> None:
        self._held: dict[bytes, object] = {}

    def find(self, key: bytes) -> object | None:
        return self._held.get(key)

    def store(self, key: bytes, value: bytes, sender: object) -> bool:
        from p2pweb.dht.serving import Held

        self._held[key] = Held(value)
        return True


class Stock:
    """Nodes of the `kademlia` package."""

    def __init__(self) -> None:
        self._nodes: list[object] = []

    async def host(self, count: int, join: list[int], *, measuring: bool) -> list[int]:
        from kademlia.network import Server
        from kademlia.storage import ForgetfulStorage

        for _ in range(count):
            # What the asking node itself is given counts for nothing: the network is measured.
            storage = ForgetfulStorage(ttl=-1) if measuring else None
            node = Server(storage=storage)
            await node.listen(0, HOST)
            if join:
                await node.bootstrap([(HOST, port) for port in join])
            else:
                join = [_stock_port(node)]
            self._nodes.append(node)
        return [_stock_port(node) for node in self._nodes]

    async def put(self, value: bytes) -> tuple[float, str, int, list[int]]:
        key = hashlib.sha1(value, usedforsecurity=False).hexdigest()
        stored = await self._nodes[-1].set(key, value)
        return time.perf_counter(), key, -1 if stored else 0, []

    async def get(self, key: str, value: bytes | None, others: int) -> tuple[float, str]:
        found = await self._nodes[-1].get(key)
        return time.perf_counter(), _judged(found, value)


def _stock_port(node: object) -> int:
    return node.transport.get_extra_info("sockname")[1]


class OpenDht:
    """Nodes of OpenDHT, which have threads of their own."""

    def __init__(self) -> None:
        self._nodes: list[object] = []

    async def host(self, count: int, join: list[int], *, measuring: bool) -> list[int]:
        import opendht

        for _ in range(count):
            config = opendht.DhtConfig()
            config.setPeerDiscovery(False, False)
            config.setRateLimit(-1, -1)
            node = opendht.DhtRunner()
            node.run(port=0, ipv4=HOST, ipv6="", config=config)
            for port in join:
                node.bootstrap(HOST, str(port))
            join = join or [node.getBound().getPort()]
            self._nodes.append(node)
        return [node.getBound().getPort() for node in self._nodes]

    async def put(self, value: bytes) -> tuple[float, str, int, list[int]]:
        import opendht

        key = opendht.InfoHash.getRandom()
        ended: concurrent.futures.Future[tuple[float, bool]] = concurrent.futures.Future()
        self._nodes[-1].put(
            key,
            opendht.Value(value),
            lambda ok, _nodes: _settle(ended, (time.perf_counter(), bool(ok))),
        )
        at, stored = await asyncio.wrap_future(ended)
        return at, key.toString().decode(), -1 if stored else 0, []

    async def get(self, key: str, value: bytes | None, others: int) -> tuple[float, str]:
        import opendht

        ended: concurrent.futures.Future[tuple[float, str]] = concurrent.futures.Future()
        wrong = False

        def got(found: object) -> bool:
            nonlocal wrong
            if found.data == value:
                _settle(ended, (time.perf_counter(), FOUND))
                return False
            wrong = True
            return True

        def done(_ok: bool, _nodes: object) -> None:
            _settle(ended, (time.perf_counter(), WRONG if wrong else MISSING))

        self._nodes[-1].get(opendht.InfoHash(key.encode()), got, done)
        return await asyncio.wrap_future(ended)


class Libtorrent:
    """Sessions of libtorrent with nothing but their DHT node."""

    def __init__(self) -> None:
        self._nodes: list[object] = []
        self._puts: dict[str, concurrent.futures.Future[tuple[float, object]]] = {}
        self._gets: dict[str, concurrent.futures.Future[tuple[float, object]]] = {}

    async def host(self, count: int, join: list[int], *, measuring: bool) -> list[int]:
        import libtorrent

        for _ in range(count):
            node = libtorrent.session(
                {
                    "listen_interfaces": f"{HOST}:0",
                    "enable_upnp": False,
                    "enable_natpmp": False,
                    "enable_lsd": False,
                    "enable_dht": True,
                    # Routers are asked first and never kept; told of it both ways, a node knows
                    # its network at once.
                    "dht_bootstrap_nodes": ",".join(f"{HOST}:{port}" for port in join),
                    # All nodes have one address, which these would take for one hostile node.
                    "dht_restrict_routing_ips": False,
                    "dht_restrict_search_ips": False,
                    "dht_prefer_verified_node_ids": False,
                    "dht_enforce_node_id": False,
                    "dht_ignore_dark_internet": False,
                    "dht_block_ratelimit": UNLIMITED,
                    "dht_upload_rate_limit": UNLIMITED,
                    "dht_max_dht_items": UNLIMITED,
                    # There are no files to read or to hash.
                    "aio_threads": 1,
                    "hashing_threads": 1,
                    "alert_mask": int(libtorrent.alert.category_t.dht_notification)
                    if measuring
                    else 0,
                }
            )
            for port in join:
                node.add_dht_node((HOST, port))
            self._nodes.append(node)
            join = join or [await self._port(node)]
        if measuring:
            threading.Thread(target=self._listen, daemon=True).start()
        return [await self._port(node) for node in self._nodes]

    async def _port(self, node: object) -> int:
        while not (port := node.listen_port()):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
        return port

    def _listen(self) -> None:
        """Hand on what the measuring node reports, with the time at which it did."""
        import libtorrent

        node = self._nodes[-1]
        while True:
            node.wait_for_alert(LIBTORRENT_POLL_MS)
            for alert in node.pop_alerts():
                if isinstance(alert, libtorrent.dht_put_alert):
                    waiting, told = self._puts, alert.num_success
                elif isinstance(alert, libtorrent.dht_immutable_item_alert):
                    waiting, told = self._gets, alert.item
                else:
                    continue
                ended = waiting.get(str(alert.target))
                if ended is not None:
                    _settle(ended, (time.perf_counter(), told))

    async def put(self, value: bytes) -> tuple[float, str, int, list[int]]:
        ended: concurrent.futures.Future[tuple[float, object]] = concurrent.futures.Future()
        bencoded = b"%d:%b" % (len(value), value)
        key = hashlib.sha1(bencoded, usedforsecurity=False).hexdigest()
        self._puts[key] = ended
        self._nodes[-1].dht_put_immutable_item(value)
        try:
            at, copies = await asyncio.wrap_future(ended)
        finally:
            del self._puts[key]
        return at, key, int(str(copies)), []

    async def get(self, key: str, value: bytes | None, others: int) -> tuple[float, str]:
        import libtorrent

        ended: concurrent.futures.Future[tuple[float, object]] = concurrent.futures.Future()
        self._gets[key] = ended
        self._nodes[-1].dht_get_immutable_item(libtorrent.sha1_hash(bytes.fromhex(key)))
        try:
            at, found = await asyncio.wrap_future(ended)
        finally:
            del self._gets[key]
        # Without an item, libtorrent tells an empty one.
        return at, _judged(found or None, value)


KINDS: dict[str, Callable[[], Nodes]] = {
    "ours": Ours,
    "stock": Stock,
    "opendht": OpenDht,
    "libtorrent": Libtorrent,
}


def _judged(found: object, value: bytes | None) -> str:
    if found is None:
        return MISSING
    return FOUND if found == value else WRONG


def _settle(ended: concurrent.futures.Future, result: object) -> None:
    """The first end counts; a call that nobody awaits any longer is over."""
    with contextlib.suppress(concurrent.futures.InvalidStateError):
        ended.set_result(result)
