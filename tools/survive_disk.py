"""What is on the disk of a peer that has stopped: every copy proved, byte by byte."""

from __future__ import annotations

from pathlib import Path

from survive_peers import Files

from p2pweb.blobs import blob_of
from p2pweb.errors import P2PWebError
from p2pweb.manifest import InvalidManifestError, Manifest
from p2pweb.records import SiteRecord, record_key
from p2pweb.store.opening import open_store
from p2pweb.store.store import Store

# A path and the number of a segment; "" and 0 are the site's record with its manifest.
Copy = tuple[str, int]
SITE: Copy = ("", 0)


def copies_of(files: Files) -> list[Copy]:
    """Every copy that a peer may be counted for, the site's record apart."""
    return [
        (path, segment)
        for path, data in files.items()
        for segment in range(blob_of(data)[0].segment_count)
    ]


def copies_on(data: Path, seq: int, files: Files) -> set[Copy]:
    """Which copies of a version a data directory has, records and all their bytes."""
    try:
        store = open_store(data)
    except P2PWebError:
        return set()
    try:
        return _copies(store, seq, files)
    except P2PWebError:
        return set()
    finally:
        store.close()


def _copies(store: Store, seq: int, files: Files) -> set[Copy]:
    manifest = _live_manifest(store, seq)
    if manifest is None or {entry.path for entry in manifest.entries} != files.keys():
        return set()
    found = {SITE}
    for entry in manifest.entries:
        record = entry.file_record(manifest.public_key)
        if entry.blob != blob_of(files[entry.path])[0]:
            continue
        for segment in range(record.segment_count):
            parts = record.parts(segment)
            if store.holds(record_key(record, segment), record, with_bytes=True) and all(
                store.read_segment(*part) is not None for part in parts
            ):
                found.add((entry.path, segment))
    return found


def _live_manifest(store: Store, seq: int) -> Manifest | None:
    for site in store.sites():
        signed = store.live_site(site)
        if (
            signed is not None
            and isinstance(signed.record, SiteRecord)
            and signed.record.seq == seq
        ):
            blob = signed.record.manifest
            parts = [store.read_segment(blob, number) for number in range(blob.segment_count)]
            try:
                return Manifest.decode(b"".join(part.data for part in parts if part))
            except InvalidManifestError:
                return None
    return None
