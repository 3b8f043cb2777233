"""A server that runs: its start, what it costs, and its end.

Every server is a process of its own (nginx: two) in a process group of its own, pinned to one
core, with all that it writes in one temporary directory. It is ended by its process id, and by
that of its group where something of it is left.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench_kinds import HOST, BenchError, Kind, Place
from ports import free_ports

READY_S = 30.0
STOP_S = 15.0
# Publishing copies every file and waits for nobody else: there is one peer.
PUBLISH_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Of a server's processes together; None where the system does not tell."""

    processes: int
    rss_bytes: int
    pss_bytes: int | None
    # The sum of each process's own peak, which they need not have had at the same time.
    peak_rss_bytes: int


class Server:
    """A server that runs, from `start` to `stop`."""

    def __init__(self, kind: Kind, place: Place) -> None:
        self.kind = kind
        self.place = place
        self._log = place.folder / "log"
        self._environment = {
            **os.environ,
            "XDG_CONFIG_HOME": str(place.folder),
            "XDG_DATA_HOME": str(place.folder),
            # The ready line goes to a file.
            "PYTHONUNBUFFERED": "1",
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return self.kind.name

    @property
    def port(self) -> int:
        return self.place.port

    def start(self, core: int) -> None:
        """Start it on this core, and return once it serves."""
        command = ["taskset", "--cpu-list", str(core), *self.kind.command(self.place)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.place.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the tool, which then stops its servers in order.
                start_new_session=True,
            )
        deadline = time.monotonic() + READY_S
        while not self._is_ready():
            self.check_alive()
            if time.monotonic() > deadline:
                raise BenchError(f"{self.name} does not start: {self._last_words()}")
            time.sleep(0.05)
        if self.kind.prepare is not None:
            self._prepare(self.kind.prepare(self.place))

    def _is_ready(self) -> bool:
        if self.kind.ready is not None:
            said = self._log.read_text(errors="replace")
            return any(line.startswith(self.kind.ready) for line in said.splitlines())
        try:
            socket.create_connection((HOST, self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def _prepare(self, command: list[str]) -> None:
        with self._log.open("ab") as log:
            done = subprocess.run(
                command,
                cwd=self.place.folder,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=PUBLISH_S,
                check=False,
            )
        if done.returncode != 0:
            raise BenchError(f"{self.name} cannot be given its files: {self._last_words()}")

    def check_alive(self) -> None:
        assert self._process is not None
        code = self._process.poll()
        if code is not None:
            raise BenchError(f"{self.name} has ended with code {code}: {self._last_words()}")

    def _last_words(self) -> str:
        """The last line that it has written anywhere, to say why it does not serve."""
        for log in (self._log, self.place.folder / "error.log"):
            if log.exists():
                lines = log.read_text(errors="replace").strip().splitlines()
                if lines:
                    return lines[-1].strip()
        return "it says nothing"

    def terminate(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def stop(self) -> None:
        """End it, by force where it does not go in time; safe to call at any time."""
        if self._process is None:
            return
        self.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process = None

    def cpu_s(self) -> float:
        """Seconds of processor time that its processes have used so far."""
        ticks = 0
        for pid in self._pids():
            with contextlib.suppress(OSError):
                fields = _stat_fields(Path(f"/proc/{pid}/stat"))
                ticks += int(fields[11]) + int(fields[12])  # utime and stime
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory(self) -> Memory:
        rss = peak = pss = 0
        pss_known = True
        pids = self._pids()
        for pid in pids:
            status = _sizes(Path(f"/proc/{pid}/status"))
            rollup = _sizes(Path(f"/proc/{pid}/smaps_rollup"))
            rss += rollup.get("Rss", status.get("VmRSS", 0))
            peak += status.get("VmHWM", 0)
            pss += rollup.get("Pss", 0)
            pss_known = pss_known and "Pss" in rollup
        return Memory(
            processes=len(pids),
            rss_bytes=rss,
            pss_bytes=pss if pss_known else None,
            peak_rss_bytes=peak,
        )

    def _pids(self) -> list[int]:
        """The server's process and all that descend from it."""
        assert self._process is not None
        children: dict[int, list[int]] = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                parent = int(_stat_fields(path)[1])
                children.setdefault(parent, []).append(int(path.parent.name))
        pids = [self._process.pid]
        for pid in pids:  # It grows meanwhile.
            pids += children.get(pid, [])
        return pids


def _stat_fields(path: Path) -> list[str]:
    """The fields of /proc/PID/stat from the third (proc(5)); the second may hold anything."""
    return path.read_text().rpartition(")")[2].split()


def _sizes(path: Path) -> dict[str, int]:
    """The lines "Name:  123 kB" of a file in /proc, in bytes; none if it cannot be read."""
    sizes: dict[str, int] = {}
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            name, _, rest = line.partition(":")
            words = rest.split()
            if len(words) == 2 and words[1] == "kB":
                sizes[name] = int(words[0]) * 1024
    return sizes


@contextlib.contextmanager
def running(kinds: list[Kind], site: Path, folder: Path, core: int) -> Iterator[list[Server]]:
    """All of these servers on one core, until the end of the block, however it comes."""
    servers: list[Server] = []
    try:
        for kind, port in zip(kinds, free_ports(HOST, len(kinds)), strict=True):
            own = folder / kind.name
            own.mkdir()
            servers.append(Server(kind, Place(site=site, folder=own, port=port)))
            servers[-1].start(core)
        yield servers
    finally:
        # A second Ctrl-C must not leave servers behind; this takes `STOP_S` at most for each.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        for server in servers:
            server.terminate()
        for server in servers:
            server.stop()
