"""A peer that begins with the contacts of an earlier run."""

from __future__ import annotations

import random

from test_dht_network import Network, Shelf, network, publish
from test_dht_peer import KEY, OWN, STRANGER, Bench, contact, questions, sends

from p2pweb.dht import wire
from p2pweb.dht.contact import Address, Contact, NodeId
from p2pweb.dht.events import (
    Action,
    ContactDown,
    ContactReturned,
    ContactUp,
    Event,
    LookupDone,
    Send,
    Why,
    Yielded,
)
from p2pweb.dht.peer import Peer
from p2pweb.dht.settings import DEFAULTS, Settings
from p2pweb.dht.table import Table

RTT = 0.01


def restarted(*known: Contact) -> Bench:
    """A peer that knew some others before."""
    return Bench(known=known)


def table(*known: Contact, settings: Settings = DEFAULTS) -> Table:
    made = Table(OWN, settings, 0.0)
    made.restore(known, 0.0)
    return made


def held(known: Table) -> list[Contact]:
    return [entry.contact for entry in known]


# --- the table ---


def test_contacts_of_an_earlier_run_are_there_at_once_and_as_yet_unproved() -> None:
    known = table(contact(8), contact(9))
    assert known.nearest(KEY, 9) == [contact(8), contact(9)]
    assert not known.suspect(contact(8))
    assert not known.knows(contact(8))
    assert not known.has_proved(contact(8).id)
    assert not known.has_proved(contact(7).id)
    assert known.proved(contact(8), RTT, 1.0) == [ContactUp(contact(8))]
    assert known.knows(contact(8))
    assert known.has_proved(contact(8).id)
    assert known.proved(contact(8), RTT, 2.0) == []
    assert known.due(1e9) == [contact(9)]


def test_what_cannot_be_is_not_restored() -> None:
    one = contact(8)
    same_id = Contact(one.id, ("192.0.2.1", 5))
    same_address = Contact(contact(9).id, one.address)
    assert held(table(one, one, same_id, same_address, Contact(OWN, ("192.0.2.1", 6)))) == [one]


def test_buckets_and_ranges_hold_no_more_restored_contacts_than_others() -> None:
    few = Settings(k=2, small_network=2)
    assert held(table(*(contact(16 + number) for number in range(5)), settings=few)) == [
        contact(16),
        contact(17),
    ]
    rented = [Contact(contact(16 + number).id, ("9.9.9.9", 1 + number)) for number in range(5)]
    assert held(table(*rented, settings=Settings(range_limit=4))) == rented[:2]


def test_the_silent_are_struck_out_when_others_are_after_two_questions_and_were_never_seen() -> (
    None
):
    known = table(contact(8))
    assert known.due(0.0) == [contact(8)]
    assert known.missed(contact(8), 0.0, 0.5) == []
    now = 0.5 + sum(DEFAULTS.strike_pauses_s)
    assert known.missed(contact(8), now - 0.1, now - 0.1) == []
    assert known.due(now - 0.1) == []
    assert known.due(now) == [contact(8)]
    assert known.missed(contact(8), now, now) == [ContactDown(contact(8), Why.UNSEEN)]
    assert known.proved(contact(8), RTT, now + 5.0) == [ContactReturned(contact(8), 5.0)]


def test_who_answered_in_this_run_has_all_its_strikes() -> None:
    known = table(contact(8))
    known.missed(contact(8), 0.0, 0.5)
    known.proved(contact(8), RTT, 1.0)
    now = 1.0
    for pause in DEFAULTS.strike_pauses_s:
        assert known.missed(contact(8), now, now) == []
        now += pause
    assert known.missed(contact(8), now, now) == [ContactDown(contact(8), Why.SILENT)]


def test_an_answer_without_an_id_clears_doubt_and_proves_nothing() -> None:
    known = table(contact(8))
    known.missed(contact(8), 0.0, 0.0)
    known.answered(contact(8), RTT, 0.5)
    assert not known.suspect(contact(8))
    assert not known.knows(contact(8))
    assert known.due(1e9) == [contact(8)]


def test_a_remembered_address_that_has_another_id_now() -> None:
    known = table(contact(8))
    other = contact(50, port=1_008)
    assert known.proved(other, RTT, 1.0) == [
        ContactDown(contact(8), Why.REPLACED),
        ContactUp(other),
    ]


def test_a_remembered_id_that_moved_while_nobody_looked_is_up_at_its_new_address() -> None:
    known = table(contact(8))
    moved = contact(8, port=9)
    assert known.proved(moved, RTT, 1.0) == []
    # The address that is remembered has the first word.
    assert known.due(1.0) == [contact(8)]
    assert known.missed(contact(8), 1.0, 1.5) == []
    assert known.missed(contact(8), 2.5, 3.0) == [ContactUp(moved)]
    assert known.knows(moved)


def test_who_moved_is_followed_soon_also_where_its_old_address_missed_a_question_before() -> None:
    known = table(contact(8))
    moved = contact(8, port=9)
    assert known.missed(contact(8), 0.0, 0.5) == []
    assert known.due(1.0) == []
    assert known.proved(moved, RTT, 1.0) == []
    assert known.due(1.0) == [contact(8)]
    assert known.missed(contact(8), 1.0, 1.5) == [ContactUp(moved)]


def test_the_best_are_the_nearest_then_some_of_every_part_and_the_doubtful_last() -> None:
    known = Table(OWN, Settings(k=2), 0.0)
    far = [contact((1 << 159) + number) for number in range(4)]
    near = [contact(4), contact(5), contact(6)]
    for one in (*far, *near):
        known.proved(one, RTT, 0.0)
    known.restore([contact(1)], 0.0)
    known.answered(far[1], RTT, 1.0)
    known.missed(far[3], 2.0, 2.0)
    best = known.best(99)
    # Each time the last heard of a bucket, and that which is nearer first.
    assert best == [
        *(contact(4), contact(5)),
        *(contact(6), far[1], far[2], far[0]),
        *(contact(1), far[3]),
    ]
    assert known.best(3) == best[:3]


# --- the peer ---


def test_the_first_lookup_goes_straight_to_the_nearest_that_are_remembered() -> None:
    known = [contact(number) for number in range(1, 41)]
    bench = restarted(*known)
    actions = bench.peer.find_value(1, KEY, bench.now)
    assert questions(actions) == [
        (wire.FindValue(OWN, KEY), one.address) for one in known[: DEFAULTS.alpha]
    ]
    bench.now += RTT
    answered = bench.reply(sends(actions)[2], {"value": b"value"})
    (found,) = [one for one in answered if isinstance(one, Yielded)]
    assert found.found.contact == known[2]


def test_whoever_answers_is_asked_who_it_is_and_only_then_it_is_up() -> None:
    bench = restarted(contact(8))
    (asked,) = bench.peer.find_node(1, KEY, bench.now)
    bench.now += RTT
    ping, done = bench.reply(asked, [])
    assert questions([ping]) == [(wire.Ping(OWN), contact(8).address)]
    assert done == LookupDone(1, (contact(8),))
    bench.now += RTT
    assert bench.reply(ping, contact(8).id) == [ContactUp(contact(8))]
    # It needs no other proof soon.
    assert bench.pass_time(bench.now + DEFAULTS.fresh_for_s - 1.0) == []


def test_the_most_useful_are_asked_soon_the_others_by_and_by() -> None:
    known = [contact(number) for number in range(1, 51)]
    bench = restarted(*known)
    asked: dict[Address, float] = {}
    started = bench.now
    for _ in range(4_400):
        actions = bench.pass_time(bench.now + 0.1)
        pings = [address for question, address in questions(actions) if question == wire.Ping(OWN)]
        # Two in a tenth of a second, and perhaps a probe of the stalest.
        assert len(pings) <= 4
        asked = dict.fromkeys(pings, bench.now - started) | asked
        for sent in sends(actions):
            one = next(each for each in known if each.address == sent.address)
            bench.reply(sent, one.id)
    assert {one.address for one in known} == set(asked)
    assert all(asked[one.address] < 2.0 for one in known[: DEFAULTS.join_need])
    spread = sum(when > 10.0 for when in asked.values())
    assert spread >= 35
    assert bench.peer.table.best(200)[0] == contact(1)
    assert all(bench.peer.table.knows(one) for one in known)


def test_the_dead_are_gone_half_a_minute_after_their_turn_and_nobody_was_up() -> None:
    known = [contact(number) for number in range(1, 41)]
    bench = restarted(*known)
    actions = bench.pass_time(bench.now + 30.0)
    gone = {action.contact for action in actions if isinstance(action, Event)}
    assert gone == set(known[: DEFAULTS.join_need + 1])
    actions += bench.pass_time(bench.now + 40 * DEFAULTS.restore_others_pause_s)
    events = [action for action in actions if isinstance(action, Event)]
    assert len(bench.peer.table) == 0
    assert set(events) == {ContactDown(one, Why.UNSEEN) for one in known}
    assert len(events) == len(known)


def test_a_question_to_whoever_is_remembered_is_no_longer_than_it_must_be() -> None:
    bench = restarted(contact(8))
    (asked,) = sends(bench.peer.find_value(1, KEY, bench.now))
    assert len(asked.data) < wire.PADDED_BYTES


def test_nobody_is_passed_on_to_others_before_it_answered() -> None:
    bench = restarted(contact(8), contact(10))
    question = wire.FindNode(STRANGER.id, KEY)
    bench.know(contact(8), STRANGER)
    (answer,) = bench.asked(question, STRANGER.address)
    assert answer == sends(bench.asked(question, STRANGER.address))[0]
    data = sends([answer])[0].data
    assert wire.decode_answer(question, data[21:]) == wire.Nodes((contact(8),))


def conversation(bench: Bench, actions: list[Action]) -> list[tuple[wire.Question, Address]]:
    """What a peer asks until it has nothing more to ask, where everybody answers and nobody names
    anybody."""
    asked: list[tuple[wire.Question, Address]] = []
    while actions:
        action = actions.pop(0)
        if isinstance(action, Yielded):
            actions += bench.peer.resume(action.token, bench.now)
        if isinstance(action, Send):
            ((question, address),) = questions([action])
            asked.append((question, address))
            known = bench.peer.table.at(address)
            assert known is not None
            bodies = {wire.Ping: known.contact.id, wire.FindValue: {"value": b"value"}}
            bench.now += RTT
            actions += bench.reply(action, bodies.get(type(question), []))
    return asked


def test_who_comes_back_asks_few_of_its_neighbours_and_greets_the_others() -> None:
    for again, need in ((True, DEFAULTS.return_need), (False, DEFAULTS.join_need)):
        bench = restarted(*(contact(number) for number in range(1, 41)))
        asked = conversation(bench, bench.peer.join(1, bench.now, again=again))
        assert sum(question == wire.FindNode(OWN, OWN) for question, _ in asked) == need
        greeted = {address for question, address in asked if question == wire.Ping(OWN)}
        assert len(greeted) == DEFAULTS.k


def test_who_remembers_contacts_everywhere_asks_for_others_later() -> None:
    for known, asks in (([contact(8)], False), ([], True)):
        bench = restarted(*known)
        bench.know(contact(8))
        asked = []
        until = 100.0 + DEFAULTS.gap_every_s
        while bench.now < until:
            actions = bench.pass_time(min(until, bench.now + 1.0))
            asked += [question for question, _ in questions(actions)]
            for sent in sends(actions):
                bench.reply(sent, contact(8).id)
        assert any(isinstance(question, wire.FindNode) for question in asked) == asks


def test_who_comes_back_takes_its_time() -> None:
    for again, count in ((True, DEFAULTS.upkeep_alpha), (False, DEFAULTS.join_need)):
        bench = restarted(*(contact(number) for number in range(1, 41)))
        asked = questions(bench.peer.join(1, bench.now, again=again))
        finds = [question for question, _ in asked if question == wire.FindNode(OWN, OWN)]
        assert len(finds) == count


def test_no_more_are_asked_for_values_than_it_takes_where_some_are_silent() -> None:
    bench = restarted(*(contact(number) for number in range(1, 41)))
    actions = bench.peer.find_value(1, KEY, bench.now, 4)
    actions += bench.pass_time(bench.now + 0.6)
    finds = [each for each in questions(actions) if each[0] == wire.FindValue(OWN, KEY)]
    # In the place of each that is silent, one other.
    assert {address for _, address in finds} == {contact(number).address for number in range(1, 9)}


def test_values_are_asked_of_as_many_as_are_needed() -> None:
    for need, count in ((10, 10), (None, DEFAULTS.k)):
        bench = restarted(*(contact(number) for number in range(1, 41)))
        asked = conversation(bench, bench.peer.find_value(1, KEY, bench.now, need))
        sought = [address for question, address in asked if question == wire.FindValue(OWN, KEY)]
        assert sought == [contact(number).address for number in range(1, count + 1)]


# --- a network ---

# The longest way there and back in `Network`.
ROUND_TRIP_S = 0.12


def restart(net: Network, index: int) -> None:
    """Kill a peer and start it again with nothing but what it would have on its disk."""
    before = net.peers[index]
    known = before.table.best(200)
    rng = random.Random(f"again {index}")
    net.shelves[index] = Shelf()
    net.peers[index] = Peer(
        NodeId(before.own),
        net.shelves[index],
        rng=rng,
        entropy=rng.randbytes,
        settings=net.settings,
        now=net.now,
        known=known,
    )
    net.revive(index)


def test_the_first_hit_after_a_restart_takes_one_round_trip_without_the_bootstrap_peers() -> None:
    net = network(30, seed=5)
    rng = random.Random(5)
    # All joined by the first; three more are as dead as that one.
    for index in (0, 7, 13, 21):
        net.dead.add(index)
    for asker in (2, 9, 17, 28):
        key = publish(net, rng, 8)
        restart(net, asker)
        found, whole = net.values(asker, key)
        assert found[0][0] <= ROUND_TRIP_S + 0.05
        assert whole < 2.0
    net.run(net.now + 30 * DEFAULTS.restore_others_pause_s)
    for asker in (2, 9, 17, 28):
        others = {net.peers[index].own for index in range(30) if index != asker} - {
            net.peers[index].own for index in net.dead
        }
        assert {entry.contact.id for entry in net.peers[asker].table} == others
        assert all(entry.proved for entry in net.peers[asker].table)


def test_a_network_that_was_off_as_a_whole_finds_itself_again() -> None:
    net = network(12, seed=6)
    for index in range(12):
        restart(net, index)
    net.run(net.now + 30.0)
    for peer in net.peers:
        assert len(peer.table) == 11
        assert all(entry.proved for entry in peer.table)
