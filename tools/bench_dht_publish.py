"""The publish of one small file, with real peers: until its durable copies are counted.

Ten peers (`p2pweb up`) with their disks are started here. One of them is sent a bundle with the
record and the bytes of a file, places both on the peers closest to the key, and answers when they
have said that it is on their disks. That is the last and longest step of publishing a changed file;
its parts are timed beside it: one request, one commit, one bundle that a peer keeps for itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench_dht_network import COPIES_UNTOLD, PATIENCE_S, Call, Calls
from bench_kinds import HOST, BenchError
from bench_peers import peers, until_known

PEER = Path(__file__).resolve().parent / "bench_dht_peer.py"
PEERS = 10
COPIES = 8
FILE_BYTES = 1024
# The first few open the connections between the peers, and are not counted.
WARM_UP = 5
# The parts need fewer: they vary less.
PART_CALLS = 100


@dataclass(slots=True, kw_only=True)
class Published:
    """The publishes and their parts."""

    calls: Calls = field(default_factory=Calls)
    parts: dict[str, list[Call]] = field(default_factory=dict)


async def publish(count: int, folder: Path) -> Published:
    """Publish so many files, one after the other; the peers have their data in the folder."""
    from p2pweb.exchange.client import PeerClient

    async with peers(folder, PEERS, PEER) as started:
        client = PeerClient()
        try:
            return await _publish(count, client, started[0].port, folder)
        finally:
            await client.close()


async def _publish(count: int, client: object, port: int, folder: Path) -> Published:
    from p2pweb.keys import SiteKey

    entry = (HOST, port)
    await until_known(client, entry, PEERS - 1)
    key = SiteKey(os.urandom(32))
    published = Published()
    published.calls.wanted = count

    async def send(copies: int | None) -> Call:
        item, segment = _small_file(key)
        start = time.perf_counter()
        (answer,) = await client.send(entry, [item], [segment], place_copies=copies)
        ended = time.perf_counter()
        if not answer.is_whole:
            raise BenchError(f"a peer does not keep a small file: {answer.state} {answer.why}")
        counted = COPIES_UNTOLD if copies is None else answer.copies
        return Call(ms=(ended - start) * 1000, outcome="found", copies=counted)

    async def ask() -> Call:
        start = time.perf_counter()
        await client.peer_info(entry)
        return Call(ms=(time.perf_counter() - start) * 1000, outcome="found")

    for _ in range(WARM_UP):
        await _timed(lambda: send(COPIES))
    published.calls.made = [await _timed(lambda: send(COPIES)) for _ in range(count)]
    few = min(count, PART_CALLS)
    published.parts["one request to a peer"] = [await _timed(ask) for _ in range(few)]
    published.parts["one bundle kept by one peer, not placed"] = [
        await _timed(lambda: send(None)) for _ in range(few)
    ]
    published.parts["one commit to a database on this disk"] = [
        Call(ms=ms, outcome="found") for ms in _commits(folder / "commits", few)
    ]
    return published


async def _timed(call: Callable[[], Awaitable[Call]]) -> Call:
    from p2pweb.errors import RemoteError

    start = time.perf_counter()
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await call()
    except TimeoutError:
        outcome = "late"
    except RemoteError:
        outcome = "failed"
    return Call(ms=(time.perf_counter() - start) * 1000, outcome=outcome)


def _small_file(key: object) -> tuple[object, object]:
    """A signed record of a new path, and its bytes."""
    from p2pweb.blobs import segments_of
    from p2pweb.records import Encoding, FileRecord, sign
    from p2pweb.store.items import Item

    (segment,) = segments_of(os.urandom(FILE_BYTES))
    record = FileRecord(
        public_key=key.public_key,
        path=f"/{os.urandom(8).hex()}.html",
        seq=1,
        media_type="text/html; charset=utf-8",
        encodings=(Encoding("identity", segment.blob.size_bytes, segment.blob.root),),
    )
    return Item(sign(record, key)), segment


def _commits(path: Path, count: int) -> list[float]:
    """What a commit with the store's settings takes on this disk, in milliseconds."""
    times: list[float] = []
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("CREATE TABLE written (bytes BLOB)")
        for _ in range(count):
            start = time.perf_counter()
            database.execute("INSERT INTO written VALUES (?)", (os.urandom(FILE_BYTES),))
            times.append((time.perf_counter() - start) * 1000)
    return times
