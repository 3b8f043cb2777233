"""Answers to the questions of others, as stock nodes expect them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import umsgpack

from p2pweb.dht import wire
from p2pweb.dht.contact import Address, Contact, NodeId
from p2pweb.dht.serving import REFUSED_ANSWER, REFUSED_VALUE, Held, Service
from p2pweb.dht.settings import Settings
from p2pweb.dht.table import Table

OWN = NodeId(bytes(20))
ASKER = NodeId(b"\x01" * 20)
KEY = b"k" * 20
MESSAGE = b"m" * 20
HERE = ("192.0.2.99", 99)


def contact(number: int, port: int | None = None) -> Contact:
    return Contact(NodeId(number.to_bytes(20, "big")), ("192.0.2.1", port or 1_000 + number))


class Records:
    """Records that note every STORE and answer it as told."""

    def __init__(self, answer: bool | Mapping[str, wire.Plain] = True) -> None:
        self.held: dict[bytes, Held] = {}
        self.stored: list[tuple[bytes, bytes, Address]] = []
        self.answer = answer

    def find(self, key: bytes) -> Held | None:
        return self.held.get(key)

    def store(self, key: bytes, value: bytes, sender: Address) -> bool | Mapping[str, wire.Plain]:
        self.stored.append((key, value, sender))
        return self.answer


def answer(
    question: wire.Question, records: Records, *known: Contact, k: int = 3, here: Address = HERE
) -> object:
    """What a service with these contacts and records answers, unpacked as a stock node does."""
    settings = Settings(k=k)
    table = Table(OWN, settings, 0.0)
    for one in known:
        table.proved(one, 0.1, 0.0)
    service = Service(OWN, table, records, settings)
    data = service.answer(wire.Asked(MESSAGE, question), here)
    assert data[:21] == b"\x01" + MESSAGE
    assert len(data) <= wire.ANSWER_BYTES_MAX
    return umsgpack.unpackb(data[21:])


def test_ping_is_answered_by_our_id() -> None:
    assert answer(wire.Ping(ASKER), Records()) == OWN


def test_stun_is_answered_by_the_address_it_came_from() -> None:
    assert answer(wire.Stun(), Records()) == list(HERE)


@pytest.mark.parametrize("verdict", [True, False, {"stale": 7}])
def test_store_is_answered_by_what_the_records_say(verdict: bool | dict[str, wire.Plain]) -> None:
    records = Records(verdict)
    assert answer(wire.Store(ASKER, KEY, b"value"), records) == verdict
    assert records.stored == [(KEY, b"value", HERE)]


def test_store_of_what_can_never_be_ours_is_refused_aloud() -> None:
    records = Records()
    assert answer(wire.Store(ASKER, KEY, None), records) == REFUSED_VALUE
    assert records.stored == []


def test_answer_to_a_store_that_fits_no_datagram_counts_as_no_copy() -> None:
    records = Records({"want": b"x" * wire.ANSWER_BYTES_MAX})
    assert answer(wire.Store(ASKER, KEY, b"value"), records) == REFUSED_ANSWER


def test_find_node_names_the_nearest_as_tuples_of_three() -> None:
    known = [contact(number) for number in range(1, 8)]
    rows = answer(wire.FindNode(ASKER, bytes(20)), Records(), *known)
    assert rows == [[one.id, *one.address] for one in known[:3]]


def test_who_asks_is_named_neither_by_id_nor_by_address() -> None:
    by_id, by_address = contact(1), contact(2, port=7)
    known = [by_id, by_address, contact(3), contact(4), contact(5)]
    question = wire.FindNode(by_id.id, bytes(20))
    rows = answer(question, Records(), *known, here=by_address.address)
    assert rows == [[one.id, *one.address] for one in known[2:]]


def test_find_value_is_answered_by_a_value_held_and_what_stands_beside_it() -> None:
    records = Records()
    records.held[KEY] = Held(b"value", {"seq": 3})
    assert answer(wire.FindValue(ASKER, KEY), records) == {"value": b"value", "seq": 3}


def test_find_value_without_a_value_names_the_nearest() -> None:
    rows = answer(wire.FindValue(ASKER, bytes(20)), Records(), contact(1))
    assert rows == [[contact(1).id, *contact(1).address]]


def test_longest_value_fits_and_what_stands_beside_it_gives_way() -> None:
    records = Records()
    longest = b"v" * wire.VALUE_BYTES_MAX
    records.held[KEY] = Held(longest, {"seq": 2**63, "leaving": True})
    assert answer(wire.FindValue(ASKER, KEY), records) == {
        "value": longest,
        "seq": 2**63,
        "leaving": True,
    }
    records.held[KEY] = Held(longest, {"x" * 200: 1})
    assert answer(wire.FindValue(ASKER, KEY), records) == {"value": longest}


def test_a_value_too_long_or_named_twice_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="1025 bytes"):
        Held(b"v" * (wire.VALUE_BYTES_MAX + 1))
    with pytest.raises(ValueError, match="taken"):
        Held(b"v", {"value": 1})
