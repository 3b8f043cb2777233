"""`p2pweb status`: how a peer on this machine is."""

import json
import sys
from datetime import UTC, datetime

import click
from rich.console import Console

from p2pweb.address import Address
from p2pweb.cli.options import ADDRESS
from p2pweb.cli.running import run
from p2pweb.cli.status_table import status_json, status_text
from p2pweb.config import PORT_DEFAULT
from p2pweb.exchange.client import PeerClient
from p2pweb.exchange.wire import PeerStatus

EXIT_NOT_WELL = 2
# Columns where no terminal says how many: enough for the longest line.
COLUMNS_WITHOUT_TERMINAL = 120


@click.command("status")
@click.option(
    "--peer",
    type=ADDRESS,
    default=f"127.0.0.1:{PORT_DEFAULT}",
    show_default=True,
    help="A peer on this machine, by a loopback address.",
)
@click.option("--json", "json_wanted", is_flag=True, help="Print as JSON, the times in seconds.")
def status_command(peer: Address, json_wanted: bool) -> int:
    """Say how a peer is, count the copies of its site, and list its contacts.

    The copies are those of the worst-off file. Wanted are as many as the site asks for, or all
    peers that keep it where these are fewer; with many peers, only the files due to this one are
    counted. Of a contact there are its round trip, its last answer, and its strikes: questions left
    unanswered; with five it is gone, with two if it has not answered since the start. Exit code 0:
    all is well; 2: the site is short of copies, or no contact answers, and some should; 1: no peer
    answers at that address.
    """
    status = run(_ask_status(peer))
    now = datetime.now(UTC).astimezone()
    if json_wanted:
        click.echo(json.dumps(status_json(status, peer, now), indent=2))
    else:
        width = None if sys.stdout.isatty() else COLUMNS_WITHOUT_TERMINAL
        Console(width=width).print(status_text(status, peer, now))
    return EXIT_NOT_WELL if status.is_cut_off or status.is_short else 0


async def _ask_status(peer: Address) -> PeerStatus:
    client = PeerClient()
    try:
        return await client.status(peer)
    finally:
        await client.close()
