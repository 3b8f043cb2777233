"""What visitors and publishers of a run do, and how it is judged."""

from __future__ import annotations

import gc
from collections import Counter

from p2pweb.sim.ledger import Outcome
from p2pweb.sim.report import report
from p2pweb.sim.run import Run, run
from p2pweb.sim.scenario import Fault, Scenario, Sessions, Workload

VALUES = 3


def run_quietly(
    workload: Workload,
    *,
    peers: int = 8,
    faults: tuple[Fault, ...] = (),
    sessions: Sessions | None = None,
    settle_s: float = 5.0,
) -> Run:
    scenario = Scenario(
        about="a few peers",
        peers=peers,
        hours=0.01,
        settle_s=settle_s,
        faults=list(faults),
        sessions=sessions,
        workload=workload,
    )
    return run(scenario, 1, lambda what, share: None)


def outcomes(done: Run) -> Counter[Outcome]:
    return Counter(get.outcome for get in done.ledger.gets)


def test_whoever_wants_any_sound_value_may_have_an_old_one() -> None:
    parted = (Fault(at_s=0.5, kind="part", share=0.5),)
    for wanted, has_stale in (("first", False), ("newest", True)):
        workload = Workload(values=VALUES, gets_want=wanted, gets_per_s=5.0, updates_per_s=2.0)
        done = run_quietly(workload, faults=parted)
        assert (outcomes(done)[Outcome.STALE] > 0) is has_stale
        assert outcomes(done)[Outcome.FOUND] > 50


def test_where_the_newest_is_wanted_every_value_has_an_older_version() -> None:
    for wanted, newest in (("first", 1), ("newest", 2)):
        done = run_quietly(Workload(values=VALUES, gets_want=wanted, gets_per_s=0.0))
        assert [done.ledger.newest(f"value {number}") for number in range(VALUES)] == [newest] * 3
        assert done.ledger.puts_s == []


def test_what_an_oracle_puts_has_no_time() -> None:
    workload = Workload(values=VALUES, placing="oracle", gets_per_s=1.0, updates_per_s=1.0)
    assert run_quietly(workload).ledger.puts_s == []


def test_sessions_end_while_the_network_settles_and_puts_through_nobody_fail() -> None:
    brief = Sessions(mean_s=1.0, place="same", away_s=1e6)
    done = run_quietly(Workload(values=VALUES), sessions=brief, settle_s=100.0)
    assert done.samples[0].live == 0
    assert done.ledger.puts_failed_before == VALUES
    assert report(done).outcomes["found"] == 0


def test_a_put_through_a_peer_that_dies_meanwhile_has_not_failed() -> None:
    half = (Fault(at_s=10.0, kind="crash", share=0.5),)
    ledger = run_quietly(Workload(gets_per_s=0.0, updates_per_s=20.0), faults=half).ledger
    assert ledger.puts_abandoned > 0
    assert ledger.puts_failed == 0


def test_a_miss_is_not_proved_while_the_nearest_are_not_heard() -> None:
    # A stranger whose answers take longer than anybody waits is near to something.
    slow = (Fault(at_s=0.0, kind="slow", share=0.5, slow_s=60.0),)
    done = run_quietly(Workload(values=VALUES, misses=1.0, gets_per_s=2.0), faults=slow)
    seen = outcomes(done)
    assert seen[Outcome.NOT_PROVED] > 0
    assert set(seen) <= {Outcome.NOT_PROVED, Outcome.PROVED_ABSENT}
    calm = outcomes(run_quietly(Workload(values=VALUES, misses=1.0, gets_per_s=2.0)))
    assert set(calm) == {Outcome.PROVED_ABSENT}


def test_nothing_is_frozen_when_a_run_has_ended() -> None:
    run_quietly(Workload(values=VALUES))
    assert gc.get_freeze_count() == 0
