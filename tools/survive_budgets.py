"""A site larger than any peer's disk budget: everything is found, and no budget is exceeded.

Peers on loopback with `--disk`, a site that several of them together have room for, a second
version of it, and a third that they have no room for. Every file is read through every peer, while
what the peers' directories take is measured all the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from survive_disk import copies_of, copies_on
from survive_peers import Files, Peer, Published, Site, SurviveError, network, publish
from survive_visits import Ask, Judge, Visits

COPIES = 8
# Of a site of 200 MB in 135 files some are of several segments.
LONG_ONE_IN = 9
CHANGED_ONE_IN = 10
LOOK_S = 0.25
MEGABYTE = 1_000_000


@dataclass(kw_only=True)
class BudgetReport:
    seed: int
    peers: int
    disk_bytes: int
    site_bytes: int = 0
    """Of the largest version that went live."""
    copies: list[int] = field(default_factory=list)
    """The fewest that each publish counted."""
    reads: int = 0
    used_most_bytes: int = 0
    """What the directory of any peer took at any time."""
    on_disk: int = 0
    """The fewest copies of a path of the last version that are on disks in the end."""
    refused: str = ""
    """What `publish` says of the version that there is no room for."""
    faults: list[str] = field(default_factory=list)


def files_of(site: Site, count: int, total_bytes: int) -> Files:
    """So many files of noise, which together have about so many bytes."""
    weights = [
        (6.0 if number % LONG_ONE_IN == 0 else 1.0) * site.rng.uniform(0.2, 1.8)
        for number in range(count)
    ]
    unit = total_bytes / sum(weights)
    return {f"/{number}.bin": site.bytes(int(one * unit)) for number, one in enumerate(weights)}


def changed(site: Site, files: Files) -> Files:
    """The next version: one file in ten has other bytes, as many as before."""
    return {
        path: data if site.rng.randrange(CHANGED_ONE_IN) else site.bytes(len(data))
        for path, data in files.items()
    }


def used_bytes(folder: Path) -> int:
    """What a directory takes of its file system. A file that is replaced meanwhile takes none."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            total += status.st_blocks * 512
    return total


class _Run:
    def __init__(self, report: BudgetReport, peers: Sequence[Peer], site: Site, key: Path) -> None:
        self.report = report
        self.peers = peers
        self.site = site
        self.key = key
        self.versions: dict[int, Files] = {}
        self.visits = Visits(list(peers), Judge(self.versions))

    async def measure(self) -> None:
        """Note what the peers' directories take, until cancelled."""
        over: set[int] = set()
        while True:
            for peer in self.peers:
                used = await asyncio.to_thread(used_bytes, peer.data)
                self.report.used_most_bytes = max(self.report.used_most_bytes, used)
                if used > self.report.disk_bytes and peer.number not in over:
                    over.add(peer.number)
                    self.visits.blame(peer, "--disk", f"its directory takes {used} bytes")
            await asyncio.sleep(LOOK_S)

    async def publish(self, files: Files) -> Published:
        self.site.write(files)
        return await publish(self.site.folder, self.key, self.peers[0], COPIES)

    async def go_live(self, files: Files) -> None:
        seq = len(self.versions) + 1
        self.versions[seq] = files
        told = await self.publish(files)
        # With fewer copies than wanted the exit code is 2.
        if told.code not in (0, 2) or told.seq != seq:
            raise SurviveError(f"version {seq} did not go live: {told.told}")
        self.report.copies.append(told.copies)
        self.report.site_bytes = max(self.report.site_bytes, sum(map(len, files.values())))

    async def read_all(self, rng: random.Random) -> None:
        """Every file through every peer, all peers at one time."""

        async def read(peer: Peer, paths: Sequence[str]) -> None:
            for path in paths:
                await self.visits.ask(peer, Ask(path))
                self.report.reads += 1

        paths = sorted(self.versions[len(self.versions)])
        orders = [rng.sample(paths, len(paths)) for _ in self.peers]
        await asyncio.gather(*map(read, self.peers, orders))

    async def be_refused(self, files: Files) -> None:
        told = await self.publish(files)
        self.report.refused = told.told
        if told.code != 1 or "no room" not in told.told:
            self.visits.blame(
                self.peers[0], "publish", f"exit code {told.code}, not refused: {told.told}"
            )

    def count_copies(self) -> None:
        """Look for every copy of the last version on the disks of the peers, which have stopped."""
        seq, files = max(self.versions.items())
        wanted = copies_of(files)
        found = [copies_on(peer.data, seq, files) for peer in self.peers]
        self.report.on_disk = min(sum(one in some for some in found) for one in wanted)
        # Each publish counts the copies of what it sent: of the second version, what changed.
        counted = min(self.report.copies)
        if self.report.on_disk < counted:
            self.report.faults.append(
                f"publish counted {counted} copies, and of one file {self.report.on_disk} are on "
                "disks"
            )


async def run_budgets(
    folder: Path,
    *,
    seed: int,
    peers: int = 8,
    disk_bytes: int = 50 * MEGABYTE,
    site_bytes: int = 200 * MEGABYTE,
    files: int = 135,
) -> BudgetReport:
    """Publish, read everything, publish a change, read everything, be refused; what came of it."""
    report = BudgetReport(seed=seed, peers=peers, disk_bytes=disk_bytes)
    site = Site(folder / "site", random.Random(f"{seed} site"))
    words = ("--disk", f"{disk_bytes // MEGABYTE}MB")
    async with network(folder / "peers", peers, words) as started:
        run = _Run(report, started, site, folder / "key")
        measuring = asyncio.ensure_future(run.measure())
        try:
            first = files_of(site, files, site_bytes)
            second = changed(site, first)
            rng = random.Random(f"{seed} visitors")
            for version in (first, second):
                await run.go_live(version)
                await run.read_all(rng)
            more = files_of(site, files, site_bytes)
            await run.be_refused({**second, **{f"/more{path}": more[path] for path in more}})
            await run.read_all(rng)
        finally:
            measuring.cancel()
            await asyncio.gather(measuring, return_exceptions=True)
            await run.visits.close()
        await asyncio.gather(*(peer.stop() for peer in started))
        await asyncio.to_thread(run.count_copies)
        report.faults += map(str, run.visits.faults)
        report.faults += [
            f"the log of peer {peer.number} has a traceback"
            for peer in started
            if peer.tracebacks()
        ]
    return report
