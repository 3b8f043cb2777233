"""Who is next to a peer, and what one lookup says about keys beside its own. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from p2pweb.dht.contact import ID_BITS, Contact, NodeId, distance

# The contacts next to a peer's own id that it watches and asks, and that it tells by what happens
# around it. Twice the k of Kademlia: whoever holds what is due to this peer is among them.
NEIGHBOURS = 40


class Neighbourhood:
    """The k contacts closest to a key, or all there are, as a lookup found them."""

    def __init__(self, key: NodeId, contacts: Sequence[Contact], k: int) -> None:
        """`contacts` are fewer than `k` only where there are no more."""
        self._key = key
        self._contacts = contacts
        # Everybody within it is known.
        whole = len(contacts) < k
        self._radius = 1 << ID_BITS if whole else max(distance(one.id, key) for one in contacts)

    def closest(self, key: NodeId, count: int) -> list[Contact] | None:
        """The `count` contacts closest to another key, nearest first, or all there are; None where
        others might be closer.

        Whoever is within some distance of this key is no farther from the other one than that and
        the distance between the keys together (the triangle inequality, Maymounkov and Mazières
        2002, §2.1).
        """
        nearest = sorted(self._contacts, key=lambda one: distance(one.id, key))[:count]
        if self._radius == 1 << ID_BITS:
            return nearest
        sure = self._radius - distance(self._key, key)
        is_sure = len(nearest) == count and distance(nearest[-1].id, key) <= sure
        return nearest if is_sure else None
