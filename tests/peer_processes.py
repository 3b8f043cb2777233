"""Real peers, each a process of its own, for tests that need nothing less."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from ports import free_ports as free_ports_of

from p2pweb import publish as publishing
from p2pweb.exchange.client import PeerClient
from p2pweb.keys import load_key_file
from p2pweb.peer_state import read_peer_state
from p2pweb.publish import PublishOptions, Summary

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "tools" / "site"
# How long a process may take to be ready or to stop, on a machine that does other work.
PATIENCE_S = 60.0


def free_ports(count: int) -> list[int]:
    """Port numbers that nobody uses, for TCP or for UDP."""
    return free_ports_of("127.0.0.1", count)


@dataclass
class Answer:
    status: int
    fields: dict[str, str]
    body: bytes


@dataclass
class PeerProcess:
    """One `p2pweb up`."""

    port: int
    data: Path
    join: list[int] = field(default_factory=list)
    process: subprocess.Popen[str] | None = None
    host: str = "127.0.0.1"

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def command(self) -> list[str]:
        joins = [word for port in self.join for word in ("--join", f"127.0.0.1:{port}")]
        return ["up", "--data", str(self.data), *joins]

    def start(self, *flags: str) -> Self:
        place = ("--port", str(self.port), "--host", self.host)
        self.data.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "p2pweb", *self.command(), *place, *flags],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        line = self.read_line()
        assert line.startswith("p2pweb ready"), self.log.read_text()
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def log(self) -> Path:
        return self.data.with_suffix(".log")

    @property
    def node_id(self) -> bytes:
        state = read_peer_state(self.data / "peer.json")
        assert state is not None
        return bytes.fromhex(state.node_id)

    def read_line(self) -> str:
        assert self.process is not None and self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], PATIENCE_S)
        return self.process.stdout.readline() if readable else ""

    def kill_9(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None
        return code

    def get(self, path: str, method: str = "GET", **fields: str) -> Answer:
        """One request on a connection of its own, with an HTTP client that is not ours."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE_S)
        with contextlib.closing(connection):
            names = {name.replace("_", "-"): value for name, value in fields.items()}
            connection.request(method, path, headers=names)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())

    def wait_for(self, path: str, wanted: bytes) -> None:
        """Ask until these bytes are served: for what a peer learns in the background."""
        deadline = time.monotonic() + PATIENCE_S
        while (found := self.get(path)).body != wanted:
            assert time.monotonic() < deadline, f"{path} is still {found.body[:80]!r}"


@dataclass
class PreviewProcess(PeerProcess):
    """One `p2pweb preview` of the directory `data`; its log stands beside it."""

    def command(self) -> list[str]:
        return ["preview", str(self.data)]


@contextlib.contextmanager
def preview(directory: Path) -> Iterator[PreviewProcess]:
    """A preview of a directory, which must lie where files may be written beside it."""
    process = PreviewProcess(free_ports(1)[0], directory)
    try:
        yield process.start()
    finally:
        process.kill_9()


@contextlib.contextmanager
def network(folder: Path, count: int) -> Iterator[list[PeerProcess]]:
    """So many peers that have joined by the first one, in `folder`/<number>."""
    ports = free_ports(count)
    peers = [
        PeerProcess(port, folder / str(number), ports[:1] if number else [])
        for number, port in enumerate(ports)
    ]
    with contextlib.ExitStack() as stack:
        for peer in peers:
            stack.callback(peer.kill_9)
            peer.start()
        yield peers


def run_cli(
    *words: str, patience_s: float = PATIENCE_S, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`p2pweb WORDS`, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "p2pweb", *words],
        capture_output=True,
        text=True,
        timeout=patience_s,
        env={**os.environ, **environment},
        check=False,
    )


def publish(directory: Path, peer: PeerProcess, key: Path, *flags: str) -> dict[str, object]:
    """Publish, and give the summary."""
    words = ["publish", str(directory), "--peer", peer.address, "--key", str(key), "--json"]
    done = run_cli(*words, *flags)
    assert done.returncode in (0, 2), done.stderr
    summary = json.loads(done.stdout)
    summary["exit code"] = done.returncode
    return summary


class _Quiet(publishing.Progress):
    """Hears nothing."""

    def phase(self, name: str, total_bytes: int) -> None: ...
    def advance(self, done_bytes: int) -> None: ...


async def publish_here(
    site: Path, peer: PeerProcess, key: Path, client: PeerClient | None = None
) -> Summary:
    """Publish from this process, with what a test has put into it; closes the client."""
    loop = asyncio.get_running_loop()
    client = client or PeerClient()
    try:
        return await publishing.publish(
            PublishOptions(
                directory=site,
                peer=("127.0.0.1", peer.port),
                key=lambda: load_key_file(key).key,
            ),
            client,
            _Quiet(),
            lambda: 1_800_000_000.0,
            random.Random(1),
            lambda call: loop.run_in_executor(None, call),
        )
    finally:
        await client.close()


def files_of(directory: Path) -> dict[str, bytes]:
    """Every file below a directory by URL path; none of the test sites needs quoting."""
    return {
        "/" + path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def assert_serves(peer: PeerProcess, files: dict[str, bytes]) -> None:
    """Every file, byte for byte, over one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", peer.port, timeout=PATIENCE_S)
    with contextlib.closing(connection):
        for path, expected in files.items():
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
            where = f"{path} through {peer.address}"
            assert response.status == 200, f"{where}: {response.status} {body!r}"
            assert body == expected, f"{where} is not what was published"
            assert response.getheader("Content-Length") == str(len(expected))
