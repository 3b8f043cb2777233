"""The routing table: exact neighbours, strikes, replacements, claims."""

import random
from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pweb.dht.contact import Contact, NodeId, distance
from p2pweb.dht.events import ContactDown, ContactMoved, ContactReturned, ContactUp, Why
from p2pweb.dht.settings import DEFAULTS, Settings
from p2pweb.dht.table import Table

OWN = NodeId(bytes(20))
RTT = 0.1


def contact(number: int, port: int | None = None) -> Contact:
    """Contacts 128 to 255 share the farthest bucket of OWN."""
    return Contact(NodeId(bytes([number]) + bytes(19)), ("192.0.2.1", port or 1_000 + number))


def table(options: Settings = DEFAULTS, *numbers: int) -> Table:
    made = Table(OWN, options, 0.0)
    for number in numbers:
        made.proved(contact(number), RTT, 0.0)
    return made


def strike_out(known: Table, one: Contact, now: float, options: Settings = DEFAULTS) -> float:
    """Miss a question as soon as each pause is over; returns when the last one was missed."""
    for pause in (*options.strike_pauses_s, 0.0):
        known.missed(one, now, now)
        now += pause
    return now


ids = st.lists(st.binary(min_size=20, max_size=20), unique=True, max_size=60)
near = st.lists(st.integers(1, 500).map(lambda n: n.to_bytes(20, "big")), unique=True, max_size=60)


@settings(max_examples=150, deadline=None)
@given(ids | near, st.binary(min_size=20, max_size=20) | st.just(bytes(20)), st.integers(0, 25))
def test_nearest_is_what_sorting_gives(raw: list[bytes], key: bytes, count: int) -> None:
    known = Table(OWN, DEFAULTS, 0.0)
    for port, one in enumerate(raw, 1):
        if one != OWN:
            known.proved(Contact(NodeId(one), ("192.0.2.1", port)), RTT, 0.0)
    everyone = sorted((one for one in raw if one != OWN), key=lambda one: distance(one, key))
    assert [one.id for one in known.nearest(key, count)] == everyone[:count]


def test_neighbours_are_the_nearest_without_a_strike() -> None:
    known = table(DEFAULTS, *range(1, 61))
    for number in (1, 3, *range(10, 40)):
        known.missed(contact(number), 1.0, 1.0)
    near = [entry.contact for entry in known.neighbours(10)]
    assert near == [contact(number) for number in (2, *range(4, 10), 40, 41, 42)]
    assert len(known.neighbours(100)) == 28


def test_who_was_heard_last_proved_itself_in_this_run() -> None:
    known = Table(OWN, DEFAULTS, 0.0)
    assert known.last_heard == -inf
    known.restore([contact(1)], 5.0)
    known.answered(contact(1), RTT, 6.0)
    assert known.last_heard == -inf
    known.proved(contact(2), RTT, 7.0)
    known.proved(contact(3), RTT, 8.0)
    known.answered(contact(1), RTT, 9.0)
    assert known.last_heard == 8.0


def test_small_network_keeps_every_contact() -> None:
    assert len(table(DEFAULTS, *range(128, 228))) == 100


def test_full_bucket_keeps_newcomers_as_replacements() -> None:
    options = Settings(k=2, small_network=2, replacements_max=2)
    known = table(options, 200, 201)
    assert known.proved(contact(202), RTT, 1.0) == []
    assert known.proved(contact(203), RTT, 2.0) == []
    assert known.proved(contact(204), RTT, 3.0) == []
    assert len(known) == 2
    assert not known.knows(contact(202))
    assert known.knows(contact(204))
    known.answered(contact(203), RTT, 4.0)
    # Another bucket has room.
    assert known.proved(contact(1), RTT, 5.0) == [ContactUp(contact(1))]
    now = strike_out(known, contact(200), 10.0, options)
    assert known.get(contact(200).id) is None
    assert known.get(contact(204).id) is not None
    # Replacements were silent for longest: they are asked first.
    assert known.stalest(now + 100.0) == contact(204)


def test_replacement_whose_address_was_taken_over_is_passed_over() -> None:
    options = Settings(k=1, small_network=1)
    known = table(options, 200)
    known.proved(contact(201, port=7), RTT, 0.0)
    known.proved(contact(1, port=7), RTT, 0.0)
    strike_out(known, contact(200), 1.0, options)
    assert known.get(contact(201).id) is None
    assert len(known) == 1


def test_replacement_proved_again_takes_a_free_place() -> None:
    options = Settings(k=1, small_network=1)
    known = table(options, 200)
    known.proved(contact(201), RTT, 0.0)
    known.proved(contact(201), RTT, 1.0)
    strike_out(known, contact(200), 2.0, options)
    assert known.get(contact(201).id) is not None


def test_one_lost_packet_drops_nobody() -> None:
    known = table(DEFAULTS, 200)
    assert known.missed(contact(200), 1.0, 1.5) == []
    assert known.suspect(contact(200))
    known.answered(contact(200), RTT, 2.0)
    assert not known.suspect(contact(200))
    assert len(known) == 1


def test_five_misses_with_growing_pauses_drop_a_contact() -> None:
    known = table(DEFAULTS, 200)
    one = contact(200)
    now = 10.0
    for pause in DEFAULTS.strike_pauses_s:
        assert known.missed(one, now, now) == []
        # A burst of misses is one strike.
        assert known.missed(one, now + pause / 2, now + pause / 2) == []
        assert known.next_due <= now + pause
        assert known.due(now) == []
        assert known.next_due == now + pause
        now += pause
        assert known.due(now) == [one]
        # Not asked after all: due again by itself.
        assert known.next_due == now + pause
    assert known.missed(one, now, now) == [ContactDown(one, Why.SILENT)]
    assert len(known) == 0
    assert known.due(now + 100.0) == []
    assert known.next_due == inf
    assert known.suspect(one)
    assert known.missed(one, now, now) == []


def test_misses_older_than_an_answer_do_not_count() -> None:
    known = table(DEFAULTS, 200)
    known.answered(contact(200), RTT, 5.0)
    known.missed(contact(200), 4.0, 6.0)
    entry = known.get(contact(200).id)
    assert entry is not None
    assert entry.strikes == 0


def test_a_return_is_reported_with_its_absence() -> None:
    known = table(DEFAULTS, 200)
    gone = strike_out(known, contact(200), 10.0)
    assert known.proved(contact(200), RTT, gone + 60.0) == [ContactReturned(contact(200), 60.0)]


def test_struck_out_contacts_are_asked_seldom_and_forgotten_in_time() -> None:
    options = Settings(gone_max=2, gone_for_s=1_000.0, gone_pause_s=30.0)
    known = table(options, 200, 201, 202)
    for number in (200, 201, 202):
        strike_out(known, contact(number), 10.0, options)
    # Struck out at 25; the first of three gave way.
    assert known.remembered(54.0) is None
    assert known.remembered(55.0) == contact(201)
    assert known.remembered(56.0) == contact(202)
    assert known.remembered(57.0) is None
    assert not known.suspect(contact(200))
    assert known.remembered(1_026.0) is None
    assert known.proved(contact(201), RTT, 1_027.0) == [ContactUp(contact(201))]


def test_same_address_under_a_new_id_replaces_the_old_entry() -> None:
    known = table(DEFAULTS, 200)
    events = known.proved(contact(7, port=1_200), RTT, 1.0)
    assert events == [
        ContactDown(contact(200), Why.REPLACED),
        ContactUp(contact(7, port=1_200)),
    ]
    assert known.at(("192.0.2.1", 1_200)) is known.get(contact(7).id)
    assert len(known) == 1


def test_same_id_at_a_new_address_is_followed_once_the_old_one_is_silent() -> None:
    known = table(DEFAULTS, 200)
    moved = contact(200, port=9)
    assert known.proved(moved, RTT, 10.0) == []
    # The old address is asked at once.
    assert known.due(10.0) == [contact(200)]
    assert known.missed(contact(200), 10.0, 10.5) == []
    # Already struck: the claim waits for the next miss and changes no pause.
    assert known.proved(moved, RTT, 10.6) == []
    assert known.due(11.5) == [contact(200)]
    assert known.missed(contact(200), 11.5, 12.0) == [ContactMoved(moved, contact(200).address)]
    assert known.get(moved.id).contact == moved  # type: ignore[union-attr]
    assert known.at(contact(200).address) is None
    assert known.due(100.0) == []
    assert known.next_due == inf


def test_claim_is_refuted_by_an_answer_from_the_known_address() -> None:
    known = table(DEFAULTS, 200)
    known.proved(contact(200, port=9), RTT, 10.0)
    known.answered(contact(200), RTT, 10.1)
    known.missed(contact(200), 11.0, 11.0)
    known.missed(contact(200), 13.0, 13.0)
    assert known.get(contact(200).id).contact == contact(200)  # type: ignore[union-attr]


def test_contact_silent_before_its_new_address_is_proved_is_followed_at_once() -> None:
    known = table(DEFAULTS, 200, 201)
    known.missed(contact(200), 1.0, 1.0)
    known.missed(contact(200), 2.0, 2.0)
    # It even took over the address of another.
    moved = contact(200, port=1_201)
    assert known.proved(moved, RTT, 3.0) == [
        ContactDown(contact(201), Why.REPLACED),
        ContactMoved(moved, contact(200).address),
    ]
    assert len(known) == 1
    assert not known.suspect(moved)


def test_answers_from_elsewhere_are_nobodys() -> None:
    known = table(DEFAULTS, 200)
    known.answered(contact(200, port=9), RTT, 5.0)
    known.answered(contact(5), RTT, 5.0)
    assert known.missed(contact(200, port=9), 6.0, 6.0) == []
    assert not known.suspect(contact(5))
    assert not known.knows(Contact(OWN, ("192.0.2.1", 3)))
    assert [entry.last_answer for entry in known] == [0.0]


def test_stalest_is_asked_first() -> None:
    known = table(DEFAULTS, 200, 201, 202)
    assert known.stalest(DEFAULTS.fresh_for_s - 1.0) is None
    known.answered(contact(200), RTT, 1.0)
    assert known.stalest(100.0) == contact(201)
    known.missed(contact(201), 100.0, 100.0)
    assert known.stalest(100.0) == contact(202)
    known.missed(contact(202), 100.0, 100.0)
    known.missed(contact(200), 100.0, 100.0)
    assert known.stalest(100.0) is None


def test_refresh_looks_into_every_idle_bucket_beyond_the_nearest_contact() -> None:
    known = table(DEFAULTS, 32)
    assert table().stale_keys(1e9, random.Random(1), idle_s=0.0) == []
    assert known.stale_keys(10.0, random.Random(1), idle_s=3_600.0) == []
    keys = known.stale_keys(10.0, random.Random(1), idle_s=0.0)
    assert [distance(key, OWN).bit_length() for key in keys] == [158, 159, 160]
    known.touch(keys[1], 4_000.0)
    known.touch(OWN, 4_000.0)
    again = known.stale_keys(4_000.0, random.Random(1), idle_s=3_600.0)
    assert [distance(key, OWN).bit_length() for key in again] == [158, 160]


def test_refresh_of_the_innermost_bucket() -> None:
    known = Table(OWN, DEFAULTS, 0.0)
    closest = Contact(NodeId(bytes(19) + b"\x01"), ("192.0.2.1", 1))
    known.proved(closest, RTT, 0.0)
    assert known.stale_keys(1.0, random.Random(1), idle_s=0.0)[0] == closest.id


def test_an_address_that_answers_under_many_ids_is_in_the_table_once() -> None:
    """Found by `test_books_balance`: the ids that wait are no heirs of their own address."""
    options = Settings(k=1, small_network=1)
    known = table(options, 200)
    # Both wait behind 200 for its place, at one address; the later gets it.
    known.proved(contact(201, port=7), RTT, 0.0)
    known.proved(contact(202, port=7), RTT, 0.0)
    now = strike_out(known, contact(200), 1.0, options)
    assert [entry.contact for entry in known] == [contact(202, port=7)]
    # The one that still waits evicts it, and inherits nothing beside what it is given.
    assert known.proved(contact(201, port=7), RTT, now) == [
        ContactDown(contact(202, port=7), Why.REPLACED),
        ContactUp(contact(201, port=7)),
    ]
    assert known.nearest(OWN, 9) == [contact(201, port=7)]
    strike_out(known, contact(201, port=7), now + 1.0, options)
    assert known.nearest(OWN, 9) == []


def test_a_replacement_that_moved_waits_at_its_new_address_unmeasured() -> None:
    options = Settings(k=1, small_network=1)
    known = table(options, 200)
    known.proved(contact(201), RTT, 0.0)
    known.proved(contact(201, port=9), 3 * RTT, 0.0)
    assert not known.knows(contact(201))
    strike_out(known, contact(200), 1.0, options)
    entry = known.at(("192.0.2.1", 9))
    assert entry is not None
    assert entry.rtt.smoothed_s == 3 * RTT


steps = st.lists(
    st.tuples(
        st.sampled_from(["proved", "proved", "answered", "missed", "due"]),
        st.sampled_from([1, 2, 100, 200, 201, 202, 203, 204]),
        st.integers(1, 4),
    ),
    max_size=120,
)


@settings(max_examples=150, deadline=None)
@given(steps)
def test_books_balance(history: list[tuple[str, int, int]]) -> None:
    """A few ids at fewer addresses claim one another's places in a table that is too small."""
    options = Settings(k=2, small_network=2, replacements_max=2, strikes_max=3, gone_max=2)
    known = Table(OWN, options, 0.0)
    for now, (what, number, port) in enumerate(history, 1):
        one = contact(number, port)
        if what == "proved":
            known.proved(one, RTT, now)
        elif what == "answered":
            known.answered(one, RTT, now)
        elif what == "missed":
            known.missed(one, now, now)
        else:
            known.due(now)
        entries = list(known)
        assert len({entry.contact.id for entry in entries}) == len(known)
        assert len({entry.contact.address for entry in entries}) == len(known)
        for entry in entries:
            assert known.at(entry.contact.address) is entry
            assert known._waiting(entry.contact.id) is None
        assert sorted(known.nearest(OWN, 99), key=lambda each: each.id) == sorted(
            (entry.contact for entry in entries), key=lambda each: each.id
        )
        assert sum(known._sizes) == len(known)
        assert all(len(waiting) <= 2 for waiting in known._replacements.values())


def test_a_contact_is_wanted_while_there_is_a_place_or_a_place_to_wait() -> None:
    known = table(Settings(k=1, small_network=1, replacements_max=1))
    for number in (128, 129):
        assert known.wants(contact(number))
        known.proved(contact(number), RTT, 0.0)
    assert not known.wants(contact(130))
    # Another bucket is another matter, and so is a contact of the table that moved or restarted.
    assert known.wants(contact(1))
    assert known.wants(contact(128, port=9))
    assert known.wants(Contact(contact(130).id, contact(128).address))


def test_nobody_is_wanted_of_a_range_that_has_all_its_places() -> None:
    known = table(Settings(range_limit=1))
    one, other, elsewhere = (
        Contact(contact(number).id, (host, 1))
        for number, host in ((1, "8.8.8.1"), (200, "8.8.8.2"), (200, "8.8.9.1"))
    )
    known.proved(one, RTT, 0.0)
    assert not known.wants(other)
    assert known.wants(elsewhere)
    assert known.wants(Contact(other.id, one.address))
