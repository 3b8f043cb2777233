"""One iterative lookup (Kademlia §2.3), without sockets or clocks.

It says whom to ask and is told what came of it; it ends when the k nearest contacts that are not
known to be silent have answered. Departures from the paper: there are no rounds (up to alpha
questions are in flight whenever there is somebody to ask, and up to k once the nearest alpha have
answered), a timeout frees the slot while a late answer still counts, and a contact with a clean
record is asked again before its silence counts.

What contacts say is rumour: the shortlist is bounded, each id is believed at few addresses, each
address under few ids, and the number of questions is bounded.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from p2pweb.dht.contact import Address, Contact, NodeId, distance
from p2pweb.dht.settings import Settings


class _State(Enum):
    WAITING = 1  # to be asked, for the first time or again
    ASKED = 2  # holds a slot
    ANSWERED = 3
    SILENT = 4  # counts no longer, unless a late answer comes
    DISCREDITED = 5  # counts no longer, whatever comes


@dataclass(slots=True, order=True)
class _Candidate:
    distance: int
    # Two addresses of one id are equally far; the one heard of first comes first.
    serial: int
    contact: Contact = field(compare=False)
    # A suspect is in doubt from the start, others once they missed a question.
    in_doubt: bool = field(compare=False)
    tries_max: int = field(compare=False)
    state: _State = field(compare=False, default=_State.WAITING)
    tries: int = field(compare=False, default=0)


class Lookup:
    """The state of one lookup of `target` (20 bytes) by the peer `own`.

    `suspect` says of a contact whether its last question went unanswered: such a contact is asked
    after the others, once.
    """

    def __init__(
        self,
        target: bytes,
        own: NodeId,
        contacts: Sequence[Contact],
        settings: Settings,
        suspect: Callable[[Contact], bool],
    ) -> None:
        self.target = target
        self._own = own
        self._settings = settings
        self._suspect = suspect
        self._candidates: dict[Contact, _Candidate] = {}
        self._nearest: list[_Candidate] = []
        self._addresses_of: dict[NodeId, int] = {}
        self._at: dict[Address, list[Contact]] = {}
        self._ids_asked_at: dict[Address, int] = {}
        self._in_flight = 0
        self._asks = 0
        self._serial = 0
        self._heard = False
        self._add(contacts)

    @property
    def done(self) -> bool:
        """Whether the k nearest have answered, or nobody is left to ask."""
        window = self._window()
        if self._asks >= self._settings.asks_max:
            return not any(candidate.state is _State.ASKED for candidate in window)
        return all(candidate.state is _State.ANSWERED for candidate in window)

    def next_requests(self) -> list[Contact]:
        """Contacts to ask now; each counts as asked."""
        free = min(self._slots() - self._in_flight, self._settings.asks_max - self._asks)
        chosen: list[Contact] = []
        while len(chosen) < free:
            waiting = [one for one in self._window() if one.state is _State.WAITING]
            if not waiting:
                break
            # Among equals, min takes the first, which is the nearest.
            candidate = min(waiting, key=lambda one: one.in_doubt)
            if self._may_ask(candidate):
                candidate.state = _State.ASKED
                candidate.tries += 1
                chosen.append(candidate.contact)
            else:
                candidate.state = _State.DISCREDITED
        self._in_flight += len(chosen)
        self._asks += len(chosen)
        return chosen

    def answered(self, contact: Contact, nodes: Sequence[Contact]) -> bool:
        """An answer, in time or late, and the contacts in it; False if it counts for nothing."""
        candidate = self._candidates[contact]
        if candidate.state in (_State.ANSWERED, _State.DISCREDITED):
            return False
        self._settle(candidate, _State.ANSWERED)
        self._heard = True
        self._add(
            sorted(nodes, key=lambda node: distance(node.id, self.target))[: self._settings.k]
        )
        return True

    def timed_out(self, contact: Contact) -> None:
        """The answer is not here in time: the slot is free."""
        candidate = self._candidates[contact]
        if candidate.state is _State.ASKED:
            candidate.in_doubt = True
            tries_max = candidate.tries_max if self._heard else self._settings.lone_tries
            again = candidate.tries < tries_max
            self._settle(candidate, _State.WAITING if again else _State.SILENT)

    def discredit(self, contact: Contact) -> None:
        """A contact answered garbage, or is not who it was said to be."""
        candidate = self._candidates.get(contact)
        if candidate is not None:
            self._settle(candidate, _State.DISCREDITED)

    def discredit_others(self, address: Address, known: NodeId) -> bool:
        """An address said which id it has; whether that refutes what others said of it."""
        others = [one for one in self._at.get(address, ()) if one.id != known]
        for contact in others:
            self.discredit(contact)
        return bool(others)

    def closest(self) -> tuple[Contact, ...]:
        """The k nearest contacts that answered, one for each id, nearest first."""
        answered: dict[NodeId, Contact] = {}
        for candidate in self._nearest:
            if candidate.state is _State.ANSWERED:
                answered.setdefault(candidate.contact.id, candidate.contact)
        return tuple(answered.values())[: self._settings.k]

    def _settle(self, candidate: _Candidate, state: _State) -> None:
        if candidate.state is _State.ASKED:
            self._in_flight -= 1
        candidate.state = state

    def _slots(self) -> int:
        """Alpha while contacts lead nearer; k once the nearest alpha that speak have answered.

        From then on most likely nobody nearer turns up, and all of the k must be asked anyway.
        """
        answered = 0
        for candidate in self._nearest:
            if candidate.state is _State.ANSWERED:
                answered += 1
                if answered == self._settings.alpha:
                    return self._settings.k
            elif candidate.state in (_State.WAITING, _State.ASKED) and not candidate.in_doubt:
                break
        return self._settings.alpha

    def _may_ask(self, candidate: _Candidate) -> bool:
        """Whether its address was not asked under too many ids already."""
        if not candidate.tries:
            ids = self._ids_asked_at.get(candidate.contact.address, 0)
            if ids >= self._settings.rumours_max:
                return False
            self._ids_asked_at[candidate.contact.address] = ids + 1
        return True

    def _window(self) -> list[_Candidate]:
        """Everybody as near as the k nearest of whom an answer may be expected.

        Who is in doubt is asked (again) but has no place among the k, so that whoever takes that
        place is asked meanwhile.
        """
        window: list[_Candidate] = []
        expected = 0
        for candidate in self._nearest:
            if candidate.state in (_State.SILENT, _State.DISCREDITED):
                continue
            window.append(candidate)
            expected += candidate.state is _State.ANSWERED or not candidate.in_doubt
            if expected == self._settings.k:
                break
        return window

    def _add(self, contacts: Sequence[Contact]) -> None:
        for contact in contacts:
            if contact.id == self._own or contact in self._candidates:
                continue
            addresses = self._addresses_of.get(contact.id, 0)
            if addresses >= self._settings.rumours_max:
                continue
            self._addresses_of[contact.id] = addresses + 1
            self._serial += 1
            suspect = self._suspect(contact)
            candidate = _Candidate(
                distance(contact.id, self.target),
                self._serial,
                contact,
                in_doubt=suspect,
                tries_max=1 if suspect else self._settings.ask_tries,
            )
            self._candidates[contact] = candidate
            self._at.setdefault(contact.address, []).append(contact)
            insort(self._nearest, candidate)
        self._trim()

    def _trim(self) -> None:
        """Forget the farthest contacts that were never asked, beyond `shortlist_max`."""
        excess = len(self._nearest) - self._asks - self._settings.shortlist_max
        index = len(self._nearest) - 1
        while excess > 0 and index >= 0:
            candidate = self._nearest[index]
            if not candidate.tries:
                del self._nearest[index]
                del self._candidates[candidate.contact]
                self._addresses_of[candidate.contact.id] -= 1
                self._at[candidate.contact.address].remove(candidate.contact)
                excess -= 1
            index -= 1
