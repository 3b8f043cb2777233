"""Which version of a site is live: what the store holds, what holders say, what news brings.

A version is a verified site record with its manifest, decoded. Per site the highest seq ever seen
here is the one that is served; a lower one is never gone back to. A known version is served at
once and refreshed in the background; a push of a new record (`notice`) brings it at once.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from p2pweb.blobs import segments_of
from p2pweb.dht.overlay import Overlay
from p2pweb.errors import CorruptError, P2PWebError, UnavailableError
from p2pweb.exchange.reader import BlobReader, Runner, Source
from p2pweb.keys import SiteId
from p2pweb.manifest import InvalidManifestError, Manifest
from p2pweb.records import (
    InvalidRecordError,
    Signed,
    SiteRecord,
    dht_key,
    open_record,
    record_key,
    site_name,
)
from p2pweb.store.store import Item, Store

log = logging.getLogger("p2pweb.sites")

# How old what is served may be before it is asked for again, beside the visitor's request. News
# is pushed to the peers that keep the record; this is for the others, and for news that was lost.
REFRESH_S = 10.0
# Sites whose manifests are in memory. A peer's own few, and what visitors asked it to proxy.
SITES_MAX = 64


@dataclass(frozen=True, slots=True)
class SiteVersion:
    """One version, whole: what one request is answered from."""

    signed: Signed
    record: SiteRecord
    manifest: Manifest


@dataclass(slots=True)
class _Known:
    version: SiteVersion | None = None
    refreshed_at: float | None = None


class Sites:
    """The sites that this peer serves; `close` ends what is under way."""

    def __init__(
        self,
        store: Store,
        overlay: Overlay,
        reader: BlobReader,
        run: Runner,
        keeps: Callable[[SiteId], bool],
    ) -> None:
        self._store = store
        self._overlay = overlay
        self._reader = reader
        self._run = run
        self._keeps = keeps
        self._known: OrderedDict[SiteId, _Known] = OrderedDict()
        self._refreshes: dict[SiteId, asyncio.Task[None]] = {}

    async def close(self) -> None:
        tasks = list(self._refreshes.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def current(self, site: SiteId) -> SiteVersion | None:
        """The live version as far as this peer knows; None where nobody has one.

        Waits for the network only where nothing is known yet. UnavailableError where a version
        exists but its manifest cannot be had.
        """
        known = self._entry(site)
        if known.version is None:
            await self._load(site, known)
        now = asyncio.get_running_loop().time()
        if known.refreshed_at is None or now - known.refreshed_at > REFRESH_S:
            refresh = self._start_refresh(site, known)
            if known.version is None:
                await asyncio.shield(refresh)
        return known.version

    async def fresh(self, site: SiteId) -> SiteVersion | None:
        """The live version after asking the holders of the site's record."""
        known = self._entry(site)
        if known.version is None:
            await self._load(site, known)
        await asyncio.shield(self._start_refresh(site, known))
        return known.version

    def refresh_soon(self, site: SiteId) -> None:
        """There may be a newer version: ask, beside whatever goes on."""
        self._start_refresh(site, self._entry(site))

    def notice(self, site: SiteId) -> None:
        """The store has a new record of this site: serve it from the next request on."""
        known = self._known.get(site)
        if known is not None:
            signed = self._store.live_site(site)
            if signed is not None and _is_newer(signed, known.version):
                known.version = None

    def _entry(self, site: SiteId) -> _Known:
        known = self._known.setdefault(site, _Known())
        self._known.move_to_end(site)
        while len(self._known) > SITES_MAX:
            self._known.popitem(last=False)
        return known

    async def _load(self, site: SiteId, known: _Known) -> None:
        """Take what the store has, if anything."""
        try:
            signed = await self._run(lambda: self._store.live_site(site))
        except CorruptError as error:
            log.warning("%s; the site is asked for elsewhere", error)
            return
        if signed is not None:
            version = await self._open(signed)
            if _is_newer(signed, known.version):
                known.version = version

    def _start_refresh(self, site: SiteId, known: _Known) -> asyncio.Task[None]:
        refresh = self._refreshes.get(site)
        if refresh is None:
            refresh = asyncio.ensure_future(self._refresh(site, known))
            self._refreshes[site] = refresh
            refresh.add_done_callback(lambda task: self._refreshed(site, task))
        return refresh

    def _refreshed(self, site: SiteId, task: asyncio.Task[None]) -> None:
        del self._refreshes[site]
        if not task.cancelled():
            error = task.exception()
            if isinstance(error, P2PWebError):
                log.warning("the newest version of %s is not to be had: %s", site, error)
            elif error is not None:
                log.error("refreshing %s failed", site, exc_info=error)

    async def _refresh(self, site: SiteId, known: _Known) -> None:
        """Ask the holders of the site's record, and take the highest version that one has."""
        best = known.version.signed if known.version else None
        async with self._overlay.find_value(dht_key(site_name(site))) as lookup:
            async for found in lookup:
                signed = _site_record(found.value, site)
                if signed is not None and (best is None or _order(signed) > _order(best)):
                    best = signed
        if best is not None and (known.version is None or best != known.version.signed):
            version = await self._open(best)
            if _is_newer(best, known.version):
                known.version = version
                log.info("site %s is at version %d", site, version.record.seq)
        known.refreshed_at = asyncio.get_running_loop().time()

    async def _open(self, signed: Signed) -> SiteVersion:
        """Fetch a version's manifest, and keep both where this peer keeps the site."""
        record = signed.record
        assert isinstance(record, SiteRecord)  # noqa: S101 - `_site_record` and the store see to it
        site = record.site
        key = record_key(record)
        data = await self._reader.read_all(Source(record.manifest, lambda _: key))
        try:
            manifest = Manifest.decode(data)
        except InvalidManifestError as error:
            raise UnavailableError(f"the site's manifest makes no sense: {error}") from None
        if manifest.site != site or manifest.seq != record.seq:
            raise UnavailableError("the site's manifest is another version's")
        if self._keeps(site):
            await self._run(lambda: self._store.commit([Item(signed)], segments_of(data)))
        return SiteVersion(signed, record, manifest)


def _site_record(value: bytes, site: SiteId) -> Signed | None:
    """The record if it is the site's own; anything else that was found there is ignored."""
    try:
        signed = open_record(value)
    except InvalidRecordError:
        return None
    return signed if isinstance(signed.record, SiteRecord) and signed.record.site == site else None


def _order(signed: Signed) -> tuple[int, bytes]:
    """Of two records of one seq every peer takes the same one, as the store does."""
    return signed.record.seq, signed.value


def _is_newer(signed: Signed, than: SiteVersion | None) -> bool:
    return than is None or _order(signed) > _order(than.signed)
