"""Contacts that others named and that nobody here has proved: where own lookups may start too.

So a peer that lives for an hour knows hundreds of others at the price of hearing of them, without a
PING to each. They are never named to anybody, and the memory of one ends with the first question
of a lookup that it leaves unanswered, or when its address says that it has another id. Bounded in
all and for each host that told of them, and one for each address, lest liars push out what the
others said: ids cost a liar nothing, and ports little.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator

from msgspec import Struct

from p2pweb.dht.contact import Address, Contact, NodeId
from p2pweb.dht.nearest import IdOrder
from p2pweb.dht.settings import Settings

LOOKED_AT_MAX = 8
# Multiples of it, modulo one, are spread evenly however many there are.
GOLDEN_RATIO = (5**0.5 - 1) / 2


class _Rumour(Struct, gc=False):
    contact: Contact
    teller: str
    heard: float


class Hearsay:
    """At most `hearsay_max` contacts, those heard of longest ago dropped first."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._rumours: OrderedDict[NodeId, _Rumour] = OrderedDict()
        self._at: dict[Address, NodeId] = {}
        self._order = IdOrder()
        self._told: dict[str, int] = {}
        # How many `untried` has looked at.
        self._looked = 0

    def __len__(self) -> int:
        return len(self._rumours)

    def __iter__(self) -> Iterator[NodeId]:
        """Every id, the one heard of longest ago first."""
        return iter(self._rumours)

    def note(self, contact: Contact, teller: str, now: float) -> None:
        """A machine (`rates.machine`) names a contact. Who was heard of before stays where it was
        first said to be, and an address keeps its first id: ids without number may be invented for
        the few addresses that a liar has."""
        rumour = self._rumours.get(contact.id)
        if rumour is not None:
            if rumour.contact == contact:
                rumour.heard = now
                self._rumours.move_to_end(contact.id)
            return
        told = self._told.get(teller, 0)
        if contact.address in self._at or told >= self._settings.hearsay_each_max:
            return
        self._told[teller] = told + 1
        self._rumours[contact.id] = _Rumour(contact, teller, now)
        self._at[contact.address] = contact.id
        self._order.add(contact.id)
        if len(self._rumours) > self._settings.hearsay_max:
            self._drop(next(iter(self._rumours)))

    def forget(self, contact: Contact) -> None:
        """A contact is silent: it is no rumour any longer."""
        rumour = self._rumours.get(contact.id)
        if rumour is not None and rumour.contact == contact:
            self._drop(contact.id)

    def refute(self, address: Address, known: NodeId) -> None:
        """An address said which id it has: another is no rumour any longer."""
        said = self._at.get(address, known)
        if said != known:
            self._drop(said)

    def nearest(self, key: bytes, count: int, now: float) -> list[Contact]:
        """Up to `count` of those heard of lately, nearest to a key first."""
        self._expire(now)
        return [self._rumours[known].contact for known in self._order.nearest(key, count)]

    def strata(self, bits: int) -> list[int]:
        """How many were heard of in each part of the id space: `IdOrder.strata`."""
        return self._order.strata(bits)

    def untried(self, wanted: Callable[[Contact], bool], now: float) -> Contact | None:
        """One of them that is wanted, each time another, from all over the id space.

        Few are looked at, lest this cost much when nobody is wanted.
        """
        self._expire(now)
        for _ in range(min(LOOKED_AT_MAX, len(self._rumours))):
            self._looked += 1
            place = int(self._looked * GOLDEN_RATIO % 1.0 * len(self._rumours))
            contact = self._rumours[self._order.at(place)].contact
            if wanted(contact):
                return contact
        return None

    def _expire(self, now: float) -> None:
        since = now - self._settings.hearsay_for_s
        while self._rumours:
            oldest = next(iter(self._rumours.values()))
            if oldest.heard >= since:
                break
            self._drop(oldest.contact.id)

    def _drop(self, known: NodeId) -> None:
        rumour = self._rumours.pop(known)
        del self._at[rumour.contact.address]
        self._order.remove(known)
        told = self._told[rumour.teller] - 1
        if told:
            self._told[rumour.teller] = told
        else:
            del self._told[rumour.teller]
