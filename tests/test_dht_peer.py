"""One pure peer, driven by hand: what it sends, when, and what it makes of what comes."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import pairwise

import pytest
import umsgpack

from p2pweb.dht import wire
from p2pweb.dht.contact import Address, Contact, NodeId
from p2pweb.dht.events import (
    Action,
    ContactDown,
    ContactMoved,
    ContactReturned,
    ContactUp,
    Found,
    LookupDone,
    NodesDone,
    Ponged,
    Send,
    StoreDone,
    ValueDone,
    Why,
    Yielded,
)
from p2pweb.dht.peer import Peer
from p2pweb.dht.serving import Held
from p2pweb.dht.settings import DEFAULTS, Settings

OWN = NodeId(bytes(20))
KEY = bytes(20)
MESSAGE = b"m" * 20
RTT = 0.01


def contact(number: int, port: int | None = None) -> Contact:
    """The smaller the number, the nearer to OWN and to KEY."""
    return Contact(NodeId(number.to_bytes(20, "big")), ("192.0.2.1", port or 1_000 + number))


class Records:
    def __init__(self) -> None:
        self.held: dict[bytes, Held] = {}

    def find(self, key: bytes) -> Held | None:
        return self.held.get(key)

    def store(self, key: bytes, value: bytes, sender: Address) -> bool | Mapping[str, wire.Plain]:
        return True


class Bench:
    """A peer, its clock, and whatever it decided last."""

    def __init__(self, settings: Settings = DEFAULTS, known: Sequence[Contact] = ()) -> None:
        rng = random.Random(7)
        self.now = 100.0
        self.records = Records()
        self.peer = Peer(
            OWN,
            self.records,
            rng=rng,
            entropy=rng.randbytes,
            settings=settings,
            now=self.now,
            known=known,
        )

    def receive(self, data: bytes, address: Address) -> list[Action]:
        return self.peer.receive(data, address, self.now)

    def asked(self, question: wire.Question, address: Address) -> list[Action]:
        return self.receive(wire.encode_question(MESSAGE, question), address)

    def reply(self, sent: Action, body: object, *, source: Address | None = None) -> list[Action]:
        """Answer a datagram that the peer sent."""
        assert isinstance(sent, Send)
        data = b"\x01" + sent.data[1:21] + umsgpack.packb(body)
        return self.receive(data, source or sent.address)

    def know(self, *contacts: Contact) -> None:
        """Have the peer learn of contacts, each proved by its pong."""
        for number, one in enumerate(contacts):
            (ping,) = self.peer.ping(-1 - number, one.address, self.now)
            self.now += RTT
            assert ContactUp(one) in self.reply(ping, one.id)

    def know_again(self, one: Contact) -> None:
        """Have a contact return that was struck out."""
        (ping,) = self.peer.ping(-1, one.address, self.now)
        assert isinstance(self.reply(ping, one.id)[0], ContactReturned)

    def pass_time(self, until: float) -> list[Action]:
        """Let every timer fire; what was decided meanwhile."""
        actions: list[Action] = []
        while (when := self.peer.next_timer()) <= until:
            self.now = max(self.now, when)
            actions += self.peer.handle_timer(self.now)
        self.now = until
        return actions


def questions(actions: list[Action]) -> list[tuple[wire.Question, Address]]:
    """The questions among the actions, and whom they go to."""
    found: list[tuple[wire.Question, Address]] = []
    for action in actions:
        if isinstance(action, Send) and action.data[:1] == wire.QUESTION_TYPE:
            asked = wire.decode(action.data)
            assert isinstance(asked, wire.Asked)
            found.append((asked.question, action.address))
    return found


def sends(actions: list[Action]) -> list[Send]:
    return [action for action in actions if isinstance(action, Send)]


def ask_and_ping(actions: list[Action]) -> tuple[Send, Send]:
    """A question of a lookup and the ping beside it, to one address."""
    ask, ping = sends(actions)
    assert questions([ping]) == [(wire.Ping(OWN), ask.address)]
    return ask, ping


# --- pings and stores of a caller ---


def test_ping_ends_in_the_id_and_the_round_trip() -> None:
    bench = Bench()
    (sent,) = bench.peer.ping(1, contact(9).address, bench.now)
    bench.now += 0.25
    assert bench.reply(sent, contact(9).id) == [
        ContactUp(contact(9)),
        Ponged(1, contact(9).id, pytest.approx(0.25)),
    ]
    # The same answer once more belongs to no question.
    assert bench.reply(sent, contact(9).id) == []


def test_ping_is_sent_three_times_each_more_patient_then_it_is_silence() -> None:
    bench = Bench()
    first = bench.peer.ping(1, contact(9).address, bench.now)
    started, times = bench.now, []
    for _ in range(2):
        bench.now = bench.peer.next_timer()
        (again,) = sends(bench.peer.handle_timer(bench.now))
        assert again.address == contact(9).address
        assert again != first[0]
        times.append(bench.now - started)
    assert times == pytest.approx([0.5, 1.5])
    bench.now = started + 3.5
    assert bench.peer.handle_timer(bench.now)[-1] == Ponged(1, None, None)
    # Late answers are still the table's business, though nobody awaits them.
    assert bench.reply(first[0], contact(9).id) == [ContactUp(contact(9))]


def test_ping_of_one_try_is_silence_after_that() -> None:
    bench = Bench()
    assert len(questions(bench.peer.ping(1, contact(9).address, bench.now, 1))) == 1
    actions = bench.pass_time(bench.now + 0.6)
    assert actions[-1] == Ponged(1, None, None)
    assert questions(actions) == []


def test_late_answer_ends_the_call_and_its_second_try_ends_in_silence() -> None:
    bench = Bench()
    (first,) = bench.peer.ping(1, contact(9).address, bench.now)
    assert len(questions(bench.pass_time(bench.now + 0.6))) >= 1
    assert bench.reply(first, contact(9).id)[-1] == Ponged(1, contact(9).id, pytest.approx(0.6))
    later = bench.pass_time(bench.now + 3.0)
    assert not [action for action in later if isinstance(action, Ponged)]
    assert not bench.peer.table.suspect(contact(9))


def test_answer_from_another_address_or_to_no_question_is_ignored() -> None:
    bench = Bench()
    (sent,) = bench.peer.ping(1, contact(9).address, bench.now)
    assert bench.reply(sent, contact(9).id, source=("192.0.2.66", 6)) == []
    assert bench.receive(b"\x01" + MESSAGE + b"\xc3", contact(9).address) == []
    assert len(bench.peer.table) == 0


def test_pong_of_our_own_id_teaches_nothing() -> None:
    bench = Bench()
    (sent,) = bench.peer.ping(1, contact(9).address, bench.now)
    assert bench.reply(sent, OWN) == [Ponged(1, OWN, 0.0)]
    assert len(bench.peer.table) == 0


@pytest.mark.parametrize(
    ("body", "answer"), [(True, True), (False, False), ({"stale": 3}, {"stale": 3}), (7, None)]
)
def test_store_ends_in_what_the_contact_says(body: object, answer: wire.StoreAnswer | None) -> None:
    bench = Bench()
    bench.know(contact(9))
    (sent,) = bench.peer.store(1, contact(9), KEY, b"value", bench.now)
    assert questions([sent]) == [(wire.Store(OWN, KEY, b"value"), contact(9).address)]
    assert bench.reply(sent, body) == [StoreDone(1, answer)]


def test_store_to_the_silent_ends_in_none_after_two_tries() -> None:
    bench = Bench(Settings(probe_every_s=1_000.0))
    actions = bench.peer.store(1, contact(9), KEY, b"value", bench.now)
    actions += bench.pass_time(bench.now + 1.5)
    assert questions(actions) == [(wire.Store(OWN, KEY, b"value"), contact(9).address)] * 2
    assert actions[-1] == StoreDone(1, None)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ({"value": b"value", "has": True}, Found(contact(9), b"value", {"has": True})),
        # It has none, or makes no sense.
        ([(bytes(20), "192.0.2.1", 5)], None),
        (7, None),
    ],
)
def test_a_question_for_a_value_to_one_contact_ends_in_what_it_has(
    body: object, value: Found | None
) -> None:
    bench = Bench()
    bench.know(contact(9))
    (sent,) = bench.peer.value_of(1, contact(9), KEY, bench.now)
    assert questions([sent]) == [(wire.FindValue(OWN, KEY), contact(9).address)]
    assert bench.reply(sent, body) == [ValueDone(1, value)]


def test_the_silent_are_asked_once_for_a_value() -> None:
    bench = Bench(Settings(probe_every_s=1_000.0))
    actions = bench.peer.value_of(1, contact(9), KEY, bench.now)
    actions += bench.pass_time(bench.now + 1.5)
    assert questions(actions) == [(wire.FindValue(OWN, KEY), contact(9).address)]
    assert actions[-1] == ValueDone(1, None)


def test_whoever_is_at_an_address_is_asked_once_for_those_near_and_they_are_heard_of() -> None:
    bench = Bench()
    near = [contact(number) for number in range(1, 4)]
    (sent,) = bench.peer.contacts_at(1, contact(9).address, bench.now)
    assert questions([sent]) == [(wire.FindNode(OWN, OWN), contact(9).address)]
    # Long enough that the answer need not wait for the proof of an address.
    assert isinstance(sent, Send)
    assert len(sent.data) > wire.ANSWER_BYTES_MAX // DEFAULTS.amplification_max - wire.PING_BYTES
    body = [[one.id, *one.address] for one in near]
    assert bench.reply(sent, body) == [NodesDone(1, 3)]
    assert bench.peer.heard_of(OWN, 9, bench.now) == near


def test_the_silent_and_those_who_answer_garbage_name_nobody() -> None:
    bench = Bench(Settings(probe_every_s=1_000.0))
    (sent,) = bench.peer.contacts_at(1, contact(9).address, bench.now)
    assert bench.reply(sent, 7) == [NodesDone(1, None)]
    actions = bench.peer.contacts_at(2, contact(8).address, bench.now)
    actions += bench.pass_time(bench.now + 1.5)
    assert questions(actions) == [(wire.FindNode(OWN, OWN), contact(8).address)]
    assert actions[-1] == NodesDone(2, None)
    assert bench.peer.heard_of(OWN, 9, bench.now) == []


def test_calls_beyond_the_pool_end_at_once() -> None:
    bench = Bench(Settings(queries_max=1))
    assert len(bench.peer.ping(1, contact(9).address, bench.now)) == 1
    assert bench.peer.ping(2, contact(8).address, bench.now) == [Ponged(2, None, None)]
    assert bench.peer.store(3, contact(8), KEY, b"", bench.now) == [StoreDone(3, None)]


def test_no_action_names_a_cancelled_call() -> None:
    bench = Bench()
    (answered,) = bench.peer.ping(1, contact(9).address, bench.now)
    bench.peer.ping(2, contact(8).address, bench.now)
    assert bench.peer.cancel(1, bench.now) == []
    assert bench.peer.cancel(2, bench.now) == []
    assert bench.peer.cancel(2, bench.now) == []
    assert bench.reply(answered, contact(9).id) == [ContactUp(contact(9))]
    later = bench.pass_time(bench.now + 4.0)
    assert not [action for action in later if isinstance(action, Ponged)]


# --- lookups ---


def test_lookup_with_nobody_to_ask_ends_at_once() -> None:
    bench = Bench()
    assert bench.peer.find_node(1, KEY, bench.now) == [LookupDone(1, ())]
    assert bench.peer.find_value(2, KEY, bench.now) == [LookupDone(2, (), inconclusive=True)]


def test_lookup_follows_what_it_hears_to_the_nearest() -> None:
    bench = Bench()
    bench.know(contact(50))
    (sent,) = bench.peer.find_node(1, KEY, bench.now)
    assert questions([sent]) == [(wire.FindNode(OWN, KEY), contact(50).address)]
    near = contact(9)
    # Who was only named is asked who it is at the same time, and counts once it has said so.
    ask, ping = ask_and_ping(bench.reply(sent, [[near.id, *near.address]]))
    assert ask.address == near.address
    assert bench.reply(ask, []) == []
    assert bench.reply(ping, near.id) == [ContactUp(near), LookupDone(1, (near, contact(50)))]


def test_whose_pong_comes_first_counts_with_the_answer() -> None:
    bench = Bench()
    bench.know(contact(50))
    (sent,) = bench.peer.find_node(1, KEY, bench.now)
    ask, ping = ask_and_ping(bench.reply(sent, [[contact(9).id, *contact(9).address]]))
    assert bench.reply(ping, contact(9).id) == [ContactUp(contact(9))]
    assert bench.reply(ask, []) == [LookupDone(1, (contact(9), contact(50)))]
    # It is known now, as is whoever said who it is without a place in the table.
    actions = bench.peer.find_node(2, KEY, bench.now)
    assert {type(question) for question, _ in questions(actions)} == {wire.FindNode}


def test_who_says_it_has_another_id_than_was_said_does_not_count_nor_is_met() -> None:
    bench = Bench()
    bench.know(contact(50))
    (sent,) = bench.peer.find_node(1, KEY, bench.now)
    rows = [[contact(9).id, *contact(9).address]]
    ask, ping = ask_and_ping(bench.reply(sent, rows))
    assert bench.reply(ask, [[contact(3).id, *contact(9).address]]) == []
    assert bench.reply(ping, contact(60).id) == [LookupDone(1, (contact(50),))]
    assert bench.peer.table.at(contact(9).address) is None
    # Nor is it believed the next time, before its address has long been silent.
    (sent,) = bench.peer.find_node(2, KEY, bench.now)
    assert bench.reply(sent, rows) == [LookupDone(2, (contact(50),))]
    bench.pass_time(bench.now + DEFAULTS.identified_for_s + 1.0)
    bench.know(contact(40))
    sent, *_ = bench.peer.find_node(3, KEY, bench.now)
    ask_and_ping(bench.reply(sent, rows))


def test_who_never_says_who_it_is_does_not_count() -> None:
    bench = Bench(Settings(probe_every_s=1_000.0))
    bench.know(contact(50))
    (sent,) = bench.peer.find_node(1, KEY, bench.now)
    ask, _ = ask_and_ping(bench.reply(sent, [[contact(9).id, *contact(9).address]]))
    assert bench.reply(ask, []) == []
    actions = bench.pass_time(bench.now + 2.0)
    pings = [one for one in questions(actions) if one == (wire.Ping(OWN), contact(9).address)]
    assert len(pings) == DEFAULTS.proof_tries - 1
    assert LookupDone(1, (contact(50),)) in actions


def test_an_answer_after_the_last_ping_for_proof_holds_up_no_lookup() -> None:
    bench = Bench(Settings(probe_every_s=1_000.0))
    bench.know(contact(50))
    (sent,) = bench.peer.find_node(1, KEY, bench.now)
    bench.reply(sent, [[contact(9).id, *contact(9).address]])
    bench.peer.cancel(1, bench.now)
    actions = bench.peer.find_node(2, KEY, bench.now)
    # While everybody is silent each is asked more often than it is pinged.
    while len([one for one in questions(actions) if one[1] == contact(9).address]) < 5:
        bench.now = bench.peer.next_timer()
        actions += bench.peer.handle_timer(bench.now)
    *_, ask = [one for one in sends(actions) if one.address == contact(9).address]
    actions = bench.reply(ask, []) + bench.pass_time(bench.now + 10.0)
    assert LookupDone(2, ()) in actions


def test_a_ping_for_proof_that_finds_no_place_holds_up_no_lookup() -> None:
    bench = Bench(Settings(queries_max=1))
    bench.know(contact(50))
    (sent,) = bench.peer.find_node(1, KEY, bench.now)
    (ask,) = bench.reply(sent, [[contact(9).id, *contact(9).address]])
    assert LookupDone(1, (contact(50),)) in bench.reply(ask, [])


def test_the_ids_that_addresses_said_they_have_are_bounded() -> None:
    bench = Bench(Settings(identified_max=2, probe_every_s=1_000.0))
    bench.know(contact(50), contact(51), contact(52))
    assert len(bench.peer._lookups._identified) == 2
    # Where nobody answers a ping there may be somebody else.
    bench.peer.ping(1, contact(52).address, bench.now)
    bench.pass_time(bench.now + 10.0)
    assert len(bench.peer._lookups._identified) == 1


def test_values_are_yielded_as_they_come_and_the_lookup_goes_on() -> None:
    bench = Bench()
    bench.know(contact(8), contact(9))
    one, other = sends(bench.peer.find_value(1, KEY, bench.now))
    found = Found(contact(8), b"value", {"seq": 2})
    assert bench.reply(one, {"value": b"value", "seq": 2}) == [Yielded(1, found)]
    assert bench.reply(other, []) == []
    # Nobody has asked for another value before.
    assert bench.peer.resume(1, bench.now) == [LookupDone(1, (contact(8), contact(9)))]


def test_after_a_value_nothing_is_sent_until_another_is_wanted_but_late_answers_count() -> None:
    bench = Bench(Settings(alpha=2, probe_every_s=1_000.0))
    bench.know(*(contact(number) for number in range(1, 10)))
    one, other = sends(bench.peer.find_value(1, KEY, bench.now))
    assert bench.peer.resume(1, bench.now) == []
    found = bench.reply(one, {"value": b"value"})
    assert found == [Yielded(1, Found(contact(1), b"value", {}))]
    pings = questions(bench.pass_time(bench.now + 2.0))
    assert {type(question) for question, _ in pings} <= {wire.Ping}
    assert bench.reply(other, {"value": b"other"}) == [Yielded(1, Found(contact(2), b"other", {}))]
    asked = questions(bench.peer.resume(1, bench.now))
    assert {type(question) for question, _ in asked} == {wire.FindValue}
    assert {address for _, address in asked} >= {contact(3).address, contact(4).address}
    # Neither a lookup that is not paused nor one that is over goes on.
    assert bench.peer.resume(1, bench.now) == []
    bench.peer.cancel(1, bench.now)
    assert bench.peer.resume(1, bench.now) == []


def test_a_paused_lookup_takes_nobodys_place() -> None:
    bench = Bench(Settings(lookups_max=1))
    bench.know(contact(8), contact(9))
    one, other = sends(bench.peer.find_value(1, KEY, bench.now))
    assert bench.peer.find_node(2, KEY, bench.now) == []
    # The caller may be busy with the value for as long as it likes.
    _, *asked = bench.reply(one, {"value": b"value"})
    assert len(questions(asked)) == 2
    bench.reply(other, {"value": b"another"})
    assert bench.peer.find_node(3, KEY, bench.now) == []
    closest = (contact(8), contact(9))
    # Gone on with or cancelled, it leaves one place as before.
    assert bench.peer.resume(1, bench.now) == [LookupDone(1, closest)]
    started = sends(bench.peer.cancel(2, bench.now))
    assert len(started) == 2
    assert bench.peer.find_value(4, KEY, bench.now) == []
    bench.reply(started[0], [])
    done, *asked = bench.reply(started[1], [])
    assert done == LookupDone(3, closest)
    bench.reply(asked[0], {"value": b"value"})
    assert bench.peer.cancel(4, bench.now) == []
    assert len(questions(bench.peer.find_node(5, KEY, bench.now))) == 2
    assert bench.peer.find_node(6, KEY, bench.now) == []


def test_a_contact_asked_twice_that_answers_twice_counts_once() -> None:
    bench = Bench(Settings(probe_every_s=1_000.0))
    bench.know(contact(8), contact(9))
    first, other = sends(bench.peer.find_value(1, KEY, bench.now))
    later = sends(bench.pass_time(bench.now + 0.05))
    again = next(one for one in later if one.address == first.address)
    assert isinstance(bench.reply(first, {"value": b"value"})[0], Yielded)
    assert bench.reply(again, {"value": b"value"}) == []
    assert bench.peer.resume(1, bench.now) == []
    assert bench.reply(other, [])[-1] == LookupDone(1, (contact(8), contact(9)))


def test_garbage_discredits_and_is_counted() -> None:
    bench = Bench()
    bench.know(contact(8), contact(9))
    one, other = sends(bench.peer.find_value(1, KEY, bench.now))
    before = bench.peer.malformed
    assert bench.reply(one, 7) == []
    assert bench.peer.malformed == before + 1
    assert bench.peer.table.suspect(contact(8))
    assert bench.reply(other, [])[-1] == LookupDone(1, (contact(9),))


def test_lookups_beyond_the_limit_wait_and_may_be_cancelled_meanwhile() -> None:
    bench = Bench(Settings(lookups_max=1))
    bench.know(contact(9))
    (sent,) = bench.peer.find_node(1, KEY, bench.now)
    assert bench.peer.find_node(2, KEY, bench.now) == []
    assert bench.peer.find_value(3, KEY, bench.now) == []
    assert bench.peer.cancel(2, bench.now) == []
    done, asked = bench.reply(sent, [])
    assert done == LookupDone(1, (contact(9),))
    assert questions([asked]) == [(wire.FindValue(OWN, KEY), contact(9).address)]


def test_a_cancelled_lookup_makes_room_and_hears_nothing_more() -> None:
    bench = Bench(Settings(lookups_max=1, probe_every_s=1_000.0))
    bench.know(contact(8), contact(9))
    one, late = sends(bench.peer.find_node(1, KEY, bench.now))
    bench.peer.find_value(2, KEY, bench.now)
    assert len(questions(bench.peer.cancel(1, bench.now))) == 2
    assert bench.reply(one, [[contact(3).id, *contact(3).address]]) == []
    bench.peer.cancel(2, bench.now)
    assert not questions(bench.pass_time(bench.now + 0.5))[2:]
    assert late.address == contact(9).address


def test_lookup_whose_questions_cannot_go_out_ends() -> None:
    bench = Bench(Settings(queries_max=1, lone_tries=2))
    bench.know(contact(8), contact(9))
    (glance,) = sends(bench.peer.explore(bench.now))
    assert bench.peer.find_node(1, KEY, bench.now) == [LookupDone(1, ())]
    bench.reply(glance, [])
    (sent,) = sends(bench.peer.find_node(2, KEY, bench.now))
    assert sent.address in (contact(8).address, contact(9).address)


def test_many_lookups_at_once_take_silence_for_nothing_sooner_than_one() -> None:
    """A question that found no place among the others would count as unanswered."""
    bench = Bench()
    bench.know(*(contact(n << 140, port=1_000 + n) for n in range(1, 201)))
    actions: list[Action] = []
    for token in range(2 * DEFAULTS.lookups_max):
        key = token.to_bytes(2, "big") * 10
        actions += bench.peer.find_value(token, key, bench.now)
    actions += bench.pass_time(bench.now + 1.0)
    assert len(sends(actions)) > DEFAULTS.lookups_max * DEFAULTS.k
    assert not [one for one in actions if isinstance(one, LookupDone)]


def test_a_lookup_goes_on_to_the_living_when_the_forty_nearest_of_the_table_are_silent() -> None:
    bench = Bench()
    living = [contact((1 << 150) + n, port=9_000 + n) for n in range(4)]
    bench.know(*living, *(contact(n) for n in range(1, 61)))
    actions = bench.peer.find_value(1, KEY, bench.now)
    happened: list[Action] = []
    while not any(isinstance(one, LookupDone) for one in actions):
        for one in sends(actions):
            if one.address in {c.address for c in living} and b"find_value" in one.data:
                actions += bench.reply(one, {"value": b"value"})
                actions += bench.peer.resume(1, bench.now)
        happened += actions
        if not any(isinstance(one, LookupDone) for one in actions):
            bench.now = bench.peer.next_timer()
            actions = bench.peer.handle_timer(bench.now)
    assert {one.found.contact for one in happened if isinstance(one, Yielded)} == set(living)


def test_a_lookup_ends_when_the_rest_of_the_table_is_known_to_it_and_silent_too() -> None:
    bench = Bench(Settings(k=1, probe_every_s=1_000.0))
    bench.know(contact(1))
    (glance,) = sends(bench.peer.explore(bench.now))
    bench.reply(glance, [[contact(3).id, *contact(3).address]])
    # The third was hearsay before it was known at first hand.
    bench.know(contact(2), contact(3))
    actions = bench.peer.find_node(1, KEY, bench.now)
    actions += bench.pass_time(bench.now + 10.0)
    assert LookupDone(1, ()) in actions
    asked = {address for question, address in questions(actions) if question != wire.Ping(OWN)}
    assert asked == {contact(n).address for n in (1, 2, 3)}


def test_what_others_named_starts_later_lookups() -> None:
    bench = Bench(Settings(hearsay_for_s=100.0, probe_every_s=1_000.0))
    bench.know(contact(50))
    (sent,) = bench.peer.find_node(1, KEY, bench.now)
    bench.reply(sent, [[contact(9).id, *contact(9).address], [OWN, *contact(60).address]])
    bench.peer.cancel(1, bench.now)
    both = {contact(50).address, contact(9).address}
    actions = bench.peer.find_node(2, KEY, bench.now)
    assert {address for _, address in questions(actions)} == both
    bench.peer.cancel(2, bench.now)
    # Nobody named it again.
    bench.now += 101.0
    actions = bench.peer.find_node(3, KEY, bench.now)
    assert {address for _, address in questions(actions)} == {contact(50).address}


@pytest.mark.parametrize("heard_of", [DEFAULTS.k - 2, DEFAULTS.k - 1])
def test_few_are_known_until_there_are_k_at_first_hand_or_by_hearsay(heard_of: int) -> None:
    bench = Bench(Settings(probe_every_s=1_000.0))
    bench.know(contact(50))
    assert bench.peer.knows_few()
    (sent,) = bench.peer.find_node(1, KEY, bench.now)
    named = [contact(number) for number in range(1, heard_of + 1)]
    # Who is known at first hand counts once, though others name it too.
    bench.reply(sent, [[one.id, *one.address] for one in [*named, contact(50)]])
    assert bench.peer.knows_few() is (heard_of + 1 < DEFAULTS.k)


def test_the_nearest_heard_of_are_those_of_the_table_and_those_that_others_named() -> None:
    bench = Bench(Settings(probe_every_s=1_000.0))
    bench.know(contact(5), contact(50))
    sent, _ = bench.peer.find_node(1, KEY, bench.now)
    named = [contact(number) for number in (7, 3, 9, 50)]
    bench.reply(sent, [[one.id, *one.address] for one in named])
    heard = bench.peer.heard_of(KEY, 9, bench.now)
    assert heard == [contact(number) for number in (3, 5, 7, 9, 50)]
    assert bench.peer.heard_of(KEY, 2, bench.now) == heard[:2]


def test_a_wide_lookup_asks_as_many_as_it_needs_at_once() -> None:
    bench = Bench(Settings(alpha=1, k=4, probe_every_s=1_000.0))
    bench.know(*[contact(number) for number in range(1, 5)])
    assert len(questions(bench.peer.find_node(1, KEY, bench.now, 3, wide=True))) == 3
    assert len(questions(bench.peer.find_node(2, KEY, bench.now, 3))) == 1


def test_with_k_contacts_at_first_hand_enough_are_known() -> None:
    bench = Bench()
    bench.know(*[contact(number) for number in range(1, DEFAULTS.k + 1)])
    assert not bench.peer.knows_few()


def test_one_silence_ends_hearsay_and_rumours_of_other_addresses_do_not() -> None:
    bench = Bench(Settings(probe_every_s=1_000.0))
    bench.know(contact(50))
    (sent,) = bench.peer.find_node(1, KEY, bench.now)
    asked, _ = ask_and_ping(bench.reply(sent, [[contact(9).id, *contact(9).address]]))
    # It is said to be elsewhere too, where nobody answers.
    bench.reply(asked, [[contact(9).id, "192.0.2.66", 66]])
    bench.pass_time(bench.now + 20.0)
    actions = bench.peer.find_node(2, KEY, bench.now)
    assert contact(9).address in {address for _, address in questions(actions)}
    bench.pass_time(bench.now + 20.0)
    actions = bench.peer.find_node(3, KEY, bench.now)
    assert contact(9).address not in {address for _, address in questions(actions)}


def test_a_question_to_whom_we_may_not_be_proved_is_padded() -> None:
    bench = Bench()
    bench.know(contact(8))
    (sent,) = sends(bench.peer.find_value(1, KEY, bench.now))
    assert len(sent.data) == wire.PADDED_BYTES
    assert questions([sent]) == [(wire.FindValue(OWN, KEY), contact(8).address)]
    bench.peer.cancel(1, bench.now)
    # It asks us who we are: now we are proved there.
    bench.asked(wire.Ping(contact(8).id), contact(8).address)
    (sent,) = sends(bench.peer.find_value(2, KEY, bench.now))
    assert sent.data == wire.encode_question(sent.data[1:21], wire.FindValue(OWN, KEY))
    bench.peer.cancel(2, bench.now)
    # Not for ever.
    bench.now += DEFAULTS.proved_for_s + 1.0
    (sent,) = sends(bench.peer.find_value(3, KEY, bench.now))
    assert len(sent.data) == wire.PADDED_BYTES


def test_upkeep_is_not_padded() -> None:
    bench = Bench()
    bench.know(contact(8))
    bench.now += 1.2 * DEFAULTS.refresh_every_s
    asked = sends(bench.peer.handle_timer(bench.now))
    assert asked
    assert max(len(one.data) for one in asked) < wire.PADDED_BYTES


@pytest.mark.parametrize("size", [10, 1_024])
def test_a_padded_question_gets_any_answer_at_once_and_within_the_limit(size: int) -> None:
    bench = Bench()
    bench.records.held[KEY] = Held(b"v" * size, {"seq": 1, "note": True})
    question = wire.encode_question(MESSAGE, wire.FindValue(STRANGER.id, KEY), padded=True)
    answer, ping = sends(bench.receive(question, STRANGER.address))
    assert answer.data[:1] == wire.ANSWER_TYPE
    assert len(answer.data) > size
    assert questions([ping]) == [(wire.Ping(OWN), STRANGER.address)]
    pings_bytes = DEFAULTS.proof_tries * len(ping.data)
    assert len(answer.data) + pings_bytes <= DEFAULTS.amplification_max * len(question)


def test_the_longest_list_of_contacts_answers_a_padded_question_at_once() -> None:
    bench = Bench(Settings(range_limit=0))
    for number in range(1, 21):
        host = f"2001:db8:ffff:ffff:ffff:ffff:ffff:{0x1000 + number:x}"
        bench.know(Contact(contact(number).id, (host, 60_000)))
    question = wire.encode_question(MESSAGE, wire.FindNode(STRANGER.id, KEY), padded=True)
    answer, _ = sends(bench.receive(question, ("192.0.2.77", 7)))
    assert len(answer.data) > wire.ANSWER_BYTES_MAX - 2 * wire.PING_BYTES


@pytest.mark.parametrize("remembered", [DEFAULTS.identified_max, 1])
def test_rumours_give_way_to_what_the_table_knows_first_hand(remembered: int) -> None:
    bench = Bench(Settings(identified_max=remembered))
    bench.know(contact(9), contact(50))
    sent = {one.address: one for one in sends(bench.peer.find_node(1, KEY, bench.now))}
    rumours = [
        # Another id at the address of 9, 9 itself at another address, and one that is news.
        [contact(8).id, *contact(9).address],
        [contact(9).id, "192.0.2.66", 66],
        [contact(10).id, *contact(10).address],
    ]
    asked, _ = ask_and_ping(bench.reply(sent[contact(50).address], rumours))
    assert questions([asked]) == [(wire.FindNode(OWN, KEY), contact(10).address)]


def test_who_turns_out_to_be_another_is_no_longer_believed() -> None:
    bench = Bench()
    bench.know(contact(50))
    (sent,) = bench.peer.find_node(1, KEY, bench.now)
    impostor = contact(7, port=66)
    actions = bench.reply(sent, [[impostor.id, *impostor.address]])
    asked, _ = ask_and_ping(actions)
    (ping,) = bench.peer.ping(2, impostor.address, bench.now)
    assert bench.reply(ping, contact(60).id) == [
        ContactUp(contact(60, port=66)),
        LookupDone(1, (contact(50),)),
        Ponged(2, contact(60).id, 0.0),
    ]
    assert not [one for one in bench.reply(asked, []) if isinstance(one, LookupDone)]


def test_a_discredited_contact_makes_room_for_another() -> None:
    bench = Bench(Settings(alpha=1, leads=0))
    bench.know(contact(50))
    (sent,) = bench.peer.find_node(1, KEY, bench.now)
    rows = [[contact(7).id, "192.0.2.66", 66], [contact(9).id, *contact(9).address]]
    bench.reply(sent, rows)
    (ping,) = bench.peer.ping(2, ("192.0.2.66", 66), bench.now)
    asked, _ = ask_and_ping(bench.reply(ping, contact(60).id))
    assert questions([asked]) == [(wire.FindNode(OWN, KEY), contact(9).address)]


# --- questions of others ---

STRANGER = contact(9)


def test_malformed_datagrams_are_counted_and_nothing_else() -> None:
    bench = Bench()
    assert bench.receive(b"", STRANGER.address) == []
    assert bench.receive(b"\x00" * 60, STRANGER.address) == []
    assert bench.peer.malformed == 2


def test_a_stranger_is_answered_and_asked_who_it_is_its_pong_opens_the_table() -> None:
    bench = Bench()
    long_enough = wire.Store(STRANGER.id, KEY, b"v" * 100)
    answer, ping = bench.asked(long_enough, STRANGER.address)
    assert answer == Send(b"\x01" + MESSAGE + b"\xc3", STRANGER.address)
    assert questions([ping]) == [(wire.Ping(OWN), STRANGER.address)]
    assert len(bench.peer.table) == 0
    assert bench.reply(ping, STRANGER.id) == [ContactUp(STRANGER)]
    # Now that it is known, it is only answered.
    assert bench.asked(long_enough, STRANGER.address) == [answer]


def test_a_stranger_that_is_being_asked_is_not_asked_again() -> None:
    bench = Bench()
    question = wire.Ping(STRANGER.id)
    assert len(bench.asked(question, STRANGER.address)) == 2
    assert len(bench.asked(question, STRANGER.address)) == 1
    bench.pass_time(bench.now + 1.0)
    # Nor soon after it was silent.
    assert len(bench.asked(question, STRANGER.address)) == 1
    bench.pass_time(bench.now + DEFAULTS.introduction_pause_s)
    assert len(bench.asked(question, STRANGER.address)) == 2


def test_who_claims_our_own_id_is_nobody_to_remember() -> None:
    bench = Bench()
    assert len(bench.asked(wire.Ping(OWN), STRANGER.address)) == 1


def test_an_address_that_proved_itself_under_another_id_is_asked_once_more() -> None:
    bench = Bench()
    bench.know(STRANGER)
    actions = bench.asked(wire.Ping(contact(5).id), STRANGER.address)
    assert questions(actions) == [(wire.Ping(OWN), STRANGER.address)]
    assert bench.reply(actions[-1], contact(5).id) == [
        ContactDown(STRANGER, Why.REPLACED),
        ContactUp(contact(5, port=1_009)),
    ]


def test_long_answers_wait_until_the_address_is_proved() -> None:
    bench = Bench()
    bench.records.held[KEY] = Held(b"v" * 1_000)
    actions = bench.asked(wire.FindValue(STRANGER.id, KEY), STRANGER.address)
    assert questions(actions) == [(wire.Ping(OWN), STRANGER.address)]
    assert len(actions) == 1
    # The question once more, while the stranger is being asked.
    assert bench.asked(wire.FindValue(STRANGER.id, KEY), STRANGER.address) == []
    up, one, other = bench.reply(actions[0], STRANGER.id)[::-1]
    assert up == ContactUp(STRANGER)
    assert one == other
    assert isinstance(one, Send)
    assert len(one.data) > 1_000


def test_an_answer_without_room_for_a_ping_beside_it_is_sent_alone_if_nobody_can_be_asked() -> None:
    bench = Bench(Settings(proofs_max=1))
    bench.asked(wire.Ping(contact(8).id), contact(8).address)
    question = wire.FindValue(STRANGER.id, KEY)
    size = len(wire.encode_question(MESSAGE, question))
    # Just too long with a ping, short enough without, and the pool of pings is full.
    bench.records.held[KEY] = Held(b"v" * (DEFAULTS.amplification_max * size - 50))
    (answer,) = bench.asked(question, STRANGER.address)
    assert isinstance(answer, Send)
    assert len(answer.data) <= DEFAULTS.amplification_max * size
    # Too long either way: nothing at all.
    bench.records.held[KEY] = Held(b"v" * 1_000)
    assert bench.asked(question, STRANGER.address) == []


def test_a_question_shorter_than_our_ping_brings_about_none() -> None:
    bench = Bench()
    (answer,) = bench.asked(wire.Stun(), STRANGER.address)
    assert isinstance(answer, Send)
    assert umsgpack.unpackb(answer.data[21:]) == list(STRANGER.address)
    # From a proved address as well.
    bench.know(STRANGER)
    assert bench.asked(wire.Stun(), STRANGER.address) == [answer]


def test_garbage_instead_of_a_pong_proves_the_address_and_no_id() -> None:
    bench = Bench()
    _, ping = bench.asked(wire.Ping(STRANGER.id), STRANGER.address)
    assert bench.reply(ping, 7) == []
    assert len(bench.peer.table) == 0


# --- upkeep ---


def test_the_stalest_contact_is_asked_every_few_seconds() -> None:
    bench = Bench()
    bench.know(contact(8), contact(9))
    bench.now += DEFAULTS.fresh_for_s
    probes = questions(bench.peer.handle_timer(bench.now))
    assert probes == [(wire.Ping(OWN), contact(8).address)]


def test_a_probe_that_is_answered_clears_all_doubt() -> None:
    bench = Bench()
    bench.know(contact(8))
    bench.now += DEFAULTS.fresh_for_s
    (probe,) = bench.peer.handle_timer(bench.now)
    assert bench.reply(probe, contact(8).id) == []
    assert bench.pass_time(bench.now + DEFAULTS.fresh_for_s - 1.0) == []
    assert not bench.peer.table.suspect(contact(8))


def test_the_silent_are_asked_at_growing_pauses_struck_out_and_still_remembered() -> None:
    bench = Bench()
    bench.know(contact(8))
    actions = bench.pass_time(bench.now + 60.0)
    down = actions.index(ContactDown(contact(8), Why.SILENT))
    assert len(questions(actions[:down])) == DEFAULTS.strikes_max
    probe = bench.pass_time(bench.now + 60.0)[-1]
    assert questions([probe]) == [(wire.Ping(OWN), contact(8).address)]


def test_exploring_glances_at_contacts_all_over_the_id_space() -> None:
    bench = Bench(Settings(probe_every_s=1_000.0))
    assert bench.peer.explore(bench.now) == []
    contacts = [contact(1 << 150 + n, port=2_000 + n) for n in range(9)]
    bench.know(*contacts)
    actions = bench.peer.explore(bench.now)
    asked = questions(actions)
    assert [type(question) for question, _ in asked] == [wire.FindNode] * DEFAULTS.glances
    keys = [one.key for one, _ in asked if isinstance(one, wire.FindNode)]
    assert len({key[0] >> 6 for key in keys}) > 1
    assert {address for _, address in asked} <= {one.address for one in contacts}
    # These are nobody's calls: no action ends them, and what they tell starts lookups.
    named = contact(3)
    assert bench.reply(sends(actions)[0], [[named.id, *named.address]]) == []
    assert not [one for one in bench.pass_time(bench.now + 9.0) if isinstance(one, LookupDone)]
    sought = questions(bench.peer.find_node(1, KEY, bench.now))
    assert named.address in {address for _, address in sought}


def test_one_that_others_named_is_asked_in_each_period_while_the_table_wants_it() -> None:
    bench = Bench(Settings(small_network=1, k=3, replacements_max=1))
    known = contact(1 << 159)
    bench.know(known)
    named = [contact((1 << 158) + n, port=2_000 + n) for n in range(5)]
    for few in (named[:3], named[3:]):
        (glance,) = sends(bench.peer.explore(bench.now))
        bench.reply(glance, [[one.id, *one.address] for one in few])
    first: dict[Address, float] = {}
    ups: list[Contact] = []
    names = {one.address: one for one in (known, *named)}
    while bench.now < 160.0:
        bench.now = bench.peer.next_timer()
        for one in sends(bench.peer.handle_timer(bench.now)):
            first.setdefault(one.address, bench.now)
            happened = bench.reply(one, names[one.address].id)
            ups += [event.contact for event in happened if isinstance(event, ContactUp)]
    # Three get in, the fourth waits for a place, the fifth is not wanted at all.
    asked = sorted((one for one in named if one.address in first), key=lambda o: first[o.address])
    assert ups == asked[:3]
    assert len(asked) == 4
    times = [first[one.address] for one in asked]
    assert all(
        later - early == pytest.approx(DEFAULTS.probe_every_s) for early, later in pairwise(times)
    )


def test_the_hour_brings_a_lookup_of_our_own_id_glances_and_idle_buckets() -> None:
    bench = Bench()
    bench.know(contact(1 << 159))
    bench.now += 1.2 * DEFAULTS.refresh_every_s
    asked = [one for one, _ in questions(bench.peer.handle_timer(bench.now))]
    keys = [one.key for one in asked if isinstance(one, wire.FindNode)]
    # The glance comes at once, the lookups when there is room for them.
    glance, own, idle = keys
    assert glance != own
    assert own == OWN
    assert idle >= b"\x80" + bytes(19)


def test_upkeep_of_an_idle_bucket_ends_with_one_answer() -> None:
    bench = Bench(Settings(glances=0, known_in_stratum=0))
    bench.know(*(contact((1 << 159) + n, port=2_000 + n) for n in range(20)))
    bench.now += 1.2 * DEFAULTS.refresh_every_s
    asked = sends(bench.peer.handle_timer(bench.now))
    idle = [one for one in asked if b"find_node" in one.data and one.data[-20:] != OWN]
    assert len(idle) == 1
    assert questions(bench.reply(idle[0], [])) == []


def test_who_died_soon_after_its_introduction_is_noticed_by_its_first_question() -> None:
    bench = Bench()
    met = bench.now
    _, ping = bench.asked(wire.Ping(STRANGER.id), STRANGER.address)
    assert bench.reply(ping, STRANGER.id) == [ContactUp(STRANGER)]
    down: list[Action] = []
    while not down:
        bench.now = bench.peer.next_timer()
        down = [one for one in bench.peer.handle_timer(bench.now) if isinstance(one, ContactDown)]
    assert down == [ContactDown(STRANGER, Why.SILENT)]
    assert bench.now - met < DEFAULTS.introduction_pause_s
    _, ping = bench.asked(wire.Ping(STRANGER.id), STRANGER.address)
    (back,) = bench.reply(ping, STRANGER.id)
    assert isinstance(back, ContactReturned)


def test_what_the_dead_knew_of_us_is_not_counted_on() -> None:
    bench = Bench()
    bench.know(STRANGER)
    bench.asked(wire.Ping(STRANGER.id), STRANGER.address)
    assert ContactDown(STRANGER, Why.SILENT) in bench.pass_time(bench.now + 60.0)
    bench.know_again(STRANGER)
    (sent,) = sends(bench.peer.find_value(1, KEY, bench.now))
    assert len(sent.data) == wire.PADDED_BYTES


def test_nobody_is_asked_for_whom_the_table_has_no_place() -> None:
    bench = Bench(Settings(k=1, small_network=1, replacements_max=1))
    bench.know(contact(1 << 159))
    first, second = (contact((1 << 159) + n) for n in (1, 2))
    for one, expected in ((first, 2), (second, 1)):
        actions = bench.asked(wire.Ping(one.id), one.address)
        assert len(actions) == expected
        if expected == 2:
            assert bench.reply(actions[1], one.id) == []


def test_a_new_id_or_address_of_a_contact_is_noticed_though_the_table_is_full() -> None:
    bench = Bench(Settings(k=1, small_network=1, replacements_max=0))
    known = contact(1 << 159)
    bench.know(known)
    fresh = Contact(contact((1 << 159) + 7).id, known.address)
    _, ping = bench.asked(wire.Ping(fresh.id), fresh.address)
    assert bench.reply(ping, fresh.id) == [ContactDown(known, Why.REPLACED), ContactUp(fresh)]
    moved = Contact(fresh.id, ("192.0.2.99", 99))
    _, ping = bench.asked(wire.Ping(moved.id), moved.address)
    bench.reply(ping, moved.id)
    later = bench.pass_time(bench.now + 30.0)
    assert ContactMoved(moved, fresh.address) in later


def test_while_nobody_answers_a_lookup_waits_longer_than_its_contacts_usually_take() -> None:
    bench = Bench(Settings(probe_every_s=1_000.0))
    bench.know(contact(8), contact(9))
    began = bench.now
    one, _ = sends(bench.peer.find_value(1, KEY, bench.now))
    # All is late, the answer to the last question included: this process was starved.
    actions = bench.pass_time(began + 1.0)
    assert not [action for action in actions if isinstance(action, LookupDone)]
    found = bench.reply(one, {"value": b"value"})
    assert [type(action) for action in found] == [Yielded]


def test_a_lookup_that_nobody_answers_ends() -> None:
    bench = Bench(Settings(probe_every_s=1_000.0))
    bench.know(contact(8), contact(9))
    bench.peer.find_value(1, KEY, bench.now)
    assert LookupDone(1, (), inconclusive=True) in bench.pass_time(bench.now + 5.0)
