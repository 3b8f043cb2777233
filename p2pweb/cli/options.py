"""Words and flags that several commands take."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from p2pweb.address import parse_address
from p2pweb.errors import UsageError
from p2pweb.http.access_log import FORMATS, AccessLog


class Parsed(click.ParamType[Any]):
    """A parameter read by one of our own parsers."""

    def __init__(self, name: str, parse: Callable[[str], object]) -> None:
        self.name = name
        self._parse = parse

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> object:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


ADDRESS = Parsed("HOST:PORT", parse_address)
PATH = click.Path(path_type=Path)


SECRET = click.option(
    "--secret",
    type=PATH,
    metavar="FILE",
    help="The file of a closed network's secret: peers without it get no answers.",
)
ACCESS_LOG = click.option(
    "--access-log",
    type=PATH,
    metavar="FILE",
    help="Write a line for each answer; - is standard output.",
)
ACCESS_LOG_FORMAT = click.option(
    "--access-log-format",
    type=click.Choice(list(FORMATS)),
    help="Combined Log Format, or one JSON object a line. Default: combined.",
)


def open_access_log(path: Path | None, form: str | None) -> AccessLog | None:
    """The access log that was asked for. UsageError where it cannot be written."""
    if path is None:
        if form is not None:
            raise UsageError("an access log format needs --access-log FILE")
        return None
    if str(path) == "-":
        return AccessLog(None, FORMATS[form or "combined"])
    try:
        with path.open("ab"):
            pass
    except OSError as error:
        raise UsageError(f"cannot write the access log {path}: {error.strerror}") from None
    return AccessLog(path, FORMATS[form or "combined"])
