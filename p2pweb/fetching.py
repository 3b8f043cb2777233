"""Fetches copies that are due here: what plans say, from the peers that most likely have it.

Many keys are asked for at once, first of the peers near them, then of whoever a lookup finds. The
bytes of long files are read as a visitor's are.
"""

import asyncio
import contextlib
import errno
import logging
from collections.abc import Collection, Mapping, Sequence

from p2pweb.address import format_address
from p2pweb.blobs import InvalidBlockError, size_of
from p2pweb.dht.contact import Contact
from p2pweb.dht.overlay import Overlay
from p2pweb.errors import NotAPeerError, RemoteError
from p2pweb.exchange.client import PeerClient
from p2pweb.exchange.doubt import Doubt
from p2pweb.exchange.reader import BlobReader, Runner, Source
from p2pweb.exchange.wire import (
    BUNDLE_DATA_BYTES,
    BUNDLE_ITEMS_MAX,
    Bundle,
    InvalidMessageError,
)
from p2pweb.records import InvalidRecordError, dht_key, file_name, open_record, record_key
from p2pweb.repair_plan import RECORD_COPIES, Due, Neighbours, whom_to_ask
from p2pweb.store.items import Full, Held, Item
from p2pweb.store.store import Store

log = logging.getLogger("p2pweb.repair")

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


class Fetcher:
    """The fetching of one peer's copies."""

    def __init__(
        self,
        store: Store,
        client: PeerClient,
        overlay: Overlay,
        reader: BlobReader,
        doubt: Doubt,
        neighbours: Neighbours,
        *,
        run: Runner,
        write: Runner,
    ) -> None:
        """`neighbours` is what is known of who keeps the site; what is learnt by asking is noted
        there."""
        self._store = store
        self._client = client
        self._overlay = overlay
        self._reader = reader
        self._doubt = doubt
        self._neighbours = neighbours
        self._run = run
        self._write = write
        self.asking = asyncio.Semaphore(ASKS_MAX)
        # How many records others have sent, those that were not kept included.
        self.received = 0
        self._busy_until = 0.0

    async def fetch(self, dues: Sequence[Due], copies: int) -> int:
        """Fetch these, of a site with so many copies; how many are on the disk now.

        OSError where the disk refuses a write.
        """
        work = _Work(self, copies)
        for start in range(0, len(dues), BUNDLE_ITEMS_MAX):
            await work.fetch(dues[start : start + BUNDLE_ITEMS_MAX])
        return work.fetched

    def closest(self, key: bytes) -> list[Contact]:
        """Whom to ask for what lies at a key, the best first."""
        near = self._overlay.closest(key, RECORD_COPIES)
        return self._neighbours.best_first(near, asyncio.get_running_loop().time())

    def note(self, contact: Contact, *, keeps: bool) -> None:
        """Whether a contact keeps the site."""
        self._neighbours.note(contact, asyncio.get_running_loop().time(), keeps=keeps)

    # --- what the work on one round needs ---

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
        parts = {part for _, item, _ in items for part in item.parts}
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

    def __init__(self, fetcher: Fetcher, copies: int) -> None:
        self._fetcher = fetcher
        self._copies = copies
        self._failed: set[Contact] = set()
        # What this peer's disk said.
        self._fault: OSError | None = None
        self._lookups = 0
        self.fetched = 0

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
            self.fetched += not due.with_bytes or await self._fetcher.fetch_bytes(due)

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
            near = {
                key: self._near(key, asked[key])
                for key in keys
                if key in wanted and len(asked[key]) < TRIES_MAX
            }
            asks = whom_to_ask(near, self._copies, self._fetcher.rtt_s)
            if len(asks) != 1:
                await asyncio.gather(*(ask_and_go_on(*one) for one in asks.items()))
                return
            # No deeper for each answer: some bring but one of many bodies.
            await ask(*asks.popitem())

    def _near(self, key: bytes, asked: Collection[Contact]) -> list[Contact]:
        """Whom else to ask for what lies at a key, the best first; the doubtful, when they are all
        that is left."""
        closest = self._fetcher.closest(key)
        left = [one for one in closest if one not in asked and one not in self._failed]
        return self._fetcher.trusted(left) or left

    async def _find(self, due: Due) -> bool:
        try:
            return await self._fetcher.find_record(due)
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
        async with self._fetcher.asking:
            answer = await self._fetcher.ask(contact, dues)
            for key in by_key:
                asked[key].add(contact)
            if answer is None:
                self._failed.add(contact)
                return
            try:
                items, whole = await self._fetcher.keep(answer, by_key)
            except (InvalidMessageError, InvalidBlockError) as error:
                where = format_address(contact.address)
                log.warning("%s sent what it should not: %s", where, error)
                self._fetcher.blame(contact)
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
                    self._fetcher.trust(contact)
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
    return size_of(item.parts) > BUNDLE_DATA_BYTES
