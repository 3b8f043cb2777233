"""Which version of a site is served, while visitors leave and strangers ask for much."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar, cast

import pytest
from lint_site import KEY, Nobody

from p2pweb import sites as sites_module
from p2pweb.address import Address
from p2pweb.blobs import blob_of, segments_of
from p2pweb.dht.contact import ID_BYTES, Contact, NodeId
from p2pweb.dht.events import Found
from p2pweb.dht.overlay import Overlay
from p2pweb.errors import UnavailableError
from p2pweb.exchange.client import PeerClient
from p2pweb.exchange.reader import BlobReader, Runner, Source
from p2pweb.keys import SiteKey
from p2pweb.manifest import Manifest
from p2pweb.records import Signed, SiteRecord, sign
from p2pweb.sites import (
    ASKED_KEPT,
    REFRESH_AGAIN_S,
    REFRESH_KEPT_S,
    REFRESH_S,
    UNKNOWN_S,
    Sites,
)
from p2pweb.store.items import Held, Item
from p2pweb.store.opening import memory_store
from p2pweb.store.store import Store

T = TypeVar("T")


def version(seq: int) -> tuple[Signed, bytes]:
    """A version without files: its record, and its manifest."""
    data = Manifest(KEY.public_key, seq, []).encode()
    manifest, _ = blob_of(data)
    record = SiteRecord(
        public_key=KEY.public_key,
        seq=seq,
        published_s=1_700_000_000 + seq,
        copies=1,
        manifest_size_bytes=manifest.size_bytes,
        manifest_root=manifest.root,
    )
    return sign(record, KEY), data


def publish(store: Store, seq: int) -> None:
    """Put a version without files into a store."""
    signed, data = version(seq)
    assert store.commit([Item(signed)], segments_of(data)) == [Held(())]


class Disk:
    """Runs the store's calls, and holds them back while it is told to."""

    def __init__(self) -> None:
        self.held = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()

    async def run(self, call: Callable[[], T]) -> T:
        self.held.set()
        await self.go.wait()
        return call()


class Slow(Nobody):
    """An overlay in which a lookup finds nothing, and from some time on does not end either."""

    def __init__(self) -> None:
        self.is_stuck = False

    async def __anext__(self) -> object:
        if self.is_stuck:
            await asyncio.Event().wait()
        raise StopAsyncIteration


class Mute(Nobody):
    """An overlay of which nobody answers, for as long as it is told to."""

    inconclusive = True


class Counting(Nobody):
    """An overlay that counts how often it is asked."""

    def __init__(self) -> None:
        self.lookups = 0
        self.needs: list[int | None] = []

    def find_value(self, key: bytes, need: int | None = None) -> Nobody:
        self.lookups += 1
        self.needs.append(need)
        return super().find_value(key)


class Telling(Nobody):
    """An overlay in which a lookup finds some records, and then does not end."""

    def __init__(self, *seqs: int) -> None:
        self.left = list(seqs)

    async def __anext__(self) -> object:
        if not self.left:
            await asyncio.Event().wait()
        seq = self.left.pop(0)
        contact = Contact(NodeId(bytes([seq] * ID_BYTES)), (f"192.0.2.{seq}", 1))
        return Found(contact, version(seq)[0].value, {})


class Told(Nobody):
    """An overlay in which these contacts have a site's record, and say so much beside it."""

    def __init__(self, value: bytes, extras: dict[Contact, dict[str, bool]]) -> None:
        self._found = [Found(contact, value, extra) for contact, extra in extras.items()]

    async def __anext__(self) -> object:
        if not self._found:
            raise StopAsyncIteration
        return self._found.pop()


@asynccontextmanager
async def served(
    store: Store,
    run: Runner,
    overlay: Nobody,
    *,
    is_kept: bool = True,
    served_seq: int = 0,
    is_alone: bool = False,
    keeper: Callable[[Contact, Signed], None] = lambda contact, signed: None,
) -> AsyncIterator[Sites]:
    client = PeerClient()
    around = cast(Overlay, overlay)
    reader = BlobReader(store, client, around, run)
    sites = Sites(
        store,
        around,
        reader,
        run,
        lambda site: is_kept and site == KEY.site,
        lambda _: None,
        lambda _: served_seq,
        lambda: is_alone,
        keeper,
    )
    try:
        yield sites
    finally:
        await sites.close()
        await reader.close()
        await client.close()
        store.close()


async def seq_of(sites: Sites) -> int:
    version = await sites.current(KEY.site)
    assert version is not None
    return version.record.seq


async def test_a_manifest_that_the_store_has_read_is_not_read_again() -> None:
    store = memory_store()
    async with served(store, Disk().run, Nobody()) as sites:
        publish(store, 1)
        first = await sites.current(KEY.site)
        publish(store, 2)
        assert first is not None
        # Only of the live version.
        assert store.live.manifest(first.signed) is None
        sites.notice(KEY.site)
        version = await sites.current(KEY.site)
        assert version is not None
        assert version.manifest.seq == 2
        assert version.manifest is store.live.manifest(version.signed)


async def test_visitor_who_leaves_does_not_take_the_news_along() -> None:
    store, disk = memory_store(), Disk()
    async with served(store, disk.run, Nobody()) as sites:
        publish(store, 1)
        assert await seq_of(sites) == 1
        publish(store, 2)
        sites.notice(KEY.site)
        disk.held.clear()
        disk.go.clear()
        visit = asyncio.ensure_future(sites.current(KEY.site))
        await disk.held.wait()
        visit.cancel()
        await asyncio.gather(visit, return_exceptions=True)
        disk.go.set()
        assert await seq_of(sites) == 2


async def test_known_site_is_served_while_strangers_sites_are_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sites_module, "REFRESHES_MAX", 3)
    store, overlay = memory_store(), Slow()
    async with served(store, Disk().run, overlay, is_kept=False) as sites:
        publish(store, 1)
        assert await sites.fresh(KEY.site)
        overlay.is_stuck = True
        first, *strangers = (SiteKey(bytes([number] * 32)).site for number in range(4))
        for stranger in strangers:
            sites.refresh_soon(stranger)
        with pytest.raises(UnavailableError):
            await sites.current(first)
        known = sites._known[KEY.site]
        assert known.refreshed_at is not None
        known.refreshed_at -= 2 * REFRESH_S
        assert await seq_of(sites) == 1
        assert KEY.site not in sites._refreshes


async def test_a_site_that_nobody_had_is_looked_for_again_soon() -> None:
    store, overlay = memory_store(), Counting()
    async with served(store, Disk().run, overlay, is_kept=False) as sites:
        assert await sites.current(KEY.site) is None
        assert await sites.current(KEY.site) is None
        assert overlay.lookups == 1
        known = sites._known[KEY.site]
        assert known.refreshed_at is not None
        known.refreshed_at -= 2 * UNKNOWN_S
        assert await sites.current(KEY.site) is None
        assert overlay.lookups == 2


def make_old(sites: Sites) -> None:
    """As if so much time had passed that the site is asked for again."""
    known = sites._known[KEY.site]
    assert known.refreshed_at is not None
    known.refreshed_at -= 2 * UNKNOWN_S


async def test_a_site_is_not_called_absent_while_nobody_answers() -> None:
    overlay = Mute()
    async with served(memory_store(), Disk().run, overlay, is_kept=False) as sites:
        with pytest.raises(UnavailableError, match="too few"):
            await sites.current(KEY.site)
        # Also to those who come before it is asked for again.
        with pytest.raises(UnavailableError, match="too few"):
            await sites.current(KEY.site)
        # A publisher finds out by itself whether it is stale.
        assert await sites.fresh(KEY.site) is None
        overlay.inconclusive = False
        make_old(sites)
        assert await sites.current(KEY.site) is None


async def test_a_peer_that_is_the_whole_network_knows_what_there_is_not() -> None:
    async with served(memory_store(), Disk().run, Mute(), is_alone=True) as sites:
        assert await sites.current(KEY.site) is None


async def test_a_site_that_was_served_here_is_not_called_absent() -> None:
    async with served(memory_store(), Disk().run, Nobody(), served_seq=1) as sites:
        with pytest.raises(UnavailableError, match="served here"):
            await sites.current(KEY.site)


async def test_a_site_kept_here_is_asked_for_again_until_somebody_answers() -> None:
    overlay = Mute()
    async with served(memory_store(), Disk().run, overlay) as sites:
        with pytest.raises(UnavailableError):
            await sites.current(KEY.site)
        overlay.inconclusive = False
        again = sites._known[KEY.site].again
        assert again is not None
        assert again.when() <= asyncio.get_running_loop().time() + REFRESH_AGAIN_S
        make_old(sites)
        assert await sites.current(KEY.site) is None
        assert sites._known[KEY.site].again_s == REFRESH_AGAIN_S


async def test_what_comes_of_the_asking_that_goes_on_is_newer() -> None:
    store = memory_store()
    async with served(store, Disk().run, Nobody()) as sites:
        publish(store, 1)
        first = await sites.current(KEY.site)
        assert first is not None
        assert await sites.newer_than(first) is None
        publish(store, 2)
        sites.notice(KEY.site)
        second = await sites.fresh(KEY.site)
        assert second is not None
        assert await sites.newer_than(first) is second
        assert await sites.newer_than(second) is None


@pytest.fixture
def tellers(monkeypatch: pytest.MonkeyPatch) -> list[Address]:
    """Manifests are read from whoever tells of a version; who is to be asked for them."""
    told: list[Address] = []
    manifests = {signed.record.blobs[0]: data for signed, data in map(version, range(1, 5))}

    async def read_all(reader: BlobReader, source: Source) -> bytes:
        return manifests[source.blob]

    monkeypatch.setattr(BlobReader, "read_all", read_all)
    monkeypatch.setattr(BlobReader, "remember", lambda self, key, address: told.append(address))
    return told


async def wait_for_seq(sites: Sites, seq: int) -> None:
    """Turns of the loop are all that it takes: nothing here waits for a clock."""
    for _ in range(100):
        if await seq_of(sites) == seq:
            return
        await asyncio.sleep(0)
    raise AssertionError(f"version {seq} is not served")


async def test_a_version_is_taken_before_everybody_is_heard_out(tellers: list[Address]) -> None:
    store = memory_store()
    async with served(store, Disk().run, Telling(2, 1, 3, 2, 3)) as sites:
        publish(store, 1)
        await sites.known(KEY.site)
        sites.refresh_soon(KEY.site)
        await wait_for_seq(sites, 3)
        assert store.live.seq(KEY.site) == 3
        # Not who tells of an older one: the manifest may be had from whoever has the newest.
        assert [host for host, _ in tellers] == ["192.0.2.2", "192.0.2.3", "192.0.2.3"]


async def test_news_does_not_wait_for_the_end_of_a_lookup(tellers: list[Address]) -> None:
    store = memory_store()
    async with served(store, Disk().run, Telling(2)) as sites:
        publish(store, 1)
        await sites.known(KEY.site)
        sites.refresh_soon(KEY.site)
        await wait_for_seq(sites, 2)
        sites.hear(version(4)[0], ("192.0.2.9", 1))
        await wait_for_seq(sites, 4)
        assert tellers[-1] == ("192.0.2.9", 1)


async def test_a_site_kept_here_is_asked_for_less_often_and_of_fewer() -> None:
    for is_kept, need, pause_s in ((True, ASKED_KEPT, REFRESH_KEPT_S), (False, None, REFRESH_S)):
        store, overlay = memory_store(), Counting()
        async with served(store, Disk().run, overlay, is_kept=is_kept) as sites:
            publish(store, 1)
            assert await sites.fresh(KEY.site)
            known = sites._known[KEY.site]
            for ago_s, lookups in ((0.9 * pause_s, 1), (1.1 * pause_s, 2)):
                known.refreshed_at = asyncio.get_running_loop().time() - ago_s
                assert await seq_of(sites) == 1
                assert known.lease.until_s == known.refreshed_at + pause_s
                await asyncio.gather(*sites._refreshes.values())
                assert overlay.needs == [need] * lookups


async def test_all_who_may_have_a_version_are_asked_where_none_is_here() -> None:
    store, overlay = memory_store(), Counting()
    async with served(store, Disk().run, overlay, is_kept=True) as sites:
        assert await sites.fresh(KEY.site) is None
        publish(store, 1)
        sites.notice(KEY.site)
        assert await sites.fresh(KEY.site)
        assert overlay.needs == [None, ASKED_KEPT]


async def test_who_says_that_it_keeps_the_site_need_not_be_asked() -> None:
    contacts = [Contact(NodeId(bytes([n]) * 20), ("192.0.2.1", n)) for n in range(1, 5)]
    extras: list[dict[str, bool]] = [{"has": True, "keeps": True}, {"keeps": False}, {}]
    store, keepers = memory_store(), list[Contact]()
    publish(store, 1)
    live = store.live_site(KEY.site)
    assert live is not None
    overlay = Told(live.value, dict(zip(contacts, extras, strict=False)))
    async with served(
        store, Disk().run, overlay, keeper=lambda contact, signed: keepers.append(contact)
    ) as sites:
        assert await sites.fresh(KEY.site)
    assert keepers == contacts[:1]
