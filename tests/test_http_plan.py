"""The response plan: negotiation, preconditions, ranges, and an oracle that knows them too."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pweb.http.fields import format_date
from p2pweb.http.messages import HTTP_1_1, Request
from p2pweb.http.plan import Plan, Representation, Resource, plan, select

MODIFIED_S = 1_700_000_000
BEFORE = format_date(MODIFIED_S - 1).encode()
SAME = format_date(MODIFIED_S).encode()
AFTER = format_date(MODIFIED_S + 1).encode()

IDENTITY = Representation(encoding="identity", size_bytes=1000, etag='"i"')
GZIP = Representation(encoding="gzip", size_bytes=300, etag='"g"')
BR = Representation(encoding="br", size_bytes=200, etag='"b"')
PLAIN = Resource(
    media_type="text/html; charset=utf-8",
    last_modified_s=MODIFIED_S,
    representations=(IDENTITY,),
    cache_control="public, max-age=0, must-revalidate",
)
VARIED = replace(PLAIN, representations=(IDENTITY, GZIP, BR))
NOT_FOUND = replace(VARIED, status=404)


def ask(
    resource: Resource = PLAIN, fields: dict[bytes, bytes] | None = None, method: str = "GET"
) -> Plan:
    request = Request(
        method=method,
        target=b"/",
        version=HTTP_1_1,
        fields=tuple((fields or {}).items()),
        host="example.com",
        host_port=None,
        content_length=0,
        keep_alive=True,
        expects_continue=False,
    )
    return plan(request, resource)


def test_plain_answer_has_all_fields() -> None:
    answer = ask()
    assert answer == Plan(
        status=200,
        fields=(
            ("Content-Type", "text/html; charset=utf-8"),
            ("ETag", '"i"'),
            ("Last-Modified", "Tue, 14 Nov 2023 22:13:20 GMT"),
            ("Accept-Ranges", "bytes"),
            ("Cache-Control", "public, max-age=0, must-revalidate"),
            ("X-Content-Type-Options", "nosniff"),
        ),
        representation=IDENTITY,
        start=0,
        stop=1000,
        content_length=1000,
    )


def test_sites_own_fields_go_out_with_content() -> None:
    own = ("X-Own", "1")
    resource = replace(PLAIN, fields=(own,))
    assert own in ask(resource).fields
    assert own not in ask(resource, {b"if-none-match": b"*"}).fields


@pytest.mark.parametrize("accepted", [b"", b"identity", b"gzip", b"br"])
def test_every_variant_varies_and_has_its_own_tag(accepted: bytes) -> None:
    answer = ask(VARIED, {b"accept-encoding": accepted})
    fields = dict(answer.fields)
    assert fields["Vary"] == "Accept-Encoding"
    assert answer.representation is not None
    assert fields["ETag"] == answer.representation.etag
    coded = fields.get("Content-Encoding", "identity")
    assert coded == answer.representation.encoding == (accepted.decode() or "identity")


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        (None, IDENTITY),
        (b"", IDENTITY),
        (b"gzip, br", BR),
        (b"gzip, br;q=0.9", GZIP),
        (b"gzip;q=0.001", GZIP),
        (b"zstd", IDENTITY),
        (b"*", BR),
        (b"*, br;q=0", GZIP),
        (b"identity, gzip;q=0.5", IDENTITY),
        (b"identity;q=0, gzip;q=0, br;q=0.1", BR),
        (b"gzip;q=0", IDENTITY),
        (b"identity;q=0", None),
        (b"*;q=0", None),
        (b"*;q=0, identity", IDENTITY),
        (b"nonsense value", IDENTITY),
    ],
)
def test_encoding_is_negotiated(accepted: bytes | None, chosen: Representation | None) -> None:
    assert select(accepted, VARIED.representations) == chosen


def test_nothing_acceptable_is_406() -> None:
    answer = ask(PLAIN, {b"accept-encoding": b"identity;q=0"})
    assert answer == Plan(status=406, fields=(("Vary", "Accept-Encoding"),))


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({b"if-match": b'"i"'}, 200),
        ({b"if-match": b"*"}, 200),
        ({b"if-match": b'"x", "i"'}, 200),
        ({b"if-match": b'"x"'}, 412),
        ({b"if-match": b'W/"i"'}, 412),
        ({b"if-match": b"i"}, 412),
        ({b"if-unmodified-since": SAME}, 200),
        ({b"if-unmodified-since": AFTER}, 200),
        ({b"if-unmodified-since": BEFORE}, 412),
        ({b"if-unmodified-since": b"never"}, 200),
        ({b"if-match": b'"i"', b"if-unmodified-since": BEFORE}, 200),
        ({b"if-none-match": b'"i"'}, 304),
        ({b"if-none-match": b'W/"i"'}, 304),
        ({b"if-none-match": b"*"}, 304),
        ({b"if-none-match": b'"x"'}, 200),
        ({b"if-none-match": b"i"}, 200),
        ({b"if-modified-since": SAME}, 304),
        ({b"if-modified-since": AFTER}, 304),
        ({b"if-modified-since": BEFORE}, 200),
        ({b"if-modified-since": b"never"}, 200),
        ({b"if-modified-since": SAME + b", " + SAME}, 200),
        ({b"if-none-match": b'"x"', b"if-modified-since": SAME}, 200),
        ({b"if-match": b'"x"', b"if-none-match": b'"i"'}, 412),
        ({b"if-match": b'"i"', b"if-none-match": b'"i"'}, 304),
        ({b"if-unmodified-since": BEFORE, b"if-none-match": b'"i"'}, 412),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_preconditions_are_judged_in_order(
    method: str, fields: dict[bytes, bytes], status: int
) -> None:
    assert ask(PLAIN, fields, method).status == status


def test_304_carries_what_a_cache_updates_and_no_more() -> None:
    answer = ask(VARIED, {b"if-none-match": b'"g"', b"accept-encoding": b"gzip"})
    assert answer == Plan(
        status=304,
        fields=(
            ("ETag", '"g"'),
            ("Cache-Control", "public, max-age=0, must-revalidate"),
            ("Vary", "Accept-Encoding"),
        ),
        content_length=None,
    )


def test_tag_of_another_encoding_does_not_match() -> None:
    assert ask(VARIED, {b"if-none-match": b'"g"', b"accept-encoding": b"br"}).status == 200


def test_412_has_no_content() -> None:
    assert ask(PLAIN, {b"if-match": b'"x"'}) == Plan(status=412, fields=())


@pytest.mark.parametrize(
    ("value", "status", "start", "stop", "content_range"),
    [
        (b"bytes=0-9", 206, 0, 10, "bytes 0-9/1000"),
        (b"bytes=-1", 206, 999, 1000, "bytes 999-999/1000"),
        (b"bytes=0-", 206, 0, 1000, "bytes 0-999/1000"),
        (b"bytes=1000-", 416, 0, 0, "bytes */1000"),
        (b"bytes=-0", 416, 0, 0, "bytes */1000"),
        (b"bytes=1000-, -0", 416, 0, 0, "bytes */1000"),
        (b"lines=0-9", 200, 0, 1000, None),
        (b"bytes=9-0", 200, 0, 1000, None),
        (b"bytes=0-9, 20-29", 200, 0, 1000, None),
    ],
)
def test_range_is_answered(
    value: bytes, status: int, start: int, stop: int, content_range: str | None
) -> None:
    answer = ask(PLAIN, {b"range": value})
    assert (answer.status, answer.start, answer.stop) == (status, start, stop)
    assert dict(answer.fields).get("Content-Range") == content_range
    assert answer.content_length == stop - start


def test_range_is_taken_of_the_selected_encoding() -> None:
    answer = ask(VARIED, {b"range": b"bytes=100-", b"accept-encoding": b"gzip"})
    assert answer.representation == GZIP
    assert dict(answer.fields)["Content-Range"] == "bytes 100-299/300"
    assert dict(answer.fields)["Content-Encoding"] == "gzip"


def test_416_varies_too() -> None:
    answer = ask(VARIED, {b"range": b"bytes=5000-"})
    assert answer.fields == (("Content-Range", "bytes */1000"), ("Vary", "Accept-Encoding"))


def test_head_ignores_range_and_has_an_empty_body() -> None:
    answer = ask(PLAIN, {b"range": b"bytes=0-9"}, "HEAD")
    assert (answer.status, answer.start, answer.stop) == (200, 0, 0)
    assert answer.content_length == 1000


def test_ranges_of_an_empty_file() -> None:
    empty = replace(PLAIN, representations=(replace(IDENTITY, size_bytes=0),))
    assert ask(empty, {b"range": b"bytes=0-"}).status == 416
    assert ask(empty, {b"range": b"bytes=-5"}).status == 200


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (b'"i"', 206),
        (SAME, 206),
        (b'"x"', 200),
        (b'W/"i"', 200),
        (BEFORE, 200),
        (AFTER, 200),
        (b"nonsense", 200),
        (b"*", 200),
    ],
)
def test_if_range_wants_the_very_same_version(value: bytes, status: int) -> None:
    assert ask(PLAIN, {b"range": b"bytes=0-9", b"if-range": value}).status == status


def test_if_range_without_range_means_nothing() -> None:
    assert ask(PLAIN, {b"if-range": b'"x"'}).status == 200


def test_error_page_ignores_preconditions_and_ranges() -> None:
    fields = {b"if-none-match": b"*", b"if-match": b'"x"', b"range": b"bytes=0-9"}
    answer = ask(NOT_FOUND, {**fields, b"accept-encoding": b"br"})
    assert (answer.status, answer.stop, answer.representation) == (404, 200, BR)
    assert [name for name, _ in answer.fields] == [
        "Content-Type",
        "Content-Encoding",
        "Cache-Control",
        "X-Content-Type-Options",
        "Vary",
    ]


def test_other_methods_have_no_plan() -> None:
    with pytest.raises(ValueError, match="POST"):
        ask(PLAIN, {}, "POST")


# An oracle, written from RFC 9110's prose with tables instead of parsing: each choice carries its
# value and what it means for the selected representation.
_TAGS = {
    b'"%s"': (True, True),
    b'W/"%s"': (False, True),
    b'"no"': (False, False),
    b"*": (True, True),
}
_DATES = {BEFORE: -1, SAME: 0, AFTER: 1, b"bad": None}
_RANGES = {
    b"bytes=0-9": (206, 10),
    b"bytes=0-": (206, None),
    b"bytes=-7": (206, 7),
    b"bytes=99999-": (416, 0),
    b"chapters=1": (200, None),
}
_CODINGS = {b"": IDENTITY, b"gzip": GZIP, b"gzip;q=0.1, br": BR, b"identity;q=1, *;q=0": IDENTITY}


@given(st.data())
def test_plan_agrees_with_the_oracle(data: st.DataObject) -> None:
    def pick(table: dict[bytes, object]) -> bytes | None:
        return data.draw(st.sampled_from([None, *table]))

    method = data.draw(st.sampled_from(["GET", "HEAD"]))
    coding = data.draw(st.sampled_from(sorted(_CODINGS)))
    chosen = _CODINGS[coding]
    bare = chosen.etag.strip('"').encode()
    match, none_match, if_range_tag = (pick(dict(_TAGS)) for _ in range(3))
    unmodified, modified = pick(dict(_DATES)), pick(dict(_DATES))
    asked = pick(dict(_RANGES))

    expected, size = 200, chosen.size_bytes
    if method == "GET" and asked is not None:
        holds = if_range_tag is None or (if_range_tag != b"*" and _TAGS[if_range_tag][0])
        if holds and _RANGES[asked][0] != 200:
            expected, length = _RANGES[asked]
            size = size if length is None else length
    if none_match is not None:
        expected = 304 if _TAGS[none_match][1] else expected
    elif modified is not None and (_DATES[modified] or 0) >= 0 and modified != b"bad":
        expected = 304
    if match is not None:
        expected = expected if _TAGS[match][0] else 412
    elif unmodified == BEFORE:
        expected = 412
    size = {304: None, 412: 0}.get(expected, size)

    fields = {b"accept-encoding": coding}
    for name, value in (
        (b"if-match", match),
        (b"if-none-match", none_match),
        (b"if-range", if_range_tag),
        (b"if-unmodified-since", unmodified),
        (b"if-modified-since", modified),
        (b"range", asked),
    ):
        if value is not None:
            fields[name] = value.replace(b"%s", bare)
    answer = ask(VARIED, fields, method)
    assert (answer.status, answer.content_length) == (expected, size)
    assert dict(answer.fields)["Vary"] == "Accept-Encoding" if expected != 412 else True
