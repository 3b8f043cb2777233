"""The lookups of one peer: at work, waiting for their turn, and the questions that they sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from p2pweb.dht import wire
from p2pweb.dht.asking import Asker
from p2pweb.dht.contact import Address, Contact, NodeId
from p2pweb.dht.events import Found, LookupDone, Yielded
from p2pweb.dht.lookup import Lookup
from p2pweb.dht.queries import Queries, Query


@dataclass(slots=True, eq=False)
class Run:
    """One lookup, at work once it has a `lookup`; without a token when it is our own upkeep."""

    key: bytes
    values: bool
    token: int | None
    lookup: Lookup | None = None


class Lookups:
    """Runs lookups; `pool` holds their questions and those of upkeep (which have no owner)."""

    def __init__(self, own: NodeId, asker: Asker) -> None:
        settings = asker.settings
        self.pool: Queries[Run | None] = Queries(
            most=settings.queries_max, late_for_s=settings.late_for_s
        )
        self._own = own
        self._asker = asker
        self._settings = settings
        # A dict for its order: what happens is the same each time.
        self._running: dict[Run, None] = {}
        self._waiting: deque[Run] = deque()
        self._tokens: dict[int, Run] = {}

    def add(self, run: Run) -> None:
        """Queue a lookup; `start_waiting` starts it when there is room."""
        if run.token is not None:
            self._tokens[run.token] = run
        self._waiting.append(run)

    def cancel(self, token: int) -> None:
        """Forget the lookup of a token, if it goes on."""
        run = self._tokens.pop(token, None)
        if run in self._running:
            del self._running[run]
        elif run is not None:
            self._waiting.remove(run)

    def start_waiting(self, now: float) -> None:
        """Start lookups while there is room; with nobody to ask they end at once."""
        table = self._asker.table
        while self._waiting and len(self._running) < self._settings.lookups_max:
            run = self._waiting.popleft()
            table.touch(run.key, now)
            # More than k, lest the silent among them leave too few to begin with.
            nearest = table.nearest(run.key, 2 * self._settings.k)
            run.lookup = Lookup(run.key, self._own, nearest, self._settings, table.suspect)
            self._running[run] = None
            self._advance(run, run.lookup, now)

    def heard(self, query: Query[Run | None], answer: wire.Answer | None, now: float) -> None:
        """An answer arrived, in time or late; None is garbage."""
        run, contact = query.owner, query.contact
        if run not in self._running or run.lookup is None or contact is None:
            return
        match answer:
            case wire.Nodes(contacts):
                run.lookup.answered(contact, self._believable(contacts))
            case wire.Value(value, extra):
                if run.lookup.answered(contact, ()) and run.token is not None:
                    found = Found(contact, value, extra)
                    self._asker.actions.append(Yielded(run.token, found))
            case _:
                run.lookup.discredit(contact)
        self._advance(run, run.lookup, now)

    def missed(self, query: Query[Run | None], now: float) -> None:
        """An answer is late."""
        run, contact = query.owner, query.contact
        if run in self._running and run.lookup is not None and contact is not None:
            run.lookup.timed_out(contact)
            self._advance(run, run.lookup, now)

    def identified(self, address: Address, known: NodeId, now: float) -> None:
        """An address said who it is: no lookup goes on believing another id of it."""
        for run in list(self._running):
            if run.lookup is not None and run.lookup.discredit_others(address, known):
                self._advance(run, run.lookup, now)

    def _advance(self, run: Run, lookup: Lookup, now: float) -> None:
        kind = wire.FindValue if run.values else wire.FindNode
        while contacts := lookup.next_requests():
            for contact in contacts:
                timeout_s = self._asker.brisk_s(contact.address)
                question = kind(self._own, run.key)
                if self._asker.ask(self.pool, question, contact, run, now, timeout_s) is None:
                    lookup.timed_out(contact)
        if lookup.done:
            del self._running[run]
            if run.token is not None:
                del self._tokens[run.token]
                self._asker.actions.append(LookupDone(run.token, lookup.closest()))

    def _believable(self, contacts: Sequence[Contact]) -> list[Contact]:
        """What others say of contacts, corrected by what the table knows first-hand."""
        believable: list[Contact] = []
        for contact in contacts:
            here = self._asker.table.at(contact.address)
            if here is not None and here.contact.id != contact.id and not here.strikes:
                continue
            entry = self._asker.table.get(contact.id)
            first_hand = entry is not None and not entry.strikes
            believable.append(entry.contact if entry and first_hand else contact)
        return believable
