"""Ids in order, and the nearest of them."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from p2pweb.dht.contact import NodeId, distance
from p2pweb.dht.nearest import IdOrder

# Ids that share long prefixes, and others.
_IDS = st.one_of(
    st.binary(min_size=20, max_size=20),
    st.integers(0, 64).map(lambda number: number.to_bytes(20, "big")),
    st.integers(0, 159).map(lambda bit: (1 << bit).to_bytes(20, "big")),
    st.integers(0, 64).map(lambda number: ((1 << 160) - 1 - number).to_bytes(20, "big")),
)


@settings(max_examples=300)
@given(st.sets(_IDS, max_size=60), st.data(), _IDS, st.integers(0, 70))
def test_the_nearest_are_exactly_those_that_a_full_search_finds(
    ids: set[bytes], data: st.DataObject, key: bytes, count: int
) -> None:
    order = IdOrder()
    for known in ids:
        order.add(NodeId(known))
    gone = data.draw(st.sets(st.sampled_from(sorted(ids)))) if ids else set()
    for known in gone:
        order.remove(NodeId(known))
    left = ids - gone
    assert len(order) == len(left)
    assert order.nearest(key, count) == sorted(left, key=lambda one: distance(one, key))[:count]


@given(st.lists(_IDS, max_size=30))
@example([])
def test_adding_and_removing_all_leaves_nothing(ids: list[bytes]) -> None:
    order = IdOrder()
    unique = dict.fromkeys(ids)
    for known in unique:
        order.add(NodeId(known))
    for known in reversed(unique):
        order.remove(NodeId(known))
    assert len(order) == 0
    assert order.nearest(bytes(20), 5) == []
