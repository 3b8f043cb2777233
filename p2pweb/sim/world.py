"""All peers of a run: who lives, who joins, who dies; what the scenario does to them."""

from __future__ import annotations

import asyncio
import heapq
import math
import random
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import cast

from p2pweb.dht.contact import ID_BYTES, NodeId, distance, key_for
from p2pweb.records import site_name
from p2pweb.sim.hostile import HostilePeer, Kind
from p2pweb.sim.impostor import Impostor, Loot
from p2pweb.sim.network import Host, Network
from p2pweb.sim.peers import OurPeer, SimPeer, StockPeer
from p2pweb.sim.scenario import Fault, Scenario, Sessions, settings_of
from p2pweb.sim.values import Publisher, name_of
from p2pweb.sim.whole import Graveyard, WholePeer, site_key

# Addresses that a newcomer is told to join by.
JOIN_BY = 2


class World:
    """The peers of one run. Every choice comes from a random stream of its own.

    The disks of whole peers are in `folder`.
    """

    def __init__(
        self, network: Network, scenario: Scenario, seed: int, folder: Path | None = None
    ) -> None:
        self.network = network
        self.publisher = Publisher(seed, scenario.workload.value_bytes)
        self.live: list[SimPeer] = []
        self.hostile: list[HostilePeer] = []
        # Those that faults had join, and when they began to.
        self.newcomers: list[tuple[SimPeer, float]] = []
        # When the parts of the network last came together.
        self.healed_s = -math.inf
        self._scenario = scenario
        self._folder = folder
        self._graveyard = Graveyard(network.loop)
        self._site = site_key(seed).site
        self._loot = Loot()
        self._settings = settings_of(scenario)
        self._seed = seed
        self._choice = random.Random(f"choice {seed}")
        self._lengths = random.Random(f"sessions {seed}")
        self._fallen: list[SimPeer] = []
        self._made = 0
        # Owned, lest they be collected; a dict for its order.
        self._tasks: dict[asyncio.Task[object], None] = {}

    def closest(self, name: str, count: int) -> list[SimPeer]:
        """The live peers closest to a name's key, as only somebody who sees all can know."""
        key = key_for(name)
        return heapq.nsmallest(count, self.live, key=lambda peer: distance(peer.id, key))

    async def grow(self, progress: Callable[[float], None]) -> None:
        """Have every peer of the scenario join, one after the other."""
        peers = self._scenario.peers
        joining: list[asyncio.Task[None]] = []
        for number in range(peers):
            joining.append(self.network.loop.create_task(self._join(self._newcomer(number))))
            await asyncio.sleep(1.0 / self._scenario.joins_per_s)
            progress(number / peers)
        await asyncio.gather(*joining)
        is_whole = self._scenario.peers_are == "whole"
        name = site_name(self._site) if is_whole else name_of(0)
        await self._surround(name, self._scenario.hostile.sybils)

    async def _surround(self, name: str, count: int) -> None:
        """Have Sybils join between a name's key and the nearest honest peer."""
        key, gang = key_for(name), list[HostilePeer]()
        nearest = distance(self.closest(name, 1)[0].id, key)
        for _ in range(count):
            chance = self._chance()
            known = int.from_bytes(key, "big") ^ chance.randrange(1, nearest)
            sybil_id = NodeId(known.to_bytes(ID_BYTES, "big"))
            host = self.network.add_host()
            gang.append(self._liar(host, chance, "colluding", gang, sybil_id))
        await asyncio.gather(*(self._join(sybil) for sybil in gang))

    def closest_of_all(self, name: str, count: int) -> list[OurPeer | StockPeer | HostilePeer]:
        """The peers closest to a name's key, those that lie among them."""
        key = key_for(name)
        everybody = [*cast(list[OurPeer | StockPeer], self.live), *self.hostile]
        return heapq.nsmallest(count, everybody, key=lambda peer: distance(peer.id, key))

    async def close(self) -> None:
        """End all whole peers, and what is still under way; of tasks nothing may be left."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for peer in [one for one in self.live if isinstance(one, WholePeer)]:
            self.crash(peer)
        for liar in [one for one in self.hostile if isinstance(one, Impostor)]:
            await liar.close()
        await self._graveyard.emptied()

    def crash(self, peer: SimPeer) -> None:
        """End a live peer without a word."""
        self.network.crash(peer.host)
        peer.kill()
        self.live.remove(peer)

    def befall(self, fault: Fault) -> None:
        """One fault of the scenario, now."""
        count = round(fault.share * len(self.live))
        chosen = [] if fault.kind in ("return", "join") else self._choice.sample(self.live, count)
        match fault.kind:
            case "crash":
                for peer in chosen:
                    self.crash(peer)
                self._fallen += chosen
            case "return":
                for _ in range(round(fault.share * len(self._fallen))):
                    self._own(self._return(self._fallen.pop(), keeps_disk=fault.keeps_disk))
            case "join":
                for _ in range(count):
                    newcomer = self._make(self.network.add_host(), number=self._made)
                    self.newcomers.append((newcomer, self.network.loop.time()))
                    self._own(self._join(newcomer))
            case "part":
                self.network.part([peer.host for peer in chosen])
            case "heal":
                self.network.heal()
                self.healed_s = self.network.loop.time()
            case "slow":
                for peer in chosen:
                    peer.host.slow_s = fault.slow_s

    def knowledge(self) -> tuple[list[int], float]:
        """How many contacts each live peer of ours has, and what share of all these are dead."""
        counts: list[int] = []
        dead = 0
        for peer in self.live:
            if isinstance(peer, OurPeer | WholePeer):
                contacts = peer.overlay.contacts()
                counts.append(len(contacts))
                dead += sum(not self.network.hosts[one.address[0]].is_up for one in contacts)
        return counts, dead / max(1, sum(counts))

    # --- sessions ---

    def start_sessions(self, sessions: Sessions) -> None:
        """From now on peers leave when their sessions end, and others take their places."""
        for peer in self.live:
            self._end_in_time(peer, sessions)

    def _end_in_time(self, peer: SimPeer, sessions: Sessions) -> None:
        if sessions.kind == "exponential":
            length_s = self._lengths.expovariate(1 / sessions.mean_s)
        else:
            # The mean of a Weibull distribution of scale 1 is gamma(1 + 1/shape).
            scale_s = sessions.mean_s / math.gamma(1 + 1 / sessions.shape)
            length_s = self._lengths.weibullvariate(scale_s, sessions.shape)
        self.network.loop.call_later(length_s, self._end_session, peer, sessions)

    def _end_session(self, peer: SimPeer, sessions: Sessions) -> None:
        # A fault may have ended it before.
        if peer not in self.live:
            return
        self.crash(peer)
        self._own(self._succeed(peer, sessions))

    async def _succeed(self, peer: SimPeer, sessions: Sessions) -> None:
        """Whoever takes the place of a peer whose session has ended."""
        if sessions.place == "newcomer":
            successor = self._make(self.network.add_host(), number=self._made)
            await self._join(successor)
        else:
            await asyncio.sleep(self._lengths.expovariate(1 / sessions.away_s))
            successor = await self._return(peer, keeps_disk=sessions.keeps_disk)
        self._end_in_time(successor, sessions)

    # --- coming ---

    async def _join(self, peer: SimPeer | HostilePeer) -> None:
        known = self._choice.sample(self.live, min(JOIN_BY, len(self.live)))
        await peer.start([one.address for one in known])
        if isinstance(peer, HostilePeer):
            self.hostile.append(peer)
        else:
            self.live.append(peer)

    async def _return(self, peer: SimPeer, *, keeps_disk: bool) -> SimPeer:
        self.network.start(peer.host)
        again = peer.again() if keeps_disk else self._make(peer.host, number=self._made)
        await self._join(again)
        return again

    def _newcomer(self, number: int) -> SimPeer | HostilePeer:
        host = self.network.add_host()
        skew_s = self._scenario.way.skew_s
        host.skew_s = self._choice.uniform(-skew_s, skew_s)
        hostile = self._scenario.hostile
        # The first is always honest: others join by it.
        if number and self._choice.random() < hostile.share:
            return self._liar(host, self._chance(), hostile.kind, self.hostile)
        return self._make(host, number)

    def _liar(
        self,
        host: Host,
        chance: random.Random,
        kind: Kind,
        gang: Sequence[HostilePeer],
        known: NodeId | None = None,
    ) -> HostilePeer:
        network = self.network
        if self._scenario.peers_are == "whole":
            return Impostor(network, host, chance, kind, gang, known, self._site, self._loot)
        return HostilePeer(network, host, chance, kind, gang, known)

    def _make(self, host: Host, number: int) -> SimPeer:
        kind = self._scenario.peers_are
        if kind == "whole":
            assert self._folder is not None  # noqa: S101 - whole peers come with a folder
            disk = self._folder / f"{host.number}-{self._made}"
            return WholePeer(self.network, host, self._chance(), disk, self._graveyard)
        if kind == "stock" or (kind == "mixed" and number % 2):
            return StockPeer(host, self._chance())
        return OurPeer(self.network, host, self._chance(), self.publisher, self._settings)

    def _chance(self) -> random.Random:
        """A stream of random numbers for one more peer."""
        self._made += 1
        return random.Random(f"peer {self._seed} {self._made}")

    def _own(self, coroutine: Coroutine[None, None, object]) -> None:
        task = self.network.loop.create_task(coroutine)
        self._tasks[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[object]) -> None:
        del self._tasks[task]
        if not task.cancelled():
            task.result()
