"""Puts copies of records and bytes on the peers that should hold them, and counts them.

The holders of a key are the `copies` closest peers; the record alone also goes to the rest of the
k = 20 closest. What goes to the same peer travels together: first the records, then, in bundles,
just the bytes that it says it lacks. A copy counts when its peer has answered that the record and
all its bytes are on its disk; this peer's own count likewise where it is among the closest.
"""

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from p2pweb.address import Address, format_address
from p2pweb.blobs import SegmentData
from p2pweb.dht.contact import Contact, distance
from p2pweb.dht.overlay import Overlay
from p2pweb.errors import CorruptError, NotAPeerError, RemoteError
from p2pweb.exchange.client import PeerClient
from p2pweb.exchange.reader import Runner
from p2pweb.exchange.service import Placed
from p2pweb.exchange.wire import InvalidMessageError, ItemAnswer
from p2pweb.records import COPIES_MAX, record_key
from p2pweb.store.books import Part
from p2pweb.store.store import Item, Store

log = logging.getLogger("p2pweb.replication")

# The k of Kademlia: as many peers as a lookup ends with.
RECORD_COPIES = COPIES_MAX
# A peer that just failed is not asked again for so long: long enough for one publish to go on
# without waiting for it in every batch, short enough for the next publish to try it.
AVOID_S = 10.0
# Peers known to store sites, so that a stock node or one of another site is not counted as missing.
KNOWN_PEERS_MAX = 1_024
# Bundles being placed at one time: what a few publishers at once have under way.
PLACES_MAX = 8
# Lookups of one batch under way at once.
LOOKUPS_MAX = 16


@dataclass(slots=True)
class _Task:
    """One item on its way: who may still be asked, and who has it."""

    item: Item
    candidates: Iterator[Contact | None]  # None is this peer itself.
    wanted: int
    copies: int = 0
    missed: int = 0
    newer: bytes = b""


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
        self._holders: OrderedDict[bytes, None] = OrderedDict()
        self._avoided: dict[Address, tuple[float, RemoteError]] = {}
        self._placing = asyncio.Semaphore(PLACES_MAX)

    async def place(self, items: Sequence[Item], copies: int) -> list[Placed]:
        """Have `copies` (1 to 20) peers keep each item; how many do, for each, in order.

        The items and their bytes are on this peer's disk already. Where there are fewer peers
        than copies, all of them is what is wanted.
        """
        async with self._placing:
            return await self._place(items, max(1, min(copies, COPIES_MAX)))

    async def _place(self, items: Sequence[Item], copies: int) -> list[Placed]:
        closest = await self._closest(items)
        tasks = [
            _Task(item, iter(contacts), copies)
            for item, contacts in zip(items, closest, strict=True)
        ]
        while True:
            # One round: everybody whose turn it is, all at once; another one for what failed.
            batches: dict[Contact, list[_Task]] = {}
            for task in tasks:
                for _ in range(task.wanted - task.copies):
                    try:
                        contact = next(task.candidates)
                    except StopIteration:
                        break
                    if contact is None:
                        task.copies += 1
                    else:
                        batches.setdefault(contact, []).append(task)
            if not batches:
                break
            await asyncio.gather(
                *(self._place_with(contact, batch) for contact, batch in batches.items())
            )
        await self._spread_records(tasks)
        return [
            Placed(task.copies, min(task.wanted, task.copies + task.missed), task.newer)
            for task in tasks
        ]

    async def _closest(self, items: Sequence[Item]) -> list[list[Contact | None]]:
        """For each item the peers closest to its key, nearest first, this one being None."""
        # With fewer contacts than a lookup ends with, those are the closest to every key.
        if len(self._overlay.contacts()) < RECORD_COPIES:
            return [
                self._with_self(item, self._overlay.closest(_key(item), COPIES_MAX))
                for item in items
            ]
        limit = asyncio.Semaphore(LOOKUPS_MAX)

        async def look_up(item: Item) -> list[Contact | None]:
            async with limit:
                return self._with_self(item, await self._overlay.find_node(_key(item)))

        return list(await asyncio.gather(*(look_up(item) for item in items)))

    def _with_self(self, item: Item, contacts: Sequence[Contact]) -> list[Contact | None]:
        key = _key(item)
        own = distance(self._node_id, key)
        nearest = sorted(contacts, key=lambda contact: distance(contact.id, key))
        nearer = sum(1 for contact in contacts if distance(contact.id, key) < own)
        return [*nearest[:nearer], None, *nearest[nearer:]]

    async def _place_with(self, contact: Contact, tasks: Sequence[_Task]) -> None:
        try:
            answers = await self._push(contact, [task.item for task in tasks])
        except NotAPeerError:
            answers = None
            is_missed = contact.id in self._holders
        except RemoteError:
            answers, is_missed = None, True
        if answers is None:
            for task in tasks:
                task.missed += is_missed
            return
        for task, answer in zip(tasks, answers, strict=True):
            if answer.is_whole:
                task.copies += 1
            elif answer.state == "held":
                task.missed += 1  # It keeps the record, and the bytes did not reach it.
            elif answer.state == "stale":
                try:
                    seq = answer.proved_seq(task.item.signed)
                except InvalidMessageError as error:
                    log.warning("%s answers %s", format_address(contact.address), error)
                    task.missed += 1
                else:
                    # A peer behind the live version, or ahead of nothing, refuses what lives.
                    record = task.item.signed.record
                    if seq > self._store.live_seq(record.site) or not self._store.is_live(record):
                        task.newer = answer.newer
                    else:
                        task.missed += 1

    async def _spread_records(self, tasks: Sequence[_Task]) -> None:
        """The records alone to the rest of the closest; nobody counts these."""
        batches: dict[Contact, list[Item]] = {}
        for task in tasks:
            for contact in task.candidates:
                if contact is not None:
                    item = replace(task.item, with_bytes=False)
                    batches.setdefault(contact, []).append(item)

        async def push(contact: Contact, batch: list[Item]) -> None:
            with contextlib.suppress(RemoteError):  # `_push` has logged it.
                await self._push(contact, batch)

        await asyncio.gather(*(push(contact, batch) for contact, batch in batches.items()))

    async def _push(self, contact: Contact, items: Sequence[Item]) -> tuple[ItemAnswer, ...]:
        """Have one peer keep these; its answers once it lacks nothing. RemoteError where it fails,
        NotAPeerError where it is none."""
        now = asyncio.get_running_loop().time()
        until, fault = self._avoided.get(contact.address, (now, None))
        if until > now and fault is not None:
            raise type(fault)(str(fault))
        try:
            if contact.id not in self._holders:
                # A quick question first: whoever hangs must not hold up a whole publish.
                await self._client.peer_info(contact.address)
            answers = await self._client.push(contact.address, items, self._read)
        except RemoteError as error:
            log.info("a peer keeps no copy: %s", error)
            self._avoid(contact.address, error)
            raise
        if any(answer.state == "held" for answer in answers):
            self._holders[contact.id] = None
            self._holders.move_to_end(contact.id)
            while len(self._holders) > KNOWN_PEERS_MAX:
                self._holders.popitem(last=False)
        return answers

    def _avoid(self, address: Address, fault: RemoteError) -> None:
        now = asyncio.get_running_loop().time()  # The failure itself may have taken long.
        self._avoided = {a: known for a, known in self._avoided.items() if known[0] > now}
        self._avoided[address] = (now + AVOID_S, fault)

    async def _read(self, parts: Sequence[Part]) -> list[SegmentData]:
        return await self._run(lambda: [data for part in parts if (data := self._read_one(part))])

    def _read_one(self, part: Part) -> SegmentData | None:
        try:
            return self._store.read_segment(*part)
        except CorruptError as error:
            log.warning("%s", error)
            return None


def _key(item: Item) -> bytes:
    return record_key(item.signed.record, item.segment)
