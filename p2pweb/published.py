"""The manifest that was published last from this machine, so that it need not be fetched again.

One file for each site in the user's cache directory. It may be deleted at any time, and whatever it
holds is believed only as far as its root is that of a signed record.
"""

import contextlib
import logging
from pathlib import Path

from p2pweb.blobs import blob_of
from p2pweb.keys import SiteId
from p2pweb.manifest import InvalidManifestError, Manifest

log = logging.getLogger("p2pweb.publish")


def read_published(folder: Path, site: SiteId) -> tuple[Manifest, bytes] | None:
    """The manifest kept of a site, and its root (32 bytes); None where there is none that can be
    read."""
    try:
        data = (folder / site).read_bytes()
        return Manifest.decode(data), blob_of(data)[0].root
    except FileNotFoundError:
        return None
    except (OSError, InvalidManifestError) as error:
        log.info("%s is not used: %s", folder / site, error)
        return None


def keep_published(folder: Path, site: SiteId, manifest: bytes) -> None:
    """Keep a manifest's bytes in the place of those before. A disk that fails costs no more than
    fetching them next time."""
    new = folder / f".{site}.new"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        new.write_bytes(manifest)
        new.replace(folder / site)
    except OSError as error:
        log.info("%s is not kept: %s", folder / site, error)
        with contextlib.suppress(OSError):
            new.unlink()
