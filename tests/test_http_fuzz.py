"""A bounded run of each fuzzer, from one seed that never changes.

tools/fuzz runs them for as long as one likes, and from fresh seeds.
"""

from __future__ import annotations

from collections import Counter

import pytest
from fuzzing.__main__ import main
from fuzzing.comparison import COMPLETE, Disagreement
from fuzzing.differential import check_case
from fuzzing.live import check_live, judge
from fuzzing.readers import READERS, REFUSED, WAITS, read_ours
from fuzzing.rules import RULES, explain
from fuzzing.streams import make_stream
from fuzzing.targets import check_target, make_manifest, make_target

SEED = 1
STREAMS = 3000
LIVE_STREAMS = 500
TARGETS = 20_000


def test_parsers_disagree_by_rule_alone() -> None:
    explained: Counter[str] = Counter()
    faults = [fault for number in range(STREAMS) for fault in check_case(SEED, number, explained)]
    assert not faults, "\n".join(faults)
    assert explained


async def test_live_server_stays_whole() -> None:
    faults = await check_live(SEED, range(LIVE_STREAMS))
    assert not faults, "\n".join(faults)


def test_targets_go_where_the_reference_says() -> None:
    manifest = make_manifest()
    for number in range(TARGETS):
        check_target(manifest, make_target(SEED, number))


def test_case_is_a_function_of_seed_and_number() -> None:
    assert make_stream(3, 4) == make_stream(3, 4)
    assert make_stream(3, 4) != make_stream(3, 5) != make_stream(4, 4)
    assert make_target(3, 4) == make_target(3, 4)


@pytest.mark.parametrize("peer", READERS)
def test_readers_read_a_pipeline_alike(peer: str) -> None:
    stream = (
        b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
        b"GET /b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nmore"
    )
    ours, theirs = read_ours(stream), READERS[peer](stream)
    assert theirs.messages == ours.messages
    assert theirs.end == ours.end
    assert [message.body for message in ours.messages] == [b"hi", b""]


@pytest.mark.parametrize("peer", READERS)
def test_no_rule_excuses_a_plain_request(peer: str) -> None:
    message = b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
    for ours, theirs, status in (
        (REFUSED, COMPLETE, 400),
        (COMPLETE, REFUSED, 0),
        (COMPLETE, WAITS, 0),
        (WAITS, COMPLETE, 0),
    ):
        case = Disagreement(peer, message, ours, theirs, frozenset(), status, "", None, None)
        assert explain(case) is None
    (read,) = read_ours(message).messages
    others = {"method": b"HEAD", "target": b"/x", "fields": (), "body": b"", "keep_alive": False}
    for part, value in others.items():
        their = read._replace(**{part: value})
        parts = frozenset((part,))
        case = Disagreement(peer, message, COMPLETE, COMPLETE, parts, 0, "", read, their)
        assert explain(case) is None


def test_rules_have_names_of_their_own() -> None:
    names = [rule.name for rule in RULES]
    assert len(names) == len(set(names))


def test_judge_of_answers_finds_what_is_wrong() -> None:
    ask = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
    assert judge(answer, read_ours(ask), ask, half_closed=True) == ""
    for got in (b"", answer[:-1], answer * 2, answer.replace(b"200", b"500"), b"HTTP/1.1 200\r\n"):
        assert judge(got, read_ours(ask), ask, half_closed=True)
    # After a refusal the connection closes, and the answer says so.
    more = ask + b"x\r\n"
    assert judge(answer + answer, read_ours(more), more, half_closed=True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["http", "--cases", "0"],
        ["http", "--seed", "x"],
        ["target", "--only", "-1"],
        ["dht", "--cases", "0"],
        ["dht", "--seed", "x"],
        ["h"],
        [],
    ],
)
def test_bad_flag_gets_one_sentence(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("tools/fuzz")
    assert told.count("\n") == 1


def test_command_tells_seed_and_count(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["http", "--cases", "20", "--seed", "5"]) == 0
    assert main(["target", "--only", "7", "--seed", "5"]) == 0
    assert main(["http", "--rules"]) == 0
    told = capsys.readouterr().out
    assert "20 cases, seed 5" in told
    assert "1 cases, seed 5" in told
    assert "absolute-form" in told
