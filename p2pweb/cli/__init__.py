"""The command line: `up`, `publish`, `preview`, `status`, `doctor`, `keys`.

A fault is one sentence on standard error and exit code 1 (2 for words that the command line does
not have). `publish` exits 0 when every file has the copies wanted, 2 when the version is live and
short of copies, 1 when it is not live. `status` exits 0 when the peer is well, 2 when it is cut
off from all others or its site is short of copies, 1 when no peer answers. `doctor` exits 0 when it
finds nothing wrong, 2 when it does, 1 when no peer answers.
"""

import sys
from typing import NoReturn

import click

from p2pweb import __version__
from p2pweb.cli.doctor import doctor_command
from p2pweb.cli.keys import keys
from p2pweb.cli.preview import preview_command
from p2pweb.cli.publish import publish_command
from p2pweb.cli.status import status_command
from p2pweb.cli.up import up
from p2pweb.errors import P2PWebError


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


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="p2pweb")
def cli() -> None:
    """A static web site, hosted by the machines its owners already have."""


for _command in (up, publish_command, preview_command, status_command, doctor_command, keys):
    cli.add_command(_command)
