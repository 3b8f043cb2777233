"""A bounded run of the fuzzer of the overlay, from one seed that never changes.

tools/fuzz dht runs it for as long as one likes, and from fresh seeds.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import msgspec
import pytest
from fuzzing.__main__ import main
from fuzzing.core import ROUND, check_core, whole_round
from fuzzing.datagrams import Scene, make_answer, make_datagrams
from fuzzing.network import check_network

from p2pweb.dht import wire
from p2pweb.dht.contact import NodeId
from p2pweb.dht.proof import Proofs
from p2pweb.dht.queries import Queries

SEED = 1
CASES = 3_000
LIVE_CASES = 1_500
ID = NodeId(b"i" * 20)
SCENE = Scene(b"o" * 20, [ID], [("127.0.0.1", 9)], [b"k" * 20], [b"v" * 50])


def test_a_peer_stays_whole_and_finds_what_the_honest_hold() -> None:
    told: Counter[str] = Counter()
    faults = check_core(SEED, range(CASES), told)
    assert not faults, "\n".join(faults)
    assert told["lookups that found the value"] == CASES // 100
    assert told["datagrams refused as malformed"] > CASES // 4


async def test_a_real_peer_stays_whole() -> None:
    told: list[str] = []
    faults = await check_network(SEED, range(LIVE_CASES), told, peers=3, files=30)
    assert not faults, "\n".join(faults)
    assert any("2 of them honest" in line for line in told), told


def test_a_case_is_a_function_of_seed_number_and_what_was_overheard() -> None:
    overheard = [b"m" * 20]
    cases = [make_datagrams(3, number, SCENE, overheard)[0] for number in range(200)]
    assert cases == [make_datagrams(3, number, SCENE, overheard)[0] for number in range(200)]
    assert cases != [make_datagrams(4, number, SCENE, overheard)[0] for number in range(200)]


def test_cases_are_of_every_kind() -> None:
    kinds: Counter[str] = Counter()
    for number in range(3_000):
        datagrams, _ = make_datagrams(SEED, number, SCENE, [b"m" * 20])
        kinds["doubled"] += len(datagrams) > 1
        kinds["long"] += len(datagrams[0]) > wire.DATAGRAM_BYTES_MAX
        try:
            message = wire.decode(datagrams[0])
        except wire.MalformedError as error:
            kinds["nested"] += isinstance(error.__cause__, RecursionError)
            kinds["malformed"] += 1
            continue
        if isinstance(message, wire.Asked):
            kinds[type(message.question).__name__] += 1
        else:
            kinds["overheard"] += message.message_id == b"m" * 20
    assert all(
        kinds[name] > 5
        for name in ("doubled", "long", "nested", "malformed", "overheard", "Ping", "Store", "Stun")
    ), kinds
    assert all(kinds[name] > 50 for name in ("FindNode", "FindValue")), kinds


@pytest.mark.parametrize(
    "question", [wire.Ping(ID), wire.Store(ID, b"k" * 20, b"v"), wire.FindValue(ID, b"k" * 20)]
)
def test_most_answers_of_forgers_are_well_formed(question: wire.Question) -> None:
    chance = random.Random(1)
    data = wire.encode_question(b"m" * 20, question)
    good = 0
    for _ in range(200):
        answered = wire.decode(make_answer(data, SCENE, chance))
        assert isinstance(answered, wire.Answered)
        assert answered.message_id == b"m" * 20
        msgspec.msgpack.decode(answered.body)
        try:
            wire.decode_answer(question, answered.body)
        except wire.MalformedError:
            continue
        good += 1
    assert good > 120


def _everybody_is_proved(proofs: Proofs, address: object, now: float) -> bool:
    return True


def _every_answer_is_held(proofs: Proofs, address: object, data: bytes, now: float) -> None:
    proofs._held_count += 1


def _whoever_answers_is_believed(
    queries: Queries[object], message_id: bytes, address: object
) -> object:
    return queries._on_time.pop(message_id, None)


@pytest.mark.parametrize(
    ("owner", "name", "broken"),
    [
        (Proofs, "proved", _everybody_is_proved),
        (Proofs, "hold", _every_answer_is_held),
        (Queries, "take", _whoever_answers_is_believed),
    ],
)
def test_a_broken_peer_is_found(
    owner: type, name: str, broken: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, broken)
    assert check_core(SEED, range(ROUND, 2 * ROUND), Counter())


def test_a_case_is_replayed_by_its_round() -> None:
    assert whole_round(0) == range(1)
    assert whole_round(ROUND + 7) == range(ROUND, ROUND + 8)


def test_command_tells_seed_count_and_how_to_replay(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["dht", "--cases", "20", "--seed", "5"]) == 0
    told = capsys.readouterr().out
    assert "20 cases, seed 5" in told
    assert "replay" not in told
    monkeypatch.setattr(Proofs, "proved", _everybody_is_proved)
    assert main(["dht", "--cases", "200", "--seed", "5"]) == 1
    assert "tools/fuzz dht --seed 5 --only CASE" in capsys.readouterr().out
