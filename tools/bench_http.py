"""The HTTP front end beside other servers: the same files, the same load, one core each.

Started by tools/bench, which prepares what this needs. It starts every server on one core, checks
its answers, and then lets wrk ask from another core, in rounds that go from server to server, so
that what the machine does meanwhile falls on all of them alike.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from bench_flags import Parser, names
from bench_kinds import KINDS, REFERENCE, BenchError, Kind
from bench_load import CASES, Case, Checked, Round, check, make_site, measure
from bench_machine import busy_note, machine
from bench_report import Measured, all_verdicts, as_json, print_report
from bench_servers import Memory, Server, running

ROUNDS_DEFAULT, ROUNDS_MAX = 5, 100
SECONDS_DEFAULT, SECONDS_MAX = 3, 600
# The largest case has 512 connections, the rest is ample.
DESCRIPTORS = 8192
# For the server to notice that the last round's connections are gone.
SETTLE_S = 0.3
MISSED_EXIT = 2

Words = list[str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    rounds: int
    seconds: int
    cases: list[Case]
    kinds: list[Kind]
    as_json: bool
    check: bool


def main() -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        sys.exit(bench(parse_options()))
    except BenchError as error:
        sys.exit(f"tools/bench http: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def parse_options(words: Words = None) -> Options:
    """Read the flags; raises `BenchError` for those that make no sense."""
    parser = Parser(
        prog="tools/bench http",
        description="Measure the HTTP front end beside other servers, on the same files.",
        epilog="Cases: "
        + "; ".join(f"{case.name} ({case.what})" for case in CASES.values())
        + ". Exit code: 0, or 1 when the run itself failed.",
    )
    parser.add_argument(
        "--rounds", metavar="N", type=int, default=ROUNDS_DEFAULT, help="default: %(default)s"
    )
    parser.add_argument(
        "--seconds",
        metavar="N",
        type=int,
        default=SECONDS_DEFAULT,
        help="of each round; default: %(default)s",
    )
    parser.add_argument("--cases", metavar="A,B", help="default: all")
    parser.add_argument(
        "--servers",
        metavar="A,B",
        help=f"of {', '.join(KINDS)}; default: all; {REFERENCE} always takes part",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "--check", action="store_true", help=f"exit with {MISSED_EXIT} if a target is missed"
    )
    given = parser.parse_args(words)
    if not 1 <= given.rounds <= ROUNDS_MAX:
        raise BenchError(f"--rounds is a number from 1 to {ROUNDS_MAX}")
    if not 1 <= given.seconds <= SECONDS_MAX:
        raise BenchError(f"--seconds is a number from 1 to {SECONDS_MAX}")
    servers = names("server", given.servers, list(KINDS))
    return Options(
        rounds=given.rounds,
        seconds=given.seconds,
        cases=[CASES[name] for name in names("case", given.cases, list(CASES))],
        kinds=[kind for kind in KINDS.values() if kind.name in (*servers, REFERENCE)],
        as_json=given.json,
        check=given.check,
    )


# --- the machine ---


def require_programs() -> None:
    # Debian has nginx where only the superuser's path leads.
    os.environ["PATH"] = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    packages = {"wrk": "wrk", "nginx": "nginx-light", "taskset": "util-linux"}
    missing = [name for name in packages if shutil.which(name) is None]
    if missing:
        raise BenchError(
            f"this needs {', '.join(missing)}: on Debian and Ubuntu, "
            f"apt-get install {' '.join(packages[name] for name in missing)}"
        )


def choose_cores() -> tuple[int, int]:
    """One core for the server and another for wrk, not two threads of the same one if possible."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise BenchError("this needs two cores, one for the server and one for wrk, and has one")
    server = cores[0]
    siblings = _cpu_list(Path(f"/sys/devices/system/cpu/cpu{server}/topology/thread_siblings_list"))
    apart = [core for core in cores[1:] if core not in siblings]
    return server, (apart or cores[1:])[0]


def _cpu_list(path: Path) -> set[int]:
    """A list such as "0,2-3"; nothing where the system does not tell."""
    try:
        parts = path.read_text().strip().split(",")
    except OSError:
        return set()
    cores: set[int] = set()
    for part in parts:
        first, _, last = part.partition("-")
        cores.update(range(int(first), int(last or first) + 1))
    return cores


def raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def wrk_version() -> str:
    wrk = subprocess.run(["wrk", "--version"], capture_output=True, text=True, check=False)
    return " ".join((wrk.stdout + wrk.stderr).split()[1:2])


# --- the run ---


def bench(options: Options) -> int:
    """Measure and tell; the exit code."""
    if not sys.platform.startswith("linux"):
        raise BenchError("this pins programs to cores and reads /proc, which only Linux has")
    require_programs()
    server_core, wrk_core = choose_cores()
    raise_descriptor_limit()
    on = {**machine(), "wrk": wrk_version()}
    load = os.getloadavg()[0]
    notes = _notes(load, server_core, wrk_core)
    runs = options.rounds * len(options.cases) * len(options.kinds)
    minutes = runs * (options.seconds + SETTLE_S) / 60
    _say(f"{on['cpu']}, {on['cores']} cores, {on['kernel']}, wrk {on['wrk']}")
    _say(f"{runs} rounds of {options.seconds} s: about {minutes:.0f} min")
    versions = {kind.name: kind.version() for kind in options.kinds}
    with tempfile.TemporaryDirectory(prefix="p2pweb-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        site = folder / "site"
        site.mkdir()
        digests = make_site(site, options.cases)
        with running(options.kinds, site, folder, server_core) as servers:
            checked = _check_all(servers, options.cases, digests, notes)
            measured: Measured = {
                case.name: _measure_case(case, servers, checked, options, wrk_core)
                for case in options.cases
            }
            memory: dict[str, Memory] = {server.name: server.memory() for server in servers}
    if options.as_json:
        run = {
            **on,
            "server_core": server_core,
            "wrk_core": wrk_core,
            "load_average_before": load,
            "seconds": options.seconds,
            "rounds": options.rounds,
        }
        print(json.dumps({"run": run, **as_json(measured, memory, versions, notes)}, indent=2))
    else:
        print_report(measured, memory, versions, notes)
    missed = any(not verdict.reached for verdict in all_verdicts(measured))
    return MISSED_EXIT if options.check and missed else 0


def _notes(load: float, server_core: int, wrk_core: int) -> list[str]:
    """What a reader of the figures has to know."""
    cores = f"the servers on core {server_core}, wrk with one thread on core {wrk_core}"
    notes = [f"{cores}; a server below 90% CPU has waited for wrk or for others on its core"]
    busy = busy_note(load)
    if busy is not None:
        notes.append(busy)
        _say(f"note: {notes[-1]}")
    return notes


def _check_all(
    servers: list[Server], cases: list[Case], digests: dict[str, str], notes: list[str]
) -> dict[tuple[str, str], Checked]:
    """Every server's answer to every case; raises `BenchError` for the first that is wrong."""
    checked: dict[tuple[str, str], Checked] = {}
    for server in servers:
        for case in cases:
            found = checked[server.name, case.name] = check(server, case, digests[case.path])
            if found.encoding:
                notes.append(
                    f"{server.name} answers {case.name} with {found.encoding} "
                    f"({found.received_bytes:,} bytes), which makes this file no smaller"
                )
    _say(f"{len(servers)} servers run, and {len(checked)} answers of theirs are right")
    return checked


def _measure_case(
    case: Case,
    servers: list[Server],
    checked: dict[tuple[str, str], Checked],
    options: Options,
    wrk_core: int,
) -> dict[str, list[Round]]:
    rounds: dict[str, list[Round]] = {server.name: [] for server in servers}
    for number in range(options.rounds):
        _say(f"{case.name}, round {number + 1} of {options.rounds}")
        first = number % len(servers)
        for server in servers[first:] + servers[:first]:
            time.sleep(SETTLE_S)
            answer = checked[server.name, case.name]
            rounds[server.name].append(measure(server, case, answer, options.seconds, wrk_core))
    return rounds


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
