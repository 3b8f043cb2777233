"""What the rounds of tools/bench dht come to: percentiles, goals, the tables and the JSON.

A percentile is of the calls that ended as they should: of puts that were acknowledged, of hits that
found their value, of misses that ended without one. The others are counted beside it, and where one
of ours failed that need not have, no goal is reached.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from statistics import median

from bench_dht_kinds import OURS, SYSTEMS
from bench_dht_network import COPIES_UNTOLD, MISSING, PATIENCE_S, Calls
from bench_dht_publish import COPIES, Published
from bench_report import console, verdict_word
from rich.table import Table

FOUND = "found"
PERCENTILES = (50, 95, 99)
# So many hits of each round meet the network as it is just after the deaths.
FIRST_HITS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Calls of one kind in one cell, over all rounds."""

    wanted: int
    made: int
    # Under way at the same time, at most.
    at_once: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    outcomes: dict[str, int]
    # Acknowledged, of the puts whose system tells: the median.
    copies: float | None
    # The fewest, of those that ended as they should.
    copies_least: int | None
    # Not found because nobody who held them lives any longer.
    lost: int = 0

    def failed(self, right: str) -> int:
        """Calls that ended otherwise than they could have."""
        return self.made - self.outcomes.get(right, 0) - self.lost


@dataclass(slots=True, kw_only=True)
class Cell:
    """One system in a network of a size of which so many percent died."""

    system: str
    nodes: int
    killed: int
    puts: list[Calls] = field(default_factory=list)
    hits: list[Calls] = field(default_factory=list)
    misses: list[Calls] = field(default_factory=list)
    lost: int = 0
    # Of the first hits of each round.
    first_lost: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A bound of ours in milliseconds."""

    what: str
    calls: str
    figure: str
    below_ms: float
    nodes: int | None = None
    killed: int | None = None


GOALS = (
    Goal(
        calls="hits",
        nodes=200,
        killed=30,
        figure="p99_ms",
        below_ms=20,
        what="a hit just after 30% of 200 died",
    ),
    Goal(
        calls="hits",
        nodes=200,
        killed=50,
        figure="p99_ms",
        below_ms=100,
        what="a hit just after 50% of 200 died",
    ),
    Goal(
        calls="misses",
        nodes=200,
        killed=30,
        figure="p99_ms",
        below_ms=100,
        what="a miss proven just after 30% of 200 died",
    ),
    Goal(
        calls="puts",
        nodes=200,
        figure="p50_ms",
        below_ms=4,
        what="a value put on 8 of 200, acknowledged",
    ),
    Goal(
        calls="publish",
        figure="p50_ms",
        below_ms=4,
        what="the bundle of one small file placed on 8 peers' disks",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    goal: Goal
    # None where no call ended as it should.
    ms: float | None
    reached: bool
    # What else than the time stands against it.
    but: str = ""


def percentile(sorted_ms: Sequence[float], percent: int) -> float | None:
    """The smallest time that so many percent do not exceed; None of nothing."""
    if not sorted_ms:
        return None
    return sorted_ms[max(0, ceil(len(sorted_ms) * percent / 100) - 1)]


def tally(rounds: Sequence[Calls], right: str, lost: int = 0) -> Tally:
    """All rounds together."""
    made = [call for one in rounds for call in one.made]
    outcomes: dict[str, int] = {}
    for call in made:
        outcomes[call.outcome] = outcomes.get(call.outcome, 0) + 1
    copies = [call.copies for call in made if call.copies != COPIES_UNTOLD]
    right_calls = [call for call in made if call.outcome == right]
    told = [call.copies for call in right_calls if call.copies != COPIES_UNTOLD]
    good = sorted(call.ms for call in right_calls)
    p50, p95, p99 = (percentile(good, percent) for percent in PERCENTILES)
    return Tally(
        wanted=sum(one.wanted for one in rounds),
        made=len(made),
        at_once=max((one.at_once for one in rounds), default=1),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        max_ms=good[-1] if good else None,
        copies=median(copies) if copies else None,
        copies_least=min(told, default=None),
        outcomes=dict(sorted(outcomes.items())),
        lost=lost,
    )


def puts_of(cells: Sequence[Cell], system: str, nodes: int) -> Tally:
    """Puts were made while everybody lived: those of all cells of a size are of one kind."""
    rounds = [
        one for cell in cells if (cell.system, cell.nodes) == (system, nodes) for one in cell.puts
    ]
    return tally(rounds, FOUND)


def first_hits(cell: Cell) -> Tally:
    """The first hits of each round; too few for percentiles other than the middle."""
    rounds = [
        Calls(made=one.made[:FIRST_HITS], wanted=min(one.wanted, FIRST_HITS)) for one in cell.hits
    ]
    figures = tally(rounds, FOUND, cell.first_lost)
    return dataclasses.replace(figures, p95_ms=None, p99_ms=None)


def verdicts(cells: Sequence[Cell], published: Published | None) -> list[Verdict]:
    """Every goal for which there are figures."""
    found: list[Verdict] = []
    for goal in GOALS:
        judged = _judged(goal, cells, published)
        if judged is None:
            continue
        figures, right = judged
        ms = getattr(figures, goal.figure)
        but = _but(figures, right)
        reached = ms is not None and ms < goal.below_ms and not but
        found.append(Verdict(goal=goal, ms=ms, reached=reached, but=but))
    return found


def _but(figures: Tally, right: str) -> str:
    """What else than the time stands against a goal."""
    failed = figures.failed(right)
    if not figures.made:
        return "no call was made"
    if failed:
        return "all failed" if failed == figures.made else f"{failed} of {figures.made} failed"
    if figures.copies_least is not None and figures.copies_least < COPIES:
        return f"{figures.copies_least} copies only"
    return ""


def _judged(
    goal: Goal, cells: Sequence[Cell], published: Published | None
) -> tuple[Tally, str] | None:
    """The calls that a goal is about, and how they should end; None where there are none."""
    if goal.calls == "publish":
        return None if published is None else (tally([published.calls], FOUND), FOUND)
    ours = [cell for cell in cells if cell.system == OURS and cell.nodes == goal.nodes]
    if goal.calls == "puts":
        ours = [cell for cell in ours if cell.puts]
        return (puts_of(ours, OURS, goal.nodes or 0), FOUND) if ours else None
    for cell in ours:
        if cell.killed == goal.killed and goal.calls == "hits" and cell.hits:
            return tally(cell.hits, FOUND, cell.lost), FOUND
        if cell.killed == goal.killed and goal.calls == "misses" and cell.misses:
            return tally(cell.misses, MISSING), MISSING
    return None


# --- for people ---


def print_report(
    cells: Sequence[Cell],
    published: Published | None,
    versions: dict[str, str],
    left_out: dict[str, str],
    notes: Sequence[str],
) -> None:
    out = console()
    out.print(_systems_table(versions))
    for nodes in dict.fromkeys(cell.nodes for cell in cells):
        out.print(_puts_table(cells, nodes))
        for killed in dict.fromkeys(cell.killed for cell in cells):
            there = [cell for cell in cells if (cell.nodes, cell.killed) == (nodes, killed)]
            if there:
                out.print(_gets_table(there, nodes, killed))
    if published is not None:
        out.print(_publish_table(published))
    judged = verdicts(cells, published)
    if judged:
        out.print(_goals_table(judged))
    for name, reason in left_out.items():
        out.print(f"{name} is left out: {reason}", markup=False)
    for note in notes:
        out.print(note, markup=False)
    missed = sum(not one.reached for one in judged)
    out.print(f"goals: {len(judged) - missed} reached, {missed} missed")


def _table(title: str, first: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column(first, min_width=10)
    return table


def _systems_table(versions: dict[str, str]) -> Table:
    table = _table("what is measured", "system")
    table.add_column("value bytes", justify="right")
    table.add_column("how")
    for name, version in versions.items():
        system = SYSTEMS[name]
        table.add_row(name, f"{system.value_bytes:,}", f"{system.what}\n({version})")
    return table


def _figures_table(title: str) -> Table:
    table = _table(title, "system")
    headings = ("", "p50 ms", "p95 ms", "p99 ms", "max ms", "made", "at once")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "" else "right")
    table.add_column("other ends")
    return table


def _add_row(table: Table, name: str, what: str, figures: Tally, right: str) -> None:
    table.add_row(
        name,
        what,
        *(_ms(one) for one in (figures.p50_ms, figures.p95_ms, figures.p99_ms, figures.max_ms)),
        f"{figures.made:,}"
        if figures.made == figures.wanted
        else f"{figures.made:,} of {figures.wanted:,}",
        str(figures.at_once),
        _others(figures, right),
    )


def _others(figures: Tally, right: str) -> str:
    """How the other calls ended, those first whose holders are all dead."""
    words = [f"{figures.lost} lost with their holders"] if figures.lost else []
    for outcome, count in figures.outcomes.items():
        if outcome == MISSING:
            count -= figures.lost
        if outcome != right and count > 0:
            words.append(f"{count} {'not found' if outcome == MISSING else outcome}")
    return ", ".join(words)


def _puts_table(cells: Sequence[Cell], nodes: int) -> Table:
    table = _figures_table(f"{nodes} nodes, all alive: puts")
    for name in dict.fromkeys(cell.system for cell in cells if cell.nodes == nodes):
        figures = puts_of(cells, name, nodes)
        copies = "" if figures.copies is None else f", {figures.copies:g} copies"
        _add_row(table, name, f"put{copies}", figures, FOUND)
    return table


def _gets_table(cells: Sequence[Cell], nodes: int, killed: int) -> Table:
    died = f"just after {killed}% of them were killed" if killed else "all alive"
    table = _figures_table(f"{nodes} nodes, {died}: gets")
    for cell in cells:
        _add_row(table, cell.system, "hit", tally(cell.hits, FOUND, cell.lost), FOUND)
        if killed:
            _add_row(table, "", "first hits", first_hits(cell), FOUND)
        _add_row(table, "", "miss", tally(cell.misses, MISSING), MISSING)
    return table


def _publish_table(published: Published) -> Table:
    table = _figures_table("ours: a small file published to real peers, with its parts")
    _add_row(table, OURS, "publish", tally([published.calls], FOUND), FOUND)
    for what, made in published.parts.items():
        _add_row(table, "", what, tally([Calls(made=made, wanted=len(made))], FOUND), FOUND)
    return table


def _goals_table(judged: Sequence[Verdict]) -> Table:
    table = _table("goals of ours", "what")
    for heading in ("figure", "below ms", "is ms"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for one in judged:
        word = verdict_word(reached=one.reached)
        table.add_row(
            one.goal.what,
            one.goal.figure.removesuffix("_ms"),
            f"{one.goal.below_ms:g}",
            _ms(one.ms),
            f"{word}: {one.but}" if one.but else word,
        )
    return table


def _ms(value_ms: float | None) -> str:
    if value_ms is None:
        return "-"
    return f"{value_ms:,.2f}" if value_ms < 100 else f"{value_ms:,.0f}"


# --- for programs ---


def as_json(
    cells: Sequence[Cell],
    published: Published | None,
    versions: dict[str, str],
    left_out: dict[str, str],
    notes: Sequence[str],
) -> dict[str, object]:
    """The figures; the caller adds what it knows of the machine and the run."""
    sizes = dict.fromkeys((cell.system, cell.nodes) for cell in cells)
    return {
        "notes": list(notes),
        "patience_s": PATIENCE_S,
        "systems": [
            {
                "name": name,
                "what": SYSTEMS[name].what,
                "value_bytes": SYSTEMS[name].value_bytes,
                "version": version,
            }
            for name, version in versions.items()
        ],
        "left_out": left_out,
        "puts": [
            {"system": name, "nodes": nodes, **dataclasses.asdict(puts_of(cells, name, nodes))}
            for name, nodes in sizes
        ],
        "gets": [
            {
                "system": cell.system,
                "nodes": cell.nodes,
                "killed_percent": cell.killed,
                "hits": dataclasses.asdict(tally(cell.hits, FOUND, cell.lost)),
                "first_hits": dataclasses.asdict(first_hits(cell)),
                "misses": dataclasses.asdict(tally(cell.misses, MISSING)),
            }
            for cell in cells
        ],
        "publish": None if published is None else _publish_json(published),
        "goals": [
            {**dataclasses.asdict(one.goal), "ms": one.ms, "reached": one.reached, "but": one.but}
            for one in verdicts(cells, published)
        ],
    }


def _publish_json(published: Published) -> dict[str, object]:
    return {
        **dataclasses.asdict(tally([published.calls], FOUND)),
        "parts": {
            what: dataclasses.asdict(tally([Calls(made=made, wanted=len(made))], FOUND))
            for what, made in published.parts.items()
        },
    }
