"""Five peers, a site on them, and the addresses to open; or, with --once, a check of it all.

Started by tools/demo, which prepares what this needs. The peers are processes of their own, from
nodes/*.toml, with their data in a temporary directory that goes with the demo.
"""

import argparse
import asyncio
import os
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from rich.console import Console
from rich.table import Table
from yarl import URL

from p2pweb.blobs import BLOCK_BYTES
from p2pweb.config import read_node_file
from p2pweb.directory import SiteFile, list_directory
from p2pweb.errors import P2PWebError
from p2pweb.http.media_types import media_type_of
from p2pweb.records import quote_path

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "tools" / "site"
NODE_FILES = sorted((ROOT / "nodes").glob("*.toml"))
READY_S = 30.0
STOP_S = 15.0
VISITORS = 8
WRONG_SHOWN = 5


class DemoError(Exception):
    """One sentence for the person who started the demo."""


@dataclass
class Peer:
    port: int
    process: asyncio.subprocess.Process
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"


@dataclass
class ReadBack:
    """What one peer served of the whole site."""

    peer: Peer
    files: int = 0
    size_bytes: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="tools/demo",
        description="Start five peers on ports 8001 to 8005 and publish a site on them.",
    )
    parser.add_argument("dir", metavar="DIR", nargs="?", help="default: the sample site")
    parser.add_argument(
        "--once",
        action="store_true",
        help="read the whole site back through every peer, print a table, and stop",
    )
    options = parser.parse_args()
    site = SAMPLE
    if options.dir is not None:
        site = Path(os.environ.get("P2PWEB_DEMO_CWD", ".")) / options.dir
    try:
        sys.exit(asyncio.run(demo(site, once=options.once)))
    except (DemoError, P2PWebError) as error:
        sys.exit(f"tools/demo: {error}")
    except asyncio.CancelledError:
        sys.exit(130 if options.once else 0)


async def demo(site: Path, *, once: bool) -> int:
    """Start, publish, then check or wait; the exit code."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    listing = list_directory(site)  # A missing or empty DIR is told before anything starts.
    ports = [read_node_file(path).port or 0 for path in NODE_FILES]
    for port in ports:
        check_free(port)
    with tempfile.TemporaryDirectory(prefix="p2pweb-demo-") as folder:
        peers: list[Peer] = []
        try:
            # The first one alone: the others join by it.
            await start(peers, NODE_FILES[0], ports[0], Path(folder))
            others = zip(NODE_FILES[1:], ports[1:], strict=True)
            await asyncio.gather(*(start(peers, *other, Path(folder)) for other in others))
            peers.sort(key=lambda peer: peer.port)
            if await publish(site, peers[0], Path(folder)) == 1:
                raise DemoError("the site could not be published")
            if once:
                return await check(peers, listing.files)
            print("\nOpen any of them; kill one and the others go on:")
            for peer in peers:
                print(f"  {peer.url}   (process {peer.process.pid})")
            print("Ctrl-C stops.", flush=True)
            await asyncio.Event().wait()
        finally:
            await stop(peers)
    return 0


def check_free(port: int) -> None:
    for kind, name in ((socket.SOCK_STREAM, "TCP"), (socket.SOCK_DGRAM, "UDP")):
        with socket.socket(socket.AF_INET, kind) as probe:
            if kind == socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                raise DemoError(
                    f"port {port} ({name}) is in use by another program: stop that one, "
                    "and start the demo again"
                ) from None


async def start(peers: list[Peer], node_file: Path, port: int, folder: Path) -> None:
    """Start one peer, note it in `peers`, and wait for its ready line."""
    log = folder / f"{port}.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "p2pweb", "up", str(node_file)),
            *("--data", str(folder / str(port))),
            stdout=asyncio.subprocess.PIPE,
            stderr=output,
        )
    peers.append(Peer(port, process, log))
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), READY_S)
    except TimeoutError:
        line = b""
    if not line.startswith(b"p2pweb ready"):
        lines = log.read_text(errors="replace").splitlines() or ["it says nothing"]
        raise DemoError(f"the peer on port {port} does not start: {lines[-1]}")


async def publish(site: Path, peer: Peer, folder: Path) -> int:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "p2pweb", "publish", str(site)),
        *("--peer", f"127.0.0.1:{peer.port}", "--key", str(folder / "site.key")),
    )
    return await process.wait()


async def stop(peers: list[Peer]) -> None:
    for peer in peers:
        if peer.process.returncode is None:
            peer.process.terminate()
    for peer in peers:
        try:
            await asyncio.wait_for(peer.process.wait(), STOP_S)
        except TimeoutError:
            peer.process.kill()
            await peer.process.wait()


async def check(peers: list[Peer], files: list[SiteFile]) -> int:
    """Read everything through every peer; the exit code."""
    results = [await read_back(peer, files) for peer in peers]
    table = Table("peer", "files", "MB", "seconds", "memory MB", "wrong", title="read back")
    for column in table.columns[1:]:
        column.justify = "right"
    for result in results:
        table.add_row(
            result.peer.url,
            str(result.files),
            f"{result.size_bytes / 1e6:.1f}",
            f"{result.seconds:.1f}",
            await memory_of(result.peer),
            str(len(result.wrong)),
        )
    Console(width=None if sys.stdout.isatty() else 100).print(table)
    wrong = [line for result in results for line in result.wrong]
    for line in wrong[:WRONG_SHOWN]:
        print(f"wrong: {line}")
    print("every file is right through every peer" if not wrong else f"{len(wrong)} are wrong")
    return 1 if wrong else 0


async def read_back(peer: Peer, files: list[SiteFile]) -> ReadBack:
    """Fetch every file through one peer, and compare bytes, media type and length."""
    result = ReadBack(peer)
    waiting = list(files)
    began = time.monotonic()
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=30)
    headers = {"Accept-Encoding": "identity"}

    async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:

        async def visit() -> None:
            while waiting:
                file = waiting.pop()
                fault = await compare(session, peer, file)
                result.files += 1
                result.size_bytes += file.size_bytes
                if fault:
                    result.wrong.append(f"{peer.url.rstrip('/')}{file.path}: {fault}")

        await asyncio.gather(*(visit() for _ in range(VISITORS)))
    result.seconds = time.monotonic() - began
    return result


async def compare(session: aiohttp.ClientSession, peer: Peer, file: SiteFile) -> str | None:
    """What is wrong with a peer's answer for this file."""
    url = URL(peer.url.rstrip("/") + quote_path(file.path), encoded=True)
    try:
        async with session.get(url, allow_redirects=False) as response:
            if response.status != 200:
                return f"status {response.status}"
            media_type = response.headers.get("Content-Type")
            if media_type != media_type_of(file.path):
                return f"media type {media_type}"
            if response.headers.get("Content-Length") != str(file.size_bytes):
                return f"length {response.headers.get('Content-Length')}"
            with file.source.open("rb") as expected:
                async for chunk in response.content.iter_chunked(BLOCK_BYTES):
                    if expected.read(len(chunk)) != chunk:
                        return "other bytes"
                return "bytes are missing" if expected.read(1) else None
    except (aiohttp.ClientError, TimeoutError) as error:
        return f"broken off: {error or type(error).__name__}"


async def memory_of(peer: Peer) -> str:
    """Resident memory in MB, as `ps` tells it on Linux and macOS."""
    process = await asyncio.create_subprocess_exec(
        *("ps", "-o", "rss=", "-p", str(peer.process.pid)), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    return f"{int(output) / 1024:.0f}" if output.strip().isdigit() else "?"


if __name__ == "__main__":
    main()
