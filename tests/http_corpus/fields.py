"""Field lines, Host, and the limits on a head."""

from __future__ import annotations

from http_corpus.case import (
    GET,
    HOST,
    POST,
    ROOT,
    Case,
    accept,
    get,
    host,
    length,
    posted,
    refuse,
)

_LONG = b"a" * 9000

_LINES: tuple[Case, ...] = (
    accept("no space after colon", "9112 §5.1", GET + b"Host:example.com\r\n\r\n"),
    accept("blanks around value", "9112 §5.1", GET + b"Host: \t example.com \t\r\n\r\n"),
    accept("empty value", "9110 §5.5", get(b"X-Empty:\r\n")),
    accept("value of blanks", "9110 §5.5", get(b"X-Empty: \t \r\n")),
    accept("obs-text in value", "9110 §5.5", get(b"X-Name: caf\xe9\r\n")),
    accept("UTF-8 in value", "9110 §5.5", get("X-Name: café \u2028\r\n".encode())),
    accept("every byte of a value", "9110 §5.5",
           get(b"A: !\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100)) + b"\r\n")),
    accept("every byte of a name", "9110 §5.1", get(b"!#$%&'*+-.^_`|~09AZaz: b\r\n")),
    accept("colons in value", "9112 §5", get(b"A::b: c:\r\n")),
    accept("unpaired quote in value", "9110 §5.5", get(b'A: "b\r\n')),
    accept("names that only resemble those of framing", "9110 §5.1",
           get(b"Content_Length: 5\r\nTransfer_Encoding: chunked\r\nContent-Length-: 5\r\n")),
    refuse("what resembled framing does not frame", "9110 §5.1",
           POST + b"Transfer_Encoding: chunked\r\n\r\n0\r\n\r\n", 400, posted(b"")),
    accept("many ranges", "CVE-2011-3192",
           get(b"Range: bytes=" + b",".join(b"%d-" % at for at in range(1000)) + b"\r\n")),
    accept("ranges that are costly to match", "CVE-2025-62727",
           get(b"Range: bytes=" + b"0-," * 2000 + b"\r\n")),
    refuse("space before colon", "9112 §5.1", get(b"A : b\r\n"), 400),
    refuse("tab before colon", "9112 §5.1", get(b"A\t: b\r\n"), 400),
    refuse("space before the colon of Host", "9112 §5.1", GET + b"Host : a.org\r\n\r\n", 400),
    refuse("blank before first field", "9112 §2.2", GET + b" " + HOST + b"\r\n", 400),
    refuse("tab before first field", "9112 §2.2", GET + b"\t" + HOST + b"\r\n", 400),
    refuse("line of blanks before first field", "9112 §2.2", GET + b" \r\n" + HOST + b"\r\n", 400),
    refuse("line of blanks for the head's end", "9112 §2.2", GET + HOST + b" \r\n\r\n", 400),
    refuse("obs-fold", "9112 §5.2", get(b"A: b\r\n c\r\n"), 400),
    refuse("obs-fold with tab", "9112 §5.2", get(b"A: b\r\n\tc\r\n"), 400),
    refuse("obs-fold of nothing", "9112 §5.2", get(b"A: b\r\n \r\n"), 400),
    refuse("obs-fold before a value", "9112 §5.2", get(b"A:\r\n b\r\n"), 400),
    refuse("obs-fold that looks like a field", "9112 §5.2", get(b"A: b\r\n Host: a\r\n"), 400),
    refuse("obs-fold of Host", "9112 §5.2", GET + b"Host:\r\n example.com\r\n\r\n", 400),
    refuse("no colon", "9112 §5", get(b"A\r\n"), 400),
    refuse("no name", "9112 §5", get(b": a\r\n"), 400),
    refuse("colon alone", "9112 §5", get(b":\r\n"), 400),
    refuse("request line for a field", "9112 §5", get(b"GET / HTTP/1.1\r\n"), 400),
    *(
        refuse(f"name with {byte!r}", "9110 §5.6.2", get(b"A%cb: c\r\n" % byte), 400)
        for byte in b'\x00\x01\x0b\x0c\x1f\x7f\x80\xa0\xff "(),/;<=>?@[\\]{}'
    ),
    refuse("name above ASCII", "9110 §5.6.2", get(b"\xc3\xa9: c\r\n"), 400),
    *(
        refuse(f"value with {byte!r}", "9110 §5.5", get(b"A: b%cc\r\n" % byte), 400)
        for byte in b"\x00\x01\x08\x0b\x0c\x0e\x1b\x1f\x7f"
    ),
    refuse("NUL before value", "9110 §5.5", get(b"A:\x00b\r\n"), 400),
    refuse("NUL after value", "9110 §5.5", get(b"A: b\x00\r\n"), 400),
)  # fmt: skip

_HOSTS: tuple[Case, ...] = (
    *(
        accept(f"host {value.decode('latin-1')!r}", "9110 §7.2", host(value))
        for value in (
            b"localhost", b"Example.COM", b"example.com.", b"example.com:", b"example.com:8001",
            b"a.com:0", b"a.com:65535", b"127.0.0.1", b"127.0.0.1:80", b"[::1]:8001",
            b"[2001:DB8::1]", b"[::ffff:127.0.0.1]", b"a_b.local", b"xn--caf-dma.example",
            b"1", b"a" * 255,
        )
    ),
    refuse("no host", "9112 §3.2", GET + b"\r\n", 400),
    refuse("no host in a higher version", "9112 §3.2", b"GET / HTTP/1.2\r\n\r\n", 400),
    refuse("two hosts", "9112 §3.2", GET + HOST + b"Host: b.com\r\n\r\n", 400),
    refuse("two hosts alike", "9112 §3.2", GET + HOST + HOST + b"\r\n", 400),
    refuse("two hosts in HTTP/1.0", "9112 §3.2",
           b"GET / HTTP/1.0\r\n" + HOST + HOST + b"\r\n", 400),
    refuse("two hosts beside absolute-form", "9112 §3.2.2",
           b"GET http://a.com/ HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
    refuse("empty host in HTTP/1.0", "9112 §3.2", b"GET / HTTP/1.0\r\nHost:\r\n\r\n", 400),
    refuse("bad host beside absolute-form", "9112 §3.2.2",
           b"GET http://a.com/ HTTP/1.1\r\nHost: a@b\r\n\r\n", 400),
    *(
        refuse(f"host {value.decode('latin-1')!r}", "9112 §3.2", host(value), 400)
        for value in (
            b"", b":80", b".", b".com", b"a..com", b"a.com..", b"user@example.com", b"u:p@a.com",
            b"example.com/a", b"example.com?a", b"example.com#a", b"example.com\\a", b"/", b"*",
            b"http://a.com", b"a.com, b.com", b"a.com,b.com", b"a.com b.com", b"a.com\tb.com",
            b"a.com;b", b"a%2ecom", b"a.com:http", b"a.com:65536", b"a.com:000080", b"a.com:-1",
            b"a.com:80:80", b"a.com: 80", b"a.com :80", b"a" * 256, b'"a.com"', b"<a>", b"a|b",
            b"[1:2]", b"[]", b"[::1", b"::1]", b"::1", b"[::1]a", b"[::g]", b"[fe80::1%25eth0]",
            b"[v1.a]", b"[127.0.0.1]", b"[[::1]]", b"caf\xc3\xa9.com", b"\xff",
        )
    ),
)  # fmt: skip

_LIMITS: tuple[Case, ...] = (
    accept("field line just short enough", "9110 §5.4", get(b"A: " + b"b" * 8189 + b"\r\n")),
    refuse("field line just too long", "9110 §5.4", get(b"A: " + b"b" * 8190 + b"\r\n"), 431),
    refuse("long field line", "9110 §5.4", get(b"A: " + _LONG + b"\r\n"), 431),
    refuse("endless field line", "9110 §5.4", GET + HOST + b"A: " + _LONG, 431),
    refuse("endless field name", "9110 §5.4", GET + HOST + _LONG, 431),
    refuse("long head", "6585 §5", get((b"A: " + b"b" * 8000 + b"\r\n") * 5), 431),
    accept("head just short enough", "6585 §5",
           get((b"A: " + b"b" * 1019 + b"\r\n") * 31
               + b"A: " + b"b" * (1024 - len(GET + HOST) - 5) + b"\r\n")),
    # The last field line may end where the empty line would: two bytes later.
    refuse("head just too long", "6585 §5",
           get((b"A: " + b"b" * 1019 + b"\r\n") * 31
               + b"A: " + b"b" * (1024 - len(GET + HOST) - 2) + b"\r\n"), 431),
    accept("as many fields as may be", "6585 §5", get(b"A: b\r\n" * 99)),
    refuse("too many fields", "6585 §5", get(b"A: b\r\n" * 100), 431),
    refuse("long cookie", "6585 §5", get(b"Cookie: " + b"a=b; " * 2000 + b"\r\n"), 431),
)  # fmt: skip

_LENGTHS: tuple[Case, ...] = (
    accept("sized body", "9112 §6.3", length(b"5"), posted(b"hello")),
    accept("leading zeros", "9110 §8.6", length(b"005"), posted(b"hello")),
    accept("blanks around a length", "9112 §5.1", length(b"\t 5 \t"), posted(b"hello")),
    accept("empty body", "9112 §6.3", POST + b"Content-Length: 0\r\n\r\n", posted(b"")),
    accept("no length", "9112 §6.3", POST + b"\r\n", posted(b"")),
    accept("body with GET", "9110 §9.3.1", get(b"Content-Length: 2\r\n") + b"hi",
           ("GET", b"/", b"hi")),
    accept("no body with GET", "9110 §9.3.1", get(b"Content-Length: 0\r\n")),
    accept("body of binary", "9112 §6", length(b"5").replace(b"hello", b"\x00\r\n\r\xff"),
           posted(b"\x00\r\n\r\xff")),
    accept("body that looks like a request", "9112 §6.3",
           POST + b"Content-Length: %d\r\n\r\n" % len(get()) + get(), posted(get())),
    accept("body that nobody unpacks", "CVE-2025-69223",
           POST + b"Content-Encoding: deflate\r\nContent-Length: 5\r\n\r\n\x78\x9c\x4b\x04\x00",
           posted(b"\x78\x9c\x4b\x04\x00")),
    refuse("more data than the length", "9112 §9.3",
           length(b"4") + b"\r\n\r\n", 400, posted(b"hell")),
    refuse("length repeated", "9112 §6.3",
           POST + b"Content-Length: 5\r\ncontent-length: 5\r\n\r\nhello", 400),
    refuse("lengths that differ", "9112 §6.3",
           POST + b"Content-Length: 5\r\nContent-Length: 0\r\n\r\nhello", 400),
    refuse("space before the colon of a length", "9112 §5.1",
           POST + b"Content-Length : 5\r\n\r\nhello", 400),
    refuse("length in a fold", "9112 §5.2", POST + b"Content-Length:\r\n 5\r\n\r\nhello", 400),
    refuse("length behind a bare LF", "CVE-2023-47627",
           POST + b"A: b\nContent-Length: 5\r\n\r\nhello", 400),
    refuse("length behind a bare CR", "CVE-2023-47627",
           POST + b"A: b\rContent-Length: 5\r\n\r\nhello", 400),
    *(
        refuse(f"length {value.decode('latin-1')!r}", source, length(value), 400)
        for value, source in (
            (b"+5", "CVE-2023-47627"), (b"-5", "CVE-2023-47627"), (b"1_0", "CVE-2023-47627"),
            (b"0x5", "CVE-2023-47627"), ("\u0665".encode(), "CVE-2023-47627"),
            (b"\xb2", "CVE-2023-47627"), ("\uff15".encode(), "CVE-2023-47627"),
            (b"", "9110 §8.6"), (b"5, 5", "9110 §8.6"), (b"5,5", "9110 §8.6"),
            (b"5,", "9110 §8.6"), (b",5", "9110 §8.6"), (b"5, 6", "9110 §8.6"),
            (b"5 5", "9110 §8.6"), (b"5;", "9110 §8.6"), (b"5.0", "9110 §8.6"),
            (b"5e0", "9110 §8.6"), (b'"5"', "9110 §8.6"), (b"five", "9110 §8.6"),
            (b"-0", "9110 §8.6"), (b"0b1", "9110 §8.6"), (b"5\x00", "9110 §5.5"),
            (b"\x0b5", "9110 §5.5"), (b"5\x0c", "9110 §5.5"), (b"\xa05", "9110 §8.6"),
            (b"5h", "9110 §8.6"), (b"None", "9110 §8.6"), (b"9" * 19 + b"x", "9110 §8.6"),
        )
    ),
    refuse("length huge", "9110 §8.6", length(b"9" * 19), 413),
    refuse("length beyond 64 bits", "9110 §8.6", length(b"18446744073709551621"), 413),
    refuse("length of thousands of digits", "9110 §8.6", length(b"9" * 5000), 413),
)  # fmt: skip

_AFTER_A_GOOD_ONE: tuple[Case, ...] = (
    refuse("field of a second request malformed", "9112 §5", get() + get(b"A b\r\n"), 400, ROOT),
    refuse("host of a second request missing", "9112 §3.2", get() + GET + b"\r\n", 400, ROOT),
)  # fmt: skip

FIELDS: tuple[Case, ...] = (*_LINES, *_HOSTS, *_LIMITS, *_LENGTHS, *_AFTER_A_GOOD_ONE)
