"""A sudden crowd on one file: what each peer sends to others, and when the last visitor has it.

Started by tools/bench, which prepares what this needs. One peer holds a site with one file; the
others have another home site, so that they keep nothing of this one and get it when they are asked
for it. Then visitors of all the others ask for the file within a second. Every byte that comes is
compared, and the access logs tell what each peer has sent to other peers. All of it is on
127.0.0.1, and on one machine: the time is that of its processors.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import uvloop
from bench_flags import Parser
from bench_kinds import HOST, BenchError
from bench_machine import busy_note, machine
from rich.console import Console
from rich.table import Table

from p2pweb.blobs import BlobId, blob_of
from p2pweb.exchange import wire
from p2pweb.keys import SiteId, SiteKey, load_key_file

PEERS_DEFAULT, PEERS_MAX = 20, 50
VISITORS_DEFAULT, VISITORS_MAX = 50, 500
MIB_DEFAULT, MIB_MAX = 10, 1024
MIB = 1024 * 1024
# All visitors ask within this time.
WITHIN_S = 1.0
# No peer should send the file more often than so many times its share.
SHARES_MAX = 2.0
STOP_S = 30.0
# Below those that systems give to connections.
PORTS = (20_000, 32_000)
# Each of the others finds the site within this time, and is asked so often whether it has.
KNOWN_S, KNOWN_AGAIN_S = 60.0, 0.2
# A visitor who gets nothing for so long is told as a fault.
IDLE_S = 60.0
# All of the crowd has to be through by then.
PATIENCE_S = 900.0
# Of what comes at once; all visitors take turns with it.
BUFFER_BYTES = 256 * 1024
HEAD_BYTES_MAX = 16 * 1024
# Two ends of each visitor's connection are in other processes.
DESCRIPTORS = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    peers: int
    visitors: int
    size_bytes: int
    as_json: bool


@dataclass
class Peer:
    port: int
    folder: Path
    process: subprocess.Popen[str]

    @property
    def log(self) -> Path:
        return self.folder / f"{self.port}.access"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What one peer sent of the file to other peers: bytes, answers with some, and pointers."""

    size_bytes: int
    answers: int
    pointers: int


@dataclass
class Outcome:
    """What became of the crowd. Times are seconds from the first visitor's start."""

    first_byte_s: list[float] = field(default_factory=list)
    last_byte_s: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def main() -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        options = parse_options()
        _raise_descriptor_limit()
        sys.exit(bench(options))
    except BenchError as error:
        sys.exit(f"tools/bench crowd: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def parse_options(words: list[str] | None = None) -> Options:
    """Read the flags; raises `BenchError` for those that make no sense."""
    parser = Parser(
        prog="tools/bench crowd",
        description="One peer holds a file, and visitors of all others ask for it at once.",
        epilog="Exit code: 0 when every visitor got the right bytes and no peer sent more than "
        f"{SHARES_MAX:.0f} times its share, 2 when one did, 1 when the run itself failed.",
    )
    counts = (
        ("--peers", PEERS_DEFAULT, PEERS_MAX, 2, "with the one that holds the file"),
        ("--visitors", VISITORS_DEFAULT, VISITORS_MAX, 1, "of each of the others"),
        ("--mib", MIB_DEFAULT, MIB_MAX, 1, "size of the file"),
    )
    for flag, default, most, least, what in counts:
        parser.add_argument(
            flag,
            metavar="N",
            type=int,
            default=default,
            choices=range(least, most + 1),
            help=f"{what}, {least} to {most}; default: {default}",
        )
    parser.add_argument("--json", action="store_true", help="figures for a program")
    given = parser.parse_args(words)
    return Options(
        peers=given.peers,
        visitors=given.visitors,
        size_bytes=given.mib * MIB,
        as_json=given.json,
    )


def bench(options: Options) -> int:
    """The whole run; the exit code."""
    load = os.getloadavg()[0]
    data = random.Random("crowd").randbytes(options.size_bytes)
    blob, _ = blob_of(data)
    peers: list[Peer] = []
    with tempfile.TemporaryDirectory(prefix="p2pweb-crowd-") as name:
        folder = Path(name)
        try:
            site = start(options, folder, data, peers)
            ports = [peer.port for peer in peers[1:] for _ in range(options.visitors)]
            outcome = uvloop.run(crowd(ports, site, data))
        finally:
            stop(peers)
        sent = [sent_by(peer, blob) for peer in peers]
    return report(options, outcome, sent, load)


def start(options: Options, folder: Path, data: bytes, peers: list[Peer]) -> SiteId:
    """The holder with the site published into it, then the others, noted in `peers`."""
    site, key = folder / "site", folder / "key"
    site.mkdir()
    (site / "hot.bin").write_bytes(data)
    (site / "index.html").write_text("<!doctype html><title>hot</title>")
    peers.append(start_peer(folder, ()))
    wait_until_ready(peers[0])
    holder = f"{HOST}:{peers[0].port}"
    words = ("publish", str(site), "--peer", holder, "--key", str(key))
    done = subprocess.run(_p2pweb(*words), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"the file cannot be published: {done.stderr.strip() or done.stdout}")
    elsewhere = SiteKey(os.urandom(32)).site
    others = ("--join", holder, "--home", elsewhere)
    # Noted one by one: those that have started are ended whatever happens to the next.
    peers.extend(start_peer(folder, others) for _ in range(options.peers - 1))
    site_id = load_key_file(key).key.site
    for peer in peers[1:]:
        wait_until_ready(peer)
        wait_until_known(peer, site_id)
    return site_id


def start_peer(folder: Path, words: tuple[str, ...]) -> Peer:
    port = free_port()
    place = ("--port", str(port), "--host", HOST, "--data", str(folder / str(port)))
    log = ("--access-log", str(folder / f"{port}.access"), "--access-log-format", "json")
    with (folder / f"{port}.log").open("w") as output:
        process = subprocess.Popen(
            _p2pweb("up", *place, *log, *words), stdout=subprocess.PIPE, stderr=output, text=True
        )
    return Peer(port, folder, process)


def free_port() -> int:
    """A number that nobody uses, for TCP or for UDP, and that no connection is given meanwhile."""
    while True:
        port = random.SystemRandom().randrange(*PORTS)
        kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for kind in kinds:
                stack.enter_context(socket.socket(socket.AF_INET, kind)).bind((HOST, port))
            return port


def wait_until_ready(peer: Peer) -> None:
    assert peer.process.stdout is not None
    if not peer.process.stdout.readline().startswith("p2pweb ready"):
        log = peer.folder / f"{peer.port}.log"
        said = log.read_text().strip().splitlines() or ["it says nothing"]
        raise BenchError(f"a peer does not start: {said[-1]}")


def wait_until_known(peer: Peer, site: SiteId) -> None:
    """Until a peer has read the site's first page: it knows the version, and nothing of the file.

    A machine that has just started so many processes may be too slow for the first lookups.
    """
    deadline = time.monotonic() + KNOWN_S
    while True:
        with contextlib.closing(http.client.HTTPConnection(HOST, peer.port)) as connection:
            connection.request("GET", "/", headers={"Host": f"{site}.localhost"})
            if (status := connection.getresponse().status) == 200:
                return
        if time.monotonic() > deadline:
            raise BenchError(f"a peer does not find the site: it answers with status {status}")
        time.sleep(KNOWN_AGAIN_S)


def _p2pweb(*words: str) -> list[str]:
    return [sys.executable, "-m", "p2pweb", *words]


def stop(peers: list[Peer]) -> None:
    """End all, so that their access logs are whole."""
    for peer in peers:
        peer.process.terminate()
    for peer in peers:
        try:
            peer.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            peer.process.kill()
            peer.process.wait()
        if peer.process.stdout is not None:
            peer.process.stdout.close()


def sent_by(peer: Peer, blob: BlobId) -> Sent:
    """What the access log of a peer tells of a blob's bytes."""
    prefix = f"{wire.PREFIX}blob/{blob.root.hex()}/"
    size_bytes = answers = pointers = 0
    for line in peer.log.read_text().splitlines():
        entry = json.loads(line)
        if (entry["target"] or "").startswith(prefix):
            pointers += entry["status"] == 307
            if entry["status"] in (200, 206):
                size_bytes += entry["sent_bytes"]
                answers += 1
    return Sent(size_bytes=size_bytes, answers=answers, pointers=pointers)


# --- the crowd ---


class _Visitor(asyncio.BufferedProtocol):
    """One visitor: asks once, compares what comes, and says when it is all there."""

    def __init__(self, head: bytes, expected: bytes, buffer: bytearray) -> None:
        self.done: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self.first_at = 0.0
        self.heard_at = time.monotonic()
        self._request = head
        self._expected = expected
        self._buffer = buffer
        self._head = b""
        self._at = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is none of asyncio's classes.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.heard_at = time.monotonic()
        piece = memoryview(self._buffer)[:nbytes]
        if self._at < 0:
            self._head += piece
            head, end, rest = self._head.partition(b"\r\n\r\n")
            if not end and len(self._head) < HEAD_BYTES_MAX:
                return
            if not head.startswith(b"HTTP/1.1 200 "):
                self._end(f"answered {head[:60]!r} {rest[-600:]!r}")
                return
            self.first_at, self._at, piece = self.heard_at, 0, memoryview(rest)
        if not self._expected.startswith(piece, self._at):
            self._end(f"other bytes from {self._at} on")
            return
        self._at += len(piece)
        if self._at == len(self._expected):
            self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(f"broken off after {max(0, self._at)} bytes")

    def _end(self, fault: str | None) -> None:
        if not self.done.done():
            self.done.set_result(fault)
        self._transport.close()


async def crowd(ports: list[int], site: SiteId, data: bytes) -> Outcome:
    """A visitor for each of `ports`; what became of them."""
    outcome, buffer, rng = Outcome(), bytearray(BUFFER_BYTES), random.Random("crowd")
    began = time.monotonic()
    starts = sorted(rng.uniform(0, WITHIN_S) for _ in ports)
    order = rng.sample(ports, len(ports))

    async def visit(port: int, at_s: float) -> None:
        await asyncio.sleep(at_s - (time.monotonic() - began))
        fields = f"Host: {site}.localhost\r\nAccept-Encoding: identity\r\nConnection: close\r\n"
        head = f"GET /hot.bin HTTP/1.1\r\n{fields}\r\n".encode()
        loop = asyncio.get_running_loop()
        try:
            _, visitor = await loop.create_connection(
                lambda: _Visitor(head, data, buffer), HOST, port
            )
        except OSError as error:
            outcome.faults.append(f"{HOST}:{port}: {error}")
            return
        fault: str | None = None
        while not visitor.done.done():
            await asyncio.wait([visitor.done], timeout=IDLE_S)
            if not visitor.done.done() and time.monotonic() - visitor.heard_at > IDLE_S:
                visitor._end(f"nothing came for {IDLE_S:.0f} s")
        fault = visitor.done.result()
        if fault is not None:
            outcome.faults.append(f"{HOST}:{port}: {fault}")
        else:
            outcome.first_byte_s.append(visitor.first_at - began)
            outcome.last_byte_s.append(time.monotonic() - began)

    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*map(visit, order, starts))
    return outcome


# --- what it came to ---


def shares(sent: list[Sent], size_bytes: int) -> list[float]:
    """Of each peer what it sent, in shares: all but the first needed the file once, and in the end
    all have it."""
    share_bytes = size_bytes * (len(sent) - 1) / len(sent)
    return [one.size_bytes / share_bytes for one in sent]


def report(options: Options, outcome: Outcome, sent: list[Sent], load: float) -> int:
    """Print it; the exit code."""
    by_share = shares(sent, options.size_bytes)
    times = {
        "first byte, median": _quantile(outcome.first_byte_s, 0.5),
        "first byte, last": _quantile(outcome.first_byte_s, 1.0),
        "last byte, median": _quantile(outcome.last_byte_s, 0.5),
        "last byte, last": _quantile(outcome.last_byte_s, 1.0),
    }
    is_missed = max(by_share) > SHARES_MAX
    note = busy_note(load)
    if options.as_json:
        figures = {
            "machine": machine(),
            "note": note,
            "visitors": len(outcome.last_byte_s),
            "faults": outcome.faults,
            "seconds": times,
            "sent_bytes": [one.size_bytes for one in sent],
            "answers": [one.answers for one in sent],
            "pointers": [one.pointers for one in sent],
            "shares": by_share,
        }
        print(json.dumps(figures, indent=2))
    else:
        table = Table("peer", "copies sent", "shares", "answers", "pointers")
        for column in table.columns[1:]:
            column.justify = "right"
        for number, (one, its_shares) in enumerate(zip(sent, by_share, strict=True)):
            table.add_row(
                "holder" if number == 0 else str(number),
                f"{one.size_bytes / options.size_bytes:.2f}",
                f"{its_shares:.2f}",
                str(one.answers),
                str(one.pointers),
            )
        Console(width=None if sys.stdout.isatty() else 80).print(table)
        for name, seconds in times.items():
            print(f"{name}: {seconds:.1f} s")
        print(f"most sent by one peer: {max(by_share):.2f} shares (wanted: {SHARES_MAX:.0f})")
        print(f"{len(outcome.last_byte_s)} visitors got the file byte for byte")
        if note is not None:
            print(note)
    if outcome.faults:
        raise BenchError(f"{len(outcome.faults)} visitors did not: {outcome.faults[0]}")
    return 2 if is_missed else 0


def _quantile(values: list[float], share: float) -> float:
    ordered = sorted(values) or [0.0]
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


if __name__ == "__main__":
    main()
