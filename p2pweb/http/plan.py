"""Request + resource → what to answer: status, fields, encoding, byte range.

Owns the semantics of RFC 9110 for GET and HEAD: content negotiation, preconditions, ranges. Pure:
the plan depends on the request and on the published version alone, so every peer answers alike,
and a download begun at one peer goes on at another. It reads no byte of the body and no clock.

A plan's fields are all that the answer has but Date, Content-Length, Connection and Server, which
are written where the answer is sent. Bodies of 406, 412 and 416 are empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from p2pweb.http.fields import (
    format_date,
    match_strongly,
    match_weakly,
    parse_accept_encoding,
    parse_date,
    parse_entity_tags,
    parse_range,
)
from p2pweb.http.messages import Request

_WHOLE_WEIGHT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Representation:
    """One encoding of a resource.

    `encoding` is "identity", "gzip", "br" or "zstd". `etag` is strong, quoted, and this encoding's
    own.
    """

    encoding: str
    size_bytes: int
    etag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """What a path names in one version.

    `media_type` is sent as it is. `representations` are in the server's order of preference, at
    least one. `status` is 200, or the status of a site's own error page (404): then preconditions
    and ranges do not apply. `fields` are the site's own and go out with every answer that has
    content.
    """

    media_type: str
    last_modified_s: int
    representations: tuple[Representation, ...]
    cache_control: str
    status: int = 200
    fields: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The answer: send bytes `start` to `stop` (exclusive) of `representation`.

    `representation` is None where the answer has no content (304, 406, 412, 416). For HEAD the
    range is empty; `content_length` is nevertheless what GET would send, and it is None where
    the answer has no such field (304).
    """

    status: int
    fields: tuple[tuple[str, str], ...]
    representation: Representation | None = None
    start: int = 0
    stop: int = 0
    content_length: int | None = 0


def plan(request: Request, resource: Resource) -> Plan:
    """Plan the answer to a GET or HEAD request."""
    if request.method not in ("GET", "HEAD"):
        raise ValueError(f"no plan for {request.method}")
    chosen = select(request.field(b"accept-encoding"), resource.representations)
    if chosen is None:
        # This answer depends on Accept-Encoding even where there is one encoding only.
        return Plan(status=406, fields=(_VARY,))
    if resource.status != 200:
        # RFC 9110 §13.2.1: preconditions are ignored where the answer without them would be
        # other than 2xx or 412; §14.2: ranges, where it would not be 200.
        return _content(request, resource, chosen, status=resource.status)
    match _judge_preconditions(request, resource, chosen):
        case 412:
            return Plan(status=412, fields=_vary(resource))
        case 304:
            # RFC 9110 §15.4.5: the fields that a cache needs to update what it stores, and none
            # that describe the content.
            fields = (("ETag", chosen.etag), ("Cache-Control", resource.cache_control))
            return Plan(status=304, fields=fields + _vary(resource), content_length=None)
        case _:
            return _ranged(request, resource, chosen)


# Negotiation


def select(
    accept_encoding: bytes | None, representations: tuple[Representation, ...]
) -> Representation | None:
    """The representation that the client likes best; None if it accepts none.

    The highest weight wins, then the fewest bytes, then the server's order.
    """
    weights = None if accept_encoding is None else parse_accept_encoding(accept_encoding)
    acceptable = [
        (-weight, candidate.size_bytes, order, candidate)
        for order, candidate in enumerate(representations)
        if (weight := _weigh(candidate.encoding, weights)) > 0
    ]
    return min(acceptable)[-1] if acceptable else None


def _weigh(encoding: str, weights: Mapping[str, int] | None) -> float:
    if weights is None:
        # RFC 9110 §12.5.3: without the field any coding is acceptable. A client that does not
        # know the field does not know the codings either, so only identity is.
        return _WHOLE_WEIGHT if encoding == "identity" else 0
    if encoding in weights:
        return weights[encoding]
    if "*" in weights:
        return weights["*"]
    # RFC 9110 §12.5.3: identity is acceptable unless it is excluded. Not being asked for, it comes
    # after whatever was.
    return 0.5 if encoding == "identity" else 0


_VARY = ("Vary", "Accept-Encoding")


def _vary(resource: Resource) -> tuple[tuple[str, str], ...]:
    # RFC 9110 §12.5.5: every variant carries it, identity too; otherwise a cache hands that one
    # to everybody.
    return (_VARY,) if len(resource.representations) > 1 else ()


# Preconditions


def _judge_preconditions(request: Request, resource: Resource, chosen: Representation) -> int:
    """RFC 9110 §13.2.2: 412, 304, or 200 for "go on", in the order that it lays down."""
    modified_s = resource.last_modified_s
    if (if_match := request.field(b"if-match")) is not None:
        tags = parse_entity_tags(if_match)
        if tags != ("*",) and not any(match_strongly(tag, chosen.etag) for tag in tags):
            return 412
    else:
        since_s = _date(request, b"if-unmodified-since", modified_s)
        if since_s is not None and modified_s > since_s:
            return 412
    if (if_none_match := request.field(b"if-none-match")) is not None:
        tags = parse_entity_tags(if_none_match)
        if tags == ("*",) or any(match_weakly(tag, chosen.etag) for tag in tags):
            return 304
    else:
        since_s = _date(request, b"if-modified-since", modified_s)
        if since_s is not None and modified_s <= since_s:
            return 304
    return 200


def _date(request: Request, name: bytes, near_unix_s: int) -> int | None:
    # A departure: RFC 9110 §5.6.7 places a two-digit year near the present, which a pure plan does
    # not know. Validators are dates that we sent, so they lie near the resource's own.
    value = request.field(name)
    return None if value is None else parse_date(value, near_unix_s=near_unix_s)


# Ranges


def _ranged(request: Request, resource: Resource, chosen: Representation) -> Plan:
    size = chosen.size_bytes
    value = request.field(b"range")
    # RFC 9110 §14.2: a server MUST ignore Range with any method for which it has no meaning: with
    # all but GET.
    if value is None or request.method != "GET" or not _if_range_holds(request, resource, chosen):
        return _content(request, resource, chosen, status=200)
    specs = parse_range(value)
    if specs is None:
        return _content(request, resource, chosen, status=200)
    spans = [span for spec in specs if (span := spec.resolve(size)) is not None]
    if not spans:
        # RFC 9110 §15.5.17.
        unsatisfied = ("Content-Range", f"bytes */{size}")
        return Plan(status=416, fields=(unsatisfied, *_vary(resource)))
    # Several ranges are answered with the whole, as RFC 9110 §14.2 permits: multipart/byteranges
    # would be planned here. A suffix of nothing is satisfiable, but no Content-Range can say so.
    if len(specs) > 1 or size == 0:
        return _content(request, resource, chosen, status=200)
    return _content(request, resource, chosen, status=206, span=spans[0])


def _if_range_holds(request: Request, resource: Resource, chosen: Representation) -> bool:
    value = request.field(b"if-range")
    if value is None:
        return True
    # RFC 9110 §13.1.5: an entity-tag is compared strongly, a date exactly. Any other value is no
    # validator of ours, so the whole is sent.
    if match_strongly(value.decode("latin-1"), chosen.etag):
        return True
    modified_s = resource.last_modified_s
    return parse_date(value, near_unix_s=modified_s) == modified_s


def _content(
    request: Request,
    resource: Resource,
    chosen: Representation,
    *,
    status: int,
    span: tuple[int, int] | None = None,
) -> Plan:
    """An answer with content: 200, 206, or a site's error page."""
    start, stop = span or (0, chosen.size_bytes)
    fields: list[tuple[str, str]] = [("Content-Type", resource.media_type)]
    if chosen.encoding != "identity":
        fields.append(("Content-Encoding", chosen.encoding))
    if status in (200, 206):
        fields += [
            ("ETag", chosen.etag),
            ("Last-Modified", format_date(resource.last_modified_s)),
            ("Accept-Ranges", "bytes"),
        ]
    if status == 206:
        fields.append(("Content-Range", f"bytes {start}-{stop - 1}/{chosen.size_bytes}"))
    fields += [
        ("Cache-Control", resource.cache_control),
        ("X-Content-Type-Options", "nosniff"),
        *_vary(resource),
        *resource.fields,
    ]
    return Plan(
        status=status,
        fields=tuple(fields),
        representation=chosen,
        start=start,
        stop=start if request.method == "HEAD" else stop,
        content_length=stop - start,
    )
