"""Who has proved its address, and the answers that wait for such proof.

An address is proved when it answered a question of ours: it saw an unguessable message id. Until
then it may be somebody else's, and what we send there is limited to a multiple of what came.
"""

from __future__ import annotations

from collections import OrderedDict

from p2pweb.dht.contact import Address, Contact
from p2pweb.dht.rates import Buckets
from p2pweb.dht.settings import Settings


class Proofs:
    """Proved addresses, held answers, and strangers asked lately; each bounded, oldest dropped."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._proved: OrderedDict[Address, float] = OrderedDict()
        self._held: OrderedDict[Address, list[tuple[float, bytes]]] = OrderedDict()
        self._held_count = 0
        self._met: OrderedDict[Address, float] = OrderedDict()
        self._introduced: OrderedDict[Contact, float] = OrderedDict()
        self._ids: Buckets[Address] = Buckets(
            rate=1.0 / settings.ids_each_pause_s,
            burst=settings.ids_each_burst,
            most=settings.introductions_max,
        )

    def prove(self, address: Address, now: float) -> list[bytes]:
        """An address answered; the held answers that are now due to it, oldest first."""
        self._proved[address] = now
        self._proved.move_to_end(address)
        if len(self._proved) > self._settings.proved_max:
            self._proved.popitem(last=False)
        held = self._held.pop(address, [])
        self._held_count -= len(held)
        return [data for since, data in held if now - since <= self._settings.held_for_s]

    def proved(self, address: Address, now: float) -> bool:
        """Whether an address answered us within `proved_for_s`."""
        since = self._proved.get(address)
        return since is not None and now - since <= self._settings.proved_for_s

    def meet(self, address: Address, now: float) -> None:
        """We have answered an address's ping, so our address is proved there."""
        self._met[address] = now
        self._met.move_to_end(address)
        if len(self._met) > self._settings.proved_max:
            self._met.popitem(last=False)

    def met(self, address: Address, now: float) -> bool:
        """Whether our address is most likely proved there."""
        since = self._met.get(address)
        return since is not None and now - since <= self._settings.proved_for_s

    def hold(self, address: Address, data: bytes, now: float) -> None:
        """Keep an answer until its address is proved; the oldest gives way."""
        held = self._held.setdefault(address, [])
        held.append((now, data))
        self._held_count += 1
        if len(held) > self._settings.held_each_max:
            held.pop(0)
            self._held_count -= 1
        elif self._held_count > self._settings.held_max:
            oldest, answers = next(iter(self._held.items()))
            answers.pop(0)
            self._held_count -= 1
            if not answers:
                del self._held[oldest]

    def introduce(self, stranger: Contact, now: float) -> bool:
        """Whether a stranger may be asked who it is; if so, it is not asked again for a while.

        An address that claims many ids is asked about a few of them.
        """
        since = self._introduced.get(stranger)
        if since is not None and now - since < self._settings.introduction_pause_s:
            return False
        if not self._ids.take(stranger.address, now):
            return False
        self._introduced[stranger] = now
        self._introduced.move_to_end(stranger)
        if len(self._introduced) > self._settings.introductions_max:
            self._introduced.popitem(last=False)
        return True

    def forget(self, contact: Contact) -> None:
        """A contact is gone: should it return, it is a stranger that was never asked, and what it
        knew of us may be lost."""
        self._introduced.pop(contact, None)
        self._met.pop(contact.address, None)
