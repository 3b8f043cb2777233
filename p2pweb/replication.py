"""Puts copies of records and bytes on the peers that should hold them, and counts them.

The holders of a key are the `copies` closest peers; the record alone also goes to the rest of the
k = 20 closest. What goes to the same peer travels together: first the records, then, in bundles,
just the bytes that it says it lacks; where those are few bytes, all at once. A copy counts when its
peer has answered that the record and all its bytes are on its disk; this peer's own count likewise
where it is among the closest. The records that nobody counts are fetched by those who should have
them (`repair`) once the version is live.
"""

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from p2pweb.address import Address, format_address
from p2pweb.blobs import Part, SegmentData
from p2pweb.dht.contact import ID_BITS, Contact, NodeId, distance
from p2pweb.dht.neighbourhood import Neighbourhood
from p2pweb.dht.overlay import Overlay
from p2pweb.errors import CorruptError, NotAPeerError, RemoteError
from p2pweb.exchange.client import PeerClient
from p2pweb.exchange.reader import Runner
from p2pweb.exchange.service import Placed
from p2pweb.exchange.wire import BUNDLE_DATA_BYTES, InvalidMessageError, ItemAnswer
from p2pweb.records import COPIES_MAX, SiteRecord
from p2pweb.repair_plan import RECORD_COPIES
from p2pweb.store.items import Full, Held, Item, Outcome
from p2pweb.store.store import Store

log = logging.getLogger("p2pweb.replication")

# A peer that just failed is not asked again for so long: long enough for one publish to go on
# without waiting for it in every batch, short enough for the next publish to try it.
AVOID_S = 10.0
# Peers known to store sites, so that a stock node or one of another site is not counted as missing.
KNOWN_PEERS_MAX = 1_024
# Bundles being placed at one time: what a few publishers at once have under way.
PLACES_MAX = 8
# Lookups of one batch under way at once; so few keys are looked for one by one.
LOOKUPS_MAX = 16
# A peer that takes longer is asked by UDP whether it is there, again and again: TCP would wait
# half a minute for one that vanished. A busy one answers one of several pings.
LOOK_AFTER_S = 5.0
# What is kept in memory of one batch while it is placed, so that it is read and proved once and not
# for each peer: one bundle's bytes.
READ_BYTES_MAX = BUNDLE_DATA_BYTES

T = TypeVar("T")

_Read = Callable[[Sequence[Part]], Awaitable[Sequence[SegmentData]]]


@dataclass(slots=True)
class _Task:
    """One item on its way: who may still be asked, and who has it."""

    item: Item
    wanted: int
    candidates: deque[Contact | None] = field(default_factory=deque)  # None is this peer itself.
    tried: set[Contact | None] = field(default_factory=set)
    copies: int = 0
    # How many more peers were found than were looked for, but for those that refused: a crowd is
    # next to the key, which may keep nothing of what it says that it keeps. As many copies more are
    # placed, and not counted.
    crowd: int = 0
    missed: int = 0
    newer: bytes = b""
    why: str = ""

    def miss(self, why: str) -> None:
        """One that should have a copy has none."""
        self.missed += 1
        self.why = self.why or why

    @property
    def short(self) -> int:
        """How many copies it lacks."""
        return self.wanted - self.counted

    @property
    def counted(self) -> int:
        """How many copies there are, whatever a crowd is worth."""
        return max(0, self.copies - self.crowd)


class Replication:
    """The placing side of one peer."""

    def __init__(
        self, node_id: bytes, store: Store, client: PeerClient, overlay: Overlay, run: Runner
    ) -> None:
        self._node_id = node_id
        self._store = store
        self._client = client
        self._overlay = overlay
        self._run = run
        # Peers that have kept something for us: when one fails, a copy is missing.
        self._holders: OrderedDict[Contact, None] = OrderedDict()
        self._avoided: dict[Address, tuple[float, RemoteError]] = {}
        self._placing = asyncio.Semaphore(PLACES_MAX)

    async def place(
        self, items: Sequence[Item], copies: int, segments: Sequence[SegmentData] = ()
    ) -> list[Placed]:
        """Have `copies` (1 to 20) peers keep each item; how many do, for each, in order.

        The items and their bytes are on this peer's disk already; `segments`, proved, need not be
        read from there. Where there are fewer peers than copies, all of them is what is wanted.
        """
        at_hand = {(data.blob, data.segment): data for data in segments}
        reading = asyncio.Lock()

        async def read(parts: Sequence[Part]) -> list[SegmentData]:
            # One after the other: what one peer lacks is mostly what the next one lacks.
            async with reading:
                for data in await self._read([part for part in parts if part not in at_hand]):
                    at_hand[data.blob, data.segment] = data
                found = [at_hand[part] for part in parts if part in at_hand]
                if sum(len(data.data) for data in at_hand.values()) > READ_BYTES_MAX:
                    at_hand.clear()
                return found

        async with self._placing:
            return await self._place(items, max(1, min(copies, COPIES_MAX)), read)

    async def _place(self, items: Sequence[Item], copies: int, read: _Read) -> list[Placed]:
        tasks = [_Task(item, copies) for item in items]
        # First those alone that are to have copies; all k closest where some of them keep none.
        for need in dict.fromkeys((copies, RECORD_COPIES)):
            short = [task for task in tasks if task.short]
            if short:
                await self._find_candidates(short, need)
            while batches := _next_round(short):
                await asyncio.gather(
                    *(
                        self._place_with(contact, batch, read)
                        if contact is not None
                        else self._place_here(batch)
                        for contact, batch in batches.items()
                    )
                )
        return [
            Placed(
                task.counted,
                min(task.wanted, task.counted + task.missed),
                task.newer,
                task.why,
            )
            for task in tasks
        ]

    async def _place_here(self, tasks: Sequence[_Task]) -> None:
        """Count what is on this peer's own disk; with a budget, as far as it may stay there."""
        outcomes: Sequence[Outcome] = [Held(())] * len(tasks)
        if self._store.has_budget:
            items = [replace(task.item, passing=False) for task in tasks]
            try:
                outcomes = await self._run(lambda: self._store.commit(items))
            except OSError as error:
                log.error("this peer's disk refused a write: %s", error)
                outcomes = [Full(f"its disk refused a write: {error.strerror}")] * len(tasks)
        for task, outcome in zip(tasks, outcomes, strict=True):
            if outcome == Held(()):
                task.copies += 1
            else:
                task.miss(f"the peer published through: {getattr(outcome, 'why', 'has it not')}")

    async def _find_candidates(self, tasks: Sequence[_Task], need: int) -> None:
        """Tell each of the `need` peers closest to its key, but for those that it has tried."""
        # With fewer contacts than a lookup ends with, those are the closest to every key.
        if self._overlay.knows_few():
            contacts = self._overlay.closest(self._node_id, COPIES_MAX)
            for task in tasks:
                task.candidates = self._untried(task, contacts, COPIES_MAX)
            return
        limit = asyncio.Semaphore(LOOKUPS_MAX)
        if len(tasks) <= LOOKUPS_MAX or need == RECORD_COPIES:
            await asyncio.gather(*(self._look_up(task, need, limit) for task in tasks))
            return
        ordered = sorted(tasks, key=lambda task: task.item.key)
        run = -(-len(ordered) // self._stretches(ordered))
        await asyncio.gather(
            *(
                self._find_around(ordered[start : start + run], need, limit)
                for start in range(0, len(ordered), run)
            )
        )

    def _stretches(self, ordered: Sequence[_Task]) -> int:
        """Into how many stretches of the id space to divide these keys, for each of which a lookup
        is needed: it is good for keys less far off than the k closest to it are."""
        near = self._overlay.closest(self._node_id, RECORD_COPIES)
        radius = max((distance(one.id, self._node_id) for one in near), default=1 << ID_BITS)
        first, last = (int.from_bytes(task.item.key) for task in (ordered[0], ordered[-1]))
        return min(LOOKUPS_MAX, 1 + (last - first) // radius)

    async def _look_up(self, task: _Task, need: int, limit: asyncio.Semaphore) -> None:
        async with limit:
            contacts = await self._overlay.find_node(
                task.item.key, None if need == RECORD_COPIES else need
            )
        self._found(task, contacts, need)
        # Those that are silent may well be there, and this peer cut off from them.
        if need == RECORD_COPIES:
            task.missed += max(0, need - len(contacts))

    def _found(self, task: _Task, contacts: Sequence[Contact], need: int) -> None:
        """Take the peers found that are closest to a task's key: `need`, or more around a crowd."""
        task.crowd = max(task.crowd, len(contacts) - need)
        task.candidates = self._untried(task, contacts, max(need, len(contacts)))

    async def _find_around(
        self, tasks: Sequence[_Task], need: int, limit: asyncio.Semaphore
    ) -> None:
        """Find those closest to neighbouring keys, in order: a lookup in the middle is good for
        many, and what is left on either side is found in the same way."""
        if not tasks:
            return
        middle = len(tasks) // 2
        key = NodeId(tasks[middle].item.key)
        async with limit:
            contacts = await self._overlay.find_node(key)
        is_crowded = len(contacts) > RECORD_COPIES
        self._found(tasks[middle], contacts if is_crowded else contacts[:need], need)
        around = None if is_crowded else Neighbourhood(key, contacts, RECORD_COPIES)

        def left(side: Sequence[_Task]) -> Iterator[_Task]:
            for task in side:
                known = around.closest(NodeId(task.item.key), need) if around else None
                if known is None:
                    yield task
                else:
                    self._found(task, known, need)

        sides = (tasks[:middle], tasks[middle + 1 :])
        await asyncio.gather(*(self._find_around(list(left(side)), need, limit) for side in sides))

    def _untried(
        self, task: _Task, contacts: Sequence[Contact], need: int
    ) -> deque[Contact | None]:
        """These, nearest first, with this peer in its place, but for those that were tried.

        Where `need` others are nearer this peer is left out, unless they are all k: then it is the
        last resort.
        """
        key = task.item.key
        far = [distance(contact.id, key) for contact in contacts]
        nearest = sorted(range(len(far)), key=far.__getitem__)
        ranked: list[Contact | None] = [contacts[number] for number in nearest]
        own = distance(self._node_id, key)
        nearer = sum(one < own for one in far)
        if nearer < need or need == RECORD_COPIES:
            ranked.insert(nearer, None)
        return deque(one for one in ranked if one not in task.tried)

    async def _place_with(self, contact: Contact, tasks: Sequence[_Task], read: _Read) -> None:
        try:
            answers = await self._push(contact, [task.item for task in tasks], read)
        except RemoteError as error:
            for task in tasks:
                task.crowd = max(0, task.crowd - 1)
                if contact in self._holders or not isinstance(error, NotAPeerError):
                    task.miss(str(error))
            return
        where = format_address(contact.address)
        for task, answer in zip(tasks, answers, strict=True):
            if answer.is_whole:
                task.copies += 1
            elif answer.state == "held":
                task.miss(f"the bytes did not reach {where}")
            elif answer.state == "full":
                task.miss(f"{where}: {answer.why}")
            elif answer.state == "stale":
                try:
                    seq = answer.proved_seq(task.item.signed)
                except InvalidMessageError as error:
                    log.warning("%s answers %s", where, error)
                    task.miss(f"{where} answers {error}")
                else:
                    # A peer behind the live version, or ahead of nothing, refuses what lives.
                    record = task.item.signed.record
                    if seq > self._store.live.seq(record.site) or not self._store.live.has(record):
                        task.newer = answer.newer
                    else:
                        task.miss(f"{where} is behind")

    async def _push(
        self, contact: Contact, items: Sequence[Item], read: _Read
    ) -> tuple[ItemAnswer, ...]:
        """Have one peer keep these; its answers once it lacks nothing. RemoteError where it fails,
        NotAPeerError where it is none."""
        now = asyncio.get_running_loop().time()
        until, fault = self._avoided.get(contact.address, (now, None))
        if until > now and fault is not None:
            raise type(fault)(str(fault))
        try:
            answers = None
            # A quick question first: whoever hangs must not hold up a whole publish.
            if contact in self._holders or await self._is_there(contact):
                push = self._client.push(
                    contact.address, items, read, unasked=True, delta=self._delta(items)
                )
                answers = await self._unless_gone(contact, push)
        except RemoteError as error:
            log.info("a peer keeps no copy: %s", error)
            self._avoid(contact.address, error)
            raise
        if answers is None:
            # One machine that others name under two ids is one copy.
            where = format_address(contact.address)
            raise NotAPeerError(f"{where} is not the peer {contact.id.hex()}")
        if any(answer.state == "held" for answer in answers):
            self._holders[contact] = None
            self._holders.move_to_end(contact)
            while len(self._holders) > KNOWN_PEERS_MAX:
                self._holders.popitem(last=False)
        return answers

    async def _unless_gone(self, contact: Contact, push: Coroutine[Any, Any, T]) -> T:
        """What comes of a push; RemoteError where its peer falls silent meanwhile."""
        pushing = asyncio.ensure_future(push)
        try:
            while not (await asyncio.wait([pushing], timeout=LOOK_AFTER_S))[0]:
                is_there = await self._overlay.ping(contact.address) is not None
                if not is_there and not pushing.done():
                    raise RemoteError(f"{format_address(contact.address)} fell silent")
            return pushing.result()
        finally:
            pushing.cancel()
            await asyncio.gather(pushing, return_exceptions=True)

    def _delta(self, items: Sequence[Item]) -> bytes:
        """What a site's record needs less than its manifest, if that is known."""
        record = items[0].signed.record
        if len(items) > 1 or not isinstance(record, SiteRecord):
            return b""
        return self._store.live.delta(record.manifest_root) or b""

    async def _is_there(self, contact: Contact) -> bool:
        return (await self._client.peer_info(contact.address)).id == contact.id.hex()

    def _avoid(self, address: Address, fault: RemoteError) -> None:
        now = asyncio.get_running_loop().time()  # The failure itself may have taken long.
        self._avoided = {a: known for a, known in self._avoided.items() if known[0] > now}
        self._avoided[address] = (now + AVOID_S, fault)

    async def _read(self, parts: Sequence[Part]) -> list[SegmentData]:
        if not parts:
            return []
        return await self._run(lambda: [data for part in parts if (data := self._read_one(part))])

    def _read_one(self, part: Part) -> SegmentData | None:
        try:
            return self._store.read_segment(*part)
        except CorruptError as error:
            log.warning("%s", error)
            return None


def _next_round(tasks: Sequence[_Task]) -> dict[Contact | None, list[_Task]]:
    """Everybody whose turn it is, all at once; another round is for what failed."""
    batches: dict[Contact | None, list[_Task]] = {}
    for task in tasks:
        for _ in range(min(task.short, len(task.candidates))):
            contact = task.candidates.popleft()
            task.tried.add(contact)
            batches.setdefault(contact, []).append(task)
    return batches
