"""Copies under kill -9 and power cuts: short forms of what tools/survive does for minutes."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest
from survive_budgets import MEGABYTE, run_budgets
from survive_kills import plan_deaths, run_kills
from survive_peers import SurviveError
from survive_power import SABOTAGES, Disk, check_premise, run_power
from survive_visits import Answer, Ask, Judge

ONE = {"/a": b"first, longer", "/same": b"same", "/gone": b"gone"}
TWO = {"/a": b"second", "/same": b"same", "/new": b"new"}


def judged(ask: Ask, status: int, body: bytes = b"", shown: int = 0, **fields: str) -> str | None:
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return Judge({1: ONE, 2: TWO}).fault(0, shown, ask, Answer(status, named, body))


def test_what_is_right_of_either_version_is_no_fault() -> None:
    whole = gzip.compress(b"second")
    assert judged(Ask("/a"), 200, b"second") is None
    assert judged(Ask("/a", accepts="gzip"), 200, whole, Content_Encoding="gzip") is None
    assert judged(Ask("/a", span=(2, 5)), 206, b"rst", Content_Range="bytes 2-4/13") is None
    assert judged(Ask("/a", span=(7, 9)), 416, Content_Range="bytes */6") is None
    assert judged(Ask("/gone"), 404) is None
    assert judged(Ask("/gone"), 200, b"gone") is None
    assert judged(Ask("/none"), 404) is None


def test_every_other_answer_is_a_fault() -> None:
    assert (
        judged(Ask("/a"), 200, b"secons")
        == "200 with 6 bytes that are not right; 2 versions have it"
    )
    assert judged(Ask("/a"), 200, b"secon")
    assert judged(Ask("/a"), 200, b"second", Content_Encoding="gzip")
    assert judged(Ask("/a", span=(2, 5)), 206, b"con", Content_Range="bytes 2-4/13")
    assert judged(Ask("/a", span=(2, 5)), 206, b"rst", Content_Range="bytes 2-4/6")
    assert judged(Ask("/a", span=(7, 9)), 416, Content_Range="bytes */13")
    assert judged(Ask("/same"), 404) == "404 for what every version has"
    assert judged(Ask("/same"), 503, b"why") == "503 while holders live: why"
    assert judged(Ask("/none"), 200, b"same")


def test_a_peer_that_has_shown_a_version_must_not_show_the_one_before() -> None:
    judge = Judge({1: ONE, 2: TWO})
    old, new = Answer(200, {}, b"first, longer"), Answer(200, {}, b"second")
    assert judge.fault(0, 0, Ask("/a"), old) is None
    assert judge.fault(0, 0, Ask("/same"), Answer(200, {}, b"same")) is None
    assert judge.shown(0) == 1  # What both have shows nothing.
    assert judge.fault(0, 1, Ask("/a"), new) is None
    assert judge.shown(0) == 2
    assert judge.fault(0, 2, Ask("/a"), old) == "version 1 after version 2"
    assert judge.fault(0, 2, Ask("/gone"), Answer(200, {}, b"gone"))
    assert judge.fault(0, 2, Ask("/new"), Answer(404, {}, b""))
    # One that was asked for before, and another peer's.
    assert judge.fault(0, 1, Ask("/a"), old) is None
    assert judge.fault(1, 0, Ask("/a"), old) is None


def test_a_seed_plans_its_deaths_and_never_too_many_at_a_time() -> None:
    deaths = plan_deaths(random.Random(3), 20, 180.0, 5, 0.5)
    assert deaths == plan_deaths(random.Random(3), 20, 180.0, 5, 0.5)
    assert len(deaths) > 60
    for death in deaths:
        down = [d for d in deaths if d.at_s <= death.at_s < d.at_s + d.away_s]
        assert len(down) == len({d.peer for d in down}) <= 5


async def test_visitors_of_peers_that_are_killed_at_random_get_every_byte_right(
    tmp_path: Path,
) -> None:
    report = await run_kills(
        tmp_path, seed=4, seconds=6.0, peers=5, copies=4, down=2, every_s=0.7, long_bytes=1_300_000
    )
    assert report.faults == []
    assert report.kills["short"] >= 2
    assert report.copies[0] == 4
    assert sum(report.asked.values()) > 100


async def test_a_site_larger_than_any_budget_is_read_whole_through_every_peer(
    tmp_path: Path,
) -> None:
    report = await run_budgets(
        tmp_path,
        seed=1,
        peers=3,
        disk_bytes=45 * MEGABYTE,
        site_bytes=45 * MEGABYTE,
        files=60,
    )
    assert report.faults == []
    assert report.reads == 3 * 3 * 60
    assert report.copies[0] == 1
    assert "the peers have no room for" in report.refused


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where power can be cut, if this machine allows that."""
    disk = Disk(tmp_path / "probe")
    try:
        check_premise(disk)
    except SurviveError as error:
        pytest.skip(str(error))
    finally:
        disk.unmount()
    return tmp_path


async def test_what_publish_counted_survives_a_power_cut(folder: Path) -> None:
    report = await run_power(folder, seed=5, rounds=4, peers=1)
    assert report.faults == []
    assert (report.cuts, report.broken_off) == (5, 1)


@pytest.mark.parametrize("what", SABOTAGES)
async def test_a_peer_that_does_not_sync_is_found_out(folder: Path, what: str) -> None:
    report = await run_power(folder, seed=6, rounds=1, peers=1, code=SABOTAGES[what])
    assert report.faults
