"""How a question goes out: its message id, how long to wait for it, whom it is noted for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from p2pweb.dht import wire
from p2pweb.dht.contact import Address, Contact
from p2pweb.dht.events import Action, Send
from p2pweb.dht.proof import Proofs
from p2pweb.dht.queries import Queries, Query
from p2pweb.dht.rtt import Rtt, within
from p2pweb.dht.settings import Settings
from p2pweb.dht.table import Table

Owner = TypeVar("Owner")


@dataclass(slots=True)
class Asker:
    """Sends questions into whichever pool they belong to, and collects what was decided.

    `everyone` is the round trip to all contacts together; `actions` is what the core will return.
    """

    settings: Settings
    table: Table
    entropy: Callable[[int], bytes]
    everyone: Rtt
    proofs: Proofs
    actions: list[Action] = field(default_factory=list)

    def ask(
        self,
        pool: Queries[Owner],
        question: wire.Question,
        to: Address | Contact,
        owner: Owner,
        now: float,
        timeout_s: float,
        *,
        padded: bool = False,
    ) -> Query[Owner] | None:
        """Send a question; None when its pool is full of others that are still on time."""
        if not pool.make_room():
            return None
        address = to.address if isinstance(to, Contact) else to
        query = Query(
            message_id=self.entropy(wire.MESSAGE_ID_BYTES),
            question=question,
            address=address,
            contact=to if isinstance(to, Contact) else self.contact_at(address),
            sent=now,
            timeout_s=timeout_s,
            owner=owner,
        )
        pool.add(query)
        data = wire.encode_question(query.message_id, question, padded=padded)
        self.actions.append(Send(data, address))
        return query

    def patient_s(self, address: Address, *, tries: int = 1) -> float:
        """How long a caller waits: a stranger may be far away though all others are near."""
        entry = self.table.at(address)
        measured_s = None if entry is None else entry.rtt.timeout_s(tries=tries)
        if measured_s is not None:
            return measured_s
        return within(self.settings.rtt_initial_s, self.settings, tries=tries)

    def brisk_s(self, address: Address) -> float:
        """How long a contact may hold the slot of a lookup; a stranger as long as most others need.

        The second try waits no longer than the first, since the late answer to either counts.
        """
        entry = self.table.at(address)
        measured_s = None if entry is None else entry.rtt.brisk_timeout_s()
        if measured_s is None:
            measured_s = self._as_others_s(self.everyone.brisk_timeout_s())
        return measured_s

    def steady_s(self, address: Address) -> float:
        """The same where a slow contact is not to be passed over."""
        entry = self.table.at(address)
        measured_s = None if entry is None else entry.rtt.timeout_s()
        if measured_s is None:
            measured_s = self._as_others_s(self.everyone.timeout_s())
        return measured_s

    def _as_others_s(self, others_s: float | None) -> float:
        """How long a stranger may take: no longer than if nothing were known of the others, of whom
        a few that are slow would else have everybody wait for the dead.

        As long as that while they are few: whoever joins by its neighbour must not take everybody
        farther off for dead.
        """
        most_s = within(self.settings.rtt_initial_s, self.settings)
        is_few = len(self.table) < self.settings.join_need
        return most_s if others_s is None or is_few else min(others_s, most_s)

    def lone_s(self, tries: int) -> float:
        """The same while nobody at all answers: as for a stranger, twice that for the next try."""
        return within(self.settings.rtt_initial_s, self.settings, tries=tries)

    def contact_at(self, address: Address) -> Contact | None:
        """The contact of the table at an address."""
        entry = self.table.at(address)
        return None if entry is None else entry.contact

    def take_actions(self) -> list[Action]:
        """What was decided since the last time, in order."""
        actions, self.actions = self.actions, []
        return actions
