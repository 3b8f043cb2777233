"""Copies that repair makes while peers come and go for days, beside those that an oracle makes.

Whole peers would take days of processor time for this, so that here only the rule is real:
`repair_plan.PATIENCE`, with what each peer can know of the others. A copy is made as soon as it is
due. The oracle knows who returns: of those that do, the closest to each key have their copies,
whether they are here or not, and its copies too stay where they are when others come closer.
Newcomers get from both what is due to them.
"""

from __future__ import annotations

import heapq
import math
import random
from bisect import bisect_left, insort
from dataclasses import dataclass

from p2pweb.dht.contact import ID_BYTES, NodeId, distance
from p2pweb.repair_plan import PATIENCE, least

COPIES = 8
# After a peer left, until its neighbours have struck it out; and after one started, until it has
# looked at what it lacks, and until it has struck out whom it knew and who is not there.
MISSED_S = 45.0
LOOKED_S = 5.0
UNSEEN_S = 20.0
# Of those closest to a key, here or away, beyond whom nobody ever has a copy of it.
NEAR = 64
# Those that never return are dropped from the lists then: nobody waits for them any more.
FORGOTTEN_S = 2 * PATIENCE[-1][0]
# What is here of each file is counted so often.
SURVEYED_S = 1_800.0
_DAY_S = 86_400.0
_NEVER = -math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Sessions and absences are Weibull distributed. What happens in `warm_days` is not counted."""

    peers: int = 150
    files: int = 40
    days: float = 6.0
    warm_days: float = 2.0
    shape: float = 0.45
    # Medians.
    session_s: float = 3_600.0
    away_s: float = 900.0
    # The share of sessions after which a peer never returns; a newcomer comes instead.
    final: float = 0.1


@dataclass(slots=True)
class Made:
    """Copies made by repair and by the oracle, and how many were lost with all who had them.

    `present` has for 0 to `COPIES` the share of surveys, each of one file, that found so many
    copies here (the last: so many or more), `present_oracle` of the oracle's.
    """

    ours: int
    oracle: int
    lost: int
    present: list[float]
    present_oracle: list[float]

    @property
    def ratio(self) -> float:
        return self.ours / max(1, self.oracle)


class _Peer:
    def __init__(self, number: int, known: NodeId, now: float) -> None:
        self.number = number
        self.id = known
        self.is_here = True
        self.returns = True
        # When it first came, when it came last, and when it left last.
        self.born = self.back = now
        self.left = _NEVER

    def missed_at(self, other: _Peer) -> float | None:
        """When it struck out another one, that is away, in its present session; None where it does
        not know of that one."""
        if other.left >= self.back:
            return other.left + MISSED_S
        # It remembers whom it had in its table when it left.
        if other.born < self.left <= other.left:
            return self.back + UNSEEN_S
        return None


_Place = tuple[int, int, _Peer]


class _File:
    """One file: who is how far from it, and who has it."""

    def __init__(self, key: NodeId) -> None:
        self.key = key
        self.order: list[_Place] = []
        self.held: dict[_Peer, None] = {}
        self.held_oracle: dict[_Peer, None] = {}

    def place(self, peer: _Peer) -> _Place:
        return distance(peer.id, self.key), peer.number, peer

    def due(self, now: float) -> list[_Peer]:
        """Those here that have to make a copy, as each can see it for itself."""
        away: list[_Peer] = []
        due: list[_Peer] = []
        present = 0
        for _, _, peer in self.order[:NEAR]:
            if not peer.is_here:
                away.append(peer)
                continue
            if peer not in self.held and now >= peer.back + LOOKED_S:
                for_s = [now - at for one in away if (at := peer.missed_at(one)) is not None]
                if any(
                    present + sum(each < patience_s for each in for_s) < least(COPIES, allowed)
                    for patience_s, allowed in PATIENCE
                ):
                    due.append(peer)
            present += 1
            if present == COPIES:
                break
        return due

    def due_by_oracle(self) -> list[_Peer]:
        """Those here that lack a copy, as somebody must see it who knows who returns."""
        closest = [one for _, _, one in self.order if one.returns][:COPIES]
        return [one for one in closest if one.is_here and one not in self.held_oracle]


class _Run:
    def __init__(self, trace: Trace, seed: int) -> None:
        self._trace = trace
        self._rng = random.Random(f"trace {seed}")
        self._files = [_File(self._id()) for _ in range(trace.files)]
        self._peers: dict[_Peer, None] = {}
        self._come_so_far = 0
        # What is due when: a peer's coming (again) or leaving, or one more look at a file.
        self._agenda: list[tuple[float, int, _Peer | _File | None]] = []
        self._serial = 0
        self._made = [0, 0]
        self._lost = 0

    def run(self) -> Made:
        trace, warm_s = self._trace, self._trace.warm_days * _DAY_S
        for _ in range(trace.peers):
            self._come(0.0)
        for file in self._files:
            file.held = {one: None for _, _, one in file.order[:COPIES]}
            file.held_oracle = dict(file.held)
        seen = ([0] * (COPIES + 1), [0] * (COPIES + 1))
        before, look_s = [0, 0], warm_s
        while self._agenda and self._agenda[0][0] < trace.days * _DAY_S:
            now, _, what = heapq.heappop(self._agenda)
            while look_s <= now:
                if look_s == warm_s:
                    before = list(self._made)
                for file in self._files:
                    for counts, held in zip(seen, (file.held, file.held_oracle), strict=True):
                        counts[min(COPIES, sum(one.is_here for one in held))] += 1
                look_s += SURVEYED_S
                self._forget(now)
            if isinstance(what, _File):
                self._look(what, now)
            else:
                self._turn(what, now)
        # Of those away now, some never return.
        self._forget(math.inf)
        shares = [[count / max(1, sum(counts)) for count in counts] for counts in seen]
        ours, oracle = (made - was for made, was in zip(self._made, before, strict=True))
        return Made(ours, oracle, self._lost, *shares)

    def _turn(self, peer: _Peer | None, now: float) -> None:
        """A peer leaves or comes back, or a newcomer comes."""
        trace = self._trace
        if peer is None:
            self._come(now)
            return
        peer.is_here = not peer.is_here
        if peer.is_here:
            peer.back = now
            self._at(now + self._length_s(trace.session_s), peer)
        else:
            peer.left = now
            peer.returns = self._rng.random() >= trace.final
            self._at(now + self._length_s(trace.away_s), peer if peer.returns else None)
        self._look_around(peer, now)

    def _come(self, now: float) -> None:
        self._come_so_far += 1
        peer = _Peer(self._come_so_far, self._id(), now)
        self._peers[peer] = None
        for file in self._files:
            insort(file.order, file.place(peer))
        self._at(now + self._length_s(self._trace.session_s), peer)
        self._look_around(peer, now)

    def _look_around(self, peer: _Peer, now: float) -> None:
        """Look at all files near a peer, now and whenever anybody's patience ends."""
        known_s = UNSEEN_S if peer.is_here else MISSED_S
        waits_s = [LOOKED_S, *(known_s + step for step, _ in PATIENCE)]
        for file in self._files:
            place = file.place(peer)
            if bisect_left(file.order, place) < NEAR:
                self._look(file, now)
                for wait_s in waits_s:
                    self._at(now + wait_s + 0.01, file)

    def _look(self, file: _File, now: float) -> None:
        """Make the copies that are due, if anybody who has one is here."""
        for peer in file.due(now):
            if any(one.is_here for one in file.held):
                file.held[peer] = None
                self._made[0] += 1
        for peer in file.due_by_oracle():
            if any(one.is_here for one in file.held_oracle):
                file.held_oracle[peer] = None
                self._made[1] += 1

    def _forget(self, now: float) -> None:
        """Those that never return, and what is lost with them."""
        over = {one for one in self._peers if not one.returns and now - one.left > FORGOTTEN_S}
        if not over:
            return
        for one in over:
            del self._peers[one]
        for file in self._files:
            file.order = [place for place in file.order if place[2] not in over]
            had = bool(file.held)
            for one in over:
                file.held.pop(one, None)
                file.held_oracle.pop(one, None)
            self._lost += had and not file.held

    def _id(self) -> NodeId:
        return NodeId(self._rng.randbytes(ID_BYTES))

    def _length_s(self, median_s: float) -> float:
        scale_s = median_s / math.log(2) ** (1 / self._trace.shape)
        return self._rng.weibullvariate(scale_s, self._trace.shape)

    def _at(self, when: float, what: _Peer | _File | None) -> None:
        self._serial += 1
        heapq.heappush(self._agenda, (when, self._serial, what))


def compare(trace: Trace, seed: int) -> Made:
    """Follow a trace to its end."""
    return _Run(trace, seed).run()
