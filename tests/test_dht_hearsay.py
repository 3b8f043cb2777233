"""What others say of contacts: kept in bounds, whoever says how much."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pweb.dht.contact import Contact, NodeId, distance
from p2pweb.dht.hearsay import LOOKED_AT_MAX, Hearsay
from p2pweb.dht.rates import machine
from p2pweb.dht.settings import DEFAULTS, Settings

KEY = bytes(20)
LIAR = "203.0.113.66"


def contact(number: int, host: str = "192.0.2.1") -> Contact:
    """The smaller the number, the nearer to KEY."""
    return Contact(NodeId(number.to_bytes(20, "big")), (host, 1_000 + number % 60_000))


def heard(hearsay: Hearsay, now: float = 0.0) -> list[Contact]:
    return hearsay.nearest(KEY, 10_000, now)


def test_the_nearest_to_a_key_of_those_heard_of() -> None:
    hearsay = Hearsay(DEFAULTS)
    assert heard(hearsay) == []
    for number in (5, 3, 9):
        hearsay.note(contact(number), "192.0.2.9", 0.0)
    assert hearsay.nearest(KEY, 2, 0.0) == [contact(3), contact(5)]


def test_who_was_heard_of_stays_where_it_was_first_said_to_be() -> None:
    hearsay = Hearsay(Settings(hearsay_for_s=10.0))
    hearsay.note(contact(1), "192.0.2.9", 0.0)
    hearsay.note(contact(1, LIAR), LIAR, 5.0)
    assert heard(hearsay, 10.0) == [contact(1)]
    # What another said of it kept nobody in memory.
    assert heard(hearsay, 10.1) == []
    hearsay.note(contact(1, LIAR), LIAR, 11.0)
    assert heard(hearsay, 11.0) == [contact(1, LIAR)]


def test_an_address_keeps_the_first_id_that_it_is_said_to_have_until_it_says_another() -> None:
    hearsay = Hearsay(DEFAULTS)
    one = contact(1)
    other = Contact(contact(2).id, one.address)
    hearsay.note(one, "192.0.2.9", 0.0)
    hearsay.note(other, LIAR, 1.0)
    assert heard(hearsay, 1.0) == [one]
    hearsay.refute(one.address, one.id)
    assert heard(hearsay, 1.0) == [one]
    hearsay.refute(one.address, other.id)
    hearsay.refute(contact(3).address, other.id)
    assert heard(hearsay, 1.0) == []
    hearsay.note(other, LIAR, 1.0)
    assert heard(hearsay, 1.0) == [other]


def test_whoever_is_named_again_is_remembered_longer() -> None:
    hearsay = Hearsay(Settings(hearsay_for_s=10.0, hearsay_max=2))
    hearsay.note(contact(1), "192.0.2.9", 0.0)
    hearsay.note(contact(2), "192.0.2.9", 1.0)
    hearsay.note(contact(1), "192.0.2.8", 5.0)
    assert heard(hearsay, 12.0) == [contact(1)]
    hearsay.note(contact(2), "192.0.2.9", 12.0)
    hearsay.note(contact(3), "192.0.2.9", 12.0)
    # Heard of longest ago.
    assert heard(hearsay, 12.0) == [contact(2), contact(3)]


def test_silence_ends_the_memory_of_a_contact_at_that_address() -> None:
    hearsay = Hearsay(DEFAULTS)
    hearsay.note(contact(1), "192.0.2.9", 0.0)
    hearsay.forget(contact(2))
    hearsay.forget(contact(1, LIAR))
    assert heard(hearsay) == [contact(1)]
    hearsay.forget(contact(1))
    assert heard(hearsay) == []
    assert len(hearsay) == 0


def test_those_wanted_are_given_each_time_another() -> None:
    hearsay = Hearsay(DEFAULTS)
    assert hearsay.untried(lambda _: True, 0.0) is None
    for number in range(1, 5):
        hearsay.note(contact(number), "192.0.2.9", 0.0)
    given = [hearsay.untried(lambda one: one != contact(2), 0.0) for _ in range(6)]
    assert set(given) == {contact(n) for n in (1, 3, 4)}
    assert all(one != other for one, other in pairwise(given))


def test_few_are_looked_at_at_one_time_all_over_the_space_and_all_of_them_in_the_end() -> None:
    hearsay = Hearsay(DEFAULTS)
    count = 5 * LOOKED_AT_MAX
    for number in range(count):
        hearsay.note(contact(number), "192.0.2.9", 0.0)
    looked: list[Contact] = []

    def refuse(one: Contact) -> bool:
        looked.append(one)
        return False

    for times in range(1, 11):
        assert hearsay.untried(refuse, 0.0) is None
        assert len(looked) == times * LOOKED_AT_MAX
    quarters = {4 * int.from_bytes(one.id, "big") // count for one in looked[:LOOKED_AT_MAX]}
    assert quarters == {0, 1, 2, 3}
    assert set(looked) == {contact(number) for number in range(count)}


def test_to_be_looked_at_lengthens_no_memory() -> None:
    hearsay = Hearsay(Settings(hearsay_for_s=10.0))
    hearsay.note(contact(1), "192.0.2.9", 0.0)
    hearsay.note(contact(2), "192.0.2.9", 5.0)
    assert hearsay.untried(lambda one: one == contact(1), 6.0) == contact(1)
    assert heard(hearsay, 11.0) == [contact(2)]
    assert hearsay.untried(lambda _: True, 20.0) is None


# --- liars ---


def filled() -> tuple[Hearsay, list[Contact]]:
    """As much as fits, from many that each named a few."""
    hearsay = Hearsay(DEFAULTS)
    honest = [contact(1 + number) for number in range(DEFAULTS.hearsay_max)]
    for number, one in enumerate(honest):
        hearsay.note(one, f"192.0.2.{number % 200}", 0.001 * number)
    return hearsay, honest


def test_a_liar_who_names_64_invented_contacts_in_each_answer_flushes_few() -> None:
    hearsay, honest = filled()
    for number in range(100 * 64):
        hearsay.note(contact(10_000 + number, LIAR), LIAR, 2.0 + 0.001 * number)
    left = set(heard(hearsay, 2.0)) & set(honest)
    assert len(left) == DEFAULTS.hearsay_max - DEFAULTS.hearsay_each_max
    assert len(hearsay) == DEFAULTS.hearsay_max


def test_a_liar_whose_inventions_are_found_out_flushes_no_more() -> None:
    hearsay, honest = filled()
    for number in range(100 * 64):
        invented = contact(10_000 + number, LIAR)
        hearsay.note(invented, LIAR, 2.0)
        hearsay.forget(invented)
    assert set(heard(hearsay, 2.0)) >= set(honest[1:])


def test_all_addresses_of_a_network_of_ipv6_are_one_teller() -> None:
    hearsay, honest = filled()
    for number in range(2_000):
        teller = machine((f"2001:db8:0:7::{number + 1:x}", 8_001))
        hearsay.note(contact(10_000 + number), teller, 2.0)
    left = set(heard(hearsay, 2.0)) & set(honest)
    assert len(left) == DEFAULTS.hearsay_max - DEFAULTS.hearsay_each_max


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_it_stays_within_its_bounds_and_agrees_with_itself(seed: int) -> None:
    rng = random.Random(seed)
    options = Settings(
        hearsay_max=rng.randint(1, 12), hearsay_each_max=rng.randint(1, 6), hearsay_for_s=20.0
    )
    hearsay = Hearsay(options)
    now, tellers = 0.0, [f"192.0.2.{n}" for n in range(4)]
    for _ in range(150):
        now += rng.random()
        one = contact(rng.randrange(30), f"192.0.2.{rng.randrange(2)}")
        match rng.randrange(5):
            case 0:
                hearsay.forget(one)
            case 1:
                wanted = hearsay.untried(lambda _: rng.random() < 0.2, now)
                assert wanted is None or wanted in heard(hearsay, now)
            case _:
                hearsay.note(one, rng.choice(tellers), now)
        rumours = hearsay._rumours
        assert len(hearsay) == len(hearsay._order) <= options.hearsay_max
        told = Counter(rumour.teller for rumour in rumours.values())
        assert told == hearsay._told
        assert max(told.values(), default=0) <= options.hearsay_each_max
        moments = [rumour.heard for rumour in rumours.values()]
        assert moments == sorted(moments)
        ordered = heard(hearsay, now)
        assert ordered == sorted(ordered, key=lambda each: distance(each.id, KEY))
        assert all(rumours[each.id].heard >= now - options.hearsay_for_s for each in ordered)
