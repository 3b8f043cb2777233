"""Lets go of copies that are not due here any more, where the disk's budget is nearly used up.

A copy that was counted goes only when those who should have it say that they do. The farthest go
first, and of these the ones that nobody read lately. They stay on the disk until their room is
needed (`store.let_pass`).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Sequence

from p2pweb.dht.contact import Contact, NodeId
from p2pweb.errors import RemoteError
from p2pweb.exchange.client import PeerClient
from p2pweb.exchange.reader import Runner
from p2pweb.exchange.wire import BUNDLE_ITEMS_MAX, InvalidMessageError
from p2pweb.manifest import Manifest, Share
from p2pweb.records import InvalidRecordError, open_record, record_key
from p2pweb.repair_plan import spare_shares
from p2pweb.store.store import Store

log = logging.getLogger("p2pweb.trim")

# Copies let go in one round; more are for the next one.
COPIES_MAX = 4 * BUNDLE_ITEMS_MAX


class Trim:
    """The letting go of one peer's copies."""

    def __init__(
        self,
        own: NodeId,
        store: Store,
        client: PeerClient,
        closest: Callable[[bytes], Sequence[Contact]],
        *,
        run: Runner,
        write: Runner,
    ) -> None:
        """`closest` gives the contacts that should keep what lies at a key, the nearest first."""
        self._own = own
        self._store = store
        self._client = client
        self._closest = closest
        self._run = run
        self._write = write

    async def look(self, present: Collection[NodeId], manifest: Manifest, copies: int) -> int:
        """Let go of what `copies` others have, and this peer need not; how many copies."""
        shares = await self._run(
            lambda: [
                share
                for share in spare_shares(self._own, present, manifest, copies)
                if self._store.holds(share.key, share.record, with_bytes=True)
            ]
        )
        shares = sorted(shares, key=lambda one: self._store.was_read(one.record))[:COPIES_MAX]
        held = await self._held_elsewhere(shares, copies)
        keys = [share.key for share in shares if held[share.key] >= copies]
        if keys:
            await self._write(lambda: self._store.let_pass(keys))
            log.info("%d copies may go: %d other peers have each", len(keys), copies)
        return len(keys)

    async def _held_elsewhere(self, shares: Sequence[Share], copies: int) -> Counter[bytes]:
        """How many of the `copies` closest say that they have each."""
        asks: dict[Contact, list[Share]] = {}
        for share in shares:
            for contact in self._closest(share.key)[:copies]:
                asks.setdefault(contact, []).append(share)
        held: Counter[bytes] = Counter()
        for contact, wanted in asks.items():
            for start in range(0, len(wanted), BUNDLE_ITEMS_MAX):
                held.update(await self._ask(contact, wanted[start : start + BUNDLE_ITEMS_MAX]))
        return held

    async def _ask(self, contact: Contact, shares: Sequence[Share]) -> set[bytes]:
        """The keys of those that a contact says it has whole."""
        records = {share.key: share.record for share in shares}
        try:
            answer = await self._client.copies(contact.address, [(key, False) for key in records])
            given = [
                (open_record(one.value).record, one.segment)
                for one in (answer.items if answer else ())
                if one.with_bytes
            ]
        except (RemoteError, InvalidMessageError, InvalidRecordError) as error:
            log.debug("not known what a peer has: %s", error)
            return set()
        keys = {record_key(record, segment): record for record, segment in given}
        return {key for key, record in keys.items() if records.get(key) == record}
