"""`tools/simulate`: runs a scenario, shows what came of it, says how to see a failure again."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import traceback
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from p2pweb.dht.settings import DEFAULTS
from p2pweb.errors import UsageError
from p2pweb.sim.arrivals import Arrival
from p2pweb.sim.report import Report, percentile, report
from p2pweb.sim.run import run
from p2pweb.sim.scenario import Scenario, read_scenario, validated

SCENARIOS = Path(__file__).parent / "scenarios"
# What `--vary` may change beside the overlay's settings.
OF_THE_SCENARIO = {"peers": int, "hours": float}

WIDE_COLUMNS = 160
# The report goes to standard output, and all else beside it.
err = Console(stderr=True)


class FailedRunError(Exception):
    """The run itself broke off."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("scenario")
@click.option("--peers", type=click.IntRange(1, 100_000), help="How many peers.")
@click.option("--hours", type=click.FloatRange(min=0.0, min_open=True), help="Virtual hours.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="A setting's value.")
@click.option(
    "--vary",
    metavar="NAME=A,B,C",
    help="A run for each value of a setting, of `peers` or of `hours`, side by side.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option(
    "--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw a PNG or SVG file."
)
def main(
    scenario: str,
    peers: int | None,
    hours: float | None,
    seed: int,
    changes: tuple[str, ...],
    vary: str | None,
    as_json: bool,
    plot: Path | None,
) -> None:
    """Run SCENARIO: the path of a TOML file, or a name out of tools/scenarios.

    Everything follows from the seed: the same one gives the same run, datagram for datagram. Exit
    code 1 where the run has not shown what its scenario expects.
    """
    here = Path(os.environ.get("P2PWEB_SIMULATE_CWD", "."))
    if plot is not None:
        plot = here / plot
        if plot.suffix not in (".png", ".svg"):
            raise UsageError(f"--plot {plot.name}: the name has to end in .png or .svg")
        if not plot.parent.is_dir():
            raise UsageError(f"--plot {plot}: there is no folder {plot.parent}")
    base = _changed(_scenario(scenario, here), {"peers": peers, "hours": hours}, changes)
    varied = _varied(base, vary)
    reports: list[Report] = []
    for _, one in varied:
        try:
            reports.append(_run(one, seed))
        except FailedRunError as error:
            err.print(f"[red]{error}[/]\n{_replay(scenario, one, seed)}", soft_wrap=True)
            sys.exit(1)
    if as_json:
        shown = reports if vary else reports[0]
        print(msgspec.json.format(msgspec.json.encode(shown)).decode())
    elif vary:
        _show_side_by_side(vary.partition("=")[0], [name for name, _ in varied], reports)
    else:
        _show(reports[0])
    if plot is not None:
        # Half a second to import, and not needed otherwise.
        import simulate_plot

        if vary:
            simulate_plot.draw_curve(plot, vary.partition("=")[0], varied, reports)
        else:
            simulate_plot.draw_run(plot, reports[0])
    failed = [number for number, one in enumerate(reports) if one.missed]
    for number in failed:
        for what in [*reports[number].missed, *reports[number].violations, *reports[number].faults]:
            err.print(f"[red]not as expected:[/] {what}", soft_wrap=True)
        err.print(_replay(scenario, varied[number][1], seed), soft_wrap=True)
    sys.exit(1 if failed else 0)


def _scenario(name: str, here: Path) -> Scenario:
    path = here / name
    if not path.exists() and "/" not in name:
        path = SCENARIOS / f"{name}.toml"
    if not path.exists():
        known = ", ".join(sorted(one.stem for one in SCENARIOS.glob("*.toml")))
        raise UsageError(f"there is no scenario {name}; those that come along are {known}")
    return read_scenario(path)


def _changed(
    scenario: Scenario, flags: dict[str, int | float | None], changes: tuple[str, ...]
) -> Scenario:
    flags = {name: value for name, value in flags.items() if value is not None}
    scenario = _checked(msgspec.structs.replace(scenario, **flags))
    for change in changes:
        name, _, value = change.partition("=")
        scenario = _with(scenario, name, value)
    return scenario


def _varied(scenario: Scenario, vary: str | None) -> list[tuple[str, Scenario]]:
    if vary is None:
        return [("", scenario)]
    name, _, values = vary.partition("=")
    return [(value, _with(scenario, name, value)) for value in values.split(",")]


def _with(scenario: Scenario, name: str, value: str) -> Scenario:
    try:
        if name in OF_THE_SCENARIO:
            change = {name: OF_THE_SCENARIO[name](value)}
        else:
            change = {"settings": {**scenario.settings, name: _setting(name, value)}}
    except ValueError:
        raise UsageError(f"{name}={value}: the value has to be a number") from None
    return _checked(msgspec.structs.replace(scenario, **change))


def _setting(name: str, value: str) -> int | float | list[float]:
    """One number, or several with commas where the setting is a row of them."""
    if isinstance(getattr(DEFAULTS, name, None), tuple):
        return [float(word) for word in value.split(",")]
    number = float(value)
    return int(number) if number.is_integer() and "." not in value else number


def _checked(scenario: Scenario) -> Scenario:
    return validated(msgspec.to_builtins(scenario), "the scenario as changed")


def _run(scenario: Scenario, seed: int) -> Report:
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )
    with bar:
        task = bar.add_task("joining", total=1.0)

        def progress(what: str, share: float) -> None:
            bar.update(task, description=what, completed=share)

        try:
            return report(run(scenario, seed, progress))
        except UsageError:
            raise
        except Exception as error:  # whatever a peer raised ends the run
            with tempfile.NamedTemporaryFile(
                "w", prefix="simulate-", suffix=".log", delete=False
            ) as log:
                traceback.print_exc(file=log)
            raise FailedRunError(
                f"the run broke off: {error!r}; where, is in {log.name}"
            ) from error


def _replay(name: str, scenario: Scenario, seed: int) -> str:
    """The one command that shows the same again."""
    settings = [f"--set={key}={_written(value)}" for key, value in scenario.settings.items()]
    words = [
        "tools/simulate",
        name,
        f"--peers={scenario.peers}",
        f"--hours={scenario.hours}",
        f"--seed={seed}",
        *settings,
    ]
    return "to see it again: " + shlex.join(words)


def _written(setting: int | float | list[float]) -> str:
    return ",".join(map(str, setting)) if isinstance(setting, list) else str(setting)


def _show(made: Report) -> None:
    console = _output()
    console.print(f"[bold]{made.about}[/]", soft_wrap=True)
    table = Table(box=None, show_header=False)
    for name, value in _rows(made):
        table.add_row(name, value)
    console.print(table)


def _output() -> Console:
    """Into a file or a pipe nothing is broken to the width of a screen that is not there."""
    return Console(width=None if sys.stdout.isatty() else WIDE_COLUMNS)


def _rows(made: Report) -> list[tuple[str, str]]:
    unit = f"round trips of {made.median_rtt_s * 1e3:.0f} ms"
    outcomes = ", ".join(f"{count} {what}" for what, count in made.outcomes.items() if count)
    traffic = ", ".join(f"{what} {value:.1f}" for what, value in made.bytes_per_peer_s.items())
    http = ", ".join(f"{what} {value:.1f}" for what, value in made.http_bytes_per_peer_s.items())
    upkeep, with_headers = made.upkeep_bytes_per_s, made.upkeep_bytes_per_s_with_headers
    processor = (
        f"{made.cpu_us_per_datagram:.0f} µs a datagram, {made.cpu_s:.0f} s, before that "
        f"{made.cpu_before_s:.0f} s"
    )
    newcomers = [("newcomers", _newcomers(made.newcomers))] if made.newcomers else []
    served = [
        ("any version found", f"{_share(made.served)}, {made.wrong_bodies} wrong bodies"),
        ("newest of these", _share(made.newest)),
    ]
    fewest = min((one.fewest for one in made.surveys), default=None)
    copies = [("copies of the worst-off file", str(fewest))] if fewest is not None else []
    return [
        ("peers, hours, seed", f"{made.peers}, {made.hours:g}, {made.seed}"),
        ("gets", outcomes),
        ("found", _share(made.found)),
        *served,
        ("misses that were proved", _share(made.proved)),
        (f"hits ({unit})", _latencies(made, "hits")),
        ("newest known", _latencies(made, "newest_known")),
        ("misses", _latencies(made, "misses")),
        ("puts", _latencies(made, "puts")),
        ("puts that failed", f"{made.puts_failed}, before that {made.puts_failed_before}"),
        ("puts abandoned", f"{made.puts_abandoned}"),
        ("bytes a peer and second", traffic),
        ("HTTP a peer and second", http or "none"),
        ("traffic without bodies", f"{made.traffic_bytes_per_s:.1f} B/s"),
        ("upkeep", f"{upkeep:.1f} B/s, with headers {with_headers:.1f}"),
        ("datagrams a get", _number(made.datagrams_per_get)),
        ("contacts, of these dead", f"{made.contacts}, {made.contacts_dead:.1%}"),
        ("processor", processor),
        *newcomers,
        *copies,
        ("trace", made.trace),
    ]


def _newcomers(came: list[Arrival]) -> str:
    """When they had all that is due to them, and what they were sent for it."""
    took = sorted(one.took_s for one in came if one.took_s is not None)
    figures = f"p50 {percentile(took, 0.5):.2f} s, most {took[-1]:.2f} s, " if took else ""
    due, sent, repeated, displaced, surplus = (
        sum(getattr(one, what) for one in came)
        for what in ("due", "sent", "repeated", "displaced", "surplus")
    )
    return (
        f"{len(took)} of {len(came)} whole, {figures}{due} records due, {sent} sent: {repeated} of "
        f"them twice, {displaced} due until others came, {surplus} not due"
    )


def _latencies(made: Report, kind: str) -> str:
    of = getattr(made, kind)
    if not of.count:
        return "none"
    figures = ", ".join(f"{name} {getattr(of, name):.2f}" for name in ("p50", "p95", "p99", "most"))
    return f"{figures} of {of.count}"


def _share(value: float | None) -> str:
    return "nobody asked" if value is None else f"{value:.4%}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _show_side_by_side(name: str, values: list[str], reports: list[Report]) -> None:
    table = Table()
    for column in (
        name, "found", "hit p50", "p99", "miss p50", "p99", "upkeep B/s", "contacts", "dead",
        "datagrams a get", "ms CPU a get",
    ):  # fmt: skip
        table.add_column(column, justify="right")
    for value, made in zip(values, reports, strict=True):
        table.add_row(
            value, _share(made.found), _number(made.hits.p50), _number(made.hits.p99),
            _number(made.misses.p50), _number(made.misses.p99),
            f"{made.upkeep_bytes_per_s:.1f}", str(made.contacts), f"{made.contacts_dead:.1%}",
            _number(made.datagrams_per_get), _number(made.cpu_ms_per_get),
        )  # fmt: skip
    _output().print(table)


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        err.print("stopped")
        sys.exit(130)
    except UsageError as error:
        err.print(str(error), soft_wrap=True)
        sys.exit(2)
