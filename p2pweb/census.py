"""Counts the copies of the site that this peer keeps, by asking those that keep it what they hold.

Each answers with a bitmap (`tally`), which is made here too. Where everybody is known all files are
counted, else those due to this peer: the others near their keys are its neighbours. A peer that is
silent holds nothing. It is counted when somebody asks for the status, every now and then, and when
a peer has left; the log has a line when the site is short of copies for longer than a repair should
take, and one when that is over.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from p2pweb.address import format_address
from p2pweb.dht.contact import Contact, NodeId, distance
from p2pweb.dht.events import ContactDown, Event
from p2pweb.dht.neighbourhood import NEIGHBOURS
from p2pweb.dht.overlay import Overlay, OverlayClosedError
from p2pweb.errors import CorruptError, RemoteError
from p2pweb.exchange.client import PeerClient
from p2pweb.exchange.reader import Runner
from p2pweb.exchange.wire import CopiesStatus, SiteStatus
from p2pweb.keys import SiteId
from p2pweb.manifest import Manifest
from p2pweb.records import Signed, quote_path
from p2pweb.repair_plan import SPARE_S, Ranks
from p2pweb.sites import SiteVersion
from p2pweb.store.store import Store
from p2pweb.tally import (
    SHARES_MAX,
    Shortage,
    Tally,
    bitmap,
    bytes_of,
    copies_wanted,
    read_bitmap,
    share_count,
    tally,
)

log = logging.getLogger("p2pweb.census")

# Questions unanswered in a row with which a contact is taken for silent and not asked: one may be
# a lost packet.
STRIKES_SILENT = 2
# What was counted so lately is told again; whoever asks for more waits so long for it, while
# somebody out there may be silent.
FRESH_S = 5.0
WAIT_S = 2.0
# By itself: every ten minutes, and while the site is short every minute.
PERIOD_S = 600.0
SHORT_PERIOD_S = 60.0
# A peer that left is replaced after `SPARE_S`; small repairs are done so long after that.
AFTER_GONE_S = SPARE_S + 15.0
# A shortage is told when it lasts so long: a restart, or a peer silent for fifteen seconds, then
# spared, then replaced, takes less.
GRACE_S = SPARE_S + 60.0
# But never more than these bytes a second on the average, of questions and answers: each peer asks
# as much as it is asked, so it is 100 for both. Twenty peers with a site of 1,000 files need 25 to
# count every ten minutes, with one of 100,000 they count every hour and a half.
BYTES_PER_S = 50.0
# Heads and packets of one question and its answer, without the bitmap.
ASK_BYTES = 700
# Keys looked up in one go, so that readers have their turns in between: some 3 ms.
LOOKED_UP_MAX = 256
# What this peer holds is told again for so long, and so many times as long as it took to find out:
# whoever asks all the time takes no more than a twentieth of a core.
HELD_FOR_S = 3.0
HELD_FOR_TIMES = 20.0


class Keepers(Protocol):
    """What `repair` knows of the others."""

    def keepers(self, contacts: Sequence[Contact]) -> list[Contact]:
        """Those that keep the site, as far as is known."""

    def spared(self) -> list[NodeId]:
        """Those that left so lately that they may come back."""

    def note(self, contact: Contact, *, keeps: bool) -> None:
        """Whether a contact keeps the site."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What one peer said: whether it keeps the site, None for silence; and what it holds."""

    keeps: bool | None
    bits: int | None = None
    size_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Count:
    """What came of one count, of a version, at a time of the loop's."""

    signed: Signed
    at: float
    peers: int
    holders: tuple[str, ...]
    tally: Tally
    lacking_bytes: int

    def told(self, now: float) -> CopiesStatus:
        """As a status has it."""
        found = self.tally
        return CopiesStatus(
            ago_s=round(now - self.at, 6),
            peers=self.peers,
            holders=self.holders,
            files=found.files,
            wanted=found.wanted,
            copies=found.copies,
            short=found.short,
            worst=None if found.worst is None else quote_path(found.worst),
            lacking_bytes=self.lacking_bytes,
        )


class Census:
    """The counting side of one peer; `start` when it has joined, `close` when done."""

    def __init__(
        self,
        node_id: bytes,
        store: Store,
        client: PeerClient,
        overlay: Overlay,
        repair: Keepers,
        live: Callable[[], Awaitable[SiteVersion | None]],
        *,
        run: Runner,
        rng: random.Random,
    ) -> None:
        """`live` gives the live version of the site that this peer keeps, as far as is known
        without asking anybody; None where there is none."""
        self._node_id = NodeId(node_id)
        self._store = store
        self._client = client
        self._overlay = overlay
        self._repair = repair
        self._live = live
        self._run = run
        self._rng = rng
        self._task: asyncio.Task[None] | None = None
        self._counting: asyncio.Task[None] | None = None
        self._last: _Count | None = None
        # The others that keep the site, be they silent just now.
        self._keeping: set[NodeId] = set()
        self._shortage = Shortage()
        self._begun = 0.0
        # When the next count is, and before which time there is none.
        self._at = 0.0
        self._not_before = 0.0
        self._sooner = asyncio.Event()
        # What is here of a version, and until when that is told.
        self._held: tuple[Signed, bytes] | None = None
        self._held_until = 0.0
        self._looking = asyncio.Lock()

    def start(self) -> asyncio.Task[None]:
        """Begin to count every now and then; the task that goes on with it."""
        # Peers that started together do not count together.
        self._begun = asyncio.get_running_loop().time()
        self._at = self._begun + PERIOD_S * self._rng.uniform(0.5, 1.0)
        self._task = asyncio.ensure_future(self._keep_counting())
        return self._task

    async def close(self) -> None:
        """End what is under way."""
        tasks = [task for task in (self._task, self._counting) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def met(self, event: Event) -> None:
        """A peer came or went."""
        if isinstance(event, ContactDown):
            at = asyncio.get_running_loop().time() + AFTER_GONE_S * self._rng.uniform(1.0, 1.25)
            # A peer that has just begun has not saved up for a count yet.
            asked = min(len(self._overlay.contacts()), NEIGHBOURS)
            not_before = max(self._not_before, self._begun + asked * ASK_BYTES / BYTES_PER_S)
            self._at = min(self._at, max(at, not_before))
            self._sooner.set()

    async def held(self, site: SiteId, seq: int) -> bytes | None:
        """What is here of this version, as `tally.bitmap`; None where it is not the live one."""
        version = await self._live()
        if version is None or (version.record.site, version.record.seq) != (site, seq):
            return None
        try:
            return await self._held_here(version)
        except CorruptError as error:
            log.warning("%s", error)
            return None

    async def statuses(self) -> list[SiteStatus]:
        """The site that is kept, with its copies as they were counted a moment ago.

        It is counted anew if that was longer ago, and waited for, but not long.
        """
        version = await self._live()
        if version is None:
            return []
        now = asyncio.get_running_loop().time()
        if (known := self._count_of(version)) is None or now - known.at > FRESH_S:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WAIT_S):
                    await asyncio.shield(self._start_counting())
        return [self._status(version)]

    # --- when to count ---

    async def _keep_counting(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while loop.time() < self._at:
                self._sooner.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(self._at):
                        await self._sooner.wait()
            self._at = loop.time() + PERIOD_S * self._rng.uniform(0.75, 1.25)
            await asyncio.shield(self._start_counting())

    def _start_counting(self) -> asyncio.Task[None]:
        if self._counting is None or self._counting.done():
            self._counting = asyncio.ensure_future(self._count())
        return self._counting

    async def _count(self) -> None:
        try:
            version = await self._live()
            if version is not None:
                await self._count_version(version)
        except (CorruptError, OverlayClosedError) as error:
            log.info("the copies of the site are not counted now: %s", error)

    # --- counting ---

    async def _count_version(self, version: SiteVersion) -> None:
        contacts = self._overlay.contacts()
        answering = [
            Contact(one.id, one.address) for one in contacts if not _is_silent(one.strikes)
        ]
        near = sorted(
            self._repair.keepers(answering), key=lambda one: distance(one.id, self._node_id)
        )[:NEIGHBOURS]
        answers = await asyncio.gather(*(self._ask(one, version) for one in near))
        told = list(zip(near, answers, strict=True))
        # Who is silent still counts as one that keeps the site, until it has left for good.
        here = {one.id for one in contacts} | set(self._repair.spared())
        self._keeping = (self._keeping & here) | {one.id for one, said in told if said.keeps}
        self._keeping -= {one.id for one, said in told if said.keeps is False}
        count = share_count(version.manifest)
        own = read_bitmap(await self._held_here(version), count) or 0
        held = [own, *(said.bits for said in answers if said.bits is not None)]
        copies, keeping = version.record.copies, frozenset(self._keeping)
        knows_all = self._overlay.knows_few()

        def work() -> tuple[Tally, int]:
            due = _due(self._node_id, keeping, version.manifest, copies)
            wanted = copies_wanted(copies, 1 + len(keeping))
            counted = (1 << count) - 1 if knows_all else due
            lacking = bytes_of(version.manifest, due & ~own)
            return tally(version.manifest, counted, held, wanted), lacking

        result, lacking_bytes = await self._run(work)
        now = asyncio.get_running_loop().time()
        self._last = _Count(
            signed=version.signed,
            at=now,
            peers=1 + len(keeping),
            holders=tuple(format_address(o.address) for o, said in told if said.bits is not None),
            tally=result,
            lacking_bytes=lacking_bytes,
        )
        self._tell(version, result, now)
        spent_bytes = sum(ASK_BYTES + said.size_bytes for said in answers)
        self._not_before = now + spent_bytes / BYTES_PER_S
        if result.short:
            self._at = min(self._at, max(now + SHORT_PERIOD_S, self._not_before))
        self._at = max(self._at, self._not_before)
        self._sooner.set()

    async def _ask(self, contact: Contact, version: SiteVersion) -> _Answer:
        """What a contact says that it holds."""
        site, seq = version.record.site, version.record.seq
        try:
            data = await self._client.held(contact.address, site, seq)
            if data is None:
                # It may not have heard of this version, or keep another site.
                info = await self._client.peer_info(contact.address)
                return _Answer(info.home == site and info.id == contact.id.hex())
        except RemoteError as error:
            log.debug("not known what it holds: %s", error)
            return _Answer(None)
        self._repair.note(contact, keeps=True)
        bits = read_bitmap(data, share_count(version.manifest))
        return _Answer(True, bits, len(data))

    async def _held_here(self, version: SiteVersion) -> bytes:
        """What is on this disk. CorruptError where the disk cannot be read."""
        loop = asyncio.get_running_loop()
        async with self._looking:
            began = loop.time()
            if self._held is None or self._held[0] != version.signed or began >= self._held_until:
                data = await self._run(lambda: _look_up(self._store, version.manifest))
                now = loop.time()
                self._held = (version.signed, data)
                self._held_until = now + max(HELD_FOR_S, HELD_FOR_TIMES * (now - began))
            return self._held[1]

    # --- what is told ---

    def _tell(self, version: SiteVersion, found: Tally, now: float) -> None:
        self._shortage, is_news = self._shortage.after(
            is_short=found.short > 0, now=now, grace_s=GRACE_S
        )
        site = version.record.site
        if is_news and found.short:
            log.warning(
                "site %s is short of copies: %d of %d files have fewer than %d; %s has %d",
                *(site, found.short, found.files, found.wanted, found.worst, found.copies),
            )
        elif is_news:
            log.info("site %s has its copies again: %d of each file", site, found.copies)

    def _count_of(self, version: SiteVersion) -> _Count | None:
        """The last count, if it was of this version."""
        return self._last if self._last and self._last.signed == version.signed else None

    def _status(self, version: SiteVersion) -> SiteStatus:
        known = self._count_of(version)
        return SiteStatus(
            site=version.record.site,
            seq=version.record.seq,
            files=len(version.manifest.entries),
            copies_asked=version.record.copies,
            copies=known.told(asyncio.get_running_loop().time()) if known else None,
        )


def _is_silent(strikes: int) -> bool:
    return strikes >= STRIKES_SILENT


def _due(own: NodeId, others: Collection[NodeId], manifest: Manifest, copies: int) -> int:
    """The shares whose bytes a peer should have, as a bitmap."""
    if len(others) < copies:
        return (1 << share_count(manifest)) - 1
    ranks = Ranks(own, others)
    is_due = [ranks.of(share.key, copies) < copies for share in manifest.shares[:SHARES_MAX]]
    return int.from_bytes(bitmap(is_due), "little")


def _look_up(store: Store, manifest: Manifest) -> bytes:
    """What a store has of a version, as a bitmap. CorruptError where it cannot be read."""
    shares = iter(manifest.shares[:SHARES_MAX])
    held: list[bool] = []
    while some := [(share.key, share.record) for share in islice(shares, LOOKED_UP_MAX)]:
        held += store.holds_whole(some)
    return bitmap(held)
