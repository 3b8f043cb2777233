"""Crowds next to a key: who they are, and that what is stored there is found all the same."""

from __future__ import annotations

import random
from collections.abc import Callable

from test_dht_peer import Bench, sends

from p2pweb.dht import wire
from p2pweb.dht.contact import Address, Contact, NodeId, distance
from p2pweb.dht.crowding import HALVES, around
from p2pweb.dht.events import Action, LookupDone, Yielded
from p2pweb.dht.lookups import ELSEWHERE_S
from p2pweb.dht.settings import Settings

K = 8
KEY = b"\x5a" * 20
USUAL = 1 << 154


def test_as_many_as_elsewhere_or_twice_as_many_are_no_crowd() -> None:
    for radius in (USUAL // 2, USUAL, 4 * USUAL):
        assert around(KEY, radius, USUAL, K) == []


def test_around_a_crowd_are_the_halves_of_the_space_in_which_k_are_to_be_expected() -> None:
    radius = 1 << 151
    keys = around(KEY, radius, USUAL, K)
    apart = [distance(NodeId(key), KEY) for key in keys]
    assert apart == [1 << bit for bit in range(152, 155)]
    # However close together they stand.
    assert len(around(KEY, 7, USUAL, K)) == HALVES


def test_chance_makes_hardly_any_crowd() -> None:
    rng = random.Random(1)
    ids = sorted(rng.getrandbits(160) for _ in range(1_000))
    crowds = 0
    for _ in range(300):
        own, key = rng.choice(ids), rng.getrandbits(160)
        usual, radius = (sorted(one ^ place for one in ids)[20] for place in (own, key))
        crowds += around(key.to_bytes(20), radius, usual, 20) != []
    assert crowds <= 1


# Lookups


class Network:
    """Honest peers all over the id space, and Sybils that are closer to a key than all of them."""

    def __init__(self, honest: int = 200, sybils: int = 24, key: bytes = KEY) -> None:
        self.key = key
        self.bench = Bench(Settings(k=K, small_network=1_000))
        rng = random.Random(1)
        self.honest = [_peer(rng.getrandbits(160), number) for number in range(honest)]
        self.honest.sort(key=lambda one: distance(one.id, key))
        nearest = distance(self.honest[0].id, key)
        self.sybils = [
            _peer(int.from_bytes(key) ^ rng.randrange(1, nearest), honest + number)
            for number in range(sybils)
        ]
        self.everybody = {one.address: one for one in [*self.honest, *self.sybils]}
        # The honest next to the key are not known; nor are they named where the Sybils are nearer.
        own = self.bench.peer.own
        self.bench.know(*sorted(self.honest[K:], key=lambda one: distance(one.id, own)))
        self.asked: set[Address] = set()

    def know_the_crowd(self) -> None:
        """Have the peer have met the Sybils."""
        self.bench.know(*self.sybils)

    def answer(self, to: Contact, question: wire.Question) -> object:
        if isinstance(question, wire.Ping):
            return to.id
        assert isinstance(question, wire.FindNode | wire.FindValue)
        if isinstance(question, wire.FindValue) and to in self.honest[:K]:
            return {"value": b"value"}
        known = self.sybils if to in self.sybils else [*self.honest, *self.sybils]
        nearest = sorted(known, key=lambda one: distance(one.id, question.key))[:K]
        return [[one.id, *one.address] for one in nearest]

    def run(self, actions: list[Action], stop: Callable[[], bool] = lambda: False) -> list[Action]:
        """Let everybody answer until nothing more is asked; what happened."""
        happened: list[Action] = []
        while actions and not stop():
            happened += actions
            heard: list[Action] = []
            for sent in sends(actions):
                asked = wire.decode(sent.data)
                if isinstance(asked, wire.Asked):
                    self.asked.add(sent.address)
                    to = self.everybody[sent.address]
                    heard += self.bench.reply(sent, self.answer(to, asked.question))
            for one in [one for one in heard if isinstance(one, Yielded)]:
                heard += self.bench.peer.resume(one.token, self.bench.now)
            actions = heard
        return happened


def _peer(number: int, place: int) -> Contact:
    return Contact(NodeId(number.to_bytes(20)), (f"10.0.{place >> 8}.{place & 255}", 4_000))


def test_a_value_that_a_crowd_of_sybils_denies_is_found_around_them() -> None:
    network = Network()
    happened = network.run(network.bench.peer.find_value(1, KEY, network.bench.now))
    found = [one.found.contact for one in happened if isinstance(one, Yielded)]
    assert len(found) >= K / 2 and set(found) <= set(network.honest[:K])
    assert [one.token for one in happened if isinstance(one, LookupDone)] == [1]


def test_who_places_something_next_to_a_crowd_hears_of_those_around_it_too() -> None:
    network = Network()
    happened = network.run(network.bench.peer.find_node(1, KEY, network.bench.now))
    (done,) = [one for one in happened if isinstance(one, LookupDone)]
    assert len(done.closest) > K
    assert len(set(done.closest) & set(network.honest[:K])) >= K / 2
    apart = [distance(one.id, KEY) for one in done.closest]
    assert apart == sorted(apart)


def test_where_there_is_no_crowd_nobody_else_is_asked() -> None:
    network = Network(sybils=0)
    happened = network.run(network.bench.peer.find_node(1, KEY, network.bench.now))
    (done,) = [one for one in happened if isinstance(one, LookupDone)]
    assert list(done.closest) == network.honest[:K]
    assert len(network.asked) < 4 * K


def test_a_search_that_is_given_up_takes_those_around_the_crowd_along() -> None:
    network = Network()
    peer, now = network.bench.peer, network.bench.now
    lookups = peer._lookups
    network.run(peer.find_value(1, KEY, now), stop=lambda: len(lookups._running) > 1)
    assert len(lookups._running) > 1
    peer.cancel(1, now)
    assert not lookups._running


# A peer whose own id, zero, is next to the key

NEAR = (1 << 140).to_bytes(20)


def test_who_stands_in_a_crowd_sees_it_by_how_far_apart_peers_stand_elsewhere() -> None:
    network = Network(key=NEAR)
    network.know_the_crowd()
    peer, now = network.bench.peer, network.bench.now
    for token in (1, 2):
        network.asked.clear()
        happened = network.run(peer.find_value(token, NEAR, now))
        found = [one.found.contact for one in happened if isinstance(one, Yielded)]
        assert len(found) >= K / 2 and set(found) <= set(network.honest[:K])
        assert [one.token for one in happened if isinstance(one, LookupDone)] == [token]
        # Elsewhere, in the other half, it is looked only once.
        is_elsewhere = any(network.everybody[one].id[0] & 0x80 for one in network.asked)
        assert is_elsewhere == (token == 1)
    network.bench.now += ELSEWHERE_S + 1.0
    network.run(peer.find_value(3, NEAR, network.bench.now))
    assert any(network.everybody[one].id[0] & 0x80 for one in network.asked)


def test_where_nobody_answers_elsewhere_a_lookup_ends_all_the_same() -> None:
    network = Network(key=NEAR)
    network.know_the_crowd()
    answer = network.answer

    def only_here(to: Contact, question: wire.Question) -> object:
        is_far = isinstance(question, wire.FindNode) and question.key[0] & 0x80
        return b"garbage" if is_far else answer(to, question)

    network.answer = only_here  # type: ignore[method-assign]
    peer, now = network.bench.peer, network.bench.now
    happened = network.run(peer.find_node(1, NEAR, now))
    (done,) = [one for one in happened if isinstance(one, LookupDone)]
    assert set(done.closest) <= set(network.sybils)


def test_who_stands_as_far_from_others_as_these_from_one_another_looks_nowhere_else() -> None:
    network = Network(sybils=0, key=NEAR)
    happened = network.run(network.bench.peer.find_node(1, NEAR, network.bench.now))
    assert [one.token for one in happened if isinstance(one, LookupDone)] == [1]
    assert not any(network.everybody[one].id[0] & 0x80 for one in network.asked)


def test_whom_a_peer_finds_next_to_itself_it_takes_as_they_are() -> None:
    network = Network(key=NEAR)
    network.know_the_crowd()
    happened = network.run(network.bench.peer.find_node(1, bytes(20), network.bench.now))
    (done,) = [one for one in happened if isinstance(one, LookupDone)]
    assert len(done.closest) == K
