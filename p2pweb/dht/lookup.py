"""One iterative lookup (Kademlia §2.3), without sockets or clocks.

It says whom to ask and is told what came of it; it ends when the k nearest contacts that are not
known to be silent have answered (or fewer of them, where upkeep needs no more). Departures from the
paper: there are no rounds (up to alpha questions are in flight whenever there is somebody to ask,
two more when an answer leads nearer than anybody known, and up to k once somebody near has told of
nobody nearer, or from the start), a timeout frees the slot while a late answer still counts, and a
contact of our own with a clean record is asked again before its silence counts.

What contacts say is rumour: the shortlist is bounded, each id is believed at few addresses, each
address under few ids, and the number of questions is bounded. Whoever invents contacts nearer than
all others must not draw all questions to them: one question in five is for contacts of our own.
Once somebody was named under an id that its address does not have, all take turns on many paths
(after S/Kademlia §4.4): path 0 is those whom this peer knows at first hand, and nobody's rumour
enters it; a few more are what it has heard of before; what each of all these says is a path of its
own, with whatever is heard there. Such a path has a circle for each generation: those that its
first contact has named, those that they have named, and so on. In each circle the nearest are heard
out: a liar among them may name others nearer still, and keeps none of its own circle from being
asked.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from enum import Enum

from p2pweb.dht.contact import Address, Contact, NodeId, distance
from p2pweb.dht.settings import Settings


class _State(Enum):
    WAITING = 1  # to be asked, for the first time or again
    ASKED = 2  # holds a slot
    ANSWERED = 3
    SILENT = 4  # counts no longer, unless a late answer comes
    DISCREDITED = 5  # counts no longer, whatever comes


_WAITING, _ASKED, _ANSWERED = _State.WAITING, _State.ASKED, _State.ANSWERED
_SILENT, _DISCREDITED = _State.SILENT, _State.DISCREDITED

FIRST_HAND = 0

# So many of the k nearest have to have answered before silence of the others counts as absence.
# Whatever is stored under a key is with those nearest that live, and of the k some are dead.
CONCLUSIVE_MIN = 4


class _Candidate:
    __slots__ = (
        "circles",
        "contact",
        "distance",
        "in_doubt",
        "state",
        "tells",
        "tries",
        "tries_max",
    )

    def __init__(
        self, contact: Contact, far: int, circles: int, in_doubt: bool, tries_max: int
    ) -> None:
        self.contact = contact
        self.distance = far
        # Where it was heard of, a bit for each circle; and, once it was asked, whose circle is
        # that of what it says.
        self.circles = circles
        self.tells: int | None = None
        # A suspect is in doubt from the start, others once they missed a question.
        self.in_doubt = in_doubt
        self.tries_max = tries_max
        self.tries = 0
        self.state = _WAITING

    @property
    def is_first_hand(self) -> bool:
        return bool(self.circles & 1 << FIRST_HAND)

    @property
    def is_vouched_for(self) -> bool:
        """Whether it is known at first hand, or was named by more than one."""
        return self.is_first_hand or self.circles.bit_count() > 1


class Lookup:
    """The state of one lookup of `target` (20 bytes) by the peer `own`, which knows `contacts`.

    `rumours` are contacts that others named before; `need` is how many of the nearest have to
    answer (k); with `exact` even those in doubt are waited for; `upkeep` is what nobody waits for;
    without `spares` it does with fewer questions where many are silent, and takes longer; with
    `wide` up to k are asked at one time from the start, as where somebody waits who would ask most
    of them anyway.
    `suspect` says of a contact whether its last question went unanswered: such a contact is asked
    after the others, once. `believe` corrects a rumour by what is known at first hand; None where
    it is refuted. Whoever is not to be heeded (`heeds`) is as if never heard of.
    """

    def __init__(
        self,
        target: bytes,
        own: NodeId,
        contacts: Sequence[Contact],
        settings: Settings,
        suspect: Callable[[Contact], bool],
        *,
        need: int | None = None,
        exact: bool = False,
        upkeep: bool = False,
        spares: bool = True,
        wide: bool = False,
        rumours: Sequence[Contact] = (),
        believe: Callable[[Contact], Contact | None] = lambda contact: contact,
        heeds: Callable[[Contact], bool] = lambda contact: True,
    ) -> None:
        self.target = target
        self._own = own
        self._settings = settings
        self._suspect = suspect
        self._believe = believe
        self._heeds = heeds
        # Nearest first; of two addresses of one id, the one heard of first.
        self._order: list[_Candidate] = []
        self._distances: list[int] = []
        self._of_id: dict[NodeId, list[_Candidate]] = {}
        self._at: dict[Address, list[_Candidate]] = {}
        self._ids_asked_at: dict[Address, int] = {}
        self._in_flight = 0
        self._timeouts = 0
        self._asks = 0
        self._need = need = settings.k if need is None else need
        # Everybody known at first hand within it has to answer, beside those.
        self._radius = 0
        self._is_exact = exact
        self._is_upkeep = upkeep
        self._has_spares = spares
        # Of each path how many were asked for it, and its circles, a bit for each.
        self._asks_of_path: list[int] = []
        self._circles_of_path: list[int] = []
        # Of each circle its path, how many of its nearest have to answer, and how many were named.
        self._path_of: list[int] = []
        self._widths: list[int] = []
        self._heard_of: list[int] = []
        self._open_path(1, min(settings.first_hand, need))
        for _ in range(settings.paths):
            self._open_path(1, need // settings.paths)
        self._next_path = 0
        # Paths on which somebody is to be asked at once, whoever is being asked already.
        self._leads: list[int] = []
        self._heard = False
        # Asked at one time until somebody near tells of nobody nearer.
        self._slots = settings.k if wide else min(settings.alpha, need)
        self._asks_wide = wide
        self._is_wide = False
        # Whether somebody was named under an id that its address does not have.
        self._is_lied_to = False
        # What `_survey` found, until something changes.
        self._surveyed: tuple[list[_Candidate], bool] | None = None
        for contact in contacts:
            self._hear_of(contact, FIRST_HAND)
        for contact in rumours:
            self._hear_of(contact, self._rotate())

    @property
    def done(self) -> bool:
        """Whether all who are wanted (`_survey`) have answered, or nobody is left to ask."""
        if self._asks >= self._settings.asks_max:
            return not self._in_flight
        return self._survey()[1]

    def next_requests(self) -> list[Contact]:
        """Contacts to ask now; each counts as asked."""
        settings = self._settings
        # Whoever is silent has a slot of its own, and one more beside it.
        slots = max(self._slots, self._need) if self._is_wide else self._slots
        if self._is_upkeep:
            # Nobody waits for it: one after the other costs least.
            slots = min(slots, settings.upkeep_alpha)
        slots = min(slots + 2 * self._timeouts, settings.slots_max)
        chosen: list[Contact] = []
        leads, self._leads = self._leads, []
        while self._asks < settings.asks_max:
            if self._in_flight >= (settings.slots_max if leads else slots):
                break
            waiting, done = self._survey()
            if done or not waiting:
                break
            if leads:
                on_path = self._circles_of_path[leads.pop()]
                ahead = next((one for one in waiting if one.circles & on_path), None)
                if ahead is None:
                    continue
                candidate, circle = ahead, _lowest(ahead.circles & on_path)
            else:
                candidate, circle = self._choose(waiting)
            # Being asked changes nothing of who is wanted.
            waiting.remove(candidate)
            if not self._may_ask(candidate):
                self._settle(candidate, _DISCREDITED)
                continue
            candidate.state = _ASKED
            candidate.tries += 1
            if candidate.tells is None:
                candidate.tells = circle
            self._in_flight += 1
            self._asks += 1
            self._asks_of_path[self._path_of[circle]] += 1
            chosen.append(candidate.contact)
        return chosen

    def answered(self, contact: Contact, nodes: Sequence[Contact], *, found: bool = False) -> bool:
        """An answer, in time or late, and the contacts in it; False if it counts for nothing.

        With `found` it holds what was looked for: no reason to ask more others at one time.
        """
        candidate = self._candidate(contact)
        if candidate is None or candidate.state in (_ANSWERED, _DISCREDITED):
            return False
        self._settle(candidate, _ANSWERED)
        self._heard = True
        settings = self._settings
        if len(nodes) > settings.k:
            nodes = sorted(nodes, key=lambda node: distance(node.id, self.target))[: settings.k]
        tells = self._circle_after(candidate.tells)
        before, nearest = self._limit(), self._distances[0]
        nearer = leads = False
        for node in nodes:
            far = self._hear_of(node, tells)
            nearer |= far < before
            leads |= far < nearest
        self._trim()
        if leads and not (found or self._is_wide or self._is_upkeep):
            self._leads += [self._path_of[tells]] * settings.leads
        if not nearer and not found and candidate.distance <= before:
            self._is_wide = True
        return True

    def lone_tries(self, contact: Contact) -> int:
        """How many questions beyond the usual a contact is asked because nobody has answered."""
        candidate = self._candidate(contact)
        if self._heard or candidate is None:
            return 0
        return max(0, candidate.tries - self._settings.ask_tries)

    def timed_out(self, contact: Contact) -> None:
        """The answer is not here in time: the slot is free."""
        candidate = self._candidate(contact)
        if candidate is not None and candidate.state is _ASKED:
            candidate.in_doubt = True
            self._timeouts += 1
            self._surveyed = None
            tries_max = candidate.tries_max if self._heard else self._settings.lone_tries
            again = candidate.tries < tries_max
            self._settle(candidate, _WAITING if again else _SILENT)

    def discredit(self, contact: Contact) -> None:
        """A contact answered garbage, or is not who it was said to be."""
        candidate = self._candidate(contact)
        if candidate is not None:
            self._settle(candidate, _DISCREDITED)

    def discredit_others(self, address: Address, known: NodeId) -> bool:
        """An address said which id it has; whether that refutes what others said of it."""
        others = [one for one in self._at.get(address, ()) if one.contact.id != known]
        for candidate in others:
            self._settle(candidate, _DISCREDITED)
            self._see_a_lie()
        return bool(others)

    def closest(self) -> tuple[Contact, ...]:
        """The nearest contacts that answered, as many as are needed and one for each id, in order;
        where it was widened, all within that radius.

        Farther ones that answered too are not among them: between those there may be others.
        """
        answered: dict[NodeId, Contact] = {}
        for candidate in self._order:
            is_wanted = len(answered) < self._need or candidate.distance <= self._radius
            if candidate.state is _ANSWERED and is_wanted:
                answered.setdefault(candidate.contact.id, candidate.contact)
        return tuple(answered.values())

    @property
    def inconclusive(self) -> bool:
        """Whether too few of the k nearest have answered to tell that nobody has what was looked
        for; the silent may have it. All have to where they are few; else whoever is silent counts
        once two others have named it, for one alone may have invented it."""
        heard_of = [one for one in self._order if one.state is not _DISCREDITED]
        if len(heard_of) > self._settings.k:
            heard_of = [one for one in heard_of if one.state is not _SILENT or one.is_vouched_for]
        nearest = heard_of[: self._settings.k]
        answered = sum(one.state is _ANSWERED for one in nearest)
        return not answered or answered < min(CONCLUSIVE_MIN, len(nearest))

    def radius_of(self, count: int) -> int | None:
        """How far the last of the `count` nearest is that may be there; None where they are fewer.

        Of more than are needed some may be rumours.
        """
        there = [one.distance for one in self._order if one.state not in (_SILENT, _DISCREDITED)]
        return there[count - 1] if len(there) >= count else None

    def widen(self, contacts: Sequence[Contact], radius: int) -> None:
        """Hear out all of these, who answered elsewhere, within a distance of the target."""
        self._radius = radius
        for contact in contacts:
            self._hear_of(contact, FIRST_HAND)
        near = bisect_left(self._distances, radius + 1)
        within = sum(one.is_first_hand for one in self._order[:near])
        self._widths[FIRST_HAND] = max(self._widths[FIRST_HAND], within)
        self._surveyed = None

    def know(self, contacts: Sequence[Contact]) -> bool:
        """More contacts of this peer's own; whether any of them is new."""
        before = len(self._order)
        for contact in contacts:
            self._hear_of(contact, FIRST_HAND)
        return len(self._order) > before

    @property
    def is_short(self) -> bool:
        """Whether fewer have answered than are needed."""
        return sum(one.state is _ANSWERED for one in self._order) < self._need

    def unheard(self) -> list[Contact]:
        """Those of the k nearest that nothing was asked of, nearest first."""
        nearest = [one for one in self._order if one.state not in (_SILENT, _DISCREDITED)]
        return [one.contact for one in nearest[: self._settings.k] if not one.tries]

    # --- whom to ask ---

    def _survey(self) -> tuple[list[_Candidate], bool]:
        """Whose turn may have come, nearest first, and whether nobody is left to wait for.

        Wanted are the nearest k of whom an answer may be expected, the nearest of our own and, once
        somebody is seen to lie, the nearest of each circle. Who is in doubt is asked (again) but
        has no place among these: whoever takes that place is asked meanwhile, and one more (with
        `spares`), because where some are silent the next may be too. Nobody waits for the latter.
        """
        if self._surveyed is not None:
            return self._surveyed
        need = self._need
        # Where nobody is seen to lie, what is told leads to the same k on every path.
        widths = self._widths if self._is_lied_to else self._widths[:1]
        missing = [min(two) for two in zip(widths, self._heard_of, strict=False)]
        unheard = sum(1 << circle for circle, count in enumerate(missing) if count)
        expected = spares = 0
        waiting: list[_Candidate] = []
        done, in_doubt = True, False
        for candidate in self._order:
            state = candidate.state
            if state is _SILENT or state is _DISCREDITED:
                spares += self._has_spares and state is _SILENT
                continue
            is_answered = state is _ANSWERED
            is_expected = is_answered or not candidate.in_doubt
            wanted = expected < need
            if circles := candidate.circles & unheard:
                wanted = True
                while is_expected and circles:
                    circle = circles.bit_length() - 1
                    circles ^= 1 << circle
                    missing[circle] -= 1
                    if not missing[circle]:
                        unheard ^= 1 << circle
            if not is_answered:
                if wanted and is_expected:
                    done = False
                in_doubt = in_doubt or wanted
                if state is _WAITING and (wanted or expected < need + spares):
                    waiting.append(candidate)
            expected += is_expected
            spares += self._has_spares and not is_expected
            if expected >= need + spares and not unheard:
                break
        # Once as many as are needed have answered, nobody waits for those in doubt, unless the
        # nearest themselves are what is looked for.
        waits = in_doubt and (self._is_exact or expected < need)
        self._surveyed = waiting, (done and not waits) or self._has_any()
        return self._surveyed

    def _has_any(self) -> bool:
        """Whether, of a wide lookup that needs fewer than k, any so many of the k nearest have
        answered, and those nearest of all have been asked at least: nobody waits for the slow."""
        if not self._asks_wide or self._need >= self._settings.k:
            return False
        there = [one for one in self._order if one.state not in (_SILENT, _DISCREDITED)]
        nearest = there[: self._settings.k]
        answered = sum(one.state is _ANSWERED for one in nearest)
        return answered >= self._need and all(one.tries for one in nearest[: self._need])

    def _choose(self, waiting: list[_Candidate]) -> tuple[_Candidate, int]:
        """Whom to ask next, and in which circle: those in doubt last, then the path that has asked
        least, then the nearest. While nobody is seen to lie, all paths but the first are as one."""
        sound = [one for one in waiting if not one.in_doubt] or waiting
        circles = 0
        for one in sound:
            circles |= one.circles
        asks = self._asks_of_path
        if self._is_lied_to:
            paths = list(zip(asks, self._circles_of_path, strict=True))
        else:
            others = (self._asks - asks[FIRST_HAND]) // self._settings.paths
            paths = [(asks[FIRST_HAND], 1 << FIRST_HAND), (others, ~(1 << FIRST_HAND))]
        turns = [(asked, on_path) for asked, on_path in paths if on_path & circles]
        fewest = min(asked for asked, _ in turns)
        turn = circles & sum(on_path for asked, on_path in turns if asked == fewest)
        candidate = next(one for one in sound if one.circles & turn)
        return candidate, _lowest(candidate.circles & turn)

    def _open_path(self, generations: int, width: int) -> int:
        """One more path; its first circle."""
        first = len(self._path_of)
        self._path_of += [len(self._asks_of_path)] * generations
        self._widths += [width] * generations
        self._heard_of += [0] * generations
        self._asks_of_path.append(0)
        self._circles_of_path.append((1 << generations) - 1 << first)
        return first

    def _circle_after(self, circle: int | None) -> int:
        """Where to follow what somebody says who was asked in a circle, or for a reason of its own:
        in the next of that path, or on a new path."""
        settings = self._settings
        if circle is None or circle <= settings.paths:
            return self._open_path(settings.generations, settings.heed)
        is_last = not self._circles_of_path[self._path_of[circle]] >> circle + 1
        return circle if is_last else circle + 1

    def _rotate(self) -> int:
        """The path of one more of those that were heard of before."""
        self._next_path = self._next_path % self._settings.paths + 1
        return self._next_path

    def _may_ask(self, candidate: _Candidate) -> bool:
        """Whether its address was not asked under too many ids already, or is known at first hand:
        no rumour is to use up the questions of a contact of ours."""
        if not candidate.tries and not candidate.is_first_hand:
            ids = self._ids_asked_at.get(candidate.contact.address, 0)
            if ids >= self._settings.rumours_max:
                return False
            self._ids_asked_at[candidate.contact.address] = ids + 1
        return True

    def _settle(self, candidate: _Candidate, state: _State) -> None:
        if candidate.state is _ASKED:
            self._in_flight -= 1
        candidate.state = state
        self._surveyed = None

    # --- who is known ---

    def _candidate(self, contact: Contact) -> _Candidate | None:
        for candidate in self._of_id.get(contact.id, ()):
            if candidate.contact.address == contact.address:
                return candidate
        return None

    def _limit(self) -> int:
        """How far the last of the wanted is, as heard of; beyond all while they are too few."""
        need = self._need
        return self._distances[need - 1] if len(self._distances) >= need else 1 << 160

    def _hear_of(self, contact: Contact, circle: int) -> int:
        """Note who was named in a circle; how far that is if it is new, else as far as can be."""
        nobody = 1 << 160
        known = self._candidate(contact)
        if known is None:
            believed = None if contact.id == self._own else self._believe(contact)
            if believed is None:
                if contact.id != self._own:
                    self._see_a_lie()
                return nobody
            known = self._candidate(believed)
            if known is None:
                return self._add(believed, circle) if self._heeds(believed) else nobody
        if not known.circles >> circle & 1:
            known.circles |= 1 << circle
            self._heard_of[circle] += 1
            self._surveyed = None
        return nobody

    def _see_a_lie(self) -> None:
        self._is_lied_to = True
        self._surveyed = None

    def _add(self, contact: Contact, circle: int) -> int:
        alike = self._of_id.setdefault(contact.id, [])
        if circle != FIRST_HAND and len(alike) >= self._settings.rumours_max:
            return 1 << 160
        suspect = self._suspect(contact)
        far = distance(contact.id, self.target)
        # A rumour has no record that would earn it a second question.
        tries_max = 1 if suspect or circle != FIRST_HAND else self._settings.ask_tries
        candidate = _Candidate(contact, far, 1 << circle, suspect, tries_max)
        alike.append(candidate)
        self._at.setdefault(contact.address, []).append(candidate)
        # Behind the equally far, which are other addresses of its id.
        index = bisect_left(self._distances, far + 1)
        self._distances.insert(index, far)
        self._order.insert(index, candidate)
        self._surveyed = None
        self._heard_of[circle] += 1
        return far

    def _trim(self) -> None:
        """Forget the farthest contacts that were never asked, beyond `shortlist_max`, but for the
        nearest of each circle: who invents many that are near pushes out nobody else's."""
        excess = len(self._order) - self._asks - self._settings.shortlist_max
        if excess <= 0:
            return
        missing = self._widths.copy()
        spare: list[int] = []
        for index, candidate in enumerate(self._order):
            is_near = candidate.is_first_hand or bool(candidate.tries)
            for circle in _all(candidate.circles):
                is_near = is_near or missing[circle] > 0
                missing[circle] -= 1
            if not is_near:
                spare.append(index)
        for index in reversed(spare[-excess:]):
            candidate = self._order.pop(index)
            del self._distances[index]
            self._of_id[candidate.contact.id].remove(candidate)
            self._at[candidate.contact.address].remove(candidate)
            for circle in _all(candidate.circles):
                self._heard_of[circle] -= 1
        self._surveyed = None


def _lowest(circles: int) -> int:
    return (circles & -circles).bit_length() - 1


def _all(circles: int) -> Iterator[int]:
    while circles:
        circle = _lowest(circles)
        circles ^= 1 << circle
        yield circle
