"""The command line: `up`, `publish`, `preview`, `status`, `keys`.

A fault is one sentence on standard error and exit code 1 (2 for words that the command line does
not have). `publish` exits 0 when every file has the copies wanted, 2 when the version is live and
short of copies, 1 when it is not live. `status` exits 0 when the peer is well, 2 when it is cut
off from all others, 1 when no peer answers.
"""

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import random
import re
import resource
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
import rich.progress
from rich.console import Console

from p2pweb import __version__
from p2pweb.address import Address, parse_address
from p2pweb.config import PORT_DEFAULT, NodeFile, parse_host, parse_site, read_node_file
from p2pweb.dht.settings import DEFAULTS
from p2pweb.errors import P2PWebError, UsageError
from p2pweb.exchange.client import PeerClient
from p2pweb.exchange.wire import PeerStatus
from p2pweb.hosts import Hosts, own_names
from p2pweb.http.access_log import FORMATS, AccessLog
from p2pweb.http.server import HttpServer
from p2pweb.keys import SEED_BYTES, KeyFile, SiteKey, create_key_file, list_key_files, load_key_file
from p2pweb.listening import GRACE_S, listen_fault, server_limits, urls_of
from p2pweb.node import PeerOptions, start_peer
from p2pweb.preview import Preview
from p2pweb.publish import Progress, PublishOptions, Summary, publish
from p2pweb.records import COPIES_DEFAULT, COPIES_MAX
from p2pweb.status_table import status_json, status_text

EXIT_SHORT_OF_COPIES = 2
EXIT_CUT_OFF = 2
# Not a peer's: a preview runs beside one.
PREVIEW_PORT = 8000
# Each connection may take two descriptors, and the store a few dozen.
DESCRIPTORS_WANTED = 4096
# Columns where no terminal says how many: enough for the longest line.
COLUMNS_WITHOUT_TERMINAL = 120
# Names printed of a long list; `--json` has them all.
NAMES_PRINTED_MAX = 10

T = TypeVar("T")


def main() -> NoReturn:
    """The console script."""
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except P2PWebError as error:
        click.echo(f"p2pweb: {error}", err=True)
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


class _Parsed(click.ParamType[Any]):
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


_ADDRESS = _Parsed("HOST:PORT", parse_address)
_PATH = click.Path(path_type=Path)


_ACCESS_LOG = click.option(
    "--access-log",
    type=_PATH,
    metavar="FILE",
    help="Write a line for each answer; - is standard output.",
)
_ACCESS_LOG_FORMAT = click.option(
    "--access-log-format",
    type=click.Choice(list(FORMATS)),
    help="Combined Log Format, or one JSON object a line. Default: combined.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="p2pweb")
def cli() -> None:
    """A static web site, hosted by the machines its owners already have."""


@cli.command()
@click.argument("node_file", metavar="[NODE.toml]", required=False, type=_PATH)
@click.option("--port", type=click.IntRange(1, 65_535), help=f"Default: {PORT_DEFAULT}.")
@click.option(
    "--host",
    multiple=True,
    metavar="ADDRESS",
    type=_Parsed("ADDRESS", parse_host),
    help="IP address to listen on; may be repeated. Default: all of this machine.",
)
@click.option("--join", multiple=True, type=_ADDRESS, help="A peer to join by; may be repeated.")
@click.option("--data", type=_PATH, metavar="DIR", help="Where the peer keeps what it holds.")
@click.option(
    "--home",
    type=_Parsed("SITE", parse_site),
    help="The site on the bare address. Default: that of the peer joined, or the first published.",
)
@_ACCESS_LOG
@_ACCESS_LOG_FORMAT
@click.option(
    "--range-limit",
    type=click.IntRange(0),
    metavar="N",
    help="Peers to know of one address range of the Internet (IPv4 /24, IPv6 /48); 0 is no limit. "
    f"Default: {DEFAULTS.range_limit}.",
)
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
def up(
    node_file: Path | None,
    port: int | None,
    host: tuple[str, ...],
    join: tuple[Address, ...],
    data: Path | None,
    home: str | None,
    access_log: Path | None,
    access_log_format: str | None,
    range_limit: int | None,
    verbose: bool,
) -> None:
    """Start a peer, and run it until Ctrl-C. Flags win over NODE.toml."""
    given = read_node_file(node_file) if node_file else NodeFile()
    port = port or given.port or PORT_DEFAULT
    options = PeerOptions(
        port=port,
        data=data or given.data or _data_home() / str(port),
        # One socket for IPv6 and IPv4 where the system has such.
        hosts=host or given.host or ("::" if socket.has_dualstack_ipv6() else "0.0.0.0",),  # noqa: S104
        join=join or given.join or (),
        home=parse_site(home) if home else given.home,
        access_log=_access_log(
            access_log or given.access_log, access_log_format or given.access_log_format
        ),
        range_limit=next(
            limit
            for limit in (range_limit, given.range_limit, DEFAULTS.range_limit)
            if limit is not None
        ),
    )
    _log_to_stderr(verbose=verbose)
    _run(_up(options))


@cli.command("preview")
@click.argument("directory", metavar="DIR", type=_PATH)
@click.option("--port", type=click.IntRange(1, 65_535), default=PREVIEW_PORT, show_default=True)
@click.option(
    "--host",
    type=_Parsed("ADDRESS", parse_host),
    default="127.0.0.1",
    show_default=True,
    help="IP address to listen on.",
)
@_ACCESS_LOG
@_ACCESS_LOG_FORMAT
def preview_command(
    directory: Path,
    port: int,
    host: str,
    access_log: Path | None,
    access_log_format: str | None,
) -> None:
    """Serve a directory as it will be once published, without any network, until Ctrl-C."""
    _log_to_stderr(verbose=False)
    log = _access_log(access_log, access_log_format)
    _run(_preview(directory, (host, port), log))


async def _preview(directory: Path, address: Address, log: AccessLog | None) -> None:
    _stop_on_signals()
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory(prefix="p2pweb-preview-") as workdir:
        preview = Preview(
            directory,
            Path(workdir),
            Hosts(own_names(), lambda: None),
            lambda call: loop.run_in_executor(None, call),
            time.time,
        )
        note = log.note if log else None
        server = HttpServer(preview.handle, limits=server_limits(), now_unix=time.time, log=note)
        try:
            snapshot = await preview.start()
            try:
                await server.start([address])
            except OSError as error:
                raise listen_fault(error, address[1]) from None
            click.echo(f"p2pweb ready: {' '.join(urls_of(server))}")
            click.echo(f"{len(snapshot.files)} files of {directory}; Ctrl-C stops")
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            click.echo("stopping")
        finally:
            await server.close(GRACE_S)
            await preview.close()
            if log is not None:
                await log.close()


def _access_log(path: Path | None, form: str | None) -> AccessLog | None:
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


def _log_to_stderr(*, verbose: bool) -> None:
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname).1s %(name)s: %(message)s",
    )
    for noisy in ("asyncio", "aiohttp", "rpcudp", "kademlia"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _stop_on_signals() -> None:
    """Let Ctrl-C and SIGTERM cancel the current task, and end the process when they come again."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in one
    loop = asyncio.get_running_loop()

    def stop() -> None:
        task.cancel()
        for number in (signal.SIGINT, signal.SIGTERM):
            # Who asks twice will not wait for answers in flight. The disk needs no farewell.
            loop.add_signal_handler(number, os._exit, 130)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)


async def _up(options: PeerOptions) -> None:
    _stop_on_signals()
    try:
        node = await start_peer(options, wall=time.time, entropy=os.urandom)
    except asyncio.CancelledError:
        return
    try:
        home = node.holdings.home or "none yet: the first site published here"
        click.echo(f"p2pweb ready: {' '.join(node.urls)}")
        click.echo(f"home site: {home}; data: {options.data}; Ctrl-C stops")
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        click.echo("stopping")
    finally:
        await node.close()


@cli.command("publish")
@click.argument("directory", metavar="DIR", type=_PATH)
@click.option(
    "--peer",
    type=_ADDRESS,
    default=f"127.0.0.1:{PORT_DEFAULT}",
    show_default=True,
    help="Any peer; it passes the site on.",
)
@click.option(
    "--key",
    type=_PATH,
    metavar="FILE",
    help="The site's key; made if there is none. Default: the one made for DIR.",
)
@click.option(
    "--copies",
    type=click.IntRange(1, COPIES_MAX),
    default=COPIES_DEFAULT,
    show_default=True,
    help="Peers that keep each file; all of them where there are fewer.",
)
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def publish_command(
    directory: Path, peer: Address, key: Path | None, copies: int, dry_run: bool, as_json: bool
) -> int:
    """Publish a directory as the next version of a site.

    Exit code 0: every file has the copies wanted; 2: live, and short of copies or not read back
    through another peer; 1: not live.
    """
    made: list[KeyFile] = []
    options = PublishOptions(
        directory=directory,
        peer=peer,
        key=lambda: _key_for(directory, key, made, dry_run=dry_run),
        copies=copies,
        dry_run=dry_run,
    )
    if key is not None and _exists(key):
        load_key_file(key)  # A wrong file is told before anything else is done.
    began = time.monotonic()
    try:
        summary = _run(_publish(options))
    finally:
        # Not in between: the bars would be written over.
        for key_file in made:
            click.echo(f"new site {key_file.key.site}", err=True)
            click.echo(f"its key is {key_file.path}: keep a copy safe", err=True)
    seconds = time.monotonic() - began
    if as_json:
        click.echo(json.dumps(_as_json(summary, seconds), indent=2))
    else:
        _print_summary(summary, seconds, dry_run)
    return EXIT_SHORT_OF_COPIES if summary.short or summary.not_read_back else 0


async def _publish(options: PublishOptions) -> Summary:
    loop = asyncio.get_running_loop()
    client = PeerClient()
    shown = _Bars() if sys.stderr.isatty() else _Lines()
    try:
        with shown:
            return await publish(
                options,
                client,
                shown,
                time.time,
                random.Random(os.urandom(SEED_BYTES)),
                lambda call: loop.run_in_executor(None, call),
            )
    finally:
        await client.close()


@cli.command("status")
@click.option(
    "--peer",
    type=_ADDRESS,
    default=f"127.0.0.1:{PORT_DEFAULT}",
    show_default=True,
    help="A peer on this machine, by a loopback address.",
)
@click.option("--json", "json_wanted", is_flag=True, help="Print as JSON, the times in seconds.")
def status_command(peer: Address, json_wanted: bool) -> int:
    """Say how a peer is, and list its contacts: round trips, last answers, strikes.

    A strike is a question left unanswered; with five the contact is gone. Exit code 0: all is well;
    2: no contact answers, and some should; 1: no peer answers at that address.
    """
    status = _run(_ask_status(peer))
    now = datetime.now(UTC).astimezone()
    if json_wanted:
        click.echo(json.dumps(status_json(status, peer, now), indent=2))
    else:
        width = None if sys.stdout.isatty() else COLUMNS_WITHOUT_TERMINAL
        Console(width=width).print(status_text(status, peer, now))
    return EXIT_CUT_OFF if status.is_cut_off else 0


async def _ask_status(peer: Address) -> PeerStatus:
    client = PeerClient()
    try:
        return await client.status(peer)
    finally:
        await client.close()


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def keys(as_json: bool) -> None:
    """List the keys of your sites: whoever has a key can publish its site."""
    folder = _key_home()
    found, faults = list_key_files(folder)
    if as_json:
        rows = [
            {"site": k.key.site, "file": str(k.path), "directory": k.directory and str(k.directory)}
            for k in found
        ]
        click.echo(json.dumps(rows, indent=2))
    elif not found and not faults:
        click.echo(f"no keys in {folder} yet: publish makes one")
    else:
        for key_file in found:
            made_for = f"  for {key_file.directory}" if key_file.directory else ""
            click.echo(f"{key_file.key.site}  {key_file.path}{made_for}")
    for fault in faults:
        click.echo(f"p2pweb: {fault}", err=True)


# --- keys and directories ---


def _key_for(directory: Path, named: Path | None, made: list[KeyFile], *, dry_run: bool) -> SiteKey:
    """The key to publish a directory with; where there is none, one is made and put in `made`."""
    real = directory.resolve()
    if named is not None and _exists(named):
        return load_key_file(named).key
    if named is None:
        for key_file in list_key_files(_key_home())[0]:
            if key_file.directory == real:
                return key_file.key
    if dry_run:
        return SiteKey(os.urandom(SEED_BYTES))
    if named is None:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", real.name) or "site"
        path = _key_home() / f"{name}-{os.urandom(4).hex()}.key"
        made.append(create_key_file(path, os.urandom, real))
    else:
        made.append(create_key_file(named, os.urandom))
    return made[-1].key


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise UsageError(f"cannot use {path} as a key file: {error.strerror}") from None


def _key_home() -> Path:
    return _xdg("XDG_CONFIG_HOME", ".config") / "p2pweb" / "keys"


def _data_home() -> Path:
    return _xdg("XDG_DATA_HOME", ".local/share") / "p2pweb"


def _xdg(variable: str, default: str) -> Path:
    """A directory of the XDG Base Directory Specification; relative values are ignored."""
    value = os.environ.get(variable, "")
    return Path(value) if value.startswith("/") else Path.home() / default


# --- what is shown ---


class _Bars(Progress):
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


class _Lines(Progress):
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


def _print_summary(summary: Summary, seconds: float, dry_run: bool) -> None:
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
    for url in summary.addresses:
        click.echo(f"  {url}")


def _print_rest(count: int) -> None:
    if count > NAMES_PRINTED_MAX:
        click.echo(f"  and {count - NAMES_PRINTED_MAX} more (--json names all)", err=True)


def _as_json(summary: Summary, seconds: float) -> dict[str, object]:
    return {**dataclasses.asdict(summary), "seconds": round(seconds, 3)}


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 100_000 else f"{size_bytes} bytes"


def _raise_descriptor_limit() -> None:
    """Many systems grant 1,024 open files and let a process ask for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = hard == resource.RLIM_INFINITY
    wanted = DESCRIPTORS_WANTED if unlimited else min(hard, DESCRIPTORS_WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # What there is will do for most.
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _run(main_task: Coroutine[Any, Any, T]) -> T:
    """Run on uvloop where the platform has it."""
    _raise_descriptor_limit()
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main_task)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main_task)
