"""The lookups of one peer: at work, waiting for their turn, and the questions that they sent."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from p2pweb.dht import wire
from p2pweb.dht.asking import Asker
from p2pweb.dht.contact import ID_BITS, Address, Contact, NodeId, distance
from p2pweb.dht.crowding import around
from p2pweb.dht.events import Found, LookupDone, Yielded
from p2pweb.dht.hearsay import Hearsay
from p2pweb.dht.lookup import Lookup
from p2pweb.dht.queries import Queries, Query
from p2pweb.dht.rates import machine

# The parts of the id space that are looked at for gaps: 32 of them.
STRATA_BITS = 5

# Where the k nearest to this peer stand so much closer together than all others that it knows or
# has heard of, somebody may have put them there.
CROWDED = 3
# Then it is looked up how far apart peers stand elsewhere, once in so long: a network does not grow
# much faster, and it costs a lookup.
ELSEWHERE_S = 1_800.0

# Padded questions of one lookup to one host: as many peers behind one address get their answers to
# us in one round trip, the others in two.
PADDED_PER_HOST_MAX = 4


@dataclass(slots=True, eq=False)
class Run:
    """One lookup, at work once it has a `lookup`; without a token when it is our own upkeep."""

    key: bytes
    values: bool
    token: int | None
    # How many of the nearest have to answer: k, or fewer.
    need: int | None = None
    # Ask up to k at one time from the start.
    wide: bool = False
    # Afterwards, greet those of the k nearest that were not asked: they are to know us.
    greets: bool = False
    # Upkeep, though its end is awaited: no visitor waits for it.
    has_time: bool = False
    lookup: Lookup | None = None
    # Padded questions sent to each host.
    padded: dict[str, int] = field(default_factory=dict)
    # So many of the nearest contacts of the table it was told of.
    known: int = 0
    # A value turned up, and nobody has asked for another yet: no more questions are sent.
    paused: bool = False
    # How often those whose id is to be proved were asked for it, and what they answered meanwhile.
    proving: dict[Contact, int] = field(default_factory=dict)
    unproved: dict[Contact, tuple[Contact, ...]] = field(default_factory=dict)
    # Where a crowd stands next to the key: the lookups around it, the lookup that one of these is
    # for, whom they have found, and within which distance all of those are heard out. None before
    # it was looked whether there is one.
    children: list[Run] | None = None
    parent: Run | None = None
    around: list[Contact] = field(default_factory=list)
    radius: int = 0
    # It is to say how far apart peers stand elsewhere, before the other one can be told a crowd.
    measures: bool = False

    @property
    def is_upkeep(self) -> bool:
        """Whether no visitor waits for it, nor a caller who has no time."""
        return self.has_time or (self.token is None and self.parent is None)

    @property
    def has_spares(self) -> bool:
        """Whether one more is asked beside each that is in doubt, to be done sooner. Not for
        upkeep, nor where any few of those near the key are to say what they hold."""
        return not self.is_upkeep and not (self.values and self.need is not None)

    def heeds(self, contact: Contact) -> bool:
        """Whether a contact is not of the crowd that a lookup is to find those around of: these
        would all be asked before anybody else, and name one another."""
        if self.parent is None or self.measures:
            return True
        return distance(contact.id, self.parent.key) >= distance(self.key, self.parent.key)

    @property
    def is_exact(self) -> bool:
        """Whether somebody wants the very nearest, all k of them."""
        return self.proves and not self.greets and self.need is None

    @property
    def proves(self) -> bool:
        """Whether only those count who say themselves that they have the id they are asked as: to
        them something is entrusted, and ids near a key are easily invented."""
        return not self.values and (not self.is_upkeep or self.greets)


class Lookups:
    """Runs lookups; `pool` holds their questions and those of upkeep (which have no owner)."""

    def __init__(self, own: NodeId, asker: Asker, greet: Callable[[Contact, float], None]) -> None:
        settings = asker.settings
        self.pool: Queries[Run | None] = Queries(
            most=settings.queries_max, late_for_s=settings.late_for_s
        )
        self._own = own
        self._asker = asker
        self._greet = greet
        self._settings = settings
        self._hearsay = Hearsay(settings)
        # Which id each address said it has, and when; the one that said so longest ago first.
        self._identified: OrderedDict[Address, tuple[NodeId, float]] = OrderedDict()
        # A dict for its order: what happens is the same each time.
        self._running: dict[Run, None] = {}
        # How many of them are paused: these take nobody's place, since a caller may be busy with
        # what was found for as long as a download takes.
        self._paused = 0
        self._waiting: deque[Run] = deque()
        self._tokens: dict[int, Run] = {}
        # How far the last of k is from a key that nobody can have chosen, and when that was found.
        self._elsewhere = 0, -math.inf

    def add(self, run: Run) -> None:
        """Queue a lookup; `start_waiting` starts it when there is room."""
        if run.token is not None:
            self._tokens[run.token] = run
        self._waiting.append(run)

    def cancel(self, token: int) -> None:
        """Forget the lookup of a token, if it goes on."""
        run = self._tokens.pop(token, None)
        if run in self._running:
            for one in (run, *(run.children or ())):
                self._running.pop(one, None)
            self._paused -= run.paused
        elif run is not None:
            self._waiting.remove(run)

    def resume(self, token: int, now: float) -> None:
        """Go on after a value turned up: the caller wants another."""
        run = self._tokens.get(token)
        if run is not None and run.paused and run.lookup is not None:
            run.paused = False
            self._paused -= 1
            self._advance(run, run.lookup, now)

    def known(self) -> int:
        """How many others are known, by hearsay or at first hand; from k on, the latter alone."""
        table = self._asker.table
        if len(table) >= self._settings.k:
            return len(table)
        return len(table) + sum(table.get(one) is None for one in self._hearsay)

    def heard_of(self, key: bytes, count: int, now: float) -> list[Contact]:
        """The contacts nearest to a key, at first hand or by hearsay, nearest first."""
        table = self._asker.table
        named = [one for one in self._hearsay.nearest(key, count, now) if not table.get(one.id)]
        known = [*table.nearest(key, count), *named]
        return sorted(known, key=lambda one: distance(one.id, key))[:count]

    def thinnest(self) -> tuple[int, int]:
        """Of which part of the id space the fewest are known, and how many those are."""
        counts = self._strata()
        fewest = min(counts)
        return counts.index(fewest), fewest

    def _strata(self) -> list[int]:
        bits = STRATA_BITS
        known = zip(self._hearsay.strata(bits), self._asker.table.strata(bits), strict=True)
        return [sum(two) for two in known]

    def glance(self, key: bytes, contact: Contact, now: float) -> None:
        """Ask one contact for those that it knows near a key, to have heard of them."""
        question = wire.FindNode(self._own, key)
        timeout_s = self._asker.brisk_s(contact.address)
        self._asker.ask(self.pool, question, contact, None, now, timeout_s)

    def unproved(self, now: float) -> Contact | None:
        """One whom others named and who is worth a PING, because the table has a place."""
        table = self._asker.table

        def wanted(contact: Contact) -> bool:
            is_news = table.get(contact.id) is None and table.at(contact.address) is None
            return is_news and table.wants(contact)

        return self._hearsay.untried(wanted, now)

    def start_waiting(self, now: float) -> None:
        """Start lookups while there is room; with nobody to ask they end at once."""
        while self._waiting and len(self._running) - self._paused < self._settings.lookups_max:
            self._start(self._waiting.popleft(), now)

    def _start(self, run: Run, now: float) -> None:
        table = self._asker.table
        table.touch(run.key, now)
        # More than k, lest the silent among them leave too few to begin with.
        run.known = count = 2 * self._settings.k
        run.lookup = Lookup(
            run.key,
            self._own,
            table.nearest(run.key, count),
            self._settings,
            table.suspect,
            need=run.need,
            exact=run.is_exact,
            upkeep=run.is_upkeep,
            spares=run.has_spares,
            wide=run.wide,
            rumours=self._hearsay.nearest(run.key, count, now),
            believe=self._believe,
            heeds=run.heeds,
        )
        self._running[run] = None
        self._advance(run, run.lookup, now)

    def heard(self, query: Query[Run | None], answer: wire.Answer | None, now: float) -> None:
        """An answer arrived, in time or late; None is garbage."""
        run, contact = query.owner, query.contact
        if isinstance(answer, wire.Nodes) and contact is not None:
            self.note(answer.contacts, contact.address, now)
        if run not in self._running or run.lookup is None or contact is None:
            return
        match answer:
            case wire.Pong():
                return  # `identified` has seen to it.
            case wire.Nodes(contacts) if contact in run.proving:
                run.unproved[contact] = contacts
                if run.proving[contact] > self._settings.proof_tries:
                    run.lookup.timed_out(contact)
            case wire.Nodes(contacts):
                run.lookup.answered(contact, contacts)
            case wire.Value(value, extra):
                if run.lookup.answered(contact, (), found=True) and run.token is not None:
                    found = Found(contact, value, extra)
                    self._asker.actions.append(Yielded(run.token, found))
                    self._paused += not run.paused
                    run.paused = True
            case _:
                run.lookup.discredit(contact)
        self._advance(run, run.lookup, now)

    def missed(self, query: Query[Run | None], now: float) -> None:
        """An answer is late."""
        run, contact = query.owner, query.contact
        is_ping = isinstance(query.question, wire.Ping)
        if is_ping:
            # There may be somebody else at that address soon.
            self._identified.pop(query.address, None)
        if run in self._running and run.lookup is not None and contact is not None:
            if is_ping:
                is_over = contact in run.proving and not self._prove(run, contact, now)
                if not is_over or contact not in run.unproved:
                    return
            run.lookup.timed_out(contact)
            if not is_ping:
                self._hearsay.forget(contact)
            self._advance(run, run.lookup, now)

    def identified(self, address: Address, known: NodeId, now: float) -> None:
        """An address said who it is: no lookup believes another id of it, now or later."""
        self._identified[address] = known, now
        self._identified.move_to_end(address)
        most, since = self._settings.identified_max, now - self._settings.identified_for_s
        while len(self._identified) > most or next(iter(self._identified.values()))[1] < since:
            self._identified.popitem(last=False)
        self._hearsay.refute(address, known)
        for run in list(self._running):
            if run.lookup is not None and _learns(run, run.lookup, Contact(known, address)):
                self._advance(run, run.lookup, now)

    def _advance(self, run: Run, lookup: Lookup, now: float) -> None:
        if run.paused:
            return
        kind = wire.FindValue if run.values else wire.FindNode
        ask, proofs = self._asker.ask, self._asker.proofs
        while contacts := self._next_requests(run, lookup):
            for contact in contacts:
                if lone_tries := lookup.lone_tries(contact):
                    # Silence on every side may be our own: a process that gets no processor time
                    # finds all answers late, and must not say that there is nothing.
                    timeout_s = self._asker.lone_s(lone_tries)
                elif run.is_exact:
                    timeout_s = self._asker.steady_s(contact.address)
                else:
                    timeout_s = self._asker.brisk_s(contact.address)
                question = kind(self._own, run.key)
                # Nobody waits for upkeep, which may take the round trip of a proof.
                padded = not run.is_upkeep and not proofs.met(contact.address, now)
                padded = padded and self._may_pad(run, contact.address)
                if not ask(self.pool, question, contact, run, now, timeout_s, padded=padded):
                    lookup.timed_out(contact)
                elif run.proves and contact not in run.proving and not self._is_proved(contact):
                    self._prove(run, contact, now)
        if lookup.done and not self._is_crowded(run, lookup, now):
            del self._running[run]
            if run.greets:
                for contact in lookup.unheard():
                    self._greet(contact, now)
            if run.token is not None:
                del self._tokens[run.token]
                inconclusive = run.values and lookup.inconclusive
                done = LookupDone(run.token, lookup.closest(), inconclusive)
                self._asker.actions.append(done)
            if run.parent is not None:
                self._end_child(run, run.parent, lookup.closest(), now)

    def _is_crowded(self, run: Run, lookup: Lookup, now: float) -> bool:
        """Whether a lookup waits for those that find the peers around a crowd next to its key, or
        tell whether there is one."""
        if run.children is None and run.token is not None:
            children = self._around(run, lookup, now)
            run.children = children.copy()
            # At once, whatever waits for its turn: this one asks nothing meanwhile.
            for child in children:
                self._start(child, now)
            return bool(children)
        return bool(run.children)

    def _around(self, run: Run, lookup: Lookup, now: float) -> list[Run]:
        """The lookups that one has to wait for: those around a crowd, or the one that says whether
        there is one."""
        table, k, own = self._asker.table, self._settings.k, self._own
        radius = lookup.radius_of(k)
        # Of a few contacts it cannot be told how far apart peers stand.
        if radius is None or len(table) < 2 * k:
            return []
        usual = distance(table.nearest(own, k)[-1].id, own)
        # Whoever crowds a key crowds the peers next to it too.
        if _part(run.key) == _part(own) and run.key != own and self._is_crowd_here(usual):
            elsewhere, since = self._elsewhere
            if now - since > ELSEWHERE_S:
                return [Run(self._far_key(), values=False, token=None, parent=run, measures=True)]
            usual = max(usual, elsewhere)
        # All that `around` leads to: what the table says of how far that is may be too little.
        run.radius = (1 << usual.bit_length()) - 1
        keys = around(run.key, radius, usual, k)
        return [Run(key, values=False, token=None, parent=run) for key in keys]

    def _is_crowd_here(self, radius: int) -> bool:
        """Whether the k nearest, the last of which is so far, may be a crowd."""
        counts = self._strata()
        del counts[_part(self._own)]
        average = (len(counts) * self._settings.k << ID_BITS - STRATA_BITS) // max(1, sum(counts))
        return average > CROWDED * radius

    def _far_key(self) -> bytes:
        """A key in the other half of the id space, which nobody can foresee."""
        first, *others = self._asker.entropy(len(self._own))
        return bytes([first & 0x7F | ~self._own[0] & 0x80, *others])

    def _end_child(self, child: Run, parent: Run, closest: tuple[Contact, ...], now: float) -> None:
        assert parent.children is not None and parent.lookup is not None  # noqa: S101
        parent.children.remove(child)
        if child.measures:
            k = self._settings.k
            radius = distance(closest[k - 1].id, child.key) if len(closest) >= k else 0
            self._elsewhere = radius, now
            parent.children = None
        else:
            parent.around += closest
            if parent.children:
                return
            parent.lookup.widen(parent.around, parent.radius)
        self._advance(parent, parent.lookup, now)

    def _is_proved(self, contact: Contact) -> bool:
        """Whether a contact said itself who it is, in this run or an earlier one."""
        known, _ = self._identified.get(contact.address, (None, 0.0))
        return known == contact.id or self._asker.contact_at(contact.address) == contact

    def _prove(self, run: Run, contact: Contact, now: float) -> bool:
        """Ask a contact who it is, beside the question; False where it was asked often enough."""
        tries, tries_max = run.proving.get(contact, 0) + 1, self._settings.proof_tries
        timeout_s = self._asker.steady_s(contact.address)
        ping = wire.Ping(self._own)
        if tries > tries_max or not self._asker.ask(self.pool, ping, contact, run, now, timeout_s):
            run.proving[contact] = tries_max + 1
            return False
        run.proving[contact] = tries
        # Once is enough: its answer will not have it introduced.
        self._asker.proofs.introduce(contact, now)
        return True

    def _may_pad(self, run: Run, address: Address) -> bool:
        """Whether so long a question may go there: who names one host under many ports must not
        have us send it much."""
        host = machine(address)
        sent = run.padded[host] = run.padded.get(host, 0) + 1
        return sent <= PADDED_PER_HOST_MAX

    def _next_requests(self, run: Run, lookup: Lookup) -> list[Contact]:
        """Whom to ask now; where all that the lookup knows of are silent, those farther away."""
        contacts = lookup.next_requests()
        table = self._asker.table
        while not contacts and lookup.done and lookup.is_short and run.known < len(table):
            run.known *= 2
            if lookup.know(table.nearest(run.key, run.known)):
                contacts = lookup.next_requests()
        return contacts

    def note(self, contacts: tuple[Contact, ...], teller: Address, now: float) -> None:
        """Whoever is at an address named these: they have been heard of."""
        table = self._asker.table
        for contact in contacts[: self._settings.k]:
            # Whoever is in the table is known better than by rumour.
            is_news = table.get(contact.id) is None and contact.id != self._own
            if is_news and self._believe(contact) is not None:
                self._hearsay.note(contact, machine(teller), now)

    def _believe(self, contact: Contact) -> Contact | None:
        """What others say of a contact, corrected by what is known at first hand."""
        known, _ = self._identified.get(contact.address, (contact.id, 0.0))
        if known != contact.id:
            return None
        table = self._asker.table
        here = table.at(contact.address)
        if here is not None and here.contact.id != contact.id and here.is_sound:
            return None
        entry = table.get(contact.id)
        return entry.contact if entry is not None and entry.is_sound else contact


def _part(key: bytes) -> int:
    """In which of the parts of the id space it is that are looked at for gaps."""
    return key[0] >> 8 - STRATA_BITS


def _learns(run: Run, lookup: Lookup, proved: Contact) -> bool:
    """Whether it is news to a lookup that a contact said who it is."""
    is_news = lookup.discredit_others(proved.address, proved.id)
    if run.proving.pop(proved, 0) and proved in run.unproved:
        is_news |= lookup.answered(proved, run.unproved.pop(proved))
    return is_news
