"""Whole peers on a virtual clock: a site outlives its peers' crashes, and a seed says it all."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from msgspec import structs

from p2pweb.node import SAVE_AFTER_EACH_S, SAVE_AFTER_S
from p2pweb.peer_state import PeerState, write_peer_state
from p2pweb.sim.ledger import Ledger, Outcome
from p2pweb.sim.run import Run, run
from p2pweb.sim.scenario import Fault, Scenario, Site, Way, Workload
from p2pweb.sim.site_checks import Asked, SiteChecks
from p2pweb.sim.visit import Answer

ROOT = Path(__file__).resolve().parent.parent
SITE = Site(files=6)
PAGE, OTHER = "/index.html", "/other.html"


def scenario(
    *, minutes: float, faults: tuple[Fault, ...] = (), site: Site = SITE, **way: float
) -> Scenario:
    return Scenario(
        about="a few whole peers",
        peers_are="whole",
        peers=8,
        hours=minutes / 60.0,
        joins_per_s=2.0,
        settle_s=5.0,
        way=Way(**way),
        faults=list(faults),
        workload=Workload(gets_per_s=1.0),
        site=site,
    )


def outcomes(done: Run) -> dict[Outcome, int]:
    assert done.faults == []
    assert done.ledger.violations == []
    found = [get.outcome for get in done.ledger.gets]
    return {outcome: found.count(outcome) for outcome in found}


def run_quietly(wanted: Scenario, seed: int = 1) -> Run:
    return run(wanted, seed, lambda what, share: None)


def test_a_site_outlives_the_crash_of_a_quarter_of_its_peers() -> None:
    done = run_quietly(scenario(minutes=2.0, faults=(Fault(at_s=30.0, kind="crash", share=0.25),)))
    assert set(outcomes(done)) == {Outcome.FOUND, Outcome.PROVED_ABSENT}
    assert len(done.ledger.gets) > 80
    assert done.samples[0].live == 8 and done.samples[-1].live == 6


def test_versions_come_while_peers_crash_come_back_and_are_parted() -> None:
    faults = (
        Fault(at_s=20.0, kind="crash", share=0.4),
        Fault(at_s=60.0, kind="return", share=0.5),
        Fault(at_s=70.0, kind="return", share=1.0, keeps_disk=False),
        Fault(at_s=120.0, kind="part", share=0.4),
        Fault(at_s=180.0, kind="heal"),
        Fault(at_s=190.0, kind="slow", share=0.3, slow_s=0.3),
    )
    site = Site(files=6, file_bytes=60_000, publishes_per_hour=60.0, copies=4)
    done = run_quietly(
        scenario(minutes=5.0, faults=faults, site=site, loss=0.01, delayed=0.05, skew_s=100.0)
    )
    seen = outcomes(done)
    assert len(done.ledger.puts_s) >= 3 and done.ledger.puts_failed == 0
    assert seen[Outcome.FOUND] > 0.8 * (len(done.ledger.gets) - seen[Outcome.PROVED_ABSENT])


def test_who_comes_back_with_its_disk_need_not_ask_again_who_keeps_the_site() -> None:
    asked = []
    for faults in (
        (),
        (Fault(at_s=60.0, kind="crash", share=0.4), Fault(at_s=70.0, kind="return", share=1.0)),
    ):
        done = run_quietly(scenario(minutes=2.5, faults=faults))
        outcomes(done)
        assert done.samples[-1].live == 8
        asked.append(done.streamed["peer"])
    stayed, returned = asked
    assert returned <= stayed


def test_the_more_contacts_a_peer_has_the_less_often_it_saves_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saved: dict[Path, list[tuple[float, list[object]]]] = {}

    def note(path: Path, state: PeerState) -> None:
        states, contacts = saved.setdefault(path, []), list[object](state.contacts)
        # It is written for other reasons too.
        if not states or states[-1][1] != contacts:
            states.append((asyncio.get_event_loop().time(), contacts))
        write_peer_state(path, state)

    monkeypatch.setattr("p2pweb.node.write_peer_state", note)
    faults = [Fault(at_s=20.0 + 2.0 * number, kind="crash", share=0.05) for number in range(10)]
    crowded = structs.replace(scenario(minutes=2.0), peers=30, faults=faults)
    assert run_quietly(crowded).faults == []
    gaps = [
        (now_s - before_s, len(before))
        for states in saved.values()
        # At its start and its end a peer saves at once.
        for (before_s, before), (now_s, _) in pairwise(states[1:-1])
    ]
    assert max(count for _, count in gaps) > 20
    too_soon = [one for one in gaps if one[0] < max(SAVE_AFTER_S, SAVE_AFTER_EACH_S * one[1])]
    assert too_soon == []


REPEATED = """
import test_sim_sites as tests
from p2pweb.sim.scenario import Fault, Site
faults = (Fault(at_s=15, kind="crash", share=0.4), Fault(at_s=40, kind="return", share=1.0))
site = Site(files=6, file_bytes=40_000, publishes_per_hour=120.0)
done = tests.run_quietly(tests.scenario(minutes=1.0, faults=faults, site=site, loss=0.02), 3)
assert len(done.ledger.puts_s) > 1
print(done.trace, [(get.began_s, get.ended_s) for get in done.ledger.gets])
"""


def test_a_seed_gives_the_same_run_in_any_process() -> None:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    seen = [
        subprocess.run(
            [sys.executable, "-c", REPEATED],
            env={**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert seen[0] == seen[1]
    assert seen[0]


# The checks themselves


class Judged:
    """Two versions of two pages; `OTHER` is the same in both."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.checks = SiteChecks(self.ledger)
        for seq, page in enumerate((b"one", b"two"), start=1):
            generation = self.checks.publishing({PAGE: page, OTHER: b"other"})
            self.checks.published(generation, seq, 1.0, tries=1)

    def answer(
        self,
        body: bytes,
        status: int = 200,
        *,
        path: str = PAGE,
        at_s: float = 10.0,
        is_whole: bool = True,
        held: bool = True,
        disk: str = "disk",
    ) -> None:
        asked = Asked(path, "peer", disk, at_s, self.ledger.newest("site"))
        answer = Answer(status, {}, body, is_whole, at_s + 0.5)
        self.checks.answered(asked, answer, at_s + 1.0, [2, 2], lambda data: held)

    @property
    def last(self) -> Outcome:
        return self.ledger.gets[-1].outcome


@pytest.fixture
def judged() -> Judged:
    return Judged()


def test_right_bytes_are_new_or_old(judged: Judged) -> None:
    judged.answer(b"one")
    assert judged.last is Outcome.STALE
    judged.answer(b"two", at_s=20.0)
    assert judged.last is Outcome.FOUND
    judged.answer(b"other", path=OTHER, at_s=30.0)
    assert judged.last is Outcome.FOUND
    judged.answer(b"no such page", 404, path="/absent.html")
    assert judged.last is Outcome.PROVED_ABSENT
    judged.checks.finish()
    assert judged.ledger.violations == []


@pytest.mark.parametrize(
    ("body", "status", "path", "is_whole"),
    [
        (b"tw", 200, PAGE, True),
        (b"other", 200, PAGE, True),
        (b"tw", 200, PAGE, False),
        (b"no such page", 404, PAGE, True),
        (b"cannot be had", 503, PAGE, True),
        (b"failed", 500, PAGE, True),
        (b"two", 200, "/absent.html", True),
    ],
)
def test_wrong_answers_are_violations(
    judged: Judged, body: bytes, status: int, path: str, is_whole: bool
) -> None:
    judged.answer(body, status, path=path, is_whole=is_whole)
    assert len(judged.ledger.violations) == 1
    assert judged.last is Outcome.NOT_FOUND or path != PAGE


def test_what_nobody_has_may_be_missing(judged: Judged) -> None:
    judged.answer(b"cannot be had", 503, held=False)
    judged.answer(b"tw", is_whole=False, held=False)
    judged.answer(b"cannot be had", 503, path="/absent.html", held=False)
    assert judged.ledger.violations == []
    assert [get.outcome for get in judged.ledger.gets] == [
        Outcome.NOT_FOUND,
        Outcome.NOT_FOUND,
        Outcome.NOT_PROVED,
    ]


def test_a_site_of_which_no_version_was_ever_published_is_not_found(judged: Judged) -> None:
    ledger = Ledger()
    checks = SiteChecks(ledger)
    checks.publishing({PAGE: b"one"})
    answer = Answer(404, {}, b"no such page", True, 1.5)
    checks.answered(Asked(PAGE, "peer", "disk", 1.0, 0), answer, 2.0, [0, 0], lambda data: False)
    assert (ledger.gets[0].outcome, ledger.violations) == (Outcome.NOT_FOUND, [])


def test_a_peer_that_goes_back_is_told(judged: Judged) -> None:
    judged.answer(b"two", at_s=10.0)
    # Under way at the same time, in another order; and by another peer.
    judged.answer(b"one", at_s=10.5)
    judged.answer(b"one", at_s=20.0, disk="another")
    judged.answer(b"other", path=OTHER, at_s=20.0)
    judged.checks.finish()
    assert judged.ledger.violations == []
    judged.answer(b"one", at_s=11.5)
    judged.checks.finish()
    assert len(judged.ledger.violations) == 1


def test_no_answer_of_a_live_peer_is_a_violation(judged: Judged) -> None:
    judged.checks.unanswered(Asked(PAGE, "peer", "disk", 1.0, 2), 121.0, "no answer in time")
    assert judged.last is Outcome.NOT_FOUND
    assert len(judged.ledger.violations) == 1
