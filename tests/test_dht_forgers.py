"""Ten thousand ids that are nobody's, and what addresses get that never prove themselves."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable

from fuzzing.amplification import measure
from test_dht_overlay import Records, overlay
from test_dht_peer import KEY, MESSAGE, Bench, contact, sends

from p2pweb.dht import wire
from p2pweb.dht.contact import Address, Contact, NodeId, distance
from p2pweb.dht.events import Action, ContactDown, LookupDone, Yielded
from p2pweb.dht.settings import DEFAULTS, Settings

FORGED = 10_000
HONEST = [contact((n << 152) + n, port=1_000 + n) for n in range(1, 31)]
# Addresses of which each answers, under whatever id it claimed last.
FEW: list[Address] = [(f"203.0.113.{n}", 7_000) for n in range(1, 6)]
SMALL = Settings(k=8, small_network=40)


Tell = Callable[[Address], object]


def answer_all(
    bench: Bench, actions: list[Action], claimed: dict[Address, bytes], tell: Tell | None = None
) -> list[Action]:
    """Let the honest and the few answer until nothing more is asked; what happened.

    Pings are answered with ids, the questions of lookups with what `tell` says.
    """
    happened: list[Action] = []
    names = {one.address: one.id for one in HONEST} | claimed
    while actions:
        happened += actions
        bench.now += 0.001
        heard: list[Action] = []
        for sent in sends(actions):
            asked = wire.decode(sent.data)
            if not isinstance(asked, wire.Asked) or sent.address not in names:
                continue
            if isinstance(asked.question, wire.Ping):
                heard += bench.reply(sent, names[sent.address])
            elif tell is not None:
                heard += bench.reply(sent, tell(sent.address))
        # Whoever searches here wants all values.
        for one in [one for one in heard if isinstance(one, Yielded)]:
            heard += bench.peer.resume(one.token, bench.now)
        actions = heard
    return happened


def assert_knows_the_honest(bench: Bench, happened: list[Action]) -> None:
    table = bench.peer.table
    assert all(table.knows(one) and not table.suspect(one) for one in HONEST)
    assert not [one for one in happened if isinstance(one, ContactDown) and one.contact in HONEST]


def pass_time(
    bench: Bench, seconds: float, claimed: dict[Address, bytes], tell: Tell | None = None
) -> list[Action]:
    """As `Bench.pass_time`, and whoever is asked meanwhile answers."""
    until = bench.now + seconds
    happened: list[Action] = []
    while (when := bench.peer.next_timer()) <= until:
        bench.now = max(bench.now, when)
        happened += answer_all(bench, bench.peer.handle_timer(bench.now), claimed, tell)
    bench.now = max(bench.now, until)
    return happened


def test_ten_thousand_forged_ids_from_silent_addresses_displace_nobody() -> None:
    bench = Bench(SMALL)
    bench.know(*HONEST)
    rng = random.Random(1)
    happened: list[Action] = []
    for number in range(FORGED):
        bench.now += 0.002
        source = (f"198.51.{number >> 8}.{number & 255}", 9)
        question = wire.Ping(NodeId(rng.randbytes(20)))
        happened += answer_all(bench, bench.asked(question, source), {})
    happened += pass_time(bench, 120.0, {})
    assert_knows_the_honest(bench, happened)
    assert len(bench.peer.table) == len(HONEST)


def test_ten_thousand_forged_ids_from_a_few_that_answer_take_a_place_for_each_address() -> None:
    bench = Bench(SMALL)
    bench.know(*HONEST)
    rng = random.Random(2)
    claimed: dict[Address, bytes] = {}
    happened: list[Action] = []
    for number in range(FORGED):
        bench.now += 0.01
        source = FEW[number % len(FEW)]
        claimed[source] = rng.randbytes(20)
        question = wire.FindNode(NodeId(claimed[source]), KEY)
        happened += answer_all(bench, bench.asked(question, source), claimed)
    happened += pass_time(bench, 120.0, claimed)
    assert_knows_the_honest(bench, happened)
    assert len(bench.peer.table) <= len(HONEST) + len(FEW)
    # Nor did they keep the log and the saved state busy.
    changes = [one for one in happened if isinstance(one, ContactDown)]
    seconds = FORGED * 0.01 + 120.0
    most = seconds / DEFAULTS.ids_each_pause_s + DEFAULTS.ids_each_burst
    assert len(changes) <= len(FEW) * most


def test_the_ids_of_honest_contacts_claimed_from_elsewhere_stay_where_they_are() -> None:
    bench = Bench(SMALL)
    bench.know(*HONEST)
    happened: list[Action] = []
    for number in range(300):
        bench.now += 1.0
        source, victim = FEW[number % len(FEW)], HONEST[number % len(HONEST)]
        actions = bench.asked(wire.Ping(victim.id), source)
        happened += answer_all(bench, actions, {source: victim.id})
    happened += pass_time(bench, 60.0, {})
    assert_knows_the_honest(bench, happened)


def test_forged_contacts_in_answers_displace_nobody_and_hide_nothing() -> None:
    bench = Bench(SMALL)
    liars = [Contact(NodeId(bytes([9, n]) * 10), FEW[n]) for n in range(5)]
    bench.know(*HONEST, *liars)
    claimed: dict[Address, bytes] = {one.address: one.id for one in liars}
    rng = random.Random(3)
    forged = 0
    happened: list[Action] = []
    for token in range(1, 36):
        # Near the liars, so that each of them is asked.
        key = liars[0].id[:1] + rng.randbytes(19)

        def tell(address: Address, key: bytes = key) -> object:
            nonlocal forged
            if address not in FEW:
                return {"value": b"value"}
            # Nearer than anybody, at addresses of others or of nobody.
            rows = [
                [key[:16] + rng.randbytes(4), f"198.51.100.{rng.randrange(1, 255)}", 9]
                for _ in range(60)
            ]
            forged += len(rows) + 2
            return [
                *rows,
                [key[:17] + rng.randbytes(3), *HONEST[0].address],
                [HONEST[1].id, "198.51.100.1", 9],
            ]

        asked = bench.peer.find_value(token, key, bench.now)
        happened = answer_all(bench, asked, claimed, tell)
        happened += pass_time(bench, 12.0, claimed, tell)
        assert any(isinstance(one, Yielded) for one in happened)
        assert any(isinstance(one, LookupDone) and one.token == token for one in happened)
        assert_knows_the_honest(bench, happened)
    assert forged >= FORGED
    assert len(bench.peer.table) == len(HONEST) + len(liars)


def test_a_liar_under_many_ids_flushes_little_of_what_others_said() -> None:
    """It answers every question at every port of its host, each time with 64 inventions there."""
    options = Settings(hearsay_max=200, hearsay_each_max=20)
    bench = Bench(options)
    teller, liar = HONEST[0], Contact(NodeId(b"\x09" * 20), ("203.0.113.66", 7_000))
    bench.know(teller, liar)
    rng = random.Random(4)
    named = [Contact(NodeId(rng.randbytes(20)), (f"198.51.100.{n}", 9)) for n in range(1, 21)]
    key = rng.randbytes(20)
    ids = {one.address: one.id for one in [teller, *named]}

    def ask(token: int, tell: Callable[[Address], object]) -> None:
        actions = bench.peer.find_node(token, key, bench.now)
        while actions:
            heard: list[Action] = []
            for sent in sends(actions):
                rows = tell(sent.address)
                asked = wire.decode(sent.data)
                if rows is not None and isinstance(asked, wire.Asked):
                    is_ping = isinstance(asked.question, wire.Ping)
                    own = ids.get(sent.address, liar.id)
                    heard += bench.reply(sent, own if is_ping else rows)
            actions = heard
        bench.peer.cancel(token, bench.now)

    ask(1, lambda at: [[one.id, *one.address] for one in named] if at == teller.address else None)
    hearsay = bench.peer._lookups._hearsay
    assert len(hearsay) == len(named)
    told = 0

    def invent(address: Address) -> object:
        nonlocal told
        if address[0] != liar.address[0]:
            return []
        told += 64
        return [
            [key[:16] + rng.randbytes(4), liar.address[0], rng.randrange(1_024, 60_000)]
            for _ in range(64)
        ]

    for token in range(2, 5):
        ask(token, invent)
        bench.now += 0.001
    assert told > 10 * options.hearsay_max
    heard = hearsay.nearest(key, 1_000, bench.now)
    assert set(named) <= set(heard)
    assert len(heard) <= len(named) + options.hearsay_each_max


def test_invented_contacts_hide_neither_a_value_nor_who_holds_it() -> None:
    """Half of the table is liars, who answer at every port of their hosts."""
    bench = Bench()
    rng = random.Random(5)
    honest = [Contact(NodeId(rng.randbytes(20)), (f"198.51.100.{n}", 9)) for n in range(1, 41)]
    liars = [Contact(NodeId(rng.randbytes(20)), (f"203.0.113.{n}", 9)) for n in range(1, 41)]
    bench.know(*honest, *liars)
    ids = {one.address: one.id for one in (*honest, *liars)}
    for token in range(1, 6):
        key = rng.randbytes(20)
        near = sorted([*honest, *liars], key=lambda one: distance(one.id, key))
        holders = {one.address for one in near[: DEFAULTS.first_hand] if one in honest}
        assert holders
        found: set[Address] = set()
        asks = 0
        actions = bench.peer.find_value(token, key, bench.now)
        while not any(isinstance(one, LookupDone) for one in actions):
            heard: list[Action] = []
            for sent in sends(actions):
                if b"find_" not in sent.data:
                    if sent.address in ids:
                        heard += bench.reply(sent, ids[sent.address])
                    continue
                # What is invented next to the key is a crowd, which is looked around.
                asks += b"find_value" in sent.data
                bench.now += 0.0001
                if sent.address in holders and b"find_value" in sent.data:
                    heard += bench.reply(sent, {"value": b"value"})
                    heard += bench.peer.resume(token, bench.now)
                elif sent.address[0].startswith("198."):
                    heard += bench.reply(sent, [[one.id, *one.address] for one in near[:20]])
                else:
                    host = f"203.0.113.{rng.randrange(1, 41)}"
                    rows = [[key[:18] + rng.randbytes(2), host, n] for n in range(100, 164)]
                    heard += bench.reply(sent, rows)
            actions = heard or bench.pass_time(bench.peer.next_timer())
            found |= {one.found.contact.address for one in actions if isinstance(one, Yielded)}
        assert found == holders
        assert asks <= DEFAULTS.asks_max


# --- over real sockets ---


async def test_no_question_brings_more_than_three_times_its_size_to_an_unproved_address() -> None:
    measured = await measure()
    assert max(one.ratio for one in measured) <= DEFAULTS.amplification_max
    assert max(one.ratio_on_the_wire for one in measured) <= DEFAULTS.amplification_max
    got = {one.name: one.datagrams for one in measured if one.questions == 1}
    # Each kind was heard: an answer, or the pings that a long answer waits for.
    for name in ("ping", "store", "find_node", "find_value, held", "find_value, not held", "stun"):
        assert got[name]
    assert not got["garbage"]


async def test_a_flood_over_real_sockets_leaves_a_peer_that_answers() -> None:
    async with overlay(records=Records()) as ours, overlay(seed=2) as friend:
        assert await friend.join(ours.addresses) == 1
        question = wire.encode_question(MESSAGE, wire.FindNode(NodeId(b"f" * 20), KEY))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as raw:
            for _ in range(20):
                for _ in range(50):
                    raw.sendto(question, ours.addresses[0])
                assert await friend.ping(ours.addresses[0]) is not None
        assert [one.address for one in friend.contacts()] == ours.addresses
