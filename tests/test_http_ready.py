"""The table of ready answers: what is remembered, for how long, and how much of it."""

from __future__ import annotations

import math

import pytest
from http_request import head_of, request_of

from p2pweb.http.messages import (
    SHORT_BODY_BYTES_MAX,
    Body,
    Content,
    Lease,
    Response,
    Span,
)
from p2pweb.http.ready import HEAD_BYTES_MAX, TABLE_BYTES_MAX, ReadyAnswers

LEASE = Lease(math.inf)


def remembered(response: Response, head: bytes | None = None) -> bool:
    head = head or head_of()
    table = ReadyAnswers()
    table.put(head, request_of(head), response)
    return table.get(head) is not None


def test_answer_with_a_lease_is_remembered_and_another_is_not() -> None:
    assert remembered(Response(status=200, body=b"x", lease=LEASE))
    assert remembered(Response(status=304, lease=LEASE))
    assert not remembered(Response(status=200, body=b"x"))
    assert not remembered(Response(status=200, body=b"x", lease=LEASE, close=True))


def never_opened() -> Content:
    raise AssertionError


LONG = Response(
    status=200,
    body=Body(size_bytes=1 << 20, pieces=(Span(0, 1 << 20),), open=never_opened),
    lease=LEASE,
)


def test_long_answer_is_remembered_without_its_bytes() -> None:
    table = ReadyAnswers()
    table.put(head_of(), request_of(head_of()), LONG)
    ready = table.get(head_of())
    assert ready is not None
    assert (ready.is_long, ready.response, ready.sent_bytes) == (True, LONG, 0)


def test_length_of_a_long_body_is_remembered_for_head() -> None:
    head = head_of(method="HEAD")
    table = ReadyAnswers()
    table.put(head, request_of(head), LONG)
    ready = table.get(head)
    assert ready is not None
    assert not ready.is_long
    assert ready.wire("now").endswith(b"Content-Length: 1048576\r\n\r\n")
    assert ready.sent_bytes == 0


def test_same_answer_is_remembered_once() -> None:
    table = ReadyAnswers()
    response = Response(status=200, body=b"x", lease=LEASE)
    table.put(head_of(), request_of(head_of()), response)
    first = table.get(head_of())
    table.put(head_of(), request_of(head_of()), response)
    assert table.get(head_of()) is first


@pytest.mark.parametrize(
    "fields",
    [
        "Content-Length: 1\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Expect: 100-continue\r\n",
        f"X-Long: {'x' * HEAD_BYTES_MAX}\r\n",
    ],
)
def test_head_that_decides_more_than_the_answer_is_not_remembered(fields: str) -> None:
    assert not remembered(Response(status=200, lease=LEASE), head_of(fields=fields))


def test_answer_to_a_last_request_says_so() -> None:
    head = head_of(fields="Connection: close\r\n")
    table = ReadyAnswers()
    table.put(head, request_of(head), Response(status=200, body=b"x", lease=LEASE))
    ready = table.get(head)
    assert ready is not None
    assert ready.closes
    assert b"\r\nConnection: close\r\n" in ready.wire("now")


def test_head_that_came_in_pieces_is_not_remembered() -> None:
    table = ReadyAnswers()
    table.put(b"", request_of(head_of()), Response(status=200, lease=LEASE))
    assert table.get(b"") is None


def test_answer_has_its_date_and_is_kept_for_its_second() -> None:
    head = head_of()
    table = ReadyAnswers()
    fields = (("ETag", '"e"'),)
    table.put(head, request_of(head), Response(status=200, fields=fields, body=b"hi", lease=LEASE))
    ready = table.get(head)
    assert ready is not None
    first, second = "one", "two"
    wire = ready.wire(first)
    assert wire == (
        b'HTTP/1.1 200 OK\r\nETag: "e"\r\nServer: p2pweb\r\n'
        b"Date: one\r\nContent-Length: 2\r\n\r\nhi"
    )
    assert ready.wire(first) is wire
    assert b"Date: two\r\n" in ready.wire(second)
    assert (ready.is_long, ready.sent_bytes) == (False, 2)


def test_table_is_bounded_and_the_oldest_goes_first() -> None:
    table = ReadyAnswers()
    body = bytes(SHORT_BODY_BYTES_MAX)
    count = TABLE_BYTES_MAX // SHORT_BODY_BYTES_MAX
    heads = [head_of(f"/{number}") for number in range(count)]
    for head in heads:
        table.put(head, request_of(head), Response(status=200, body=body, lease=LEASE))
    assert table.get(heads[0]) is None
    assert table.get(heads[-1]) is not None
    assert sum(table.get(head) is not None for head in heads) <= count / 2


def test_new_answer_replaces_the_one_before_it() -> None:
    head = head_of()
    table = ReadyAnswers()
    for _ in range(10_000):
        body = bytes(SHORT_BODY_BYTES_MAX)
        table.put(head, request_of(head), Response(status=200, body=body, lease=LEASE))
    assert table.get(head) is not None
    table.clear()
    assert table.get(head) is None


def test_body_above_the_limit_is_not_remembered() -> None:
    assert not remembered(Response(status=200, body=bytes(SHORT_BODY_BYTES_MAX + 1), lease=LEASE))


def test_lease_that_has_ended_lasts_no_longer() -> None:
    lease = Lease(5.0)
    lease.end()
    assert lease.until_s < 0
