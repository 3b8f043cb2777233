"""Which copies this peer should have, which of them come first, and whom to ask for them. Pure:
`now` is in seconds, on any clock that goes on.

Of every key the k = 20 closest peers keep the record, and the first `copies` of them the bytes; all
of them the bytes of a small file. A peer knows all keys of its sites, from their manifests, and all
peers near its own id, from its routing table; so it can tell by itself what it should have, and
nobody need tell it. Whoever comes closer to a key than it changes its rank there, and so does
whoever leaves: the sooner, the more copies are lacking.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, bisect_right
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from p2pweb.dht.contact import ID_BITS, ID_BYTES, Contact, NodeId
from p2pweb.dht.events import ContactDown, ContactMoved, Event, Why
from p2pweb.dht.neighbourhood import NEIGHBOURS
from p2pweb.manifest import Manifest, Share
from p2pweb.records import COPIES_MAX
from p2pweb.store.room import RECORD_BYTES

# The k of Kademlia: the records are with so many of the closest.
RECORD_COPIES = COPIES_MAX
# A peer that left the routing table, having missed questions for fifteen seconds at least, is
# spared for so long: a restart takes less.
SPARE_S = 30.0
# Most that leave come back with their disks, and a copy made meanwhile was made in vain. So the
# more of the copies are lacking, the sooner others are made: after half a minute no more than three
# in eight may be lacking, after half an hour two, after two hours one, and after eight none.
# ARCHITECTURE.md has what that costs beside an oracle that knows who returns.
PATIENCE = ((SPARE_S, 3 / 8), (1_800.0, 2 / 8), (7_200.0, 1 / 8), (28_800.0, 0.0))
# Where a quarter of the neighbours leaves within a minute, that is no peer's own coming and going,
# and the others may be next: nobody of these is waited for any longer than a restart takes.
SUDDEN_S = 60.0
SUDDEN_SHARE = 0.25
# Who is farther off is missed a little sooner or later, and whoever is within such a minute, or for
# so long after it, left then too.
SUDDEN_LATE_S = 600.0
# Those that left are remembered so long, to tell the worst-off copies: more than the longest
# repair, so that the order stays right.
GONE_S = PATIENCE[-1][0] + 600.0
GONE_MAX = 1_024
# Who came a moment ago may lack what it should have, as much as this peer does.
NEW_S = 30.0
# Contacts of which it is known whether they keep the site; more than a table has.
KEEPERS_MAX = 4_096
# Whoever does not is asked again after so long: it may just have started, or got a home.
KEEPS_NOT_S = 120.0
# A contact that nobody has asked yet counts as one that keeps the site.
_UNKNOWN = (True, -math.inf)
# The bytes of a file of up to so many, all encodings together, are with every record of it: they
# take no more of a disk than one of its pages, and half of all peers may vanish with none lost.
SMALL_BYTES = 4_096
# A Poisson variable is less than so many standard deviations below its mean in one of seven
# hundred cases.
SURE_DEVIATIONS = 3.0


@dataclass(frozen=True, slots=True)
class Due:
    """A share that this peer should have, with the bytes or without.

    `rank` is how many others are closer to its key, `gone` how many of those that should have it
    instead have left.
    """

    share: Share
    with_bytes: bool
    rank: int
    gone: int

    @property
    def size_bytes(self) -> int:
        """What it takes of a disk."""
        parts = self.share.record.parts(self.share.segment) if self.with_bytes else ()
        return RECORD_BYTES + sum(blob.segment_size(segment) for blob, segment in parts)


# Those that have left, by how many steps of `PATIENCE` they have outlasted: one, two, and so on.
Gone = tuple[frozenset[NodeId], ...]


class Neighbours:
    """Who else keeps the site, as far as this peer knows: who left, who came, who never did."""

    def __init__(self, own: NodeId) -> None:
        self._own = int.from_bytes(own)
        # When those that left did so, the first first, and those that came.
        self._gone: OrderedDict[NodeId, float] = OrderedDict()
        # Of an earlier run, and silent in this: when they left, nobody knows.
        self._unseen: set[NodeId] = set()
        self._came: dict[NodeId, float] = {}
        # Whether a contact keeps the site, and since when that is known.
        self._keepers: OrderedDict[Contact, tuple[bool, float]] = OrderedDict()

    def met(self, event: Event, now: float) -> None:
        """A contact came or went."""
        contact = event.contact
        if isinstance(event, ContactDown):
            self._came.pop(contact.id, None)
            self._gone[contact.id] = now
            self._gone.move_to_end(contact.id)
            if event.why is Why.UNSEEN:
                self._unseen.add(contact.id)
            while len(self._gone) > GONE_MAX:
                self._forget(next(iter(self._gone)))
        else:
            self._forget(contact.id)
            # Whoever kept the site still does; whoever did not may have got a home.
            if not self._keepers.get(contact, _UNKNOWN)[0]:
                del self._keepers[contact]
            if not isinstance(event, ContactMoved):
                self._came[contact.id] = now

    def _forget(self, known: NodeId) -> None:
        self._gone.pop(known, None)
        self._unseen.discard(known)

    def note(self, contact: Contact, now: float, *, keeps: bool) -> None:
        """Whether a contact keeps the site."""
        self._keepers[contact] = (keeps, now)
        self._keepers.move_to_end(contact)
        while len(self._keepers) > KEEPERS_MAX:
            self._keepers.popitem(last=False)

    def is_known(self, contact: Contact, now: float) -> bool:
        """Whether it is known of a contact that it keeps the site, or that it does not."""
        keeps, since = self._keepers.get(contact, (False, -math.inf))
        return keeps or now - since < KEEPS_NOT_S

    def keepers(self, contacts: Iterable[Contact]) -> list[Contact]:
        """Those that keep the site, as far as is known."""
        return [one for one in contacts if self._keepers.get(one, _UNKNOWN)[0]]

    def present_and_gone(
        self, keepers: Iterable[Contact], now: float
    ) -> tuple[frozenset[NodeId], Gone]:
        """Those that count as present, spared ones among them, and those that have left."""
        self._came = {known: at for known, at in self._came.items() if now - at < NEW_S}
        for known, since in list(self._gone.items()):
            if now - since <= GONE_S:
                break
            self._forget(known)
        present = {one.id for one in keepers}
        away = {known: since for known, since in self._gone.items() if known not in present}
        spans = self._sudden(present, away)
        gone: list[list[NodeId]] = [[] for _ in PATIENCE]
        for known, since in away.items():
            outlasted = _outlasted(since, now)
            if not outlasted:
                present.add(known)
            elif known not in self._unseen and any(first <= since <= last for first, last in spans):
                gone[-1].append(known)
            else:
                gone[outlasted - 1].append(known)
        return frozenset(present), tuple(map(frozenset, gone))

    def _sudden(
        self, present: Collection[NodeId], away: Mapping[NodeId, float]
    ) -> list[tuple[float, float]]:
        """From when to when so many neighbours left as do not leave each for itself."""
        near = heapq.nsmallest(
            NEIGHBOURS, [*present, *away], key=lambda one: int.from_bytes(one) ^ self._own
        )
        times = sorted(away[one] for one in near if one in away and one not in self._unseen)
        many = max(1, math.ceil(SUDDEN_SHARE * len(near)))
        ends = zip(times, times[many - 1 :], strict=False)
        return [
            (last - SUDDEN_S, last + SUDDEN_LATE_S)
            for first, last in ends
            if last - first <= SUDDEN_S
        ]

    def best_first(self, near: Sequence[Contact], now: float) -> list[Contact]:
        """Whom to ask of those near a key, in their order but for newcomers, who come last."""
        return sorted(
            self.keepers(near), key=lambda one: now - self._came.get(one.id, -math.inf) < NEW_S
        )

    def next_gone(self, now: float) -> float:
        """When the next of those that left is spared no more; infinity for nobody. Whoever is more
        patient than that need not be punctual."""
        return min(
            (at + SPARE_S for at in self._gone.values() if not _outlasted(at, now)),
            default=math.inf,
        )


def _outlasted(since: float, now: float) -> int:
    """How many steps of `PATIENCE` somebody who left then has outlasted.

    The end of each is reckoned as `Neighbours.next_gone` does, lest a round that is punctual comes
    a rounding error too soon, and the next one a minute later.
    """
    return bisect_right(PATIENCE, now, key=lambda step: since + step[0])


class Ranks:
    """How many of some other peers are closer to a key than this one.

    Whoever has just come knows its nearest neighbours and few of those farther away. These must be
    about as dense, ids being random, so of each part of the id space farther away than the k
    nearest as many are counted as there are almost certainly.
    """

    def __init__(self, own: NodeId, others: Iterable[NodeId]) -> None:
        self._own = int.from_bytes(own)
        # Those whose highest bit that differs from this peer's id is the same are closer than it to
        # just the keys that differ from its id in that bit.
        apart = sorted(int.from_bytes(other) ^ self._own for other in others)
        counts = Counter(one.bit_length() - 1 for one in apart if one)
        if len(apart) > RECORD_COPIES:
            radius = apart[RECORD_COPIES - 1]
            # Of the part where the last of the k nearest is, only what is beyond that is unknown.
            begin = radius.bit_length() - 1
            here = sum(one.bit_length() - 1 == begin for one in apart[:RECORD_COPIES])
            for bit in range(begin, ID_BITS):
                expected = RECORD_COPIES * ((2 << bit) - max(radius, 1 << bit)) / radius
                least = int(expected - SURE_DEVIATIONS * expected**0.5)
                counts[bit] = max(counts[bit], least + here * (bit == begin))
        self._counts = counts
        # The largest first: where many are closer, that shows at once.
        self._buckets = [(1 << bit, count) for bit, count in counts.most_common()]

    def of(self, key: bytes, most: int) -> int:
        """How many are closer to a key (20 bytes), or `most` where it is that many or more."""
        apart = int.from_bytes(key) ^ self._own
        closer = 0
        for bit, count in self._buckets:
            if apart & bit:
                closer += count
                if closer >= most:
                    return most
        return closer

    def span(self, most: int) -> tuple[bytes, bytes]:
        """The first and the last key (20 bytes) of a part of the id space, this peer's own: to keys
        beyond it `most` or more are closer."""
        free = next((bit + 1 for bit in reversed(range(ID_BITS)) if self._counts[bit] < most), 0)
        first = self._own >> free << free
        return first.to_bytes(ID_BYTES), (first | (1 << free) - 1).to_bytes(ID_BYTES)


def beyond(own: NodeId, near: Collection[NodeId]) -> list[bytes]:
    """Keys (20 bytes), those closest to which decide what a peer should have beside those closest
    to itself; `near` are these, as many as have each record.

    Of the parts of the id space farther away (`Ranks`) that are two: the one where the farthest of
    these is, and the next. Beyond that there are certainly as many as have each record.
    """
    here = int.from_bytes(own)
    radius = max((int.from_bytes(one) ^ here for one in near), default=0)
    bits = range(radius.bit_length() - 1, min(radius.bit_length() + 1, ID_BITS))
    is_whole = len(near) < RECORD_COPIES
    return [] if is_whole else [(here ^ 1 << bit).to_bytes(len(own)) for bit in bits]


def shares_of(manifest: Manifest, known: Manifest | None = None) -> Sequence[Share]:
    """What a version's file records put at keys, in their order, but for what `known` has too."""
    if known is None:
        return manifest.shares_by_key
    new = {entry.path for entry in manifest.entries if known.get(entry.path) != entry}
    return [share for share in manifest.shares_by_key if share.record.path in new] if new else []


def least(wanted: int, allowed: float) -> int:
    """How many copies there have to be where that share of those wanted may be lacking."""
    return wanted - int(allowed * wanted)


def plan_repairs(
    own: NodeId,
    present: Collection[NodeId],
    gone: Sequence[Collection[NodeId]],
    shares: Sequence[Share],
    copies: int,
) -> list[Due]:
    """What a peer should have of these shares, which are in the order of their keys, the worst-off
    first.

    `present` are the others that keep the site, `gone` those that have left, as
    `Neighbours.present_and_gone` has them. The order is by how many of those that had a share have
    left, then by key, so that neighbouring keys, which the same peers hold, stand together.
    """
    now = Ranks(own, present)
    before = Ranks(own, [*present, *chain(*gone)])
    # Whoever waits longer counts more of them in: with each step the ranks grow, and so does the
    # number of copies that there should be. Steps that differ in nobody are one, the last.
    steps = [
        (Ranks(own, [*present, *chain(*gone[:number])]), allowed)
        for number, (_, allowed) in enumerate(PATIENCE)
        if number + 1 == len(PATIENCE) or gone[number]
    ]

    def is_due(key: bytes, wanted: int) -> bool:
        return any(ranks.of(key, wanted) < least(wanted, allowed) for ranks, allowed in steps)

    due: list[Due] = []
    first, last = now.span(RECORD_COPIES)
    start = bisect_left(shares, first, key=lambda share: share.key)
    stop = bisect_right(shares, last, key=lambda share: share.key)
    for share in shares[start:stop]:
        rank = now.of(share.key, RECORD_COPIES)
        if rank < RECORD_COPIES:
            left = before.of(share.key, rank + copies) - rank
            with_bytes = is_due(share.key, RECORD_COPIES if _is_small(share) else copies)
            if with_bytes or is_due(share.key, RECORD_COPIES):
                due.append(Due(share, with_bytes, rank, left))
    due.sort(key=lambda one: (-one.gone, one.share.key))
    return due


def spare_shares(
    own: NodeId, present: Collection[NodeId], manifest: Manifest, copies: int
) -> list[Share]:
    """What as many others are closer to as should have it, the farthest first."""
    ranks = Ranks(own, present)
    ranked = [(ranks.of(share.key, RECORD_COPIES), share) for share in manifest.shares]
    far = [one for one in ranked if one[0] >= (RECORD_COPIES if _is_small(one[1]) else copies)]
    return [share for _, share in sorted(far, key=lambda one: -one[0])]


def affordable(dues: Sequence[Due], room_bytes: float) -> list[Due]:
    """What there is room for of these, in their order: rather the worst-off, then those that this
    peer is closest to."""
    left = room_bytes - sum(due.size_bytes for due in dues)
    if left >= 0:
        return list(dues)
    dropped: set[bytes] = set()
    for due in sorted(dues, key=lambda one: (one.gone, -one.rank)):
        if left < 0:
            dropped.add(due.share.key)
            left += due.size_bytes
    return [due for due in dues if due.share.key not in dropped]


def _is_small(share: Share) -> bool:
    return sum(blob.size_bytes for blob in share.record.blobs) <= SMALL_BYTES


def whom_to_ask(
    near: Mapping[bytes, Sequence[Contact]],
    few: int,
    rtt_s: Callable[[Contact], float],
) -> dict[Contact, list[bytes]]:
    """For each key one contact to ask, of those closest to it, and of as few contacts as may be.

    `near` has for each key the contacts to ask, the best first; of the first `few` of these, the
    half with the shorter round trips (`rtt_s`) are as good as one another. Keys with nobody to ask
    are left out.
    """
    choices: dict[bytes, list[Contact]] = {}
    for key, contacts in near.items():
        if best := sorted(contacts[:few], key=rtt_s):
            choices[key] = best[: (len(best) + 1) // 2]
    asks: dict[Contact, list[bytes]] = {}
    while choices:
        counts = Counter(one for left in choices.values() for one in left)
        chosen, _ = counts.most_common(1)[0]
        asks[chosen] = [key for key, left in choices.items() if chosen in left]
        for key in asks[chosen]:
            del choices[key]
    return asks
