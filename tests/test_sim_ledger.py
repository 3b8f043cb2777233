"""The judge of a run, the values that prove themselves, and the figures."""

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pweb.dht.contact import key_for
from p2pweb.sim.copies import Survey
from p2pweb.sim.ledger import VIOLATIONS_SHOWN, Ledger, Outcome
from p2pweb.sim.report import percentile, report
from p2pweb.sim.run import Run, Sample
from p2pweb.sim.scenario import Expected, Scenario, Workload
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
    # Sent by somebody, and acknowledged by nobody.
    assert outcome([]) == (Outcome.NOT_FOUND, 0)


def test_absence_is_of_what_nobody_sent_and_proved_by_who_had_to_know() -> None:
    ledger = Ledger()
    ledger.got("absent", [], 0, TIMES_S)
    ledger.got("absent", [], 0, TIMES_S, is_proved=False)
    ledger.sending("name", 1)
    ledger.got("name", [], 0, TIMES_S, is_proved=False)
    seen = [get.outcome for get in ledger.gets]
    assert seen == [Outcome.PROVED_ABSENT, Outcome.NOT_PROVED, Outcome.NOT_FOUND]


def test_puts_before_the_measurement_have_no_times_and_their_failures_are_kept() -> None:
    ledger = Ledger(puts_failed=2)
    ledger.acknowledged("name", 1, 0.5)
    ledger.begin()
    ledger.acknowledged("name", 2, None)
    assert (ledger.puts_s, ledger.puts_failed, ledger.puts_failed_before) == ([], 0, 2)
    assert ledger.newest("name") == 2


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


def missed(
    expected: Expected,
    ledger: Ledger,
    *,
    surveys: Sequence[Survey] = (),
    streamed: Mapping[str, int] | None = None,
) -> list[str]:
    """What a run of this ledger, which began at 0, lacks."""
    scenario = Scenario(about="", expected=expected, workload=Workload(gets_want="newest"))
    seen = Run(
        scenario=scenario,
        seed=1,
        began_s=0.0,
        ended_s=10.0,
        ledger=ledger,
        samples=[Sample(0.0, 0, 0, 1), Sample(10.0, 0, 0, 1)],
        by_kind={},
        streamed=dict(streamed or {}),
        peer_seconds=10.0,
        contacts=[],
        contacts_dead=0.0,
        trace="",
        wall_s=0.0,
        cpu_s=0.0,
        grow_cpu_s=0.0,
        surveys=[*surveys],
    )
    return report(seen).missed


@pytest.mark.parametrize(
    "expected",
    [
        Expected(found=0.5),
        Expected(served=0.5),
        Expected(newest=0.5),
        Expected(proved=0.5),
        Expected(hit_p50_rtt=9.0),
        Expected(hit_p99_rtt=9.0),
        Expected(miss_p99_rtt=9.0),
        Expected(lost=0),
    ],
)
def test_what_nobody_measured_is_missed(expected: Expected) -> None:
    (said,) = missed(expected, Ledger())
    assert "nothing measured" in said
    assert missed(Expected(), Ledger()) == []


def test_puts_that_failed_are_judged_those_before_the_measurement_too() -> None:
    for ledger in (Ledger(puts_failed=1), Ledger(puts_failed_before=1)):
        assert missed(Expected(puts_failed=0), ledger) == [
            "puts that failed: 1 instead of at most 0"
        ]
        assert missed(Expected(puts_failed=1), ledger) == []


def test_misses_that_nobody_proved_are_judged_apart_from_what_was_found() -> None:
    ledger = Ledger()
    ledger.sending("name", 1)
    ledger.got("name", [1], 1, TIMES_S)
    ledger.got("absent", [], 0, TIMES_S)
    ledger.got("absent", [], 0, TIMES_S, is_proved=False)
    assert missed(Expected(found=1.0, proved=0.5), ledger) == []
    (said,) = missed(Expected(found=1.0, proved=0.6), ledger)
    assert said.startswith("misses that were proved: 0.5 ")


def test_found_may_be_judged_from_a_later_moment_on() -> None:
    ledger = Ledger()
    ledger.sending("name", 1)
    ledger.got("name", [], 1, TIMES_S)
    ledger.got("name", [1], 1, (5.0, 0.1, 0.2))
    assert missed(Expected(found=1.0, found_after_s=2.0), ledger) == []
    assert missed(Expected(found=1.0), ledger) != []


def test_an_older_version_counts_as_served_and_against_the_newest_where_it_would_show() -> None:
    ledger = Ledger()
    for seq in (1, 2):
        ledger.sending("name", seq)
    for seqs in ([2], [2], [1]):
        ledger.got("name", [*seqs], 2, TIMES_S)
    ledger.got("name", [2], 2, TIMES_S, shows=False)
    ledger.got("name", [], 2, TIMES_S)
    assert missed(Expected(served=0.8, newest=2 / 3, found=0.6), ledger) == []
    said = missed(Expected(served=0.81, newest=0.67), ledger)
    assert said == [
        "any version found: 0.8 instead of at least 0.81",
        "newest version found: 0.666667 instead of at least 0.67",
    ]


def test_a_file_lost_in_one_survey_is_lost() -> None:
    surveys = [Survey(at_s, 20, 0, 8, 0, lost) for at_s, lost in ((1.0, 0), (2.0, 1), (3.0, 0))]
    (said,) = missed(Expected(lost=0), Ledger(), surveys=surveys)
    assert said == "files lost: 1 instead of at most 0"
    assert missed(Expected(lost=1), Ledger(), surveys=surveys) == []


def test_of_what_peers_send_one_another_bodies_are_not_judged() -> None:
    streamed = {"blob": 1_000_000, "publish": 1_000_000, "copies": 500, "peer": 510}
    streamed["bodies"] = 1_000_000
    (said,) = missed(Expected(traffic_bytes_per_s=100), Ledger(), streamed=streamed)
    assert said == "traffic, bytes a second: 101 instead of at most 100"
    assert missed(Expected(traffic_bytes_per_s=101), Ledger(), streamed=streamed) == []
