"""The workload of whole peers: a publisher with a site made from the seed, and its visitors."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from p2pweb.address import Address
from p2pweb.blobs import blob_of
from p2pweb.errors import P2PWebError
from p2pweb.exchange.client import ConnectorFactory, PeerClient
from p2pweb.exchange.wire import ItemAnswer
from p2pweb.publish import PublishOptions, Summary, publish
from p2pweb.records import SiteRecord
from p2pweb.sim.arrivals import Arrival, Watched, arrivals
from p2pweb.sim.copies import Survey, survey
from p2pweb.sim.ledger import Ledger
from p2pweb.sim.outside import connector_on
from p2pweb.sim.scenario import Scenario, Site
from p2pweb.sim.site_checks import SITE, Asked, SiteChecks
from p2pweb.sim.visit import NoAnswerError, get
from p2pweb.sim.whole import EPOCH_S, WholePeer, site_key
from p2pweb.sim.world import World
from p2pweb.store.items import Item

# A publisher tries again, through another peer, after so long, and gives up after so many tries.
PUBLISH_AGAIN_S = 5.0
PUBLISHES_MAX = 20
# Beside the front page, which is another one in every version, so many of the files change.
CHANGED_SHARE = 0.3
# Visitors that take gzip, as browsers do over plain HTTP.
GZIP_SHARE = 0.5
# So long after a parted network came together nobody is blamed for not finding the others.
HEALING_S = 600.0
# Gets under way at once. Above it the peers are slower than they are asked.
UNDER_WAY_MAX = 2_000

# How often, and how long, it is looked whether a version has reached everybody.
NEWS_STEP_S = 0.05
NEWS_S_MAX = 120.0
# How often, and how long, it is looked what a newcomer has.
ARRIVAL_STEP_S = 0.05
ARRIVAL_S_MAX = 30.0

_TEXT = (
    "a peer keeps the pages of its site and hands them to whoever asks for one of them while "
    "other peers keep copies so that nothing is lost when the lights go out in one place"
)

T = TypeVar("T")


class SiteMaker:
    """Makes the files of one version after the other; every version has the same paths."""

    def __init__(self, site: Site, rng: random.Random) -> None:
        self._rng = rng
        self._file_bytes = site.file_bytes
        kinds = ("/docs/page-{}.html", "/css/style-{}.css", "/img/picture-{}.png")
        names = [kinds[number % len(kinds)].format(number) for number in range(1, site.files)]
        self._paths = ["/index.html", *names]
        self._generation = 0
        self._files: dict[str, bytes] = {}

    def next_version(self) -> dict[str, bytes]:
        """URL paths and bytes of the next version."""
        self._generation += 1
        for path in self._paths:
            is_front = path == self._paths[0]
            if is_front or path not in self._files or self._rng.random() < CHANGED_SHARE:
                self._files[path] = self._make(path)
        return dict(self._files)

    def _make(self, path: str) -> bytes:
        size = round(self._file_bytes * self._rng.uniform(0.5, 1.5))
        head = f"/* {path} as of version {self._generation} */\n".encode()
        if path.endswith(".png"):
            return head + self._rng.randbytes(size)
        words = " ".join(self._rng.choices(_TEXT.split(), k=1 + size // 3))
        return head + words.encode()[:size]


class _PublisherClient(PeerClient):
    """Tells when a site's record is acknowledged: its version is live, and not yet read back."""

    def __init__(self, connector: ConnectorFactory, lives: Callable[[], None]) -> None:
        super().__init__(connector)
        self._lives = lives

    async def push(
        self, address: Address, items: Sequence[Item], *more: Any, **named: Any
    ) -> tuple[ItemAnswer, ...]:
        answers = await super().push(address, items, *more, **named)
        if isinstance(items[0].signed.record, SiteRecord) and answers[0].copies:
            self._lives()
        return answers


class _Silent:
    """Nobody watches how far a publish is."""

    def phase(self, name: str, total_bytes: int) -> None: ...

    def advance(self, done_bytes: int) -> None: ...


class SiteVisitors:
    """Drives the workload of one run of whole peers; what came of it is in the ledger."""

    def __init__(
        self, world: World, scenario: Scenario, ledger: Ledger, seed: int, folder: Path
    ) -> None:
        self._world = world
        self._workload = scenario.workload
        self._site = scenario.site
        self._faults = scenario.faults
        self._ledger = ledger
        liars = scenario.hostile
        self._checks = SiteChecks(ledger, among_liars=bool(liars.share or liars.sybils))
        self._rng = random.Random(f"workload {seed}")
        self._publisher_rng = random.Random(f"publishing {seed}")
        self._maker = SiteMaker(scenario.site, random.Random(f"site {seed}"))
        self._key = site_key(seed)
        self._directory = folder / "published"
        self._loop = world.network.loop
        self._host = world.network.add_host()
        self._absent = 0
        self._paths: list[str] = []
        # Of the newest version that was published.
        self._files: dict[str, bytes] = {}
        self._under_way: dict[asyncio.Task[None], None] = {}
        self._newest_after_s = scenario.expected.newest_after_s
        # When each generation's site record was acknowledged.
        self._lived: list[tuple[float, int]] = []
        self._watches_news = scenario.expected.news_s is not None
        self.surveys: list[Survey] = []
        self.arrivals: list[Arrival] = []

    async def publish_all(self) -> None:
        """Publish the first version."""
        await self._publish()

    async def ask_until(self, end_s: float) -> None:
        """Ask and publish at the scenario's rates until then; returns when all is answered."""
        chores = [asyncio.sleep(max(0.0, end_s - self._loop.time()))]
        if self._workload.gets_per_s:
            chores.append(self._ask_at_rate(self._workload.gets_per_s, end_s))
        if self._site.surveys:
            chores.append(self._survey_until(end_s, self._site.surveys))
        if any(fault.kind == "join" for fault in self._faults):
            chores.append(self._watch_newcomers(end_s))
        if self._site.publishes_per_hour:
            chores.append(self._publish_at_rate(self._site.publishes_per_hour / 3_600.0, end_s))
        await asyncio.gather(*chores)
        while self._under_way:
            await asyncio.wait(list(self._under_way))
        self._checks.finish()

    async def _ask_at_rate(self, rate: float, end_s: float) -> None:
        while True:
            await self._sleep(self._rng.expovariate(rate), end_s)
            if self._loop.time() >= end_s:
                return
            if len(self._under_way) < UNDER_WAY_MAX and (peers := self._live()):
                self._own(self._get(self._rng.choice(peers)))

    async def _sleep(self, pause_s: float, end_s: float) -> None:
        """No longer than until the end."""
        await asyncio.sleep(min(pause_s, end_s - self._loop.time()))

    def _own(self, coroutine: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._under_way[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._under_way[task]
        task.result()

    def _live(self) -> list[WholePeer]:
        return [peer for peer in self._world.live if isinstance(peer, WholePeer)]

    async def _survey_until(self, end_s: float, count: int) -> None:
        pause_s = (end_s - self._loop.time()) / count
        for _ in range(count):
            await asyncio.sleep(pause_s)
            peers, now_s = self._live(), self._loop.time()
            copies = self._site.copies
            self.surveys.append(survey(peers, self._key.site, self._files, copies, now_s))

    async def _watch_newcomers(self, end_s: float) -> None:
        """How soon those that faults have join hold what is due to them."""
        watched: list[Watched] = []
        while (now_s := self._loop.time()) < end_s:
            for peer, began_s in self._world.newcomers[len(watched) :]:
                assert isinstance(peer, WholePeer)  # noqa: S101 - all of the run are
                watched.append(Watched(peer, began_s))
            for one in watched:
                if now_s - one.began_s <= ARRIVAL_S_MAX:
                    one.look(now_s)
            await asyncio.sleep(ARRIVAL_STEP_S)
        copies = self._site.copies
        self.arrivals = arrivals(watched, self._live(), self._key.site, self._files, copies)

    # --- visiting ---

    async def _get(self, peer: WholePeer) -> None:
        """One page, asked for by a browser on the peer's own machine."""
        if self._rng.random() < self._workload.misses:
            self._absent += 1
            path = f"/absent/{self._absent}.html"
        else:
            path = self._rng.choice(self._paths)
        gzip = self._rng.random() < GZIP_SHARE
        network, host, life = self._world.network, peer.host, peer.host.life
        expected = self._expected()
        asked = Asked(path, host.ip, peer.disk, self._loop.time(), expected)
        before, seqs = self._live(), [live_seq(peer.folder)]
        url_path = path.removesuffix("index.html")
        name = f"{self._key.site}.localhost"
        try:
            answer = await get(network, host, peer.address, name, url_path, gzip=gzip)
        except NoAnswerError as error:
            if host.life != life:
                self._ledger.abandoned(asked.began_s, self._loop.time())
            else:
                self._checks.unanswered(asked, self._loop.time(), str(error))
            return
        if host.life != life:
            self._ledger.abandoned(asked.began_s, self._loop.time())
            return

        def is_held(data: bytes) -> bool:
            if self._loop.time() - self._world.healed_s < HEALING_S:
                return False
            still = [one for one in before if one in self._world.live]
            return any(one.host.part == host.part and holds(one.folder, data) for one in still)

        seqs.append(live_seq(peer.folder))
        self._checks.answered(asked, answer, self._loop.time(), seqs, is_held)

    def _expected(self) -> int:
        """The newest generation that whoever is asked now has had the time to hear of."""
        if self._newest_after_s is None:
            return self._ledger.newest(SITE)
        since_s = self._loop.time() - self._newest_after_s
        return max((number for at_s, number in self._lived if at_s <= since_s), default=0)

    # --- publishing ---

    async def _publish_at_rate(self, rate: float, end_s: float) -> None:
        while True:
            await self._sleep(self._publisher_rng.expovariate(rate), end_s)
            if self._loop.time() >= end_s:
                return
            await self._publish()

    async def _publish(self) -> None:
        """Publish the next version, through one peer after the other until one takes it."""
        files = self._maker.next_version()
        self._paths = list(files)
        write_files(self._directory, files)
        generation = self._checks.publishing(files)
        began_s = self._loop.time()
        for tries in range(1, PUBLISHES_MAX + 1):
            if peers := self._live():
                try:
                    peer = self._publisher_rng.choice(peers)
                    summary = await self._publish_through(peer, generation)
                except P2PWebError:
                    pass
                else:
                    took_s = self._loop.time() - began_s
                    self._checks.published(generation, summary.seq, took_s, tries=tries)
                    self._files = files
                    if self._watches_news:
                        self._own(self._watch_news(summary.seq))
                    return
            await asyncio.sleep(PUBLISH_AGAIN_S)
        self._ledger.puts_failed += 1

    async def _watch_news(self, seq: int) -> None:
        """How long until every peer that lives now, and still then, is at this version."""
        began_s = self._loop.time()
        behind = self._live()
        while behind := [one for one in behind if one in self._world.live and _is_behind(one, seq)]:
            if self._loop.time() - began_s > NEWS_S_MAX:
                break
            await asyncio.sleep(NEWS_STEP_S)
        self._ledger.news_s.append(self._loop.time() - began_s)

    async def _publish_through(self, peer: WholePeer, generation: int) -> Summary:
        options = PublishOptions(
            directory=self._directory,
            peer=peer.address,
            key=lambda: self._key,
            copies=self._site.copies,
            encoders=1,
        )
        client = _PublisherClient(
            connector_on(self._world.network, self._host),
            lambda: self._lived.append((self._loop.time(), generation)),
        )
        try:
            return await publish(
                options, client, _Silent(), self._wall, self._publisher_rng, self._run
            )
        finally:
            await client.close()

    def _wall(self) -> float:
        return EPOCH_S + self._loop.time()

    def _run(self, call: Callable[[], T]) -> asyncio.Future[T]:
        return self._loop.run_in_executor(None, call)


def _is_behind(peer: WholePeer, seq: int) -> bool:
    return live_seq(peer.folder) < seq


def write_files(directory: Path, files: Mapping[str, bytes]) -> None:
    """Have a directory contain just these, by URL path."""
    shutil.rmtree(directory, ignore_errors=True)
    for path, data in files.items():
        place = directory / path.removeprefix("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)


def holds(folder: Path, data: bytes) -> bool:
    """Whether a peer's books name all the bytes of a file, read past the peer."""
    blob, _ = blob_of(data)
    count = _look_up(
        folder,
        "SELECT COUNT(*) FROM segments WHERE root = ? AND size = ?",
        (blob.root, blob.size_bytes),
    )
    return count == blob.segment_count


def live_seq(folder: Path) -> int:
    """The version that a peer is at by its books, read past the peer; 0 for none."""
    return _look_up(folder, "SELECT MAX(seq) FROM records WHERE is_site = 1 AND lived = 1", ())


def _look_up(folder: Path, query: str, parameters: tuple[bytes | int, ...]) -> int:
    with closing(sqlite3.connect(f"file:{folder / 'records.sqlite'}?mode=ro", uri=True)) as books:
        (number,) = books.execute(query, parameters).fetchone()
    return number or 0
