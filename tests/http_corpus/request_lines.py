"""Line ends, request lines, versions, methods, targets; and what is no HTTP/1.1 at all."""

from __future__ import annotations

from http_corpus.case import (
    GET,
    HOST,
    POST,
    ROOT,
    Case,
    accept,
    asked,
    get,
    line,
    posted,
    refuse,
)

_EMPTY = "h11 refuses empty lines"
_WHOLE = "h11 leaves the target whole"

_LINE_ENDS: tuple[Case, ...] = (
    accept("plain", "9112 §2.1", get()),
    accept("one empty line before", "9112 §2.2", b"\r\n" + get(), h11_differs=_EMPTY),
    accept("two empty lines before", "9112 §2.2", b"\r\n\r\n" + get(), h11_differs=_EMPTY),
    accept("crlf after a body", "9112 §2.2", POST + b"Content-Length: 1\r\n\r\nx\r\n" + get(),
           posted(b"x"), ROOT, h11_differs=_EMPTY),
    accept("two empty lines between", "9112 §2.2", get() + b"\r\n\r\n" + get(),
           ROOT, ROOT, h11_differs=_EMPTY),
    refuse("three empty lines before", "9112 §2.2", b"\r\n\r\n\r\n" + get(), 400),
    refuse("three empty lines between", "9112 §2.2", get() + b"\r\n\r\n\r\n" + get(), 400, ROOT),
    refuse("bare LF after request line", "9112 §2.2", b"GET / HTTP/1.1\n" + HOST + b"\r\n", 400),
    refuse("bare LF after field", "9112 §2.2", GET + b"Host: example.com\n\r\n", 400),
    refuse("bare LF at the head's end", "9112 §2.2", GET + HOST + b"\n", 400),
    refuse("bare LF everywhere", "9112 §2.2", get().replace(b"\r", b""), 400),
    refuse("bare LF before", "9112 §2.2", b"\n" + get(), 400),
    refuse("bare LF between", "9112 §2.2", get() + b"\n" + get(), 400, ROOT),
    refuse("LF CR", "9112 §2.2", b"GET / HTTP/1.1\n\r" + HOST + b"\r\n", 400),
    refuse("CR everywhere", "9112 §2.2", get().replace(b"\n", b"") + b"\r\n", 400),
    refuse("bare CR before", "9112 §2.2", b"\r" + get(), 400),
    refuse("bare CR after an empty line", "9112 §2.2", b"\r\n\r" + get(), 400),
    refuse("bare CR in request line", "9112 §2.2", line(b"GET /\rX HTTP/1.1"), 400),
    refuse("bare CR for a space", "9112 §3", line(b"GET\r/ HTTP/1.1"), 400),
    refuse("bare CR after version", "9112 §2.2", line(b"GET / HTTP/1.1\r"), 400),
    refuse("bare CR in value", "9112 §2.2", get(b"A: b\rc\r\n"), 400),
    refuse("bare CR in name", "9112 §2.2", get(b"A\rb: c\r\n"), 400),
    refuse("bare CR before name", "9112 §2.2", get(b"\rA: b\r\n"), 400),
    refuse("bare CR before value", "9112 §2.2", get(b"A:\rb\r\n"), 400),
    refuse("two CR", "9112 §2.2", GET + b"Host: example.com\r\r\n\r\n", 400),
    refuse("two CR at the head's end", "9112 §2.2", GET + HOST + b"\r\r\n", 400),
    refuse("vertical tab for a line end", "9112 §2.2",
           b"GET / HTTP/1.1\x0b" + HOST + b"\r\n", 400),
    refuse("NEL for a line end", "9112 §2.2", b"GET / HTTP/1.1\x85" + HOST + b"\r\n", 400),
    refuse("NUL before", "9112 §2.2", b"\x00" + get(), 400),
    refuse("NUL lines before", "9112 §2.2", b"\x00\r\n" + get(), 400),
    refuse("blanks on a line before", "9112 §2.2", b" \r\n" + get(), 400),
    refuse("byte order mark before", "9112 §2.2", b"\xef\xbb\xbf" + get(), 400),
)  # fmt: skip

_SHAPES: tuple[Case, ...] = (
    refuse("two spaces", "9112 §3", line(b"GET  / HTTP/1.1"), 400),
    refuse("two spaces before version", "9112 §3", line(b"GET /  HTTP/1.1"), 400),
    refuse("space at the end", "9112 §3", line(b"GET / HTTP/1.1 "), 400),
    refuse("tab at the end", "9112 §3", line(b"GET / HTTP/1.1\t"), 400),
    refuse("space before", "9112 §3", line(b" GET / HTTP/1.1"), 400),
    refuse("tab between", "9112 §3", line(b"GET\t/ HTTP/1.1"), 400),
    refuse("tab before version", "9112 §3", line(b"GET /\tHTTP/1.1"), 400),
    refuse("vertical tab between", "9112 §3", line(b"GET\x0b/ HTTP/1.1"), 400),
    refuse("form feed between", "9112 §3", line(b"GET\x0c/ HTTP/1.1"), 400),
    refuse("no-break space between", "9112 §3", line(b"GET\xa0/ HTTP/1.1"), 400),
    refuse("no target", "9112 §3", line(b"GET HTTP/1.1"), 400),
    refuse("empty target", "9112 §3", line(b"GET  HTTP/1.1"), 400),
    refuse("no space before version", "9112 §3", line(b"GET /HTTP/1.1"), 400),
    refuse("method alone", "9112 §3", line(b"GET"), 400),
    refuse("two targets", "9112 §3", line(b"GET / /b HTTP/1.1"), 400),
    refuse("words after version", "9112 §3", line(b"GET / HTTP/1.1 HTTP/1.1"), 400),
    refuse("no version", "9112 §3", b"GET /\r\n", 400),
    refuse("status line", "9112 §4", line(b"HTTP/1.1 200 OK"), 400),
    refuse("field for a request line", "9112 §3", HOST + b"\r\n", 400),
    refuse("endless method", "9112 §3", b"a" * 9000, 400),
    refuse("target just too long", "9110 §15.5.15",
           line(b"GET /" + b"a" * 8192 + b" HTTP/1.1"), 414),
    refuse("endless target", "9110 §15.5.15", b"GET /" + b"a" * 9000, 414),
    refuse("endless query", "9110 §15.5.15", b"GET /?" + b"a=b&" * 3000, 414),
    accept("target just short enough", "9110 §4.1", get(target=b"/" + b"a" * 8191),
           asked(b"/" + b"a" * 8191)),
)  # fmt: skip

_VERSIONS: tuple[Case, ...] = (
    accept("http/1.0 without host", "9112 §3.2", b"GET /a HTTP/1.0\r\n\r\n", asked(b"/a"),
           closes_after=1),
    accept("higher minor version", "9110 §6.2", line(b"GET / HTTP/1.7")),
    accept("next minor version", "9110 §6.2", line(b"GET / HTTP/1.2")),
    *(
        refuse(f"version {version.decode('latin-1')!r}", "9112 §2.3",
               line(b"GET / " + version), 400)
        for version in (
            b"http/1.1", b"Http/1.1", b"HTTP/1.10", b"HTTP/1.01", b"HTTP/01.1", b"HTTP/1.",
            b"HTTP/1", b"HTTP/.1", b"HTTP/11", b"HTTP/1.1.1", b"HTTP/-1.1", b"HTTP/+1.1",
            b"HTTP/1,1",
            b"HTTP/1.x", b"HTTP/x.1", b"HTTP/2", b"HTTP/", b"HTTP", b"HTP/1.1", b"HTTPS/1.1",
            b"xHTTP/1.1", b"RTSP/1.0", b"ICE/1.0", b"HTTP /1.1", b"HTTP/ 1.1", b"HTTP/1 .1",
            b"HTTP\\1.1", b"HTTP/\xb9.1", b"HTTP/1.1\x00", b"HTTP/1.1;", b"HTTP/1.1,HTTP/1.1",
        )
    ),
    refuse("HTTP/0.9", "9112 §2.3", line(b"GET / HTTP/0.9"), 505),
    refuse("HTTP/2.0", "9112 §2.3", line(b"GET / HTTP/2.0"), 505),
    refuse("HTTP/3", "9112 §2.3", line(b"GET / HTTP/3.0"), 505),
    refuse("HTTP/9.9", "9112 §2.3", line(b"GET / HTTP/9.9"), 505),
)  # fmt: skip

_METHODS: tuple[Case, ...] = (
    *(
        accept(f"method {method}", "9110 §9", line(method.encode() + b" /a HTTP/1.1"),
               (method, b"/a", b""))
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH")
    ),
    *(
        refuse(f"method {method.decode('latin-1')!r}", "9110 §9.1",
               line(method + b" / HTTP/1.1"), status)
        for method, status in (
            (b"BREW", 501), (b"get", 501), (b"Get", 501), (b"G", 501), (b"GETGET", 501),
            (b"PROPFIND", 501), (b"M-SEARCH", 501), (b"PRI", 501), (b"LINK", 501),
            (b"!#$%&'*+-.^_`|~", 501), (b"A" * 300, 501),
            (b"G@T", 400), (b"GET:", 400), (b"GET/", 400), (b"(GET)", 400), (b'"GET"', 400),
            (b"GET\x00", 400), (b"\xc7ET", 400), (b"G\x7fT", 400), (b"GET,", 400), (b"G{T}", 400),
        )
    ),
)  # fmt: skip

_TARGETS: tuple[Case, ...] = (
    accept("query", "9112 §3.2.1", get(target=b"/a?b=%zz"), asked(b"/a?b=%zz")),
    accept("two slashes", "9112 §3.2.1", get(target=b"//evil.example/a"),
           asked(b"//evil.example/a")),
    # What a path may hold is judged where paths are read; here it is one word of visible ASCII.
    accept("every visible byte", "9112 §3.2.1", get(target=b"/" + bytes(range(0x21, 0x7F))),
           asked(b"/" + bytes(range(0x21, 0x7F)))),
    accept("dot segments", "9112 §3.2.1", get(target=b"/../..//%2e%2e/"),
           asked(b"/../..//%2e%2e/")),
    accept("asterisk", "9112 §3.2.4", line(b"OPTIONS * HTTP/1.1"), ("OPTIONS", b"*", b"")),
    accept("absolute-form", "9112 §3.2.2", get(target=b"http://Other.org:80/x?y"),
           asked(b"/x?y"), h11_differs=_WHOLE),
    accept("absolute-form without path", "9112 §3.2.2", get(target=b"HTTPS://other.org?y"),
           asked(b"/?y"), h11_differs=_WHOLE),
    accept("absolute-form with nothing more", "9112 §3.2.2", get(target=b"http://other.org"),
           asked(b"/"), h11_differs=_WHOLE),
    accept("absolute-form of asterisk", "9112 §3.2.4", line(b"OPTIONS http://other.org HTTP/1.1"),
           ("OPTIONS", b"*", b""), h11_differs=_WHOLE),
    accept("absolute-form with slash of OPTIONS", "9112 §3.2.4",
           line(b"OPTIONS http://other.org/ HTTP/1.1"),
           ("OPTIONS", b"/", b""), h11_differs=_WHOLE),
    accept("absolute-form with IPv6", "9112 §3.2.2", get(target=b"http://[::1]:8001/"),
           asked(b"/"), h11_differs=_WHOLE),
    accept("absolute-form with an empty port", "9112 §3.2.2", get(target=b"http://a.org:/b"),
           asked(b"/b"), h11_differs=_WHOLE),
    accept("absolute-form with a target in its query", "9112 §3.2.2",
           get(target=b"http://a.org?http://b.org/"),
           asked(b"/?http://b.org/"), h11_differs=_WHOLE),
    accept("absolute-form in HTTP/1.0", "9112 §3.2.2", b"GET http://a.org/b HTTP/1.0\r\n\r\n",
           asked(b"/b"), closes_after=1, h11_differs=_WHOLE),
    refuse("absolute-form without Host", "9112 §3.2",
           b"GET http://a.org/ HTTP/1.1\r\n\r\n", 400),
    *(
        refuse(f"target {target.decode('latin-1')!r}", "9112 §3.2",
               line(b"GET " + target + b" HTTP/1.1"), 400)
        for target in (
            b"a", b"?a", b"#a", b"*", b"*a", b"/*\x00", b"\\", b"%2F", b"./a", b"../a", b"www/a",
            b"/a b", b"/a\tb", b"/\xc3\xa9", b"/\xff", b"/a\x00", b"/a\x1f", b"/a\x7f",
            b"ftp://example.com/", b"ws://example.com/", b"file:///etc/passwd", b"http:/a",
            b"http:a", b"http//a.org/", b"://a.org/", b"httpx://a.org/", b"http://", b"http:///a",
            b"http://?a", b"http://a@b/", b"http://a:b@c.org/", b"http://a.org:65536/",
            b"http://a.org:x/", b"http://[::1/", b"http://a.org#b", b"http://a.org\\b",
            b"http://a,b/", b"http://a%2eorg/", b"example.com", b"example.com:80", b"[::1]:80",
        )
    ),
    refuse("asterisk of OPTIONS with query", "9112 §3.2.4", line(b"OPTIONS *?a HTTP/1.1"), 400),
    refuse("CONNECT", "9110 §9.3.6", line(b"CONNECT example.com:443 HTTP/1.1"), 501),
    refuse("CONNECT with IPv6", "9110 §9.3.6", line(b"CONNECT [::1]:443 HTTP/1.1"), 501),
    refuse("CONNECT with origin-form", "9112 §3.2.3", line(b"CONNECT / HTTP/1.1"), 400),
    refuse("CONNECT with absolute-form", "9112 §3.2.3",
           line(b"CONNECT http://a.org:80/ HTTP/1.1"), 400),
    refuse("CONNECT without port", "9110 §9.3.6", line(b"CONNECT example.com HTTP/1.1"), 400),
    refuse("CONNECT with an empty port", "9110 §9.3.6",
           line(b"CONNECT example.com: HTTP/1.1"), 400),
    refuse("CONNECT with userinfo", "9112 §3.2.3", line(b"CONNECT a@b:1 HTTP/1.1"), 400),
)  # fmt: skip

_OTHER_PROTOCOLS: tuple[Case, ...] = (
    refuse("HTTP/2 preface", "9113 §3.4", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    refuse("HTTP/0.9 request", "9112 §2.3", b"GET /\r\n\r\n", 400),
    refuse("TLS", "8446 §4.1.2", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", 400),
    refuse("TLS without a line end", "8446 §4.1.2", b"\x16\x03\x01\x02\x00\x01\x00\x01", 400),
    refuse("TLS after a request", "8446 §4.1.2",
           get() + b"\x16\x03\x01\x00\x05\x01\r\n", 400, ROOT),
    refuse("SOCKS", "1928 §3", b"\x05\x01\x00\r\n", 400),
    refuse("SSH", "4253 §4.2", b"SSH-2.0-OpenSSH_9.7\r\n", 400),
    refuse("SMTP", "5321 §3.2", b"EHLO example.com\r\n", 400),
    refuse("PROXY protocol", "9112 §3", b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n" + get(), 400),
    refuse("commands of another protocol in a body", "9112 §2.2",
           b"*1\r\n$4\r\nPING\r\n" + get(), 400),
    refuse("Gopher", "1436 §2", b"/\r\n", 400),
)  # fmt: skip

REQUEST_LINES: tuple[Case, ...] = (
    *_LINE_ENDS,
    *_SHAPES,
    *_VERSIONS,
    *_METHODS,
    *_TARGETS,
    *_OTHER_PROTOCOLS,
)
