"""One iterative lookup, driven by hand."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pweb.dht.contact import Address, Contact, NodeId, distance
from p2pweb.dht.lookup import CONCLUSIVE_MIN, Lookup
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
    one.answered(contact(2), [contact(10)])
    # What it said is followed on a path of its own, on which nobody was asked yet.
    assert one.next_requests() == [contact(10)]
    one.answered(contact(1), [contact(11)])
    assert one.next_requests() == [contact(11)]


def test_all_of_the_k_are_asked_once_somebody_near_tells_of_nobody_nearer() -> None:
    one = lookup([contact(10 * n) for n in range(1, 10)], Settings(alpha=2, k=6))
    assert one.next_requests() == [contact(10), contact(20)]
    one.answered(contact(20), [contact(15)])
    assert one.next_requests() == [contact(15)]
    one.answered(contact(15), [contact(95)])
    # The last of them is the sixth of our own.
    assert one.next_requests() == [contact(n) for n in (30, 40, 50, 60)]


def test_a_wide_one_asks_whoever_is_wanted_at_once_up_to_k() -> None:
    contacts = [contact(10 * n) for n in range(1, 10)]
    options = Settings(alpha=1, k=5)
    one = Lookup(TARGET, OWN, contacts, options, lambda one: False, need=3, wide=True)
    assert one.next_requests() == [contact(10), contact(20), contact(30)]
    # Those farther off have no slots that those nearer would have to wait for.
    one.answered(contact(30), [contact(n) for n in (1, 2, 3, 4)])
    assert set(one.next_requests()) == {contact(n) for n in (1, 2, 3)}
    assert one.next_requests() == []


def test_a_wide_one_that_needs_a_few_of_the_nearest_waits_for_no_certain_ones() -> None:
    contacts = [contact(10 * n) for n in range(1, 10)]
    options = Settings(k=5)
    one = Lookup(TARGET, OWN, contacts, options, lambda one: False, need=2, wide=True)
    assert one.next_requests() == [contact(10), contact(20)]
    one.answered(contact(20), [contact(5)])
    # Whoever is nearer than all has to be asked before.
    assert not one.done
    assert one.next_requests() == [contact(5)]
    one.answered(contact(5), [])
    assert one.done
    assert one.closest() == (contact(5), contact(20))


def test_somebody_far_who_tells_of_nobody_nearer_says_nothing() -> None:
    one = lookup([contact(10 * n) for n in range(1, 5)], Settings(alpha=2, k=4))
    assert one.next_requests() == [contact(10), contact(20)]
    one.answered(contact(10), [contact(n) for n in (1, 2, 3, 4)])
    one.answered(contact(20), [])
    assert one.next_requests() == [contact(1), contact(2)]


def test_a_value_is_no_reason_to_ask_more_at_one_time() -> None:
    one = lookup([contact(n) for n in range(1, 10)], Settings(alpha=2, k=6))
    one.next_requests()
    one.answered(contact(1), [], found=True)
    assert one.next_requests() == [contact(3)]
    one.answered(contact(2), [])
    assert one.next_requests() == [contact(n) for n in (4, 5, 6)]


def test_each_timeout_adds_two_slots() -> None:
    one = lookup([contact(n) for n in range(1, 30)], Settings(alpha=2))
    assert one.next_requests() == [contact(1), contact(2)]
    one.timed_out(contact(1))
    # One free, two added.
    assert one.next_requests() == [contact(n) for n in (3, 4, 5)]
    one.timed_out(contact(2))
    assert one.next_requests() == [contact(n) for n in (6, 7, 8)]


def test_nearer_contacts_are_asked_before_farther_ones() -> None:
    one = lookup([contact(50), contact(60)], Settings(alpha=1, leads=0))
    assert one.next_requests() == [contact(50)]
    one.answered(contact(50), [contact(7), contact(8)])
    assert one.next_requests() == [contact(7)]


def test_where_an_answer_leads_nearer_than_anybody_known_two_are_asked_at_once() -> None:
    one = lookup([contact(10 * n) for n in range(1, 9)], Settings(alpha=3))
    assert one.next_requests() == [contact(n) for n in (10, 20, 30)]
    one.answered(contact(20), [contact(7), contact(8), contact(9)])
    # In the place of the one that has answered, and beside it.
    assert one.next_requests() == [contact(7), contact(8)]
    # Nearer than most of those known, and not than all: its turn comes.
    one.answered(contact(10), [contact(15)])
    assert one.next_requests() == []
    one.answered(contact(7), [contact(1)])
    assert one.next_requests() == [contact(1), contact(9)]
    # Two have room at once, and there is but one more on that path.
    one.answered(contact(1), [contact(0)])
    assert one.next_requests() == [contact(0)]


def test_where_a_value_was_found_no_answer_leads_on() -> None:
    one = lookup([contact(10), contact(20)], Settings(alpha=1))
    assert one.next_requests() == [contact(10)]
    one.answered(contact(10), [contact(7), contact(8)], found=True)
    assert one.next_requests() == [contact(7)]


def test_upkeep_follows_no_lead() -> None:
    options = Settings(upkeep_alpha=1)
    one = Lookup(TARGET, OWN, [contact(10)], options, lambda _: False, upkeep=True)
    assert one.next_requests() == [contact(10)]
    one.answered(contact(10), [contact(7), contact(8)])
    assert one.next_requests() == [contact(7)]


def test_leads_find_no_more_in_flight_than_there_are_places() -> None:
    options = Settings(alpha=2, leads=9, queries_max=15, lookups_max=4)
    assert options.slots_max == 3
    one = lookup([contact(10), contact(20)], options)
    assert one.next_requests() == [contact(10), contact(20)]
    one.answered(contact(10), [contact(n) for n in range(1, 9)])
    assert one.next_requests() == [contact(1), contact(2)]


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
    # Nobody has answered yet: the first is asked again, after the others.
    assert one.next_requests() == [contact(2), contact(3), contact(1)]
    assert one.answered(contact(1), [])
    one.answered(contact(2), [])
    assert one.done
    assert one.closest() == (contact(1), contact(2))


def test_clean_record_earns_a_second_question_after_everybody_had_a_first() -> None:
    one = lookup([contact(1), contact(2)], Settings(alpha=1))
    one.next_requests()
    one.timed_out(contact(1))
    assert one.next_requests() == [contact(2), contact(1)]
    one.answered(contact(2), [])
    assert not one.done
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


def test_silent_contacts_give_way_to_the_next_nearest_and_one_more() -> None:
    one = lookup([contact(n) for n in range(1, 9)], Settings(k=2, ask_tries=1))
    assert one.next_requests() == [contact(1), contact(2)]
    one.answered(contact(2), [])
    one.timed_out(contact(1))
    assert one.next_requests() == [contact(3), contact(4)]
    one.answered(contact(3), [])
    # Nobody waits for the one more.
    assert one.done
    assert one.closest() == (contact(2), contact(3))


def test_nobody_waits_for_those_in_doubt_once_enough_have_answered() -> None:
    one = lookup([contact(n) for n in range(1, 4)], Settings(k=2))
    assert one.next_requests() == [contact(1), contact(2)]
    one.timed_out(contact(1))
    assert one.next_requests() == [contact(3), contact(1)]
    one.answered(contact(2), [])
    assert not one.done
    one.answered(contact(3), [])
    assert one.done


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


def test_a_miss_is_conclusive_once_enough_of_the_nearest_have_answered() -> None:
    one = lookup([contact(n) for n in range(1, 10)], Settings(k=6))
    one.next_requests()
    for number in range(1, CONCLUSIVE_MIN + 1):
        assert one.inconclusive
        one.answered(contact(number), [])
    assert not one.inconclusive


def test_who_answers_far_away_says_nothing_of_the_silent_who_are_near() -> None:
    far = [contact(n) for n in range(100, 110)]
    one = lookup(far, Settings(k=6, alpha=6))
    one.next_requests()
    for each in far[:CONCLUSIVE_MIN]:
        one.answered(each, [contact(n) for n in range(1, 7)])
    assert one.inconclusive


def test_contacts_that_one_peer_alone_invents_hide_no_absence() -> None:
    honest = [contact(n) for n in range(100, 106)]
    for liars, is_inconclusive in ((1, False), (2, True)):
        one = lookup(honest, Settings(k=6))
        asked = one.next_requests()
        assert asked == honest
        for each in honest:
            names = [contact(n) for n in range(1, 7)] if each in honest[:liars] else []
            one.answered(each, names)
        while asked := one.next_requests():
            for each in asked:
                one.timed_out(each)
        assert one.done
        assert one.inconclusive == is_inconclusive


def test_few_have_to_answer_all_for_a_conclusion() -> None:
    assert lookup([]).inconclusive
    one = lookup([contact(1), contact(2), contact(3)])
    one.next_requests()
    one.answered(contact(1), [])
    one.timed_out(contact(2))
    one.discredit(contact(3))
    assert one.inconclusive
    one.answered(contact(2), [])
    assert not one.inconclusive


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


def listed(one: Lookup) -> list[Contact]:
    return [each.contact for each in one._order]


def test_shortlist_is_bounded_the_nearest_kept() -> None:
    one = lookup([contact(100)], Settings(k=30, shortlist_max=4))
    one.next_requests()
    one.answered(contact(100), [contact(n) for n in (9, 8, 7, 6, 5, 4, 3)])
    assert listed(one) == [contact(n) for n in (3, 4, 5, 6, 100)]
    assert one.next_requests() == [contact(n) for n in (3, 4, 5, 6)]
    # A trimmed contact may be heard of again, any number of times.
    for number in (3, 4, 5):
        one.answered(contact(number), [contact(9)])
    assert listed(one) == [contact(n) for n in (3, 4, 5, 6, 9, 100)]
    one.answered(contact(6), [contact(n) for n in (20, 21, 22, 23, 24)])
    assert listed(one) == [contact(n) for n in (3, 4, 5, 6, 9, 20, 21, 22, 100)]


def test_no_rumour_pushes_out_what_is_known_at_first_hand() -> None:
    own = [contact(n) for n in range(100, 110)]
    one = lookup(own, Settings(alpha=1, k=20, shortlist_max=4))
    one.next_requests()
    one.answered(contact(100), [contact(n) for n in range(1, 20)])
    # Beside them there is room for the nearest that were told of.
    assert listed(one) == [contact(1), contact(2), contact(3), *own]


def test_asked_contacts_are_never_trimmed() -> None:
    one = lookup([contact(50)], Settings(shortlist_max=1, k=5))
    one.next_requests()
    one.answered(contact(50), [contact(n) for n in (5, 4, 3, 2, 1)])
    assert listed(one) == [contact(1), contact(2), contact(3), contact(50)]


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


# --- first hand and rumours ---


def test_rumours_are_asked_once_and_own_contacts_twice() -> None:
    one = Lookup(
        TARGET, OWN, [contact(1), contact(2)], DEFAULTS, lambda _: False, rumours=[contact(3)]
    )
    # The path of the rumour has asked nobody after path 0 has.
    assert one.next_requests() == [contact(1), contact(3), contact(2)]
    one.answered(contact(1), [])
    one.timed_out(contact(2))
    one.timed_out(contact(3))
    assert one.next_requests() == [contact(2)]
    one.timed_out(contact(2))
    assert one.done
    assert one.closest() == (contact(1),)


def test_fewer_answers_end_a_lookup_that_needs_fewer() -> None:
    contacts = [contact(n) for n in range(1, 30)]
    one = Lookup(TARGET, OWN, contacts, DEFAULTS, lambda _: False, need=2)
    assert one.next_requests() == [contact(1), contact(2)]
    one.answered(contact(1), [])
    assert one.is_short
    one.answered(contact(2), [])
    assert one.done
    assert not one.is_short
    assert one.closest() == (contact(1), contact(2))
    # The others of the k nearest were asked nothing.
    assert one.unheard() == [contact(n) for n in range(3, 21)]


@pytest.mark.parametrize("spares", [True, False])
def test_beside_who_is_in_doubt_one_more_is_asked_where_there_are_spares(spares: bool) -> None:
    contacts = [contact(n) for n in range(1, 30)]
    once = Settings(ask_tries=1)
    one = Lookup(TARGET, OWN, contacts, once, lambda _: False, need=4, spares=spares)
    assert one.next_requests() == contacts[:4]
    one.answered(contact(1), [])
    one.timed_out(contact(2))
    assert one.next_requests() == contacts[4 : 5 + spares]
    one.timed_out(contact(5))
    assert one.next_requests() == contacts[5 + spares : 6 + 2 * spares]
    for n in (3, 4, 6):
        assert not one.done
        one.answered(contact(n), [])
    assert one.done
    assert one.closest() == (contact(1), contact(3), contact(4), contact(6))


def test_those_unheard_are_neither_silent_nor_discredited_nor_asked() -> None:
    one = lookup([contact(n) for n in range(1, 7)], Settings(k=4, alpha=3, ask_tries=1))
    assert one.next_requests() == [contact(1), contact(2), contact(3)]
    one.answered(contact(3), [contact(7)])
    one.timed_out(contact(1))
    one.discredit(contact(2))
    assert one.unheard() == [contact(4), contact(5), contact(6)]


def test_believe_corrects_and_refutes_rumours() -> None:
    corrected = {contact(2, port=66): contact(2), contact(3): None, contact(4, port=66): contact(4)}
    one = Lookup(
        TARGET,
        OWN,
        [contact(9)],
        DEFAULTS,
        lambda _: False,
        rumours=[contact(2, port=66)],
        believe=lambda rumour: corrected.get(rumour, rumour),
    )
    one.next_requests()
    # 2 is heard of again at the wrong address, 4 at the wrong one and at its own.
    heard = [contact(2, port=66), contact(3), contact(4, port=66), contact(4)]
    one.answered(contact(9), heard)
    assert listed(one) == [contact(2), contact(4), contact(9)]


def test_own_contacts_are_asked_though_any_number_of_rumours_is_nearer() -> None:
    own = [contact(n) for n in range(1_000, 1_010)]
    options = Settings(k=4, alpha=2, first_hand=3)
    rumours = [contact(n) for n in range(1, 50)]
    one = Lookup(TARGET, OWN, own, options, lambda _: False, rumours=rumours)
    asked = []
    while not one.done:
        for request in one.next_requests():
            asked.append(request)
            one.answered(request, [])
    assert {each for each in asked if each in own} == set(own[:3])
    assert one.closest() == tuple(contact(n) for n in (1, 2, 3, 4))


def asked_where_one_invents(one: Lookup, liar: Contact) -> list[Contact]:
    """Who is asked, one after the other, where `liar`, and all whom it has named, name four that
    are nearer still."""
    gang, asked, nearest = {liar}, [], 40
    while requests := one.next_requests():
        asked += requests
        for request in requests:
            told = []
            if request in gang and nearest > 4:
                nearest -= 4
                told = [contact(nearest + n) for n in range(4)]
                gang |= set(told)
            one.answered(request, told)
    assert one.done
    return asked


def test_once_a_lie_was_seen_a_liar_keeps_nobody_of_its_generation_from_being_asked() -> None:
    options = Settings(k=5, alpha=1, leads=0, heed=3, generations=2)
    honest = [contact(60), contact(70)]
    for lies in (False, True):
        one = lookup([contact(100)], options)
        one.next_requests()
        one.answered(contact(100), [contact(50), *honest, contact(80), contact(90, port=7)])
        if lies:
            assert one.discredit_others(contact(90, port=7).address, contact(91).id)
        asked = asked_where_one_invents(one, contact(50))
        assert (set(honest) <= set(asked)) == lies
        # The fourth of that generation is not among the three that are heeded.
        assert contact(80) not in asked


def test_a_contact_that_is_refuted_when_it_is_named_is_a_lie_too() -> None:
    options = Settings(k=4, alpha=1, leads=0, heed=3, generations=2)
    refuted = contact(90)
    one = Lookup(
        TARGET,
        OWN,
        [contact(100)],
        options,
        lambda _: False,
        believe=lambda named: None if named == refuted else named,
    )
    one.next_requests()
    one.answered(contact(100), [contact(50), contact(60), contact(70), refuted])
    assert {contact(60), contact(70)} <= set(asked_where_one_invents(one, contact(50)))


def test_where_a_lie_was_seen_all_paths_take_turns() -> None:
    options = Settings(k=4, alpha=1, leads=0, heed=2, first_hand=2)
    one = lookup([contact(100), contact(110)], options)
    assert one.next_requests() == [contact(100)]
    one.answered(contact(100), [contact(n) for n in (50, 51, 52, 53)])
    assert one.discredit_others(contact(53).address, OWN)
    told = {50: [1, 2, 3, 4], 110: [60, 61]}
    asked = []
    while requests := one.next_requests():
        for request in requests:
            asked.append(int.from_bytes(request.id, "big"))
            one.answered(request, [contact(n) for n in told.get(asked[-1], [])])
    # The second of our own is farther than all whom the first has named, and its turn comes.
    assert asked[:3] == [50, 1, 110]
    assert {60, 61} <= set(asked)


def test_more_contacts_come_to_a_lookup_whose_own_are_silent() -> None:
    one = lookup([contact(1)], Settings(lone_tries=1))
    one.next_requests()
    one.timed_out(contact(1))
    assert one.done
    assert one.is_short
    assert not one.know([contact(1), Contact(OWN, ("192.0.2.1", 1))])
    assert one.know([contact(1), contact(2)])
    assert not one.done
    assert one.next_requests() == [contact(2)]


def test_rumours_about_an_address_do_not_use_up_the_questions_of_our_contact_there() -> None:
    one = lookup([contact(50), contact(60)], Settings(alpha=1, rumours_max=2))
    one.next_requests()
    at_sixty = [contact(n, port=1_060) for n in (1, 2, 3)]
    one.answered(contact(50), at_sixty)
    asked = []
    while requests := one.next_requests():
        for request in requests:
            asked.append(request)
            one.answered(request, at_sixty)
    assert asked == [contact(1, port=1_060), contact(2, port=1_060), contact(60)]


def test_rumours_about_an_id_do_not_hide_where_our_contact_is() -> None:
    rumours = [contact(5, port=1), contact(5, port=2)]
    one = Lookup(TARGET, OWN, [], DEFAULTS, lambda _: False, rumours=rumours)
    assert one.know([contact(5)])
    assert contact(5) in one.next_requests()


# --- chance and malice ---


@dataclass
class Course:
    """A lookup on its way, with what must hold after every step."""

    one: Lookup
    options: Settings
    need: int
    own: Sequence[Contact]
    rumours: int
    flying: list[Contact] = field(default_factory=list)
    tardy: list[Contact] = field(default_factory=list)
    asked: Counter[Contact] = field(default_factory=Counter)
    ids_at: dict[Address, set[NodeId]] = field(default_factory=dict)
    places_of: dict[NodeId, set[Address]] = field(default_factory=dict)
    timeouts: int = 0
    leads: int = 0

    def ask(self) -> list[Contact]:
        before = len(self.flying)
        requests = self.one.next_requests()
        for request in requests:
            assert request.id != OWN
            assert request not in self.flying
            self.flying.append(request)
            self.asked[request] += 1
            assert self.asked[request] <= self.options.lone_tries
            if request not in self.own:
                self.ids_at.setdefault(request.address, set()).add(request.id)
                self.places_of.setdefault(request.id, set()).add(request.address)
                assert len(self.ids_at[request.address]) <= self.options.rumours_max
                assert len(self.places_of[request.id]) <= self.options.rumours_max
        assert self.asked.total() <= self.options.asks_max
        narrow, wide = min(self.options.alpha, self.need), self.need
        slots = (wide if self.one._is_wide else narrow) + 2 * self.timeouts
        assert len(self.flying) <= max(slots, before + self.leads)
        self.leads = 0
        return requests

    def answer(self, contact: Contact, told: Sequence[Contact], *, found: bool = False) -> None:
        self.one.answered(contact, told, found=found)
        self.leads += self.options.leads
        if contact in self.flying:
            self.flying.remove(contact)

    def time_out(self, contact: Contact) -> None:
        self.flying.remove(contact)
        self.timeouts += 1
        self.one.timed_out(contact)

    def check(self) -> None:
        one, order = self.one, self.one._order
        assert len(self.flying) == one._in_flight
        # Memory: those asked, those to begin with, the nearest of each circle, and a shortlist.
        begun = len(self.own) + self.rumours + sum(one._widths)
        assert len(order) <= self.options.shortlist_max + self.asked.total() + begun
        assert len(order) == sum(len(alike) for alike in one._of_id.values())
        assert len(order) == sum(len(there) for there in one._at.values())
        assert [each.distance for each in order] == one._distances == sorted(one._distances)
        for circle, count in enumerate(one._heard_of):
            assert sum(each.circles >> circle & 1 for each in order) == count
        # What was surveyed before is what a fresh look finds, and nobody waits for nothing.
        waiting, done = one._survey()
        one._surveyed = None
        assert (waiting, done) == one._survey()
        assert one.done or self.flying or waiting

    def run(self, step: Callable[[Course], None]) -> None:
        while not self.one.done:
            self.ask()
            if self.asked.total() < 50:
                self.check()
            if self.flying:
                step(self)
        self.check()
        assert self.one.next_requests() == []


def peers(rng: random.Random, count: int, network: int = 1) -> list[Contact]:
    return [
        Contact(NodeId(rng.randbytes(20)), (f"10.{network}.{n >> 8}.{n & 255}", 4_000))
        for n in range(count)
    ]


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 80),
    dead=st.floats(0, 0.6),
    late=st.floats(0, 0.3),
    need=st.sampled_from([None, 1, 5]),
    spares=st.booleans(),
)
def test_every_lookup_ends_and_finds_the_nearest_living(
    seed: int, count: int, dead: float, late: float, need: int | None, spares: bool
) -> None:
    """Everybody knows everybody; some are dead, some answer late, always in random order."""
    rng = random.Random(seed)
    everyone = peers(rng, count)
    living = {one: rng.random() >= dead for one in everyone}
    # The dead are forgotten by those that they were known to, all or half of them.
    forgotten = rng.random() < 0.5
    remembered = [one for one in everyone if living[one] or not forgotten]
    target = rng.randbytes(20)
    options = Settings(k=8)

    def nearest(contacts: Sequence[Contact]) -> list[Contact]:
        return sorted(contacts, key=lambda one: distance(one.id, target))[: options.k]

    own = rng.sample(everyone, min(3, count))
    rumours = rng.sample(everyone, min(2, count))
    one = Lookup(
        target, OWN, own, options, lambda _: False, need=need, rumours=rumours, spares=spares
    )

    def step(course: Course) -> None:
        request = rng.choice(course.flying)
        if living[request] and rng.random() >= late:
            course.answer(request, nearest(remembered))
        else:
            course.time_out(request)
            if living[request]:
                course.tardy.append(request)
        if course.tardy and rng.random() < 0.5:
            course.answer(course.tardy.pop(), nearest(remembered))

    Course(one, options, need or options.k, own, len(rumours)).run(step)
    assert all(living[each] for each in one.closest())
    if not late and any(living[each] for each in (*own, *rumours)):
        expected = nearest([each for each in everyone if living[each]])
        if forgotten or all(living.values()):
            enough = options.k if need is None else need
            assert list(one.closest())[:enough] == expected[:enough]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), share=st.floats(0.1, 0.9), silence=st.floats(0, 0.3))
def test_colluders_who_invent_ever_nearer_contacts_keep_nobody_from_own_contacts(
    seed: int, share: float, silence: float
) -> None:
    """Each liar tells of k others nearer than any before, all at addresses of liars."""
    rng = random.Random(seed)
    honest, liars = peers(rng, 60), peers(rng, 60, network=2)
    at_liars = [one.address for one in liars]
    of_honest = set(honest)
    target = rng.randbytes(20)
    options = Settings()
    nearness = 1 << 140

    def known(key: Callable[[Contact], int]) -> list[Contact]:
        some = [*rng.sample(honest, 30), *rng.sample(liars, 15)]
        return sorted(some, key=key)[: options.k]

    def far(one: Contact) -> int:
        return distance(one.id, target)

    def invented() -> list[Contact]:
        nonlocal nearness
        nearness -= nearness >> 3
        base = int.from_bytes(target, "big")
        return [
            Contact(NodeId((base ^ nearness + n).to_bytes(20, "big")), rng.choice(at_liars))
            for n in range(64)
        ]

    own = sorted(
        [*rng.sample(honest, round(40 * (1 - share))), *rng.sample(liars, round(40 * share))],
        key=far,
    )
    one = Lookup(target, OWN, own, options, lambda _: False, rumours=invented()[:20])
    honestly: set[Contact] = set()

    def step(course: Course) -> None:
        request = rng.choice(course.flying)
        if rng.random() < silence:
            course.time_out(request)
        elif request in of_honest:
            honestly.add(request)
            course.answer(request, known(far))
        else:
            course.answer(request, invented())

    course = Course(one, options, options.k, own, 20)
    course.run(step)
    nearest_own = own[: options.first_hand]
    assert set(nearest_own) <= set(course.asked)
    if not silence:
        assert {each for each in nearest_own if each in of_honest} <= honestly


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    options=st.builds(
        Settings,
        k=st.integers(1, 4),
        alpha=st.integers(1, 3),
        asks_max=st.integers(1, 40),
        shortlist_max=st.integers(1, 6),
        paths=st.integers(1, 3),
        generations=st.integers(1, 3),
        heed=st.integers(0, 2),
        first_hand=st.integers(0, 3),
        rumours_max=st.integers(1, 2),
        lone_tries=st.integers(2, 4),
    ),
    need=st.integers(1, 4),
)
def test_whatever_comes_in_whatever_order_a_lookup_stays_whole(
    seed: int, options: Settings, need: int
) -> None:
    """Few ids at few addresses, so that rumours collide; anything may happen at any time."""
    rng = random.Random(seed)

    def some(most: int) -> list[Contact]:
        return [
            contact(rng.randint(1, 12), rng.randint(1, 12)) for _ in range(rng.randint(0, most))
        ]

    suspects, refuted, rumours = some(3), some(3), some(4)
    own = list({each.address: each for each in some(6) if each not in refuted}.values())
    one = Lookup(
        TARGET,
        OWN,
        own,
        options,
        lambda each: each in suspects,
        need=need,
        rumours=rumours,
        believe=lambda each: None if each in refuted else each,
    )

    def step(course: Course) -> None:
        request = rng.choice(course.flying)
        told = some(6)
        match rng.randrange(6):
            case 0:
                course.answer(request, told, found=rng.random() < 0.5)
            case 1:
                course.answer(rng.choice(list(course.asked)), told)
            case 2:
                course.time_out(request)
            case 3:
                one.discredit(request)
                course.flying.remove(request)
            case 4:
                known = rng.choice([request, *told]).id
                one.discredit_others(request.address, known)
                course.flying = [
                    each
                    for each in course.flying
                    if each.address != request.address or each.id == known
                ]
            case _:
                taken = {each.address for each in own}
                news = [each for each in told[:1] if each.address not in taken]
                own.extend(news)
                one.know(news)

    Course(one, options, need, own, len(rumours)).run(step)
    assert len({each.id for each in one.closest()}) == len(one.closest())
    assert len(one.closest()) <= (need or options.k)
    assert not set(one.closest()) & set(refuted)
    assert len(one.unheard()) <= options.k
