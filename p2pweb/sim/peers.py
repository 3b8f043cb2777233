"""The peers of a run: ours and stock ones, made, asked and killed in the same way."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from copy import copy
from typing import Protocol

from kademlia.network import Server

from p2pweb.address import Address
from p2pweb.dht.contact import ID_BYTES, Contact, key_for
from p2pweb.dht.overlay import Overlay, OverlayClosedError
from p2pweb.dht.settings import Settings
from p2pweb.peer_state import CONTACTS_MAX
from p2pweb.records import COPIES_DEFAULT
from p2pweb.sim.network import Host, Network
from p2pweb.sim.values import Publisher, Shelf

PORT = 8_001


# Contacts, nearest first.
Closest = tuple[Contact, ...]


class GoneError(Exception):
    """The peer that was asked died meanwhile, and its caller with it."""


class SimPeer(Protocol):
    """What the world knows of a peer."""

    host: Host
    id: bytes

    @property
    def address(self) -> Address:
        """Where it listens."""

    async def start(self, join: Sequence[Address]) -> None:
        """Listen, and join by those addresses."""

    def kill(self) -> None:
        """End it without a word; the host is down already."""

    def again(self) -> SimPeer:
        """The same peer after a restart, with what it had on its disk."""


class OverlayPeer(SimPeer, Protocol):
    """What the workload knows of a peer that is an overlay alone. Names are hashed to keys by
    `key_for`."""

    def values(self, name: str) -> AsyncGenerator[bytes | Closest, None]:
        """Every value that others have under a name, as it is found, and at the end, where the peer
        can tell, the nearest to it that answered. GoneError."""

    async def put(self, name: str, value: bytes) -> int:
        """Publish a value; how many others said that they hold it. GoneError."""

    def hold(self, name: str, value: bytes) -> None:
        """Keep a value, without any traffic."""


class OurPeer:
    """One `Overlay`, with a shelf for values."""

    def __init__(
        self,
        network: Network,
        host: Host,
        chance: random.Random,
        publisher: Publisher,
        settings: Settings,
    ) -> None:
        self.host = host
        self.id = chance.randbytes(ID_BYTES)
        self.shelf = Shelf(publisher)
        self._network = network
        self._chance = chance
        self._settings = settings
        # What its disk remembers of the others.
        self._known: Sequence[Contact] = ()
        # Owned, lest they be collected; a dict for its order.
        self._spreading: dict[asyncio.Future[int], None] = {}
        self.overlay = self._overlay(())

    @property
    def address(self) -> Address:
        return self.host.ip, PORT

    async def start(self, join: Sequence[Address]) -> None:
        await self.overlay.listen([self.address])
        await self.overlay.join(join)

    async def values(self, name: str) -> AsyncGenerator[bytes | Closest, None]:
        key = key_for(name)
        try:
            async with self.overlay.find_value(key) as search:
                async for found in search:
                    yield found.value
                yield search.closest
        except OverlayClosedError:
            raise GoneError from None

    async def put(self, name: str, value: bytes) -> int:
        """As `Replication.place`: to those that are counted, and to the rest of the k closest after
        the answer, or before it where some of the former keep nothing."""
        key = key_for(name)
        try:
            closest = await self.overlay.find_node(key, COPIES_DEFAULT)
            stored = await self._store(closest, key, value)
        except OverlayClosedError:
            raise GoneError from None
        rest = asyncio.ensure_future(self._spread(closest, key, value))
        self._spreading[rest] = None
        rest.add_done_callback(self._spreading.pop)
        return stored if stored == COPIES_DEFAULT else stored + await rest

    async def _spread(self, told: Sequence[Contact], key: bytes, value: bytes) -> int:
        try:
            rest = [one for one in await self.overlay.find_node(key) if one not in told]
            return await self._store(rest, key, value)
        except OverlayClosedError:
            return 0

    async def _store(self, contacts: Sequence[Contact], key: bytes, value: bytes) -> int:
        stores = (self.overlay.store(contact, key, value) for contact in contacts)
        answers = await asyncio.gather(*stores, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return sum(answer is True for answer in answers)

    def hold(self, name: str, value: bytes) -> None:
        self.shelf.store(key_for(name), value, self.address)

    def kill(self) -> None:
        self._known = self.overlay.best_contacts(CONTACTS_MAX)
        self.overlay.stop()

    def again(self) -> OurPeer:
        again = copy(self)
        again.overlay = again._overlay(self._known)
        return again

    def _overlay(self, known: Sequence[Contact]) -> Overlay:
        return Overlay(
            node_id=self.id,
            records=self.shelf,
            rng=self._chance,
            entropy=self._chance.randbytes,
            settings=self._settings,
            known=known,
        )


class StockPeer:
    """One `kademlia` node as the package ships it. Its random numbers are the process's own, so a
    run with stock peers repeats in kind and not exactly."""

    def __init__(self, host: Host, chance: random.Random) -> None:
        self.host = host
        self.id = chance.randbytes(ID_BYTES)
        self.server = Server(node_id=self.id)

    @property
    def address(self) -> Address:
        return self.host.ip, PORT

    async def start(self, join: Sequence[Address]) -> None:
        await self.server.listen(PORT, interface=self.host.ip)
        await self.server.bootstrap(list(join))

    async def values(self, name: str) -> AsyncGenerator[bytes | Closest, None]:
        value = await self.server.get(name)
        if not self.host.is_up:
            raise GoneError
        if isinstance(value, bytes):
            yield value

    async def put(self, name: str, value: bytes) -> int:
        return int(bool(await self.server.set(name, value)))

    def hold(self, name: str, value: bytes) -> None:
        self.server.storage[key_for(name)] = value

    def kill(self) -> None:
        self.server.stop()

    def again(self) -> StockPeer:
        again = copy(self)
        again.server = Server(node_id=self.id, storage=self.server.storage)
        return again
