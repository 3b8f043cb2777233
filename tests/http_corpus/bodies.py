"""Transfer-Encoding, chunks, extensions, trailers."""

from __future__ import annotations

from http_corpus.case import (
    CHUNKED,
    POST,
    ROOT,
    Case,
    accept,
    asked,
    coding,
    get,
    posted,
    refuse,
)

_END = b"0\r\n\r\n"
_TE = b"Transfer-Encoding: chunked\r\n"
_CL = b"Content-Length: 5\r\n"


def _sized(chunk_size: bytes) -> bytes:
    """One chunk of five bytes whose size is written so."""
    return CHUNKED + chunk_size + b"\r\nhello\r\n" + _END


_CODINGS: tuple[Case, ...] = (
    accept("chunked", "9112 §7.1", CHUNKED + b"5\r\nhello\r\n00A\r\n, chunked!\r\n" + _END,
           posted(b"hello, chunked!")),
    accept("chunked in capitals", "9112 §7", coding(b"CHUNKED"), posted(b"")),
    accept("chunked in mixed case", "9112 §7", coding(b"cHuNkEd"), posted(b"")),
    accept("blanks around chunked", "9112 §5.1", coding(b"\t chunked \t"), posted(b"")),
    accept("chunked without space", "9112 §5.1",
           coding(b"").replace(b"Encoding: ", b"Encoding:chunked"), posted(b"")),
    accept("chunked with GET", "9110 §9.3.1", get(_TE) + b"2\r\nhi\r\n" + _END,
           ("GET", b"/", b"hi")),
    refuse("length then chunked (CL.TE)", "9112 §6.1", POST + _CL + _TE + b"\r\n" + _END, 400),
    refuse("chunked then length (TE.CL)", "9112 §6.1", POST + _TE + _CL + b"\r\n" + _END, 400),
    refuse("chunked and a length of none", "9112 §6.1",
           POST + _TE + b"Content-Length: 0\r\n\r\n" + _END, 400),
    refuse("chunked and an empty length", "9112 §6.1",
           POST + _TE + b"Content-Length:\r\n\r\n" + _END, 400),
    refuse("length and an empty coding", "9112 §6.1",
           POST + _CL + b"Transfer-Encoding:\r\n\r\nhello", 400),
    refuse("length and an unknown coding", "CVE-2024-6827",
           POST + _CL + b"Transfer-Encoding: xchunked\r\n\r\nhello", 400),
    refuse("length and identity", "9112 §6.1",
           POST + _CL + b"Transfer-Encoding: identity\r\n\r\nhello", 400),
    refuse("smuggled by chunked behind a length", "9112 §11.2",
           POST + b"Content-Length: 6\r\n" + _TE + b"\r\n" + _END + b"G" + get(), 400),
    refuse("smuggled by length behind chunked", "9112 §11.2",
           POST + _TE + b"Content-Length: 4\r\n\r\n2b\r\n" + get() + b"\r\n" + _END, 400),
    refuse("chunked in HTTP/1.0", "9112 §6.1",
           b"POST / HTTP/1.0\r\n" + _TE + b"\r\n" + _END, 400),
    refuse("chunked in HTTP/1.0 kept alive", "9112 §6.1",
           b"POST / HTTP/1.0\r\nConnection: keep-alive\r\n" + _TE + b"\r\n" + _END, 400),
    refuse("chunked on two lines", "9112 §6.1", POST + _TE * 2 + b"\r\n" + _END, 400),
    refuse("chunked, then identity on a line (TE.TE)", "CVE-2024-1135",
           POST + _TE + b"Transfer-Encoding: identity\r\n\r\n" + _END, 400),
    refuse("identity, then chunked on a line (TE.TE)", "CVE-2024-1135",
           POST + b"Transfer-Encoding: identity\r\n" + _TE + b"\r\n" + _END, 501),
    refuse("space before the colon of a coding", "9112 §5.1",
           POST + b"Transfer-Encoding : chunked\r\n\r\n" + _END, 400),
    refuse("tab before the colon of a coding", "9112 §5.1",
           POST + b"Transfer-Encoding\t: chunked\r\n\r\n" + _END, 400),
    refuse("blank before a coding", "9112 §5.2", POST + b" " + _TE + b"\r\n" + _END, 400),
    refuse("coding in a fold", "9112 §5.2",
           POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + _END, 400),
    refuse("coding behind a bare LF", "9112 §2.2", POST + b"A: b\n" + _TE + b"\r\n" + _END, 400),
    refuse("coding behind a bare CR", "9112 §2.2", POST + b"A: b\r" + _TE + b"\r\n" + _END, 400),
    refuse("coding before a bare CR", "9112 §2.2",
           POST + b"Transfer-Encoding: chunked\rA: b\r\n\r\n" + _END, 400),
    *(
        refuse(f"coding {value.decode('latin-1')!r}", source, coding(value), status)
        for value, status, source in (
            (b"chunked, gzip", 400, "9112 §6.3"), (b"chunked, identity", 400, "CVE-2024-1135"),
            (b"chunked,identity", 400, "CVE-2024-1135"), (b"chunked, chunked", 400, "9112 §6.1"),
            (b"chunked,chunked", 400, "9112 §6.1"), (b"gzip", 400, "9112 §6.3"),
            (b"identity", 400, "CVE-2024-6827"), (b"xchunked", 400, "CVE-2024-6827"),
            (b"chunkedx", 400, "CVE-2024-6827"), (b"chunke", 400, "CVE-2024-6827"),
            (b"chun ked", 400, "9112 §7"), (b"chunked chunked", 400, "9112 §7"),
            (b'"chunked"', 400, "9112 §7"), (b"'chunked'", 400, "9112 §7"),
            (b"chunked;q=1", 400, "9112 §7.1"), (b"chunked;", 400, "9112 §7.1"),
            (b"chunked,", 400, "9110 §5.6.1"), (b",chunked", 400, "9110 §5.6.1"),
            (b", chunked", 400, "9110 §5.6.1"), (b"", 400, "9112 §6.3"), (b",", 400, "9112 §6.3"),
            (b"chunked\x00", 400, "9110 §5.5"), (b"\x0bchunked", 400, "9110 §5.5"),
            (b"chunked\x0c", 400, "9110 §5.5"), (b"\xa0chunked", 400, "9112 §7"),
            ("chun\u212aed".encode(), 400, "9112 §7"), (b"x=chunked", 400, "9112 §7"),
            (b"[chunked]", 400, "9112 §7"), (b"chunked\\", 400, "9112 §7"),
            (b"gzip, chunked", 501, "9112 §6.1"), (b"identity, chunked", 501, "9112 §6.1"),
            (b"x, chunked", 501, "9112 §6.1"), (b"gzip;a=b, chunked", 501, "9112 §6.1"),
        )
    ),
)  # fmt: skip

_SIZES: tuple[Case, ...] = (
    *(
        accept(f"chunk size {value.decode()!r}", "9112 §7.1", _sized(value), posted(b"hello"))
        for value in (b"5", b"05", b"000000000000005")
    ),
    accept("chunk sizes in either case", "9112 §7.1",
           CHUNKED + b"a\r\n0123456789\r\nA\r\n0123456789\r\n" + _END, posted(b"0123456789" * 2)),
    accept("last chunk of many zeros", "9112 §7.1", CHUNKED + b"000\r\n\r\n", posted(b"")),
    accept("line ends in chunk data", "9112 §7.1", CHUNKED + b"7\r\n\r\n0\r\n\r\n\r\n" + _END,
           posted(b"\r\n0\r\n\r\n")),
    *(
        refuse(f"chunk size {value.decode('latin-1')!r}", source, _sized(value), 400)
        for value, source in (
            (b"", "9112 §7.1"), (b"g", "9112 §7.1"), (b"5g", "9112 §7.1"), (b"+5", "9112 §7.1"),
            (b"-5", "9112 §7.1"), (b"-0", "9112 §7.1"), (b"0x5", "9112 §7.1"),
            (b"0X5", "9112 §7.1"),
            (b"5h", "9112 §7.1"), (b"0_5", "9112 §7.1"), (b"_5", "9112 §7.1"), (b"5_", "9112 §7.1"),
            (b" 5", "9112 §7.1"), (b"5 ", "9112 §7.1"), (b"5\t", "9112 §7.1"),
            (b"5 5", "9112 §7.1"),
            (b"5.0", "9112 §7.1"), (b"5,", "9112 §7.1"), (b"0o5", "9112 §7.1"),
            (b"5\x00", "9112 §7.1"), (b"\x005", "9112 §7.1"), (b"5\x0b", "9112 §7.1"),
            ("\uff15".encode(), "9112 §7.1"), ("\u0665".encode(), "9112 §7.1"),
            (b"\xb2", "9112 §7.1"), (b"5\r", "9112 §2.2"), (b"5\n", "9112 §2.2"),
            (b"%35", "9112 §7.1"), (b'"5"', "9112 §7.1"),
        )
    ),
    refuse("chunk size huge", "9112 §7.1", _sized(b"f" * 16), 413),
    refuse("chunk size beyond 64 bits", "9112 §7.1", _sized(b"10000000000000005"), 413),
    refuse("chunk size of too many zeros", "9112 §7.1", _sized(b"0" * 15 + b"5"), 413),
    refuse("chunk size endless", "9112 §7.1", CHUNKED + b"0" * 600, 413),
    refuse("chunk size line with bare LF", "9112 §7.1", CHUNKED + b"1\nx\r\n" + _END, 400),
    refuse("last chunk with bare LF", "9112 §7.1", CHUNKED + b"0\n\r\n", 400),
    refuse("chunk longer than its size", "CVE-2025-43859", CHUNKED + b"1\r\nxy\r\n" + _END, 400),
    refuse("chunk data ends in two other bytes", "CVE-2025-43859",
           CHUNKED + b"5\r\nhelloXX0\r\n\r\n", 400),
    refuse("chunk data ends in LF", "CVE-2025-43859", CHUNKED + b"1\r\nx\n" + _END, 400),
    refuse("chunk data ends in LF LF", "CVE-2025-43859", CHUNKED + b"1\r\nx\n\n" + _END, 400),
    refuse("chunk data ends in CR", "CVE-2025-43859", CHUNKED + b"1\r\nx\rx" + _END, 400),
    refuse("chunk data ends in CR CR", "CVE-2025-43859", CHUNKED + b"1\r\nx\r\r\n" + _END, 400),
    refuse("chunk shorter than its size", "9112 §7.1", CHUNKED + b"6\r\nhello\r\n" + _END, 400),
    refuse("chunk data without line end", "CVE-2025-43859", CHUNKED + b"5\r\nhello" + _END, 400),
    refuse("empty line after a chunk", "9112 §7.1", CHUNKED + b"1\r\nx\r\n\r\n" + _END, 400),
    refuse("smuggled behind a chunk's end", "CVE-2025-43859",
           CHUNKED + b"5\r\nAAAAAXX2\r\n45\r\n0\r\n\r\n" + get(), 400),
)  # fmt: skip

_EXTENSIONS: tuple[Case, ...] = (
    accept("chunk extensions", "9112 §7.1.1", CHUNKED + b'1;a;b=c ; d="e\\"f"\r\nx\r\n0;z\r\n\r\n',
           posted(b"x")),
    accept("blanks in an extension", "9112 §7.1.1", _sized(b"5\t ; a = b"), posted(b"hello"),
           h11_differs="h11 refuses blanks before the semicolon"),
    accept("quoted extension", "9112 §7.1.1", _sized(b'5;a="; \\" \xff"'), posted(b"hello")),
    accept("extension just short enough", "9112 §7.1.1", _sized(b"5;" + b"a" * 510),
           posted(b"hello")),
    accept("extensions just short enough together", "CVE-2023-39326",
           CHUNKED + (b"1;" + b"a" * 255 + b"\r\nx\r\n") * 64 + _END, posted(b"x" * 64)),
    *(
        refuse(f"extension {value.decode('latin-1')!r}", source, _sized(b"5" + value), 400)
        for value, source in (
            (b";", "9112 §7.1.1"), (b"; ", "9112 §7.1.1"), (b";;a", "9112 §7.1.1"),
            (b";a;", "9112 §7.1.1"), (b";a=", "9112 §7.1.1"), (b";=b", "9112 §7.1.1"),
            (b";a b", "9112 §7.1.1"), (b";a=b c", "9112 §7.1.1"), (b';a="b', "9112 §7.1.1"),
            (b';a=b"', "9112 §7.1.1"), (b';a="b"c', "9112 §7.1.1"), (b';a="\\"', "9112 §7.1.1"),
            (b';a="\x00"', "9112 §7.1.1"), (b";a\x00", "9112 §7.1.1"), (b";\xff", "9112 §7.1.1"),
            (b";a ", "9112 §7.1.1"), (b" a", "9112 §7.1.1"), (b",a", "9112 §7.1.1"),
            (b";a\n", "CVE-2025-55315"), (b";\n", "CVE-2025-55315"), (b";\r", "CVE-2025-55315"),
            (b";a\nb", "CVE-2025-55315"), (b";a\rb", "CVE-2025-55315"),
            (b';a="\r"', "CVE-2025-55315"), (b';a="\n"', "CVE-2025-55315"),
            (b';a="\r\n"', "CVE-2025-55315"),
        )
    ),
    refuse("smuggled behind a bare LF in an extension", "CVE-2025-55315",
           CHUNKED + b"2;\nxx\r\n2e\r\n0\r\n\r\n" + get(), 400),
    refuse("extension just too long", "9112 §7.1.1", _sized(b"5;" + b"a" * 511), 413),
    refuse("extension endless", "9112 §7.1.1", CHUNKED + b"1;" + b"a" * 600, 413),
    refuse("extensions too long together", "CVE-2023-39326",
           CHUNKED + (b"1;" + b"a" * 500 + b"\r\nx\r\n") * 40, 413),
    refuse("extensions just too long together", "CVE-2023-39326",
           CHUNKED + (b"1;" + b"a" * 255 + b"\r\nx\r\n") * 64 + b"0;a\r\n\r\n", 413),
)  # fmt: skip

_TRAILERS: tuple[Case, ...] = (
    accept("trailers", "9112 §7.1.2", CHUNKED + b"1\r\nx\r\n0\r\nX-Sum: 1\r\nHost: evil\r\n\r\n",
           posted(b"x")),
    accept("trailers that would frame", "9110 §6.5.1",
           CHUNKED + b"0\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n" + get(),
           posted(b""), ROOT),
    accept("length in a trailer that is none", "9110 §6.5.1",
           CHUNKED + b"0\r\nContent-Length: x\r\n\r\n" + get(), posted(b""), ROOT,
           h11_differs="h11 judges trailers like heads"),
    accept("a request behind trailers", "CVE-2025-58068",
           CHUNKED + b"0\r\nX: y\r\n\r\n" + get(target=b"/next"), posted(b""), asked(b"/next")),
    accept("as many trailers as may be", "9112 §7.1.2",
           CHUNKED + b"0\r\n" + b"A: b\r\n" * 100 + b"\r\n", posted(b"")),
    accept("trailers just short enough", "9112 §7.1.2",
           CHUNKED + b"0\r\n" + (b"A: " + b"b" * 123 + b"\r\n") * 64 + b"\r\n", posted(b"")),
    refuse("trailers just too long", "9112 §7.1.2",
           CHUNKED + b"0\r\n" + (b"A: " + b"b" * 123 + b"\r\n") * 64 + b"A: b\r\n\r\n", 431),
    refuse("trailers too long", "9112 §7.1.2",
           CHUNKED + b"0\r\n" + (b"A: " + b"b" * 100 + b"\r\n") * 90, 431),
    refuse("trailer endless", "9112 §7.1.2", CHUNKED + b"0\r\nA: " + b"b" * 9000, 431),
    refuse("too many trailers", "9112 §7.1.2", CHUNKED + b"0\r\n" + b"A: b\r\n" * 101, 431),
    refuse("request for a trailer", "CVE-2025-53643", CHUNKED + b"0\r\n" + get(), 400),
    refuse("request behind a bare LF in trailers", "CVE-2025-58068",
           CHUNKED + b"0\r\nX: y\n\r\n" + get(), 400),
    refuse("request behind two bare LF", "CVE-2025-58068", CHUNKED + b"0\r\n\n\n" + get(), 400),
    *(
        refuse(f"trailer {value.decode('latin-1')!r}", "9112 §7.1.2",
               CHUNKED + b"0\r\n" + value + b"\r\n\r\n", 400)
        for value in (
            b"A b", b"A", b": b", b"A : b", b" A: b", b"A: b\r\n c", b"A: b\n", b"A: b\r",
            b"A: b\x00", b"A: b\x7f", b"\xff: b", b"A(: b", b"\x00",
        )
    ),
)  # fmt: skip

BODIES: tuple[Case, ...] = (*_CODINGS, *_SIZES, *_EXTENSIONS, *_TRAILERS)
