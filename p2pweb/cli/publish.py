"""`p2pweb publish`: a directory becomes the next version of a site."""

import asyncio
import json
import os
import random
import re
import sys
import time
from pathlib import Path

import click

from p2pweb.address import Address
from p2pweb.cli.options import ADDRESS, PATH, SECRET
from p2pweb.cli.places import cache_home, key_home
from p2pweb.cli.publish_display import Bars, Lines, print_summary, summary_json
from p2pweb.cli.running import run
from p2pweb.config import PORT_DEFAULT
from p2pweb.errors import UsageError
from p2pweb.exchange.authorization import Prover
from p2pweb.exchange.client import PeerClient, tcp_connector
from p2pweb.keys import SEED_BYTES, KeyFile, SiteKey, create_key_file, list_key_files, load_key_file
from p2pweb.publish import PublishOptions, Summary, publish
from p2pweb.records import COPIES_DEFAULT, COPIES_MAX
from p2pweb.secret import load_secret

EXIT_SHORT_OF_COPIES = 2


@click.command("publish")
@click.argument("directory", metavar="DIR", type=PATH)
@click.option(
    "--peer",
    type=ADDRESS,
    default=f"127.0.0.1:{PORT_DEFAULT}",
    show_default=True,
    help="Any peer; it passes the site on.",
)
@click.option(
    "--key",
    type=PATH,
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
@SECRET
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def publish_command(
    directory: Path,
    peer: Address,
    key: Path | None,
    copies: int,
    secret: Path | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Publish a directory as the next version of a site.

    Exit code 0: every file has the copies wanted; 2: live, and short of copies or not read back
    through another peer; 1: not live.
    """
    made: list[KeyFile] = []
    cache = cache_home()
    options = PublishOptions(
        directory=directory,
        peer=peer,
        key=lambda: _key_for(directory, key, made, dry_run=dry_run),
        copies=copies,
        dry_run=dry_run,
        manifests=cache / "manifests" if cache else None,
    )
    if key is not None and _exists(key):
        load_key_file(key)  # A wrong file is told before anything else is done.
    prover = Prover(load_secret(secret), time.time) if secret else None
    began = time.monotonic()
    try:
        summary = run(_publish(options, prover))
    finally:
        # Not in between: the bars would be written over.
        for key_file in made:
            click.echo(f"new site {key_file.key.site}", err=True)
            click.echo(f"its key is {key_file.path}: keep a copy safe", err=True)
    seconds = time.monotonic() - began
    if as_json:
        click.echo(json.dumps(summary_json(summary, seconds), indent=2))
    else:
        print_summary(summary, seconds, dry_run)
    return EXIT_SHORT_OF_COPIES if summary.short or summary.not_read_back else 0


async def _publish(options: PublishOptions, prover: Prover | None) -> Summary:
    loop = asyncio.get_running_loop()
    client = PeerClient(tcp_connector, prover)
    shown = Bars() if sys.stderr.isatty() else Lines()
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


def _key_for(directory: Path, named: Path | None, made: list[KeyFile], *, dry_run: bool) -> SiteKey:
    """The key to publish a directory with; where there is none, one is made and put in `made`."""
    real = directory.resolve()
    if named is not None and _exists(named):
        return load_key_file(named).key
    if named is None:
        for key_file in list_key_files(key_home())[0]:
            if key_file.directory == real:
                return key_file.key
    if dry_run:
        return SiteKey(os.urandom(SEED_BYTES))
    if named is None:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", real.name) or "site"
        path = key_home() / f"{name}-{os.urandom(4).hex()}.key"
        made.append(create_key_file(path, os.urandom, real))
    else:
        made.append(create_key_file(named, os.urandom))
    return made[-1].key


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise UsageError(f"cannot use {path} as a key file: {error.strerror}") from None
