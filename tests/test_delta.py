"""Deltas of manifests: pure, between peers, and by a publish of one file of many."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import TypeVar, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from peer_duties import duties
from peer_processes import (
    ROOT,
    PeerProcess,
    assert_serves,
    files_of,
    network,
    publish,
)
from test_holders import Around, served

from p2pweb.blobs import BlobId, blob_of, segments_of
from p2pweb.cli.places import cache_home
from p2pweb.delta import WHOLE_BYTES_MAX, InvalidDeltaError, base_of, delta_of, rebuild
from p2pweb.dht.overlay import Overlay
from p2pweb.exchange import wire
from p2pweb.exchange.client import PeerClient
from p2pweb.exchange.reader import BlobReader
from p2pweb.exchange.service import PeerService
from p2pweb.http.messages import Request, Response
from p2pweb.http.service import AccessEntry, RequestBody
from p2pweb.keys import SiteKey
from p2pweb.manifest import Entry, Manifest
from p2pweb.published import keep_published, read_published
from p2pweb.records import Encoding, Signed, SiteRecord, sign
from p2pweb.sites import Sites
from p2pweb.store.items import Item
from p2pweb.store.opening import memory_store
from p2pweb.store.store import Store

KEY = SiteKey(b"k" * 32)
MANY = 600
T = TypeVar("T")


def entry(number: int, content: int = 0, seq: int = 1) -> Entry:
    root = random.Random(f"{number} {content}").randbytes(32)
    return Entry(
        path=f"/page-{number:05}.html",
        media_type="text/html",
        seq=seq,
        modified_s=100,
        encodings=(Encoding("identity", 1_000 + content, root),),
    )


def site(seq: int, *changed: int, count: int = MANY) -> Manifest:
    """A manifest whose pages of these numbers have changed in this version."""
    entries = (
        entry(number, seq, seq) if number in changed else entry(number) for number in range(count)
    )
    return Manifest(KEY.public_key, seq, entries)


def blob(manifest: Manifest) -> BlobId:
    return blob_of(manifest.encode())[0]


def between(base: Manifest, manifest: Manifest) -> bytes:
    delta = delta_of(base, blob(base).root, manifest, len(manifest.encode()))
    assert delta is not None
    return delta


# Pure


@given(
    st.sets(st.integers(0, MANY + 20), max_size=20),
    st.sets(st.integers(0, MANY - 1), max_size=20),
)
def test_a_delta_makes_the_one_manifest_of_the_other(changed: set[int], gone: set[int]) -> None:
    base = site(1)
    pages = {number: entry(number) for number in range(MANY) if number not in gone}
    pages |= {number: entry(number, 2, 2) for number in changed}
    later = Manifest(KEY.public_key, 2, pages.values())
    delta = between(base, later)
    assert base_of(delta) == blob(base).root
    assert rebuild(base, [delta], blob(later)) == later.encode()


def test_one_page_of_many_makes_a_short_delta() -> None:
    assert len(between(site(1), site(2, 5))) < 250


def test_several_deltas_lead_from_an_old_version_to_the_newest() -> None:
    first, second, third = site(1), site(2, 5), site(3, 9)
    steps = [between(first, second), between(second, third)]
    assert rebuild(first, steps, blob(third)) == third.encode()
    assert rebuild(first, steps[:1], blob(third)) is None
    assert rebuild(third, [], blob(third)) == third.encode()


def test_what_had_better_go_whole_has_no_delta() -> None:
    few = site(1, count=50)
    assert len(few.encode()) <= WHOLE_BYTES_MAX
    assert delta_of(few, blob(few).root, site(2, 5, count=50), len(few.encode())) is None
    base, size_bytes = site(1), len(site(1).encode())
    assert delta_of(base, blob(base).root, site(2, *range(MANY // 2)), size_bytes) is None


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        bytes(32),
        bytes(32) + b"\xc1",
        bytes(32) + msgspec.msgpack.encode([2, 2, [], []]),
        bytes(32) + msgspec.msgpack.encode([1, 2, ["/a"], "entries"]),
    ],
)
def test_bytes_that_are_no_delta_make_nothing(wrong: bytes) -> None:
    assert rebuild(site(1), [wrong], blob(site(2, 5))) is None


def test_a_delta_without_a_base_is_none() -> None:
    with pytest.raises(InvalidDeltaError):
        base_of(bytes(32))


def test_a_delta_that_leads_elsewhere_makes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    base, later = site(1), site(2, 5)
    assert rebuild(base, [between(base, site(2, 6))], blob(later)) is None
    monkeypatch.setattr("p2pweb.manifest.MANIFEST_BYTES_MAX", 1_000)
    delta = bytes(32) + msgspec.msgpack.encode([1, 2, [], []])
    assert rebuild(base, [delta], BlobId(1, bytes(32))) is None


# Between peers


async def run(call: Callable[[], T]) -> T:
    return call()


def signed(manifest: Manifest) -> Signed:
    named = blob(manifest)
    record = SiteRecord(
        public_key=KEY.public_key,
        seq=manifest.seq,
        published_s=100,
        copies=8,
        manifest_size_bytes=named.size_bytes,
        manifest_root=named.root,
    )
    return sign(record, KEY)


@asynccontextmanager
async def holding(*versions: Manifest) -> AsyncIterator[tuple[Store, PeerService]]:
    store = memory_store()
    for one in versions:
        store.commit([Item(signed(one))], segments_of(one.encode()))
    try:
        yield store, PeerService(store, duties(lambda _: True), run, run)
    finally:
        store.close()


async def ask(service: PeerService, path: str, body: bytes | None = None) -> Response:
    pieces = [body or b"", b""]

    async def next_data() -> bytes:
        return pieces.pop(0)

    request = Request(
        method="GET" if body is None else "POST",
        target=path.encode(),
        version=(1, 1),
        fields=((b"content-type", wire.BUNDLE_MEDIA_TYPE.encode()),),
        host="",
        host_port=None,
        content_length=len(body or b""),
        keep_alive=True,
        expects_continue=False,
    )
    return await service.handle(request, path, None, RequestBody(len(body or b""), next_data))


async def answer_to(service: PeerService, version: Manifest, delta: bytes) -> wire.ItemAnswer:
    body = wire.encode_bundle([Item(signed(version))], delta=delta)
    response = await ask(service, wire.PREFIX + "bundle", body)
    assert response.status == 200 and isinstance(response.body, bytes)
    return wire.decode_answers(response.body, 1)[0]


async def test_a_version_goes_live_by_its_delta_alone_and_can_be_passed_on() -> None:
    first, second = site(1), site(2, 5)
    async with holding(first) as (store, service):
        path = wire.delta_path(blob(second).root)
        assert (await ask(service, path)).status == 404
        assert (await answer_to(service, second, between(first, second))).is_whole
        assert store.live.seq(KEY.site) == 2
        assert (await ask(service, path)).body == between(first, second)
    assert wire.parse_root("no root") is None


async def test_a_delta_that_makes_nothing_here_leaves_the_manifest_wanted() -> None:
    first, second, third = site(1, 7), site(2, 5), site(3, 9)
    async with holding(first) as (store, service):
        answer = await answer_to(service, third, between(second, third))
        assert answer.parts == [(blob(third), 0)]
        assert store.live.seq(KEY.site) == 1
    async with holding() as (_, service):
        assert (await answer_to(service, second, between(first, second))).parts
    async with holding(first) as (_, service):
        for items in ([], [Item(signed(second))] * 2):
            body = wire.encode_bundle(items, delta=between(first, second))
            assert (await ask(service, wire.PREFIX + "bundle", body)).status == 400


@pytest.mark.parametrize("replayed", [1, 2])
async def test_of_a_record_that_is_no_news_nothing_is_made(
    replayed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = [site(1), site(2, 5)]
    monkeypatch.setattr("p2pweb.exchange.service.rebuild", None)
    async with holding(*versions) as (store, service):
        delta = between(site(1), site(3, 9)) if replayed == 1 else between(*versions)
        answer = await answer_to(service, versions[replayed - 1], delta)
        assert answer.state == "held" if replayed == 2 else answer.state == "stale"
        assert store.live.seq(KEY.site) == 2


async def test_deltas_in_memory_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = [site(1), site(2, 5), site(3, 9)]
    monkeypatch.setattr("p2pweb.store.live.DELTAS_BYTES_MAX", 300)
    async with holding(*versions) as (store, _):
        assert store.live.delta(blob(versions[2]).root) is not None
        assert store.live.delta(blob(versions[1]).root) is None


# The publisher's own copy


def test_what_was_published_last_is_kept_and_read_again(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    assert read_published(folder, KEY.site) is None
    for version in (site(1), site(2, 5)):
        keep_published(folder, KEY.site, version.encode())
        known = read_published(folder, KEY.site)
        assert known is not None
        assert (known[0].entries, known[1]) == (version.entries, blob(version).root)
    assert [one.name for one in folder.iterdir()] == [KEY.site]


def test_a_copy_that_is_damaged_or_cannot_be_written_is_as_none(tmp_path: Path) -> None:
    keep_published(tmp_path, KEY.site, b"damaged")
    assert read_published(tmp_path, KEY.site) is None
    (tmp_path / "file").touch()
    keep_published(tmp_path / "file", KEY.site, site(1).encode())
    taken = tmp_path / "taken"
    (taken / KEY.site).mkdir(parents=True)
    keep_published(taken, KEY.site, site(1).encode())
    assert read_published(taken, KEY.site) is None
    assert [one.name for one in taken.iterdir()] == [KEY.site]


# A follower


@asynccontextmanager
async def following(
    holder: Store, *versions: Manifest
) -> AsyncIterator[tuple[Sites, Callable[[], list[bytes]]]]:
    """A peer that has these versions and hears of the holder's; the targets that it asked for."""
    asked: list[AccessEntry] = []
    client = PeerClient()
    async with served(holder, None, log=asked.append) as (address, _), holding(*versions) as own:
        around = cast(Overlay, Around(address))
        reader = BlobReader(own[0], client, around, run)
        sites = Sites(own[0], around, reader, run, lambda _: True, lambda _: None)
        await sites.known(KEY.site)
        live = holder.live_site(KEY.site)
        assert live is not None
        sites.hear(live, address)
        try:
            yield sites, lambda: [entry.request.target for entry in asked if entry.request]
        finally:
            await sites.close()
            await reader.close()
            await client.close()


async def kinds_asked(holder: Store, *versions: Manifest) -> list[str]:
    """What a peer that has these versions asks for to serve the holder's newest."""
    async with following(holder, *versions) as (sites, asked):
        version = await sites.fresh(KEY.site)
        assert version is not None and version.record.seq == holder.live.seq(KEY.site)
        return [target.decode().removeprefix(wire.PREFIX).split("/")[0] for target in asked()]


async def test_a_follower_fetches_what_changed_and_one_that_has_nothing_everything() -> None:
    first, second, third = site(1), site(2, 5), site(3, 9)
    async with holding(first, second, third) as (holder, _):
        assert await kinds_asked(holder, first, second) == ["delta"]
        assert await kinds_asked(holder, first) == ["delta", "delta"]
        assert await kinds_asked(holder) == ["blob"]


async def test_a_follower_of_a_holder_without_the_delta_fetches_everything() -> None:
    async with holding(site(3, 9)) as (holder, _):
        assert await kinds_asked(holder, site(1)) == ["delta", "blob"]


async def test_a_follower_catches_up_by_so_many_deltas_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("p2pweb.exchange.client.DELTAS_MAX", 1)
    first, second, third = site(1), site(2, 5), site(3, 9)
    async with holding(first, second, third) as (holder, _):
        assert await kinds_asked(holder, first) == ["delta", "blob"]


async def test_deltas_that_are_too_many_bytes_in_all_are_given_up() -> None:
    versions = [site(number, *range(40 * number, 40 * number + 40)) for number in range(1, 5)]
    assert all(between(*pair) for pair in pairwise(versions))
    async with holding(*versions) as (holder, _):
        assert await kinds_asked(holder, versions[0]) == ["delta", "delta", "blob"]


async def test_a_holder_that_dawdles_with_deltas_holds_up_nobody_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("p2pweb.exchange.holders.DELTAS_S", 0.05)
    asked = []

    async def dawdle(*_: object) -> list[bytes]:
        asked.append(1)
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(PeerClient, "deltas", dawdle)
    async with holding(site(1), site(2, 5)) as (holder, _):
        assert await kinds_asked(holder, site(1)) == ["blob"]
    assert asked == [1]


def test_a_user_without_a_home_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: Path("/home/u"))
    assert cache_home() == Path("/home/u/.cache/p2pweb")

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert cache_home() is None


# With real peers


def publish_counted(directory: Path, peer: PeerProcess, key: Path) -> int:
    """Publish, and give the bytes that the publisher sent and was sent."""
    program = ROOT / "tools" / "bench_publish_counted.py"
    words = ["publish", str(directory), "--peer", peer.address, "--key", str(key), "--json"]
    with subprocess.Popen(
        [sys.executable, str(program), *words],
        stdin=subprocess.PIPE,  # Its end would be the end of the program.
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None
        lines = process.stdout.readlines()
    assert process.returncode == 0
    return int(json.loads(lines[-1])["bytes"])


def test_for_one_page_of_many_no_manifest_travels(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    for number in range(MANY):
        (folder / f"page-{number:05}.html").write_text(f"page {number}")
    with network(tmp_path, 3) as started:
        publish(folder, started[0], tmp_path / "key")
        for version in (2, 3):
            page = b"version %d" % version
            (folder / "page-00005.html").write_bytes(page)
            # A manifest of so many pages has twice as many bytes, both ways.
            told = publish_counted(folder, started[version - 1], tmp_path / "key")
            assert told < WHOLE_BYTES_MAX
            for peer in started:
                peer.wait_for("/page-00005.html", page)
        assert_serves(started[0], files_of(folder))
