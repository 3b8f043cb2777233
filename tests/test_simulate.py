"""Whole runs of `tools/simulate`: the same seed is the same run, and failures say how to repeat."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from p2pweb.sim.scenario import read_scenario

ROOT = Path(__file__).resolve().parent.parent
HOURS = 0.003
SCENARIOS = sorted((ROOT / "tools" / "scenarios").glob("*.toml"))


def simulate(*words: str, hash_seed: str = "random") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "simulate.py"), *words],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )


def test_the_same_seed_is_the_same_run_whatever_the_hash_seed() -> None:
    runs = [simulate("small", "--json", "--seed=4", hash_seed=seed) for seed in ("0", "12345")]
    first, second = (json.loads(run.stdout) for run in runs)
    assert [run.returncode for run in runs] == [0, 0], runs[0].stderr
    assert first["trace"] == second["trace"]
    assert first["outcomes"] == second["outcomes"]
    # Enough happened for the digest to mean something.
    assert sum(first["outcomes"].values()) > 300
    assert first["outcomes"]["found"] > 200
    assert first["violations"] == first["faults"] == []


def test_another_seed_is_another_run() -> None:
    traces = {
        json.loads(simulate("small", "--json", f"--seed={seed}", "--hours=0.005").stdout)["trace"]
        for seed in (1, 2)
    }
    assert len(traces) == 2


def test_a_run_that_shows_too_little_fails_and_says_how_to_see_it_again(tmp_path: Path) -> None:
    scenario = tmp_path / "impossible.toml"
    scenario.write_text(
        'about = "Quicker than light."\npeers = 8\nhours = 0.005\nsettle_s = 5.0\n'
        "[workload]\nvalues = 5\ngets_per_s = 5.0\n[expected]\nhit_p50_rtt = 0.001\n"
    )
    run = simulate(str(scenario), "--seed=7", "--set=alpha=3")
    assert run.returncode == 1
    assert "p50 in round trips" in run.stderr
    again = f"tools/simulate {scenario} --peers=8 --hours=0.005 --seed=7 --set=alpha=3"
    assert f"to see it again: {again}" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_run_in_which_nobody_stores_or_finds_anything_fails(tmp_path: Path) -> None:
    scenario = tmp_path / "deaf.toml"
    scenario.write_text(
        'about = "Every datagram is lost."\npeers = 4\nhours = 0.01\nsettle_s = 5.0\n'
        "[way]\nloss = 1.0\n[workload]\nvalues = 5\ngets_per_s = 2.0\nupdates_per_s = 1.0\n"
        "[expected]\nfound = 1.0\nproved = 1.0\nhit_p50_rtt = 9.0\nputs_failed = 0\n"
    )
    run = simulate(str(scenario), "--json")
    report = json.loads(run.stdout)
    assert (run.returncode, report["found"], report["proved"]) == (1, 0.0, 0.0)
    assert report["outcomes"]["absent"] == report["outcomes"]["found"] == 0
    assert report["puts_failed_before"] == 5
    assert report["puts_failed"] > 5
    assert report["puts"]["count"] == 0
    for what in ("found", "misses that were proved", "hits, p50", "puts that failed"):
        assert f"not as expected: {what}" in run.stderr


def test_a_row_of_numbers_is_replayed_as_it_was_set(tmp_path: Path) -> None:
    scenario = tmp_path / "row.toml"
    scenario.write_text(
        'about = "x"\npeers = 4\nhours = 0.001\nsettle_s = 1.0\n'
        "[expected]\nhit_p50_rtt = 0.0\n[settings]\nstrike_pauses_s = [1.0, 2.5]\n"
    )
    run = simulate(str(scenario))
    assert "--set=strike_pauses_s=1.0,2.5" in run.stderr
    again = simulate(str(scenario), "--set=strike_pauses_s=1.0,2.5")
    trace = [line for line in run.stdout.splitlines() if "trace" in line]
    assert trace and trace[0] in again.stdout


def test_a_hit_ends_with_the_newest_value_and_that_it_is_the_newest_is_known_later() -> None:
    report = json.loads(simulate("small", "--json", "--hours=0.005").stdout)
    assert report["newest_known"]["count"] == report["hits"]["count"] > 0
    assert report["newest_known"]["p50"] > report["hits"]["p50"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing"], "there is no scenario nothing; those that come along are calm"),
        (["small", "--set=quickness=9"], "quickness"),
        (["small", "--set=alpha=many"], "has to be a number"),
        (["small", "--vary=peers=ten"], "has to be a number"),
        (["small", "--plot=run.gif"], "has to end in .png or .svg"),
        (["small", "--plot=nowhere/run.svg"], "there is no folder"),
        (["small", "--peers=0"], "--peers"),
        (["small", "--vary=peers=0,5"], "$.peers"),
        (["small", "--hours=inf"], "$.hours"),
        (["small", "--hours=nan"], "$.hours"),
        (["small", "--set=alpha=0"], "alpha=0 is not from 1"),
        (["small", "--set=probe_every_s=0"], "probe_every_s=0"),
        (["small", "--set=probe_every_s=nan"], "probe_every_s=nan"),
        (["small", "--set=probe_every_s=inf"], "probe_every_s=inf"),
        (["small", "--set=paths=21"], "paths=21 is above k=20"),
        (["small", "--set=strike_pauses_s="], "has to be a number"),
        (["whole", "--set=alpha=3"], "whole peers take no settings"),
        (["stock-calm", "--set=alpha=3"], "stock peers take no settings"),
        (["parted", "--hours=0.1"], "the fault at 420 s would come after the end"),
    ],
)
def test_bad_input_is_one_clear_sentence(words: list[str], said: str) -> None:
    run = simulate(*words)
    assert run.returncode == 2
    assert said in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("about = ", "is not TOML"),
        ("peers = 5", "about"),
        ('about = "x"\npeers = "many"', "peers"),
        ('about = "x"\n[way]\nloss = 1.5', "loss"),
        ('about = "x"\n[workload]\nvalues = 0', "values"),
        ('about = "x"\n[workload]\ngets_per_s = nan', "gets_per_s"),
        ('about = "x"\n[sessions]\nmean_s = inf', "mean_s"),
        ('about = "x"\n[sessions]\nplace = "same"\naway_s = 0', "away_s"),
        ('about = "x"\n[expected]\nfound_after_s = 1e6', "found_after_s"),
        ('about = "x"\n[settings]\nstrike_pauses_s = []', "strike_pauses_s"),
        ('about = "x"\n[settings]\nalpha = [1.0]', "alpha"),
        ('about = "x"\nwether = "fine"', "wether"),
    ],
)
def test_a_bad_scenario_is_named(text: str, said: str, tmp_path: Path) -> None:
    scenario = tmp_path / "bad.toml"
    scenario.write_text(text)
    run = simulate(str(scenario))
    assert run.returncode == 2
    assert said in run.stderr
    assert "bad.toml" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_every_scenario_that_comes_along_runs(path: Path, tmp_path: Path) -> None:
    hours = read_scenario(path).hours
    # Eleven seconds of a small site, and in them every fault.
    shorter = tmp_path / path.name
    shorter.write_text(
        re.sub(
            r"^(at_s|found_after_s) = ([\d.]+)",
            lambda found: f"{found[1]} = {float(found[2]) * HOURS / hours}",
            re.sub(
                r"^(hours|files) = .*",
                lambda found: f"{found[1]} = {HOURS if found[1] == 'hours' else 20}",
                path.read_text(),
                flags=re.MULTILINE,
            ),
            flags=re.MULTILINE,
        )
    )
    run = simulate(str(shorter), "--json", "--peers=12")
    report = json.loads(run.stdout)
    # Twelve peers need not show what a thousand have to.
    assert run.returncode in (0, 1), run.stderr
    assert report["violations"] == report["faults"] == []


def test_a_picture_is_drawn_of_a_run_and_of_several(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra `sim` is not installed")
    run = simulate("small", "--hours=0.005", f"--plot={tmp_path / 'run.svg'}")
    assert run.returncode == 0, run.stderr
    assert "peers alive" in (tmp_path / "run.svg").read_text()
    run = simulate(
        "small", "--hours=0.003", "--vary=peers=6,12", f"--plot={tmp_path / 'curve.png'}"
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "upkeep" in run.stdout
