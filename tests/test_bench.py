"""The parts of tools/bench that compute; what it measures is no matter of tests."""

import json
import re

import pytest
from bench_http import parse_options
from bench_kinds import BenchError
from bench_load import (
    BROWSER,
    CASES,
    ERRORS,
    MARK,
    Load,
    Round,
    faults_of,
    parse_wrk,
    request_head,
    script,
)
from bench_report import TARGETS, ratio, verdicts


def rounds(*rates: float, p99_ms: float = 1.0, faults: tuple[str, ...] = ()) -> list[Round]:
    return [
        Round(rate=rate, p50_ms=1, p99_ms=p99_ms, server_cpu=1, wrk_cpu=0.5, faults=faults)
        for rate in rates
    ]


def load(requests: int, received_bytes: int, **errors: int) -> Load:
    return Load(
        duration_s=1,
        requests=requests,
        received_bytes=received_bytes,
        p50_ms=1,
        p99_ms=1,
        errors=errors,
    )


def test_the_scripts_line_is_found_among_wrks_own() -> None:
    figures = {"duration_us": 2_000_000, "requests": 30, "bytes": 900, "p50_us": 1500}
    figures |= {"p99_us": 4000, **dict.fromkeys(ERRORS, 0), "timeout": 2}
    output = f"Running 2s test\n  1 threads\n{MARK}{json.dumps(figures)}\n"
    found = parse_wrk(output)
    assert (found.duration_s, found.requests, found.received_bytes) == (2.0, 30, 900)
    assert (found.p50_ms, found.p99_ms, found.errors) == (1.5, 4.0, {"timeout": 2})


def test_wrk_without_figures_is_told_with_its_last_words() -> None:
    with pytest.raises(BenchError, match="unable to connect"):
        parse_wrk("Running 2s test\nunable to connect to 127.0.0.1:1\n")
    with pytest.raises(BenchError, match="it says nothing"):
        parse_wrk("")


def test_the_head_is_the_same_in_the_script() -> None:
    head = request_head(CASES["page-browser"], 80, ("If-None-Match", 'W/"1\\2"'))
    assert head.count("\r\n") == 1 + 14 + 1 + 1
    assert len(BROWSER) == 13  # The fourteenth is Host.
    quoted = re.search(r"return (\".*\") end", script(head))
    assert quoted is not None
    assert json.loads(quoted[1]) == head


def test_answers_of_the_right_length_are_no_fault() -> None:
    case = CASES["page"]
    assert faults_of(load(1000, 1000 * 300), case, 300) == ()
    assert faults_of(load(1000, (1000 + case.connections) * 300), case, 300) == ()
    # Within a round, no answer may end; parts of them still count.
    assert faults_of(load(0, 10_000), CASES["100m"], 1_000_000) == ()


def test_answers_of_another_length_errors_and_silence_are_faults() -> None:
    case = CASES["304"]
    assert faults_of(load(1000, 1000 * 400), case, 300) == (
        "answers of 400 bytes where 300 are right",
    )
    assert len(faults_of(load(1000, 1000 * 200), case, 300)) == 1
    assert faults_of(load(1000, 300_000, timeout=3), case, 300) == ("3 timeouts",)
    assert faults_of(load(0, 0), case, 300) == ("no answer",)


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    assert ratio(rounds(10, 30, 10), rounds(10, 10, 20)) == 1.0
    assert ratio(rounds(10, 30), rounds(0, 10)) == 3.0
    assert ratio(rounds(10), rounds(0)) is None


@pytest.mark.parametrize(
    ("rate", "p99_ms", "reached"),
    [(90, 1.25, [True, True]), (89, 1.25, [False, True]), (90, 1.26, [True, False])],
)
def test_targets_are_bounds_that_count_as_reached(
    rate: float, p99_ms: float, reached: list[bool]
) -> None:
    measured = {"page-512": {"p2pweb": rounds(rate, p99_ms=p99_ms), "nginx": rounds(100)}}
    assert [one.reached for one in verdicts(measured, "page-512", "p2pweb")] == reached


def test_wrong_answers_reach_no_target() -> None:
    measured = {"304": {"p2pweb": rounds(900, faults=("no answer",)), "nginx": rounds(100)}}
    assert [one.reached for one in verdicts(measured, "304", "p2pweb")] == [False]


def test_only_our_servers_are_judged_and_only_beside_those_that_ran() -> None:
    measured = {"page": {"p2pweb": rounds(9), "nginx": rounds(9), "uvicorn": rounds(9)}}
    assert verdicts(measured, "page", "uvicorn") == []
    assert [one.target.against for one in verdicts(measured, "page", "p2pweb")] == ["nginx"]
    assert all(target.case in CASES for target in TARGETS)


def test_names_keep_the_known_order_and_nginx_always_takes_part() -> None:
    options = parse_options(["--cases", "304, page", "--servers", "uvicorn,p2pweb"])
    assert [case.name for case in options.cases] == ["page", "304"]
    assert [kind.name for kind in options.kinds] == ["p2pweb", "nginx", "uvicorn"]


@pytest.mark.parametrize(
    "words",
    [
        ["--rounds", "0"],
        ["--rounds", "many"],
        ["--seconds", "601"],
        ["--cases", "page,pages"],
        ["--cases", ","],
        ["--servers", "apache"],
        ["--fast"],
        ["page"],
    ],
)
def test_flags_without_sense_are_one_sentence(words: list[str]) -> None:
    with pytest.raises(BenchError) as told:
        parse_options(words)
    assert "\n" not in str(told.value)
