"""`p2pweb keys`: the keys of the user's sites."""

import json

import click

from p2pweb.cli.places import key_home
from p2pweb.keys import list_key_files


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def keys(as_json: bool) -> None:
    """List the keys of your sites: whoever has a key can publish its site."""
    folder = key_home()
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
