"""The overlays that can be measured: ours, and what of others runs on this machine.

Stock `kademlia` is here anyway. The other rivals are installed at first use into a directory of
their own, so that nothing of theirs mixes with what the program needs, and one that this machine
cannot have is left out with the reason.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from bench_kinds import BenchError

TOOLS = Path(__file__).resolve().parent
# Beside what the program needs; .venv is ignored by git.
RIVALS_DEFAULT = TOOLS.parent / ".venv" / "rivals"
# A wheel or a package is a few megabytes; a registry that does not answer must not stop the rest.
INSTALL_S = 180.0
OURS = "ours"

Command = list[str]


class LeftOutError(Exception):
    """One sentence: why a rival takes no part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One of the overlays that can be measured."""

    name: str
    what: str
    # The longest value that one message of it carries, at most ours.
    value_bytes: int
    # A key that nobody has stored is so many random bytes.
    key_bytes: int
    # The command of a worker that hosts its nodes, once what it needs is in the directory.
    prepare: Callable[[Path], Command]
    version: Callable[[Path], str]


# --- how each is prepared ---


def _python_worker(name: str) -> Callable[[Path], Command]:
    """A worker that runs where the program runs."""
    return lambda _: [sys.executable, str(TOOLS / "bench_dht_worker.py"), name]


def _installed_worker(package: str) -> Callable[[Path], Command]:
    def prepare(rivals: Path) -> Command:
        python = _rivals_python(rivals)
        if _package_version(package)(rivals) == "":
            # Never built from source: that takes compilers and libraries that few machines have.
            _install(package, [str(python), *_PIP, package], rivals)
        return [str(python), str(TOOLS / "bench_dht_worker.py"), package]

    return prepare


_PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:")


def _rivals_python(rivals: Path) -> Path:
    python = rivals / "bin" / "python"
    if not python.exists():
        _say(f"preparing {rivals} for the rivals (once) ...")
        try:
            venv.create(rivals, with_pip=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise LeftOutError(f"a virtual environment cannot be made: {error}") from None
    return python


def _hyperdht_worker(rivals: Path) -> Command:
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    if missing:
        raise LeftOutError(f"this machine has no {' and no '.join(missing)}")
    if _hyperdht_version(rivals) == "":
        rivals.mkdir(parents=True, exist_ok=True)
        install = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(rivals), "hyperdht"]
        _install("hyperdht", install, rivals)
    return ["node", str(TOOLS / "bench_hyperdht.js"), str(rivals / "node_modules" / "hyperdht")]


def _install(package: str, command: Sequence[str], rivals: Path) -> None:
    _say(f"installing {package} into {rivals} (once) ...")
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALL_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise LeftOutError(f"it could not be installed within {INSTALL_S:.0f} s") from None
    except OSError as error:
        raise LeftOutError(f"it cannot be installed: {error}") from None
    if done.returncode != 0:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if "err" in line.lower()]
        raise LeftOutError(f"it does not install here: {(errors or lines or ['no reason'])[-1]}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# --- versions ---


def _versions(*packages: str) -> Callable[[Path], str]:
    return lambda _: ", ".join(f"{package} {version(package)}" for package in packages)


def _package_version(package: str) -> Callable[[Path], str]:
    """What is installed beside the rivals' Python; empty where it does not even load."""

    def installed(rivals: Path) -> str:
        code = (
            f"import {package}; from importlib.metadata import version;"
            f"print('{package} ' + version('{package}'))"
        )
        return _output([str(rivals / "bin" / "python"), "-c", code])

    return installed


def _hyperdht_version(rivals: Path) -> str:
    package = rivals / "node_modules" / "hyperdht"
    description = package / "package.json"
    code = f"require({str(package)!r}); console.log(require({str(description)!r}).version)"
    found = _output(["node", "-e", code])
    return f"hyperdht {found}, node {_output(['node', '--version'])}" if found else ""


def _output(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALL_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


SYSTEMS = {
    system.name: system
    for system in (
        System(
            name=OURS,
            what="Overlay: find_node, then STORE to the 8 closest, and to 12 more after the put",
            value_bytes=1024,
            key_bytes=20,
            prepare=_python_worker(OURS),
            version=_versions("p2pweb", "uvloop"),
        ),
        System(
            name="stock",
            what="kademlia's Server on uvloop: set and get; set waits for all 20",
            value_bytes=1024,
            key_bytes=20,
            prepare=_python_worker("stock"),
            version=_versions("kademlia", "rpcudp", "uvloop"),
        ),
        System(
            name="opendht",
            what="DhtRunner: put and get, 8 copies; no discovery, no limits; reads its own too",
            value_bytes=1024,
            key_bytes=20,
            prepare=_installed_worker("opendht"),
            version=_package_version("opendht"),
        ),
        System(
            name="libtorrent",
            # BEP 44 allows 1,000 bytes of bencode, of which four are the length.
            what="sessions: BEP 44 immutable items, up to 8 copies; only the DHT, no limits",
            value_bytes=996,
            key_bytes=20,
            prepare=_installed_worker("libtorrent"),
            version=_package_version("libtorrent"),
        ),
        System(
            name="hyperdht",
            what="immutablePut and immutableGet, 20 copies; nodes neither ephemeral nor firewalled",
            # The longest value that fits its one datagram.
            value_bytes=1000,
            key_bytes=32,
            prepare=_hyperdht_worker,
            version=_hyperdht_version,
        ),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A system whose workers can be started."""

    system: System
    command: Command
    version: str


def prepare(names: Sequence[str], rivals: Path) -> tuple[list[Ready], dict[str, str]]:
    """What can be measured of these, and why the rest cannot. Ours must run."""
    ready: list[Ready] = []
    left_out: dict[str, str] = {}
    for name in names:
        system = SYSTEMS[name]
        try:
            command = system.prepare(rivals)
            found = system.version(rivals)
            if not found:
                raise LeftOutError("it is installed and does not load")
            ready.append(Ready(system=system, command=command, version=found))
        except LeftOutError as error:
            left_out[name] = str(error)
    if not ready:
        raise BenchError(f"nothing can be measured: {'; '.join(left_out.values())}")
    return ready, left_out
