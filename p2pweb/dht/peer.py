"""The peer as a pure state machine: datagrams, calls and `now` in, actions out.

Every method that takes `now` (monotonic seconds) returns the actions to perform, in order. Nothing
here waits, reads a clock or draws random numbers of its own. A caller names each call by a token
and finds it again in the action that ends the call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from p2pweb.dht import wire
from p2pweb.dht.asking import Asker
from p2pweb.dht.chance import Rng
from p2pweb.dht.contact import ID_BITS, ID_BYTES, Address, Contact, NodeId
from p2pweb.dht.events import (
    Action,
    ContactDown,
    Found,
    NodesDone,
    Ponged,
    Send,
    StoreDone,
    ValueDone,
)
from p2pweb.dht.lookups import STRATA_BITS, Lookups, Run
from p2pweb.dht.proof import Proofs
from p2pweb.dht.queries import Queries, Query
from p2pweb.dht.rates import Rates
from p2pweb.dht.rtt import LATENESS_MAX, Rtt
from p2pweb.dht.serving import Records, Service
from p2pweb.dht.settings import Settings
from p2pweb.dht.table import Table


@dataclass(slots=True, eq=False)
class _Call:
    """A question that a caller awaits the answer to."""

    token: int
    question: wire.Ping | wire.Store | wire.FindNode | wire.FindValue
    to: Address | Contact
    tries_max: int
    tries: int = 0
    done: bool = False

    @property
    def address(self) -> Address:
        return self.to.address if isinstance(self.to, Contact) else self.to


_AnyQuery = Query[_Call] | Query[Run | None] | Query[int]


class Peer:
    """One peer of the overlay. `entropy(n)` gives n unguessable bytes.

    `known` are contacts of an earlier run, the most useful first.
    """

    def __init__(
        self,
        own: NodeId,
        records: Records,
        *,
        rng: Rng,
        entropy: Callable[[int], bytes],
        settings: Settings,
        now: float,
        known: Sequence[Contact] = (),
    ) -> None:
        self.own = own
        self.table = Table(own, settings, now)
        self.table.restore(known, now)
        # Datagrams dropped: those that follow no schema, and questions beyond the rate.
        self.malformed = 0
        self.limited = 0
        self._rng = rng
        self._settings = settings
        self._service = Service(own, self.table, records, settings)
        self._proofs = Proofs(settings)
        # It was proved to these in the run before; who was restarted since asks it again.
        for contact in known:
            self._proofs.meet(contact.address, now)
        self._rates = Rates(settings)
        self._asker = Asker(settings, self.table, entropy, Rtt(settings), self._proofs)
        self._lookups = Lookups(own, self._asker, self._introduce)
        # Pools of their own, lest callers starve lookups, or strangers both. A stranger's ping is
        # owned by the number of its try.
        self._calls: Queries[_Call] = Queries(
            most=settings.queries_max, late_for_s=settings.late_for_s
        )
        self._pings: Queries[int] = Queries(
            most=settings.proofs_max, late_for_s=settings.late_for_s
        )
        # Strangers whose pong may still be on time, and the message id it will have.
        self._proving: dict[Address, bytes] = {}
        self._tokens: dict[int, _Call] = {}
        # A random phase keeps peers started together from probing together.
        self._probe_at = now + rng.uniform(0.0, settings.probe_every_s)
        self._refresh_at = now + self._refresh_pause_s()
        # Contacts of an earlier run are of every part of the id space: others have time.
        periods = rng.uniform(0.0, 1.0) + bool(known)
        self._gap_at = now + settings.gap_every_s * periods

    # --- what the shell calls ---

    def receive(self, data: bytes, address: Address, now: float) -> list[Action]:
        """A datagram arrived from an address (canonical)."""
        if data[:1] == wire.QUESTION_TYPE:
            known = self.table.at(address) is not None or self._proofs.proved(address, now)
            if not self._rates.allows(address, now, known=known):
                self.limited += 1
                return []
        try:
            message = wire.decode(data)
        except wire.MalformedError:
            self.malformed += 1
            return []
        if isinstance(message, wire.Asked):
            self._serve(message, len(data), address, now)
        else:
            self._hear(message, address, now)
        return self._decided(now)

    def knows_few(self) -> bool:
        """Whether fewer than k others are known, by hearsay or at first hand."""
        return self._lookups.known() < self._settings.k

    def heard_of(self, key: bytes, count: int, now: float) -> list[Contact]:
        """The contacts nearest to a key, at first hand or by hearsay, nearest first."""
        return self._lookups.heard_of(key, count, now)

    def next_timer(self) -> float:
        """When `handle_timer` is to be called, at the latest."""
        return min(
            self._probe_at,
            self._refresh_at,
            self._gap_at,
            self._calls.next_timer,
            self._lookups.pool.next_timer,
            self._pings.next_timer,
            self.table.next_due,
        )

    def handle_timer(self, now: float) -> list[Action]:
        """Time has passed."""
        for stranger in self._pings.expire(now):
            if self._proving.get(stranger.address) == stranger.message_id:
                del self._proving[stranger.address]
                if stranger.owner < self._settings.proof_tries:
                    to = stranger.contact or stranger.address
                    self._prove(to, now, tries=stranger.owner + 1)
        for call in self._calls.expire(now):
            self._missed(call, now)
            self._try_call(call.owner, now)
        for query in self._lookups.pool.expire(now):
            self._missed(query, now)
            self._lookups.missed(query, now)
        for contact in self.table.due(now):
            self._probe(contact, now)
        if now >= self._probe_at:
            self._probe_at = now + self._probe_pause_s()
            for quiet in (self.table.stalest(now), self.table.remembered(now)):
                if quiet is not None:
                    self._probe(quiet, now)
            self._introduce(self._lookups.unproved(now), now)
        if now >= self._gap_at:
            self._gap_at = now + self._settings.gap_every_s
            self._fill_a_gap(now)
        if now >= self._refresh_at:
            self._refresh_at = now + self._refresh_pause_s()
            self._lookups.add(self._self_lookup(None, self._settings.join_need))
            for key in self.table.stale_keys(now, self._rng, self._settings.refresh_every_s):
                self._lookups.add(Run(key, values=False, token=None, need=1))
        return self._decided(now)

    def ping(
        self, token: int, address: Address, now: float, tries: int | None = None
    ) -> list[Action]:
        """Ask an address who it is, so often at most; ends in Ponged."""
        call = _Call(token, wire.Ping(self.own), address, tries or self._settings.ping_tries)
        return self._start_call(call, now)

    def store(
        self, token: int, contact: Contact, key: bytes, value: bytes, now: float
    ) -> list[Action]:
        """Send a STORE; ends in StoreDone."""
        question = wire.Store(self.own, key, value)
        call = _Call(token, question, contact, self._settings.store_tries)
        return self._start_call(call, now)

    def value_of(self, token: int, contact: Contact, key: bytes, now: float) -> list[Action]:
        """Ask a contact, once, for the value that it holds under a key; ends in ValueDone."""
        return self._start_call(_Call(token, wire.FindValue(self.own, key), contact, 1), now)

    def contacts_at(self, token: int, address: Address, now: float) -> list[Action]:
        """Ask whoever is at an address, once, for the contacts that it knows near this peer, to
        have heard of them; ends in NodesDone."""
        question = wire.FindNode(self.own, self.own)
        return self._start_call(_Call(token, question, address, 1), now)

    def find_node(
        self, token: int, key: bytes, now: float, need: int | None = None, *, wide: bool = False
    ) -> list[Action]:
        """Look for the `need` (1 to k; k) contacts closest to a key; ends in LookupDone.

        With `wide` up to k are asked at one time from the start.
        """
        self._lookups.add(Run(key, values=False, token=token, need=need, wide=wide))
        return self._decided(now)

    def join(self, token: int, now: float, *, again: bool = False) -> list[Action]:
        """Have the k contacts closest to this peer know it, and know them; ends in LookupDone.

        With `again` it knew most of them in an earlier run.
        """
        settings = self._settings
        need = settings.return_need if again else settings.join_need
        # A newcomer knows none of them, and all that follows waits for it.
        run = self._self_lookup(token, need, wide=not again)
        run.has_time = again
        self._lookups.add(run)
        return self._decided(now)

    def find_value(
        self, token: int, key: bytes, now: float, need: int | None = None
    ) -> list[Action]:
        """Look for values under a key with the `need` (1 to k; k) contacts closest to it: Yielded
        for each, then LookupDone.

        After a value no more questions are sent until `resume`.
        """
        self._lookups.add(Run(key, values=True, token=token, need=need))
        return self._decided(now)

    def resume(self, token: int, now: float) -> list[Action]:
        """The caller has taken the values found so far and wants another."""
        self._lookups.resume(token, now)
        return self._decided(now)

    def explore(self, now: float) -> list[Action]:
        """Learn of contacts all over the id space, as a newcomer does."""
        self._glance_around(now)
        return self._decided(now)

    def cancel(self, token: int, now: float) -> list[Action]:
        """Nobody awaits this call any longer; no action will name its token."""
        call = self._tokens.pop(token, None)
        if call is not None:
            call.done = True
        else:
            self._lookups.cancel(token)
        return self._decided(now)

    # --- questions of others ---

    def _serve(self, asked: wire.Asked, size: int, address: Address, now: float) -> None:
        actions = self._asker.actions
        answer = self._service.answer(asked, address)
        if isinstance(asked.question, wire.Ping):
            self._proofs.meet(address, now)
        sender = None
        if not isinstance(asked.question, wire.Stun):
            sender = Contact(asked.question.sender, address)
        if self._proofs.proved(address, now):
            actions.append(Send(answer, address))
            self._introduce(sender, now)
            return
        allowed = self._settings.amplification_max * size
        proving = address in self._proving
        # A ping is never longer than the question that brings it about.
        pings_bytes = wire.PING_BYTES * self._settings.proof_tries
        pingable = not proving and size >= wire.PING_BYTES and allowed >= pings_bytes
        if len(answer) + pings_bytes * pingable <= allowed:
            actions.append(Send(answer, address))
            if pingable:
                self._introduce(sender, now)
        elif proving or (pingable and self._prove(address, now)):
            self._proofs.hold(address, answer, now)
        elif len(answer) <= allowed:
            actions.append(Send(answer, address))

    def _introduce(self, stranger: Contact | None, now: float) -> None:
        """Ask a stranger who it is, unless it was asked lately: only its pong opens the table."""
        # Who claims our own id is nobody to remember.
        if stranger is None or stranger.id == self.own or self.table.knows(stranger):
            return
        if not self.table.wants(stranger):
            return
        if stranger.address not in self._proving and self._proofs.introduce(stranger, now):
            self._prove(stranger, now)

    def _prove(self, to: Address | Contact, now: float, *, tries: int = 1) -> bool:
        address = to.address if isinstance(to, Contact) else to
        timeout_s = self._asker.brisk_s(address)
        query = self._asker.ask(self._pings, wire.Ping(self.own), to, tries, now, timeout_s)
        if query is None:
            return False
        self._proving[address] = query.message_id
        return True

    # --- answers of others ---

    def _hear(self, answered: wire.Answered, address: Address, now: float) -> None:
        message_id = answered.message_id
        if (call := self._calls.take(message_id, address)) is not None:
            answer = self._read(call, answered.body, now)
            self._end_call(call.owner, answer, now, now - call.sent)
        elif (query := self._lookups.pool.take(message_id, address)) is not None:
            self._lookups.heard(query, self._read(query, answered.body, now), now)
        elif (ping := self._pings.take(message_id, address)) is not None:
            self._read(ping, answered.body, now)

    def _read(self, query: _AnyQuery, body: bytes, now: float) -> wire.Answer | None:
        """Learn what any answer teaches of its sender; None when it is garbage."""
        self._proving.pop(query.address, None)
        for held in self._proofs.prove(query.address, now):
            self._asker.actions.append(Send(held, query.address))
        try:
            answer = wire.decode_answer(query.question, body)
        except wire.MalformedError:
            self.malformed += 1
            self._missed(query, now)
            return None
        rtt_s = min(now - query.sent, LATENESS_MAX * query.timeout_s)
        self._asker.everyone.sample(rtt_s)
        if isinstance(answer, wire.Pong):
            if answer.id != self.own and self._is_meant(query, answer.id):
                proved = Contact(answer.id, query.address)
                self._asker.actions += self.table.proved(proved, rtt_s, now)
            self._lookups.identified(query.address, answer.id, now)
        elif query.contact is not None:
            self.table.answered(query.contact, rtt_s, now)
            # It answers, but only a pong says under which id.
            self._introduce(query.contact, now)
        return answer

    def _is_meant(self, query: _AnyQuery, known: NodeId) -> bool:
        """Whether it is for the table who answered a PING.

        Not whoever was only named, and under an id of another: liars would have all of their own
        met in place of those whom honest peers name, and fill the tables.
        """
        said = query.contact
        return said is None or said.id == known or self.table.at(query.address) is not None

    def _missed(self, query: _AnyQuery, now: float) -> None:
        if query.contact is not None:
            for event in self.table.missed(query.contact, query.sent, now):
                self._asker.actions.append(event)
                if isinstance(event, ContactDown):
                    self._proofs.forget(event.contact)

    # --- calls ---

    def _start_call(self, call: _Call, now: float) -> list[Action]:
        self._tokens[call.token] = call
        self._try_call(call, now)
        return self._decided(now)

    def _try_call(self, call: _Call, now: float) -> None:
        """Ask once more, or give up."""
        if call.done:
            return
        if call.tries < call.tries_max:
            call.tries += 1
            timeout_s = self._asker.patient_s(call.address, tries=call.tries)
            # A stranger would want proof of this address before it sends a long answer.
            padded = isinstance(call.question, wire.FindNode)
            ask = self._asker.ask
            if ask(self._calls, call.question, call.to, call, now, timeout_s, padded=padded):
                return
        self._end_call(call, None, now, 0.0)

    def _end_call(self, call: _Call, answer: wire.Answer | None, now: float, rtt_s: float) -> None:
        if call.done:
            return
        call.done = True
        del self._tokens[call.token]
        action: Action
        if isinstance(call.question, wire.Store):
            stored = answer.answer if isinstance(answer, wire.Stored) else None
            action = StoreDone(call.token, stored)
        elif isinstance(call.question, wire.FindValue):
            found = None
            if isinstance(answer, wire.Value) and isinstance(call.to, Contact):
                found = Found(call.to, answer.value, answer.extra)
            action = ValueDone(call.token, found)
        elif isinstance(call.question, wire.FindNode):
            named = None
            if isinstance(answer, wire.Nodes):
                named = len(answer.contacts)
                self._lookups.note(answer.contacts, call.address, now)
            action = NodesDone(call.token, named)
        elif isinstance(answer, wire.Pong):
            action = Ponged(call.token, answer.id, rtt_s)
        else:
            action = Ponged(call.token, None, None)
        self._asker.actions.append(action)

    # --- upkeep ---

    def _glance_around(self, now: float) -> None:
        """Ask a few contacts for others all over the id space: what each knows far from itself is
        sparse, and so its answer spans much of it."""
        glances = min(self._settings.glances, len(self.table))
        for number in range(glances):
            self._glance(number / glances, 1.0 / glances, now)

    def _fill_a_gap(self, now: float) -> None:
        """Ask for contacts where the fewest are known, as long as that is too few."""
        stratum, known = self._lookups.thinnest()
        if known < self._settings.known_in_stratum:
            share = 1.0 / (1 << STRATA_BITS)
            self._glance(stratum * share, share, now)

    def _glance(self, start: float, share: float, now: float) -> None:
        """Ask anybody for contacts near a random key in a part of the id space (0 to 1)."""
        contact = self.table.anybody(self._rng)
        if contact is not None:
            place = self._rng.uniform(start, start + share)
            key = min(int(place * (1 << ID_BITS)), (1 << ID_BITS) - 1).to_bytes(ID_BYTES, "big")
            self._lookups.glance(key, contact, now)

    def _self_lookup(self, token: int | None, need: int, *, wide: bool = False) -> Run:
        return Run(self.own, values=False, token=token, need=need, wide=wide, greets=True)

    def _probe(self, contact: Contact, now: float) -> None:
        timeout_s = self._asker.patient_s(contact.address)
        pool = self._lookups.pool
        self._asker.ask(pool, wire.Ping(self.own), contact, None, now, timeout_s)

    def _probe_pause_s(self) -> float:
        settings = self._settings
        is_large = len(self.table) > settings.k
        return settings.probe_large_every_s if is_large else settings.probe_every_s

    def _refresh_pause_s(self) -> float:
        jitter = self._settings.refresh_jitter
        return self._settings.refresh_every_s * self._rng.uniform(1 - jitter, 1 + jitter)

    def _decided(self, now: float) -> list[Action]:
        """Every call ends here, so that a lookup that waits starts as soon as another ends."""
        self._lookups.start_waiting(now)
        return self._asker.take_actions()
