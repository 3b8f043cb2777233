"""Tells other peers of a new version of a site, and they tell others.

Whoever hears of a version for the first time passes its signed record on to a few contacts all over
the id space, before it has the manifest itself. So all peers hear of it within a few trips; the few
that do not hear ask for it in their own time.
"""

import asyncio
import heapq
import logging
import math
from collections.abc import Callable

from p2pweb.address import Address, format_address
from p2pweb.dht.chance import Rng
from p2pweb.dht.contact import ID_BYTES, Contact, distance
from p2pweb.dht.overlay import ContactState, Overlay, OverlayClosedError
from p2pweb.keys import SiteId
from p2pweb.records import Signed, SiteRecord, record_key
from p2pweb.store.live import order_of

log = logging.getLogger("p2pweb.news")

# Each passes it on to so many all over the id space, so that it is everywhere after a few trips,
# and to so many next to it: where ids lie close together, chance hits hardly any of them.
FAR = 6
NEAR = 6
# Contacts that come back are told so often, one of them: a STORE is some 350 bytes, whoever was
# restarted has asked by itself, and where half of a network comes back at one time, each of the
# others tells one of them at once, and those tell the rest.
REMIND_S = 60.0
# Sites of which news is remembered: those that a peer keeps are few.
SITES_MAX = 256


class News:
    """The telling side of one peer; `close` ends what is under way."""

    def __init__(
        self,
        overlay: Overlay,
        rng: Rng,
        is_behind: Callable[[SiteId], None],
        keeper: Callable[[SiteId, Contact], None],
    ) -> None:
        """`is_behind` is told of a site of which somebody has a newer version than was told,
        `keeper` of whoever keeps a site."""
        self._overlay = overlay
        self._rng = rng
        self._is_behind = is_behind
        self._keeper = keeper
        self._newest: dict[SiteId, Signed] = {}
        self._tellings: set[asyncio.Task[None]] = set()
        self._reminded_at = -math.inf

    async def close(self) -> None:
        for task in self._tellings:
            task.cancel()
        await asyncio.gather(*self._tellings, return_exceptions=True)

    def spread(self, signed: Signed, teller: Address | None = None) -> bool:
        """Pass a site's record on, unless it was before, or a newer one; whether it was passed on.

        Not to whoever told of it.
        """
        is_news = self.know(signed)
        if is_news:
            for contact in self._audience(teller):
                self._begin(contact, signed)
        return is_news

    def know(self, signed: Signed) -> bool:
        """Note a site's record, to tell those that turn out to be behind; False where it is none
        that is newer than the last."""
        site = signed.record.site
        newest = self._newest.get(site)
        if newest is not None and order_of(newest) >= order_of(signed):
            return False
        self._newest.pop(site, None)
        self._newest[site] = signed
        while len(self._newest) > SITES_MAX:
            del self._newest[next(iter(self._newest))]
        return True

    def compare(self, contact: Contact, signed: Signed) -> None:
        """A contact has this record of a site: where it is behind, it is reminded."""
        newest = self._newest.get(signed.record.site)
        if newest is not None and order_of(newest) > order_of(signed):
            self.remind(contact)

    def remind(self, contact: Contact) -> None:
        """Tell a contact that was away or is behind, so that two halves of a network that meet
        again converge: one such contact now and then, which tells others."""
        now = asyncio.get_running_loop().time()
        if now - self._reminded_at >= REMIND_S:
            self._reminded_at = now
            for signed in self._newest.values():
                self._begin(contact, signed)

    def _begin(self, contact: Contact, signed: Signed) -> None:
        task = asyncio.ensure_future(self._tell(contact, signed))
        self._tellings.add(task)
        task.add_done_callback(self._tellings.discard)

    def _audience(self, teller: Address | None) -> list[Contact]:
        """Whom to tell: everybody, where they are few; else rather those that have answered what
        they were asked last, since the dead are told twice, in vain."""
        keys = [self._rng.getrandbits(8 * ID_BYTES).to_bytes(ID_BYTES) for _ in range(FAR)]
        far = [one for key in keys for one in self._closest(key, 1)]
        near = self._closest(self._overlay.id, NEAR)
        return [one for one in dict.fromkeys([*near, *far]) if one.address != teller]

    def _closest(self, key: bytes, count: int) -> list[Contact]:
        """The contacts nearest to a key, those last that may be dead."""

        def place(one: ContactState) -> tuple[bool, int]:
            return one.strikes > 0 or not one.proved, distance(one.id, key)

        nearest = heapq.nsmallest(count, self._overlay.contacts(), key=place)
        return [Contact(one.id, one.address) for one in nearest]

    async def _tell(self, contact: Contact, signed: Signed) -> None:
        assert isinstance(signed.record, SiteRecord)  # noqa: S101 - `spread` is given no other
        try:
            answer = await self._overlay.store(contact, record_key(signed.record), signed.value)
        except OverlayClosedError:
            return
        if not isinstance(answer, dict):
            return
        if "want" in answer or "stale" in answer:
            self._keeper(signed.record.site, contact)
        if isinstance(seq := answer.get("stale"), int):
            where, record = format_address(contact.address), signed.record
            if seq > record.seq:
                log.debug("%s knows version %d of %s", where, seq, record.site)
                self._is_behind(record.site)
