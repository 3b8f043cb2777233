"""How many questions of others are answered, whoever else asks."""

from __future__ import annotations

import random

import pytest
from test_dht_peer import KEY, MESSAGE, OWN, Bench, contact, questions

from p2pweb.dht import wire
from p2pweb.dht.contact import Address, Contact, NodeId
from p2pweb.dht.rates import Buckets, Rates, prefix
from p2pweb.dht.settings import DEFAULTS, Settings

A = ("192.0.2.1", 1)
B = ("192.0.2.2", 1)
# Every figure small, and no two alike.
TIGHT = Settings(
    known_rate=8.0,
    known_burst=6,
    stranger_rate=2.0,
    stranger_burst=3,
    strangers_rate=4.0,
    strangers_burst=5,
    buckets_max=4,
)


def allowed(rates: Rates, address: Address, now: float, tries: int, *, known: bool) -> int:
    return sum(rates.allows(address, now, known=known) for _ in range(tries))


def test_a_bucket_gives_its_burst_then_its_rate() -> None:
    buckets = Buckets(rate=4.0, burst=3, most=2)
    assert [buckets.take("a", 10.0) for _ in range(4)] == [True, True, True, False]
    assert [buckets.take("a", 10.25) for _ in range(2)] == [True, False]
    assert [buckets.take("a", 99.0) for _ in range(4)] == [True, True, True, False]
    # Over a long time it is the rate, however often it is asked.
    assert sum(buckets.take("b", 10.0 + n / 100) for n in range(1_000)) in (42, 43)


def test_what_is_given_back_can_be_taken_again() -> None:
    buckets = Buckets(rate=1.0, burst=1, most=2)
    assert buckets.take("a", 0.0)
    buckets.give_back("a")
    assert buckets.take("a", 0.0)
    assert not buckets.take("a", 0.0)


def test_only_so_many_buckets_are_kept_those_used_last() -> None:
    buckets = Buckets(rate=1.0, burst=1, most=2)
    for name in ("a", "b"):
        assert buckets.take(name, 0.0)
    assert not buckets.take("a", 0.0)
    assert buckets.take("c", 0.0)
    assert len(buckets) == 2
    # The bucket that was forgotten is full: nobody loses by that.
    assert buckets.take("a", 0.0)


def test_ports_of_a_host_share_a_bucket_and_hosts_do_not() -> None:
    rates = Rates(TIGHT)
    assert sum(rates.allows((A[0], port), 0.0, known=True) for port in range(1, 20)) == 6
    assert allowed(rates, B, 0.0, 20, known=True) == 6
    assert allowed(rates, A, 1.0, 20, known=True) == 6


def test_the_known_and_the_strangers_of_one_host_have_buckets_of_their_own() -> None:
    rates = Rates(TIGHT)
    assert allowed(rates, A, 0.0, 20, known=False) == 3
    assert allowed(rates, A, 0.0, 20, known=True) == 6
    assert allowed(rates, A, 0.5, 20, known=False) == 1


def test_one_host_cannot_use_up_the_total_of_the_strangers() -> None:
    rates = Rates(TIGHT)
    assert allowed(rates, A, 0.0, 1_000, known=False) == 3
    assert allowed(rates, B, 0.0, 1_000, known=False) == 2
    # The total refused B, whose own bucket has a token left.
    assert allowed(rates, A, 0.25, 1_000, known=False) == 0
    assert allowed(rates, B, 0.25, 1_000, known=False) == 1
    assert len(rates) == 3


def test_addresses_of_one_ipv6_network_share_a_bucket() -> None:
    rates = Rates(TIGHT)
    hosts = ["2001:db8:1:2::1", "2001:db8:1:2:3::", "2001:db8:1:2:ffff:ffff:ffff:ffff"]
    assert sum(rates.allows((host, 7), 0.0, known=True) for host in hosts * 9) == 6
    assert rates.allows(("2001:db8:1:3::1", 7), 0.0, known=True)
    assert sum(rates.allows((host, 7), 0.0, known=False) for host in hosts * 9) == 3
    assert rates.allows(("2001:db8:1:3::1", 7), 0.0, known=False)


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2"),
        ("2001:db8:1:2:3:4::", "2001:db8:1:2"),
        ("2001:db8:1:2::6", "2001:db8:1:2"),
        ("2001:db8::6", "2001:db8:0:0"),
        ("2001:db8::2:3:4:5:6", "2001:db8:0:2"),
        ("2001:db8::", "2001:db8:0:0"),
        ("::3:4:5:6:7", "0:0:0:3"),
        ("::5", "0:0:0:0"),
    ],
)
def test_the_network_of_an_ipv6_literal(host: str, network: str) -> None:
    assert prefix(host) == network


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.8.7", "::1"])
def test_loopback_is_not_limited(host: str) -> None:
    rates = Rates(TIGHT)
    for known in (False, True):
        assert allowed(rates, (host, 1), 0.0, 1_000, known=known) == 1_000
    assert len(rates) == 0


# --- a peer that limits ---


def test_questions_beyond_the_rate_are_dropped_in_silence_and_counted() -> None:
    bench = Bench(TIGHT)
    bench.know(contact(9))
    question = wire.Ping(contact(9).id)
    assert [len(bench.asked(question, contact(9).address)) for _ in range(8)] == [1] * 6 + [0] * 2
    assert bench.peer.limited == 2
    # Garbage that looks like a question counts as one, and is not even read.
    assert bench.receive(b"\x00" * 60, contact(9).address) == []
    assert (bench.peer.limited, bench.peer.malformed) == (3, 0)
    bench.now += 1.0
    assert len(bench.asked(question, contact(9).address)) == 1


def test_answers_count_whatever_was_asked_before() -> None:
    bench = Bench(TIGHT)
    bench.know(contact(9))
    for _ in range(100):
        bench.asked(wire.Ping(contact(9).id), contact(9).address)
    (sent,) = bench.peer.store(1, contact(9), KEY, b"value", bench.now)
    assert len(bench.reply(sent, True)) == 1


def test_a_stranger_that_answers_has_the_rate_of_the_known() -> None:
    bench = Bench(TIGHT)
    stranger = contact(9)
    ping = bench.asked(wire.Ping(stranger.id), stranger.address)[-1]
    while bench.asked(wire.Ping(stranger.id), stranger.address):
        pass
    assert bench.reply(ping, stranger.id)
    assert len(bench.asked(wire.Ping(stranger.id), stranger.address)) == 1


def test_a_contact_whose_proof_was_pushed_out_is_still_known() -> None:
    bench = Bench(Settings(proved_max=1, stranger_burst=1, strangers_burst=1))
    bench.know(contact(8), contact(9))
    assert all(bench.asked(wire.Ping(contact(8).id), contact(8).address) for _ in range(100))


def test_a_flood_from_forged_addresses_silences_no_known_peer() -> None:
    bench = Bench()
    bench.know(contact(9))
    rng = random.Random(5)
    flood = wire.encode_question(MESSAGE, wire.FindNode(contact(7).id, KEY))
    answered = 0
    for number in range(20_000):
        bench.now += 1 / 20_000
        answered += bool(bench.receive(flood, (f"198.51.{number >> 8}.{number & 255}", 9)))
        if number % 20 == 0:
            # A thousand a second of its own.
            assert bench.asked(wire.FindNode(contact(9).id, rng.randbytes(20)), contact(9).address)
    assert answered <= DEFAULTS.strangers_burst + DEFAULTS.strangers_rate + 1
    assert bench.peer.limited == 20_000 - answered
    assert len(bench.peer._rates) <= 2 * DEFAULTS.buckets_max + 1


def test_who_forges_the_address_of_a_known_peer_takes_its_questions_and_nothing_else() -> None:
    bench = Bench()
    bench.know(contact(8), contact(9))
    rng = random.Random(6)
    question = wire.encode_question(MESSAGE, wire.Ping(contact(9).id))
    own = served = 0
    for _ in range(60_000):
        bench.now += rng.expovariate(20_000)
        actions = bench.receive(question, contact(9).address)
        if rng.random() < 0.02:
            own += 1
            served += bool(actions)
    # 4,000 at once, then 2,000 a second of the 20,000.
    assert 0.1 < served / own < 0.3
    (ping,) = bench.peer.ping(1, contact(9).address, bench.now)
    assert bench.reply(ping, contact(9).id)
    # Another host's peer is not concerned.
    other = Contact(NodeId(b"\x77" * 20), ("203.0.113.7", 7))
    (ping,) = bench.peer.ping(2, other.address, bench.now)
    bench.reply(ping, other.id)
    assert bench.asked(wire.Ping(other.id), other.address)


def test_a_publisher_of_ten_thousand_files_is_never_limited() -> None:
    bench = Bench()
    publisher = contact(9)
    bench.know(publisher)
    rng = random.Random(7)
    for _ in range(10_000):
        # As fast as one process asks one other.
        bench.now += 1 / 1_500
        assert bench.asked(wire.FindNode(publisher.id, rng.randbytes(20)), publisher.address)
        assert bench.asked(wire.Store(publisher.id, KEY, b"v" * 800), publisher.address)
        bench.now += 1 / 1_500
    assert bench.peer.limited == 0


def test_fifty_peers_behind_one_address_start_together_and_work_on() -> None:
    bench = Bench()
    peers = [contact(number) for number in range(1, 51)]
    for one in peers:
        _, ping = bench.asked(wire.Ping(one.id), one.address)
        # All the lookups with which a newcomer begins ask at once, before it is proved.
        for _ in range(18):
            bench.asked(wire.FindNode(one.id, KEY), one.address)
        bench.now += 0.001
        assert questions([ping]) == [(wire.Ping(OWN), one.address)]
        assert bench.reply(ping, one.id)
    for _ in range(400):
        # Each asks 39 times a second, for ten seconds.
        bench.now += 1 / 39
        for one in peers:
            assert bench.asked(wire.FindNode(one.id, KEY), one.address)
    assert bench.peer.limited == 0
