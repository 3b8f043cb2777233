"""The routing table: who is known, how well each answers, who should be asked next.

Owns contacts that proved themselves (a PING answered from their address with their id), those of
an earlier run that are yet to do so, their strikes, the replacements waiting behind full buckets,
and the memory of those struck out. It sends nothing: it says who is due, and is told what came of
it.

Departures from Kademlia §2.4: a network of up to `small_network` contacts is kept whole, buckets
or not; the nearest contacts to a key come from one sorted list of ids, exactly, and buckets only
decide who may stay. An id belongs to whoever answers at its address: a claim to a known id from
elsewhere waits until the known address is silent. One address range has few places, in the table
and among the replacements; whoever has one keeps it, and the next of that range is refused.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
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
from p2pweb.dht.nearest import IdOrder
from p2pweb.dht.ranges import RangeCounts
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
    # Whether it answered a PING in this run.
    proved: bool = True

    @property
    def is_sound(self) -> bool:
        """Whether it proved itself in this run, and answered what it was asked last."""
        return self.proved and not self.strikes


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
        self._order = IdOrder()
        self._sizes = [0] * ID_BITS
        # Per bucket, the most recently proved last. No events: nobody relies on them yet.
        self._replacements: dict[int, OrderedDict[NodeId, Entry]] = {}
        self._ranges = RangeCounts(settings)
        self._ranges_waiting = RangeCounts(settings)
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
        """Whether a contact, also one that waits for a place, proved itself at this address."""
        entry = self._entries.get(contact.id) or self._waiting(contact.id)
        return entry is not None and entry.contact == contact and entry.proved

    def has_proved(self, known: NodeId) -> bool:
        """Whether an id is in the table, and answered in this run."""
        entry = self._entries.get(known)
        return entry is not None and entry.proved

    def restore(self, contacts: Sequence[Contact], now: float) -> None:
        """Begin with the contacts of an earlier run, as far as there is room.

        Lookups ask them at once. Each is due for a question, one after the other, the first few of
        them soon, and is as good as any other contact once it has answered that.
        """
        when = now
        for contact in contacts:
            host, known = contact.address[0], contact.id
            if known == self._own or known in self._entries or contact.address in self._by_address:
                continue
            bucket = self._bucket(known)
            if self._room(bucket) and self._ranges.has_room(host, bucket):
                self._place(Entry(contact, Rtt(self._settings), now, proved=False))
                self._due.set(known, when)
                soon = len(self._entries) < self._settings.join_need
                settings = self._settings
                when += settings.restore_pause_s if soon else settings.restore_others_pause_s

    def best(self, count: int) -> list[Contact]:
        """The contacts to begin with in the next run, the most useful first.

        Of those without a fault: the k nearest to this peer, then the last heard of each bucket,
        the last but one, and so on, so that every part of the id space is within reach. Those that
        missed a question, or have not answered in this run, come last in the same order.
        """
        ranks: dict[tuple[bool, int], int] = {}
        ordered: list[tuple[bool, int, int, Contact]] = []
        for entry in reversed(self._entries.values()):
            faulty = entry.strikes > 0 or not entry.proved
            apart = distance(self._own, entry.contact.id)
            place = (faulty, apart.bit_length())
            ranks[place] = ranks.get(place, 0) + 1
            ordered.append((faulty, ranks[place], apart, entry.contact))
        nearest = sorted((one for one in ordered if not one[0]), key=lambda one: one[2])
        chosen = dict.fromkeys(one[3] for one in nearest[: self._settings.k])
        chosen |= dict.fromkeys(one[3] for one in sorted(ordered, key=lambda one: one[:3]))
        return list(chosen)[:count]

    def wants(self, contact: Contact) -> bool:
        """Whether proving a contact would gain anything: there is a place, or a place to wait.

        Or it may be one of the table, under another id or at another address.
        """
        if contact.id in self._entries or contact.address in self._by_address:
            return True
        bucket = self._bucket(contact.id)
        waiting = self._replacements.get(bucket, ())
        may_wait = len(waiting) < self._settings.replacements_max
        has_range = self._ranges.has_room(contact.address[0], bucket)
        return has_range and (self._room(bucket) or may_wait)

    def anybody(self, rng: Rng) -> Contact | None:
        """A contact at random; None of nobody."""
        if not self._entries:
            return None
        # Of so few the remainder favours nobody noticeably.
        return self._entries[self._order.at(rng.getrandbits(30) % len(self._order))].contact

    def strata(self, bits: int) -> list[int]:
        """How many contacts there are in each part of the id space: `IdOrder.strata`."""
        return self._order.strata(bits)

    def nearest(self, key: bytes, count: int) -> list[Contact]:
        """The `count` contacts nearest to a key, nearest first: exactly those, or all there are."""
        return [self._entries[known].contact for known in self._order.nearest(key, count)]

    @property
    def last_heard(self) -> float:
        """When a contact that proved itself in this run answered last; minus infinity for none."""
        latest_first = reversed(self._entries.values())
        return next((entry.last_answer for entry in latest_first if entry.proved), -math.inf)

    def neighbours(self, count: int) -> list[Entry]:
        """Of those without a strike the `count` nearest to this peer, nearest first."""
        looked_at = count
        while True:
            near = [self._entries[known] for known in self._order.nearest(self._own, looked_at)]
            sound = [entry for entry in near if not entry.strikes]
            if len(sound) >= count or len(near) < looked_at:
                return sound[:count]
            looked_at *= 2

    def proved(self, contact: Contact, rtt_s: float, now: float) -> list[Event]:
        """A contact answered a PING from its address with its id (never our own)."""
        events: list[Event] = []
        entry = self._entries.get(contact.id)
        if entry is not None and entry.contact.address != contact.address:
            if entry.strikes < self._settings.claim_strikes:
                entry.claim = contact
                # Ask the old address now: its answer refutes the claim, its silence confirms it.
                # Where it never answered, also amid the pause after a strike, which is long.
                if not (entry.strikes and entry.proved):
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
            elif entry is not None and not entry.proved:
                entry.proved = True
                events.append(ContactUp(contact))
        self.answered(contact, rtt_s, now)
        return events

    def answered(self, contact: Contact, rtt_s: float, now: float) -> None:
        """A contact answered something; ignored unless it is known at this address."""
        entry = self._entries.get(contact.id)
        if entry is not None and entry.contact == contact:
            self._entries.move_to_end(contact.id)
            # Only a pong says under which id it answers.
            if entry.proved:
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
        events: list[Event] = []
        if entry.claim is not None and entry.strikes >= self._settings.claim_strikes:
            claim, entry.claim = entry.claim, None
            events = self._follow(entry, claim, now)
            if entry.contact == claim:
                entry.strikes, entry.quiet_until, entry.last_answer = 0, now, now
                self._due.cancel(claim.id)
                return events
        settings = self._settings
        if entry.strikes < (settings.strikes_max if entry.proved else settings.unseen_strikes_max):
            self._pause(entry, now)
            return events
        self._remove(entry)
        self._gone[contact.id] = _Gone(contact, now, now)
        if len(self._gone) > self._settings.gone_max:
            self._gone.popitem(last=False)
        why = Why.SILENT if entry.proved else Why.UNSEEN
        return [*events, ContactDown(contact, why), *self._promote(contact, now)]

    def due(self, now: float) -> list[Contact]:
        """Contacts whose pause after a strike is over: ask them again, now."""
        contacts: list[Contact] = []
        for known in self._due.pop_due(now):
            entry = self._entries[known]
            # Should the question never go out, the contact is due again all the same.
            self._due.set(known, now + self._pause_s(entry))
            contacts.append(entry.contact)
        return contacts

    @property
    def next_due(self) -> float:
        """When `due` next has something to say, or sooner."""
        return self._due.earliest

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

    def stale_keys(self, now: float, rng: Rng, idle_s: float) -> list[bytes]:
        """A random key in each bucket that saw no lookup for `idle_s` (Kademlia §2.3).

        Buckets nearer than the nearest contact are empty in the whole network, as far as we know.
        """
        occupied = [index for index, size in enumerate(self._sizes) if size]
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
            bucket = self._bucket(contact.id)
            self._wait_no_more(self._replacements[bucket].pop(contact.id), bucket)
            if entry.contact == contact:
                return entry
        return Entry(contact, Rtt(self._settings), now)

    def _admit(self, entry: Entry, now: float) -> list[Event]:
        bucket = self._bucket(entry.contact.id)
        host = entry.contact.address[0]
        if not self._ranges.has_room(host, bucket):
            return []
        if self._room(bucket):
            return [self._insert(entry, now)]
        if self._ranges_waiting.has_room(host, bucket):
            waiting = self._replacements.setdefault(bucket, OrderedDict())
            waiting[entry.contact.id] = entry
            self._ranges_waiting.add(host, bucket)
            if len(waiting) > self._settings.replacements_max:
                self._wait_no_more(waiting.popitem(last=False)[1], bucket)
        return []

    def _wait_no_more(self, entry: Entry, bucket: int) -> None:
        self._ranges_waiting.remove(entry.contact.address[0], bucket)

    def _insert(self, entry: Entry, now: float) -> Event:
        self._place(entry)
        gone = self._gone.pop(entry.contact.id, None)
        if gone is None:
            return ContactUp(entry.contact)
        return ContactReturned(entry.contact, now - gone.since)

    def _place(self, entry: Entry) -> None:
        contact = entry.contact
        bucket = self._bucket(contact.id)
        self._entries[contact.id] = entry
        self._by_address[contact.address] = contact.id
        self._order.add(contact.id)
        self._sizes[bucket] += 1
        self._ranges.add(contact.address[0], bucket)

    def _remove(self, entry: Entry) -> None:
        contact = entry.contact
        del self._entries[contact.id]
        del self._by_address[contact.address]
        self._order.remove(contact.id)
        bucket = self._bucket(contact.id)
        self._sizes[bucket] -= 1
        self._ranges.remove(contact.address[0], bucket)
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
            self._wait_no_more(entry, bucket)
            # Another id may have taken over that address since, or is about to.
            address = entry.contact.address
            is_free = address != lost.address and address not in self._by_address
            if is_free and self._ranges.has_room(address[0], bucket):
                event = self._insert(entry, now)
                # It was silent for as long as it waited: it is asked soon.
                self._entries.move_to_end(entry.contact.id, last=False)
                return [event]
        return []

    def _follow(self, entry: Entry, contact: Contact, now: float) -> list[Event]:
        """Believe a contact at its new address, unless the range of that is full."""
        events = self._evict(contact, now)
        before, bucket = entry.contact.address, self._bucket(contact.id)
        self._ranges.remove(before[0], bucket)
        may_follow = self._ranges.has_room(contact.address[0], bucket)
        self._ranges.add(contact.address[0] if may_follow else before[0], bucket)
        if not may_follow:
            return events
        del self._by_address[before]
        self._by_address[contact.address] = contact.id
        entry.contact = contact
        entry.rtt = Rtt(self._settings)
        was_proved, entry.proved = entry.proved, True
        return [*events, ContactMoved(contact, before) if was_proved else ContactUp(contact)]

    def _pause_s(self, entry: Entry) -> float:
        if not entry.proved and entry.claim is None:
            return self._settings.unseen_pause_s
        pauses = self._settings.strike_pauses_s
        return pauses[min(max(entry.strikes, 1), len(pauses)) - 1]

    def _pause(self, entry: Entry, now: float) -> None:
        entry.quiet_until = now + self._pause_s(entry)
        self._due.set(entry.contact.id, entry.quiet_until)
