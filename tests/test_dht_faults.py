"""The faults measured in `kademlia` 2.2.3 and `rpcudp` 5.0.1: the overlay has none of them."""

from __future__ import annotations

import random

import pytest
import umsgpack
from test_dht_network import network, publish
from test_dht_overlay import ID, Records, here, hostile, overlay, stock_node
from test_dht_peer import KEY, MESSAGE, OWN, Bench, contact, questions, sends

from p2pweb.dht import wire
from p2pweb.dht.contact import Contact, NodeId, key_for
from p2pweb.dht.events import ContactDown, ContactUp, LookupDone, StoreDone, Why, Yielded
from p2pweb.dht.serving import Held
from p2pweb.dht.settings import DEFAULTS, Settings

STORE = b"\xa5store"


def test_keys_that_are_hashes_already_are_not_hashed_again() -> None:
    bench = Bench()
    bench.know(contact(8), contact(9))
    key = key_for("name")
    asked = questions(bench.peer.store(1, contact(9), key, b"v", bench.now))
    assert asked[0][0] == wire.Store(OWN, key, b"v")
    assert {question for question, _ in questions(bench.peer.find_value(2, key, bench.now))} == {
        wire.FindValue(OWN, key)
    }


def test_all_contacts_known_are_returned_when_there_are_no_more_than_k() -> None:
    bench = Bench()
    bench.know(contact(8), contact(9), contact(10))
    (answer,) = sends(bench.asked(wire.FindNode(contact(10).id, KEY), contact(10).address))
    assert umsgpack.unpackb(answer.data[21:]) == [
        [one.id, *one.address] for one in (contact(8), contact(9))
    ]


def test_lookups_do_not_stop_early_every_value_is_found() -> None:
    net = network(40, seed=21, settings=Settings(k=8, small_network=16))
    rng = random.Random(21)
    for _ in range(40):
        key = publish(net, rng, copies=1)
        asker = rng.randrange(40)
        if key not in net.shelves[asker].values:
            found, _ = net.values(asker, key)
            assert [one.value for _, one in found] == [b"value of " + key]


def test_a_dead_contact_costs_measured_milliseconds_and_no_round_waits_for_it() -> None:
    bench = Bench()
    bench.know(contact(8), contact(9), contact(10))
    started = bench.now
    asked = sends(bench.peer.find_value(1, KEY, bench.now))
    bench.now += 0.01
    living = [one for one in asked if one.address != contact(8).address]
    # The value is here while the nearest contact is still silent.
    assert isinstance(bench.reply(living[0], {"value": b"value"})[0], Yielded)
    actions = bench.peer.resume(1, bench.now)
    bench.reply(living[1], [])
    actions += bench.pass_time(bench.now + 1.0)
    (done,) = [one for one in actions if isinstance(one, LookupDone)]
    assert done.closest == (contact(9), contact(10))
    entry = bench.peer.table.get(contact(8).id)
    assert entry is not None
    timeout_s = entry.rtt.timeout_s()
    assert timeout_s is not None
    assert DEFAULTS.ask_tries * timeout_s < 0.1
    assert bench.now - started < 1.1


def test_one_lost_packet_drops_no_contact() -> None:
    bench = Bench()
    bench.know(contact(8))
    bench.peer.store(1, contact(8), KEY, b"v", bench.now)
    bench.pass_time(bench.now + 0.04)
    assert bench.peer.table.suspect(contact(8))
    # It is asked again soon; its answer clears it.
    (ping,) = [
        one
        for one in sends(bench.pass_time(bench.now + 1.0))
        if isinstance(questions([one])[0][0], wire.Ping)
    ]
    assert bench.reply(ping, contact(8).id) == []
    assert not bench.peer.table.suspect(contact(8))


def test_a_full_bucket_asks_all_of_its_contacts_and_the_dead_leave_it() -> None:
    bench = Bench(Settings(k=3, small_network=3))
    far = [contact((1 << 159) + number) for number in range(3)]
    bench.know(*far)
    (ping,) = bench.peer.ping(9, contact((1 << 159) + 3, port=4).address, bench.now)
    bench.reply(ping, contact((1 << 159) + 3).id)
    actions = bench.pass_time(bench.now + 90.0)
    asked = {address for _, address in questions(actions)}
    assert {one.address for one in far} < asked
    downs = [one.contact for one in actions if isinstance(one, ContactDown)]
    assert set(far) <= set(downs)
    # The one that waited has got a place.
    assert ContactUp(contact((1 << 159) + 3, port=4)) in actions


def test_a_contact_that_waits_behind_a_full_bucket_is_not_new_on_every_message() -> None:
    bench = Bench(Settings(k=1, small_network=1))
    bench.know(contact(1 << 159))
    waiting = contact((1 << 159) + 1, port=9)
    bench.records.held[KEY] = Held(b"value")
    (ping,) = bench.peer.ping(9, waiting.address, bench.now)
    assert not [one for one in bench.reply(ping, waiting.id) if isinstance(one, ContactUp)]
    for _ in range(244):
        actions = bench.asked(wire.Ping(waiting.id), waiting.address)
        assert len(actions) == 1
        assert questions(actions) == []


async def test_set_is_false_when_every_store_failed() -> None:
    async with overlay() as ours, hostile(None) as (contact_, _):
        assert not await ours.set("nobody", b"value")
        assert await ours.join([contact_.address]) == 1
        assert not await ours.set("refused", b"value")


async def test_set_is_false_and_raises_nothing_when_all_neighbours_are_dead() -> None:
    settings = Settings(rtt_initial_s=0.02, rtt_ceiling_s=0.05)
    async with overlay(settings=settings) as ours:
        async with stock_node() as stock:
            assert await ours.join([here(stock)]) == 1
        assert not await ours.set("name", b"value")


@pytest.mark.parametrize("body", [7, b"x" * 40, [[[], {}, 1]], {}, None, [7], {"value": {}}])
def test_one_hostile_reply_ends_no_lookup_and_no_store(body: object) -> None:
    bench = Bench()
    bench.know(contact(8), contact(9))
    asked = {one.address: one for one in sends(bench.peer.find_value(1, KEY, bench.now))}
    bench.reply(asked[contact(8).address], body)
    actions = bench.reply(asked[contact(9).address], {"value": b"value"})
    actions += bench.peer.resume(1, bench.now)
    assert [type(one) for one in actions] == [Yielded, LookupDone]
    (sent,) = bench.peer.store(2, contact(8), KEY, b"v", bench.now)
    (done,) = bench.reply(sent, body)
    assert isinstance(done, StoreDone)
    assert done.answer is not True


def test_a_store_with_a_float_key_stops_nothing() -> None:
    bench = Bench()
    bench.know(contact(8))
    data = b"\x00" + MESSAGE + umsgpack.packb(["store", [ID, 1.5, b"v"]])
    assert bench.receive(data, contact(8).address) == []
    bench.now += 1.2 * DEFAULTS.refresh_every_s
    asked = questions(bench.peer.handle_timer(bench.now))
    assert any(isinstance(question, wire.FindNode) for question, _ in asked)


def test_a_cancelled_call_leaks_nothing_and_its_timeout_is_quiet() -> None:
    bench = Bench()
    bench.peer.ping(1, contact(8).address, bench.now)
    bench.peer.store(2, contact(8), KEY, b"v", bench.now)
    for token in (1, 2):
        bench.peer.cancel(token, bench.now)
    assert bench.pass_time(bench.now + DEFAULTS.late_for_s + 1.0) == []
    assert len(bench.peer._calls) == 0
    assert not bench.peer._tokens


def test_unproved_senders_stay_out_of_the_table_and_get_no_more_than_three_times_as_much() -> None:
    bench = Bench()
    bench.know(*(contact(number) for number in range(100, 120)))
    bench.records.held[KEY] = Held(b"v" * wire.VALUE_BYTES_MAX)
    known = len(bench.peer.table)
    for number in range(1, 50):
        for question in (wire.FindValue(contact(number).id, KEY), wire.FindNode(ID, KEY)):
            size = len(wire.encode_question(MESSAGE, question))
            actions = bench.asked(question, ("198.51.100.1", number))
            assert sum(len(one.data) for one in sends(actions)) <= 3 * size
    bench.pass_time(bench.now + 5.0)
    assert len(bench.peer.table) == known


async def test_nothing_is_republished_without_its_version() -> None:
    """What is held goes nowhere by itself: the layer above sends it, with its version."""
    bench = Bench()
    bench.know(contact(8))
    bench.records.held[KEY] = Held(b"value", {"seq": 7})
    sent = sends(bench.pass_time(bench.now + 20.0))
    bench.now += 3 * DEFAULTS.refresh_every_s
    sent += sends(bench.peer.handle_timer(bench.now))
    assert sent
    assert not [one for one in sent if STORE in one.data]
    async with overlay(records=Records()) as ours:
        ours.storage[KEY] = b"value"
        assert list(ours.storage.iter_older_than(0)) == []


def test_a_get_waits_for_no_store_and_sends_none() -> None:
    bench = Bench()
    bench.know(contact(8), contact(9))
    one, other = sends(bench.peer.find_value(1, KEY, bench.now))
    actions = bench.reply(one, {"value": b"value"})
    assert isinstance(actions[0], Yielded)
    actions += bench.reply(other, [])
    assert not [sent for sent in sends(actions) if STORE in sent.data]


def test_the_same_address_under_a_new_id_replaces_the_old_entry() -> None:
    bench = Bench()
    bench.know(contact(8))
    fresh = Contact(NodeId(b"\x08" * 20), contact(8).address)
    _, ping = bench.asked(wire.Ping(fresh.id), fresh.address)
    assert bench.reply(ping, fresh.id) == [
        ContactDown(contact(8), Why.REPLACED),
        ContactUp(fresh),
    ]


async def test_state_is_no_pickle() -> None:
    async with overlay() as ours:
        with pytest.raises(NotImplementedError):
            ours.save_state("state")
        with pytest.raises(NotImplementedError):
            await ours.load_state("state", 0)


def test_a_list_of_twenty_contacts_is_coded_into_the_same_bytes() -> None:
    contacts = [contact(number) for number in range(20)]
    rows = [(one.id, *one.address) for one in contacts]
    data = wire.encode_nodes(MESSAGE, contacts)
    assert data[21:] == umsgpack.packb(rows)
