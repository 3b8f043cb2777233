"""The judge of a run, the values that prove themselves, and the figures."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pweb.dht.contact import key_for
from p2pweb.sim.ledger import VIOLATIONS_SHOWN, Ledger, Outcome
from p2pweb.sim.report import percentile
from p2pweb.sim.values import Publisher, Shelf

TIMES_S = (1.0, 0.1, 0.2)


def outcome(seqs: list[int | None], acknowledged: int = 0) -> tuple[Outcome, int]:
    ledger = Ledger()
    for seq in range(1, 4):
        ledger.sending("name", seq)
    if acknowledged:
        ledger.acknowledged("name", acknowledged, 0.5)
    ledger.got("name", seqs, ledger.newest("name"), TIMES_S)
    return ledger.gets[0].outcome, ledger.violations_count


def test_outcomes() -> None:
    assert outcome([2], acknowledged=2) == (Outcome.FOUND, 0)
    assert outcome([1, None, 2], acknowledged=2) == (Outcome.FOUND, 0)
    # On its way, and newer than what was acknowledged.
    assert outcome([3], acknowledged=2) == (Outcome.FOUND, 0)
    assert outcome([1], acknowledged=2) == (Outcome.STALE, 0)
    assert outcome([None], acknowledged=2) == (Outcome.NOT_FOUND, 0)
    assert outcome([]) == (Outcome.PROVED_ABSENT, 0)


def test_a_value_that_nobody_published_is_a_violation() -> None:
    assert outcome([4], acknowledged=2) == (Outcome.FOUND, 1)
    ledger = Ledger()
    for _ in range(VIOLATIONS_SHOWN + 5):
        ledger.got("absent", [1], 0, TIMES_S)
    assert ledger.violations_count == VIOLATIONS_SHOWN + 5
    assert len(ledger.violations) == VIOLATIONS_SHOWN


def test_a_value_proves_its_key_and_its_seq() -> None:
    publisher = Publisher(1, 300)
    value = publisher.make(b"k" * 20, 7)
    assert len(value) == 300
    assert publisher.read(b"k" * 20, value) == 7
    assert publisher.read(b"l" * 20, value) is None
    assert Publisher(2, 300).read(b"k" * 20, value) is None
    for index in (0, 7, 8, 23, 24, 299):
        forged = bytearray(value)
        forged[index] ^= 1
        assert publisher.read(b"k" * 20, bytes(forged)) is None
    assert publisher.read(b"k" * 20, b"") is None


def test_a_shelf_keeps_the_newest_that_proves_itself() -> None:
    publisher = Publisher(1, 64)
    shelf, key, sender = Shelf(publisher), key_for("name"), ("192.0.2.1", 1)
    assert shelf.find(key) is None
    assert shelf.store(key, publisher.make(key, 2), sender) is True
    assert shelf.store(key, publisher.make(key, 1), sender) == {"stale": 2}
    assert shelf.store(key, b"made up", sender) == {"refused": "it proves nothing"}
    held = shelf.find(key)
    assert held is not None
    assert publisher.read(key, held.value) == 2


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200), st.floats(0.01, 1.0))
def test_a_percentile_is_the_smallest_that_enough_do_not_exceed(
    values: list[float], share: float
) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-6
    assert sum(value < found for value in values) < share * len(values) + 1e-6


def test_no_values_no_percentile() -> None:
    assert percentile([], 0.5) is None
    assert percentile([1.0, 2.0, 3.0, 4.0], 0.5) == pytest.approx(2.0)
