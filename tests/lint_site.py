"""A site with a file of every kind that answers differ by, and a peer that serves it alone."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, TypeVar, cast

import brotli
import zstandard

from p2pweb.blobs import BLOCK_BYTES, blob_of, segments_of
from p2pweb.dht.overlay import Overlay
from p2pweb.exchange.client import PeerClient
from p2pweb.exchange.reader import BlobReader
from p2pweb.exchange.service import Duties, PeerService
from p2pweb.exchange.status import status_of
from p2pweb.exchange.wire import PROTOCOL, PeerInfo, PeerStatus
from p2pweb.gateway import Gateway
from p2pweb.hosts import Hosts
from p2pweb.http.media_types import media_type_of
from p2pweb.http.server import Handler, HttpServer, ServerLimits
from p2pweb.keys import SiteKey
from p2pweb.manifest import Entry, Manifest
from p2pweb.records import Encoding, Signed, SiteRecord, sign
from p2pweb.sites import Sites
from p2pweb.store.items import Held, Item
from p2pweb.store.opening import memory_store
from p2pweb.store.store import Store

T = TypeVar("T")

PATIENCE_S = 30.0
# The server's clock and httplint's: what is found is the same on any day.
NOW_S = 1_700_000_000
PUBLISHED_S = NOW_S - 86_400
KEY = SiteKey(bytes(range(32)))


def _page(title: str, *paragraphs: str) -> bytes:
    text = "".join(f"<p>{paragraph}\n" for paragraph in paragraphs)
    head = f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{title}</title>\n'
    return f"{head}<h1>{title}</h1>\n{text}".encode()


def _noise(size_bytes: int) -> bytes:
    return random.Random(size_bytes).randbytes(size_bytes)


def _png() -> bytes:
    """A picture one pixel high, of noise, so that it is no shorter than the ranges asked for."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 500, 1, 8, 0, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"\0" + _noise(500)))
    return b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")


_SENTENCES = ("The quick brown fox jumps over the lazy dog, naïvely, in a façade of déjà vu.",) * 40
# The bytes of this one are on no peer.
LOST = "/lost.html"
FILES = {
    "/index.html": _page("Home", *_SENTENCES),
    # Hexadecimal noise: even its shortest encoding is too long to be handed over in memory.
    "/long.html": _page("Long", *(_noise(1_000 + number).hex() for number in range(100))),
    "/film.mp4": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + _noise(BLOCK_BYTES + 1_000),
    "/data.bin": _noise(1_000),
    "/empty.txt": b"",
    "/picture.png": _png(),
    "/style.css": b"body { font: 1rem/1.5 serif; margin: 0 auto; max-width: 40rem }\n" * 40,
    "/script.js": b"document.title = document.title.toUpperCase();\n" * 40,
    "/data.json": json.dumps({"names": ["Ada", "Zoë"] * 100}, ensure_ascii=False).encode(),
    "/feed.rss": b'<?xml version="1.0" encoding="utf-8"?>\n<rss version="2.0"><channel/></rss>\n',
    "/drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><circle r="1"/></svg>\n',
    "/süß.txt": "Viele süße Grüße.\n".encode() * 10,
    "/folder/index.html": _page("Folder", "Inside."),
    "/folder/404.html": _page("Nothing in this folder", "Go up."),
    LOST: _page("Lost", "Gone."),
}
ERROR_PAGE = {"/404.html": _page("Nothing here", *_SENTENCES)}
CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "br": brotli.compress,
    "zstd": zstandard.compress,
    "gzip": lambda data: gzip.compress(data, mtime=0),
}
CODED = ("/index.html", "/long.html", "/style.css", "/script.js", "/data.json", "/404.html")


@cache
def encoded(path: str, data: bytes) -> dict[str, bytes]:
    """A file's representations, by the name of their coding."""
    coded = {name: encode(data) for name, encode in CODINGS.items()} if path in CODED else {}
    return {"identity": data, **coded}


def _entry(path: str, representations: dict[str, bytes]) -> Entry:
    return Entry(
        path=path,
        media_type=media_type_of(path),
        seq=1,
        modified_s=PUBLISHED_S,
        encodings=tuple(
            Encoding(name, len(data), blob_of(data)[0].root)
            for name, data in representations.items()
        ),
    )


def publish(store: Store, files: dict[str, bytes]) -> Signed:
    """Put version 1 of the site into a store, but for the bytes that are lost."""
    entries = []
    for path, data in files.items():
        representations = encoded(path, data)
        entry = _entry(path, representations)
        entries.append(entry)
        if path != LOST:
            segments = [one for each in representations.values() for one in segments_of(each)]
            record = sign(entry.file_record(KEY.public_key), KEY)
            assert store.commit([Item(record)], segments) == [Held(())]
    data = Manifest(KEY.public_key, 1, entries).encode()
    manifest, _ = blob_of(data)
    record = SiteRecord(
        public_key=KEY.public_key,
        seq=1,
        published_s=PUBLISHED_S,
        copies=1,
        manifest_size_bytes=manifest.size_bytes,
        manifest_root=manifest.root,
    )
    signed = sign(record, KEY)
    assert store.commit([Item(signed)], segments_of(data)) == [Held(())]
    return signed


class Nobody:
    """The overlay of a peer that is alone: whatever it looks for is nowhere."""

    inconclusive = False

    def find_value(self, key: bytes, need: int | None = None) -> Nobody:
        return self

    async def __aenter__(self) -> Nobody:
        return self

    async def __aexit__(self, *failure: object) -> None:
        pass

    def __aiter__(self) -> Nobody:
        return self

    async def __anext__(self) -> object:
        raise StopAsyncIteration


async def _run(call: Callable[[], T]) -> T:
    return call()


@asynccontextmanager
async def serve(
    handler: Handler, *, now_unix: Callable[[], float] = lambda: NOW_S, **limits: float
) -> AsyncIterator[int]:
    """A front end on a port of its own, which is given."""
    server = HttpServer(handler, limits=ServerLimits(**limits), now_unix=now_unix)  # type: ignore[arg-type]
    await server.start([("127.0.0.1", 0)])
    try:
        yield server.addresses[0][1]
    finally:
        await asyncio.wait_for(server.close(0), PATIENCE_S)


@asynccontextmanager
async def peer(files: dict[str, bytes]) -> AsyncIterator[Gateway]:
    """All that is behind the front end of a peer, with the site as its home; no other peers."""
    store = memory_store()
    publish(store, files)
    client = PeerClient()
    overlay = cast(Overlay, Nobody())
    reader = BlobReader(store, client, overlay, _run)
    sites = Sites(store, overlay, reader, _run, lambda _: True, lambda _: None)

    async def live(site: str, fresh: bool) -> Signed | None:
        version = await sites.current(KEY.site) if site == KEY.site else None
        return version.signed if version else None

    async def status() -> PeerStatus:
        return status_of(info, [], begun_s=0, now_s=0, knows_others=False)

    async def nothing(*_: object) -> Any:
        return None

    async def nowhere(items: object, copies: int, segments: object) -> list[object]:
        return []

    info = PeerInfo(p2pweb=PROTOCOL, id="00" * 20, home=KEY.site, version="1")
    duties = Duties(
        info=lambda: info,
        status=status,
        facts=nothing,
        contacts=lambda: [("192.0.2.1", 8080)],
        takes=lambda site: site == KEY.site,
        live_site=live,
        held=nothing,
        reach=nothing,
        kept=lambda _: None,
        place=nowhere,  # type: ignore[arg-type]
    )
    try:
        hosts = Hosts([], lambda: KEY.site)
        yield Gateway(hosts, sites, reader, PeerService(store, duties, _run, _run), lambda: NOW_S)
    finally:
        await sites.close()
        await reader.close()
        await client.close()
        store.close()
