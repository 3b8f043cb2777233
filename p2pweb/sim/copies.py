"""Counts the copies of a site on the disks of whole peers, read past the peers.

Who should have what is worked out anew here, from the ids of all live peers: of every file the k
closest to its key the record, and the first `copies` of them the bytes.
"""

from __future__ import annotations

import functools
import heapq
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from p2pweb.blobs import BlobId, blob_of
from p2pweb.dht.contact import distance
from p2pweb.keys import SiteId
from p2pweb.records import COPIES_MAX, FileRecord, dht_key, file_name, open_record
from p2pweb.sim.whole import WholePeer


@dataclass(frozen=True, slots=True)
class Survey:
    """The copies of all files of one version at one moment: those due, and those lacking.

    `lost` are files whose record or whose bytes nobody alive has; of the worst-off file `fewest`
    have both, be they due there or not.
    """

    at_s: float
    records_due: int
    records_lacking: int
    bodies_due: int
    bodies_lacking: int
    lost: int
    fewest: int = 0


def survey(
    peers: Sequence[WholePeer], site: SiteId, files: Mapping[str, bytes], copies: int, at_s: float
) -> Survey:
    """Count the copies of these files (by URL path, of one segment each) on live peers."""
    held = {peer: held_by(peer.folder) for peer in peers}
    holders = [Counter(chain.from_iterable(one[kind] for one in held.values())) for kind in (0, 1)]
    due, lacking, lost, fewest = [0, 0], [0, 0], 0, len(peers)
    for path, data in files.items():
        key, (blob, _) = dht_key(file_name(site, path)), blob_of(data)
        nearest = heapq.nsmallest(COPIES_MAX, peers, key=lambda peer: distance(peer.id, key))
        for kind, count in enumerate((COPIES_MAX, copies)):
            should = nearest[:count]
            due[kind] += len(should)
            lacking[kind] += sum((key, blob) not in held[peer][kind] for peer in should)
        lost += not all(count[key, blob] for count in holders)
        fewest = min(fewest, holders[1][key, blob])
    return Survey(at_s, due[0], lacking[0], due[1], lacking[1], lost, fewest)


# A key, and the blob that the record there is of.
Held = tuple[bytes, BlobId]


def held_by(folder: Path) -> tuple[set[Held], set[Held]]:
    """Of which keys a peer's disk has the record of which blob, and also the bytes."""
    with closing(sqlite3.connect(f"file:{folder / 'records.sqlite'}?mode=ro", uri=True)) as books:
        parts = set(books.execute("SELECT root, size FROM segments"))
        rows = books.execute("SELECT key, value, with_bytes FROM records WHERE is_site = 0")
        held: tuple[set[Held], set[Held]] = (set(), set())
        for key, value, with_bytes in rows:
            record = _opened(value)
            place = (key, record.blobs[0])
            held[0].add(place)
            if with_bytes and all((blob.root, blob.size_bytes) in parts for blob in record.blobs):
                held[1].add(place)
        return held


# As many as the files of a few versions; the same records are on many disks.
@functools.lru_cache(maxsize=16_384)
def _opened(value: bytes) -> FileRecord:
    record = open_record(value).record
    assert isinstance(record, FileRecord)  # noqa: S101 - the books say so
    return record
