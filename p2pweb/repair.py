"""Fetches the copies that this peer should have and lacks, from the other peers that keep the site.

What it should have, `repair_plan` knows; this asks for it: first the peers near each key, many keys
at once, then whoever a lookup finds. It looks again whenever that may have changed: after the
start, after a new version, after a peer left, and every now and then. A peer that left is spared
for a while, since most that leave come back; what it kept is fetched only after that.
"""

import asyncio
import contextlib
import errno
import functools
import logging
import math
import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence

from p2pweb.address import format_address
from p2pweb.blobs import InvalidBlockError
from p2pweb.dht.contact import Contact, NodeId
from p2pweb.dht.events import ContactDown, Event
from p2pweb.dht.overlay import ContactState, Overlay, OverlayClosedError
from p2pweb.errors import CorruptError, NotAPeerError, RemoteError, UnavailableError
from p2pweb.exchange.client import PeerClient
from p2pweb.exchange.doubt import Doubt
from p2pweb.exchange.reader import BlobReader, Runner, Source
from p2pweb.exchange.wire import (
    BUNDLE_DATA_BYTES,
    BUNDLE_ITEMS_MAX,
    Bundle,
    InvalidMessageError,
)
from p2pweb.keys import SiteId
from p2pweb.records import (
    InvalidRecordError,
    dht_key,
    file_name,
    open_record,
    record_key,
    site_name,
)
from p2pweb.repair_plan import (
    RECORD_COPIES,
    SPARE_S,
    Due,
    Gone,
    Neighbours,
    Share,
    affordable,
    beyond,
    plan_repairs,
    shares_of,
    whom_to_ask,
)
from p2pweb.sites import SiteVersion
from p2pweb.store.store import Full, Held, Item, Store
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
# Peers asked at one time; the answer of each has up to 6 MiB.
ASKS_MAX = 8
# After so many of those near a key were asked for it in vain, a lookup looks for others. Where half
# of all peers just left, and their successors have nothing yet, one key in 256 comes to that.
TRIES_MAX = 8
# Lookups of one round, for what nobody near has; the rest is for the next round.
LOOKUPS_MAX = 64
# The ceiling on what a peer fetches, so that repairs leave room for visitors on a link of 100
# Mbit/s, and bodies of 10 GB come back within the hour.
BYTES_PER_S = 4 * 1024 * 1024
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
        self._reader = reader
        self._doubt = doubt
        self._live = live
        self._run = run
        self._write = write
        self._rng = rng
        self._remembered = frozenset(remembered)
        self._task: asyncio.Task[None] | None = None
        # When the next round is.
        self._at = 0.0
        self._sooner = asyncio.Event()
        self._neighbours = Neighbours(self._node_id)
        # Of which version nothing was lacking, in which situation, and how long that is relied on.
        self._settled: SiteVersion | None = None
        self._situation: _Situation | None = None
        self._settled_until = 0.0
        self._trim = Trim(self._node_id, store, client, self.closest, run=run, write=write)
        # There was no room for something that is due here.
        self._is_full = False
        self.asking = asyncio.Semaphore(ASKS_MAX)
        # How many records others have sent, those that were not kept included.
        self.received = 0
        self._busy_until = 0.0

    def start(self) -> asyncio.Task[None]:
        """Begin with rounds; the task that goes on with them."""
        self._task = asyncio.ensure_future(self._keep_up())
        return self._task

    async def close(self) -> None:
        """End what is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

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
            await self._begin()
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
        plan: Callable[[Iterable[Share], int], list[Due]],
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
        work = _Work(self, copies)
        for start in range(0, len(lacking), BUNDLE_ITEMS_MAX):
            await work.fetch(lacking[start : start + BUNDLE_ITEMS_MAX])
        if lacking:
            log.info("%s", work.told(len(lacking)))
        return work.fetched < len(lacking)

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
            async with self.asking:
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

    # --- what the work on one round needs ---

    def closest(self, key: bytes) -> list[Contact]:
        """Whom to ask for what lies at a key, the best first."""
        near = self._overlay.closest(key, RECORD_COPIES)
        return self._neighbours.best_first(near, asyncio.get_running_loop().time())

    def trusted(self, contacts: Sequence[Contact]) -> list[Contact]:
        """Those of them that are not doubtful."""
        now = asyncio.get_running_loop().time()
        return [one for one in contacts if not self._doubt.has(one.address, now)]

    def blame(self, contact: Contact) -> None:
        """It failed, or sent what it should not."""
        self._doubt.failed(contact.address, asyncio.get_running_loop().time())

    def trust(self, contact: Contact) -> None:
        """It sent bytes that are proved."""
        self._doubt.proved(contact.address)

    def rtt_s(self, contact: Contact) -> float:
        """How far a contact is; infinity where that is not known."""
        return self._overlay.rtt_s(contact)

    def note(self, contact: Contact, *, keeps: bool) -> None:
        """Whether a contact keeps the site."""
        self._neighbours.note(contact, asyncio.get_running_loop().time(), keeps=keeps)

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

    async def ask(self, contact: Contact, dues: Sequence[Due]) -> Bundle | None:
        """What a contact has of these; None where it fails, or keeps no site at all."""
        try:
            answer = await self._client.copies(
                contact.address, [(one.share.key, one.with_bytes) for one in dues]
            )
        except NotAPeerError:
            answer = None
        except RemoteError as error:
            log.info("a peer has no copies for this one: %s", error)
            self.blame(contact)
            return None
        self.note(contact, keeps=answer is not None)
        self.received += len(answer.items) if answer is not None else 0
        return answer

    async def keep(
        self, answer: Bundle, dues: Mapping[bytes, Due]
    ) -> tuple[list[tuple[bytes, Item, bool]], list[bool]]:
        """Put what was asked for on the disk; as `_asked_for`, and of each whether it is whole now.

        InvalidMessageError or InvalidBlockError where the answer is not what it should be.
        """
        items = await self._run(lambda: _asked_for(answer, dues))
        parts = {part for _, item, _ in items for part in item.signed.record.parts(item.segment)}
        segments = [data for data in answer.segments() if (data.blob, data.segment) in parts]
        outcomes = await self._write(
            lambda: self._store.commit([item for _, item, _ in items], segments)
        )
        await self.pace(sum(len(data.data) for data in segments))
        for outcome in outcomes:
            if isinstance(outcome, Full):
                raise OSError(errno.ENOSPC, outcome.why)
        return items, [isinstance(one, Held) and not one.wants for one in outcomes]

    async def fetch_bytes(self, due: Due) -> bool:
        """Fetch the bytes of a record kept here from whoever has them; whether that worked."""
        share = due.share
        site, path = share.record.site, share.record.path
        for blob, segment in share.record.parts(share.segment):
            source = Source(blob, lambda number: dht_key(file_name(site, path, number)))
            if not await self._run(lambda: self._store.has(blob, segment)):  # noqa: B023
                if not await self._reader.keep(source, segment):
                    return False
                await self.pace(blob.segment_size(segment))
        return True

    async def find_record(self, due: Due) -> bool:
        """Look for a record that nobody near has, and keep it; whether it was found."""
        async with self.asking, self._overlay.find_value(due.share.key) as search:
            async for found in search:
                with contextlib.suppress(InvalidRecordError):
                    signed = open_record(found.value)
                    self.received += 1
                    if signed.record == due.share.record:
                        item = Item(signed, due.share.segment, due.with_bytes)
                        await self._write(lambda: self._store.commit([item]))  # noqa: B023
                        return True
        return False

    async def pace(self, size_bytes: int) -> None:
        """Wait until so many more bytes may be fetched."""
        now = asyncio.get_running_loop().time()
        self._busy_until = max(now, self._busy_until) + size_bytes / BYTES_PER_S
        if self._busy_until > now:
            await asyncio.sleep(self._busy_until - now)


class _Work:
    """The fetching of one round."""

    def __init__(self, repair: Repair, copies: int) -> None:
        self._repair = repair
        self._copies = copies
        self._failed: set[Contact] = set()
        # What this peer's disk said.
        self._fault: OSError | None = None
        self._lookups = 0
        self.fetched = 0

    def told(self, lacking: int) -> str:
        """One line on what came of it."""
        short = lacking - self.fetched
        rest = f", {short} cannot be had now" if short else ""
        return f"fetched {self.fetched} copies that were due here{rest}"

    async def fetch(self, dues: Sequence[Due]) -> None:
        """Fetch as many as one request asks for."""
        wanted = {one.share.key: one for one in dues}
        asked: dict[bytes, set[Contact]] = {key: set() for key in wanted}
        long: list[Due] = []
        await self._ask_near(list(wanted), wanted, asked, long)
        if self._fault is not None:
            raise self._fault
        sought = list(wanted.values())[: LOOKUPS_MAX - self._lookups]
        self._lookups += len(sought)
        found = await asyncio.gather(*map(self._find, sought))
        if self._fault is not None:
            raise self._fault
        long += [due for due, is_found in zip(sought, found, strict=True) if is_found]
        for due in long:
            self.fetched += not due.with_bytes or await self._repair.fetch_bytes(due)

    async def _ask_near(
        self,
        keys: Sequence[bytes],
        wanted: dict[bytes, Due],
        asked: dict[bytes, set[Contact]],
        long: list[Due],
    ) -> None:
        """Ask those near these keys for what lies there, and, where somebody lacks some of it,
        others for that at once, whoever else is still being waited for."""

        async def ask(contact: Contact, keys: Sequence[bytes]) -> None:
            await self._ask(contact, [wanted[key] for key in keys], wanted, asked, long)

        async def ask_and_go_on(contact: Contact, keys: Sequence[bytes]) -> None:
            await ask(contact, keys)
            await self._ask_near(keys, wanted, asked, long)

        while self._fault is None:
            others = {
                key: asked[key] | self._failed
                for key in keys
                if key in wanted and len(asked[key]) < TRIES_MAX
            }
            asks = whom_to_ask(
                others, functools.partial(self._near, others), self._copies, self._repair.rtt_s
            )
            if len(asks) != 1:
                await asyncio.gather(*(ask_and_go_on(*one) for one in asks.items()))
                return
            # No deeper for each answer: some bring but one of many bodies.
            await ask(*asks.popitem())

    def _near(self, others: Mapping[bytes, Collection[Contact]], key: bytes) -> list[Contact]:
        """Whom to ask for what lies at a key, the best first; the doubtful, when they are left."""
        left = [one for one in self._repair.closest(key) if one not in others[key]]
        return self._repair.trusted(left) or left

    async def _find(self, due: Due) -> bool:
        try:
            return await self._repair.find_record(due)
        except OSError as error:
            self._fault = error
            return False

    async def _ask(
        self,
        contact: Contact,
        dues: Sequence[Due],
        wanted: dict[bytes, Due],
        asked: dict[bytes, set[Contact]],
        long: list[Due],
    ) -> None:
        by_key = {due.share.key: due for due in dues}
        async with self._repair.asking:
            answer = await self._repair.ask(contact, dues)
            for key in by_key:
                asked[key].add(contact)
            if answer is None:
                self._failed.add(contact)
                return
            try:
                items, whole = await self._repair.keep(answer, by_key)
            except (InvalidMessageError, InvalidBlockError) as error:
                where = format_address(contact.address)
                log.warning("%s sent what it should not: %s", where, error)
                self._repair.blame(contact)
                self._failed.add(contact)
                return
            except OSError as error:
                self._fault = error
                return
        for (key, item, gives), is_whole in zip(items, whole, strict=True):
            if is_whole:
                self.fetched += 1
                # A record alone proves nothing: anybody can have that.
                if wanted.pop(key).with_bytes:
                    self._repair.trust(contact)
            elif _is_long(item):
                long.append(wanted.pop(key))
            elif gives and any(whole):
                # There was no room for its bytes in the answer.
                asked[key].discard(contact)


def _asked_for(answer: Bundle, dues: Mapping[bytes, Due]) -> list[tuple[bytes, Item, bool]]:
    """The records of an answer that were asked for, each once, by key, and whether their bytes are
    there too. InvalidMessageError where one is no record."""
    items: dict[bytes, tuple[bytes, Item, bool]] = {}
    for each in answer.items:
        try:
            signed = open_record(each.value)
        except InvalidRecordError as error:
            raise InvalidMessageError(str(error)) from None
        key = record_key(signed.record, each.segment)
        due = dues.get(key)
        # Another version's may be what that peer has there.
        if due is not None and signed.record == due.share.record:
            items[key] = (key, Item(signed, due.share.segment, due.with_bytes), each.with_bytes)
    return list(items.values())


def _is_long(item: Item) -> bool:
    """Whether its bytes do not go into one answer, whatever else is in there."""
    parts = item.signed.record.parts(item.segment)
    return sum(blob.segment_size(segment) for blob, segment in parts) > BUNDLE_DATA_BYTES
