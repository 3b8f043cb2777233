"""Copies made over days of coming and going, beside those of an oracle that knows who returns."""

from __future__ import annotations

import pytest

from p2pweb.sim import trace
from p2pweb.sim.trace import COPIES, Trace, compare

SHORT = Trace(peers=60, files=8, days=1.0, warm_days=0.0)


def test_the_same_seed_is_the_same_trace() -> None:
    assert compare(SHORT, 1) == compare(SHORT, 1) != compare(SHORT, 2)


def test_patience_makes_few_copies_more_than_an_oracle_and_loses_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patient = compare(SHORT, 1)
    assert patient.oracle > 10
    assert patient.lost == 0 and patient.present[0] == 0.0
    # Five of eight are there at nearly any time.
    assert sum(patient.present[5:]) > 0.98
    monkeypatch.setattr(trace, "PATIENCE", ((30.0, 0.0),))
    hasty = compare(SHORT, 1)
    assert hasty.oracle == patient.oracle
    assert patient.ours < 0.7 * hasty.ours


def test_where_nobody_leaves_for_good_the_oracle_makes_nothing() -> None:
    made = compare(Trace(peers=60, files=4, days=0.5, warm_days=0.1, final=0.0), 1)
    assert made.oracle == 0
    assert len(made.present) == COPIES + 1
    assert sum(made.present) == pytest.approx(1.0)


def test_where_all_leave_for_good_and_nobody_comes_everything_is_lost() -> None:
    made = compare(Trace(peers=20, files=4, days=50.0, away_s=1e9, final=1.0), 1)
    assert made.lost == 4
