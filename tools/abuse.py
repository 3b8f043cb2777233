"""Servers under slow attacks, with honest visitors beside; exit code 0 if these notice nothing.

Started by tools/abuse, which prepares what this needs. slowhttptest makes the attacks, of 1,000
connections each, and is started again where it ends early: it opens no connection twice. A crowd of
our own does, and shows what becomes of one impolite visitor under such pressure.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import math
import re
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from abuse_servers import FILM_BYTES, AbuseError, Server, Watch, make_site, peer, preview
from abuse_visitors import HOST, Crowd, Farewell, HonestVisitors, Manner, Service, burden, head
from rich.console import Console
from rich.table import Table

from p2pweb.exchange.wire import BUNDLE_MEDIA_TYPE, PREFIX

CONNECTIONS = 1_000
# A second for all of them, with honest visitors in between.
OPENED_PER_S = 500
# How many are in a crowd, and how soon each comes again. The first fills the server, which must put
# somebody out for each one who comes; the second is above the share at which the server's shorter
# waits hold, and below its most: nobody is put out before the time.
CROWDS = {CONNECTIONS: 1.0, 700: 0.05}
HONEST_PER_S = 50
UNREAD = 500
# For the last answers of an attack, and for the visitors that came last, to end.
SETTLE_S = 2.0
DESCRIPTORS = 8_192

# What is asked of the server.
P99_MS_MAX = 250.0
GONE_S_MAX = 12.0
# Without pressure, a reader who takes nothing is given so much time, and looked after now and then.
ALONE_S_MAX = 34.0
UNREAD_BYTES_MAX = 64 * 1024

BUNDLE = f"{PREFIX}bundle"
# slowhttptest's flags and the path. Bodies are dripped where a body is wanted: only a peer does.
ATTACKS = {
    "headers": ["-H", "-i", "5", "-u", "/"],
    "body": ["-B", "-i", "5", "-s", "60000", "-f", BUNDLE_MEDIA_TYPE, "-u", BUNDLE],
    "range": ["-R", "-t", "GET", "-a", "5", "-b", "3000", "-u", "/long.bin"],
    "read": ["-X", "-n", "5", "-z", "32", "-w", "10", "-y", "20", "-k", "3", "-u", "/long.bin"],
}
MODES = [*ATTACKS, "visitors", "unread"]

UPLOAD = "Content-Length: 60000"
SILENT = Manner(name="says nothing")
HEAD = Manner(
    name="drips a head", begins_with=head("/")[:-2], drip=b"X-a: b\r\n", told=b"HTTP/1.1 408 "
)
# A preview wants no body: it is answered at once, and what follows is dropped for a while.
UNWANTED = Manner(
    name="drips a body", begins_with=head("/", "POST", UPLOAD), drip=b"b", told=b"HTTP/1.1 405 "
)
BODY = Manner(
    name="drips a body",
    begins_with=head(BUNDLE, "POST", UPLOAD, f"Content-Type: {BUNDLE_MEDIA_TYPE}"),
    drip=b"b",
    told=b"HTTP/1.1 408 ",
)
DEAF = Manner(name="reads nothing", begins_with=head("/long.bin"), reads=0, told=None)
SLOW = Manner(name="reads 10 bytes/s", begins_with=head("/long.bin"), reads=10, told=None)


@dataclass(kw_only=True)
class Outcome:
    """One attack, as the honest visitors and the system saw it."""

    mode: str
    requests: int = 0
    failures: int = 0
    reopened: int = 0
    p50_ms: float = math.inf
    p99_ms: float = math.inf
    max_ms: float = math.inf
    rss_before_bytes: int | None = None
    rss_peak_bytes: int | None = None
    rss_after_bytes: int | None = None
    connections: int | None = None
    available: bool | None = None
    faults: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class Gone:
    """One impolite visitor, and how it was let go."""

    server: str
    crowd: int
    visitor: str
    after_s: float | None
    told: str
    fault: str | None


def main() -> None:
    parser = argparse.ArgumentParser(prog="tools/abuse", description=__doc__)
    parser.add_argument(
        "--seconds", type=int, default=30, help="of each attack of slowhttptest (default: 30)"
    )
    parser.add_argument(
        "--modes", default=",".join(MODES), help=f"some of {','.join(MODES)} (default: all)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of tables")
    options = parser.parse_args()
    try:
        modes = [mode.strip() for mode in options.modes.split(",")]
        if unknown := [mode for mode in modes if mode not in MODES]:
            raise AbuseError(f"no such mode: {unknown[0]!r}; there are {', '.join(MODES)}")
        if not 5 <= options.seconds <= 600:
            raise AbuseError("--seconds is a number from 5 to 600")
        program = shutil.which("slowhttptest")
        if program is None and ATTACKS.keys() & set(modes):
            raise AbuseError(
                "slowhttptest is not installed: install the package of that name "
                "(apt install slowhttptest, brew install slowhttptest)"
            )
        raise_descriptor_limit()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            code = runner.run(abuse(modes, options.seconds, program or "", as_json=options.json))
        sys.exit(code)
    except AbuseError as error:
        sys.exit(f"tools/abuse: {error}")
    except asyncio.CancelledError:
        sys.exit(130)


def raise_descriptor_limit() -> None:
    """Each attacker has an end here or in slowhttptest, which inherits the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if wanted < 2 * CONNECTIONS:
        raise AbuseError(f"this user may open {hard} files, and {2 * CONNECTIONS} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def abuse(modes: list[str], seconds: int, program: str, *, as_json: bool) -> int:
    """Run what was asked for; the exit code."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    outcomes: list[Outcome] = []
    gone: list[Gone] = []
    with tempfile.TemporaryDirectory(prefix="p2pweb-abuse-") as name:
        folder, site = Path(name), Path(name) / "site"
        make_site(site)
        for mode in modes:
            say(f"{mode} ...")
            shutil.rmtree(folder / "data", ignore_errors=True)
            if mode in ATTACKS:
                serve = peer if mode == "body" else preview
                async with serve(site, folder) as server:
                    outcomes.append(await attack(server, mode, seconds, program))
            elif mode == "visitors":
                async with preview(site, folder) as server:
                    kinds = (SILENT, HEAD, UNWANTED, DEAF, SLOW)
                    await visit(server, kinds, outcomes, gone)
                    gone.extend(await let_go(server, (DEAF, SLOW), 0, ALONE_S_MAX))
                async with peer(site, folder) as server:
                    await visit(server, (SILENT, HEAD, BODY, DEAF, SLOW), outcomes, gone)
            else:
                async with peer(site, folder) as server:
                    outcomes.append(await leave_unread(server))
    faults = [f"{one.mode}: {fault}" for one in outcomes for fault in one.faults]
    faults += [f"{one.server}, {one.crowd}: {one.fault}" for one in gone if one.fault]
    if as_json:
        rows = {"attacks": outcomes, "visitors": gone}
        shown = {key: [dataclasses.asdict(row) for row in some] for key, some in rows.items()}
        print(json.dumps({**shown, "faults": faults}, indent=2))
    else:
        print_tables(outcomes, gone, faults)
    return 1 if faults else 0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@asynccontextmanager
async def observed(server: Server, outcome: Outcome) -> AsyncIterator[None]:
    """Ask honestly, and watch the server, while something else goes on."""
    async with Watch(server) as watch, HonestVisitors(server.port, "/", HONEST_PER_S) as service:
        yield
        await asyncio.sleep(SETTLE_S)
    note_service(outcome, service)
    outcome.rss_before_bytes, outcome.rss_peak_bytes = watch.before_bytes, watch.peak_bytes
    outcome.rss_after_bytes = server.rss_bytes()
    outcome.connections = watch.connections


def note_service(outcome: Outcome, service: Service) -> None:
    outcome.failures = len(service.failures)
    outcome.requests = len(service.latencies_s) + outcome.failures
    outcome.reopened = service.reopened
    outcome.p50_ms, outcome.p99_ms, outcome.max_ms = (
        service.quantile_ms(share) for share in (0.5, 0.99, 1.0)
    )
    if outcome.failures:
        outcome.faults.append(
            f"{outcome.failures} honest requests failed, the first with {service.failures[0]}"
        )
    if not outcome.p99_ms < P99_MS_MAX:
        outcome.faults.append(f"p99 is {outcome.p99_ms:.0f} ms, over {P99_MS_MAX:.0f} ms")


# --- attacks by slowhttptest ---


async def attack(server: Server, mode: str, seconds: int, program: str) -> Outcome:
    outcome = Outcome(mode=mode)
    *flags, path = ATTACKS[mode]
    url = f"http://{HOST}:{server.port}{path}"
    loop = asyncio.get_running_loop()
    async with observed(server, outcome):
        until_s = loop.time() + seconds
        while (left_s := math.ceil(until_s - loop.time())) > 1:
            words = ("-c", str(CONNECTIONS), "-r", str(OPENED_PER_S), "-l", str(left_s), "-p", "3")
            heard = await run_attack(program, *words, *flags, url)
            answers = re.findall(r"service available:\s*(YES|NO)", heard)
            if not answers:
                raise AbuseError(f"slowhttptest has not said how the service is: {heard[-200:]!r}")
            outcome.available = outcome.available is not False and "NO" not in answers
    if not outcome.available:
        outcome.faults.append("slowhttptest found the service unavailable")
    return outcome


async def run_attack(*command: str) -> str:
    """Run slowhttptest to its end; what it says, without colours."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        output, _ = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", output.decode(errors="replace"))


# --- single impolite visitors ---


async def visit(
    server: Server, manners: tuple[Manner, ...], outcomes: list[Outcome], gone: list[Gone]
) -> None:
    """Let each of them in twice: where the crowd fills the server, and where it only presses."""
    for count, pause_s in CROWDS.items():
        outcome = Outcome(mode=f"{server.name}, crowd of {count}")
        async with observed(server, outcome), Crowd(server.port, count, pause_s):
            gone.extend(await let_go(server, manners, count, GONE_S_MAX))
        outcomes.append(outcome)


async def let_go(
    server: Server, manners: tuple[Manner, ...], crowd: int, within_s: float
) -> list[Gone]:
    farewells = await asyncio.gather(
        *(burden(server.port, manner, within_s + SETTLE_S) for manner in manners)
    )
    rows: list[Gone] = []
    for manner, farewell in zip(manners, farewells, strict=True):
        fault = None
        if farewell is None or farewell.after_s > within_s:
            fault = f"who {manner.name} is still there after {within_s:.0f} s"
        elif not farewell.suits(manner):
            wanted = manner.told or b"nothing"
            fault = f"who {manner.name} was told {farewell.told[:40]!r}, not {wanted!r}"
        told = farewell.told.partition(b"\r\n")[0].decode("latin-1") if farewell else ""
        rows.append(
            Gone(
                server=server.name,
                crowd=crowd,
                visitor=manner.name,
                after_s=farewell.after_s if farewell else None,
                told=told,
                fault=fault,
            )
        )
    return rows


# --- memory ---


async def leave_unread(server: Server) -> Outcome:
    """What a peer holds for each visitor who asks for a film and does not look at it.

    Reading it once first fills the caches, whose bounds are constants, for all.
    """
    outcome = Outcome(mode=f"peer, {UNREAD} unread")
    manner = dataclasses.replace(DEAF, begins_with=head("/film.mp4"))
    for _ in range(2):
        reader, writer = await asyncio.open_connection(HOST, server.port)
        writer.write(head("/film.mp4", "GET", "Connection: close"))
        while await reader.read(FILM_BYTES):
            pass
        writer.close()
    async with observed(server, outcome):
        deaf: list[asyncio.Task[Farewell | None]] = []
        for _ in range(UNREAD):
            deaf.append(asyncio.ensure_future(burden(server.port, manner, GONE_S_MAX)))
            await asyncio.sleep(1 / OPENED_PER_S)
        await asyncio.wait(deaf, timeout=GONE_S_MAX / 2)
        for one in deaf:
            one.cancel()
        await asyncio.gather(*deaf, return_exceptions=True)
    if outcome.rss_before_bytes is not None and outcome.rss_peak_bytes is not None:
        each_bytes = (outcome.rss_peak_bytes - outcome.rss_before_bytes) / UNREAD
        outcome.mode += f": {each_bytes / 1024:.1f} KiB each"
        if each_bytes >= UNREAD_BYTES_MAX:
            outcome.faults.append(f"over {UNREAD_BYTES_MAX // 1024} KiB for each connection")
    return outcome


# --- what is shown ---


def print_tables(outcomes: list[Outcome], gone: list[Gone], faults: list[str]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 140)
    if outcomes:
        table = Table("attack", title="honest visitors, and what the server held")
        for name in ("requests", "failed", "reopened", "p50 ms", "p99 ms", "max ms"):
            table.add_column(name, justify="right")
        for name in ("RSS MB before", "peak", "after", "open", "available"):
            table.add_column(name, justify="right")
        for one in outcomes:
            sizes = (one.rss_before_bytes, one.rss_peak_bytes, one.rss_after_bytes)
            table.add_row(
                one.mode,
                *(str(n) for n in (one.requests, one.failures, one.reopened)),
                *(f"{ms:.1f}" for ms in (one.p50_ms, one.p99_ms, one.max_ms)),
                *("-" if size is None else f"{size / 1e6:.1f}" for size in sizes),
                "-" if one.connections is None else str(one.connections),
                "-" if one.available is None else "yes" if one.available else "NO",
            )
        console.print(table)
    if gone:
        table = Table("server", "crowd", "visitor", "gone after s", "told", title="let go")
        for row in gone:
            after = "still there" if row.after_s is None else f"{row.after_s:.1f}"
            table.add_row(row.server, str(row.crowd), row.visitor, after, row.told or "-")
        console.print(table)
    for fault in faults:
        print(f"fault: {fault}")
    print("nobody honest noticed" if not faults else f"{len(faults)} bars are missed")


if __name__ == "__main__":
    main()
