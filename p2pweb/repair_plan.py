"""Which copies this peer should have, which of them come first, and whom to ask for them. Pure:
`now` is in seconds, on any clock that goes on.

Of every key the k = 20 closest peers keep the record, and the first `copies` of them the bytes. A
peer knows all keys of its sites, from their manifests, and all peers near its own id, from its
routing table; so it can tell by itself what it should have, and nobody need tell it. Whoever comes
closer to a key than it, or leaves, changes its rank there.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from p2pweb.dht.contact import ID_BITS, Contact, NodeId
from p2pweb.dht.events import ContactDown, ContactMoved, Event
from p2pweb.manifest import Manifest
from p2pweb.records import COPIES_MAX, FileRecord, record_key
from p2pweb.store.room import RECORD_BYTES

# The k of Kademlia: the records are with so many of the closest.
RECORD_COPIES = COPIES_MAX
# A peer that left the routing table, having missed questions for fifteen seconds at least, is
# spared for so long: a restart takes less.
SPARE_S = 30.0
# Those that left are remembered so long, to tell the worst-off copies: more than the longest
# repair, so that the order stays right.
GONE_S = 600.0
GONE_MAX = 1_024
# Who came a moment ago may lack what it should have, as much as this peer does.
NEW_S = 30.0
# Contacts of which it is known whether they keep the site; more than a table has.
KEEPERS_MAX = 4_096
# Whoever does not is asked again after so long: it may just have started, or got a home.
KEEPS_NOT_S = 120.0
# A contact that nobody has asked yet counts as one that keeps the site.
_UNKNOWN = (True, -math.inf)
# A Poisson variable is less than so many standard deviations below its mean in one of seven
# hundred cases.
SURE_DEVIATIONS = 3.0


@dataclass(frozen=True, slots=True)
class Share:
    """What lies at one key: a record, and the bytes of one segment of its file."""

    key: bytes
    record: FileRecord
    segment: int


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


class Neighbours:
    """Who else keeps the site, as far as this peer knows: who left, who came, who never did."""

    def __init__(self) -> None:
        # When those that left did so, and those that came.
        self._gone: OrderedDict[NodeId, float] = OrderedDict()
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
            while len(self._gone) > GONE_MAX:
                self._gone.popitem(last=False)
        else:
            self._gone.pop(contact.id, None)
            self._keepers.pop(contact, None)
            if not isinstance(event, ContactMoved):
                self._came[contact.id] = now

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
    ) -> tuple[list[NodeId], list[NodeId]]:
        """Those that count as present, spared ones among them, and those that have left."""
        self._came = {known: at for known, at in self._came.items() if now - at < NEW_S}
        present = {one.id: None for one in keepers}
        gone: list[NodeId] = []
        for known, since in list(self._gone.items()):
            if now - since > GONE_S:
                del self._gone[known]
            elif known in present:
                continue
            elif now - since < SPARE_S:
                present[known] = None
            else:
                gone.append(known)
        return list(present), gone

    def best_first(self, near: Sequence[Contact], now: float) -> list[Contact]:
        """Whom to ask of those near a key, in their order but for newcomers, who come last."""
        return sorted(
            self.keepers(near), key=lambda one: now - self._came.get(one.id, -math.inf) < NEW_S
        )

    def next_gone(self, now: float) -> float:
        """When the next of those that left is spared no more; infinity for nobody."""
        return min(
            (at + SPARE_S for at in self._gone.values() if at + SPARE_S > now), default=math.inf
        )


class Ranks:
    """How many of some other peers are closer to a key than this one.

    Whoever has just come knows its nearest neighbours and few of those farther away. These must be
    about as dense, ids being random, so of each part of the id space farther away than the k
    nearest as many are counted as there are almost certainly.
    """

    def __init__(
        self, own: NodeId, others: Iterable[NodeId], deviations: float = SURE_DEVIATIONS
    ) -> None:
        """As many are counted as there are but for bad luck of so many standard deviations."""
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
                least = int(expected - deviations * expected**0.5)
                counts[bit] = max(counts[bit], least + here * (bit == begin))
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


def shares_of(manifest: Manifest, known: Manifest | None = None) -> Iterator[Share]:
    """Everything that a version's file records put at a key, but for what `known` has too."""
    for entry in manifest.entries:
        if known is not None and known.get(entry.path) == entry:
            continue
        record = entry.file_record(manifest.public_key)
        for segment in range(record.segment_count):
            yield Share(record_key(record, segment), record, segment)


def plan_repairs(
    own: NodeId,
    present: Collection[NodeId],
    gone: Collection[NodeId],
    shares: Iterable[Share],
    copies: int,
    *,
    deviations: float = SURE_DEVIATIONS,
) -> list[Due]:
    """What a peer should have of these shares, the worst-off first.

    `present` are the others that keep the site, `gone` those that have left of late. The order is
    by how many of those that had a share have left, then by key, so that neighbouring keys, which
    the same peers hold, stand together. `deviations` as of `Ranks`.
    """
    now = Ranks(own, present, deviations)
    before = Ranks(own, [*present, *gone], deviations)
    due: list[Due] = []
    for share in shares:
        rank = now.of(share.key, RECORD_COPIES)
        if rank < RECORD_COPIES:
            left = before.of(share.key, rank + copies) - rank
            due.append(Due(share, rank < copies, rank, left))
    due.sort(key=lambda one: (-one.gone, one.share.key))
    return due


def spare_shares(
    own: NodeId, present: Collection[NodeId], manifest: Manifest, copies: int
) -> list[Share]:
    """What `copies` others are closer to than this peer, the farthest first."""
    ranks = Ranks(own, present)
    ranked = [(ranks.of(share.key, RECORD_COPIES), share) for share in shares_of(manifest)]
    far = [(rank, share) for rank, share in ranked if rank >= copies]
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


def whom_to_ask(
    wanted: Mapping[bytes, Collection[Contact]],
    closest: Callable[[bytes], Sequence[Contact]],
    few: int,
) -> dict[Contact, list[bytes]]:
    """For each key one contact to ask, of those closest to it, and of as few contacts as may be.

    `wanted` has the keys, and whom not to ask again for each. `closest` gives the contacts to ask
    for a key, the best first; of these the first `few` that are left are as good as one another.
    Keys for which nobody is left are left out.
    """
    choices: dict[bytes, list[Contact]] = {}
    for key, asked in wanted.items():
        left = [one for one in closest(key) if one not in asked][:few]
        if left:
            choices[key] = left
    asks: dict[Contact, list[bytes]] = {}
    while choices:
        counts = Counter(one for left in choices.values() for one in left)
        chosen, _ = counts.most_common(1)[0]
        asks[chosen] = [key for key, left in choices.items() if chosen in left]
        for key in asks[chosen]:
            del choices[key]
    return asks
