"""Datagrams: what stock nodes send is read, everything else is malformed, nothing else happens."""

from contextlib import suppress

import pytest
import umsgpack
from hypothesis import example, given, settings
from hypothesis import strategies as st

from p2pweb.dht import wire
from p2pweb.dht.contact import Contact, NodeId
from p2pweb.dht.wire import Answered, Asked, MalformedError

ID = NodeId(b"i" * 20)
KEY = b"k" * 20
MESSAGE = b"m" * 20

QUESTIONS: list[tuple[wire.Question, list[object]]] = [
    (wire.Ping(ID), ["ping", [ID]]),
    (wire.Store(ID, KEY, b"value"), ["store", [ID, KEY, b"value"]]),
    (wire.FindNode(ID, KEY), ["find_node", [ID, KEY]]),
    (wire.FindValue(ID, KEY), ["find_value", [ID, KEY]]),
    (wire.Stun(), ["stun", []]),
]


def nodes(count: int, host: str = "192.0.2.1") -> list[Contact]:
    return [Contact(NodeId(bytes([n]) * 20), (host, 50_000 + n)) for n in range(count)]


@pytest.mark.parametrize(("question", "stock"), QUESTIONS)
def test_questions_are_byte_for_byte_those_of_stock_nodes(
    question: wire.Question, stock: list[object]
) -> None:
    data = b"\x00" + MESSAGE + umsgpack.packb(stock)
    assert wire.encode_question(MESSAGE, question) == data
    assert wire.decode(data) == Asked(MESSAGE, question)


@pytest.mark.parametrize("value", ["text", 1, 1.5, True, None, b"x" * 1_025])
def test_values_that_cannot_be_ours_are_seen_as_such(value: object) -> None:
    data = b"\x00" + MESSAGE + umsgpack.packb(["store", [ID, KEY, value]])
    assert wire.decode(data) == Asked(MESSAGE, wire.Store(ID, KEY, None))


def test_longest_value_passes() -> None:
    question = wire.Store(ID, KEY, b"x" * wire.VALUE_BYTES_MAX)
    assert wire.decode(wire.encode_question(MESSAGE, question)) == Asked(MESSAGE, question)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc0",
        b"\xc1",
        umsgpack.packb("ping"),
        umsgpack.packb(["ping"]),
        umsgpack.packb(["ping", [ID], 1]),
        umsgpack.packb(["ping", []]),
        umsgpack.packb(["ping", [ID, ID]]),
        umsgpack.packb(["ping", [b"i" * 19]]),
        umsgpack.packb(["ping", [b"i" * 40]]),
        umsgpack.packb(["ping", ["i" * 20]]),
        umsgpack.packb(["ping", [ID]]) + b"\x00",
        umsgpack.packb(["store", [ID, 1.5, b"v"]]),
        umsgpack.packb(["store", [ID, KEY]]),
        umsgpack.packb(["find_node", [ID, KEY, KEY]]),
        umsgpack.packb(["find_value", [ID, {}]]),
        umsgpack.packb(["stun", [1]]),
        umsgpack.packb(["eval", ["1"]]),
        umsgpack.packb([b"ping", [ID]]),
        b"\x92\xa4\xff\xff\xff\xff\x90",
        b"\x92\xa4ping\xdd\xff\xff\xff\xff",
        b"\x92\xa4ping" + b"\x91" * 8_000,
        b"\x93\xa5store" + b"\x91" * 8_000,
        umsgpack.packb(["store", [ID, KEY]])[:-1] + b"\x91" * 5_000,
        umsgpack.packb(["store", [ID, KEY, b"v" * 8_192]]),
    ],
)
def test_malformed_questions(body: bytes) -> None:
    with pytest.raises(MalformedError):
        wire.decode(b"\x00" + MESSAGE + body)


@pytest.mark.parametrize("data", [b"", b"\x00" * 21, b"\x02" + MESSAGE + b"\xc0"])
def test_malformed_datagrams(data: bytes) -> None:
    with pytest.raises(MalformedError):
        wire.decode(data)


def test_answers_are_read_by_who_asked() -> None:
    data = wire.encode_answer(MESSAGE, True)
    assert data == b"\x01" + MESSAGE + umsgpack.packb(True)
    assert wire.decode(data) == Answered(MESSAGE, b"\xc3")


def test_twenty_contacts_fit_one_answer_in_either_family() -> None:
    contacts = nodes(20, "255.255.255.254")
    data = wire.encode_nodes(MESSAGE, contacts)
    rows = [(one.id, *one.address) for one in contacts]
    assert data == b"\x01" + MESSAGE + umsgpack.packb(rows)
    assert len(data) <= wire.ANSWER_BYTES_MAX
    assert wire.decode_answer(wire.FindNode(ID, KEY), data[21:]) == wire.Nodes(tuple(contacts))
    longest = nodes(20, "2001:db8:1111:2222:3333:4444:5555:6666")
    data = wire.encode_nodes(MESSAGE, longest)
    assert len(data) <= wire.ANSWER_BYTES_MAX
    answer = wire.decode_answer(wire.FindNode(ID, KEY), data[21:])
    assert answer == wire.Nodes(tuple(longest[: len(answer.contacts)]))  # type: ignore[union-attr]
    assert len(answer.contacts) >= 17  # type: ignore[union-attr]


ANSWERS: list[tuple[wire.Question, object, wire.Answer]] = [
    (wire.Ping(ID), KEY, wire.Pong(NodeId(KEY))),
    (wire.Store(ID, KEY, b""), True, wire.Stored(True)),
    (wire.Store(ID, KEY, b""), False, wire.Stored(False)),
    (wire.Store(ID, KEY, b""), {"stale": 7}, wire.Stored({"stale": 7})),
    (
        wire.Store(ID, KEY, b""),
        {"want": [b"a", b"b"], "odd": {"x": 1}, "deep": [[1]]},
        wire.Stored({"want": [b"a", b"b"]}),
    ),
    (wire.FindValue(ID, KEY), {"value": b"v"}, wire.Value(b"v", {})),
    (wire.FindValue(ID, KEY), {"value": b"v", "n": 1}, wire.Value(b"v", {"n": 1})),
    (wire.FindValue(ID, KEY), {"value": "text"}, wire.Nodes(())),
    (wire.FindValue(ID, KEY), {"value": b"x" * 1_025}, wire.Nodes(())),
    (wire.FindValue(ID, KEY), [], wire.Nodes(())),
    (wire.FindNode(ID, KEY), [], wire.Nodes(())),
    (
        wire.FindNode(ID, KEY),
        [
            [ID, "192.0.2.1", 1],
            [b"x" * 40, "192.0.2.1", 1],
            [ID, "example.org", 1],
            [ID, "::ffff:192.0.2.2", 2],
            [ID, "192.0.2.1", 0],
            [ID, "192.0.2.1"],
            7,
            {},
        ],
        wire.Nodes((Contact(ID, ("192.0.2.1", 1)), Contact(ID, ("192.0.2.2", 2)))),
    ),
]


@pytest.mark.parametrize(("question", "body", "answer"), ANSWERS)
def test_answers(question: wire.Question, body: object, answer: wire.Answer) -> None:
    assert wire.decode_answer(question, umsgpack.packb(body)) == answer


@pytest.mark.parametrize(
    ("question", "body"),
    [
        (wire.Ping(ID), 1),
        (wire.Ping(ID), b"i" * 40),
        (wire.Ping(ID), None),
        (wire.Store(ID, KEY, b""), None),
        (wire.Store(ID, KEY, b""), 1),
        (wire.Store(ID, KEY, b""), {1: 2}),
        (wire.Store(ID, KEY, b""), {str(n): n for n in range(17)}),
        (wire.FindNode(ID, KEY), 1),
        (wire.FindNode(ID, KEY), {"value": b"v"}),
        (wire.FindValue(ID, KEY), {}),
        (wire.FindValue(ID, KEY), {"other": b"v"}),
        (wire.FindValue(ID, KEY), "text"),
        (wire.Stun(), []),
    ],
)
def test_garbage_answers(question: wire.Question, body: object) -> None:
    with pytest.raises(MalformedError):
        wire.decode_answer(question, umsgpack.packb(body))


def test_no_answer_brings_more_contacts_than_honest_nodes_send() -> None:
    body = umsgpack.packb([[bytes([n]) * 20, "192.0.2.1", 1 + n] for n in range(200)])
    answer = wire.decode_answer(wire.FindNode(ID, KEY), body)
    assert isinstance(answer, wire.Nodes)
    assert len(answer.contacts) == wire.NODES_MAX


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(0, 9), inner),
    max_leaves=30,
)
bodies = st.binary(max_size=200) | plain.map(umsgpack.packb)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300) | bodies.map(lambda body: b"\x00" + MESSAGE + body))
@example(b"\x00" + MESSAGE + b"\x81" * 8_000)
def test_no_datagram_raises_anything_else(data: bytes) -> None:
    with suppress(MalformedError):
        wire.decode(data)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([question for question, _ in QUESTIONS]), bodies)
@example(wire.FindValue(ID, KEY), b"")
@example(wire.FindValue(ID, KEY), b"\x82\xa5value\xc4\x01v\xa1x" + b"\x91" * 8_000)
@example(wire.FindNode(ID, KEY), b"\x91" * 8_000)
@example(wire.Store(ID, KEY, b""), b"\x81\xa1x\xc7\x05\xff12345")
def test_no_answer_raises_anything_else(question: wire.Question, body: bytes) -> None:
    with suppress(MalformedError):
        wire.decode_answer(question, body)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(QUESTIONS), st.integers(0, 200), st.integers(0, 255))
def test_mutated_questions_are_read_or_malformed(
    pair: tuple[wire.Question, list[object]], at: int, byte: int
) -> None:
    data = bytearray(wire.encode_question(MESSAGE, pair[0]))
    data[at % len(data)] = byte
    for end in (len(data), at % len(data)):
        with suppress(MalformedError):
            wire.decode(bytes(data[:end]))


# --- padding ---

_ENDINGS = st.lists(st.sampled_from([b"\0", b"\xc1", b"k"]), max_size=4).map(b"".join)
_KEYS = st.builds(lambda head, tail: (head + tail)[-20:], st.binary(min_size=20), _ENDINGS)
_IDS = _KEYS.map(NodeId)
_QUESTIONS = st.one_of(
    st.builds(wire.Ping, _IDS),
    st.builds(wire.FindNode, _IDS, _KEYS),
    st.builds(wire.FindValue, _IDS, _KEYS),
    st.builds(wire.Store, _IDS, _KEYS, st.binary(max_size=wire.VALUE_BYTES_MAX) | _ENDINGS),
    st.just(wire.Stun()),
)


@given(_QUESTIONS, st.booleans())
@example(wire.FindNode(ID, b"k" * 18 + b"\0\xc1"), True)
@example(wire.FindNode(ID, b"k" * 18 + b"\0\xc1"), False)
@example(wire.FindNode(ID, b"\0" + b"\xc1" * 19), False)
@example(wire.FindNode(NodeId(b"\0" * 20), b"\0" * 20), True)
def test_padding_comes_off_and_takes_nothing_with_it(question: wire.Question, padded: bool) -> None:
    plain = wire.encode_question(MESSAGE, question)
    data = wire.encode_question(MESSAGE, question, padded=padded)
    assert wire.decode(data) == Asked(MESSAGE, question)
    assert data.startswith(plain)
    # What a stock node reads is the same.
    assert umsgpack.unpackb(data[21:]) == umsgpack.unpackb(plain[21:])
    if not padded:
        assert data == plain


@pytest.mark.parametrize("short", range(5))
def test_a_question_that_nearly_fills_the_padding_is_read_all_the_same(short: int) -> None:
    empty = len(wire.encode_question(MESSAGE, wire.Store(ID, KEY, b"v" * 256)))
    question = wire.Store(ID, KEY, b"v" * (256 + wire.PADDED_BYTES - empty - short))
    data = wire.encode_question(MESSAGE, question, padded=True)
    assert len(data) <= wire.PADDED_BYTES
    assert wire.decode(data) == Asked(MESSAGE, question)


def test_a_padded_question_earns_the_longest_answer_and_two_pings() -> None:
    data = wire.encode_question(MESSAGE, wire.FindNode(ID, KEY), padded=True)
    assert len(data) == wire.PADDED_BYTES
    assert 3 * len(data) >= wire.ANSWER_BYTES_MAX + 2 * wire.PING_BYTES
    assert len(data) < wire.ANSWER_BYTES_MAX / 2


@pytest.mark.parametrize(
    "tail", [b"\0", b"\xc1", b"\0\xc1\0", b"\xc1\0", b"\0\xc0\xc1", b"x\0\xc1"]
)
def test_anything_else_behind_a_question_is_malformed(tail: bytes) -> None:
    with pytest.raises(MalformedError):
        wire.decode(wire.encode_question(MESSAGE, wire.Ping(ID)) + tail)
