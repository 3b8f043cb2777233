"""The processes that tools/abuse attacks, and what the system says that they hold.

Memory and connections are read from /proc; where there is none, neither is told.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from abuse_visitors import HOST

READY_S = 30.0
STOP_S = 15.0
PUBLISH_S = 120.0
WATCH_EVERY_S = 0.2
PAGE_BYTES = 10 * 1024
FILM_BYTES = 8 * 1024 * 1024
LONG_BYTES = 100 * 1024 * 1024


class AbuseError(Exception):
    """One sentence for the person who started the tool: the run itself failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    name: str
    port: int
    pid: int

    def rss_bytes(self) -> int | None:
        try:
            text = Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            return None
        return next(
            int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmRSS:")
        )

    def connections(self) -> int | None:
        """How many connections it has accepted: its sockets, each of them counted once."""
        names: set[str] = set()
        try:
            for opened in Path(f"/proc/{self.pid}/fd").iterdir():
                try:
                    names.add(str(opened.readlink()))
                except FileNotFoundError:
                    continue  # Closed in this moment.
        except OSError:
            return None
        return sum(name.startswith("socket:") for name in names)


@dataclass
class Watch:
    """The most that a server held while it was watched."""

    server: Server
    before_bytes: int | None = None
    peak_bytes: int | None = None
    connections: int | None = None

    async def __aenter__(self) -> Watch:
        self.before_bytes = self.peak_bytes = self.server.rss_bytes()
        # Its listeners and what the event loop has for itself.
        self._others = self.server.connections() or 0
        self._watching = asyncio.ensure_future(self._keep_looking())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._watching.cancel()
        await asyncio.gather(self._watching, return_exceptions=True)

    async def _keep_looking(self) -> None:
        while True:
            if (rss := self.server.rss_bytes()) is not None:
                self.peak_bytes = max(rss, self.peak_bytes or 0)
            if (count := self.server.connections()) is not None:
                self.connections = max(count - self._others, self.connections or 0)
            await asyncio.sleep(WATCH_EVERY_S)


def make_site(folder: Path) -> None:
    folder.mkdir()
    noise = random.Random(1)
    (folder / "index.html").write_bytes(noise.randbytes(PAGE_BYTES))
    (folder / "film.mp4").write_bytes(noise.randbytes(FILM_BYTES))
    with (folder / "long.bin").open("wb") as file:
        file.truncate(LONG_BYTES)


def free_port() -> int:
    """A port that nobody uses, for TCP and for UDP."""
    while True:
        with (
            socket.socket() as stream,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram,
        ):
            stream.bind((HOST, 0))
            port: int = stream.getsockname()[1]
            try:
                datagram.bind((HOST, port))
            except OSError:
                continue
            return port


@asynccontextmanager
async def preview(site: Path, folder: Path) -> AsyncIterator[Server]:
    async with _started("preview", folder, "preview", str(site)) as server:
        yield server


@asynccontextmanager
async def peer(site: Path, folder: Path) -> AsyncIterator[Server]:
    """A peer with the site on it."""
    async with _started("peer", folder, "up", "--data", str(folder / "data")) as server:
        words = ("publish", str(site), "--peer", f"{HOST}:{server.port}")
        with (folder / "publish.log").open("wb") as log:
            publishing = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "p2pweb", *words, "--key", str(folder / "key")),
                stdout=log,
                stderr=log,
            )
            code = await asyncio.wait_for(publishing.wait(), PUBLISH_S)
        if code not in (0, 2):
            raise AbuseError(f"the site cannot be published: {_last_line(Path(log.name))}")
        yield server


@asynccontextmanager
async def _started(name: str, folder: Path, *words: str) -> AsyncIterator[Server]:
    port = free_port()
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "p2pweb", *words, "--port", str(port), "--host", HOST),
            stdout=asyncio.subprocess.PIPE,
            stderr=output,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    assert process.stdout is not None
    try:
        try:
            line = await asyncio.wait_for(process.stdout.readline(), READY_S)
        except TimeoutError:
            line = b""
        if not line.startswith(b"p2pweb ready"):
            raise AbuseError(f"the {name} does not start: {_last_line(log)}")
        yield Server(name=name, port=port, pid=process.pid)
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_S)
            except TimeoutError:
                process.kill()
                await process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it says nothing"
