"""Tells other peers of a new version of a site, and they tell others.

Whoever hears of a version for the first time passes its signed record on to a few contacts all over
the id space, before it has the manifest itself. So all peers hear of it within a few trips; the few
that do not hear ask for it in their own time.
"""

import asyncio
import logging
import math
from collections.abc import Callable

from p2pweb.address import Address, format_address
from p2pweb.dht.chance import Rng
from p2pweb.dht.contact import ID_BYTES, Contact
from p2pweb.dht.overlay import Overlay, OverlayClosedError
from p2pweb.keys import SiteId
from p2pweb.records import Signed, SiteRecord, record_key
from p2pweb.store.live import order_of

log = logging.getLogger("p2pweb.news")

# Each passes it on to so many all over the id space, so that it is everywhere after a few trips,
# and to so many next to it: where ids lie close together, chance hits hardly any of them.
FAR = 6
NEAR = 6
# Contacts that come back are told so often, one of them: a STORE is some 350 bytes, and where half
# of a thousand peers come back at one time, one in five seconds from each is plenty.
REMIND_S = 5.0
# Sites of which news is remembered: those that a peer keeps are few.
SITES_MAX = 256


class News:
    """The telling side of one peer; `close` ends what is under way."""

    def __init__(self, overlay: Overlay, rng: Rng, is_behind: Callable[[SiteId], None]) -> None:
        """`is_behind` is told of a site of which somebody has a newer version than was told."""
        self._overlay = overlay
        self._rng = rng
        self._is_behind = is_behind
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
        site = signed.record.site
        newest = self._newest.get(site)
        if newest is not None and order_of(newest) >= order_of(signed):
            return False
        self._newest.pop(site, None)
        self._newest[site] = signed
        while len(self._newest) > SITES_MAX:
            del self._newest[next(iter(self._newest))]
        for contact in self._audience(teller):
            self._begin(contact, signed)
        return True

    def remind(self, contact: Contact) -> None:
        """Tell a contact that was away, so that two halves of a network that meet again converge:
        one such contact now and then, which tells others."""
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
        """Whom to tell: everybody, where they are few."""
        keys = [self._rng.getrandbits(8 * ID_BYTES).to_bytes(ID_BYTES) for _ in range(FAR)]
        far = [one for key in keys for one in self._overlay.closest(key, 1)]
        near = self._overlay.closest(self._overlay.id, NEAR)
        return [one for one in dict.fromkeys([*near, *far]) if one.address != teller]

    async def _tell(self, contact: Contact, signed: Signed) -> None:
        assert isinstance(signed.record, SiteRecord)  # noqa: S101 - `spread` is given no other
        try:
            answer = await self._overlay.store(contact, record_key(signed.record), signed.value)
        except OverlayClosedError:
            return
        if isinstance(answer, dict) and isinstance(seq := answer.get("stale"), int):
            where, record = format_address(contact.address), signed.record
            if seq > record.seq:
                log.debug("%s knows version %d of %s", where, seq, record.site)
                self._is_behind(record.site)
