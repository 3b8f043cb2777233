"""Request streams with the answer that each must get, however it is cut into pieces.

A valid case lists (method, target, body) of each request in the stream; an invalid one the status
of its refusal. "Differs" says why h11, a careful parser with other goals, reads a case otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

HOST = b"Host: example.com\r\n"
GET = b"GET / HTTP/1.1\r\n"
POST = b"POST /in HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@dataclass(frozen=True)
class Valid:
    name: str
    stream: bytes
    requests: tuple[tuple[str, bytes, bytes], ...]
    h11_differs: str = ""


@dataclass(frozen=True)
class Invalid:
    name: str
    stream: bytes
    status: int


def _get(fields: bytes) -> bytes:
    return GET + HOST + fields + b"\r\n"


VALID = (
    Valid("plain", _get(b""), (("GET", b"/", b""),)),
    Valid("no space after colon", GET + b"Host:example.com\r\n\r\n", (("GET", b"/", b""),)),
    Valid("blanks around value", GET + b"Host: \t example.com \t\r\n\r\n", (("GET", b"/", b""),)),
    Valid("empty value", _get(b"X-Empty:\r\n"), (("GET", b"/", b""),)),
    Valid("obs-text in value", _get(b"X-Name: caf\xe9\r\n"), (("GET", b"/", b""),)),
    Valid("host with port", GET + b"Host: [::1]:8001\r\n\r\n", (("GET", b"/", b""),)),
    Valid("one empty line before", b"\r\n" + _get(b""), (("GET", b"/", b""),),
          "h11 refuses empty lines"),
    Valid("two empty lines before", b"\r\n\r\n" + _get(b""), (("GET", b"/", b""),),
          "h11 refuses empty lines"),
    Valid("http/1.0 without host", b"GET /a HTTP/1.0\r\n\r\n", (("GET", b"/a", b""),)),
    Valid("higher minor version", b"GET / HTTP/1.7\r\n" + HOST + b"\r\n", (("GET", b"/", b""),)),
    Valid("query", b"GET /a?b=%zz HTTP/1.1\r\n" + HOST + b"\r\n", (("GET", b"/a?b=%zz", b""),)),
    Valid("asterisk", b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", (("OPTIONS", b"*", b""),)),
    Valid(
        "absolute-form",
        b"GET http://Other.org:80/x?y HTTP/1.1\r\n" + HOST + b"\r\n",
        (("GET", b"/x?y", b""),),
        "h11 leaves the target whole",
    ),
    Valid(
        "absolute-form without path",
        b"GET HTTPS://other.org?y HTTP/1.1\r\n" + HOST + b"\r\n",
        (("GET", b"/?y", b""),),
        "h11 leaves the target whole",
    ),
    Valid(
        "absolute-form of asterisk",
        b"OPTIONS http://other.org HTTP/1.1\r\n" + HOST + b"\r\n",
        (("OPTIONS", b"*", b""),),
        "h11 leaves the target whole",
    ),
    Valid("sized body", POST + b"Content-Length: 5\r\n\r\nhello", (("POST", b"/in", b"hello"),)),
    Valid("leading zeros", POST + b"Content-Length: 005\r\n\r\nhello",
          (("POST", b"/in", b"hello"),)),
    Valid("empty body", POST + b"Content-Length: 0\r\n\r\n", (("POST", b"/in", b""),)),
    Valid("chunked", CHUNKED + b"5\r\nhello\r\n00A\r\n, chunked!\r\n0\r\n\r\n",
          (("POST", b"/in", b"hello, chunked!"),)),
    Valid("chunked in capitals", POST + b"transfer-encoding: CHUNKED\r\n\r\n0\r\n\r\n",
          (("POST", b"/in", b""),)),
    Valid("chunk extensions", CHUNKED + b'1;a;b=c ; d="e\\"f"\r\nx\r\n0;z\r\n\r\n',
          (("POST", b"/in", b"x"),)),
    Valid("trailers", CHUNKED + b"1\r\nx\r\n0\r\nX-Sum: 1\r\nHost: evil\r\n\r\n",
          (("POST", b"/in", b"x"),)),
    Valid("pipeline", _get(b"") + CHUNKED + b"2\r\nhi\r\n0\r\n\r\n" + _get(b"A: b\r\n"),
          (("GET", b"/", b""), ("POST", b"/in", b"hi"), ("GET", b"/", b""))),
    Valid("crlf after a body", POST + b"Content-Length: 1\r\n\r\nx\r\n" + _get(b""),
          (("POST", b"/in", b"x"), ("GET", b"/", b"")),
          "h11 refuses empty lines"),
    Valid("expect", POST + b"Expect: 100-Continue\r\nContent-Length: 1\r\n\r\nx",
          (("POST", b"/in", b"x"),)),
)  # fmt: skip

_LONG = b"a" * 9000


def _length(value: bytes) -> bytes:
    return POST + b"Content-Length: " + value + b"\r\n\r\nhello"


def _coding(value: bytes) -> bytes:
    return POST + b"Transfer-Encoding: " + value + b"\r\n\r\n0\r\n\r\n"


def _host(value: bytes) -> bytes:
    return GET + b"Host: " + value + b"\r\n\r\n"


def _line(line: bytes) -> bytes:
    return line + b"\r\n" + HOST + b"\r\n"


INVALID = (
    # Line ends.
    Invalid("bare LF after request line", b"GET / HTTP/1.1\n" + HOST + b"\r\n", 400),
    Invalid("bare LF after field", GET + b"Host: example.com\n\r\n", 400),
    Invalid("bare LF at the head's end", GET + HOST + b"\n", 400),
    Invalid("bare LF before", b"\n" + _get(b""), 400),
    Invalid("bare CR in request line", _line(b"GET /\rX HTTP/1.1"), 400),
    Invalid("bare CR in value", _get(b"A: b\rc\r\n"), 400),
    Invalid("two CR", GET + b"Host: example.com\r\r\n\r\n", 400),
    Invalid("three empty lines before", b"\r\n\r\n\r\n" + _get(b""), 400),
    # Request lines.
    Invalid("two spaces", _line(b"GET  / HTTP/1.1"), 400),
    Invalid("space at the end", _line(b"GET / HTTP/1.1 "), 400),
    Invalid("space before", _line(b" GET / HTTP/1.1"), 400),
    Invalid("tab between", _line(b"GET\t/ HTTP/1.1"), 400),
    Invalid("no version", b"GET /\r\n", 400),
    Invalid("lower-case version", _line(b"GET / http/1.1"), 400),
    Invalid("two digits", _line(b"GET / HTTP/1.10"), 400),
    Invalid("space in target", _line(b"GET /a b HTTP/1.1"), 400),
    Invalid("byte above ASCII in target", _line(b"GET /\xc3\xa9 HTTP/1.1"), 400),
    Invalid("no slash", _line(b"GET a HTTP/1.1"), 400),
    Invalid("asterisk with GET", _line(b"GET * HTTP/1.1"), 400),
    Invalid("other scheme", _line(b"GET ftp://example.com/ HTTP/1.1"), 400),
    Invalid("authority-form with GET", _line(b"GET example.com:80 HTTP/1.1"), 400),
    Invalid("absolute-form without host", _line(b"GET http:///a HTTP/1.1"), 400),
    Invalid("absolute-form with userinfo", _line(b"GET http://a@b/ HTTP/1.1"), 400),
    Invalid("CONNECT with origin-form", _line(b"CONNECT / HTTP/1.1"), 400),
    Invalid("CONNECT without port", _line(b"CONNECT example.com HTTP/1.1"), 400),
    Invalid("CONNECT", _line(b"CONNECT example.com:443 HTTP/1.1"), 501),
    Invalid("method not a token", _line(b"G@T / HTTP/1.1"), 400),
    Invalid("unknown method", _line(b"BREW / HTTP/1.1"), 501),
    Invalid("lower-case method", _line(b"get / HTTP/1.1"), 501),
    Invalid("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    Invalid("HTTP/0.9", _line(b"GET / HTTP/0.9"), 505),
    Invalid("HTTP/3", _line(b"GET / HTTP/3.0"), 505),
    Invalid("target just too long", _line(b"GET /" + b"a" * 8192 + b" HTTP/1.1"), 414),
    Invalid("endless target", b"GET /" + b"a" * 9000, 414),
    Invalid("endless method", _LONG, 400),
    Invalid("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", 400),
    # Fields.
    Invalid("space before colon", _get(b"A : b\r\n"), 400),
    Invalid("blank before first field", GET + b" " + HOST + b"\r\n", 400),
    Invalid("obs-fold", _get(b"A: b\r\n c\r\n"), 400),
    Invalid("no colon", _get(b"A\r\n"), 400),
    Invalid("no name", _get(b": a\r\n"), 400),
    Invalid("bad name", _get(b"A(b): c\r\n"), 400),
    Invalid("name above ASCII", _get(b"\xc3\xa9: c\r\n"), 400),
    Invalid("NUL in value", _get(b"A: b\x00c\r\n"), 400),
    Invalid("control in value", _get(b"A: b\x0bc\r\n"), 400),
    Invalid("DEL in value", _get(b"A: b\x7f\r\n"), 400),
    Invalid("long field line", _get(b"A: " + _LONG + b"\r\n"), 431),
    Invalid("endless field line", GET + HOST + b"A: " + _LONG, 431),
    Invalid("long head", _get((b"A: " + b"b" * 8000 + b"\r\n") * 5), 431),
    Invalid("too many fields", _get(b"A: b\r\n" * 100), 431),
    # Host.
    Invalid("no host", GET + b"\r\n", 400),
    Invalid("two hosts alike", GET + HOST + HOST + b"\r\n", 400),
    Invalid("two hosts in HTTP/1.0", b"GET / HTTP/1.0\r\n" + HOST + HOST + b"\r\n", 400),
    Invalid("empty host", _host(b""), 400),
    Invalid("host with userinfo", _host(b"user@example.com"), 400),
    Invalid("host with path", _host(b"example.com/a"), 400),
    Invalid("host list", _host(b"a.com, b.com"), 400),
    Invalid("host with comma", _host(b"a.com,b.com"), 400),
    Invalid("host with space", _host(b"a.com b.com"), 400),
    Invalid("host percent-encoded", _host(b"a%2ecom"), 400),
    Invalid("host with empty label", _host(b"a..com"), 400),
    Invalid("host is a port", _host(b":80"), 400),
    Invalid("port no number", _host(b"a.com:http"), 400),
    Invalid("port too large", _host(b"a.com:65536"), 400),
    Invalid("host too long", _host(b"a" * 256), 400),
    Invalid("no IPv6 address", _host(b"[1:2]"), 400),
    Invalid("IPv6 with zone", _host(b"[fe80::1%25eth0]"), 400),
    Invalid("IPvFuture", _host(b"[v1.a]"), 400),
    Invalid("IPv6 without brackets", _host(b"::1"), 400),
    Invalid("host above ASCII", _host(b"caf\xc3\xa9.com"), 400),
    Invalid("bad host beside absolute-form",
            b"GET http://a.com/ HTTP/1.1\r\nHost: a@b\r\n\r\n", 400),
    # Content-Length.
    Invalid("length list", _length(b"5, 5"), 400),
    Invalid("length repeated", POST + b"Content-Length: 5\r\ncontent-length: 5\r\n\r\nhello", 400),
    Invalid("length with sign", _length(b"+5"), 400),
    Invalid("length negative", _length(b"-5"), 400),
    Invalid("length hexadecimal", _length(b"0x5"), 400),
    Invalid("length with underscore", _length(b"1_0"), 400),
    Invalid("length empty", _length(b""), 400),
    Invalid("length in other digits", _length("\u0665".encode()), 400),
    Invalid("length huge", _length(b"9" * 19), 413),
    Invalid("length of thousands of digits", _length(b"9" * 5000), 413),
    # Transfer-Encoding.
    Invalid("both lengths",
            POST + b"Content-Length: 5\r\n" + CHUNKED[len(POST):] + b"0\r\n\r\n", 400),
    Invalid("chunked in HTTP/1.0",
            b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    Invalid("chunked not last", _coding(b"chunked, gzip"), 400),
    Invalid("chunked twice", _coding(b"chunked, chunked"), 400),
    Invalid("chunked on two lines", POST + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n", 400),
    Invalid("identity", _coding(b"identity"), 400),
    Invalid("nearly chunked", _coding(b"xchunked"), 400),
    Invalid("quoted chunked", _coding(b'"chunked"'), 400),
    Invalid("chunked with comma", _coding(b"chunked,"), 400),
    Invalid("chunked with parameter", _coding(b"chunked;q=1"), 400),
    Invalid("empty coding", _coding(b""), 400),
    Invalid("gzip then chunked", _coding(b"gzip, chunked"), 501),
    # Chunks.
    Invalid("chunk size empty", CHUNKED + b"\r\n", 400),
    Invalid("chunk size no number", CHUNKED + b"g\r\n", 400),
    Invalid("chunk size with sign", CHUNKED + b"+1\r\n", 400),
    Invalid("chunk size with 0x", CHUNKED + b"0x1\r\n", 400),
    Invalid("chunk size with blank", CHUNKED + b" 1\r\n", 400),
    Invalid("chunk size huge", CHUNKED + b"f" * 16 + b"\r\n", 413),
    Invalid("chunk size line with bare LF", CHUNKED + b"1\nx\r\n0\r\n\r\n", 400),
    Invalid("bare LF in extension", CHUNKED + b"1;a\nb\r\nx\r\n0\r\n\r\n", 400),
    Invalid("bare CR in extension", CHUNKED + b"1;a\rb\r\nx\r\n0\r\n\r\n", 400),
    Invalid("extension without name", CHUNKED + b"1;\r\nx\r\n0\r\n\r\n", 400),
    Invalid("extension too long", CHUNKED + b"1;" + b"a" * 600, 413),
    Invalid("extensions too long together",
            CHUNKED + (b"1;" + b"a" * 500 + b"\r\nx\r\n") * 40, 413),
    Invalid("chunk longer than its size", CHUNKED + b"1\r\nxy\r\n0\r\n\r\n", 400),
    Invalid("chunk data ends in LF", CHUNKED + b"1\r\nx\n0\r\n\r\n", 400),
    Invalid("chunk data ends in CR", CHUNKED + b"1\r\nx\rx0\r\n\r\n", 400),
    Invalid("trailer malformed", CHUNKED + b"0\r\nA b\r\n\r\n", 400),
    Invalid("trailer with bare LF", CHUNKED + b"0\r\nA: b\n\r\n", 400),
    Invalid("trailers too long", CHUNKED + b"0\r\n" + (b"A: " + b"b" * 100 + b"\r\n") * 90, 431),
    Invalid("too many trailers", CHUNKED + b"0\r\n" + b"A: b\r\n" * 101, 431),
    # Expectations.
    Invalid("unknown expectation", _get(b"Expect: 200-ok\r\n"), 417),
    # After a good request.
    Invalid("second request malformed", _get(b"") + b"GET /\r\n", 400),
)  # fmt: skip
