"""What the rounds come to: medians, ratios, verdicts, the table and the JSON.

Ratios are made within a round, where both sides met the same machine, and their median is told.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from statistics import median

from bench_kinds import KINDS, REFERENCE
from bench_load import CASES, Case, Round
from bench_servers import Memory
from rich.console import Console
from rich.table import Table

MB = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A bound of ours: so many times another's figure at least (rate) or at most (p99)."""

    case: str
    bound: float
    figure: str = "rate"
    against: str = REFERENCE

    @property
    def at_most(self) -> bool:
        return self.figure == "p99_ms"

    def __str__(self) -> str:
        sign = "≤" if self.at_most else "≥"
        what = "p99 " if self.at_most else ""
        return f"{what}{sign} {self.bound:g} x {self.against}"


TARGETS = (
    Target(case="page", bound=1.0),
    Target(case="page", bound=20, against="aiohttp"),
    Target(case="page-browser", bound=1.1),
    Target(case="page-512", bound=0.9),
    Target(case="page-512", bound=1.25, figure="p99_ms"),
    Target(case="304", bound=0.8),
    Target(case="1m", bound=0.95),
    Target(case="100m", bound=0.95),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    target: Target
    ratio: float
    reached: bool


# The rounds of each server, by case and by server.
Measured = dict[str, dict[str, list[Round]]]


def ratio(ours: list[Round], theirs: list[Round], figure: str = "rate") -> float | None:
    """The median of the rounds' ratios; None where no round has both figures."""
    pairs = [
        (getattr(mine, figure), getattr(other, figure))
        for mine, other in zip(ours, theirs, strict=True)
    ]
    ratios = [mine / other for mine, other in pairs if mine > 0 and other > 0]
    return median(ratios) if ratios else None


def verdicts(measured: Measured, case: str, server: str) -> list[Verdict]:
    """Every target that can be judged; only our servers have targets."""
    if not KINDS[server].ours:
        return []
    found = []
    for target in TARGETS:
        if target.case != case or target.against not in measured[case]:
            continue
        ours, theirs = measured[case][server], measured[case][target.against]
        value = ratio(ours, theirs, target.figure)
        if value is None:
            continue
        within = value <= target.bound if target.at_most else value >= target.bound
        # A server that gives wrong answers reaches nothing.
        reached = within and not any(one.faults for one in ours)
        found.append(Verdict(target=target, ratio=value, reached=reached))
    return found


def all_verdicts(measured: Measured) -> list[Verdict]:
    return [
        verdict
        for case, servers in measured.items()
        for server in servers
        for verdict in verdicts(measured, case, server)
    ]


def median_of(rounds: list[Round], figure: str) -> float:
    return median(getattr(one, figure) for one in rounds)


def faults(rounds: list[Round]) -> list[str]:
    return [f"round {n}: {fault}" for n, one in enumerate(rounds, 1) for fault in one.faults]


# --- for people ---


def console() -> Console:
    """Standard output; in a file, lines of one length."""
    return Console(width=None if Console().is_terminal else 120, highlight=False)


def verdict_word(*, reached: bool) -> str:
    return "[green]reached[/]" if reached else "[red]missed[/]"


def print_report(
    measured: Measured, memory: dict[str, Memory], versions: dict[str, str], notes: list[str]
) -> None:
    out = console()
    for case_name, servers in measured.items():
        out.print(_case_table(measured, CASES[case_name], servers))
    out.print(_memory_table(memory, versions))
    wrong = [
        f"fault: {case}, {server}, {fault}"
        for case, servers in measured.items()
        for server, rounds in servers.items()
        for fault in faults(rounds)
    ]
    for line in (*wrong, *notes):
        out.print(line, markup=False)
    judged = all_verdicts(measured)
    missed = sum(not verdict.reached for verdict in judged)
    out.print(f"targets: {len(judged) - missed} reached, {missed} missed")


def _case_table(measured: Measured, case: Case, servers: dict[str, list[Round]]) -> Table:
    table = Table(title=f"{case.name}: {case.what}", title_justify="left", title_style="bold")
    unit = "MB/s" if case.by_bytes else "answers/s"
    table.add_column("server", min_width=13)
    headings = (unit, f"x {REFERENCE}", "p50 ms", "p99 ms", "server CPU", "wrk CPU", "faults")
    for heading in headings:
        table.add_column(heading, justify="right")
    table.add_column("targets")
    for server, rounds in servers.items():
        rate = median_of(rounds, "rate")
        own_ratio = ratio(rounds, servers[REFERENCE])
        table.add_row(
            server,
            f"{rate / MB:,.0f}" if case.by_bytes else f"{rate:,.0f}",
            "-" if own_ratio is None else f"{own_ratio:.2f}",
            *(_milliseconds(median_of(rounds, figure)) for figure in ("p50_ms", "p99_ms")),
            *(f"{median_of(rounds, figure):.0%}" for figure in ("server_cpu", "wrk_cpu")),
            str(len(faults(rounds))),
            "\n".join(_verdict_line(one) for one in verdicts(measured, case.name, server)),
        )
    return table


def _milliseconds(value_ms: float) -> str:
    # wrk has no latency where no answer has ended.
    return f"{value_ms:,.2f}" if value_ms else "-"


def _verdict_line(verdict: Verdict) -> str:
    return f"{verdict.ratio:.2f} {verdict.target}: {verdict_word(reached=verdict.reached)}"


def _memory_table(memory: dict[str, Memory], versions: dict[str, str]) -> Table:
    table = Table(title="servers, and their memory after all cases", title_justify="left")
    table.title_style = "bold"
    table.add_column("server", min_width=13)
    for heading in ("processes", "RSS MB", "PSS MB", "peak RSS MB"):
        table.add_column(heading, justify="right")
    table.add_column("what it is")
    for server, of in memory.items():
        table.add_row(
            server,
            str(of.processes),
            f"{of.rss_bytes / MB:.0f}",
            "-" if of.pss_bytes is None else f"{of.pss_bytes / MB:.0f}",
            f"{of.peak_rss_bytes / MB:.0f}",
            f"{KINDS[server].what}\n({versions[server]})",
        )
    return table


# --- for programs ---


def as_json(
    measured: Measured, memory: dict[str, Memory], versions: dict[str, str], notes: list[str]
) -> dict[str, object]:
    """The figures; the caller adds what it knows of the machine and the run."""
    return {
        "notes": notes,
        "servers": [
            {
                "name": server,
                "what": KINDS[server].what,
                "versions": versions[server],
                "memory": dataclasses.asdict(memory[server]),
            }
            for server in memory
        ],
        "cases": [
            {
                **dataclasses.asdict(CASES[case]),
                "unit": "bytes/s" if CASES[case].by_bytes else "answers/s",
                "servers": [_server_json(measured, case, server) for server in servers],
            }
            for case, servers in measured.items()
        ],
    }


def _server_json(measured: Measured, case: str, server: str) -> dict[str, object]:
    rounds = measured[case][server]
    return {
        "name": server,
        "ratio": ratio(rounds, measured[case][REFERENCE]),
        **{
            figure: median_of(rounds, figure)
            for figure in ("rate", "p50_ms", "p99_ms", "server_cpu", "wrk_cpu")
        },
        "faults": faults(rounds),
        "targets": [
            {"target": str(one.target), "ratio": one.ratio, "reached": one.reached}
            for one in verdicts(measured, case, server)
        ],
        "rounds": [dataclasses.asdict(one) for one in rounds],
    }
