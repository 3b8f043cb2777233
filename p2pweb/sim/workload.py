"""Visitors and publishers: what is asked and published through random live peers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import cast

from p2pweb.dht.contact import key_for
from p2pweb.sim.hostile import HostilePeer
from p2pweb.sim.ledger import Ledger
from p2pweb.sim.peers import Closest, GoneError, OverlayPeer, SimPeer
from p2pweb.sim.scenario import Workload
from p2pweb.sim.values import name_of
from p2pweb.sim.world import World

# Holders that the oracle gives each value: the k closest, as for records.
HOLDERS = 20
# A miss is proved where as many of the nearest live peers answered: whatever is stored under a key
# is on these, whoever else holds it.
PROVING = 4
# Gets and puts under way at once. Above it the peers are slower than they are asked, and a run
# would only grow.
UNDER_WAY_MAX = 20_000
# Values published at one time before the measurement.
PUTS_AT_ONCE = 32


class Visitors:
    """Drives one run's workload; what came of it is in the ledger."""

    def __init__(self, world: World, workload: Workload, ledger: Ledger, seed: int) -> None:
        self._world = world
        self._workload = workload
        self._ledger = ledger
        self._rng = random.Random(f"workload {seed}")
        self._loop = world.network.loop
        self._names = [name_of(number) for number in range(workload.values)]
        self._seqs = dict.fromkeys(self._names, 0)
        self._absent = 0
        self._under_way: dict[asyncio.Task[None], None] = {}

    async def publish_all(self) -> None:
        """Publish every value; twice where gets want the newest, so that there are older ones."""
        for _ in range(2 if self._wants_newest else 1):
            for start in range(0, len(self._names), PUTS_AT_ONCE):
                puts = [self._put(name) for name in self._names[start : start + PUTS_AT_ONCE]]
                await asyncio.gather(*puts)

    async def ask_until(self, end_s: float) -> None:
        """Ask and publish at the scenario's rates until then; returns when all is answered."""
        chores = []
        if self._workload.gets_per_s:
            chores.append(self._at_rate(self._workload.gets_per_s, end_s, self._get))
        if self._workload.updates_per_s:
            chores.append(self._at_rate(self._workload.updates_per_s, end_s, self._update))
        await asyncio.gather(asyncio.sleep(max(0.0, end_s - self._loop.time())), *chores)
        while self._under_way:
            await asyncio.wait(list(self._under_way))

    async def _at_rate(
        self, rate: float, end_s: float, make: Callable[[], Coroutine[None, None, None]]
    ) -> None:
        while True:
            await asyncio.sleep(self._rng.expovariate(rate))
            if self._loop.time() >= end_s:
                return
            if len(self._under_way) < UNDER_WAY_MAX and self._world.live:
                self._start(make())

    def _start(self, chore: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(chore)
        self._under_way[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._under_way[task]
        task.result()

    @property
    def _wants_newest(self) -> bool:
        return self._workload.gets_want == "newest"

    def _anybody(self) -> OverlayPeer:
        live = self._world.live
        return cast(OverlayPeer, live[self._rng.randrange(len(live))])

    def _get(self) -> Coroutine[None, None, None]:
        if self._rng.random() < self._workload.misses:
            self._absent += 1
            return self._ask(self._anybody(), f"absent {self._absent}")
        return self._ask(self._anybody(), self._rng.choice(self._names))

    async def _ask(self, peer: OverlayPeer, name: str) -> None:
        if self._workload.placing == "oracle" and name in self._seqs:
            self._place(name)
        began_s = self._loop.time()
        # Whoever wants the first sound value wants any version.
        expected_seq = self._ledger.newest(name) if self._wants_newest else 0
        proving = [] if self._ledger.was_sent(name) else self._in_reach(name, peer)
        closest: Closest | None = None
        seqs: list[int | None] = []
        best, best_s = 0, None
        answers = peer.values(name)
        try:
            async for told in answers:
                if isinstance(told, tuple):
                    closest = told
                    continue
                seq = self._world.publisher.read_name(name, told)
                seqs.append(seq)
                if seq is not None and seq > best:
                    best, best_s = seq, self._loop.time() - began_s
                    if not self._wants_newest:
                        break
        except GoneError:
            self._ledger.abandoned(began_s, self._loop.time())
            return
        finally:
            await answers.aclose()
        ended_s = self._loop.time() - began_s
        times_s = (began_s, ended_s if best_s is None else best_s, ended_s)
        is_proved = closest is None or self._is_heard(proving, peer, closest)
        self._ledger.got(name, seqs, expected_seq, times_s, is_proved=is_proved)

    def _in_reach(self, name: str, peer: OverlayPeer) -> list[SimPeer]:
        """Those who would hold a value, as far as a peer can reach them now, nearest first."""
        reaches = self._world.network.reaches
        nearest = self._world.closest(name, HOLDERS + 1)
        return [one for one in nearest if one is not peer and reaches(peer.host, one.host)]

    def _is_heard(self, proving: list[SimPeer], peer: OverlayPeer, closest: Closest) -> bool:
        """Whether the nearest of those that were in reach, and still are, have answered."""
        reaches, live = self._world.network.reaches, self._world.live
        still = [one for one in proving if one in live and reaches(peer.host, one.host)]
        answered = {contact.id for contact in closest}
        return all(one.id in answered for one in still[:PROVING])

    def _update(self) -> Coroutine[None, None, None]:
        return self._put(self._rng.choice(self._names))

    async def _put(self, name: str) -> None:
        if not self._world.live:
            self._ledger.puts_failed += 1
            return
        self._seqs[name] = seq = self._seqs[name] + 1
        self._ledger.sending(name, seq)
        began_s = self._loop.time()
        if self._workload.placing == "oracle":
            self._place(name)
            self._ledger.acknowledged(name, seq, None)
            return
        value = self._world.publisher.make_name(name, seq)
        try:
            acknowledged = await self._anybody().put(name, value)
        except GoneError:
            self._ledger.puts_abandoned += 1
            return
        if acknowledged:
            self._ledger.acknowledged(name, seq, self._loop.time() - began_s)
        else:
            self._ledger.puts_failed += 1

    def _place(self, name: str) -> None:
        value = self._world.publisher.make_name(name, self._seqs[name])
        for peer in self._world.closest_of_all(name, HOLDERS):
            if isinstance(peer, HostilePeer):
                peer.hold(key_for(name), value)
            else:
                peer.hold(name, value)
