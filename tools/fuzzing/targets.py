"""Request targets against a reference of their own: a walk over bytes, one state after another.

What is tried is the way from a raw target to an entry of a manifest or a Location. The reference is
written from the rules alone and shares nothing with what it judges.
"""

from __future__ import annotations

import random
from urllib.parse import urljoin, urlsplit

from fuzzing.readers import BrokenInvariant
from p2pweb.http.answers import redirect
from p2pweb.http.messages import Refusal
from p2pweb.http.target import parse_target, quote_path
from p2pweb.manifest import INDEX, Entry, Found, Manifest, MovedTo
from p2pweb.records import Encoding

_ORIGIN = "http://site.example:8001"
_CASES_MAX = 1 << 40

_PATHS = (
    "/index.html", "/404.html", "/about.html", "/a", "/a.html", "/a/index.html", "/b/index.html",
    "/b/c/index.html", "/b/c/d.txt", "/b/404.html", "/caf\xe9/index.html", "/caf\xe9.txt",
    "/x y.txt",
    "/%41.txt", "/%2e%2e/index.html", "/q?.txt", "/h#.txt", "/+;=,@&.txt", "/.hidden/index.html",
    "/.../index.html", "/a..b/index.html", "/\u65e5\u672c/\u8a9e/index.html", "/~u/index.html",
    "/;p/index.html", "/evil.example/index.html", "/:80/index.html", "/%2f/index.html",
)  # fmt: skip

_SEGMENTS = (
    b"..", b".", b"", b"...", b"%2e", b"%2E", b"%2e%2e", b"%2E.", b".%2e", b"..%2f", b"%2f", b"%2F",
    b"%5c", b"%5C", b"\\", b"..\\", b"%00", b"%0d%0a", b"%09", b"%7f", b"%c2%85", b"%c0%af",
    b"%c0%ae", b"%e0%80%af", b"%f0%80%80%af", b"%ed%a0%80", b"%f4%90%80%80", b"%ff", b"%c3",
    b"%", b"%4",
    b"%zz", b"%u0041", b"%2541", b"%252e%252e", b"%252f", b"%255c", b"%25", b";", b";p", b"a;b",
    b"..;",
    b"#", b" ", b"\t", b"\x00", b"\x7f", b"\x80", b"\xc3\xa9", b"\xff", b"evil.example", b"@evil",
    b"http:", b"javascript:x", b"%20", b"%e2%80%ae", b"%ef%bb%bf", b"index.html", b"%69ndex.html",
    b"~u", b"+", b"*", b"'", b'"', b"<", b"|", b"^", b"`", b"{}", b"%e2%88%95", b"%ef%bc%8f",
)  # fmt: skip
_QUERIES = (
    b"", b"a=b", b"?", b"/../..", b"%", b"%zz", b"%00", b"%2f", b"a b", b"#", b"\\", b"\x00",
    b"\xff",
    b"\r\n", b"//evil.example", b"a=" + b"b" * 40, b"\x7f", b"{}|^`\"<>",
)  # fmt: skip


def make_manifest() -> Manifest:
    """A site with names that are easily taken for others."""
    encodings = (Encoding("identity", 1, bytes(32)),)
    return Manifest(
        bytes(32),
        1,
        (
            Entry(path=path, media_type="text/plain", seq=1, modified_s=0, encodings=encodings)
            for path in _PATHS
        ),
    )


def make_target(seed: int, number: int) -> bytes:
    """The raw target of case `number` under `seed`."""
    chance = random.Random(seed * _CASES_MAX + number)
    draw = chance.random()
    if draw < 0.04:
        return chance.randbytes(chance.randrange(12))
    if draw < 0.45:
        raw = _disguise(chance.choice(_PATHS), chance)
    else:
        count = chance.randrange(30, 200) if draw > 0.995 else chance.randrange(1, 6)
        raw = b"".join(b"/" + _make_segment(chance) for _ in range(count))
    if chance.random() < 0.2:
        at = chance.randrange(len(raw) + 1)
        raw = raw[:at] + chance.choice(_SEGMENTS) + raw[at:]
    if chance.random() < 0.25:
        raw += b"?" + chance.choice(_QUERIES) + chance.choice(_QUERIES)
    return raw


def _make_segment(chance: random.Random) -> bytes:
    draw = chance.random()
    if draw < 0.55:
        return chance.choice(_SEGMENTS)
    if draw < 0.85:
        return _disguise(chance.choice(chance.choice(_PATHS).split("/")[1:]), chance)
    return chance.choice(_SEGMENTS) + chance.choice(_SEGMENTS)


def _disguise(name: str, chance: random.Random) -> bytes:
    """A name with some of its bytes encoded, needed or not, and perhaps its end taken off."""
    share = chance.choice((0.0, 0.0, 0.2, 1.0))
    end = chance.choice(("", "", "/" + INDEX, INDEX, ".html", "/"))
    pieces: list[bytes] = []
    for byte in name.removesuffix(end).encode():
        needed = not 0x21 <= byte <= 0x7E or byte in b"%?#\\"
        if needed or (byte != 0x2F and chance.random() < share):
            pieces.append(chance.choice((b"%%%02x", b"%%%02X")) % byte)
        else:
            pieces.append(bytes((byte,)))
    return b"".join(pieces)


# The reference

_HEX = b"0123456789abcdef"


def reference(raw: bytes) -> int | tuple[str, str | None]:
    """The status of the refusal, or the decoded path and the query.

    RFC 3986 and the rules of this server, a byte at a time: raw bytes first, then encodings, then
    UTF-8, then what was decoded, then dots; the first fault of the first segment decides.
    """
    if raw[:1] != b"/":
        return 400
    for byte in raw:
        if byte <= 0x20 or byte >= 0x7F or byte in b"#\\":
            return 400
    path, query = raw, None
    for at, byte in enumerate(raw):
        if byte == 0x3F:
            path, query = raw[:at], raw[at + 1 :].decode()
            break
    segments: list[tuple[bytearray, bool]] = []
    at = 0
    while at < len(path):
        byte = path[at]
        if byte == 0x2F:
            segments.append((bytearray(), False))
        elif byte != 0x25:
            segments[-1][0].append(byte)
        else:
            digits = [_HEX.find(digit) for digit in path[at + 1 : at + 3].lower()]
            if len(digits) != 2 or min(digits) < 0:
                return 400
            segments[-1][0].append(digits[0] * 16 + digits[1])
            segments[-1] = (segments[-1][0], True)
            at += 2
        at += 1
    return _walk_dots(segments, query)


def _walk_dots(
    segments: list[tuple[bytearray, bool]], query: str | None
) -> int | tuple[str, str | None]:
    names: list[str] = []
    for segment, encoded in segments:
        try:
            name = str(segment, "utf-8")
        except UnicodeDecodeError:
            return 400
        for character in name:
            if ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0:
                return 400
        if encoded and ("/" in name or "\\" in name):
            return 404
        names.append(name)
    path = ""
    for name in names:
        if name == "..":
            if not path:
                return 400
            path = path[: path.rindex("/")]
        elif name != ".":
            path += "/" + name
    if names[-1] in (".", ".."):
        path += "/"
    return path, query


def check_target(manifest: Manifest, raw: bytes) -> None:
    """Raises `BrokenInvariant` where a target goes astray."""
    expected = reference(raw)
    try:
        target = parse_target(raw)
    except Refusal as refusal:
        if refusal.status != expected:
            raise BrokenInvariant(f"{refusal.status} where {expected!r} is right") from None
        return
    if (target.path, target.query) != expected:
        raise BrokenInvariant(f"{target!r} where {expected!r} is right")
    if {".", ".."} & set(target.path.split("/")) or target.path[:1] != "/":
        raise BrokenInvariant(f"{target.path!r} has dot segments")
    resolution = manifest.resolve(target.path)
    if isinstance(resolution, Found):
        _check_found(manifest, target.path, resolution.entry)
    elif isinstance(resolution, MovedTo):
        _check_location(manifest, target.path, resolution.path, target.query)
    elif manifest.get(target.path) is not None:
        raise BrokenInvariant(f"{target.path!r} is in the manifest and was not found")


def _check_found(manifest: Manifest, path: str, entry: Entry) -> None:
    if entry.path not in _PATHS or manifest.get(entry.path) is not entry:
        raise BrokenInvariant(f"{entry.path!r} is not in the manifest")
    if entry.path not in (path, path + ".html", path + INDEX):
        raise BrokenInvariant(f"{path!r} found {entry.path!r}")


def _check_location(manifest: Manifest, path: str, moved: str, query: str | None) -> None:
    """A redirect stays on its host and leads to the entry, for whoever resolves it."""
    location = quote_path(moved) + ("" if query is None else f"?{query}")
    # It raises ValueError for what may not be sent.
    redirect(301, location)
    if location[:1] != "/" or location[1:2] in ("/", "\\") or not location.isascii():
        raise BrokenInvariant(f"Location {location!r} may leave the host")
    if any(character <= " " or character in "\\\x7f" for character in location):
        raise BrokenInvariant(f"Location {location!r} holds what browsers drop or turn")
    followed = urljoin(f"{_ORIGIN}/any/page", location)
    if followed[: len(_ORIGIN) + 1] != _ORIGIN + "/":
        raise BrokenInvariant(f"Location {location!r} leads to {followed!r}")
    parts = urlsplit(followed)
    if (parts.scheme, parts.netloc) != ("http", "site.example:8001"):
        raise BrokenInvariant(f"Location {location!r} leads to {followed!r}")
    again = parse_target(followed[len(_ORIGIN) :].encode())
    # urljoin drops a "?" that nothing follows.
    if again.path != path + "/" or (again.query or None) != (query or None):
        raise BrokenInvariant(f"Location {location!r} leads to {again!r}")
    if not isinstance(manifest.resolve(again.path), Found):
        raise BrokenInvariant(f"Location {location!r} leads nowhere")
