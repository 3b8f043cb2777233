"""The request parser: every case whole, by byte and at random cuts, with the same answer."""

from __future__ import annotations

import itertools
import random

import h11
import pytest
from http_corpus import CASES, CHUNKED, GET, HOST, POST, Asked, Case
from http_request import request_of
from hypothesis import given
from hypothesis import strategies as st

from p2pweb.http.messages import HTTP_1_0, HTTP_1_1, Refusal, Request
from p2pweb.http.parser import BodyData, EndOfMessage, Event, Limits, RequestParser

VALID = tuple(case for case in CASES if case.is_valid)

Outcome = tuple[list[Asked], int | None, bool]


def read(stream: bytes, cuts: list[int], limits: Limits | None = None) -> Outcome:
    """The finished requests, the refusal's status, and whether a message was left open."""
    parser = RequestParser(limits) if limits else RequestParser()
    requests: list[Asked] = []
    head: Request | None = None
    body = b""
    edges = [0, *sorted(cuts), len(stream)]
    try:
        for start, stop in itertools.pairwise(edges):
            parser.receive(stream[start:stop])
            while (event := parser.next_event()) is not None:
                if isinstance(event, Request):
                    head, body = event, b""
                elif isinstance(event, BodyData):
                    assert event.data
                    body += event.data
                else:
                    assert isinstance(event, EndOfMessage)
                    assert head is not None
                    assert parser.ended
                    requests.append((head.method, head.target, body))
                    parser.next_request()
    except Refusal as refusal:
        assert parser.refused
        return requests, refusal.status, False
    return requests, None, parser.begun


def read_in_all_ways(stream: bytes, limits: Limits | None = None) -> Outcome:
    whole = read(stream, [], limits)
    assert read(stream, list(range(1, len(stream))), limits) == whole
    chance = random.Random(1)
    for _ in range(10):
        cuts = [chance.randrange(len(stream)) for _ in range(chance.randrange(1, 8))]
        assert read(stream, cuts, limits) == whole
    return whole


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_stream_gives_its_requests_and_its_refusal(case: Case) -> None:
    outcome = (list(case.requests), case.refusal, bool(case.unfinished))
    assert read_in_all_ways(case.stream) == outcome


def read_with_h11(stream: bytes, count: int) -> list[Asked]:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(stream)
    requests: list[Asked] = []
    method, target, body = "", b"", b""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            method, target, body = event.method.decode(), bytes(event.target), b""
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            requests.append((method, target, body))
            if len(requests) == count:
                return requests
            connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            connection.send(h11.EndOfMessage())
            connection.start_next_cycle()


@pytest.mark.parametrize("case", VALID, ids=lambda case: case.name)
def test_valid_stream_reads_as_h11_reads_it(case: Case) -> None:
    try:
        requests = read_with_h11(case.stream, len(case.requests))
    except h11.ProtocolError:
        requests = []
    assert (requests == list(case.requests)) == (not case.h11_differs)


@given(st.sampled_from(CASES), st.data())
def test_mutated_stream_is_read_alike_at_any_cuts(case: Case, data: st.DataObject) -> None:
    stream = bytearray(case.stream[:600])
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(stream) - 1))
        piece = data.draw(st.sampled_from((b"", b"\r", b"\n", b"\r\n", b" ", b"0", b":", b"\x00")))
        stream[at : at + data.draw(st.integers(0, 1))] = piece
    mutated = bytes(stream) or b"x"
    cuts = data.draw(st.lists(st.integers(0, len(mutated)), max_size=6))
    assert read(mutated, cuts) == read(mutated, [])


def test_field_names_are_lowered_and_values_stripped() -> None:
    request = request_of(GET + HOST + b"X-A:  b \r\n\r\n")
    assert request.fields == ((b"host", b"example.com"), (b"x-a", b"b"))


def test_repeated_field_lines_are_joined() -> None:
    request = request_of(GET + HOST + b"Accept: a\r\nX: y\r\naccept: b\r\n\r\n")
    assert request.field(b"accept") == b"a, b"
    assert request.field(b"x") == b"y"
    assert request.field(b"missing") is None


@pytest.mark.parametrize(
    ("value", "host", "port"),
    [
        (b"Example.COM", "example.com", None),
        (b"example.com.", "example.com.", None),
        (b"example.com:8001", "example.com", 8001),
        (b"example.com:", "example.com", None),
        (b"a_b.local", "a_b.local", None),
        (b"127.0.0.1:80", "127.0.0.1", 80),
        (b"[::1]:80", "::1", 80),
        (b"[0:0:0:0:0:0:0:1]", "::1", None),
    ],
)
def test_host_is_split_and_normalised(value: bytes, host: str, port: int | None) -> None:
    request = request_of(GET + b"Host: " + value + b"\r\n\r\n")
    assert (request.host, request.host_port) == (host, port)


def test_absolute_form_overrules_host() -> None:
    request = request_of(b"GET http://Other.org:81/a HTTP/1.1\r\n" + HOST + b"\r\n")
    assert (request.host, request.host_port, request.target) == ("other.org", 81, b"/a")


def test_http_1_0_may_lack_a_host() -> None:
    request = request_of(b"GET / HTTP/1.0\r\n\r\n")
    assert (request.host, request.version) == ("", HTTP_1_0)


def test_version_above_1_1_is_read_as_1_1() -> None:
    assert request_of(b"GET / HTTP/1.9\r\n" + HOST + b"\r\n").version == HTTP_1_1


@pytest.mark.parametrize(
    ("version", "connection", "keeps"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"close", False),
        (b"1.1", b"Keep-Alive, CLOSE", False),
        (b"1.0", b"", False),
        (b"1.0", b"upgrade, Keep-Alive", True),
        (b"1.0", b"keep-alive, close", False),
    ],
)
def test_keep_alive_follows_version_and_connection(
    version: bytes, connection: bytes, keeps: bool
) -> None:
    stream = b"GET / HTTP/%s\r\n%sConnection: %s\r\n\r\n" % (version, HOST, connection)
    assert request_of(stream).keep_alive is keeps


def test_expectation_of_http_1_0_is_ignored() -> None:
    expect = b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\n"
    assert request_of(POST + expect).expects_continue
    assert not request_of(b"POST / HTTP/1.0\r\n" + HOST + expect).expects_continue


def test_next_request_waits_until_asked_for() -> None:
    parser = RequestParser()
    parser.receive((GET + HOST + b"\r\n") * 2)
    assert isinstance(parser.next_event(), Request)
    assert isinstance(parser.next_event(), EndOfMessage)
    assert parser.next_event() is None
    assert parser.buffered_bytes == len(GET + HOST + b"\r\n")
    parser.next_request()
    assert isinstance(parser.next_event(), Request)


def test_next_request_amid_a_message_is_a_mistake() -> None:
    with pytest.raises(RuntimeError):
        RequestParser().next_request()


def test_refusal_is_repeated() -> None:
    parser = RequestParser()
    parser.receive(b"nonsense\r\n")
    for _ in range(2):
        with pytest.raises(Refusal) as caught:
            parser.next_event()
        assert caught.value.status == 400
        parser.receive(GET + HOST + b"\r\n")


def test_request_has_begun_with_its_first_byte_but_not_with_empty_lines() -> None:
    parser = RequestParser()
    parser.receive(b"\r\n")
    assert parser.next_event() is None
    assert not parser.begun
    parser.receive(b"G")
    assert parser.next_event() is None
    assert parser.begun


def test_body_left_is_known_for_sized_and_for_ended_bodies() -> None:
    parser = RequestParser()
    parser.receive(POST + b"Content-Length: 5\r\n\r\nhel")
    parser.next_event()
    assert parser.body_left_bytes == 5
    parser.next_event()
    assert parser.body_left_bytes == 2
    chunked = RequestParser()
    chunked.receive(CHUNKED + b"0\r\n\r\n")
    chunked.next_event()
    assert chunked.body_left_bytes is None
    chunked.next_event()
    assert chunked.body_left_bytes == 0


def events_of(parser: RequestParser, stream: bytes) -> list[Event]:
    parser.receive(stream)
    found: list[Event] = []
    while (event := parser.next_event()) is not None:
        found.append(event)
    return found


def test_chunks_that_came_together_are_one_event() -> None:
    parser = RequestParser()
    assert events_of(parser, CHUNKED)[1:] == []
    stream = b"1\r\nh\r\n" + b"2;a=b\r\nel\r\n" + b"0001\r\nl\r\n" + b"3\r\no, "
    assert events_of(parser, stream) == [BodyData(data=b"hello, ")]
    assert events_of(parser, b"\r") == []
    more = b"\n" + b"1\r\nu\r\n" * 1000 + b"0\r\n\r\n"
    assert events_of(parser, more) == [BodyData(data=b"u" * 1000), EndOfMessage()]


def test_chunk_line_that_came_in_pieces_says_nothing_of_the_next_one() -> None:
    parser = RequestParser()
    events_of(parser, CHUNKED)
    assert events_of(parser, b"00001\r") == []
    assert events_of(parser, b"\nx\r\n0\r\n\r\n") == [BodyData(data=b"x"), EndOfMessage()]


def test_data_before_a_malformed_chunk_is_given_out_before_the_refusal() -> None:
    parser = RequestParser()
    events_of(parser, CHUNKED)
    parser.receive(b"2\r\nhe\r\n3\r\nllo\r\nzz\r\n")
    assert parser.next_event() == BodyData(data=b"hello")
    assert parser.refused
    with pytest.raises(Refusal) as caught:
        parser.next_event()
    assert caught.value.status == 400


def test_a_byte_within_each_limit_passes() -> None:
    target = b"/" + b"a" * 8191
    line = b"A: " + b"b" * (8192 - 3)
    stream = b"GET " + target + b" HTTP/1.1\r\n" + HOST + line + b"\r\n\r\n"
    assert read(stream, [])[1] is None
    assert read(GET + HOST + b"A: b\r\n" * 99 + b"\r\n", [])[1] is None


def test_limits_are_obeyed_at_their_edge() -> None:
    stream = GET + HOST + b"\r\n"
    exact = Limits(head_bytes_max=len(GET + HOST))
    assert read_in_all_ways(stream, exact)[1] is None
    short = Limits(head_bytes_max=len(GET + HOST) - 1)
    # The last field's own CRLF may overrun by what the empty line needs, no more.
    assert read_in_all_ways(GET + HOST + b"A: b\r\n\r\n", short)[1] == 431


def test_corpus_names_are_unique() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))


def test_head_read_before_is_taken_up_without_its_bytes() -> None:
    parser = RequestParser()
    parser.repeat(b"GET / HTTP/1.1\r\n\r\n")
    assert parser.head == b"GET / HTTP/1.1\r\n\r\n"
    assert parser.next_event() == EndOfMessage()
    parser.next_request()
    parser.receive(b"G")
    with pytest.raises(RuntimeError):
        parser.repeat(b"GET / HTTP/1.1\r\n\r\n")
