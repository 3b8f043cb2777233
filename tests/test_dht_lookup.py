"""One iterative lookup, driven by hand."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pweb.dht.contact import Contact, NodeId, distance
from p2pweb.dht.lookup import Lookup
from p2pweb.dht.settings import DEFAULTS, Settings

OWN = NodeId(b"\xff" * 20)
TARGET = bytes(20)


def contact(number: int, port: int | None = None) -> Contact:
    """The smaller the number, the nearer to TARGET."""
    return Contact(NodeId(number.to_bytes(20, "big")), ("192.0.2.1", port or 1_000 + number))


def lookup(contacts: list[Contact], options: Settings = DEFAULTS, *suspects: Contact) -> Lookup:
    return Lookup(TARGET, OWN, contacts, options, lambda one: one in suspects)


def test_nobody_to_ask_is_an_end() -> None:
    empty = lookup([])
    assert empty.done
    assert empty.next_requests() == []
    assert empty.closest() == ()


def test_alpha_in_flight_never_rounds() -> None:
    one = lookup([contact(n) for n in range(1, 10)], Settings(alpha=3))
    assert one.next_requests() == [contact(1), contact(2), contact(3)]
    assert one.next_requests() == []
    one.answered(contact(2), [])
    assert one.next_requests() == [contact(4)]


def test_all_of_the_k_are_asked_once_the_nearest_alpha_have_answered() -> None:
    one = lookup([contact(n) for n in range(1, 10)], Settings(alpha=2, k=6, ask_tries=1))
    assert one.next_requests() == [contact(1), contact(2)]
    one.answered(contact(2), [])
    one.timed_out(contact(1))
    # Only one of the nearest has answered yet: two slots.
    assert one.next_requests() == [contact(3), contact(4)]
    one.answered(contact(3), [])
    assert one.next_requests() == [contact(n) for n in (5, 6, 7)]


def test_nearer_contacts_are_asked_before_farther_ones() -> None:
    one = lookup([contact(50), contact(60)], Settings(alpha=1))
    assert one.next_requests() == [contact(50)]
    one.answered(contact(50), [contact(7), contact(8)])
    assert one.next_requests() == [contact(7)]


def test_ends_when_the_k_nearest_have_answered() -> None:
    one = lookup([contact(n) for n in range(1, 10)], Settings(k=2, alpha=5))
    assert one.next_requests() == [contact(1), contact(2)]
    one.answered(contact(1), [])
    assert not one.done
    one.answered(contact(2), [])
    assert one.done
    assert one.closest() == (contact(1), contact(2))


def test_timeout_frees_the_slot_and_a_late_answer_still_counts() -> None:
    one = lookup([contact(1), contact(2), contact(3)], Settings(alpha=1, k=2, ask_tries=1))
    assert one.next_requests() == [contact(1)]
    one.timed_out(contact(1))
    assert one.next_requests() == [contact(2)]
    assert one.answered(contact(1), [])
    one.answered(contact(2), [])
    assert one.done
    assert one.closest() == (contact(1), contact(2))


def test_clean_record_earns_a_second_question_after_everybody_had_a_first() -> None:
    one = lookup([contact(1), contact(2)], Settings(alpha=1))
    one.next_requests()
    one.timed_out(contact(1))
    assert one.next_requests() == [contact(2)]
    one.answered(contact(2), [])
    assert not one.done
    assert one.next_requests() == [contact(1)]
    # The answer to the first question arrives while the second is in flight.
    assert one.answered(contact(1), [])
    one.timed_out(contact(1))
    assert not one.answered(contact(1), [])
    assert one.done
    assert one.closest() == (contact(1), contact(2))


def test_suspects_are_asked_last_and_once() -> None:
    one = lookup([contact(1), contact(2)], Settings(alpha=1), contact(1))
    assert one.next_requests() == [contact(2)]
    one.answered(contact(2), [])
    assert one.next_requests() == [contact(1)]
    one.timed_out(contact(1))
    assert one.done
    assert one.closest() == (contact(2),)


def test_silent_contacts_give_way_to_the_next_nearest() -> None:
    one = lookup([contact(n) for n in range(1, 5)], Settings(k=2, ask_tries=1))
    one.next_requests()
    one.answered(contact(2), [])
    one.timed_out(contact(1))
    assert one.next_requests() == [contact(3)]
    one.answered(contact(3), [])
    assert one.done
    assert one.closest() == (contact(2), contact(3))


def test_while_nobody_answers_each_is_asked_again_and_again() -> None:
    one = lookup([contact(1), contact(2)], Settings(ask_tries=1, lone_tries=4), contact(2))
    for _ in range(4):
        assert not one.done
        assert one.next_requests() == [contact(1), contact(2)]
        one.timed_out(contact(1))
        one.timed_out(contact(2))
    assert one.done
    assert one.next_requests() == []
    assert one.closest() == ()


def test_once_somebody_answers_silence_counts_as_usual() -> None:
    one = lookup([contact(n) for n in (1, 2, 3)], Settings(ask_tries=2, lone_tries=4))
    assert one.next_requests() == [contact(1), contact(2), contact(3)]
    one.timed_out(contact(1))
    assert one.next_requests() == [contact(1)]
    one.timed_out(contact(1))
    # Two tries and no answer from anybody: a third.
    assert one.next_requests() == [contact(1)]
    one.answered(contact(3), [])
    one.timed_out(contact(1))
    one.timed_out(contact(2))
    # One try and an answer from somebody: a second, and no more.
    assert one.next_requests() == [contact(2)]
    one.timed_out(contact(2))
    assert one.done
    assert one.closest() == (contact(3),)


def test_garbage_discredits() -> None:
    one = lookup([contact(1)])
    one.next_requests()
    one.discredit(contact(1))
    one.discredit(contact(99))
    assert one.done
    assert not one.answered(contact(1), [contact(2)])
    assert one.closest() == ()


def test_who_answers_under_another_id_is_discredited() -> None:
    one = lookup([contact(1), contact(2)])
    one.next_requests()
    one.answered(contact(1), [])
    assert one.discredit_others(contact(1).address, contact(9).id)
    assert not one.discredit_others(contact(2).address, contact(2).id)
    assert not one.discredit_others(("192.0.2.9", 9), contact(2).id)
    one.answered(contact(2), [])
    assert one.closest() == (contact(2),)


def test_loops_and_our_own_id_are_ignored() -> None:
    one = lookup([contact(1)])
    one.next_requests()
    one.answered(contact(1), [contact(1), Contact(OWN, ("192.0.2.1", 1))])
    assert one.next_requests() == []
    assert one.done


def test_an_id_is_believed_at_few_addresses_and_listed_once() -> None:
    one = lookup([contact(9)], Settings(rumours_max=2))
    one.next_requests()
    one.answered(contact(9), [contact(1, port=p) for p in (1, 2, 3)])
    assert one.next_requests() == [contact(1, port=1), contact(1, port=2)]
    one.answered(contact(1, port=2), [])
    one.answered(contact(1, port=1), [])
    assert one.closest() == (contact(1, port=1), contact(9))


def test_an_address_is_asked_under_few_ids() -> None:
    one = lookup([contact(9)], Settings(rumours_max=2))
    one.next_requests()
    one.answered(contact(9), [contact(n, port=1) for n in (1, 2, 3)])
    assert one.next_requests() == [contact(1, port=1), contact(2, port=1)]
    for port_one in (contact(1, port=1), contact(2, port=1)):
        one.answered(port_one, [])
    assert one.done
    assert one.next_requests() == []


def test_one_answer_adds_k_contacts_at_most_the_nearest() -> None:
    one = lookup([contact(1_000)], Settings(k=3, alpha=9))
    one.next_requests()
    one.answered(contact(1_000), [contact(n) for n in range(60, 0, -1)])
    assert one.next_requests() == [contact(1), contact(2), contact(3)]


def test_shortlist_is_bounded_the_nearest_kept() -> None:
    one = lookup([], Settings(k=30, shortlist_max=4))
    one._add([contact(n) for n in (9, 8, 7, 6, 5, 4, 3)])
    assert [each.contact for each in one._nearest] == [contact(n) for n in (3, 4, 5, 6)]
    # A trimmed contact may be heard of again, any number of times.
    for _ in range(5):
        one._add([contact(9)])
    assert one.next_requests() == [contact(n) for n in (3, 4, 5, 6)]
    one._add([contact(n) for n in (20, 21, 22, 23, 24)])
    assert len(one._nearest) == 8


def test_asked_contacts_are_never_trimmed() -> None:
    one = lookup([contact(50)], Settings(shortlist_max=1, k=5))
    one.next_requests()
    one.answered(contact(50), [contact(3), contact(2), contact(1)])
    assert [each.contact for each in one._nearest] == [contact(1), contact(50)]


def test_invented_contacts_without_end_end() -> None:
    options = Settings(asks_max=10, alpha=3)
    one = lookup([contact(10**6)], options)
    asked = 0
    number = 10**6
    while requests := one.next_requests():
        for request in requests:
            asked += 1
            number -= 1
            one.answered(request, [contact(number, port=1 + number % 60_000)])
    assert asked == 10
    assert one.done


def test_budget_spent_waits_for_those_in_flight() -> None:
    one = lookup([contact(1), contact(2), contact(3)], Settings(asks_max=2))
    assert one.next_requests() == [contact(1), contact(2)]
    assert not one.done
    one.answered(contact(1), [])
    one.timed_out(contact(2))
    assert one.done
    assert one.closest() == (contact(1),)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 80), st.floats(0, 0.6), st.floats(0, 0.3))
def test_every_lookup_ends_and_finds_the_nearest_living(
    seed: int, count: int, dead: float, late: float
) -> None:
    """Everybody knows everybody; some are dead, some answer late, always in random order."""
    rng = random.Random(seed)
    everyone = [
        Contact(NodeId(rng.randbytes(20)), ("192.0.2.1", port)) for port in range(1, count + 1)
    ]
    living = {one: rng.random() >= dead for one in everyone}
    target = rng.randbytes(20)
    options = Settings(k=8)

    def known(key: bytes) -> list[Contact]:
        return sorted(everyone, key=lambda one: distance(one.id, key))[: options.k]

    one = Lookup(target, OWN, rng.sample(everyone, min(3, count)), options, lambda _: False)
    flying: list[Contact] = []
    tardy: list[Contact] = []
    steps = 0
    while not one.done:
        flying += one.next_requests()
        assert len(flying) <= options.k
        request = flying.pop(rng.randrange(len(flying)))
        if living[request] and rng.random() >= late:
            one.answered(request, known(target))
        else:
            one.timed_out(request)
            if living[request]:
                tardy.append(request)
        if tardy and rng.random() < 0.5:
            early = tardy.pop()
            one.answered(early, known(target))
            flying = [each for each in flying if each != early]
        steps += 1
        assert steps <= options.asks_max
    if not late and all(living.values()):
        assert list(one.closest()) == known(target)
    assert all(living[each] for each in one.closest())
