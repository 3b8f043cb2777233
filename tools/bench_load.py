"""The cases, what a right answer to each is, and the load that wrk makes of them.

Every answer is checked once, by a client that counts its bytes, before it is measured; that count
then tells whether wrk got the same answers, for wrk itself does not look at a status below 400.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import random
import resource
import socket
import subprocess
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from bench_kinds import HOST, BenchError
from bench_servers import Server

MIB = 1024 * 1024
PAGE_BYTES = 10 * 1024
PROBE_S = 60.0
# How long the check waits for bytes that should not come after an answer.
TRAILING_S = 0.05
# Fields of the last answer on a connection may differ by some bytes; bodies may not.
SIZE_TOLERANCE = 0.01
# What wrk may take beyond its time, to connect and to end.
WRK_GRACE_S = 60.0

_CHROME = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/140.0.0.0 Safari/537.36"
)
_CHROME_ACCEPTS = (
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;"
    "q=0.8,application/signed-exchange;v=b3;q=0.7"
)
# Chrome on Linux opening a page, in its order; with Host, fourteen fields.
BROWSER = (
    ("Connection", "keep-alive"),
    ("sec-ch-ua", '"Chromium";v="140", "Not=A?Brand";v="24", "Google Chrome";v="140"'),
    ("sec-ch-ua-mobile", "?0"),
    ("sec-ch-ua-platform", '"Linux"'),
    ("Upgrade-Insecure-Requests", "1"),
    ("User-Agent", _CHROME),
    ("Accept", _CHROME_ACCEPTS),
    ("Sec-Fetch-Site", "none"),
    ("Sec-Fetch-Mode", "navigate"),
    ("Sec-Fetch-User", "?1"),
    ("Sec-Fetch-Dest", "document"),
    ("Accept-Encoding", "gzip, deflate, br, zstd"),
    ("Accept-Language", "en-US,en;q=0.9"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    name: str
    what: str
    path: str = "/page.html"
    size_bytes: int = PAGE_BYTES
    connections: int = 32
    fields: tuple[tuple[str, str], ...] = ()
    # Asks with the validator of the server's own answer, and wants 304.
    conditional: bool = False
    # Its figure is bytes per second: few answers of this size end within a round.
    by_bytes: bool = False
    # An answer that takes longer is one of wrk's timeouts.
    timeout_s: int = 2


CASES = {
    case.name: case
    for case in (
        Case(name="page", what="a page of 10 KiB, 32 connections, no field but Host"),
        Case(name="page-browser", what="the same with a browser's 14 fields", fields=BROWSER),
        Case(name="page-512", what="the same as page on 512 connections", connections=512),
        Case(
            name="page-close",
            what="the same as page on a new connection for each request",
            fields=(("Connection", "close"),),
        ),
        Case(name="304", what="the page unchanged since the visitor had it", conditional=True),
        Case(name="1m", what="1 MiB, 32 connections", path="/1m.bin", size_bytes=MIB, timeout_s=20),
        Case(
            name="100m",
            what="100 MiB, 32 connections",
            path="/100m.bin",
            size_bytes=100 * MIB,
            by_bytes=True,
            timeout_s=300,
        ),
    )
}


def make_site(folder: Path, cases: list[Case]) -> dict[str, str]:
    """Write the files that these cases need; SHA-256 by path.

    All of it is noise, also the page: no encoding makes it smaller, so that servers that have the
    encodings that a browser accepts send as many bytes as those that do not. It is the same noise
    in every run.
    """
    digests: dict[str, str] = {}
    for path, size_bytes in {case.path: case.size_bytes for case in cases}.items():
        data = random.Random(path).randbytes(size_bytes)
        (folder / path.lstrip("/")).write_bytes(data)
        digests[path] = hashlib.sha256(data).hexdigest()
    return digests


# --- one answer, looked at closely ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    fields: http.client.HTTPMessage
    body_bytes: int
    # Of the body as it is after decoding.
    digest: str
    head_bytes: int
    # Everything that came, with the head.
    received_bytes: int
    # Something came after the answer's end.
    trailing: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What to send for a case, and how long the answer is."""

    head: str
    received_bytes: int
    # The encoding that was chosen, if any.
    encoding: str = ""


class _Counting(io.RawIOBase):
    """A socket's bytes, counted, in all and up to the end of the head."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._start = b""
        self.count = 0
        self.head_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        count = self._connection.recv_into(buffer)
        self.count += count
        if not self.head_bytes:
            self._start += bytes(buffer[:count])
            head, end, _ = self._start.partition(b"\r\n\r\n")
            self.head_bytes = len(head + end) if end else 0
        return count


class _Stream:
    """What `HTTPResponse` wants of a socket."""

    def __init__(self, raw: _Counting) -> None:
        self._raw = raw

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self._raw, 64 * 1024)


def request_head(case: Case, port: int, *more: tuple[str, str]) -> str:
    fields = (("Host", f"{HOST}:{port}"), *case.fields, *more)
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"GET {case.path} HTTP/1.1\r\n{lines}\r\n"


def ask(port: int, head: str) -> Answer:
    """Send this head on a connection of its own, and read the answer to its end and beyond."""
    with socket.create_connection((HOST, port), timeout=PROBE_S) as connection:
        connection.sendall(head.encode("ascii"))
        raw = _Counting(connection)
        response = http.client.HTTPResponse(cast(socket.socket, _Stream(raw)), method="GET")
        response.begin()
        gzipped = response.headers.get("Content-Encoding") == "gzip"
        unpack = zlib.decompressobj(wbits=31)
        digest = hashlib.sha256()
        body_bytes = 0
        while piece := response.read(MIB):
            body_bytes += len(piece)
            digest.update(unpack.decompress(piece) if gzipped else piece)
        connection.settimeout(TRAILING_S)
        try:
            trailing = bool(connection.recv(1))
        except TimeoutError:
            trailing = False
        # Or it is in the reader's buffer by now; of chunks the length is not known.
        known_bytes = raw.head_bytes + body_bytes
        trailing |= "Transfer-Encoding" not in response.headers and raw.count != known_bytes
        return Answer(
            status=response.status,
            fields=response.headers,
            body_bytes=body_bytes,
            digest=digest.hexdigest(),
            head_bytes=raw.head_bytes,
            received_bytes=raw.count,
            trailing=trailing,
        )


def check(server: Server, case: Case, digest: str) -> Checked:
    """Ask as the case does, and compare; raises `BenchError` for an answer that is wrong."""
    where = f"{server.name} answers {case.name}"
    head = request_head(case, server.port)
    try:
        answer = ask(server.port, head)
        if answer.status != 200:
            raise BenchError(f"{where} with status {answer.status} where 200 is right")
        encoding = answer.fields.get("Content-Encoding", "")
        if encoding not in ("", "gzip"):
            raise BenchError(f"{where} with encoding {encoding}, which cannot be checked here")
        if answer.digest != digest or answer.trailing:
            raise BenchError(f"{where} with other bytes ({answer.body_bytes}) than the file's")
        if case.conditional:
            head = request_head(case, server.port, _condition(answer.fields, where))
            answer = ask(server.port, head)
            if answer.status != 304:
                raise BenchError(f"{where} with status {answer.status} where 304 is right")
            if answer.trailing or answer.received_bytes != answer.head_bytes:
                raise BenchError(f"{where} with a body after status 304")
    except (OSError, http.client.HTTPException, zlib.error) as error:
        raise BenchError(f"{where} with a fault: {error or type(error).__name__}") from error
    return Checked(head=head, received_bytes=answer.received_bytes, encoding=encoding)


def _condition(fields: http.client.HTTPMessage, where: str) -> tuple[str, str]:
    """The field that asks whether this answer is still right."""
    if etag := fields.get("ETag"):
        return ("If-None-Match", etag)
    if date := fields.get("Last-Modified"):
        return ("If-Modified-Since", date)
    raise BenchError(f"{where} without ETag and Last-Modified")


# --- the load ---

# `wrk.format` makes the request that wrk then sends over and over; `done` prints what it found.
# The errors' `status` counts answers of 400 and above.
SCRIPT = """\
wrk.format = function() return %s end
done = function(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '%s{"duration_us":%%.0f,"requests":%%.0f,"bytes":%%.0f,"p50_us":%%.0f,"p99_us":%%.0f,'
      .. '"connect":%%.0f,"read":%%.0f,"write":%%.0f,"timeout":%%.0f,"status":%%.0f}\\n',
    summary.duration, summary.requests, summary.bytes,
    latency:percentile(50), latency:percentile(99),
    errors.connect, errors.read, errors.write, errors.timeout, errors.status))
end
"""
MARK = "figures "
ERRORS = {
    "connect": "failed connects",
    "read": "failed reads",
    "write": "failed writes",
    "timeout": "timeouts",
    "status": "answers of status 400 or above",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What wrk found in one round."""

    duration_s: float
    requests: int
    received_bytes: int
    p50_ms: float
    p99_ms: float
    errors: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round of one case at one server. `rate` is answers per second, or bytes."""

    rate: float
    p50_ms: float
    p99_ms: float
    # Seconds of processor time per second; below 1 the server's core had time left.
    server_cpu: float
    wrk_cpu: float
    faults: tuple[str, ...] = ()


def script(head: str) -> str:
    # JSON's way to write an ASCII string is also Lua's.
    return SCRIPT % (json.dumps(head), MARK)


def parse_wrk(output: str) -> Load:
    """Read what the script has printed; raises `BenchError` if it has printed nothing."""
    for line in output.splitlines():
        if line.startswith(MARK):
            found = json.loads(line.removeprefix(MARK))
            return Load(
                duration_s=found["duration_us"] / 1e6,
                requests=found["requests"],
                received_bytes=found["bytes"],
                p50_ms=found["p50_us"] / 1e3,
                p99_ms=found["p99_us"] / 1e3,
                errors={name: found[name] for name in ERRORS if found[name]},
            )
    lines = output.strip().splitlines() or ["it says nothing"]
    raise BenchError(f"wrk has given no figures: {lines[-1]}")


def faults_of(load: Load, case: Case, answer_bytes: int) -> tuple[str, ...]:
    """All that was not as it should be in a round."""
    faults = [f"{count} {ERRORS[name]}" for name, count in load.errors.items()]
    # When time is up, each connection may have part of an answer.
    least = load.requests * answer_bytes
    most = (load.requests + case.connections) * answer_bytes
    if not least * (1 - SIZE_TOLERANCE) <= load.received_bytes <= most * (1 + SIZE_TOLERANCE):
        mean = load.received_bytes / max(1, load.requests)
        faults.append(f"answers of {mean:,.0f} bytes where {answer_bytes:,} are right")
    if not load.received_bytes:
        faults.append("no answer")
    return tuple(faults)


def measure(server: Server, case: Case, checked: Checked, seconds: int, core: int) -> Round:
    """One round: wrk on its core for so many seconds."""
    path = server.place.folder / "load.lua"
    path.write_text(script(checked.head))
    command = [
        *("taskset", "--cpu-list", str(core)),
        *("wrk", "--threads", "1", "--connections", str(case.connections)),
        *("--duration", f"{seconds}s", "--timeout", f"{case.timeout_s}s", "--script", str(path)),
        f"http://{HOST}:{server.port}{case.path}",
    ]
    cpu_s, wrk_s, began = server.cpu_s(), _children_s(), time.monotonic()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds + WRK_GRACE_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"wrk does not end at {server.name}, case {case.name}") from None
    wall_s = time.monotonic() - began
    server.check_alive()
    load = parse_wrk(done.stdout + done.stderr)
    amount = load.received_bytes if case.by_bytes else load.requests
    return Round(
        rate=amount / load.duration_s,
        p50_ms=load.p50_ms,
        p99_ms=load.p99_ms,
        server_cpu=(server.cpu_s() - cpu_s) / wall_s,
        wrk_cpu=(_children_s() - wrk_s) / wall_s,
        faults=faults_of(load, case, checked.received_bytes),
    )


def _children_s() -> float:
    """Processor time of the children that have ended: between rounds, wrk alone."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
