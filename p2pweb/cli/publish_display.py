"""How far a publish is, and what it came to: bars or lines, then the summary."""

import dataclasses

import click
import rich.progress
from rich.console import Console

from p2pweb.publish import Progress, Summary

# Names printed of a long list; `--json` has them all.
NAMES_PRINTED_MAX = 10


class Bars(Progress):
    """Progress bars, on a terminal; a phase without a size pulses until the next one."""

    def __init__(self) -> None:
        self._progress = rich.progress.Progress(
            rich.progress.TextColumn("{task.description:<22}"),
            rich.progress.BarColumn(),
            rich.progress.TextColumn("{task.fields[size]}"),
            console=Console(stderr=True),
        )
        self._task: rich.progress.TaskID | None = None

    def __enter__(self) -> None:
        self._progress.start()

    def __exit__(self, *_: object) -> None:
        self._end_phase()
        self._progress.stop()

    def phase(self, name: str, total_bytes: int) -> None:
        self._end_phase()
        size = _size(total_bytes) if total_bytes else ""
        self._task = self._progress.add_task(name, total=total_bytes or None, size=size)

    def advance(self, done_bytes: int) -> None:
        if self._task is not None:
            self._progress.advance(self._task, done_bytes)

    def _end_phase(self) -> None:
        if self._task is not None and self._progress.tasks[self._task].total is None:
            self._progress.update(self._task, total=1, completed=1)


class Lines(Progress):
    """One plain line for each phase, elsewhere."""

    def __enter__(self) -> None:
        """Nothing to set up."""

    def __exit__(self, *_: object) -> None:
        """Nothing to put back."""

    def phase(self, name: str, total_bytes: int) -> None:
        size = f" {_size(total_bytes)}" if total_bytes else ""
        click.echo(f"{name}{size}", err=True)

    def advance(self, done_bytes: int) -> None:
        """Lines do not move."""


def print_summary(summary: Summary, seconds: float, dry_run: bool) -> None:
    changes = summary.changes
    counted = (
        f"{len(changes.added)} added, {len(changes.changed)} changed, "
        f"{len(changes.removed)} removed, {changes.unchanged} unchanged"
    )
    for item in summary.left_out[:NAMES_PRINTED_MAX]:
        click.echo(f"left out: {item.name}: {item.why}", err=True)
    _print_rest(len(summary.left_out))
    if dry_run:
        click.echo(f"would publish version {summary.seq}: {counted}")
        return
    news = "is live" if changes else "stays live, nothing has changed"
    click.echo(f"version {summary.seq} of {summary.site} {news}: {counted}")
    click.echo(
        f"copies: {summary.copies} of {summary.copies_wanted} wanted; "
        f"sent {_size(summary.sent_bytes)} in {seconds:.1f} s"
        + (f"; read back through {summary.read_back_from}" if summary.read_back_from else "")
    )
    if summary.not_read_back:
        click.echo(f"not read back: {summary.not_read_back}", err=True)
    for path in summary.short[:NAMES_PRINTED_MAX]:
        click.echo(f"short of copies: {path}", err=True)
    _print_rest(len(summary.short))
    for reason in summary.reasons:
        click.echo(f"  {reason}", err=True)
    for url in summary.addresses:
        click.echo(f"  {url}")


def _print_rest(count: int) -> None:
    if count > NAMES_PRINTED_MAX:
        click.echo(f"  and {count - NAMES_PRINTED_MAX} more (--json names all)", err=True)


def summary_json(summary: Summary, seconds: float) -> dict[str, object]:
    return {**dataclasses.asdict(summary), "seconds": round(seconds, 3)}


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 100_000 else f"{size_bytes} bytes"
