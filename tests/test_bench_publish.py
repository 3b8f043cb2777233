"""The parts of tools/bench publish that compute, and one small run of the whole."""

from __future__ import annotations

import json
import random
from pathlib import Path

import bench_publish
import pytest
from bench_kinds import BenchError
from bench_publish import FILES_DEFAULT, Counts, bench, make_site, page_name, parse_options
from peer_processes import ROOT


@pytest.mark.parametrize(
    "words",
    [
        ["--files", "1"],
        ["--files", "many"],
        ["--peers", "1"],
        ["--peers", ""],
        ["--bytes", "0"],
        ["--bytes", "-1"],
        ["publish"],
    ],
)
def test_flags_without_sense_are_one_sentence(words: list[str]) -> None:
    with pytest.raises(BenchError) as told:
        parse_options(words)
    assert "\n" not in str(told.value)


def test_sizes_are_lists() -> None:
    options = parse_options(["--peers", "3, 4"])
    assert options.peers == [3, 4]
    assert options.files == [int(number) for number in FILES_DEFAULT.split(",")]


def test_no_two_pages_are_alike_and_all_are_as_long_as_told(tmp_path: Path) -> None:
    make_site(tmp_path, 250, 1024, random.Random(1))
    pages = [tmp_path / page_name(number) for number in range(250)]
    contents = {page.read_bytes() for page in pages}
    assert len(contents) == 250
    assert {len(content) for content in contents} == {1024}
    assert len(list(tmp_path.iterdir())) == 3


def test_counts_are_of_what_was_done_since_and_memory_is_as_it_is() -> None:
    before = Counts(cpu_s=1.0, lookups=2, requests=3, bytes=4, rss_bytes=5, peak_bytes=6)
    after = Counts(cpu_s=2.5, lookups=4, requests=7, bytes=5, rss_bytes=7, peak_bytes=9)
    did = after.since(before)
    assert did == Counts(cpu_s=1.5, lookups=2, requests=4, bytes=1, rss_bytes=7, peak_bytes=9)
    assert did + before == Counts(
        cpu_s=2.5, lookups=4, requests=7, bytes=5, rss_bytes=7, peak_bytes=9
    )


async def test_a_small_run_counts_what_it_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(bench_publish, "REST_S", 0.2)
    monkeypatch.setattr(bench_publish, "REST_CPU", 100.0)
    await bench(parse_options(["--json", "--files", "20", "--peers", "3", "--bytes", "100"]))
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    first, changed, unchanged = run["steps"]
    assert [step["name"] for step in run["steps"]] == ["first", "one changed", "unchanged"]
    assert [step["copies"] for step in run["steps"]] == [3, 3, 3]
    assert first["publisher"]["bytes"] > changed["publisher"]["bytes"] > 0
    # Twenty files of 100 bytes to the two other peers.
    assert first["entry"]["bytes"] > 2 * 20 * 100
    assert first["entry"]["requests"] >= 2
    assert unchanged["entry"]["cpu_s"] > 0
