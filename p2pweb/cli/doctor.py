"""`p2pweb doctor`: what is wrong with a peer on this machine, and what to do."""

import click

from p2pweb.address import Address
from p2pweb.cli.findings import findings
from p2pweb.cli.options import ADDRESS
from p2pweb.cli.running import run
from p2pweb.config import PORT_DEFAULT
from p2pweb.exchange.client import PeerClient
from p2pweb.exchange.facts import Facts

EXIT_FOUND = 2


@click.command("doctor")
@click.option(
    "--peer",
    type=ADDRESS,
    default=f"127.0.0.1:{PORT_DEFAULT}",
    show_default=True,
    help="A peer on this machine, by a loopback address.",
)
def doctor_command(peer: Address) -> int:
    """Find what is wrong with a peer, and say what to do: a line for each fault.

    It has other peers try to reach this one's port, compares its clock with theirs, writes to its
    disk, and counts the copies of its site. Exit code 0: nothing is wrong; 2: something is; 1: no
    peer answers at that address.
    """
    found = findings(run(_ask_facts(peer)))
    for finding in found:
        click.echo(f"{finding.name}: {finding.text}")
    if not found:
        click.echo("nothing is wrong with this peer")
    return EXIT_FOUND if found else 0


async def _ask_facts(peer: Address) -> Facts:
    client = PeerClient()
    try:
        return await client.facts(peer)
    finally:
        await client.close()
