"""The routing table: who is known, how well each answers, who should be asked next.

Owns contacts that proved themselves (a PING answered from their address with their id), their
strikes, the replacements waiting behind full buckets, and the memory of those struck out. It sends
nothing: it says who is due, and is told what came of it.

Departures from Kademlia §2.4: a network of up to `small_network` contacts is kept whole, buckets
or not; the nearest contacts to a key come from one sorted list of ids, exactly, and buckets only
decide who may stay. An id belongs to whoever answers at its address: a claim to a known id from
elsewhere waits until the known address is silent.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from p2pweb.dht.chance import Rng
from p2pweb.dht.contact import ID_BITS, ID_BYTES, Address, Contact, NodeId, distance
from p2pweb.dht.deadlines import Deadlines
from p2pweb.dht.events import (
    ContactDown,
    ContactMoved,
    ContactReturned,
    ContactUp,
    Event,
    Why,
)
from p2pweb.dht.rtt import Rtt
from p2pweb.dht.settings import Settings


@dataclass(slots=True)
class Entry:
    """One contact of the table and what is known of it."""

    contact: Contact
    rtt: Rtt
    last_answer: float
    strikes: int = 0
    # Misses before this moment belong to the strike that is already counted.
    quiet_until: float = 0.0
    # The same id, proved at another address: believed once this one is silent.
    claim: Contact | None = None


@dataclass(slots=True)
class _Gone:
    contact: Contact
    since: float
    asked: float


class Table:
    """Every contact of one peer. Memory: at most `small_network` + k x 160 entries."""

    def __init__(self, own: NodeId, settings: Settings, now: float) -> None:
        self._own = own
        self._settings = settings
        # Stalest first: an answer moves its contact to the end.
        self._entries: OrderedDict[NodeId, Entry] = OrderedDict()
        self._by_address: dict[Address, NodeId] = {}
        self._sorted: list[int] = []
        self._sizes = [0] * ID_BITS
        # Per bucket, the most recently proved last. No events: nobody relies on them yet.
        self._replacements: dict[int, OrderedDict[NodeId, Entry]] = {}
        self._due: Deadlines[NodeId] = Deadlines()
        # Those asked longest ago first.
        self._gone: OrderedDict[NodeId, _Gone] = OrderedDict()
        self._touched = [now] * ID_BITS

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        """Every entry, the stalest first."""
        return iter(self._entries.values())

    def get(self, id: NodeId) -> Entry | None:  # noqa: A002 -- the field's own name
        """The entry of an id."""
        return self._entries.get(id)

    def at(self, address: Address) -> Entry | None:
        """The entry of an address."""
        known = self._by_address.get(address)
        return None if known is None else self._entries[known]

    def knows(self, contact: Contact) -> bool:
        """Whether a contact is in the table or among the replacements, at this very address."""
        entry = self._entries.get(contact.id) or self._waiting(contact.id)
        return entry is not None and entry.contact == contact

    def nearest(self, key: bytes, count: int) -> list[Contact]:
        """The `count` contacts nearest to a key, nearest first: exactly those, or all there are.

        Ids that share a prefix with the key stand together in sorted order and are nearer than all
        others, so only the smallest such run that holds `count` ids needs ordering by distance.
        """
        target = int.from_bytes(key, "big")
        low, high = 0, len(self._sorted)
        # The longest shared prefix whose run is big enough: runs shrink as prefixes grow.
        shortest, longest = 0, ID_BITS
        while shortest < longest:
            middle = (shortest + longest + 1) // 2
            shift = ID_BITS - middle
            start = target >> shift << shift
            first = bisect_left(self._sorted, start)
            last = bisect_left(self._sorted, start + (1 << shift))
            if last - first >= count:
                shortest, low, high = middle, first, last
            else:
                longest = middle - 1
        run = sorted(self._sorted[low:high], key=target.__xor__)[:count]
        return [self._entries[NodeId(n.to_bytes(ID_BYTES, "big"))].contact for n in run]

    def proved(self, contact: Contact, rtt_s: float, now: float) -> list[Event]:
        """A contact answered a PING from its address with its id (never our own)."""
        events: list[Event] = []
        entry = self._entries.get(contact.id)
        if entry is not None and entry.contact.address != contact.address:
            if entry.strikes < self._settings.claim_strikes:
                entry.claim = contact
                # Ask the old address now: its answer refutes the claim, its silence confirms it.
                if not entry.strikes:
                    entry.quiet_until = now
                    self._due.set(contact.id, now)
                return events
            events += self._follow(entry, contact, now)
        else:
            # Out of the queue before anybody is promoted from it, lest it be admitted twice.
            newcomer = self._newcomer(contact, now) if entry is None else None
            # The address speaks for itself: whoever was there before is gone.
            events += self._evict(contact, now)
            if newcomer is not None:
                events += self._admit(newcomer, now)
        self.answered(contact, rtt_s, now)
        return events

    def answered(self, contact: Contact, rtt_s: float, now: float) -> None:
        """A contact answered something; ignored unless it is known at this address."""
        entry = self._entries.get(contact.id)
        if entry is not None and entry.contact == contact:
            self._entries.move_to_end(contact.id)
            self._due.cancel(contact.id)
        else:
            entry = self._waiting(contact.id)
            if entry is None or entry.contact != contact:
                return
        entry.rtt.sample(rtt_s)
        entry.last_answer = now
        entry.strikes = 0
        entry.quiet_until = now
        entry.claim = None

    def missed(self, contact: Contact, asked: float, now: float) -> list[Event]:
        """A contact left the question sent at `asked` unanswered, or answered garbage.

        A miss is a strike only when it is news: not when the contact answered anything since, not
        during the pause after its last strike.
        """
        entry = self._entries.get(contact.id)
        if entry is None or entry.contact != contact:
            return []
        if entry.last_answer > asked or asked < entry.quiet_until:
            return []
        entry.strikes += 1
        if entry.claim is not None and entry.strikes >= self._settings.claim_strikes:
            claim = entry.claim
            events = self._follow(entry, claim, now)
            entry.strikes, entry.quiet_until, entry.claim, entry.last_answer = 0, now, None, now
            self._due.cancel(claim.id)
            return events
        if entry.strikes < self._settings.strikes_max:
            self._pause(entry, now)
            return []
        self._remove(entry)
        self._gone[contact.id] = _Gone(contact, now, now)
        if len(self._gone) > self._settings.gone_max:
            self._gone.popitem(last=False)
        return [ContactDown(contact, Why.SILENT), *self._promote(contact, now)]

    def due(self, now: float) -> list[Contact]:
        """Contacts whose pause after a strike is over: ask them again, now."""
        contacts: list[Contact] = []
        for known in self._due.pop_due(now):
            entry = self._entries[known]
            # Should the question never go out, the contact is due again all the same.
            self._due.set(known, now + self._pause_s(entry))
            contacts.append(entry.contact)
        return contacts

    def next_due(self) -> float | None:
        """When `due` next has something to say."""
        return self._due.next()

    def stalest(self, now: float) -> Contact | None:
        """The contact silent for longest, unless it spoke lately; those with strikes have `due`."""
        for entry in self._entries.values():
            if now - entry.last_answer < self._settings.fresh_for_s:
                return None
            if not entry.strikes:
                return entry.contact
        return None

    def remembered(self, now: float) -> Contact | None:
        """The struck-out contact not asked for longest, when it may be asked again."""
        while self._gone:
            known, gone = next(iter(self._gone.items()))
            if now - gone.since > self._settings.gone_for_s:
                del self._gone[known]
                continue
            if now - gone.asked < self._settings.gone_pause_s:
                return None
            gone.asked = now
            self._gone.move_to_end(known)
            return gone.contact
        return None

    def suspect(self, contact: Contact) -> bool:
        """Whether a contact missed its last question or was struck out at this address."""
        entry = self._entries.get(contact.id)
        if entry is not None:
            return entry.strikes > 0 and entry.contact == contact
        gone = self._gone.get(contact.id)
        return gone is not None and gone.contact == contact

    def touch(self, key: bytes, now: float) -> None:
        """A lookup went through the bucket of a key."""
        if key != self._own:
            self._touched[self._bucket(key)] = now

    def stale_keys(
        self, now: float, rng: Rng, *, idle_s: float, closest: Contact | None = None
    ) -> list[bytes]:
        """A random key in each bucket that saw no lookup for `idle_s` (Kademlia §2.3).

        Buckets nearer than the nearest contact are empty in the whole network, as far as we know.
        That contact may be in the table or, still to be proved there, `closest`.
        """
        occupied = [index for index, size in enumerate(self._sizes) if size]
        if closest is not None:
            occupied = [min([self._bucket(closest.id), *occupied])]
        keys: list[bytes] = []
        if occupied:
            for index in range(occupied[0], ID_BITS):
                if now - self._touched[index] >= idle_s:
                    offset = 1 << index | rng.getrandbits(index) if index else 1
                    keys.append(
                        (int.from_bytes(self._own, "big") ^ offset).to_bytes(ID_BYTES, "big")
                    )
        return keys

    def _bucket(self, key: bytes) -> int:
        return distance(self._own, key).bit_length() - 1

    def _waiting(self, known: NodeId) -> Entry | None:
        waiting = self._replacements.get(self._bucket(known)) if known != self._own else None
        return None if waiting is None else waiting.get(known)

    def _room(self, bucket: int) -> bool:
        small = len(self._entries) < self._settings.small_network
        return small or self._sizes[bucket] < self._settings.k

    def _newcomer(self, contact: Contact, now: float) -> Entry:
        """The entry of a contact that has no place yet, taken from the replacements or made."""
        entry = self._waiting(contact.id)
        if entry is not None:
            del self._replacements[self._bucket(contact.id)][contact.id]
            if entry.contact == contact:
                return entry
        return Entry(contact, Rtt(self._settings), now)

    def _admit(self, entry: Entry, now: float) -> list[Event]:
        bucket = self._bucket(entry.contact.id)
        if not self._room(bucket):
            waiting = self._replacements.setdefault(bucket, OrderedDict())
            waiting[entry.contact.id] = entry
            if len(waiting) > self._settings.replacements_max:
                waiting.popitem(last=False)
            return []
        return [self._insert(entry, now)]

    def _insert(self, entry: Entry, now: float) -> Event:
        contact = entry.contact
        self._entries[contact.id] = entry
        self._by_address[contact.address] = contact.id
        insort(self._sorted, int.from_bytes(contact.id, "big"))
        self._sizes[self._bucket(contact.id)] += 1
        gone = self._gone.pop(contact.id, None)
        return ContactUp(contact) if gone is None else ContactReturned(contact, now - gone.since)

    def _remove(self, entry: Entry) -> None:
        contact = entry.contact
        del self._entries[contact.id]
        del self._by_address[contact.address]
        del self._sorted[bisect_left(self._sorted, int.from_bytes(contact.id, "big"))]
        self._sizes[self._bucket(contact.id)] -= 1
        self._due.cancel(contact.id)

    def _evict(self, contact: Contact, now: float) -> list[Event]:
        """Remove the entry of another id at this contact's address."""
        entry = self.at(contact.address)
        if entry is None or entry.contact.id == contact.id:
            return []
        self._remove(entry)
        return [ContactDown(entry.contact, Why.REPLACED), *self._promote(entry.contact, now)]

    def _promote(self, lost: Contact, now: float) -> list[Event]:
        """Give the place of a lost contact to the most recently proved replacement."""
        bucket = self._bucket(lost.id)
        waiting = self._replacements.get(bucket)
        while waiting and self._room(bucket):
            _, entry = waiting.popitem()
            # Another id may have taken over that address since, or is about to.
            address = entry.contact.address
            if address != lost.address and address not in self._by_address:
                event = self._insert(entry, now)
                # It was silent for as long as it waited: it is asked soon.
                self._entries.move_to_end(entry.contact.id, last=False)
                return [event]
        return []

    def _follow(self, entry: Entry, contact: Contact, now: float) -> list[Event]:
        before = entry.contact.address
        events = self._evict(contact, now)
        del self._by_address[before]
        self._by_address[contact.address] = contact.id
        entry.contact = contact
        entry.rtt = Rtt(self._settings)
        return [*events, ContactMoved(contact, before)]

    def _pause_s(self, entry: Entry) -> float:
        pauses = self._settings.strike_pauses_s
        return pauses[min(max(entry.strikes, 1), len(pauses)) - 1]

    def _pause(self, entry: Entry, now: float) -> None:
        entry.quiet_until = now + self._pause_s(entry)
        self._due.set(entry.contact.id, entry.quiet_until)
