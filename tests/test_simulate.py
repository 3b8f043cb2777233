"""Whole runs of `tools/simulate`: the same seed is the same run, and failures say how to repeat."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
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
    runs = [simulate("small", "--json", "--seed=3", hash_seed=seed) for seed in ("0", "12345")]
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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing"], "there is no scenario nothing; those that come along are calm"),
        (["small", "--set=quickness=9"], "quickness"),
        (["small", "--set=alpha=many"], "has to be a number"),
        (["small", "--vary=peers=ten"], "has to be a number"),
        (["small", "--plot=run.gif"], "has to end in .png or .svg"),
        (["small", "--peers=0"], "--peers"),
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
def test_every_scenario_that_comes_along_runs(path: Path) -> None:
    run = simulate(path.stem, "--json", "--peers=12", "--hours=0.003")
    report = json.loads(run.stdout)
    # Twelve peers for eleven seconds need not show what a thousand have to.
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
