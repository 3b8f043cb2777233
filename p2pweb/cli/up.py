"""`p2pweb up`: run a peer."""

import asyncio
import os
import socket
import time
from pathlib import Path

import click

from p2pweb.address import Address
from p2pweb.cli.options import (
    ACCESS_LOG,
    ACCESS_LOG_FORMAT,
    ADDRESS,
    PATH,
    SECRET,
    Parsed,
    open_access_log,
)
from p2pweb.cli.places import data_home
from p2pweb.cli.running import log_to_stderr, run, stop_on_signals
from p2pweb.config import (
    PORT_DEFAULT,
    SCRUB_DAYS_MAX,
    SCRUB_DAYS_MIN,
    NodeFile,
    parse_host,
    parse_site,
    read_node_file,
)
from p2pweb.dht.settings import DEFAULTS
from p2pweb.node import PeerOptions, start_peer
from p2pweb.scrub import DAYS_DEFAULT
from p2pweb.secret import load_secret
from p2pweb.store.room import parse_budget


@click.command()
@click.argument("node_file", metavar="[NODE.toml]", required=False, type=PATH)
@click.option("--port", type=click.IntRange(1, 65_535), help=f"Default: {PORT_DEFAULT}.")
@click.option(
    "--host",
    multiple=True,
    metavar="ADDRESS",
    type=Parsed("ADDRESS", parse_host),
    help="IP address to listen on; may be repeated. Default: all of this machine.",
)
@click.option("--join", multiple=True, type=ADDRESS, help="A peer to join by; may be repeated.")
@click.option("--data", type=PATH, metavar="DIR", help="Where the peer keeps what it holds.")
@click.option(
    "--home",
    type=Parsed("SITE", parse_site),
    help="The site on the bare address. Default: that of the peer joined, or the first published.",
)
@click.option(
    "--disk",
    metavar="SIZE",
    type=Parsed("SIZE", parse_budget),
    help="The most that the data directory may hold, as 50GB. Default: what its disk has room for.",
)
@click.option(
    "--scrub-days",
    type=click.FloatRange(SCRUB_DAYS_MIN, SCRUB_DAYS_MAX),
    metavar="DAYS",
    help="In how many days everything on the disk is read again and proved. "
    f"Default: {DAYS_DEFAULT:.0f}.",
)
@ACCESS_LOG
@ACCESS_LOG_FORMAT
@click.option(
    "--range-limit",
    type=click.IntRange(0),
    metavar="N",
    help="Peers to know of one address range of the Internet (IPv4 /24, IPv6 /48); 0 is no limit. "
    f"Default: {DEFAULTS.range_limit}.",
)
@SECRET
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
def up(
    node_file: Path | None,
    port: int | None,
    host: tuple[str, ...],
    join: tuple[Address, ...],
    data: Path | None,
    home: str | None,
    disk: int | None,
    scrub_days: float | None,
    access_log: Path | None,
    access_log_format: str | None,
    range_limit: int | None,
    secret: Path | None,
    verbose: bool,
) -> None:
    """Start a peer, and run it until Ctrl-C. Flags win over NODE.toml."""
    log_to_stderr(verbose=verbose)
    given = read_node_file(node_file) if node_file else NodeFile()
    port = port or given.port or PORT_DEFAULT
    secret = secret or given.secret
    options = PeerOptions(
        port=port,
        data=data or given.data or data_home() / str(port),
        # One socket for IPv6 and IPv4 where the system has such.
        hosts=host or given.host or ("::" if socket.has_dualstack_ipv6() else "0.0.0.0",),  # noqa: S104
        join=join or given.join or (),
        home=parse_site(home) if home else given.home,
        disk_bytes=disk or given.disk,
        scrub_days=scrub_days or given.scrub_days or DAYS_DEFAULT,
        access_log=open_access_log(
            access_log or given.access_log, access_log_format or given.access_log_format
        ),
        range_limit=next(
            limit
            for limit in (range_limit, given.range_limit, DEFAULTS.range_limit)
            if limit is not None
        ),
        secret=load_secret(secret) if secret else None,
    )
    run(_up(options))


async def _up(options: PeerOptions) -> None:
    stop_on_signals()
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
