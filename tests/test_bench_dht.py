"""tools/bench dht: the parts that compute, and one quick run; how long it takes is no matter."""

import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from bench_dht import parse_options
from bench_dht_kinds import OURS, SYSTEMS, LeftOutError, prepare
from bench_dht_network import AT_ONCE_MAX, SLOW_MS, Call, Calls, _at_once, _shares
from bench_dht_nodes import COPIES, MISSING, UNPROVED, Ours
from bench_dht_publish import Published
from bench_dht_report import (
    FIRST_HITS,
    GOALS,
    Cell,
    as_json,
    first_hits,
    percentile,
    puts_of,
    tally,
    verdicts,
)
from bench_kinds import BenchError
from bench_machine import memory_note

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / "tools" / "bench_dht.py"
PATIENCE_S = 120.0


def calls(*outcomes: str, ms: float = 1.0) -> Calls:
    return Calls(made=[Call(ms=ms, outcome=one) for one in outcomes], wanted=len(outcomes))


def cell(**kinds: list[Calls]) -> Cell:
    return Cell(system=OURS, nodes=200, killed=30, **kinds)


@pytest.mark.parametrize(
    "words",
    [
        ["--only", "theirs"],
        ["--only", ","],
        ["--nodes", "1"],
        ["--nodes", "20;200"],
        ["--nodes", ""],
        ["--killed", "91"],
        ["--killed", "-1"],
        ["--nodes", "20,4", "--killed", "0,90"],
        ["--gets", "0"],
        ["--gets", "many"],
        ["--rounds", "101"],
        ["--seconds", "0"],
        ["--fast"],
        ["dht"],
    ],
)
def test_flags_without_sense_are_one_sentence(words: list[str]) -> None:
    with pytest.raises(BenchError) as told:
        parse_options(words)
    assert "\n" not in str(told.value)


def test_flags_keep_the_known_order_and_each_number_once() -> None:
    options = parse_options(["--only", "stock, ours", "--nodes", "20,10,20", "--killed", "50,0"])
    assert options.systems == ["ours", "stock"]
    assert (options.nodes, options.killed) == ([20, 10], [50, 0])


def test_quick_is_one_short_round_unless_told_otherwise() -> None:
    quick, chosen = parse_options(["--quick"]), parse_options(["--quick", "--gets", "30"])
    assert (quick.rounds, chosen.rounds, chosen.gets) == (1, 1, 30)
    assert quick.gets < parse_options([]).gets
    assert parse_options(["--gets", "3", "--rounds", "9"]).rounds == 3


def test_a_percentile_is_the_smallest_that_so_many_do_not_exceed() -> None:
    times = [float(number) for number in range(1, 101)]
    assert [percentile(times, percent) for percent in (50, 95, 99, 100)] == [50, 95, 99, 100]
    assert percentile([7.0], 99) == 7
    assert percentile([], 50) is None


def test_only_calls_that_ended_as_they_should_have_a_time() -> None:
    slow = Calls(made=[Call(ms=30_000, outcome="late")], wanted=3)
    found = tally([calls("found", "missing"), slow], "found", lost=1)
    assert (found.made, found.wanted, found.p99_ms) == (3, 5, 1.0)
    assert found.outcomes == {"found": 1, "late": 1, "missing": 1}
    # One of those that were not found died with its holders.
    assert found.failed("found") == 1


def test_puts_of_all_cells_of_a_size_are_one_figure() -> None:
    cells = [cell(puts=[calls("found")]), cell(puts=[calls("found", "failed")])]
    assert puts_of(cells, OURS, 200).made == 3
    assert puts_of(cells, OURS, 20).made == 0


@pytest.mark.parametrize(("ms", "reached"), [(19.9, True), (20.0, False)])
def test_a_goal_is_reached_below_its_bound(ms: float, reached: bool) -> None:
    (verdict,) = verdicts([cell(hits=[calls("found", ms=ms)])], None)
    assert (verdict.ms, verdict.reached) == (ms, reached)


def test_no_goal_is_reached_by_failing_fast() -> None:
    hits = [calls("found", "missing")]
    assert not verdicts([cell(hits=hits)], None)[0].reached
    lost = cell(hits=hits)
    lost.lost = 1
    assert verdicts([lost], None)[0].reached


def placed(copies: int, outcome: str = "found") -> Calls:
    return Calls(made=[Call(ms=1.0, outcome=outcome, copies=copies)], wanted=1)


@pytest.mark.parametrize("kind", ["hits", "misses", "puts"])
def test_a_goal_of_which_every_call_failed_is_missed(kind: str) -> None:
    (failed,) = verdicts([cell(**{kind: [calls("late", "late")]})], None)
    assert (failed.ms, failed.reached, failed.but) == (None, False, "all failed")
    (unmade,) = verdicts([cell(**{kind: [calls()]})], None)
    assert (unmade.ms, unmade.reached, unmade.but) == (None, False, "no call was made")


def test_a_goal_of_copies_is_missed_by_a_single_call_with_fewer() -> None:
    assert verdicts([cell(puts=[placed(COPIES)])], None)[0].reached
    (short,) = verdicts([cell(puts=[placed(COPIES), placed(COPIES - 1)])], None)
    assert (short.reached, short.but) == (False, "7 copies only")
    assert verdicts([], Published(calls=placed(COPIES)))[0].reached
    (short,) = verdicts([], Published(calls=placed(COPIES - 1)))
    assert (short.reached, short.but) == (False, "7 copies only")
    (failed,) = verdicts([], Published(calls=calls("failed")))
    assert (failed.reached, failed.but) == (False, "all failed")


def test_the_first_hits_of_each_round_are_told_apart() -> None:
    late = Calls(
        made=[Call(ms=float(number), outcome="found") for number in range(1, 2 * FIRST_HITS)]
    )
    figures = first_hits(cell(hits=[late, calls("found")]))
    assert (figures.made, figures.max_ms, figures.p99_ms) == (FIRST_HITS + 1, FIRST_HITS, None)
    told = as_json([cell(hits=[late])], None, {}, {}, [])
    assert told["gets"][0]["first_hits"]["max_ms"] == FIRST_HITS


class Search:
    """A search that finds nothing, and that so many answered."""

    def __init__(self, answered: int) -> None:
        self.closest = range(answered)

    async def __aenter__(self) -> "Search":
        return self

    async def __aexit__(self, *error: object) -> None: ...

    async def __aiter__(self) -> AsyncIterator[object]:
        for found in ():
            yield found

    def find_value(self, key: bytes) -> "Search":
        return self


@pytest.mark.parametrize(
    ("answered", "others", "how"),
    [(8, 200, MISSING), (7, 200, UNPROVED), (3, 3, MISSING), (2, 3, UNPROVED)],
)
async def test_a_miss_is_proved_by_those_who_would_know(
    answered: int, others: int, how: str
) -> None:
    ours = Ours()
    ours._nodes.append(Search(answered))
    _, told = await ours.get("00" * 20, None, others)
    assert told == how


def test_data_in_memory_is_noted(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"disk / ext4 rw 0 0\ntmpfs {tmp_path} tmpfs rw 0 0\n")
    assert "tmpfs" in (memory_note(tmp_path / "peers", mounts) or "")
    assert memory_note(tmp_path.parent, mounts) is None
    assert memory_note(tmp_path, tmp_path / "nothing") is None


def test_goals_are_about_ours_alone() -> None:
    rival = Cell(system="stock", nodes=200, killed=30, hits=[calls("found")])
    assert verdicts([rival], None) == []
    assert {goal.calls for goal in GOALS} == {"hits", "misses", "puts", "publish"}


def test_no_more_slow_calls_at_once_than_their_time_asks_for() -> None:
    took = [[SLOW_MS, "found"]] * 10
    time_s = 10 * SLOW_MS / 1000
    assert _at_once(took, 10, time_s) == 1
    assert _at_once(took, 20, time_s) == 2
    assert _at_once(took, 100_000, time_s) == AT_ONCE_MAX


def test_fast_calls_are_made_one_by_one_however_many_they_are() -> None:
    assert _at_once([[SLOW_MS - 1, "found"]], 100_000, 1.0) == 1
    assert _at_once([], 100_000, 1.0) == 1


def test_shares_differ_by_one_at_most() -> None:
    assert _shares(10, 3) == [4, 3, 3]
    assert _shares(0, 0) == []


def test_a_rival_that_does_not_install_is_left_out_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    ready, left_out = prepare(["ours", "hyperdht"], tmp_path / "rivals")
    assert [one.system.name for one in ready] == ["ours"]
    assert left_out == {"hyperdht": "this machine has no node and no npm"}
    with pytest.raises(LeftOutError):
        SYSTEMS["hyperdht"].prepare(tmp_path)


def test_the_json_has_every_cell() -> None:
    told = as_json([cell(puts=[calls("found")], hits=[calls("found")])], None, {}, {}, [])
    assert [one["killed_percent"] for one in told["gets"]] == [30]
    assert json.loads(json.dumps(told)) == told


def quick(*flags: str) -> list[str]:
    return [sys.executable, str(BENCH), "--quick", "--nodes", "10", "--killed", "30", *flags]


def test_a_quick_run_of_ours_finds_every_value_that_lives() -> None:
    done = subprocess.run(
        quick("--only", "ours", "--gets", "5", "--json"),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["left_out"] == {}
    assert [one["name"] for one in told["systems"]] == ["ours"]
    assert [one["made"] for one in told["puts"]] == [5]
    ours = told["gets"][0]
    assert (ours["system"], ours["hits"]["outcomes"]) == ("ours", {"found": 5})
    assert ours["misses"]["outcomes"] == {"missing": 5}
    assert told["publish"]["outcomes"] == {"found": 5}
    assert told["publish"]["copies_least"] == 8
    assert ours["first_hits"]["made"] == 5
    assert any("of up to 256 peers whole" in note for note in told["notes"])


def test_a_wrong_flag_is_told_without_a_traceback() -> None:
    done = subprocess.run(
        quick("--only", "theirs"), capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("tools/bench dht: there is no system 'theirs'")


def children_of(pid: int) -> list[int]:
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    )
    pairs = (map(int, line.split()) for line in listed.stdout.splitlines())
    return [child for child, parent in pairs if parent == pid]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [2, 9])
def test_no_worker_outlives_the_bench(number: int) -> None:
    process = subprocess.Popen(
        quick("--only", "ours", "--no-publish"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + PATIENCE_S
    workers: list[int] = []
    while len(workers) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        workers = children_of(process.pid)
    process.send_signal(number)
    assert process.wait(PATIENCE_S) == (130 if number == 2 else -9)
    while any(is_alive(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
