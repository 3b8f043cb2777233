"""Why our parser may disagree with another: a table of named rules, each with its reason.

A disagreement that no rule explains is a failure. A rule looks at the bytes of the message with
readings of its own, more lenient than any parser here, and holds only where the very fault that it
names is in them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from fuzzing.comparison import COMPLETE, Disagreement
from fuzzing.dissection import Dissection, is_bad_chunk_line, is_host, is_target, is_token
from fuzzing.readers import CLOSED, REFUSED, UPGRADED, WAITS


@dataclass(frozen=True)
class Rule:
    """`peer` is "" where it may be either. `ours` and `theirs` are what each must have done."""

    name: str
    source: str
    why: str
    peer: str
    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    holds: Callable[[Disagreement, Dissection], bool]


_KNOWN = (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH")
_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n)")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_LENGTH_DIGITS_MAX = 18
_CHUNK_DIGITS_MAX = 15


def _refuses(
    name: str,
    source: str,
    why: str,
    statuses: tuple[int, ...],
    holds: Callable[[Dissection], bool],
    peer: str = "",
) -> Rule:
    """Ours refuses with one of `statuses` what another reads on."""
    return Rule(
        name,
        source,
        why,
        peer,
        (REFUSED,),
        (COMPLETE, WAITS, UPGRADED),
        lambda case, parts: case.status in statuses and holds(parts),
    )


def _reads_on(
    name: str, source: str, why: str, peer: str, holds: Callable[[Dissection], bool]
) -> Rule:
    """Another refuses what ours reads on."""
    return Rule(
        name,
        source,
        why,
        peer,
        (COMPLETE, WAITS),
        (REFUSED,),
        lambda case, parts: holds(parts),
    )


def _has_blanks_in_extensions(parts: Dissection) -> bool:
    """RFC 9112 §7.1.1: blanks around ";" and "=", in lines that are otherwise well-formed."""
    spaced = re.compile(rb"[ \t]+[;=]|[;=][ \t]+")
    unquoted = (re.sub(rb'"(?:[^"\\]|\\.)*"', b"", line) for line in parts.chunk_lines)
    # One that has not ended cannot be judged.
    ended = (line for line in parts.chunk_lines if line.endswith(b"\n"))
    return not any(map(is_bad_chunk_line, ended)) and any(map(spaced.search, unquoted))


def _has_framing_trailers(parts: Dissection) -> bool:
    names = (line.partition(b":")[0].lower() for line in parts.trailer_lines)
    return any(name in (b"content-length", b"transfer-encoding") for name in names)


def _has_lowered_coding(case: Disagreement, parts: Dissection) -> bool:
    if case.our is None or case.their is None or case.parts != {"fields"}:
        return False
    lowered = [
        (name, value.lower() if name == b"transfer-encoding" else value)
        for name, value in case.our.fields
    ]
    return tuple(lowered) == case.their.fields


def _is_split_absolute_form(case: Disagreement, parts: Dissection) -> bool:
    """Whether ours is what follows the authority in theirs."""
    if case.our is None or case.their is None or case.parts != {"target"}:
        return False
    scheme, mark, rest = case.their.target.partition(b"://")
    if not mark or scheme.lower() not in (b"http", b"https"):
        return False
    authority = re.split(rb"[/?]", rest)[0]
    path = rest[len(authority) :]
    if path.startswith(b"/"):
        expected = path
    elif not path and case.our.method == b"OPTIONS":
        expected = b"*"
    else:
        expected = b"/" + path
    return is_host(authority) and case.our.target == expected


def _has_bad_field_line(parts: Dissection) -> bool:
    return any(_CONTROL.search(line.removesuffix(b"\r")) for line in parts.lines[1:])


def _is_too_long(parts: Dissection) -> bool:
    return (
        len(parts.target) > 8192
        or any(len(line) > 8192 for line in parts.lines)
        or len(parts.head) > 32 * 1024
        or len(parts.lines) > 101
    )


def _chunks_are_too_long(parts: Dissection) -> bool:
    extensions = sum(len(line.lstrip(b"0123456789abcdefABCDEF")) for line in parts.chunk_lines)
    return (
        any(len(line) > 512 for line in parts.chunk_lines)
        or extensions > 16 * 1024
        or len(parts.trailers) > 8192
        or len(parts.trailer_lines) > 100
    )


RULES: tuple[Rule, ...] = (
    _refuses(
        "line ends", "9112 §2.2", "a bare LF or CR ends no line: readers that differ on it have "
        "been smuggled through", (400,),
        lambda parts: bool(_BARE.search(parts.before + parts.head)),
    ),
    _refuses(
        "empty lines", "9112 §2.2", "a stream of empty lines is no slip", (400,),
        lambda parts: parts.empty_lines > 2, "httptools",
    ),
    _refuses(
        "version", "9112 §2.3", "another major version is another protocol", (400, 505),
        lambda parts: not re.fullmatch(rb"HTTP/1\.[0-9]", parts.version),
    ),
    _refuses(
        "method", "9110 §9.1", "an unknown method is 501", (501,),
        lambda parts: parts.method not in _KNOWN and is_token(parts.method),
    ),
    _refuses(
        "CONNECT", "9110 §9.3.6", "there are no tunnels here", (400, 501),
        lambda parts: parts.method == b"CONNECT",
    ),
    _refuses(
        "target", "9112 §3.2", "a target has one of the forms that its method may have", (400,),
        lambda parts: not is_target(parts.method, parts.target),
    ),
    _refuses(
        "limits", "6585 §5", "a head is bounded", (413, 414, 431), _is_too_long,
    ),
    _refuses(
        "obs-fold", "9112 §5.2", "a server MUST refuse or unfold it; nobody sends it", (400,),
        lambda parts: any(line[:1] in (b" ", b"\t") for line in parts.lines[1:]), "h11",
    ),
    _refuses(
        "controls", "9110 §5.5", "a control in a value deceives whoever prints it", (400,),
        _has_bad_field_line,
    ),
    _refuses(
        "Host", "9112 §3.2", "one Host, and a valid one, or 400", (400,),
        lambda parts: (
            not all(map(is_host, parts.values(b"host")))
            or len(parts.values(b"host")) > 1
            or (not parts.values(b"host") and parts.version != b"HTTP/1.0")
        ),
    ),
    _refuses(
        "both lengths", "9112 §6.1", "two ways to tell a body's length are an attempt at "
        "smuggling", (400,),
        lambda parts: bool(
            parts.values(b"content-length") and parts.values(b"transfer-encoding")
        ),
        "h11",
    ),
    _refuses(
        "Content-Length", "9110 §8.6", "one number, of digits that need no overflow check",
        (400, 413),
        lambda parts: (
            len(parts.values(b"content-length")) > 1
            or any(b"," in value or len(value) > _LENGTH_DIGITS_MAX
                   for value in parts.values(b"content-length"))
        ),
    ),
    _refuses(
        "coding in HTTP/1.0", "9112 §6.1", "its framing is to be treated as faulty", (400,),
        lambda parts: (
            parts.version == b"HTTP/1.0" and bool(parts.values(b"transfer-encoding"))
        ),
    ),
    _refuses(
        "codings", "9112 §6.1", "no other coding is known, and chunked stands alone", (400, 501),
        lambda parts: (
            bool(parts.values(b"transfer-encoding"))
            and parts.elements(b"transfer-encoding") != [b"chunked"]
        ),
        "httptools",
    ),
    _refuses(
        "expectation", "9110 §10.1.1", "an unknown one is 417", (417,),
        lambda parts: bool(set(parts.elements(b"expect")) - {b"100-continue", b""}),
    ),
    _refuses(
        "chunk line", "9112 §7.1", "both ends must agree where it ends", (400,),
        lambda parts: parts.is_chunked and any(map(is_bad_chunk_line, parts.chunk_lines)),
    ),
    _refuses(
        "chunk size", "9112 §7.1", "sizes cannot overflow", (413,),
        lambda parts: parts.is_chunked and any(
            re.match(rb"[0-9A-Fa-f]{%d}" % (_CHUNK_DIGITS_MAX + 1), line)
            for line in parts.chunk_lines
        ),
    ),
    _refuses(
        "chunk limits", "9112 §7.1.1", "extensions and trailers are no body beside the body",
        (413, 431), lambda parts: parts.is_chunked and _chunks_are_too_long(parts),
    ),
    _refuses(
        "trailers", "9112 §7.1.2", "the lines behind a body obey what those before it do", (400,),
        lambda parts: parts.is_chunked and bool(
            _BARE.search(parts.trailers)
            or any(_CONTROL.search(line.removesuffix(b"\r")) or line[:1] in (b" ", b"\t")
                   for line in parts.trailer_lines)
        ),
    ),
    _reads_on(
        "blanks in extensions", "9112 §7.1.1", "the grammar has them, and a recipient MUST read "
        "such bad whitespace", "",
        lambda parts: parts.is_chunked and _has_blanks_in_extensions(parts),
    ),
    _reads_on(
        "framing in trailers", "9110 §6.5.1", "a trailer never frames; what it says is dropped",
        "", lambda parts: parts.is_chunked and _has_framing_trailers(parts),
    ),
    _reads_on(
        "empty lines are let pass", "9112 §2.2", "a server SHOULD ignore at least one", "h11",
        lambda parts: 1 <= parts.empty_lines <= 2,
    ),
    _reads_on(
        "minor version", "9110 §6.2", "a higher one is read as the highest that is known",
        "httptools", lambda parts: bool(re.fullmatch(rb"HTTP/1\.[2-9]", parts.version)),
    ),
    _reads_on(
        "blanks behind a coding", "9112 §5.1", "blanks around a value are no part of it",
        "httptools",
        lambda parts: (
            parts.elements(b"transfer-encoding") == [b"chunked"]
            and any(re.match(rb"(?i)transfer-encoding:.*[ \t]$", line) for line in parts.lines)
        ),
    ),
    Rule(
        "Proxy-Connection", "9110 §7.6.1", "no field of HTTP says so, and this is no proxy",
        "httptools", (COMPLETE,), (COMPLETE,),
        lambda case, parts: (
            case.parts == {"keep_alive"} and bool(parts.values(b"proxy-connection"))
        ),
    ),
    Rule(
        "absolute-form", "9112 §3.2.2", "its authority is told apart, and overrules Host", "",
        (COMPLETE, WAITS), (COMPLETE, WAITS), _is_split_absolute_form,
    ),
    Rule(
        "coding in capitals", "9112 §7", "fields are kept as they were sent", "h11",
        (COMPLETE, WAITS), (COMPLETE, WAITS), _has_lowered_coding,
    ),
    Rule(
        "upgrade", "9110 §7.8", "none is offered, so the request is served as it stands",
        "httptools", (COMPLETE, CLOSED, WAITS, REFUSED), (UPGRADED,),
        lambda case, parts: (
            b"upgrade" in parts.elements(b"connection") and bool(parts.values(b"upgrade"))
        ),
    ),
    Rule(
        "close overrules keep-alive", "9112 §9.3", "close comes first, wherever it stands",
        "httptools", (COMPLETE,), (COMPLETE,),
        lambda case, parts: (
            case.parts == {"keep_alive"} and case.our is not None and not case.our.keep_alive
            and {b"close", b"keep-alive"} <= set(parts.elements(b"connection"))
        ),
    ),
    Rule(
        "Connection in trailers", "9110 §6.5.1", "a trailer says nothing of the connection",
        "httptools", (COMPLETE,), (COMPLETE,),
        lambda case, parts: (
            case.parts == {"keep_alive"} and parts.is_chunked
            and any(
                line.lower().startswith((b"connection:", b"proxy-connection:"))
                for line in parts.trailer_lines
            )
        ),
    ),
    Rule(
        "HTTP/1.0 kept alive", "9112 §9.3", "it stays if it asks for that", "h11",
        (COMPLETE,), (COMPLETE,),
        lambda case, parts: (
            case.parts == {"keep_alive"} and parts.version == b"HTTP/1.0"
            and b"keep-alive" in parts.elements(b"connection")
            and b"close" not in parts.elements(b"connection")
        ),
    ),
)  # fmt: skip


def explain(disagreement: Disagreement) -> Rule | None:
    """The first rule that holds."""
    parts = Dissection(disagreement.message)
    for rule in RULES:
        if (
            rule.peer in ("", disagreement.peer)
            and disagreement.ours in rule.ours
            and disagreement.theirs in rule.theirs
            and rule.holds(disagreement, parts)
        ):
            return rule
    return None
