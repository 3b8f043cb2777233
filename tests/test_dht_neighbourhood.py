"""What one lookup says about neighbouring keys: never anything wrong, and enough to be worth it."""

from __future__ import annotations

import random

from p2pweb.dht.contact import ID_BYTES, Contact, NodeId, distance
from p2pweb.dht.neighbourhood import Neighbourhood

K, COPIES = 20, 8


def network(count: int) -> list[Contact]:
    rng = random.Random(count)
    return [
        Contact(NodeId(rng.randbytes(ID_BYTES)), ("192.0.2.1", port))
        for port in range(1, count + 1)
    ]


def nearest(peers: list[Contact], key: NodeId, count: int) -> list[Contact]:
    return sorted(peers, key=lambda one: distance(one.id, key))[:count]


def test_what_it_says_is_right_and_a_sweep_takes_few_lookups() -> None:
    peers, rng = network(100), random.Random(1)
    keys = sorted(NodeId(rng.randbytes(ID_BYTES)) for _ in range(2_000))
    lookups, around = 0, None
    for key in keys:
        found = around.closest(key, COPIES) if around else None
        if found is None:
            lookups += 1
            around = Neighbourhood(key, nearest(peers, key, K), K)
            found = around.closest(key, COPIES)
        assert found == nearest(peers, key, COPIES)
    assert lookups <= 40


def test_all_there_are_is_the_answer_for_every_key() -> None:
    peers = network(K - 1)
    keys = [one.id for one in network(50)]
    around = Neighbourhood(keys[0], peers, K)
    for key in keys:
        assert around.closest(key, COPIES) == nearest(peers, key, COPIES)
        assert around.closest(key, K) == nearest(peers, key, K)
    assert Neighbourhood(keys[0], [], K).closest(keys[1], COPIES) == []


def test_it_says_nothing_of_keys_far_off_or_of_more_than_it_knows() -> None:
    peers = network(100)
    key = peers[0].id
    around = Neighbourhood(key, nearest(peers, key, K), K)
    assert around.closest(NodeId(bytes([key[0] ^ 0x80]) + key[1:]), 1) is None
    assert around.closest(key, K) is not None
    assert around.closest(key, K + 1) is None
