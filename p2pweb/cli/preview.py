"""`p2pweb preview`: a directory as it will be once published."""

import asyncio
import tempfile
import time
from pathlib import Path

import click

from p2pweb.address import Address
from p2pweb.cli.options import ACCESS_LOG, ACCESS_LOG_FORMAT, PATH, Parsed, open_access_log
from p2pweb.cli.running import log_to_stderr, run, stop_on_signals
from p2pweb.config import parse_host
from p2pweb.hosts import Hosts, own_names
from p2pweb.http.access_log import AccessLog
from p2pweb.http.server import HttpServer
from p2pweb.listening import GRACE_S, listen_fault, server_limits, urls_of
from p2pweb.preview import Preview

# Not a peer's: a preview runs beside one.
PREVIEW_PORT = 8000


@click.command("preview")
@click.argument("directory", metavar="DIR", type=PATH)
@click.option("--port", type=click.IntRange(1, 65_535), default=PREVIEW_PORT, show_default=True)
@click.option(
    "--host",
    type=Parsed("ADDRESS", parse_host),
    default="127.0.0.1",
    show_default=True,
    help="IP address to listen on.",
)
@ACCESS_LOG
@ACCESS_LOG_FORMAT
def preview_command(
    directory: Path,
    port: int,
    host: str,
    access_log: Path | None,
    access_log_format: str | None,
) -> None:
    """Serve a directory as it will be once published, without any network, until Ctrl-C."""
    log_to_stderr(verbose=False)
    log = open_access_log(access_log, access_log_format)
    run(_preview(directory, (host, port), log))


async def _preview(directory: Path, address: Address, log: AccessLog | None) -> None:
    stop_on_signals()
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
