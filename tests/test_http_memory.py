"""What 500 impolite connections cost a real server: less than 64 KiB each, whatever they do.

A process of its own is measured from outside, by what the system says that it holds. Each case
brings its connections as far as the server lets them go, and holds them there.
"""

from __future__ import annotations

import contextlib
import resource
import selectors
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from peer_processes import PATIENCE_S, PeerProcess, preview

CONNECTIONS = 500
# The bound of what a connection may make a peer hold.
BYTES_PER_CONNECTION_MAX = 64 * 1024
# These teach the server what it learns once: the file, the answer that is ready, its own code.
FIRST = 8
# Each connection has an end here, and this process has other files.
DESCRIPTORS = CONNECTIONS + 256
# As long as something moves within this time, the connections are not yet where they stay.
QUIET_S = 0.3
# A process that has taken less of the processor within this time, in hundredths of a second, rests.
REST_TICKS = 5
# A bound for what has none: no buffer of a kernel or of the server takes as much.
ENDLESS_BYTES = 512 * 1024
# Small segments and a small window: little of an answer waits in the kernels, which is not the
# server's memory and takes long to fill.
SEGMENT_BYTES = 536
RECEIVE_BYTES = 4096

STATUS = Path("/proc/self/status")

pytestmark = pytest.mark.skipif(
    not STATUS.exists(), reason="only Linux tells in /proc how much memory a process holds"
)


@dataclass(frozen=True, slots=True)
class Case:
    """What each connection sends; none of them ever reads."""

    name: str
    stream: bytes
    # The server keeps these connections; the others it may refuse and close.
    stays: bool = True


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def repeat(data: bytes, size_bytes: int) -> bytes:
    return data * (size_bytes // len(data))


HEAD = b"GET /page.html HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
FIELD = b"X-%05d: " + b"v" * 309 + b"\r\n"
MANY_FIELDS = b"".join(FIELD % number for number in range(98))
LONG_FIELDS = (b"X: " + b"v" * 8000 + b"\r\n") * 3

CASES = [
    Case("an idle connection", get("/page.html")),
    Case("endless empty lines", repeat(b"\r\n", ENDLESS_BYTES), stays=False),
    Case("half a request line", b"GET /" + b"a" * 8000),
    Case("an endless request line", b"GET /" + b"a" * ENDLESS_BYTES, stays=False),
    Case("half a head of long fields", HEAD + LONG_FIELDS + b"X: " + b"v" * 8000),
    Case("half a head of many fields", HEAD + MANY_FIELDS + b"X: "),
    Case("an endless head", HEAD + repeat(b"X: y\r\n", ENDLESS_BYTES), stays=False),
    Case("half a trailer", POST + b"0\r\n" + b"X: " + b"v" * 8000),
    Case("endless trailers", POST + b"0\r\n" + repeat(b"X: y\r\n", ENDLESS_BYTES), stays=False),
    Case("chunk extensions", POST + (b"1;" + b"e" * 490 + b"\r\nx\r\n") * 33 + b"1;" + b"e" * 490),
    Case(
        "endless chunk extensions",
        POST + repeat(b"1;" + b"e" * 490 + b"\r\nx\r\n", ENDLESS_BYTES),
        stays=False,
    ),
    Case("tiny chunks", POST + b"1\r\nx\r\n" * 500),
    Case("unread pages of 10 KiB", repeat(get("/page.html"), ENDLESS_BYTES)),
    Case("unread pages of 32 KiB", repeat(get("/32k.bin"), ENDLESS_BYTES)),
    Case("unread answers of 1 MiB", repeat(get("/1m.bin"), ENDLESS_BYTES)),
    Case("an unread answer of 100 MiB", get("/100m.bin")),
    Case("unread answers of 100 MiB", repeat(get("/100m.bin"), ENDLESS_BYTES)),
    Case(
        "unread ranges of 100 MiB",
        repeat(
            get("/100m.bin")[:-2]
            + b"Range: bytes="
            + b",".join(b"%d-%d" % (n * 2**20, n * 2**20 + 9) for n in range(16))
            + b"\r\n\r\n",
            ENDLESS_BYTES,
        ),
    ),
]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    for name, size_bytes in (
        ("page.html", 10 * 1024),
        ("32k.bin", 32 * 1024),
        ("1m.bin", 2**20),
        ("100m.bin", 100 * 2**20),
    ):
        with (folder / name).open("wb") as file:
            file.truncate(size_bytes)
    return folder


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS:
        pytest.skip(f"this user may open {hard} files, and this needs {DESCRIPTORS}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, DESCRIPTORS), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_impolite_connection_costs_less_than_64_kib(case: Case, site: Path) -> None:
    with preview(site) as server:
        assert server.get("/page.html").status == 200
        with connections(server, FIRST) as few:
            fill(few, case, server)
        before_bytes = memory_bytes(server)
        with connections(server, CONNECTIONS) as many:
            most_bytes = fill(many, case, server)
            if case.stays:
                assert held(server, many) == CONNECTIONS, "the server closed some of them too soon"
        each_bytes = (most_bytes - before_bytes) / CONNECTIONS
        print(f"{case.name}: {each_bytes / 1024:.1f} KiB for each connection")
        assert each_bytes < BYTES_PER_CONNECTION_MAX
        assert server.get("/page.html").status == 200


@contextlib.contextmanager
def connections(server: PeerProcess, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        opened: list[socket.socket] = []
        for _ in range(count):
            one = stack.enter_context(socket.socket())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
            one.connect(("127.0.0.1", server.port))
            one.setblocking(False)
            opened.append(one)
        yield opened


def fill(connections: list[socket.socket], case: Case, server: PeerProcess) -> int:
    """Send on all of them until no more is taken; the most bytes that the server held."""
    most_bytes = memory_bytes(server)
    deadline = time.monotonic() + PATIENCE_S
    with selectors.DefaultSelector() as selector:
        for one in connections:
            if case.stream:
                selector.register(one, selectors.EVENT_WRITE, memoryview(case.stream))
        while selector.get_map():
            ready = selector.select(QUIET_S)
            assert time.monotonic() < deadline, "the server takes more and more"
            most_bytes = max(most_bytes, memory_bytes(server))
            if not ready:
                break
            for key, _ in ready:
                rest: memoryview = key.data
                assert isinstance(key.fileobj, socket.socket)
                try:
                    rest = rest[key.fileobj.send(rest) :]
                except (BrokenPipeError, ConnectionResetError):
                    rest = rest[:0]  # Refused, and not before time.
                if rest:
                    selector.modify(key.fileobj, selectors.EVENT_WRITE, rest)
                else:
                    selector.unregister(key.fileobj)
        # What was sent is still to be read: once the process rests, it has done so.
        used = -REST_TICKS
        while processor_ticks(server) - used >= REST_TICKS:
            assert time.monotonic() < deadline, "the server does not come to rest"
            used = processor_ticks(server)
            selector.select(QUIET_S)
            most_bytes = max(most_bytes, memory_bytes(server))
    return most_bytes


def memory_bytes(server: PeerProcess) -> int:
    text = Path(f"/proc/{server.pid}/status").read_text()
    kib = next(line.split()[1] for line in text.splitlines() if line.startswith("VmRSS:"))
    return int(kib) * 1024


def processor_ticks(server: PeerProcess) -> int:
    words = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return int(words[11]) + int(words[12])


def held(server: PeerProcess, connections: list[socket.socket]) -> int:
    """How many of the connections are open at the server's end."""
    ends = {f"0100007F:{one.getsockname()[1]:04X}" for one in connections}
    here = f"0100007F:{server.port:04X}"
    lines = Path(f"/proc/{server.pid}/net/tcp").read_text().splitlines()[1:]
    rows = [line.split() for line in lines]
    # 01 is ESTABLISHED. A table that changes while it is read may show a line twice.
    return len({row[2] for row in rows if row[1] == here and row[3] == "01"} & ends)
