"""A raw request target → the path and query that a site is asked for.

Owns percent-decoding and dot segments, and does each exactly once, so that no other module ever
sees two spellings of one path. Refuses (400) what browsers would encode (controls, spaces, "#",
backslashes, bytes above ASCII), broken percent-encoding, names that are not UTF-8, and climbing
above the root; and (404) an encoded slash or backslash: no site has such a name, and taking it
for a separator is how other servers come to serve one file under many names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

from p2pweb.http.messages import Refusal

# Visible ASCII but "#", which never reaches a server, and "\", which browsers read as "/".
_RAW = re.compile(rb"/[\x21\x22\x24-\x5b\x5d-\x7e]*")
_BAD_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")
# C0 and C1 controls and DEL: in a name they can only deceive.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")

# RFC 3986 §3.3: what a path may hold unencoded, "/" included.
_PATH_SAFE = "/:@!$&'()*+,;=-._~"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """`path` is decoded, starts with "/" and has no dot segments; `query` is raw, without "?".

    `query` is None where there is no "?": "/a" and "/a?" are told apart.
    """

    path: str
    query: str | None


def parse_target(raw: bytes) -> Target:
    """Read an origin-form target; raises `Refusal` 400 or 404."""
    if not _RAW.fullmatch(raw):
        raise Refusal(400, "the address holds a character that must be percent-encoded")
    raw_path, mark, raw_query = raw.partition(b"?")
    # Only the path: the query is passed on raw, and browsers send a lone "%" in it.
    if _BAD_PERCENT.search(raw_path):
        raise Refusal(400, 'the address holds a "%" that is not followed by two hex digits')
    segments = [_decode_segment(segment) for segment in raw_path[1:].split(b"/")]
    return Target(
        path="/" + "/".join(_remove_dots(segments)),
        query=raw_query.decode("ascii") if mark else None,
    )


def _decode_segment(segment: bytes) -> str:
    if b"%" not in segment:
        return segment.decode("ascii")
    try:
        decoded = unquote_to_bytes(segment).decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        raise Refusal(400, "the address is not UTF-8 once decoded") from error
    if _CONTROL.search(decoded):
        raise Refusal(400, "the address holds an encoded control character")
    if "/" in decoded or "\\" in decoded:
        raise Refusal(404, "no name on a site holds a slash or a backslash")
    return decoded


def _remove_dots(segments: list[str]) -> list[str]:
    """RFC 3986 §5.2.4, with one departure: a path that climbs above the root is refused."""
    kept: list[str] = []
    for segment in segments:
        if segment == "..":
            if not kept:
                raise Refusal(400, "the address climbs above the root")
            kept.pop()
        elif segment != ".":
            kept.append(segment)
    # A final "." or ".." names a directory: "/a/b/.." is "/a/", not "/a".
    if segments[-1] in (".", ".."):
        kept.append("")
    return kept


def quote_path(path: str) -> str:
    """A decoded path as ASCII for a Location field; it names a place on this host.

    "//" or "/\\" at the start would make a browser take what follows for a host name. A backslash
    is always encoded; before "//" goes a dot segment, which whoever resolves it takes away again.
    """
    quoted = quote(path, safe=_PATH_SAFE)
    return "/." + quoted if quoted.startswith("//") else quoted
