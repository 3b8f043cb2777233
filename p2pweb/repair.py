"""Sees to it that this peer has the copies that it should have.

Which those are, `repair_plan` knows; what is lacking, `fetching` gets from the other peers that
keep the site. It looks again whenever that may have changed: after the start, after a new version,
after a peer left, and every now and then. A peer that left is spared for a while, since most that
leave come back; what it kept is fetched only after that.
"""

import asyncio
import contextlib
import functools
import logging
import math
import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence

from p2pweb.dht.contact import Contact, NodeId
from p2pweb.dht.events import ContactDown, Event
from p2pweb.dht.overlay import ContactState, Overlay, OverlayClosedError
from p2pweb.errors import CorruptError, NotAPeerError, RemoteError, UnavailableError
from p2pweb.exchange.client import PeerClient
from p2pweb.exchange.doubt import Doubt
from p2pweb.exchange.reader import BlobReader, Runner
from p2pweb.exchange.wire import BUNDLE_ITEMS_MAX
from p2pweb.fetching import Fetcher
from p2pweb.keys import SiteId
from p2pweb.manifest import Share
from p2pweb.records import dht_key, site_name
from p2pweb.repair_plan import (
    RECORD_COPIES,
    SPARE_S,
    Due,
    Gone,
    Neighbours,
    affordable,
    beyond,
    plan_repairs,
    shares_of,
)
from p2pweb.sites import SiteVersion
from p2pweb.store.store import Store
from p2pweb.trim import Trim

log = logging.getLogger("p2pweb.repair")

# After a version goes live, so that its last copies are placed, and peers that heard of it at one
# moment do not ask at one moment: up to twice so long.
AFTER_VERSION_S = 1.0
# Whether or not anything happened, so that what failed is tried again.
PERIOD_S = 60.0
# While neither the version nor the neighbours change, nothing that was here should be lacking; that
# is looked after so often all the same.
SETTLED_S = 600.0
# Several peers that leave one after the other are one round of repairs.
PAUSE_S = 2.0
# How much of a budget repairs fill: the rest is for the next version, which comes before the last
# one goes.
FILLED_MAX = 0.8

# Copies wanted, who is there, who has left: on these depends what is due here of a version.
_Situation = tuple[int, frozenset[NodeId], Gone]


class Repair:
    """The repairing side of one peer; `start` when it has joined, `close` when done."""

    def __init__(
        self,
        node_id: bytes,
        store: Store,
        client: PeerClient,
        overlay: Overlay,
        reader: BlobReader,
        doubt: Doubt,
        live: Callable[[], Awaitable[SiteVersion | None]],
        *,
        run: Runner,
        write: Runner,
        rng: random.Random,
        remembered: Collection[Contact] = (),
    ) -> None:
        """`live` gives the live version of the site that this peer keeps, None where it keeps none
        or nobody has one. UnavailableError where it cannot be had. `remembered` are contacts of an
        earlier run."""
        self._node_id = NodeId(node_id)
        self._store = store
        self._client = client
        self._overlay = overlay
        self._live = live
        self._run = run
        self._write = write
        self._rng = rng
        self._remembered = frozenset(remembered)
        self._task: asyncio.Task[None] | None = None
        self._beginning: asyncio.Task[None] | None = None
        # When the next round is.
        self._at = 0.0
        self._sooner = asyncio.Event()
        self._neighbours = Neighbours(self._node_id)
        # Of which version nothing was lacking, in which situation, and how long that is relied on.
        self._settled: SiteVersion | None = None
        self._situation: _Situation | None = None
        self._settled_until = 0.0
        self._fetcher = Fetcher(
            store, client, overlay, reader, doubt, self._neighbours, run=run, write=write
        )
        self._trim = Trim(self._node_id, store, client, self._fetcher.closest, run=run, write=write)
        # There was no room for something that is due here.
        self._is_full = False

    def begin(self) -> None:
        """Meet those who decide what is due here: that takes no version of the site."""
        self._beginning = asyncio.ensure_future(self._begin())

    def start(self) -> asyncio.Task[None]:
        """Go on with rounds; the task that does so."""
        if self._beginning is None:
            self.begin()
        self._task = asyncio.ensure_future(self._keep_up())
        return self._task

    async def close(self) -> None:
        """End what is under way."""
        tasks = [task for task in (self._beginning, self._task) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def received(self) -> int:
        """How many records others have sent, those that were not kept included."""
        return self._fetcher.received

    def has_version(self) -> None:
        """A version of the site has gone live, or is about to."""
        self._within(AFTER_VERSION_S * self._rng.uniform(1.0, 2.0))

    def has_damage(self) -> None:
        """Something was lost of what is on this peer's disk."""
        self._settled = None
        self._within(PAUSE_S)

    def met(self, event: Event) -> None:
        """A peer came or went."""
        self._neighbours.met(event, asyncio.get_running_loop().time())
        if isinstance(event, ContactDown):
            self._within(SPARE_S)

    def _within(self, seconds: float) -> None:
        at = asyncio.get_running_loop().time() + seconds
        if at < self._at:
            self._at = at
            self._sooner.set()

    # --- rounds ---

    async def _begin(self) -> None:
        """Meet those who decide what is due here.

        Whoever comes back and knew half of its nearest before, or more, has met them.
        """
        if self._remembered:
            near = await self._overlay.look_around(again=True)
            if near and 2 * len(self._remembered.intersection(near)) >= len(near):
                return
            self._overlay.refresh_table()
        heard = self._overlay.heard_of(self._node_id, RECORD_COPIES)
        keys = beyond(self._node_id, [one.id for one in heard])
        near, *_ = await self._meet([self._node_id, *keys])
        # What was heard may have been wrong.
        right = beyond(self._node_id, [one.id for one in near])
        await self._meet(key for key in right if key not in keys)

    async def _meet(self, keys: Iterable[bytes]) -> list[list[Contact]]:
        """Meet those closest to each of these keys, who were heard of while joining."""
        lookups = [self._overlay.find_node(key, RECORD_COPIES, wide=True) for key in keys]
        return await asyncio.gather(*lookups)

    async def _keep_up(self) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OverlayClosedError):
            assert self._beginning is not None  # noqa: S101 - `start` sees to it
            await self._beginning
            self._at = loop.time()
            while True:
                while (now := loop.time()) < self._at:
                    self._sooner.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout_at(self._at):
                            await self._sooner.wait()
                # Peers that started together do not go on together.
                self._at = now + PERIOD_S * self._rng.uniform(0.75, 1.25)
                try:
                    await self._look()
                except OverlayClosedError:
                    raise
                except (UnavailableError, CorruptError, OSError) as error:
                    log.warning("copies that are due here cannot be fetched: %s", error)
                next_at = min(self._at, self._neighbours.next_gone(now))
                self._at = max(loop.time() + PAUSE_S, next_at)

    async def _look(self) -> None:
        """One round: what is lacking, and fetch it."""
        version = await self._live()
        contacts = self._overlay.contacts()
        known = [Contact(one.id, one.address) for one in contacts]
        keepers = self._neighbours.keepers(known)
        if version is None or not keepers:
            return
        now = asyncio.get_running_loop().time()
        present, gone = self._neighbours.present_and_gone(keepers, now)
        situation = (version.record.copies, present, gone)
        if situation != self._situation or now >= self._settled_until:
            # Everything is looked after; else only what a new version changed.
            self._settled, self._situation = None, situation
            self._settled_until = now + SETTLED_S
        settled = self._settled
        if settled is None or settled.signed != version.signed:
            plan = functools.partial(plan_repairs, self._node_id, present, gone)
            if self._is_nearly_full():
                await self._trim.look(present, version.manifest, version.record.copies)
            is_lacking = await self._fetch_lacking(version, settled, plan)
            self._settled = None if is_lacking else version
        await self._ask_who(contacts, version.record.site)

    async def _fetch_lacking(
        self,
        version: SiteVersion,
        settled: SiteVersion | None,
        plan: Callable[[Sequence[Share], int], list[Due]],
    ) -> bool:
        """Fetch what is due and not on this disk; whether some of it still is not.

        What `settled` has too is on this disk.
        """
        copies = version.record.copies
        known = settled.manifest if settled else None
        due = await self._run(lambda: plan(shares_of(version.manifest, known), copies))
        lacking: list[Due] = []
        for start in range(0, len(due), BUNDLE_ITEMS_MAX):
            lacking += await self._lacking(due[start : start + BUNDLE_ITEMS_MAX])
        lacking = await self._make_do(lacking)
        fetched = await self._fetcher.fetch(lacking, copies)
        if lacking:
            short = len(lacking) - fetched
            rest = f", {short} cannot be had now" if short else ""
            log.info("fetched %d copies that were due here%s", fetched, rest)
        return fetched < len(lacking)

    async def _lacking(self, dues: Sequence[Due]) -> list[Due]:
        """Those that are not on this disk; some at a time, so that readers have their turns."""
        holds = self._store.holds
        return await self._run(
            lambda: [
                one
                for one in dues
                if not holds(one.share.key, one.share.record, with_bytes=one.with_bytes)
            ]
        )

    def _is_nearly_full(self) -> bool:
        room = self._store.room()
        return self._store.has_budget and room.for_good < (1 - FILLED_MAX) * room.capacity

    async def _make_do(self, lacking: Sequence[Due]) -> list[Due]:
        """Of these, what there is room for and has to be fetched."""
        room = self._store.room()
        left = (
            room.for_good - (1 - FILLED_MAX) * room.capacity if self._store.has_budget else math.inf
        )
        taken = affordable(lacking, max(0, min(left, room.for_good)))
        if len(taken) < len(lacking) and not self._is_full:
            log.warning("%d copies due here are not fetched: %s", len(lacking) - len(taken), room)
        self._is_full = len(taken) < len(lacking)
        keys = [one.share.key for one in taken if one.with_bytes]
        if keys and room.passing_bytes:
            await self._write(lambda: self._store.retain(keys))
            taken = await self._lacking(taken)
        return taken

    async def _ask_who(self, contacts: Sequence[ContactState], site: SiteId) -> None:
        """Ask those of whom it is not known, of each part of the id space that is known whole, so
        that nobody is counted on who keeps nothing. Who is silent is asked once it answers."""
        now = asyncio.get_running_loop().time()
        by_bucket: dict[int, list[ContactState]] = {}
        own = int.from_bytes(self._node_id)
        for one in contacts:
            bucket = (int.from_bytes(one.id) ^ own).bit_length()
            by_bucket.setdefault(bucket, []).append(one)
        sound = [
            Contact(one.id, one.address)
            for bucket in by_bucket.values()
            if len(bucket) < RECORD_COPIES
            for one in bucket
            if one.proved and not one.strikes
        ]
        unknown = [one for one in sound if not self._neighbours.is_known(one, now)]

        async def ask(contact: Contact) -> None:
            async with self._fetcher.asking:
                keeps = await self._keeps(contact, site)
            if keeps is not None:
                self.note(contact, keeps=keeps)

        await asyncio.gather(*map(ask, unknown))
        if len(self._neighbours.keepers(unknown)) < len(unknown):
            self._within(PAUSE_S)

    async def _keeps(self, contact: Contact, site: SiteId) -> bool | None:
        """Whether a contact keeps a site; None where it does not say.

        It says so beside the site's record: that takes 264 bytes there and back. By HTTP it is 472,
        for those that have no record, or say nothing beside it.
        """
        found = await self._overlay.value_of(contact, dht_key(site_name(site)))
        if found is not None and isinstance(keeps := found.extra.get("keeps"), bool):
            return keeps
        try:
            info = await self._client.peer_info(contact.address)
        except NotAPeerError:
            return False
        except RemoteError as error:
            log.debug("not known whether it keeps the site: %s", error)
            return None
        return info.id == contact.id.hex() and info.home == site

    # --- who keeps the site ---

    def note(self, contact: Contact, *, keeps: bool) -> None:
        """Whether a contact keeps the site."""
        self._fetcher.note(contact, keeps=keeps)

    def keepers(self, contacts: Sequence[Contact]) -> list[Contact]:
        """Those that keep the site, as far as is known."""
        return self._neighbours.keepers(contacts)

    def known_keepers(self, contacts: Sequence[Contact]) -> set[Contact]:
        """Those that are known to keep the site."""
        now = asyncio.get_running_loop().time()
        return {one for one in self.keepers(contacts) if self._neighbours.is_known(one, now)}

    def spared(self) -> list[NodeId]:
        """Those that left so lately that they may come back."""
        now = asyncio.get_running_loop().time()
        return list(self._neighbours.present_and_gone([], now)[0])
