"""Peers that are killed at random and started again while visitors browse and a version goes live.

The plan of the deaths is made before (`plan_deaths`, from the seed alone). Beside peers that come
back after seconds there are some that stay away until they are replaced, and some that are killed
again while they start.
"""

from __future__ import annotations

import asyncio
import random
import time
from asyncio import FIRST_COMPLETED
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from survive_disk import SITE, copies_of, copies_on
from survive_peers import Files, Peer, Site, SurviveError, network, publish
from survive_visits import Ask, Judge, Visits

VISITORS = 12
PAUSE_S = 0.25
AWAY_S = (0.2, 8.0)
# One in so many stays away until the others have replaced it.
LONG_ONE_IN = 12
LONG_AWAY_S = (50.0, 60.0)
# One in so many is killed once more, while it starts.
STUMBLES_ONE_IN = 6
STUMBLES_AFTER_S = 1.5
BEGUN_S = 0.05
LONG = "/film.mp4"
EVERYWHERE_S = 60.0
SHOWN_EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class Death:
    at_s: float
    peer: int
    away_s: float
    begun_s: float
    """How long before it somebody asked for the longest file."""
    stumbles_s: float | None
    """How long after it is started again it is killed once more."""


@dataclass(kw_only=True)
class Report:
    seed: int
    peers: int
    seconds: float
    kills: Counter[str] = field(default_factory=Counter)
    down_most: int = 0
    asked: Counter[str] = field(default_factory=Counter)
    cut_off: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0
    news_s: float = 0.0
    publish_s: list[float] = field(default_factory=list)
    copies: list[int] = field(default_factory=list)
    """The fewest that each publish counted."""
    on_disk: int = 0
    """The fewest copies of a path of the last version that are on disks in the end."""
    faults: list[str] = field(default_factory=list)


def plan_deaths(
    rng: random.Random, peers: int, seconds: float, down_most: int, every_s: float
) -> list[Death]:
    """Who dies when, in order: on average one peer every `every_s`, never more than `down_most`
    at a time as far as those that are back start at once."""
    back_s = [0.0] * peers
    deaths: list[Death] = []
    at_s = 0.0
    while (at_s := at_s + rng.expovariate(1 / every_s)) < seconds:
        up = [peer for peer in range(peers) if back_s[peer] <= at_s]
        if peers - len(up) >= down_most:
            continue
        is_long = seconds > LONG_AWAY_S[1] and rng.randrange(LONG_ONE_IN) == 0
        away_s = rng.uniform(*(LONG_AWAY_S if is_long else AWAY_S))
        stumbles = rng.randrange(STUMBLES_ONE_IN) == 0
        stumbles_s = rng.uniform(0.0, STUMBLES_AFTER_S) if stumbles else None
        begun_s = rng.uniform(0.0, BEGUN_S)
        deaths.append(Death(at_s, rng.choice(up), away_s, begun_s, stumbles_s))
        back_s[deaths[-1].peer] = at_s + away_s + (stumbles_s or 0.0)
    return deaths


def first_version(site: Site, long_bytes: int) -> Files:
    """Text and noise; rows, files, files of several blocks, and one of `long_bytes`."""
    files = {"/index.html": site.text(9_000), LONG: site.bytes(long_bytes)}
    for number in range(40):
        size = site.rng.randrange(20_000)
        make = site.text if number % 2 else site.bytes
        files[f"/pages/{number}.{'txt' if number % 2 else 'bin'}"] = make(size)
    for number in range(6):
        make = site.text if number % 2 else site.bytes
        size = site.rng.randrange(65_000, 600_000)
        files[f"/files/{number}.{'css' if number % 2 else 'png'}"] = make(size)
    return files


def second_version(site: Site, first: Files) -> Files:
    """A third changed, by as many bytes as before or by others; some gone, some new."""
    files = dict(first)
    for path in sorted(first):
        chance = site.rng.random()
        if path == "/index.html" or chance < 0.3:
            make = site.text if path.endswith(("html", "txt", "css")) else site.bytes
            files[path] = make(len(first[path]) + site.rng.choice((0, 1, 700)))
        elif chance < 0.4:
            del files[path]
    for number in range(5):
        files[f"/new/{number}.txt"] = site.text(3_000)
    return files


class _Run:
    """One run, from the first version everywhere to the last check."""

    def __init__(self, report: Report, peers: list[Peer], site: Site, key: Path, down: int) -> None:
        self.report = report
        self.peers = peers
        self.site = site
        self.key = key
        self.down = down
        self.versions: dict[int, Files] = {}  # As visitors see them.
        self.visits = Visits(peers, Judge(self.versions))
        self.spared: Peer | None = None
        self.down_now = 0

    async def publish(self, files: Files, through: Peer, copies: int) -> None:
        self.site.write(files)
        seq = len(self.versions) + 1
        # From now on a peer may serve it.
        self.versions[seq] = {**files, "/": files["/index.html"]}
        began_s = self.visits.now_s()
        told = await publish(self.site.folder, self.key, through, copies)
        self.report.publish_s.append(self.visits.now_s() - began_s)
        if told.code not in (0, 2) or told.seq != seq:
            raise SurviveError(f"version {seq} did not go live: {told.told}")
        self.report.copies.append(told.copies)
        if told.copies <= self.down:
            self.visits.blame(through, "publish", f"counted {told.copies} copies: too few to judge")

    async def shown_everywhere(self, seq: int) -> None:
        """Wait until every peer shows a version."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + EVERYWHERE_S
        for peer in self.peers:
            while self.visits.judge.shown(peer.number) < seq:
                await self.visits.ask(peer, Ask("/index.html"))
                if loop.time() > until_s:
                    raise SurviveError(f"peer {peer.number} does not show version {seq}")
                await asyncio.sleep(SHOWN_EVERY_S)

    async def die(self, death: Death) -> None:
        """One death of the plan, and the way back."""
        await asyncio.sleep(death.at_s - self.visits.now_s())
        peer = self.peers[death.peer]
        if not peer.is_ready or peer is self.spared or self.down_now >= self.down:
            self.report.kills["left out"] += 1
            return
        self.down_now += 1
        self.report.down_most = max(self.report.down_most, self.down_now)
        self.report.kills["long" if death.away_s > AWAY_S[1] else "short"] += 1
        # Somebody who is in the middle of a long answer then.
        cut_off = asyncio.ensure_future(self.visits.ask(peer, Ask(LONG)))
        await asyncio.sleep(death.begun_s)
        await peer.kill()
        await cut_off
        await asyncio.sleep(death.away_s)
        if death.stumbles_s is not None:
            self.report.kills["while starting"] += 1
            await peer.spawn()
            await asyncio.sleep(death.stumbles_s)
            await peer.kill()
        await peer.start()
        self.visits.ready_s[peer.number] = self.visits.now_s()
        self.down_now -= 1

    async def change(self, rng: random.Random, after_s: float, files: Files, copies: int) -> None:
        """Publish in the middle of it all, through a peer that is spared meanwhile."""
        await asyncio.sleep(after_s)
        while (peer := rng.choice(self.peers)) and not peer.is_ready:
            pass
        self.spared = peer
        await self.publish(files, peer, copies)
        self.visits.live_s = self.visits.now_s()
        self.spared = None

    def note(self) -> None:
        visits, report = self.visits, self.report
        report.asked, report.cut_off, report.news_s = visits.asked, visits.cut_off, visits.news_s
        report.p50_ms, report.p99_ms, report.max_ms = map(visits.quantile_ms, (0.5, 0.99, 1.0))
        report.faults += map(str, visits.faults)
        report.faults += [
            f"the log of peer {peer.number} has a traceback"
            for peer in self.peers
            if peer.tracebacks()
        ]

    async def read_back(self) -> None:
        """Every path of every version through every peer, which are all there again."""
        for peer in self.peers:
            for path in sorted({path for files in self.versions.values() for path in files}):
                await self.visits.ask(peer, Ask(path))

    def count_copies(self) -> None:
        """Whether what publish counted is on the disks of the peers, which have stopped."""
        seq, files = len(self.versions), self.site.files
        counts = Counter(one for peer in self.peers for one in copies_on(peer.data, seq, files))
        self.report.on_disk = min(counts[one] for one in [SITE, *copies_of(files)])
        if self.report.on_disk < self.report.copies[-1]:
            short = min([SITE, *copies_of(files)], key=lambda one: counts[one])
            self.report.faults.append(
                f"{short[0] or 'the site record'}, segment {short[1]}: publish counted "
                f"{self.report.copies[-1]} copies, and {counts[short]} are on disks"
            )


async def run_kills(
    folder: Path,
    *,
    seed: int,
    seconds: float,
    peers: int = 20,
    copies: int = 8,
    down: int = 5,
    every_s: float = 1.5,
    long_bytes: int = 5_000_000,
) -> Report:
    """Kill peers for so many seconds, at most `down` being away at one time; what came of it."""
    report = Report(seed=seed, peers=peers, seconds=seconds)
    site = Site(folder / "site", random.Random(f"{seed} site"))
    first = first_version(site, long_bytes)
    second = second_version(site, first)
    deaths = plan_deaths(random.Random(f"{seed} deaths"), peers, seconds, down, every_s)
    async with network(folder / "peers", peers) as started:
        run = _Run(report, started, site, folder / "key", down)
        ids = [peer.node_id for peer in started]
        try:
            await run.publish(first, started[0], copies)
            await run.shown_everywhere(1)
            run.visits.began_s = time.monotonic()
            paths = sorted({*first, *second, "/"})
            visitors = [
                asyncio.ensure_future(
                    run.visits.browse(random.Random(f"{seed} visitor {number}"), paths, PAUSE_S)
                )
                for number in range(VISITORS)
            ]
            change = run.change(random.Random(f"{seed} change"), seconds / 2, second, copies)
            doing = asyncio.gather(change, *(run.die(death) for death in deaths))
            try:
                # A visitor ends only by a fault of this tool.
                done, _ = await asyncio.wait([doing, *visitors], return_when=FIRST_COMPLETED)
                await done.pop()
            finally:
                for task in (doing, *visitors):
                    task.cancel()
                await asyncio.gather(doing, *visitors, return_exceptions=True)
            await run.shown_everywhere(2)
            await run.read_back()
        finally:
            await run.visits.close()
        if [peer.node_id for peer in started] != ids:
            report.faults.append("a peer has come back with another id")
        await asyncio.gather(*(peer.stop() for peer in started))
        await asyncio.to_thread(run.count_copies)
        run.note()
    return report
