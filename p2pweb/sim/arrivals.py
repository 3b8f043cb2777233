"""How soon newcomers hold what is due to them, and how many records they are sent for that.

Due to a newcomer is what it should have when the watching ends, worked out from the ids of all who
live then: newcomers that came with it are closer to some keys than it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from p2pweb.dht.contact import distance
from p2pweb.keys import SiteId
from p2pweb.records import COPIES_MAX, dht_key, file_name
from p2pweb.sim.copies import Held, held_by
from p2pweb.sim.whole import WholePeer


@dataclass(frozen=True, slots=True)
class Arrival:
    """One newcomer. `took_s` is from the start of its joining until all that is due to it was on
    its disk; None where it never was.

    Of the records that others sent it, `repeated` are those that it had been sent before; those
    that are not due to it are `displaced` where they were due when it came, but that other
    newcomers are closer, and `surplus` where it did not know better.
    """

    began_s: float
    took_s: float | None
    due: int
    sent: int
    repeated: int
    displaced: int
    surplus: int


@dataclass(slots=True)
class Watched:
    """A newcomer, and when each of its records, and each body, was first seen on its disk."""

    peer: WholePeer
    began_s: float
    seen: tuple[dict[Held, float], dict[Held, float]] = field(default_factory=lambda: ({}, {}))

    def look(self, now_s: float) -> None:
        """Note what is on its disk now."""
        if self.peer.is_on_disk:
            for seen, held in zip(self.seen, held_by(self.peer.folder), strict=True):
                for one in held:
                    seen.setdefault(one, now_s)


def arrivals(
    watched: Sequence[Watched],
    peers: Sequence[WholePeer],
    site: SiteId,
    files: Mapping[str, bytes],
    copies: int,
) -> list[Arrival]:
    """What came of these newcomers, those that have died left out."""
    keys = [dht_key(file_name(site, path)) for path in files]
    came = {one.peer for one in watched}
    before = [peer for peer in peers if peer not in came]
    made = []
    for one in watched:
        if one.peer in peers:
            due = [_due(one.peer, peers, keys, count) for count in (COPIES_MAX, copies)]
            alone = _due(one.peer, [*before, one.peer], keys, COPIES_MAX)
            made.append(_arrival(one, due, alone))
    return made


def _due(
    peer: WholePeer, peers: Sequence[WholePeer], keys: Sequence[bytes], count: int
) -> set[bytes]:
    """The keys to which a peer is one of the `count` closest."""
    due = set()
    for key in keys:
        own = distance(peer.id, key)
        if sum(distance(other.id, key) < own for other in peers) < count:
            due.add(key)
    return due


def _arrival(one: Watched, due: Sequence[set[bytes]], alone: set[bytes]) -> Arrival:
    seen = [{key: at_s for (key, _), at_s in kind.items()} for kind in one.seen]
    times = [kind.get(key) for kind, keys in zip(seen, due, strict=True) for key in keys]
    whole = [at_s for at_s in times if at_s is not None]
    sent, extra = one.peer.records_received, seen[0].keys() - due[0]
    return Arrival(
        began_s=one.began_s,
        took_s=max(whole, default=one.began_s) - one.began_s if len(whole) == len(times) else None,
        due=len(due[0]),
        sent=sent,
        repeated=max(0, sent - len(seen[0])),
        displaced=len(extra & alone),
        surplus=len(extra - alone),
    )
