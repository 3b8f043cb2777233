"""The response plan: negotiation, preconditions, ranges. `test_http_plan_oracle` goes further."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from email import message_from_bytes
from email.policy import HTTP

import pytest
from aiohttp import BodyPartReader, MultipartReader, StreamReader
from aiohttp.base_protocol import BaseProtocol

from p2pweb.http.fields import RANGES_MAX, format_date
from p2pweb.http.messages import HTTP_1_1, Request, Span
from p2pweb.http.plan import Plan, Planner, Representation, Resource

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
    resource: Resource = PLAIN,
    fields: dict[bytes, bytes] | tuple[tuple[bytes, bytes], ...] = (),
    method: str = "GET",
) -> Plan:
    request = Request(
        method=method,
        target=b"/",
        version=HTTP_1_1,
        fields=(
            (b"host", b"example.com"),
            *(fields.items() if isinstance(fields, dict) else fields),
        ),
        host="example.com",
        host_port=None,
        content_length=0,
        keep_alive=True,
        expects_continue=False,
    )
    return Planner(resource).plan(request)


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
        pieces=(Span(0, 1000),),
        content_length=1000,
    )


def test_sites_own_fields_go_out_with_content() -> None:
    own = ("X-Own", "1")
    resource = replace(PLAIN, fields=(own,))
    assert own in ask(resource).fields
    assert own not in ask(resource, {b"if-none-match": b"*"}).fields


def test_304_has_those_of_the_sites_own_fields_that_a_cache_updates() -> None:
    kept = (("Content-Location", "/a"), ("expires", "0"), ("Vary", "Accept-Language"))
    resource = replace(PLAIN, fields=(*kept, ("Content-Language", "en")))
    assert ask(resource, {b"if-none-match": b"*"}).fields[2:] == kept


def test_media_type_cannot_add_lines_to_a_part() -> None:
    for amiss in ("text/html\r\nX: y", "text/h\u00e9"):
        with pytest.raises(ValueError, match="media type"):
            replace(PLAIN, media_type=amiss)


def test_plans_are_made_once() -> None:
    planner = Planner(PLAIN)
    request = Request(
        method="GET",
        target=b"/",
        version=HTTP_1_1,
        fields=(),
        host="example.com",
        host_port=None,
        content_length=0,
        keep_alive=True,
        expects_continue=False,
    )
    assert planner.plan(request) is planner.plan(request)


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
    fields = {} if accepted is None else {b"accept-encoding": accepted}
    assert ask(VARIED, fields).representation == chosen


def test_of_encodings_alike_the_fewest_bytes_win_then_the_servers_order() -> None:
    rival = replace(BR, encoding="zstd", etag='"z"')
    for first, second in ((BR, rival), (rival, BR)):
        resource = replace(PLAIN, representations=(IDENTITY, first, second))
        assert ask(resource, {b"accept-encoding": b"br, zstd"}).representation == first


def test_without_accept_encoding_a_coding_is_better_than_nothing() -> None:
    assert ask(replace(PLAIN, representations=(GZIP,))).representation == GZIP


def test_repeated_field_lines_are_one_value() -> None:
    lines = ((b"if-none-match", b'"x"'), (b"if-none-match", b'"i"'))
    assert ask(PLAIN, lines).status == 304
    assert ask(PLAIN, ((b"range", b"bytes=0-1"), (b"range", b"900-"))).status == 206
    assert ask(PLAIN, ((b"range", b"bytes=0-1"), (b"range", b"bytes=900-"))).status == 200


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
    ("value", "status", "pieces", "content_range"),
    [
        (b"bytes=0-9", 206, (Span(0, 10),), "bytes 0-9/1000"),
        (b"bytes=-1", 206, (Span(999, 1000),), "bytes 999-999/1000"),
        (b"bytes=0-", 206, (Span(0, 1000),), "bytes 0-999/1000"),
        (b"bytes=1000-", 416, (), "bytes */1000"),
        (b"bytes=-0", 416, (), "bytes */1000"),
        (b"bytes=1000-, -0", 416, (), "bytes */1000"),
        (b"lines=0-9", 200, (Span(0, 1000),), None),
        (b"bytes=9-0", 200, (Span(0, 1000),), None),
        # Of several, one is left.
        (b"bytes=0-9, 1000-", 206, (Span(0, 10),), "bytes 0-9/1000"),
        (b"bytes=5-9, 0-6", 206, (Span(0, 10),), "bytes 0-9/1000"),
        (b"bytes=500-, 0-499", 206, (Span(0, 1000),), "bytes 0-999/1000"),
        (b"bytes=" + b",".join([b"0-9"] * RANGES_MAX), 206, (Span(0, 10),), "bytes 0-9/1000"),
        (b"bytes=" + b",".join([b"0-9"] * (RANGES_MAX + 1)), 200, (Span(0, 1000),), None),
    ],
)
def test_range_is_answered(
    value: bytes, status: int, pieces: tuple[Span, ...], content_range: str | None
) -> None:
    answer = ask(PLAIN, {b"range": value})
    assert (answer.status, answer.pieces) == (status, pieces)
    assert dict(answer.fields).get("Content-Range") == content_range
    assert answer.content_length == sum(piece.stop - piece.start for piece in pieces)


# sha256('"i"'), its first 32 digits: what every peer must come to, in every release.
BOUNDARY = "a05447c5b6502c5938db0f77f9935407"
# What a part's head costs at the least.
HEAD_BYTES = len(
    f"\r\n--{BOUNDARY}\r\nContent-Type: text/html; charset=utf-8\r\n"
    "Content-Range: bytes 0-0/1000\r\n\r\n"
)
CONTENT = bytes(number % 251 for number in range(1000))


def body(answer: Plan, content: bytes = CONTENT) -> bytes:
    return b"".join(
        content[piece.start : piece.stop] if isinstance(piece, Span) else piece
        for piece in answer.pieces
    )


def test_several_ranges_are_a_multipart_in_the_order_asked() -> None:
    answer = ask(PLAIN, {b"range": b"bytes=900-904, 0-2, -1"})
    assert answer.fields == (
        ("Content-Type", f"multipart/byteranges; boundary={BOUNDARY}"),
        ("ETag", '"i"'),
        ("Last-Modified", "Tue, 14 Nov 2023 22:13:20 GMT"),
        ("Accept-Ranges", "bytes"),
        ("Cache-Control", "public, max-age=0, must-revalidate"),
        ("X-Content-Type-Options", "nosniff"),
    )
    # The last range is nearer to the first than a part's head is long, so they are one.
    assert answer.status == 206
    assert answer.pieces == (
        (
            f"--{BOUNDARY}\r\n"
            "Content-Type: text/html; charset=utf-8\r\n"
            "Content-Range: bytes 900-999/1000\r\n"
            "\r\n"
        ).encode(),
        Span(900, 1000),
        (
            f"\r\n--{BOUNDARY}\r\n"
            "Content-Type: text/html; charset=utf-8\r\n"
            "Content-Range: bytes 0-2/1000\r\n"
            "\r\n"
        ).encode(),
        Span(0, 3),
        f"\r\n--{BOUNDARY}--\r\n".encode(),
    )
    assert answer.content_length == len(body(answer))


def test_united_ranges_stand_where_the_first_of_them_stood() -> None:
    long = replace(PLAIN, representations=(replace(IDENTITY, size_bytes=100_000),))
    answer = ask(long, {b"range": b"bytes=50000-50009, 90000-90009, 0-9, 50005-50019, 5-6"})
    spans = [piece for piece in answer.pieces if isinstance(piece, Span)]
    assert spans == [Span(50000, 50020), Span(90000, 90010), Span(0, 10)]


def test_ranges_are_united_over_a_gap_shorter_than_a_parts_head() -> None:
    near, far = HEAD_BYTES, HEAD_BYTES + 1
    assert ask(PLAIN, {b"range": b"bytes=0-0, %d-%d" % (near, near)}).pieces == (Span(0, far),)
    assert len(ask(PLAIN, {b"range": b"bytes=0-0, %d-%d" % (far, far)}).pieces) == 5


def test_multipart_is_never_as_long_as_the_whole() -> None:
    # Two ranges that leave out more than a part's head, and less than the multipart adds.
    parts = ask(PLAIN, {b"range": b"bytes=0-99, 900-999"})
    assert parts.content_length is not None
    frame = parts.content_length - 200
    for left_out, status in ((frame, 200), (frame + 1, 206)):
        asked = b"bytes=0-99, %d-999" % (100 + left_out)
        answer = ask(PLAIN, {b"range": asked})
        assert answer.status == status
        assert answer.content_length == (1000 if status == 200 else 999)


def test_multipart_is_of_the_selected_encoding_and_says_so_in_its_head() -> None:
    coded = replace(GZIP, size_bytes=900)
    resource = replace(PLAIN, representations=(IDENTITY, coded))
    fields = {b"accept-encoding": b"gzip", b"range": b"bytes=0-1,800-801"}
    answer = ask(resource, fields)
    assert answer.representation == coded
    assert dict(answer.fields)["Content-Encoding"] == "gzip"
    assert dict(answer.fields)["Vary"] == "Accept-Encoding"
    assert "Content-Range" not in dict(answer.fields)
    assert BOUNDARY not in dict(answer.fields)["Content-Type"]


def test_email_package_reads_our_multipart() -> None:
    answer = ask(PLAIN, {b"range": b"bytes=600-699, 10-19, 300-309"})
    head = f"Content-Type: {dict(answer.fields)['Content-Type']}\r\n\r\n".encode()
    message = message_from_bytes(head + body(answer), policy=HTTP)
    assert message.is_multipart()
    assert not message.defects
    parts = list(message.iter_parts())
    assert [part["Content-Range"] for part in parts] == [
        "bytes 600-699/1000",
        "bytes 10-19/1000",
        "bytes 300-309/1000",
    ]
    assert [part.get_payload(decode=True) for part in parts] == [
        CONTENT[600:700],
        CONTENT[10:20],
        CONTENT[300:310],
    ]


async def test_aiohttp_reads_our_multipart() -> None:
    answer = ask(PLAIN, {b"range": b"bytes=600-699, 10-19, 300-309"})
    loop = asyncio.get_running_loop()
    stream = StreamReader(BaseProtocol(loop), 2**16, loop=loop)
    stream.feed_data(body(answer))
    stream.feed_eof()
    reader = MultipartReader(dict(answer.fields), stream)
    parts = []
    while (part := await reader.next()) is not None:
        assert isinstance(part, BodyPartReader)
        parts.append(
            (part.headers["Content-Range"], part.headers["Content-Type"], await part.read())
        )
    assert parts == [
        ("bytes 600-699/1000", "text/html; charset=utf-8", CONTENT[600:700]),
        ("bytes 10-19/1000", "text/html; charset=utf-8", CONTENT[10:20]),
        ("bytes 300-309/1000", "text/html; charset=utf-8", CONTENT[300:310]),
    ]


def test_range_is_taken_of_the_selected_encoding() -> None:
    answer = ask(VARIED, {b"range": b"bytes=100-", b"accept-encoding": b"gzip"})
    assert answer.representation == GZIP
    assert dict(answer.fields)["Content-Range"] == "bytes 100-299/300"
    assert dict(answer.fields)["Content-Encoding"] == "gzip"


def test_416_varies_too() -> None:
    answer = ask(VARIED, {b"range": b"bytes=5000-"})
    assert answer.fields == (("Content-Range", "bytes */1000"), ("Vary", "Accept-Encoding"))


def test_head_ignores_range_and_has_an_empty_body() -> None:
    for value in (b"bytes=0-9", b"bytes=0-9, 500-509", b"bytes=5000-"):
        answer = ask(PLAIN, {b"range": value}, "HEAD")
        assert answer == replace(ask(PLAIN), pieces=())
        assert answer.content_length == 1000


def test_empty_file_has_no_pieces() -> None:
    empty = replace(PLAIN, representations=(replace(IDENTITY, size_bytes=0),))
    answer = ask(empty)
    assert (answer.status, answer.pieces, answer.content_length) == (200, (), 0)


def test_ranges_of_an_empty_file() -> None:
    empty = replace(PLAIN, representations=(replace(IDENTITY, size_bytes=0),))
    assert ask(empty, {b"range": b"bytes=0-"}).status == 416
    assert ask(empty, {b"range": b"bytes=-5"}).status == 200
    assert ask(empty, {b"range": b"bytes=0-, -5, -6"}).status == 200


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
    for asked in (b"bytes=0-9", b"bytes=0-9, 500-509"):
        assert ask(PLAIN, {b"range": asked, b"if-range": value}).status == status


def test_if_range_without_range_means_nothing() -> None:
    assert ask(PLAIN, {b"if-range": b'"x"'}).status == 200


def test_error_page_ignores_preconditions_and_ranges() -> None:
    fields = {b"if-none-match": b"*", b"if-match": b'"x"', b"range": b"bytes=0-9"}
    answer = ask(NOT_FOUND, {**fields, b"accept-encoding": b"br"})
    assert (answer.status, answer.pieces) == (404, (Span(0, 200),))
    assert answer.representation == BR
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


def test_resource_without_a_date_has_no_last_modified_and_ignores_conditions_on_dates() -> None:
    undated = replace(PLAIN, last_modified_s=None)
    assert all(name != "Last-Modified" for name, _ in ask(undated).fields)
    for name in (b"if-modified-since", b"if-unmodified-since"):
        assert ask(undated, {name: SAME}).status == 200
    assert ask(undated, {b"range": b"bytes=0-1", b"if-range": SAME}).status == 200
    assert ask(undated, {b"range": b"bytes=0-1", b"if-range": b'"i"'}).status == 206
