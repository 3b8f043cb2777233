"""A node file (TOML) → a peer's options.

    port = 8001                       # TCP for HTTP, UDP for Kademlia
    host = ["127.0.0.1"]              # addresses to listen on; all of them if left out
    join = ["192.168.1.10:8001"]      # peers to join by
    home = "<site id>"                # the site on the bare address
    data = "data/8001"                # where it keeps what it holds, from this file's folder
    access_log = "access.log"         # a line for each answer; "-" is standard output
    access_log_format = "combined"    # or "json"
    range_limit = 16                  # peers known of one address range; 0 is no limit
    disk = "50GB"                     # the most that the data directory may hold
    scrub_days = 14                   # in how many days everything there is read again
    secret = "secret"                 # the file that closes the network, from this file's folder

Every fault is one sentence with the file, the line and the key.
"""

import ipaddress
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from p2pweb.address import Address, parse_address
from p2pweb.errors import UsageError
from p2pweb.http.access_log import FORMATS
from p2pweb.keys import SITE_ID_CHARS, SiteId, is_site_id
from p2pweb.store.room import parse_budget

PORT_DEFAULT = 8001
# A quarter of an hour, which keeps a disk busy, and ten years, in which it dies.
SCRUB_DAYS_MIN = 0.01
SCRUB_DAYS_MAX = 3_650

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFile:
    """What a node file says; None where it says nothing."""

    port: int | None = None
    host: tuple[str, ...] | None = None
    join: tuple[Address, ...] | None = None
    home: SiteId | None = None
    data: Path | None = None
    access_log: Path | None = None
    access_log_format: str | None = None
    range_limit: int | None = None
    disk: int | None = None
    scrub_days: float | None = None
    secret: Path | None = None


def read_node_file(path: Path) -> NodeFile:
    """UsageError with one sentence where it cannot be read or makes no sense."""
    try:
        text = path.read_bytes().decode("utf-8")
        table = tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"cannot read the node file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: it is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: {_malformed(str(error), text)}") from None
    except (ValueError, RecursionError):
        raise UsageError(f"{path}: a number is too long, or lists are too deep") from None
    readers: dict[str, Callable[[object], object]] = {
        "port": _port,
        "host": _list_of(parse_host),
        "join": _list_of(parse_address),
        "home": _text(parse_site),
        "data": _text(lambda value: path.parent / value),
        "access_log": _text(lambda value: Path(value) if value == "-" else path.parent / value),
        "access_log_format": _text(_log_format),
        "range_limit": _range_limit,
        "disk": _text(parse_budget),
        "scrub_days": _days,
        "secret": _text(lambda value: path.parent / value),
    }
    found: dict[str, object] = {}
    for key, value in table.items():
        where = f"{path}, line {_line_of(key, text)}, key '{key}'"
        if key not in readers:
            raise UsageError(f"{where}: there is no such key; known are {', '.join(readers)}")
        try:
            found[key] = readers[key](value)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None
    return NodeFile(**found)  # type: ignore[arg-type]  # each reader returns its field's type


def parse_host(text: str) -> str:
    """An IP address to listen on. UsageError where it is none."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise UsageError(f"{text!r} is no IP address to listen on, as 127.0.0.1 or ::") from None


def parse_site(text: str) -> SiteId:
    """A site id. UsageError where it is none."""
    if not is_site_id(text):
        raise UsageError(f"{text!r} is no site id: it has {SITE_ID_CHARS} characters a-z and 2-7")
    return SiteId(text)


def _log_format(text: str) -> str:
    if text not in FORMATS:
        raise UsageError(f"an access log is one of {', '.join(FORMATS)}")
    return text


def _port(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65_535:
        raise UsageError("a port is a number from 1 to 65535")
    return value


def _range_limit(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise UsageError("a range limit is a number from 0, which is no limit")
    return value


def _days(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError("it takes a number of days")
    if not SCRUB_DAYS_MIN <= value <= SCRUB_DAYS_MAX:
        raise UsageError(f"it takes {SCRUB_DAYS_MIN} to {SCRUB_DAYS_MAX} days")
    return float(value)


def _text(parse: Callable[[str], T]) -> Callable[[object], T]:
    def read(value: object) -> T:
        if not isinstance(value, str):
            raise UsageError("it takes a text in quotes")
        return parse(value)

    return read


def _list_of(parse: Callable[[str], T]) -> Callable[[object], tuple[T, ...]]:
    def read(value: object) -> tuple[T, ...]:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise UsageError('it takes a list of texts, as ["192.168.1.10:8001"]')
        return tuple(parse(item) for item in value)

    return read


def _line_of(key: str, text: str) -> int:
    """The line on which a key of the top level stands first."""
    name = re.escape(key)
    match = re.search(rf"^[ \t]*(?:\[+[ \t]*)?[\"']?{name}[\"']?[ \t]*[=.\]]", text, re.MULTILINE)
    return text.count("\n", 0, match.start()) + 1 if match else 1


def _malformed(message: str, text: str) -> str:
    """tomllib's message with the line first, and the key on that line if there is one."""
    match = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", message)
    if match is None:
        return message
    lines = text.removesuffix("\n").split("\n")
    number = int(match[2]) if match[2] else len(lines)
    line = lines[min(number, len(lines)) - 1]
    key = re.match(r"\s*([A-Za-z0-9_-]+)\s*=", line)
    where = f"line {number}, key '{key[1]}'" if key else f"line {number}"
    return f"{where}: this is not TOML: {match[1][0].lower()}{match[1][1:]}"
