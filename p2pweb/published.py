"""What is published already: the live version's manifest, as a publisher needs it.

The one that was published last from this machine is kept, so that only what others changed since is
fetched. That is one file for each site in the user's cache directory. It may be deleted at any
time, and whatever it holds is believed only as far as its root is that of a signed record.
"""

import contextlib
import logging
from pathlib import Path

from p2pweb.address import Address, format_address
from p2pweb.blobs import BlobId, blob_of
from p2pweb.delta import WHOLE_BYTES_MAX, rebuild
from p2pweb.errors import RemoteError
from p2pweb.exchange.client import PeerClient
from p2pweb.exchange.reader import Runner
from p2pweb.keys import SiteId
from p2pweb.manifest import InvalidManifestError, Manifest
from p2pweb.records import SiteRecord

log = logging.getLogger("p2pweb.publish")


async def live_manifest(
    client: PeerClient, peer: Address, site: SiteId, folder: Path | None, run: Runner
) -> tuple[Manifest, bytes] | None:
    """The manifest of the live version as a peer knows it, and its root (32 bytes); None where
    nothing is published yet. `folder` is where those published last are kept, None for nowhere.

    RemoteError where the manifest cannot be had, or makes no sense.
    """
    signed = await client.live_site(peer, site, fresh=True)
    if signed is None:
        return None
    record = signed.record
    assert isinstance(record, SiteRecord)  # noqa: S101 - `live_site` sees to it
    blob = record.manifest
    data = None
    if folder is not None and blob.size_bytes > WHOLE_BYTES_MAX:
        data = await _update(client, peer, record, folder, run)
    if data is None:
        data = await _fetch(client, peer, blob)
    if data is None:
        raise RemoteError(
            f"{format_address(peer)} knows version {record.seq} of the site, and does not have its "
            "manifest; try again, or another peer"
        )
    try:
        return Manifest.decode(data), blob.root
    except InvalidManifestError as error:
        raise RemoteError(f"the live version's manifest makes no sense: {error}") from None


async def _update(
    client: PeerClient, peer: Address, record: SiteRecord, folder: Path, run: Runner
) -> bytes | None:
    """A manifest, made of the one that was published last from here and of what changed since; None
    where it is to be fetched whole."""
    kept = await run(lambda: read_published(folder, record.site))
    if kept is None:
        return None
    base, base_root = kept
    try:
        versions = record.seq - base.seq
        deltas = await client.deltas(peer, record.manifest, base_root, versions)
    except RemoteError:
        return None  # The peer is asked for the whole of it, and tells what is the matter.
    return await run(lambda: rebuild(base, deltas, record.manifest))


async def _fetch(client: PeerClient, peer: Address, blob: BlobId) -> bytes | None:
    """A blob's bytes; None where the peer has not got them."""
    hashes = await client.hashes(peer, blob) if blob.block_count > 1 else b""
    if hashes is None:
        return None
    pieces: list[bytes] = []
    for segment in range(blob.segment_count):
        blocks = await client.blocks(peer, blob, hashes, blob.segment_blocks(segment))
        if blocks is None:
            return None
        pieces += blocks
    return b"".join(pieces)


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
