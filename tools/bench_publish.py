"""Publishing many small files: what it costs, what one changed file costs after that, and none.

Started by tools/bench. Real peers (`p2pweb up`) with their disks are started on loopback, and a
directory is published to one of them with the real command, three times: all of it, with one file
changed, unchanged. Then every file is read back through another peer, byte by byte. Told of each
publish are its seconds, the processor time of its process and of the peers, how many keys were
looked up, and the HTTP requests and bytes; and what the peers did on their own after it, until
they were at rest: whoever should have a copy fetches it then.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import http.client
import json
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench_flags import Parser, numbers
from bench_kinds import HOST, BenchError
from bench_machine import busy_note, machine, memory_note
from bench_peers import Peer, peers, until_known
from rich.console import Console
from rich.table import Table

PROGRAM = Path(__file__).resolve().parent / "bench_publish_counted.py"
FILES_DEFAULT, FILES_MAX = "1000,10000", 50_000
PEERS_DEFAULT, PEERS_MAX = "5,20", 50
FILE_BYTES_DEFAULT, FILE_BYTES_MAX = 1024, 64 * 1024
FOLDER_FILES = 100
WORDS = ("many", "pages", "of", "a", "site", "whose", "peers", "keep", "and", "mend", "it")
PUBLISH_S = 1800.0
# The exit code of a publish that is live, and short of copies or not read back.
SHORT = 2
# Peers begin to fetch what is due to them within two seconds of a new version, and look again two
# seconds later. With neither requests nor work to speak of for so long, they are at rest.
REST_S = 5.0
REST_CPU = 0.25
REST_WITHIN_S = 600.0
READ_S = 60.0

Words = list[str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    files: list[int]
    peers: list[int]
    file_bytes: int
    as_json: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What processes did, from one moment to another; what they have in memory, at the later."""

    cpu_s: float = 0.0
    lookups: int = 0
    requests: int = 0
    bytes: int = 0
    rss_bytes: int = 0
    peak_bytes: int = 0

    def __add__(self, other: Counts) -> Counts:
        """Of two processes together; the memory is that of the larger."""
        return Counts(
            cpu_s=self.cpu_s + other.cpu_s,
            lookups=self.lookups + other.lookups,
            requests=self.requests + other.requests,
            bytes=self.bytes + other.bytes,
            rss_bytes=max(self.rss_bytes, other.rss_bytes),
            peak_bytes=max(self.peak_bytes, other.peak_bytes),
        )

    def since(self, before: Counts) -> Counts:
        return dataclasses.replace(
            self,
            cpu_s=self.cpu_s - before.cpu_s,
            lookups=self.lookups - before.lookups,
            requests=self.requests - before.requests,
            bytes=self.bytes - before.bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One publish, and what the peers did on their own after it."""

    name: str
    seconds: float
    code: int
    copies: int
    publisher: Counts
    entry: Counts
    others: Counts
    rest_s: float
    rest: Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One network and one directory."""

    peers: int
    files: int
    steps: list[Step]
    read_back_s: float


def main() -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        asyncio.run(bench(parse_options()))
    except BenchError as error:
        sys.exit(f"tools/bench publish: {error}")
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)


def parse_options(words: Words = None) -> Options:
    """Read the flags; raises `BenchError` for those that make no sense."""
    parser = Parser(
        prog="tools/bench publish",
        description="Measure publishing many small files to peers on loopback, and then one.",
    )
    parser.add_argument(
        "--files", metavar="N,N", default=FILES_DEFAULT, help="default: %(default)s"
    )
    parser.add_argument(
        "--peers", metavar="N,N", default=PEERS_DEFAULT, help="default: %(default)s"
    )
    parser.add_argument(
        "--bytes",
        metavar="N",
        default=str(FILE_BYTES_DEFAULT),
        help="of each file, about; default: %(default)s",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    given = parser.parse_args(words)
    return Options(
        files=numbers("--files", given.files, 2, FILES_MAX),
        peers=numbers("--peers", given.peers, 2, PEERS_MAX),
        file_bytes=numbers("--bytes", given.bytes, 1, FILE_BYTES_MAX)[0],
        as_json=given.json,
    )


async def bench(options: Options) -> None:
    """Measure and tell."""
    load = os.getloadavg()[0]
    notes = [note for note in (busy_note(load), memory_note(Path(tempfile.gettempdir()))) if note]
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    runs: list[Run] = []
    for count in options.peers:
        for files in options.files:
            with tempfile.TemporaryDirectory(prefix="p2pweb-bench-") as folder:
                runs.append(await _measure(count, files, options.file_bytes, Path(folder)))
    if options.as_json:
        told = {**machine(), "load_average_before": load, "notes": notes}
        print(
            json.dumps({"run": told, "runs": [dataclasses.asdict(run) for run in runs]}, indent=2)
        )
    else:
        for run in runs:
            print_run(run)


# --- one run ---


async def _measure(count: int, files: int, file_bytes: int, folder: Path) -> Run:
    from p2pweb.exchange.client import PeerClient

    site, data = folder / "site", folder / "peers"
    data.mkdir()
    rng = random.Random(files)
    make_site(site, files, file_bytes, rng)
    async with peers(data, count, PROGRAM) as started, contextlib.AsyncExitStack() as stack:
        client = PeerClient()
        stack.push_async_callback(client.close)
        for peer in started:
            await until_known(client, (HOST, peer.port), count - 1)
        steps = [await _step("first", site, folder, started)]
        path = site / page_name(files // 2)
        path.write_text(_page(files // 2, file_bytes, rng))
        steps.append(await _step("one changed", site, folder, started))
        steps.append(await _step("unchanged", site, folder, started))
        port = started[-1].port
        read_back_s = await asyncio.to_thread(read_back, site, port)
    return Run(peers=count, files=files, steps=steps, read_back_s=read_back_s)


def make_site(site: Path, files: int, file_bytes: int, rng: random.Random) -> None:
    """So many pages, no two alike, a hundred in each folder."""
    for number in range(files):
        path = site / page_name(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_page(number, file_bytes, rng))


def page_name(number: int) -> str:
    return f"{number // FOLDER_FILES:03}/page-{number:05}.html"


def _page(number: int, file_bytes: int, rng: random.Random) -> str:
    """A page of words, of about so many bytes; another one for each call."""
    words = " ".join(rng.choices(WORDS, k=file_bytes // 3))
    return f"<!doctype html><title>{number} {rng.random()}</title>{words}"[:file_bytes]


async def _step(name: str, site: Path, folder: Path, started: list[Peer]) -> Step:
    before = await _ask(started)
    began = time.perf_counter()
    code, copies, publisher = await _publish(site, folder, started[0].port)
    seconds = time.perf_counter() - began
    after = await _ask(started)
    rested, rest_s = await _at_rest(started, after)
    entry, *others = (later.since(earlier) for later, earlier in zip(after, before, strict=True))
    rest = (later.since(earlier) for later, earlier in zip(rested, after, strict=True))
    return Step(
        name=name,
        seconds=seconds,
        code=code,
        copies=copies,
        publisher=publisher,
        entry=entry,
        others=sum(others, Counts()),
        rest_s=rest_s,
        rest=sum(rest, Counts()),
    )


async def _publish(site: Path, folder: Path, port: int) -> tuple[int, int, Counts]:
    """Run the command; its exit code, the copies of each file, and what it counted."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(PROGRAM), "publish", str(site), "--json"),
        *("--peer", f"{HOST}:{port}", "--key", str(folder / "key")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "XDG_CACHE_HOME": str(folder)},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(PUBLISH_S):
            # Not `communicate`: the end of its standard input would be its own.
            output, said = await asyncio.gather(process.stdout.read(), process.stderr.read())
            await process.wait()
    except TimeoutError:
        raise BenchError(f"a publish takes longer than {PUBLISH_S:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode not in (0, SHORT):
        words = said.decode(errors="replace").strip().splitlines() or ["it says nothing"]
        raise BenchError(f"a publish ends with code {process.returncode}: {words[-1]}")
    summary, _, counts = output.decode().rstrip("\n").rpartition("\n")
    return process.returncode, json.loads(summary)["copies"], Counts(**json.loads(counts))


async def _ask(started: list[Peer]) -> list[Counts]:
    """What each peer has done so far."""
    return [await _ask_one(peer) for peer in started]


async def _ask_one(peer: Peer) -> Counts:
    assert peer.process.stdin is not None
    assert peer.process.stdout is not None
    peer.process.stdin.write(b"\n")
    while line := await peer.process.stdout.readline():
        if line.startswith(b"{"):
            return Counts(**json.loads(line))
    raise BenchError(f"the peer on port {peer.port} has ended")


async def _at_rest(started: list[Peer], before: list[Counts]) -> tuple[list[Counts], float]:
    """The counts once the peers do nothing more to speak of, and after how many seconds that is."""
    began = time.perf_counter()
    while True:
        at = time.perf_counter() - began
        await asyncio.sleep(REST_S)
        now = await _ask(started)
        pairs = zip(now, before, strict=True)
        did = sum((later.since(earlier) for later, earlier in pairs), Counts())
        if not did.requests and did.cpu_s < REST_CPU * REST_S:
            return now, at
        if at > REST_WITHIN_S:
            raise BenchError(f"the peers are not at rest {REST_WITHIN_S:.0f} s after a publish")
        before = now


def read_back(site: Path, port: int) -> float:
    """Every file through one peer, over one connection; in how many seconds."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection(HOST, port, timeout=READ_S)
    with contextlib.closing(connection):
        for path in sorted(site.rglob("*.html")):
            name = "/" + path.relative_to(site).as_posix()
            connection.request("GET", name)
            answer = connection.getresponse()
            if answer.read() != path.read_bytes():
                raise BenchError(f"another peer answers {answer.status} for {name}, or other bytes")
    return time.perf_counter() - began


# --- the report ---


def print_run(run: Run) -> None:
    """A table with a column for each publish."""
    console = Console()
    title = f"{run.files} files to {run.peers} peers"
    table = Table("", title=title, title_justify="left")
    for step in run.steps:
        table.add_column(step.name, justify="right")
    for name, *figures in zip(FIGURES, *map(_figures, run.steps), strict=True):
        table.add_row(name, *figures)
    console.print(table)
    console.print(f"every file read back through the last peer in {run.read_back_s:.1f} s")


FIGURES = (
    "seconds",
    "exit code",
    "copies of each file, at least",
    "processor seconds: the publisher",
    "  the first peer",
    "  all other peers",
    "keys looked up",
    "HTTP requests",
    "KB, publisher and first peer",
    "KB, between peers",
    "the peers then work on for seconds",
    "  processor seconds",
    "  keys looked up",
    "  HTTP requests",
    "  KB",
    "MB of memory, the largest peer",
)


def _figures(step: Step) -> tuple[str, ...]:
    """As `FIGURES` names them."""
    between = step.entry + step.others
    whole = step.publisher + between
    return (
        f"{step.seconds:.2f}",
        *(str(step.code), str(step.copies)),
        *(f"{one.cpu_s:.2f}" for one in (step.publisher, step.entry, step.others)),
        *(str(whole.lookups), str(whole.requests)),
        *(f"{one.bytes / 1000:,.0f}" for one in (step.publisher, between)),
        *(f"{step.rest_s:.0f}", f"{step.rest.cpu_s:.2f}"),
        *(str(step.rest.lookups), str(step.rest.requests), f"{step.rest.bytes / 1000:,.0f}"),
        f"{step.rest.rss_bytes / 1e6:.0f}",
    )


if __name__ == "__main__":
    main()
