"""The grammars inside field values."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pweb.http.fields import (
    RANGES_MAX,
    RangeSpec,
    format_date,
    match_strongly,
    match_weakly,
    parse_accept_encoding,
    parse_date,
    parse_entity_tags,
    parse_range,
    split_list,
)
from p2pweb.http.messages import Span

# The date that RFC 9110 §5.6.7 writes in all three forms.
EXAMPLE_S = 784111777
NOW_S = 1_800_000_000


@pytest.mark.parametrize(
    "value",
    [
        b"Sun, 06 Nov 1994 08:49:37 GMT",
        b"Sunday, 06-Nov-94 08:49:37 GMT",
        b"Sun Nov  6 08:49:37 1994",
    ],
)
def test_three_date_forms_are_read(value: bytes) -> None:
    assert parse_date(value, near_unix_s=NOW_S) == EXAMPLE_S


def test_one_date_form_is_written() -> None:
    assert format_date(EXAMPLE_S) == "Sun, 06 Nov 1994 08:49:37 GMT"


@given(st.integers(0, 4_000_000_000))
def test_written_date_is_read_back(unix_s: int) -> None:
    assert format_date(unix_s) == formatdate(unix_s, usegmt=True)
    assert parse_date(format_date(unix_s).encode(), near_unix_s=NOW_S) == unix_s


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"yesterday",
        b"784111777",
        b"Sun, 6 Nov 1994 08:49:37 GMT",
        b"Sun, 06 Nov 1994 08:49:37 UTC",
        b"Sun, 06 Nov 1994 08:49:37 +0000",
        b"sun, 06 nov 1994 08:49:37 gmt",
        b"Mon, 06 Nov 1994 08:49:37 GMT",
        b"Thu, 30 Feb 2023 00:00:00 GMT",
        b"Sun, 06 Nov 1994 24:00:00 GMT",
        b"Sun, 06 Nov 1994 08:60:00 GMT",
        b"Sun, 06 Nov 1994 08:49:61 GMT",
        b"Sat, 01 Jan 0000 00:00:00 GMT",
        b"Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
        b"Sun Nov 06 08:49:37 94",
    ],
)
def test_invalid_date_is_none(value: bytes) -> None:
    assert parse_date(value, near_unix_s=NOW_S) is None


def test_leap_second_is_the_next_second() -> None:
    assert parse_date(b"Sat, 31 Dec 2016 23:59:60 GMT", near_unix_s=NOW_S) == 1483228800


def test_two_digit_year_is_at_most_fifty_years_ahead() -> None:
    # NOW_S lies in 2027.
    assert parse_date(b"Friday, 01-Jan-77 00:00:00 GMT", near_unix_s=NOW_S) == 3376684800
    assert parse_date(b"Sunday, 01-Jan-78 00:00:00 GMT", near_unix_s=NOW_S) == 252460800
    # Fifty years to the second, and a second more.
    assert parse_date(b"Friday, 15-Jan-77 08:00:00 GMT", near_unix_s=NOW_S) == 3377923200
    assert parse_date(b"Saturday, 15-Jan-77 08:00:01 GMT", near_unix_s=NOW_S) == 222163201


@pytest.mark.parametrize(
    ("value", "tags"),
    [
        (b'"a"', ('"a"',)),
        (b'W/"a"', ('W/"a"',)),
        (b'"a", W/"b" ,"c"', ('"a"', 'W/"b"', '"c"')),
        (b'"a,b"', ('"a,b"',)),
        (b', "a",, "b",', ('"a"', '"b"')),
        (b'""', ('""',)),
        (b'"\xe9"', ('"\xe9"',)),
        (b"*", ("*",)),
        (b" * ", ("*",)),
        (b"", ()),
        (b"a", ()),
        (b'w/"a"', ()),
        (b'"a', ()),
        (b'"a" "b"', ()),
        (b'"a", *', ()),
        (b"*,", ()),
        (b'"a b"', ()),
    ],
)
def test_entity_tags_are_listed(value: bytes, tags: tuple[str, ...]) -> None:
    assert parse_entity_tags(value) == tags


@pytest.mark.parametrize(
    ("left", "right", "strongly", "weakly"),
    [
        ('W/"1"', 'W/"1"', False, True),
        ('W/"1"', 'W/"2"', False, False),
        ('W/"1"', '"1"', False, True),
        ('"1"', '"1"', True, True),
    ],
)
def test_entity_tags_compare_as_in_the_rfc(
    left: str, right: str, strongly: bool, weakly: bool
) -> None:
    assert match_strongly(left, right) is strongly
    assert match_weakly(left, right) is weakly


def test_list_drops_blanks_and_empty_elements() -> None:
    assert split_list(b" a ,,\tb, ") == [b"a", b"b"]
    assert split_list(b"") == []


@pytest.mark.parametrize(
    ("value", "spans"),
    [
        # Each span of a representation of 10 bytes.
        (b"bytes=0-4", [(0, 5)]),
        (b"BYTES=0-4", [(0, 5)]),
        (b"bytes=9-9", [(9, 10)]),
        (b"bytes=5-", [(5, 10)]),
        (b"bytes=5-99", [(5, 10)]),
        (b"bytes=0-" + b"9" * 5000, [(0, 10)]),
        (b"bytes=000000000000000000001-2", [(1, 3)]),
        (b"bytes=-3", [(7, 10)]),
        (b"bytes=-99", [(0, 10)]),
        (b"bytes=-0", [None]),
        (b"bytes=10-", [None]),
        (b"bytes=10-20", [None]),
        (b"bytes=" + b"9" * 5000 + b"-", [None]),
        (b"bytes=0-0, 3-4 ,-1", [(0, 1), (3, 5), (9, 10)]),
        (b"bytes=,0-0,", [(0, 1)]),
    ],
)
def test_ranges_resolve(value: bytes, spans: list[tuple[int, int] | None]) -> None:
    specs = parse_range(value)
    assert specs is not None
    assert [spec.resolve(10) for spec in specs] == [span and Span(*span) for span in spans]


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"bytes",
        b"bytes=",
        b"bytes= ",
        b"bytes=-",
        b"bytes=a-b",
        b"bytes=1",
        b"bytes=4-2",
        b"bytes=0-1,4-2",
        b"bytes=" + b"9" * 30 + b"-" + b"9" * 29 + b"8",
        b"bytes=0-1;2-3",
        b"bytes=1 - 2",
        b"bytes=--1",
        b"bytes=+1-2",
        b"bytes =0-1",
        b"lines=0-1",
        b"bytes=0-1, bytes=2-3",
        "bytes=\u0660-\u0661".encode(),
    ],
)
def test_range_that_is_no_byte_range_is_ignored(value: bytes) -> None:
    assert parse_range(value) is None


def test_many_ranges_are_ignored() -> None:
    assert parse_range(b"bytes=" + b",".join([b"0-1"] * RANGES_MAX)) is not None
    assert parse_range(b"bytes=" + b",".join([b"0-1"] * (RANGES_MAX + 1))) is None


def test_suffix_of_an_empty_representation_is_all_of_it() -> None:
    assert RangeSpec(first=None, last=5).resolve(0) == Span(0, 0)


@pytest.mark.parametrize(
    ("value", "weights"),
    [
        (b"", {}),
        (b"gzip, BR", {"gzip": 1000, "br": 1000}),
        (b"gzip;q=0.5 , br ; Q=0.001", {"gzip": 500, "br": 1}),
        (b"gzip;q=0, *;q=1.000", {"gzip": 0, "*": 1000}),
        (b"gzip;q=0., identity;q=1.", {"gzip": 0, "identity": 1000}),
        (b"x-gzip", {"gzip": 1000}),
        (b"gzip;q=0.1, gzip", {"gzip": 100}),
        (b"gzip;q=2, br;q=0.1234, zstd;level=3, a b, deflate", {"deflate": 1000}),
    ],
)
def test_encodings_are_weighed(value: bytes, weights: dict[str, int]) -> None:
    assert parse_accept_encoding(value) == weights
