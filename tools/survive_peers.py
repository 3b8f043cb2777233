"""The peers that tools/survive kills: real processes on loopback, and what is published on them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ports import free_ports

from p2pweb.peer_state import read_peer_state

HOST = "127.0.0.1"
# On a machine that does other work.
READY_S = 90.0
STOP_S = 60.0
PUBLISH_S = 180.0
# Processes being started for the first time, each of which is busy for a second with its imports.
STARTS_MAX = 4

Files = Mapping[str, bytes]  # What a version is to a visitor: URL path -> bytes.


class SurviveError(Exception):
    """One sentence for the person who started the tool: the run itself failed."""


@dataclass
class Peer:
    """One `p2pweb up`, through all its lives."""

    number: int
    port: int
    data: Path
    log: Path
    join: int | None = None
    more: tuple[str, ...] = ()
    """What else it is started with."""
    process: asyncio.subprocess.Process | None = None
    is_ready: bool = False
    lives: int = 0

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def node_id(self) -> bytes:
        state = read_peer_state(self.data / "peer.json")
        if state is None:
            raise SurviveError(f"peer {self.number} has forgotten its id")
        return bytes.fromhex(state.node_id)

    def words(self) -> list[str]:
        """What `p2pweb` is started with."""
        join = [] if self.join is None else ["--join", f"{HOST}:{self.join}"]
        place = ["--port", str(self.port), "--host", HOST, "--data", str(self.data)]
        return ["up", *place, *join, *self.more]

    async def spawn(self) -> None:
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "p2pweb", *self.words()),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        self.lives += 1

    async def start(self) -> None:
        """Start it, and wait until it is ready."""
        await self.spawn()
        assert self.process is not None and self.process.stdout is not None
        line = b""
        with contextlib.suppress(TimeoutError):
            line = await asyncio.wait_for(self.process.stdout.readline(), READY_S)
        self.check_ready(line)

    def check_ready(self, line: bytes) -> None:
        if not line.startswith(b"p2pweb ready"):
            lines = self.log.read_text(errors="replace").splitlines() or ["it says nothing"]
            raise SurviveError(f"peer {self.number} does not start: {lines[-1]}")
        self.is_ready = True

    async def kill(self) -> None:
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        await self._end(signal.SIGTERM)

    async def _end(self, number: signal.Signals) -> None:
        self.is_ready = False
        process, self.process = self.process, None
        if process is not None and process.returncode is None:
            process.send_signal(number)
            try:
                await asyncio.wait_for(process.wait(), STOP_S)
            except TimeoutError:
                process.kill()
                raise SurviveError(f"peer {self.number} does not stop") from None

    def tracebacks(self) -> int:
        return self.log.read_text(errors="replace").count("Traceback")


@dataclass(frozen=True, slots=True)
class Published:
    """What `publish` said: the exit code, the version, the fewest copies that it counted."""

    code: int
    seq: int
    copies: int
    told: str


def publish_words(site: Path, key: Path, through: Peer, copies: int) -> list[str]:
    words = ["publish", str(site), "--peer", through.address, "--key", str(key)]
    return [*words, "--json", "--copies", str(copies)]


def published(code: int, output: bytes, told: str) -> Published:
    summary = json.loads(output) if output else {"seq": 0, "copies": 0}
    last = (told.splitlines() or [""])[-1]
    return Published(code, summary["seq"], summary["copies"], last)


async def publish(site: Path, key: Path, through: Peer, copies: int) -> Published:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "p2pweb", *publish_words(site, key, through, copies)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, told = await asyncio.wait_for(process.communicate(), PUBLISH_S)
    except BaseException:
        process.kill()
        await process.wait()
        raise
    return published(process.returncode or 0, output, told.decode(errors="replace"))


@contextlib.asynccontextmanager
async def network(
    folder: Path, count: int, more: tuple[str, ...] = ()
) -> AsyncIterator[list[Peer]]:
    """So many peers that have joined by the first one; it joins again by the second."""
    peers = _peers_in(folder, count, more)
    limit = asyncio.Semaphore(STARTS_MAX)

    async def start(peer: Peer) -> None:
        async with limit:
            await peer.start()

    try:
        await peers[0].start()
        await asyncio.gather(*(start(peer) for peer in peers[1:]))
        peers[0].join = peers[1].port
        yield peers
    finally:
        await asyncio.gather(*(peer.kill() for peer in peers))


def _peers_in(folder: Path, count: int, more: tuple[str, ...]) -> list[Peer]:
    folder.mkdir(parents=True)
    ports = free_ports(HOST, count)
    return [
        Peer(
            number,
            port,
            folder / str(number),
            folder / f"{number}.log",
            join=ports[0] if number else None,
            more=more,
        )
        for number, port in enumerate(ports)
    ]


# --- what is published ---


@dataclass
class Site:
    """A directory to publish, and what to fill it with."""

    folder: Path
    rng: random.Random
    files: Files = field(default_factory=dict)

    def write(self, files: Files) -> None:
        """Make the directory hold just these."""
        for path in self.files.keys() - files.keys():
            (self.folder / path[1:]).unlink()
        for path, data in files.items():
            if self.files.get(path) != data:
                place = self.folder / path[1:]
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data)
        self.files = dict(files)

    def bytes(self, size: int) -> bytes:
        return self.rng.randbytes(size)

    def text(self, size: int) -> bytes:
        """What is worth compressing."""
        words = b"kill the peer and the copies of the site stay with others".split()
        lines = [b" ".join(self.rng.choices(words, k=12)) for _ in range(size // 50 + 1)]
        return b"\n".join(lines)[:size]
