"""One address range fills neither the table nor what waits behind it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pweb.dht.contact import Contact, NodeId
from p2pweb.dht.events import ContactDown, ContactMoved, ContactUp, Why
from p2pweb.dht.ranges import RangeCounts, range_of
from p2pweb.dht.settings import DEFAULTS, Settings
from p2pweb.dht.table import Entry, Table

OWN = NodeId(bytes(20))
RTT = 0.1
# Four of a range in the table, two of them in one bucket.
FEW = Settings(range_limit=4)


def contact(number: int, host: str = "9.9.9.1", port: int = 0) -> Contact:
    """Contacts 128 to 255 share the farthest bucket of OWN, 64 to 127 the next, and so on."""
    return Contact(NodeId(bytes([number]) + bytes(19)), (host, port or 1_000 + number))


def strike_out(known: Table, one: Contact, now: float) -> float:
    for pause in (*DEFAULTS.strike_pauses_s, 0.0):
        known.missed(one, now, now)
        now += pause
    return now


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("9.9.9.1", "9.9.9.254"),
        ("2620:fe::1", "2620:fe:0:ffff::9"),
        # An IPv4 address and its 6to4 and NAT64 spellings.
        ("9.9.9.1", "2002:909:909::1"),
        ("9.9.9.1", "64:ff9b::9.9.9.77"),
    ],
)
def test_addresses_that_one_tenant_can_have_are_of_one_range(one: str, other: str) -> None:
    assert range_of(one) is not None
    assert range_of(one) == range_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("9.9.9.1", "9.9.10.1"),
        ("2620:fe::1", "2620:fe:1::1"),
        ("2002:909:909::1", "2002:909:a09::1"),
        ("64:ff9b::9.9.9.1", "64:ff9b::9.9.10.1"),
        # Neither of these is behind a NAT, nor in a network of ours.
        ("100.63.0.1", "100.128.0.1"),
        ("172.15.0.1", "172.32.0.1"),
    ],
)
def test_addresses_of_different_tenants_are_of_different_ranges(one: str, other: str) -> None:
    assert range_of(one) is not None
    assert range_of(other) is not None
    assert range_of(one) != range_of(other)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.31.0.1",
        "192.168.1.10",
        "169.254.3.4",
        "100.64.0.1",
        "::1",
        "fe80::1",
        "fd12:3456::1",
    ],
)
def test_what_is_not_routed_has_no_range(host: str) -> None:
    assert range_of(host) is None


def test_a_range_has_few_places_in_a_bucket_and_in_the_table() -> None:
    known = Table(OWN, FEW, 0.0)
    for number in (200, 201):
        assert known.proved(contact(number), RTT, 0.0) == [ContactUp(contact(number))]
    assert known.proved(contact(202), RTT, 0.0) == []
    assert not known.knows(contact(202))
    assert known.proved(contact(202, "9.9.10.1"), RTT, 0.0) != []
    # In other buckets there is room for two more, and then nowhere.
    for number in (100, 50):
        assert known.proved(contact(number), RTT, 0.0) == [ContactUp(contact(number))]
    assert known.proved(contact(20), RTT, 0.0) == []
    # Whoever is there keeps its place until it is silent; then the next one has it.
    now = strike_out(known, contact(50), 1.0)
    assert known.proved(contact(20), RTT, now) == [ContactUp(contact(20))]


def test_a_school_of_fifty_peers_in_one_lan_is_known_whole() -> None:
    known = Table(OWN, FEW, 0.0)
    for number in range(128, 178):
        known.proved(contact(number, f"192.168.1.{number}"), RTT, 0.0)
    assert len(known) == 50


def test_no_limit_is_no_limit() -> None:
    known = Table(OWN, Settings(range_limit=0), 0.0)
    for number in range(128, 178):
        known.proved(contact(number), RTT, 0.0)
    assert len(known) == 50


def test_a_range_has_few_places_among_the_replacements_and_its_newest_pushes_nobody_out() -> None:
    options = Settings(range_limit=4, k=1, small_network=1)
    known = Table(OWN, options, 0.0)
    known.proved(contact(200, "1.1.1.1"), RTT, 0.0)
    honest = contact(201, "9.9.9.7")
    for one in (honest, *(contact(number) for number in range(202, 250))):
        assert known.proved(one, RTT, 1.0) == []
    assert known.knows(honest)
    assert sum(known.knows(contact(number)) for number in range(202, 250)) == 1


def test_a_replacement_whose_range_has_become_full_is_passed_over() -> None:
    options = Settings(range_limit=1, k=1, small_network=1)
    known = Table(OWN, options, 0.0)
    first, waiting, patient = contact(200, "1.1.1.1"), contact(201), contact(202, "8.8.8.8")
    for one in (first, patient, waiting):
        known.proved(one, RTT, 0.0)
    # The only place of its range goes to a contact of another bucket.
    known.proved(contact(1), RTT, 0.0)
    strike_out(known, first, 1.0)
    assert known.get(patient.id) is not None
    assert known.get(waiting.id) is None
    assert not known.knows(waiting)


def test_a_contact_cannot_move_into_a_full_range() -> None:
    known = Table(OWN, Settings(range_limit=1), 0.0)
    mover, moved = contact(200, "1.1.1.1"), contact(200, "9.9.9.2")
    known.proved(mover, RTT, 0.0)
    known.proved(contact(100), RTT, 0.0)
    assert known.proved(moved, RTT, 1.0) == []
    assert known.missed(mover, 1.0, 1.0) == []
    assert known.missed(mover, 3.0, 3.0) == []
    assert known.get(mover.id).contact == mover  # type: ignore[union-attr]
    # Nor once its silence is established: it is struck out like any other.
    assert known.proved(moved, RTT, 4.0) == []
    known.missed(mover, 6.0, 6.0)
    known.missed(mover, 11.0, 11.0)
    assert known.missed(mover, 20.0, 20.0) == [ContactDown(mover, Why.SILENT)]


def test_a_contact_moves_within_its_full_range_and_to_the_address_of_another() -> None:
    known = Table(OWN, Settings(range_limit=2), 0.0)
    mover, moved = contact(200), contact(200, port=1_100)
    known.proved(mover, RTT, 0.0)
    known.proved(contact(100), RTT, 0.0)
    known.missed(mover, 1.0, 1.0)
    known.missed(mover, 2.0, 2.0)
    assert known.proved(moved, RTT, 3.0) == [
        ContactDown(contact(100), Why.REPLACED),
        ContactMoved(moved, mover.address),
    ]


def test_counts_are_kept_only_while_there_is_something_to_count() -> None:
    counts = RangeCounts(FEW)
    counts.add("9.9.9.1", 3)
    counts.remove("9.9.9.200", 3)
    assert counts._counts == {}


def recount(entries: list[Entry]) -> dict[tuple[bytes, int | None], int]:
    found: Counter[tuple[bytes, int | None]] = Counter()
    for entry in entries:
        known = range_of(entry.contact.address[0])
        if known is not None:
            bucket = int.from_bytes(entry.contact.id, "big").bit_length() - 1
            found.update([(known, None), (known, bucket)])
    return dict(found)


steps = st.lists(
    st.tuples(
        st.sampled_from(["proved", "proved", "proved", "missed", "missed", "restore", "answered"]),
        st.sampled_from([1, 2, 3, 100, 101, 200, 201, 202, 203, 204]),
        st.sampled_from(["9.9.9.1", "9.9.9.2", "2002:909:909::1", "1.1.1.1", "10.0.0.1"]),
        st.integers(1, 3),
    ),
    max_size=150,
)


@settings(max_examples=200, deadline=None)
@given(steps, st.integers(0, 4))
def test_counts_never_drift(history: list[tuple[str, int, str, int]], limit: int) -> None:
    options = Settings(
        k=2, small_network=3, replacements_max=3, strikes_max=3, gone_max=2, range_limit=limit
    )
    known = Table(OWN, options, 0.0)
    for now, (what, number, host, port) in enumerate(history, 1):
        one = contact(number, host, port)
        if what == "proved":
            known.proved(one, RTT, now)
        elif what == "answered":
            known.answered(one, RTT, now)
        elif what == "restore":
            known.restore([one], now)
        else:
            entry = known.get(one.id)
            if entry is not None:
                known.missed(entry.contact, now, now)
        waiting = [entry for queue in known._replacements.values() for entry in queue.values()]
        assert all(entry.proved for entry in waiting)
        for counts, entries in ((known._ranges, list(known)), (known._ranges_waiting, waiting)):
            found = recount(entries) if limit else {}
            assert counts._counts == found
            for (_, bucket), count in found.items():
                assert count <= (limit if bucket is None else options.range_bucket_limit)
