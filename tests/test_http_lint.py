"""Two linters of HTTP, written by others, over every kind of answer: no fault, and no warning.

`httplint` reads what a live front end sent, taken apart by h11; `redbot` makes requests of its own
and compares what comes back: conditional ones, ranges, content codings. Where one of them is wrong,
`MISTAKEN` tells about which answers, and what the RFCs say.
"""

from __future__ import annotations

import asyncio
import email.message
import email.parser
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import h11
import pytest
from httplint import HttpRequestLinter, HttpResponseLinter, Note, levels
from lint_site import (
    CODINGS,
    ERROR_PAGE,
    FILES,
    KEY,
    LOST,
    NOW_S,
    PATIENCE_S,
    PUBLISHED_S,
    encoded,
    peer,
    serve,
)

from p2pweb.blobs import blob_of
from p2pweb.exchange.wire import (
    BUNDLE_BYTES_MAX,
    BUNDLE_MEDIA_TYPE,
    PREFIX,
    blob_path,
    encode_bundle,
    hashes_path,
)
from p2pweb.hosts import Hosts
from p2pweb.http.fields import format_date
from p2pweb.http.messages import Request, Response
from p2pweb.http.service import RequestBody
from p2pweb.preview import Preview

HOST = "Host: localhost\r\n"


# Requests


@dataclass(frozen=True)
class Case:
    """A request as it is sent, and the statuses that it may be answered with."""

    stream: bytes
    statuses: tuple[int, ...]

    @property
    def name(self) -> str:
        line, _, head = self.stream.partition(b"\r\n\r\n")[0].decode("latin-1").partition("\r\n")
        own = [one for one in head.split("\r\n") if one and one != HOST.strip()]
        return f"{line[:80]} {own[0][:80] if own else ''}"


def ask(target: str, *statuses: int, method: str = "GET", body: bytes = b"", **fields: str) -> Case:
    """A well-formed request."""
    named = {name.replace("_", "-").title(): value for name, value in fields.items()}
    if body:
        named["Content-Length"] = str(len(body))
    lines = "".join(
        f"{name}: {value}\r\n" for name, value in {"Host": "localhost", **named}.items()
    )
    head = f"{method} {target} HTTP/1.1\r\n{lines}\r\n"
    return Case(head.encode("latin-1") + body, statuses)


def both(target: str, *statuses: int, **fields: str) -> list[Case]:
    """GET and HEAD."""
    return [ask(target, *statuses, method=method, **fields) for method in ("GET", "HEAD")]


def tag(path: str, coding: str = "identity") -> str:
    """The entity-tag of one representation of a file."""
    root = blob_of(encoded(path, {**FILES, **ERROR_PAGE}[path])[coding])[0].root
    return f'"{root.hex()[:32]}"'


SAME = format_date(PUBLISHED_S)
BEFORE = format_date(PUBLISHED_S - 1)


def contents() -> Iterator[Case]:
    """Every file in every encoding: whole, in ranges, unchanged, and where a precondition fails."""
    for path, data in FILES.items():
        if path == LOST:
            continue
        target = path.encode().decode("latin-1") if path.isascii() else "/s%C3%BC%C3%9F.txt"
        for coding, coded in encoded(path, data).items():
            accept = {"accept_encoding": coding}
            yield from both(target, 200, **accept)
            yield from both(target, 304, if_none_match=tag(path, coding), **accept)
            yield from both(target, 304, if_modified_since=SAME, **accept)
            yield from both(target, 412, if_match='"other"', **accept)
            yield from both(target, 412, if_unmodified_since=BEFORE, **accept)
            if coded:
                yield ask(target, 206, range="bytes=0-9", **accept)
                yield ask(target, 206, range="bytes=-20", if_range=tag(path, coding), **accept)
                yield ask(target, 206, range="bytes=0-", if_range=SAME, **accept)
                # RFC 9110 §14.2 leaves it to the server whether to answer several ranges.
                yield ask(target, 200, 206, range="bytes=0-3, -2", **accept)
            yield ask(target, 416, range=f"bytes={len(coded)}-", **accept)
            yield ask(target, 200, range="bytes=0-9", if_range='"other"', **accept)
            yield ask(target, 200, method="HEAD", range="bytes=0-9", **accept)
        yield from both(target, 200)
        yield from both(target, 406, accept_encoding="*;q=0")


def places() -> Iterator[Case]:
    """Paths that are no file, and hosts that are no site."""
    yield from both("/", 200)
    yield from both("/index", 200)
    yield from both("/folder/", 200)
    yield from both("/folder", 301)
    yield from both("/folder?a=b&c=%22d", 301)
    yield from both("/folder/nothing", 404)
    yield from both("/index.html/", 404)
    yield from both("/a%2Fb", 404)
    yield from both("/%zz", 400)
    yield from both("/../up", 400)
    yield from both("/a#b", 400)
    for coding in ("identity", *CODINGS):
        yield from both("/nothing", 404, accept_encoding=coding)
    yield from both("/nothing", 404, if_none_match="*", range="bytes=0-9")
    yield from both("/nothing", 404, 406, accept_encoding="*;q=0")
    yield ask(LOST, 503)
    # Its fields are known, and its bytes are not asked for.
    yield ask(LOST, 200, method="HEAD")
    yield from both("/", 200, host=f"{KEY.site}.localhost")
    yield from both("/", 404, host=f"{'a' * 52}.localhost")
    yield from both("/", 421, host="example.org")
    yield from both("http://localhost/", 200, host="example.org")


def methods() -> Iterator[Case]:
    """What is no GET, on sites and on the peer's own paths."""
    for target in ("*", "/", "/nothing", "/folder"):
        yield ask(target, 204, method="OPTIONS")
    for target in ("/", "/nothing", "/folder", f"{PREFIX}peer"):
        for method in ("POST", "PUT", "DELETE", "PATCH", "TRACE"):
            yield ask(target, 405, method=method)
    yield ask("/", 405, method="POST", body=b"a=b")
    yield ask("/", 405, method="POST", body=bytes(100_000))
    yield ask("/", 405, method="POST", body=b"a=b", expect="100-continue")
    yield ask("/", 501, method="BREW")
    yield ask("localhost:80", 501, method="CONNECT")
    yield ask(f"{PREFIX}peer", 405, method="OPTIONS")
    for method in ("GET", "HEAD", "OPTIONS", "PUT"):
        yield ask(f"{PREFIX}bundle", 405, method=method)
        yield ask(f"{PREFIX}publish", 405, method=method)


def exchanges() -> Iterator[Case]:
    """The peer's own paths."""
    for kind in ("peer", "peers", f"site/{KEY.site}", f"site/{KEY.site}?fresh"):
        yield from both(PREFIX + kind, 200)
    for kind in ("", "other", "site/x", f"site/{'a' * 52}", "blob/x", "hashes/x"):
        yield from both(PREFIX + kind, 404)
    for path in ("/index.html", "/film.mp4", "/empty.txt"):
        blob, _ = blob_of(FILES[path])
        target = blob_path(blob, 0)
        own = f'"{blob.root.hex()[:32]}.0"'
        yield from both(target, 200)
        yield from both(target, 304, if_none_match=own)
        yield from both(target, 412, if_match='"other"')
        yield from both(hashes_path(blob), 200)
        yield ask(target, 416, range="bytes=999999-")
        if blob.size_bytes:
            yield ask(target, 206, range="bytes=0-9", if_range=own)
            yield ask(target, 200, 206, range="bytes=0-9, 20-29")
    lost, _ = blob_of(FILES[LOST])
    yield from both(blob_path(lost, 0), 404)
    # One block has no list of hashes, wherever it is.
    yield from both(hashes_path(lost), 200)
    kind = {"method": "POST", "content_type": BUNDLE_MEDIA_TYPE}
    for target in (f"{PREFIX}bundle", f"{PREFIX}publish"):
        yield ask(target, 200, body=encode_bundle([]), **kind)
        yield ask(target, 200, body=encode_bundle([]), expect="100-continue", **kind)
        yield ask(target, 400, body=b"nonsense", **kind)
        yield ask(target, 415, method="POST", body=b"{}", content_type="application/json")
    yield ask(f"{PREFIX}bundle", 413, body=bytes(BUNDLE_BYTES_MAX + 1), **kind)


def refusals() -> Iterator[Case]:
    """What the parser refuses."""
    for method in ("GET", "HEAD"):
        line = f"{method} / HTTP/1.1\r\n"
        for status, text in (
            (400, f"{method} /\r\n\r\n"),
            (400, f"{method}  / HTTP/1.1\r\n{HOST}\r\n"),
            (400, f"{line}\r\n"),
            (400, f"{line}{HOST}{HOST}\r\n"),
            (400, f"{line}Host: a,b\r\n\r\n"),
            (400, f"{line}{HOST}Name : value\r\n\r\n"),
            (400, f"{line}{HOST}A: b\r\n c\r\n\r\n"),
            (400, f"{method} * HTTP/1.1\r\n{HOST}\r\n"),
            (400, f"{line}{HOST}Content-Length: 1, 1\r\n\r\n"),
            (413, f"{line}{HOST}Content-Length: {'9' * 19}\r\n\r\n"),
            (414, f"{method} /{'a' * 9_000} HTTP/1.1\r\n{HOST}\r\n"),
            (417, f"{line}{HOST}Expect: a-miracle\r\n\r\n"),
            (431, f"{line}{HOST}A: {'b' * 9_000}\r\n\r\n"),
            (431, line + HOST + "A: b\r\n" * 100 + "\r\n"),
            (501, f"{line}{HOST}Transfer-Encoding: gzip, chunked\r\n\r\n"),
            (505, f"{method} / HTTP/2.0\r\n{HOST}\r\n"),
        ):
            yield Case(text.encode(), (status,))


def old_requests() -> Iterator[Case]:
    for method in ("GET", "HEAD"):
        for target, status in (("/", 200), ("/folder", 301), ("/nothing", 404), ("/%zz", 400)):
            yield Case(f"{method} {target} HTTP/1.0\r\n\r\n".encode(), (status,))
            line = f"{method} {target} HTTP/1.0\r\n{HOST}Connection: keep-alive\r\n\r\n"
            yield Case(line.encode(), (status,))
    yield Case(f"POST / HTTP/1.0\r\n{HOST}\r\n".encode(), (405,))


# Answers


@dataclass(frozen=True)
class Answer:
    """One final answer, as h11 read it."""

    status: int
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes

    @property
    def media_type(self) -> str:
        named = {name.lower(): value for name, value in self.fields}
        return named.get(b"content-type", b"").decode("latin-1")

    def parts(self) -> Iterator[Answer]:
        """The parts of multipart/byteranges, each as if it had been asked for alone."""
        own = (b"content-type", b"content-length")
        common = [one for one in self.fields if one[0].lower() not in own]
        head = b"Content-Type: " + self.media_type.encode() + b"\r\n\r\n"
        for part in email.parser.BytesParser().parsebytes(head + self.body).get_payload():
            assert isinstance(part, email.message.Message)
            fields = [(name.encode(), value.encode()) for name, value in part.items()]
            yield Answer(self.status, (*fields, *common), part.get_payload(decode=True))


async def talk(port: int, stream: bytes, *, half_close: bool = True) -> bytes:
    """Send, and read all until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(stream)
        if half_close:
            writer.write_eof()
        return await asyncio.wait_for(reader.read(), PATIENCE_S)
    finally:
        writer.transport.abort()


def read_answer(stream: bytes, method: str) -> Answer:
    """Take apart what answered one request. h11 raises where the framing is amiss."""
    reader = h11.Connection(h11.CLIENT)
    reader.send(h11.Request(method=method, target="/", headers=[("Host", "localhost")]))
    reader.send(h11.EndOfMessage())
    reader.receive_data(stream)
    final: h11.Response | None = None
    body = b""
    while not isinstance(event := reader.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Response):
            final = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        else:
            assert isinstance(event, h11.InformationalResponse), f"{event!r}: {stream[:300]!r}"
    assert final is not None
    assert not reader.trailing_data[0], f"it goes on after its end: {stream[:300]!r}"
    return Answer(final.status_code, tuple(final.headers.raw_items()), body)


# Remarks


@dataclass(frozen=True)
class Remark:
    """What there is to say against an answer, and of which kind that is."""

    status: int
    target: str
    media_type: str
    note: str
    summary: str


@dataclass(frozen=True)
class Mistake:
    """A note that is wrong about some answers."""

    note: str
    holds: Callable[[Remark], bool]
    why: str


MISTAKEN = (
    Mistake(
        "STATUS_BAD_REQUEST",
        lambda remark: remark.status == 400,
        "It is about the request, and these requests are malformed (RFC 9110 §15.5.1).",
    ),
    Mistake(
        "STATUS_URI_TOO_LONG",
        lambda remark: remark.status == 414,
        "It is about the request: RFC 9110 §4.1 asks for 8,000 octets, and this has 9,000.",
    ),
    Mistake(
        "STATUS_VERSION_NOT_SUPPORTED",
        lambda remark: remark.status == 505,
        "It is about the request, which says HTTP/2.0 in the form of HTTP/1 (RFC 9110 §15.6.6).",
    ),
    *(
        Mistake(
            note,
            lambda remark: remark.status == 206,
            "Ranges are of the encoded bytes (RFC 9110 §14.1.2): no part can be decoded alone.",
        )
        for note in ("BAD_BROTLI", "BAD_GZIP")
    ),
    Mistake(
        "CONTENT_TYPE_MISMATCH",
        lambda remark: remark.media_type == "video/mp4",
        "MIME Sniffing §8 has video compared with the patterns of video; sniffpy takes pictures'.",
    ),
    Mistake(
        "PARTIAL_WITHOUT_RANGE",
        lambda remark: remark.media_type.startswith("multipart/byteranges"),
        "RFC 9110 §15.3.7.2: with several parts Content-Range MUST NOT stand in the head.",
    ),
    Mistake(
        "STORE_PUBLIC_UNNECESSARY",
        lambda remark: remark.status in (200, 206, 301, 304, 404),
        "RFC 9111 §5.2.2.9 defines it and forbids it nowhere; some shared caches store nothing "
        "without it, and static hosts send it, so whoever moves a site here finds what it had.",
    ),
)


def held_against(remarks: Iterable[Remark]) -> str:
    """A table of the remarks that are no mistakes, with how often each was made."""
    counted = Counter(
        (remark.status, remark.note, remark.target, remark.summary)
        for remark in remarks
        if not any(remark.note == one.note and one.holds(remark) for one in MISTAKEN)
    )
    return "\n".join(
        f"{count:3} x {status} {note:32} {target:48} {summary}"
        for (status, note, target, summary), count in sorted(counted.items())
    )


def lint(stream: bytes, method: str, answer: Answer) -> Iterator[Note]:
    """What httplint says about an answer, knowing what was asked."""
    request = HttpRequestLinter(start_time=NOW_S)
    head, _, body = stream.partition(b"\r\n\r\n")
    line, *lines = head.split(b"\r\n")
    if line.count(b" ") == 2:
        named, target, version = line.split(b" ")
        request.process_request_topline(named, target, version.removeprefix(b"HTTP/"))
        pairs = [one.partition(b":") for one in lines]
        request.process_headers([(name, value.strip()) for name, _, value in pairs])
        request.feed_content(body)
        request.finish_content(True)
    response = HttpResponseLinter(start_time=NOW_S)
    response.request = request
    response.is_head_response = method == "HEAD"
    response.process_response_topline(b"1.1", str(answer.status).encode())
    response.process_headers(list(answer.fields))
    response.feed_content(answer.body)
    response.finish_content(True)
    for note in response.notes:
        yield from (note, *note.subnotes)


def remarks_on(case: Case, sent: bytes) -> Iterator[Remark]:
    method = case.stream.partition(b" ")[0].decode("latin-1")
    answer = read_answer(sent, method)

    def remark(about: Answer, note: str, summary: str) -> Remark:
        return Remark(about.status, case.name, about.media_type, note, summary)

    if answer.status not in case.statuses:
        yield remark(answer, "-", f"should have been {' or '.join(map(str, case.statuses))}")
    answers = [answer]
    if answer.media_type.startswith("multipart/byteranges"):
        answers += answer.parts()
    for one in answers:
        for note in lint(case.stream, method, one):
            if note.level in (levels.BAD, levels.WARN):
                yield remark(one, type(note).__name__, note.summary)


async def remarks_of(port: int, cases: Iterable[Case], times: int = 1) -> list[Remark]:
    """What httplint has to say; each case is asked so many times, and answered alike."""
    remarks: list[Remark] = []
    for case in cases:
        sent = [await talk(port, case.stream) for _ in range(times)]
        assert sent == sent[:1] * times, case.name
        remarks += remarks_on(case, sent[0])
    return remarks


# httplint


async def test_httplint_finds_no_fault_with_a_peer() -> None:
    async with peer({**FILES, **ERROR_PAGE}) as gateway, serve(gateway.handle) as port:
        # First from the disk, then from memory, then as the very bytes sent before.
        remarks = await remarks_of(port, chain(contents(), places()), times=3)
        remarks += await remarks_of(port, chain(methods(), exchanges(), refusals(), old_requests()))
    async with peer(FILES) as gateway, serve(gateway.handle) as port:
        remarks += await remarks_of(port, both("/nothing", 404))
    assert held_against(remarks) == ""
    made = {remark.note for remark in remarks}
    assert [one.note for one in MISTAKEN if one.note not in made] == []


async def test_httplint_finds_no_fault_with_a_preview(tmp_path: Path) -> None:
    for path, data in {**FILES, **ERROR_PAGE}.items():
        file = tmp_path / "site" / path[1:]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        os.utime(file, (PUBLISHED_S, PUBLISHED_S))
    loop = asyncio.get_running_loop()
    hosts = Hosts([], lambda: None)
    workdir = tmp_path / "work"
    workdir.mkdir()
    preview = Preview(
        tmp_path / "site",
        workdir,
        hosts,
        lambda call: loop.run_in_executor(None, call),
        lambda: NOW_S,
    )
    await preview.start()
    cases = [case for case in chain(contents(), places()) if b"Encoding: identity" in case.stream]
    async with serve(preview.handle) as port:
        remarks = await remarks_of(port, chain(cases, both("/folder", 301), both("/", 200)))
    assert held_against(remarks) == ""


async def fail(request: Request, body: RequestBody) -> Response:
    raise RuntimeError("a fault of ours")


async def read_body(request: Request, body: RequestBody) -> Response:
    return Response(status=200, body=await body.read(10))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_httplint_finds_no_fault_with_a_failure(method: str) -> None:
    async with serve(fail) as port:
        assert held_against(await remarks_of(port, [ask("/", 500, method=method)])) == ""


async def test_httplint_finds_no_fault_with_refused_bodies() -> None:
    head = f"POST / HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n"
    cases = [
        Case(f"{head}zz\r\n".encode(), (400,)),
        Case(f"{head}20\r\n{'a' * 32}\r\n0\r\n\r\n".encode(), (413,)),
        Case(f"POST / HTTP/1.1\r\n{HOST}Content-Length: 9\r\n\r\na".encode(), (400,)),
        ask("/", 413, method="POST", body=bytes(11), expect="100-continue"),
    ]
    async with serve(read_body) as port:
        assert held_against(await remarks_of(port, cases)) == ""


@pytest.mark.parametrize(
    "stream",
    [
        f"GET / HTTP/1.1\r\n{HOST}",
        f"HEAD / HTTP/1.1\r\n{HOST}",
        "HEAD / HT",
        f"POST / HTTP/1.1\r\n{HOST}Content-Length: 9\r\n\r\na",
    ],
)
async def test_httplint_finds_no_fault_with_408(stream: str) -> None:
    case = Case(stream.encode(), (408,))
    async with serve(read_body, head_s=0.05, body_base_s=0.05) as port:
        sent = await talk(port, case.stream, half_close=False)
    assert held_against(remarks_on(case, sent)) == ""


async def test_httplint_finds_no_fault_with_too_many_visitors() -> None:
    started = asyncio.Event()

    async def wait(request: Request, body: RequestBody) -> Response:
        started.set()
        await asyncio.Event().wait()
        raise AssertionError

    case = ask("/", 503)
    async with serve(wait, connections_max=1) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(case.stream)
        await started.wait()
        # Nothing is sent: who is told before being asked may have reset what comes after.
        sent = await talk(port, b"", half_close=False)
        writer.transport.abort()
    assert held_against(remarks_on(case, sent)) == ""


# redbot

REDBOT = Path(__file__).with_name("redbot_process.py")
CHECKED = (
    *("/", "/long.html", "/style.css", "/data.json", "/picture.png", "/film.mp4", "/empty.txt"),
    *("/folder", "/nothing", LOST, f"{PREFIX}peer"),
    blob_path(blob_of(FILES["/film.mp4"])[0], 0),
)


async def test_redbot_finds_no_fault() -> None:
    async with (
        peer({**FILES, **ERROR_PAGE}) as gateway,
        # redbot compares Date with its own clock.
        serve(gateway.handle, now_unix=time.time) as port,
    ):
        urls = [f"http://127.0.0.1:{port}{target}" for target in CHECKED]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(REDBOT), *urls), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        output, faults = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert (process.returncode, faults.decode()) == (0, "")
    notes = [json.loads(line) for line in output.splitlines()]
    remarks = [
        Remark(
            status=note["status"],
            target=f"{note['method']} {note['url'].partition(str(port))[2]} ({note['check']})",
            media_type=note["media_type"],
            note=note["note"],
            summary=note["summary"],
        )
        for note in notes
        if note["level"] in ("BAD", "WARN")
    ]
    assert held_against(remarks) == ""
    # It has tried everything: a check that finds nothing to check says nothing.
    tried = {(note["note"], note["url"].partition(str(port))[2]) for note in notes}
    for name, targets in {
        "CONNEG_GZIP_GOOD": ("/", "/long.html", "/style.css", "/data.json", "/nothing"),
        "RANGE_CORRECT": ("/", "/long.html", "/picture.png", "/film.mp4", CHECKED[-1]),
        "INM_304": ("/", "/picture.png", "/empty.txt", CHECKED[-1]),
        "IMS_304": ("/", "/picture.png", "/empty.txt"),
    }.items():
        assert {(name, target) for target in targets} <= tried
