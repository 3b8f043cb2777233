"""Seed and number → the bytes of one case: a pipeline of requests, mostly made wrong somewhere.

Starts from the corpus or from a valid pipeline of its own making, then flips, cuts, doubles and
splices bytes, and puts in words that readers of HTTP have been known to differ on.
"""

from __future__ import annotations

import random

from http_corpus import CASES

# Longer ones say the same more slowly. A few pass, for the limits.
_STREAM_BYTES_MAX = 2000
_LONG_SHARE = 0.004
# How many numbers a seed has of its own.
_CASES_MAX = 1 << 40

_SHORT = tuple(case.stream for case in CASES if len(case.stream) <= _STREAM_BYTES_MAX)
_LONG = tuple(case.stream for case in CASES if len(case.stream) > _STREAM_BYTES_MAX)

_NASTY = (
    b"\r", b"\n", b"\r\n", b"\n\n", b"\r\n\r\n", b"\r\r\n", b"\n\r", b" ", b"\t", b"\x00", b"\x0b",
    b"\x0c", b"\x1f", b"\x7f", b"\x80", b"\xa0", b"\xff", b":", b" :", b";", b",", b'"', b"\\",
    b"=",
    b"+", b"-", b"_", b"0", b"0x", b"1", b"5", b"a", b"f" * 16, b"0\r\n\r\n", b"0\r\n",
    b"5\r\nhello",
    b"/", b"//", b"*", b"?", b"#", b"%", b"@", b"[::1]", b"HTTP/1.1", b" HTTP/1.0", b"HTTP/2.0",
    b"GET ", b"HEAD ", b"POST ", b"CONNECT ", b"OPTIONS ", b"PRI * ", b"http://a.org", b"https://",
    b"Host: b.org\r\n", b"Host:\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n",
    b"Content-Length : 5\r\n", b"Content-Length: +5\r\n", b"Content-Length: 5, 5\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding:\x0bchunked\r\n", b"Transfer-Encoding: x, chunked\r\n", b"chunked",
    b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Connection: upgrade\r\n",
    b"Upgrade: x\r\n", b"Expect: 100-continue\r\n", b"Expect: x\r\n", b"\r\n x: y\r\n", b"A: b\r\n",
    b"5;a=b\r\nhello\r\n", b'3;a="\r\n', b";a", b"; a = b", b"Trailer: A\r\n",
)  # fmt: skip

_METHODS = (b"GET", b"GET", b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH")
_TARGETS = (b"/", b"/a", b"/a/b.html?c=d", b"/%41", b"/a;b,c", b"http://a.org/b", b"/*", b"//a")
_HOSTS = (b"a", b"example.com", b"example.com:80", b"127.0.0.1:8001", b"[::1]:80")
_FIELDS = (
    b"Accept: */*\r\n", b"User-Agent: x/1 (y; z)\r\n", b"Accept-Encoding: gzip, br\r\n",
    b"If-None-Match: \"a\", W/\"b\"\r\n", b"Range: bytes=0-1\r\n", b"X-Empty:\r\n", b"X:  y \t\r\n",
    b"Cookie: a=b; c=d\r\n", b"X-A: \xe4\r\n", b"Connection: keep-alive\r\n",
    b"Connection: x, close\r\n", b"Expect: 100-continue\r\n", b"TE: trailers\r\n",
)  # fmt: skip
_EXTENSIONS = (b"", b"", b"", b";a", b";a=b", b';a="b c"', b" ; a = b")


def make_stream(seed: int, number: int) -> bytes:
    """The bytes of case `number` under `seed`; at least one."""
    chance = random.Random(seed * _CASES_MAX + number)
    stream = bytearray(_start(chance))
    for _ in range(_count(chance)):
        _mutate(stream, chance)
    return bytes(stream) or b"\x00"


def _count(chance: random.Random) -> int:
    """How often to mutate: mostly once, at times not at all, seldom often."""
    draw = chance.random()
    if draw < 0.08:
        return 0
    if draw < 0.6:
        return 1
    return 2 if draw < 0.85 else chance.randrange(3, 7)


def _start(chance: random.Random) -> bytes:
    draw = chance.random()
    if draw < _LONG_SHARE:
        return chance.choice(_LONG)
    if draw < 0.35:
        return chance.choice(_SHORT)
    pipeline = b"".join(_make_request(chance) for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 4))))
    if draw < 0.45:
        return pipeline + chance.choice(_SHORT)
    return pipeline


def _make_request(chance: random.Random) -> bytes:
    """A valid request."""
    method = chance.choice(_METHODS)
    version = b"1.0" if chance.random() < 0.06 else b"1.1"
    fields = [b"Host: " + chance.choice(_HOSTS) + b"\r\n"]
    few_or_many = chance.randrange(0, 4) if chance.random() < 0.97 else chance.randrange(60, 99)
    fields += [_FIELDS[int(chance.random() * len(_FIELDS))] for _ in range(few_or_many)]
    body = b""
    draw = chance.random()
    if draw < 0.25:
        body = _make_data(chance)
        fields.append(b"Content-Length: %d\r\n" % len(body))
    elif draw < 0.5 and version == b"1.1":
        body = _make_chunks(chance)
        fields.append(b"Transfer-Encoding: chunked\r\n")
    if chance.random() < 0.5:
        chance.shuffle(fields)
    line = method + b" " + chance.choice(_TARGETS) + b" HTTP/" + version + b"\r\n"
    return line + b"".join(fields) + b"\r\n" + body


def _make_data(chance: random.Random) -> bytes:
    draw = chance.random()
    if draw < 0.2:
        return b"0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"[chance.randrange(20) :]
    return chance.randbytes(chance.randrange(20)) if draw < 0.4 else b"hello"[chance.randrange(5) :]


def _make_chunks(chance: random.Random) -> bytes:
    pieces: list[bytes] = []
    for _ in range(chance.randrange(3)):
        data = _make_data(chance)
        size = b"%X" if chance.random() < 0.5 else b"%03x"
        pieces += [size % len(data), chance.choice(_EXTENSIONS), b"\r\n", data, b"\r\n"]
    trailers = b"".join(chance.choice(_FIELDS) for _ in range(chance.choice((0, 0, 0, 1, 2))))
    return b"".join(pieces) + b"0" + chance.choice(_EXTENSIONS) + b"\r\n" + trailers + b"\r\n"


def _mutate(stream: bytearray, chance: random.Random) -> None:
    """Change one thing, in place."""
    size = len(stream)
    at = int(chance.random() * (size + 1))
    span = chance.choice((1, 1, 1, 2, 4, 16, 64))
    match int(chance.random() * 9):
        case 0:
            stream[at : at + 1] = bytes((chance.getrandbits(8),))
        case 1:
            del stream[at : at + span]
        case 2:
            times = 400 if chance.random() < 0.002 else chance.choice((1, 1, 2))
            stream[at:at] = stream[at : at + span] * times
        case 3:
            other = chance.choice(_SHORT)
            stream[at:] = other[int(chance.random() * len(other)) :]
        case 4:
            # At a line's beginning, where fields, chunks and requests begin.
            begins = stream.find(b"\n", at) + 1
            stream[begins:begins] = chance.choice(_NASTY)
        case 5 if size:
            stream[at - 1] ^= 1 << chance.getrandbits(3) % 8
        case 6:
            stream[at : at + len(chance.choice(_NASTY))] = chance.choice(_NASTY)
        case _:
            stream[at:at] = chance.choice(_NASTY)
