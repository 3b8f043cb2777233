"""Request + resource → what to answer: status, fields, encoding, pieces of the content.

Owns the semantics of RFC 9110 for GET and HEAD: content negotiation, preconditions, ranges. Pure:
the plan depends on the request and on the published version alone, so every peer answers alike,
and a download begun at one peer goes on at another. It reads no byte of the body and no clock, and
refuses every other method (ValueError, since the caller answers those).

A `Planner` is made once for a path of a version and asked for every request. All that does not
depend on the request is computed when it is first wanted, and kept: the plan of a plain GET and
that of a 304 are made once.

A plan's fields are all that the answer has but Date, Content-Length, Connection and Server, which
are written where the answer is sent. Bodies of 406, 412 and 416 are empty, and these answers carry
no Cache-Control: without one, RFC 9111 §3 lets no cache store them, since RFC 9110 §15.1 does not
list them as heuristically cacheable.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from p2pweb.http.fields import (
    RangeSpec,
    format_date,
    match_strongly,
    match_weakly,
    parse_accept_encoding,
    parse_date,
    parse_entity_tags,
    parse_range,
)
from p2pweb.http.messages import Piece, Request, Span

# A few dozen values of Accept-Encoding are in use. What a client can fill this with is bounded by
# its head (32 KiB): 4 MiB in all.
_PREFERENCES_CACHED = 128

# The fields of a request that a plan depends on.
_FIELDS_READ = frozenset(
    (
        b"accept-encoding",
        *(b"if-match", b"if-modified-since", b"if-none-match", b"if-range", b"if-unmodified-since"),
        b"range",
    )
)

# RFC 9110 §15.4.5: a 304 MUST have these where the 200 would, and SHOULD NOT have other metadata.
# ETag and Date, also asked for there, are never the site's own.
_FIELDS_OF_304 = frozenset(("cache-control", "content-location", "expires", "vary"))

_VARY = ("Vary", "Accept-Encoding")

_Fields = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Representation:
    """One encoding of a resource.

    `encoding` is "identity", "gzip", "br" or "zstd". `etag` is strong, quoted, and this encoding's
    own: a digest of its bytes, so that no author can write content that holds its own tag.
    """

    encoding: str
    size_bytes: int
    etag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """What a path names in one version.

    `media_type` is sent as it is; it is printable ASCII. `last_modified_s` is None where it cannot
    be told: then conditions on dates do not apply. `representations` are in the server's order of
    preference, at least one. `status` is 200, or the status of a site's own error page (404): then
    preconditions and ranges do not apply. `fields` are the site's own and go out with every answer
    that has content; a 304 has those of them that a cache updates.
    """

    media_type: str
    last_modified_s: int | None
    representations: tuple[Representation, ...]
    cache_control: str
    status: int = 200
    fields: _Fields = ()

    def __post_init__(self) -> None:
        # It is written into the parts of a multipart body, where no encoder of heads looks at it.
        if not (self.media_type.isascii() and self.media_type.isprintable()):
            raise ValueError(f"not a media type: {self.media_type!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The answer: send `pieces` in their order, literal bytes and spans of `representation`.

    `representation` is None where the answer has no content (304, 406, 412, 416). For HEAD, as for
    an empty file, there are no pieces; `content_length` is nevertheless what GET would send, and
    it is None where the answer has no such field (304).
    """

    status: int
    fields: _Fields
    representation: Representation | None = None
    pieces: tuple[Piece, ...] = ()
    content_length: int | None = 0


# This answer depends on Accept-Encoding even where there is one encoding only.
_NOT_ACCEPTABLE = Plan(status=406, fields=(_VARY,))


class Planner:
    """Plans the answers to all requests for one resource."""

    def __init__(self, resource: Resource) -> None:
        # Among encodings that the client likes alike the fewest bytes win, then the server's order.
        ordered = sorted(resource.representations, key=lambda each: each.size_bytes)
        self._encodings = tuple(each.encoding for each in ordered)
        self._variants = tuple(_Variant(resource, each) for each in ordered)
        self._is_error = resource.status != 200
        self._modified_s = resource.last_modified_s
        self._last_modified = b"" if (at := self._modified_s) is None else format_date(at).encode()

    def plan(self, request: Request) -> Plan:
        """Plan the answer to a GET or HEAD request."""
        method = request.method
        if method not in ("GET", "HEAD"):
            raise ValueError(f"no plan for {method}")
        asked: dict[bytes, bytes] = {}
        for name, value in request.fields:
            if name in _FIELDS_READ:
                # RFC 9110 §5.3: field lines of the same name are one value, joined by commas.
                asked[name] = asked[name] + b", " + value if name in asked else value
        preferred = _prefer(asked.get(b"accept-encoding"), self._encodings)
        if preferred is None:
            return _NOT_ACCEPTABLE
        variant = self._variants[preferred]
        # RFC 9110 §13.2.1: preconditions are ignored where the answer without them would be
        # other than 2xx or 412; §14.2: ranges, where it would not be 200.
        if not self._is_error:
            match self._judge_preconditions(asked, variant.etag):
                case 412:
                    return variant.precondition_failed
                case 304:
                    return variant.not_modified
            # RFC 9110 §14.2: a server MUST ignore Range with any method for which it has no
            # meaning: with all but GET.
            ranges = asked.get(b"range") if method == "GET" else None
            if ranges is not None and self._if_range_holds(asked.get(b"if-range"), variant.etag):
                specs = parse_range(ranges)
                if specs is not None:
                    return variant.ranged(specs)
        return variant.whole if method == "GET" else variant.head

    def _judge_preconditions(self, asked: Mapping[bytes, bytes], etag: str) -> int:
        """RFC 9110 §13.2.2: 412, 304, or 200 for "go on", in the order that it lays down."""
        if (if_match := asked.get(b"if-match")) is not None:
            if not _match(parse_entity_tags(if_match), etag, match_strongly):
                return 412
        elif (value := asked.get(b"if-unmodified-since")) is not None:
            later_s = self._modified_after_s(value)
            if later_s is not None and later_s > 0:
                return 412
        if (if_none_match := asked.get(b"if-none-match")) is not None:
            if _match(parse_entity_tags(if_none_match), etag, match_weakly):
                return 304
        elif (value := asked.get(b"if-modified-since")) is not None:
            later_s = self._modified_after_s(value)
            if later_s is not None and later_s <= 0:
                return 304
        return 200

    def _if_range_holds(self, value: bytes | None, etag: str) -> bool:
        # RFC 9110 §13.1.5: an entity-tag is compared strongly, a date exactly. Any other value is
        # no validator of ours, so the whole is sent.
        if value is None or match_strongly(value.decode("latin-1"), etag):
            return True
        return self._modified_after_s(value) == 0

    def _modified_after_s(self, value: bytes) -> int | None:
        """How long after a date the resource changed; None where either cannot be told."""
        modified_s = self._modified_s
        if modified_s is None:
            # RFC 9110 §13.1.3, §13.1.4: ignored if the resource has no modification date.
            return None
        if value == self._last_modified:
            # Nearly always the date comes back as it was sent.
            return 0
        # A departure: RFC 9110 §5.6.7 places a two-digit year near the present, which a pure plan
        # does not know. Validators are dates that we sent, so they lie near the resource's own.
        date_s = parse_date(value, near_unix_s=modified_s)
        return None if date_s is None else modified_s - date_s


def _match(tags: tuple[str, ...], etag: str, is_match: Callable[[str, str], bool]) -> bool:
    # RFC 9110 §13.1.1, §13.1.2: the asterisk matches whatever representation there is.
    return tags == ("*",) or any(is_match(tag, etag) for tag in tags)


# Negotiation


@lru_cache(maxsize=_PREFERENCES_CACHED)
def _prefer(accept_encoding: bytes | None, encodings: tuple[str, ...]) -> int | None:
    """Which of `encodings` has the highest weight, the first of several; None if all have 0."""
    weights = None if accept_encoding is None else parse_accept_encoding(accept_encoding)
    candidates = [_weigh(encoding, weights) for encoding in encodings]
    best = max(candidates)
    return candidates.index(best) if best > 0 else None


def _weigh(encoding: str, weights: Mapping[str, int] | None) -> float:
    if weights is None:
        # RFC 9110 §12.5.3: without the field any coding is acceptable. But a client that does not
        # know the field does not know the codings either, so they are for want of identity only.
        return 1 if encoding == "identity" else 0.5
    if encoding in weights:
        return weights[encoding]
    if "*" in weights:
        return weights["*"]
    # RFC 9110 §12.5.3: identity is acceptable unless it is excluded. Not being asked for, it comes
    # after whatever was.
    return 0.5 if encoding == "identity" else 0


# Answers


class _Variant:
    """The answers that have one representation of a resource, or tell of it."""

    def __init__(self, resource: Resource, representation: Representation) -> None:
        self._resource = resource
        self._representation = representation
        self.etag = representation.etag

    @cached_property
    def whole(self) -> Plan:
        """All of the content: 200, or a site's error page."""
        size = self._representation.size_bytes
        return Plan(
            status=self._resource.status,
            fields=(self._content_type, *self._metadata, *self._policy),
            representation=self._representation,
            pieces=(Span(0, size),) if size else (),
            content_length=size,
        )

    @cached_property
    def head(self) -> Plan:
        """RFC 9110 §9.3.2: the fields of GET and no content."""
        return replace(self.whole, pieces=())

    @cached_property
    def not_modified(self) -> Plan:
        """RFC 9110 §15.4.5: what a cache needs to update what it stores, and no more."""
        resource = self._resource
        own = (field for field in resource.fields if field[0].lower() in _FIELDS_OF_304)
        return Plan(
            status=304,
            fields=(
                ("ETag", self.etag),
                ("Cache-Control", resource.cache_control),
                *self._vary,
                *own,
            ),
            content_length=None,
        )

    @cached_property
    def precondition_failed(self) -> Plan:
        """RFC 9110 §15.5.13."""
        return Plan(status=412, fields=self._vary)

    def ranged(self, specs: Sequence[RangeSpec]) -> Plan:
        """The answer to a valid Range field: 206, 416, or the whole."""
        size = self._representation.size_bytes
        spans = [span for spec in specs if (span := spec.resolve(size)) is not None]
        if not spans:
            # RFC 9110 §15.5.17.
            return Plan(status=416, fields=(("Content-Range", f"bytes */{size}"), *self._vary))
        if size == 0:
            # A suffix of nothing is satisfiable, but no Content-Range can say so.
            return self.whole
        if len(spans) > 1:
            # RFC 9110 §15.3.7.2: a server MAY coalesce ranges that overlap, or whose gap is smaller
            # than the overhead of sending several parts: here, than the least head of a part.
            spans = _coalesce(spans, gap_bytes=len(self._part_head(Span(0, 1))))
        # RFC 9110 §15.3.7.2: a single range MUST NOT be answered with a multipart; what is left of
        # several, or what they have been coalesced to, need not be.
        return self._single_part(spans[0]) if len(spans) == 1 else self._multipart(spans)

    def _single_part(self, span: Span) -> Plan:
        # A departure: RFC 9110 §15.3.7 has a 206 to If-Range leave out the metadata that the client
        # knows (SHOULD NOT). Browsers take a missing Content-Encoding for a change of the encoding.
        return Plan(
            status=206,
            fields=(
                self._content_type,
                *self._metadata,
                ("Content-Range", self._content_range(span)),
                *self._policy,
            ),
            representation=self._representation,
            pieces=(span,),
            content_length=span.stop - span.start,
        )

    def _multipart(self, spans: Sequence[Span]) -> Plan:
        """RFC 9110 §14.6, or the whole where that is not longer."""
        pieces: list[Piece] = []
        for span in spans:
            pieces += [self._part_head(span), span]
        # RFC 2046 §5.1.1: the CRLF before a delimiter belongs to the delimiter. The first one needs
        # none, since nothing precedes it.
        pieces[0] = self._part_head(spans[0]).removeprefix(b"\r\n")
        pieces.append(f"\r\n--{self._boundary}--\r\n".encode())
        size = sum(map(_length, pieces))
        if size >= self._representation.size_bytes:
            return self.whole
        # RFC 9110 §15.3.7.2: Content-Range MUST NOT be in the head, for it is in the parts;
        # Content-Encoding stays there, for the parts are ranges of the encoded bytes.
        content_type = f"multipart/byteranges; boundary={self._boundary}"
        return Plan(
            status=206,
            fields=(("Content-Type", content_type), *self._metadata, *self._policy),
            representation=self._representation,
            pieces=tuple(pieces),
            content_length=size,
        )

    def _part_head(self, span: Span) -> bytes:
        return (
            f"\r\n--{self._boundary}\r\n"
            f"Content-Type: {self._resource.media_type}\r\n"
            f"Content-Range: {self._content_range(span)}\r\n\r\n"
        ).encode()

    def _content_range(self, span: Span) -> str:
        return f"bytes {span.start}-{span.stop - 1}/{self._representation.size_bytes}"

    @cached_property
    def _boundary(self) -> str:
        """What parts this representation's ranges: 32 hexadecimal digits.

        RFC 2046 §5.1.1: it must not occur in the parts. It is a digest of the ETag, which is a
        digest of the content: to write content that holds it, an author would have to know the
        digest of what is not yet written. Nothing else goes into it, so every peer says the same.
        """
        return hashlib.sha256(self.etag.encode("latin-1")).hexdigest()[:32]

    @cached_property
    def _content_type(self) -> tuple[str, str]:
        return ("Content-Type", self._resource.media_type)

    @cached_property
    def _metadata(self) -> _Fields:
        """What describes the representation, but for its media type."""
        encoding = self._representation.encoding
        coded = () if encoding == "identity" else (("Content-Encoding", encoding),)
        if self._resource.status != 200:
            return coded
        at = self._resource.last_modified_s
        modified = () if at is None else (("Last-Modified", format_date(at)),)
        return (*coded, ("ETag", self.etag), *modified, ("Accept-Ranges", "bytes"))

    @cached_property
    def _policy(self) -> _Fields:
        """What says how content is to be handled, and the site's own fields."""
        return (
            ("Cache-Control", self._resource.cache_control),
            ("X-Content-Type-Options", "nosniff"),
            *self._vary,
            *self._resource.fields,
        )

    @cached_property
    def _vary(self) -> _Fields:
        # RFC 9110 §12.5.5: every variant carries it, identity too; otherwise a cache hands that
        # one to everybody.
        return (_VARY,) if len(self._resource.representations) > 1 else ()


def _coalesce(spans: Sequence[Span], *, gap_bytes: int) -> list[Span]:
    """Unite spans that overlap, touch, or have fewer than `gap_bytes` bytes between them.

    RFC 9110 §15.3.7.2: parts SHOULD be sent in the order of the Range field. A united span stands
    where the first of its members stood.
    """
    united: list[tuple[int, Span]] = []
    for place, span in sorted(enumerate(spans), key=lambda placed: placed[1].start):
        if united and span.start - united[-1][1].stop < gap_bytes:
            first, last = united[-1]
            united[-1] = (min(first, place), Span(last.start, max(last.stop, span.stop)))
        else:
            united.append((place, span))
    return [span for _, span in sorted(united, key=lambda placed: placed[0])]


def _length(piece: Piece) -> int:
    return piece.stop - piece.start if isinstance(piece, Span) else len(piece)
