"""Which version of a site is live: what the store holds, what holders say, what news brings.

A version is a verified site record with its manifest, decoded. Per site the highest seq ever seen
here is the one that is served; a lower one is never gone back to. A known version is served at
once and refreshed in the background; a push of a new record (`notice`) brings it at once.
"""

import asyncio
import logging
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from p2pweb.address import Address
from p2pweb.blobs import InvalidBlockError, segments_of
from p2pweb.dht.contact import Contact
from p2pweb.dht.overlay import Overlay
from p2pweb.errors import CorruptError, UnavailableError
from p2pweb.exchange.reader import BlobReader, Runner, Source
from p2pweb.http.messages import Lease
from p2pweb.keys import SiteId
from p2pweb.manifest import InvalidManifestError, Manifest
from p2pweb.pages import Pages
from p2pweb.records import (
    InvalidRecordError,
    Signed,
    SiteRecord,
    dht_key,
    open_record,
    record_key,
    site_name,
)
from p2pweb.store.items import Full, Item
from p2pweb.store.live import order_of
from p2pweb.store.store import Store

log = logging.getLogger("p2pweb.sites")

# All that keep a site have its record, not only the k closest to its key; so no more are asked for
# a newer version of a site that is kept here (all are where none is: that nobody has any is not to
# be taken from a few). With half of all peers liars one in a thousand times all
# of these are, and news, or the next time, tells.
ASKED_KEPT = 10
# How old what is served may be before it is asked for again, beside the visitor's request. News
# is pushed to the peers that keep the record; this is for the others, and for news that was lost.
REFRESH_S = 10.0
# The same of a site kept here, whose news reaches all that keep it: to ask costs some 3 KB.
REFRESH_KEPT_S = 60.0
# The same where nobody had any version: it may be about to be published, and whoever asks for it
# then is not to be told for long that there is none.
UNKNOWN_S = 1.0
# A version of a site kept here, whose manifest was not to be had, is asked for again after so long,
# then twice so long, up to the most.
REFRESH_AGAIN_S = 1.0
REFRESH_AGAIN_S_MAX = 60.0
# Sites whose manifests are in memory. A peer's own few, and what visitors asked it to proxy.
SITES_MAX = 64
MANIFESTS_BYTES_MAX = 64 * 1024 * 1024
# The manifest of a site that is only passed on: some 7,000 paths. Anybody can make a site.
PROXIED_BYTES_MAX = 2 * 1024 * 1024
# Sites asked for at one time; visitors can name as many as they like.
REFRESHES_MAX = 256
# And of how many it is remembered that a version was served, 200 bytes each.
HIGHEST_MAX = 16_384


@dataclass(frozen=True, slots=True)
class SiteVersion:
    """One version, whole: what one request is answered from."""

    signed: Signed
    record: SiteRecord
    manifest: Manifest
    pages: Pages


@dataclass(slots=True)
class _Known:
    version: SiteVersion | None = None
    # While it lasts, the version is served without another look.
    lease: Lease = field(default_factory=lambda: Lease(-math.inf))
    refreshed_at: float | None = None
    has_news: bool = False
    fault: UnavailableError | None = None
    # Why it is not known either whether there is a version.
    doubt: UnavailableError | None = None
    # A newer record that was heard of, and not taken yet.
    heard: Signed | None = None
    # Takes what is heard of while holders are asked.
    told: Callable[[Signed, Address], None] | None = None
    # How long until it is asked again for a version whose manifest was not to be had.
    again_s: float = REFRESH_AGAIN_S
    again: asyncio.TimerHandle | None = None
    # What lived on this peer's disk, also where its manifest cannot be read any more.
    floor: Signed | None = None


class Sites:
    """The sites that this peer serves; `close` ends what is under way."""

    def __init__(
        self,
        store: Store,
        overlay: Overlay,
        reader: BlobReader,
        run: Runner,
        keeps: Callable[[SiteId], bool],
        lives: Callable[[Signed], None],
        served: Callable[[SiteId], int] = lambda _: 0,
        is_alone: Callable[[], bool] = lambda: False,
        keeper: Callable[[Contact, Signed], None] = lambda contact, signed: None,
    ) -> None:
        """`lives` is told each site's record that is served from now on; `served` knows the highest
        seq of a site served in an earlier run, 0 for none; `is_alone` says whether this peer is the
        whole network, so that what it does not have is nowhere; `keeper` is told who keeps a site,
        and which record of it is there."""
        self._store = store
        self._overlay = overlay
        self._reader = reader
        self._run = run
        self._keeps = keeps
        self._lives = lives
        self._served = served
        self._is_alone = is_alone
        self._keeper = keeper
        self._known: OrderedDict[SiteId, _Known] = OrderedDict()
        self._refreshes: dict[SiteId, asyncio.Task[None]] = {}
        # The highest version of each site ever served here, manifests that were forgotten included.
        self._highest: OrderedDict[SiteId, Signed] = OrderedDict()

    async def close(self) -> None:
        tasks = list(self._refreshes.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for known in self._known.values():
            if known.again is not None:
                known.again.cancel()

    def leased(self, site: SiteId) -> tuple[SiteVersion, Lease] | None:
        """The live version, if that need not be looked at again just now.

        The lease ends when there is news, or when it is time to ask again.
        """
        known = self._known.get(site)
        if known is None or known.version is None:
            return None
        self._known.move_to_end(site)
        now = asyncio.get_running_loop().time()
        return (known.version, known.lease) if now < known.lease.until_s else None

    async def current(self, site: SiteId) -> SiteVersion | None:
        """The live version as far as this peer knows; None where nobody has one.

        Waits for the network only where nothing is known yet. UnavailableError where a version
        exists but its manifest cannot be had, and where one may exist and too few who may have it
        have answered.
        """
        await self.known(site)
        known = self._entry(site)
        try:
            refresh = self.refresh_if_old(site) or self._refreshes.get(site)
        except UnavailableError:
            if known.version is None:
                raise
            refresh = None  # Strangers' sites are asked for; what is known is served meanwhile.
        if known.version is None and refresh is not None:
            await asyncio.shield(refresh)
        if known.version is None and (why := known.fault or known.doubt) is not None:
            # Not the same one for all, which would keep what led each of them here.
            raise UnavailableError(str(why))
        if known.version is not None and known.refreshed_at is not None and not known.has_news:
            known.lease.end()
            known.lease = Lease(known.refreshed_at + self._refresh_pause_s(site))
        return known.version

    async def known(self, site: SiteId) -> SiteVersion | None:
        """The live version, without asking anybody; None where this peer knows none."""
        known = self._entry(site)
        if known.version is None or known.has_news:
            await self._load(site, known)
        return known.version

    async def fresh(self, site: SiteId) -> SiteVersion | None:
        """The live version after asking the holders of the site's record; None where none of those
        that answer has one."""
        await self.known(site)
        known = self._entry(site)
        await asyncio.shield(self._start_refresh(site, known))
        if known.version is None and known.fault is not None:
            raise known.fault
        return known.version

    async def newer_than(self, version: SiteVersion) -> SiteVersion | None:
        """The version that has come since, or comes of the asking that goes on; None for none."""
        site = version.record.site
        if (refresh := self._refreshes.get(site)) is not None:
            await asyncio.shield(refresh)
        live = self._entry(site).version
        return live if live is not version else None

    def notice(self, site: SiteId) -> None:
        """The store has a new record of this site: serve it from the next request on."""
        known = self._known.get(site)
        if known is not None:
            known.has_news = True
            known.lease.end()

    def hear(self, signed: Signed, teller: Address) -> None:
        """A site's record came without its manifest, which its teller may have: take that version,
        if it is newer."""
        known = self._entry(signed.record.site)
        if known.told is not None:
            known.told(signed, teller)
        elif known.heard is None or order_of(signed) > order_of(known.heard):
            known.heard = signed
            self._reader.remember(record_key(signed.record), teller)
            self._start_refresh(signed.record.site, known)

    def refresh_soon(self, site: SiteId) -> None:
        """There may be a newer version: ask, beside whatever goes on."""
        self._start_refresh(site, self._entry(site))

    def refresh_if_old(self, site: SiteId) -> asyncio.Task[None] | None:
        """Ask, unless that was done a moment ago; the task that does so."""
        known, now = self._entry(site), asyncio.get_running_loop().time()
        pause_s = UNKNOWN_S if known.version is None else self._refresh_pause_s(site)
        if known.refreshed_at is None or now - known.refreshed_at > pause_s:
            return self._start_refresh(site, known)
        return None

    def _refresh_pause_s(self, site: SiteId) -> float:
        return REFRESH_KEPT_S if self._keeps(site) else REFRESH_S

    def _entry(self, site: SiteId) -> _Known:
        known = self._known.setdefault(site, _Known())
        self._known.move_to_end(site)
        self._forget_oldest()
        return known

    def _forget_oldest(self) -> None:
        """Keep manifests in bounds, but those of sites kept here and of lookups under way."""
        versions = [known.version for known in self._known.values() if known.version]
        size_bytes = sum(version.record.manifest_size_bytes for version in versions)
        for site in list(self._known):
            if len(self._known) <= SITES_MAX and size_bytes <= MANIFESTS_BYTES_MAX:
                break
            if site not in self._refreshes and not self._keeps(site):
                forgotten = self._known.pop(site)
                forgotten.lease.end()
                gone = forgotten.version
                size_bytes -= gone.record.manifest_size_bytes if gone else 0

    async def _load(self, site: SiteId, known: _Known) -> None:
        """Take what the store has, if it is newer."""
        known.has_news = False
        try:
            known.floor = await self._run(lambda: self._store.live_site(site))
            await self._take(known.floor, known, is_kept=True)
        except CorruptError as error:
            log.warning("the version of %s on this disk is not to be had: %s", site, error)
        except UnavailableError as error:
            log.warning("the manifest of %s is not to be had: %s", site, error)
            known.fault = error
        except BaseException:
            # A visitor who leaves cancels this, and must not take the news along: those who come
            # later would be served the version before it, and nobody would look again.
            known.has_news = True
            raise

    def _start_refresh(self, site: SiteId, known: _Known) -> asyncio.Task[None]:
        refresh = self._refreshes.get(site)
        if refresh is None:
            if len(self._refreshes) >= REFRESHES_MAX and not self._keeps(site):
                raise UnavailableError("this peer is looking for too many sites just now")
            known.refreshed_at = asyncio.get_running_loop().time()
            refresh = asyncio.ensure_future(self._refresh(site, known))
            self._refreshes[site] = refresh
            refresh.add_done_callback(lambda task: self._refreshed(site, task))
        return refresh

    def _refreshed(self, site: SiteId, task: asyncio.Task[None]) -> None:
        del self._refreshes[site]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("refreshing %s failed", site, exc_info=error)
        known = self._known.get(site)
        if known is None or task.cancelled():
            return
        if known.heard is not None:
            self._start_refresh(site, known)
        elif (known.fault or known.doubt) is not None and self._keeps(site):
            if known.again is not None:
                known.again.cancel()
            loop = asyncio.get_running_loop()
            known.again = loop.call_later(known.again_s, self._start_refresh, site, known)
            known.again_s = min(2 * known.again_s, REFRESH_AGAIN_S_MAX)
        else:
            known.again_s = REFRESH_AGAIN_S

    async def _refresh(self, site: SiteId, known: _Known) -> None:
        """Take the version heard of, or else the highest that the holders of the site's record
        have."""
        best, known.heard = known.heard, None
        is_sure = True
        if best is None or not self._is_higher(best, known):
            is_sure = await self._ask_holders(site, known)
        else:
            await self._try_to_take(site, best, known)
        known.doubt = None if known.version else self._doubt(site, known, is_sure=is_sure)

    async def _try_to_take(self, site: SiteId, signed: Signed | None, known: _Known) -> None:
        try:
            await self._take(signed, known, is_kept=False)
            if known.version is not None:
                known.fault = None
        except UnavailableError as error:
            log.warning("the newest version of %s is not to be had: %s", site, error)
            known.fault = error

    def _doubt(self, site: SiteId, known: _Known, *, is_sure: bool) -> UnavailableError | None:
        """Why a site of which no version was found may have one; None where it has none."""
        if known.floor is not None or site in self._highest or self._served(site):
            return UnavailableError("no peer that answers has the version that was served here")
        if is_sure or self._is_alone():
            return None
        return UnavailableError("too few of the peers that may have it answer this one")

    async def _ask_holders(self, site: SiteId, known: _Known) -> bool:
        """Take the highest version that a holder of the site's record has, or that is heard of
        meanwhile; whether it is sure, where there is none, that nobody has any.

        At once, as soon as one is told of, and a higher one in its place: to hear everybody out may
        take seconds where somebody crowds the site's key.
        """
        best: Signed | None = None
        taking = asyncio.ensure_future(self._try_to_take(site, None, known))
        key = dht_key(site_name(site))
        is_kept = known.version is not None and self._keeps(site)
        need = ASKED_KEPT if is_kept else None

        def told(signed: Signed, teller: Address) -> None:
            nonlocal best, taking
            is_better = best is None or order_of(signed) > order_of(best)
            if is_better or signed == best:
                # It keeps the record with its manifest or not at all.
                self._reader.remember(key, teller)
            if is_better:
                taking.cancel()
                best, taking = signed, asyncio.ensure_future(self._try_to_take(site, signed, known))

        known.told = told
        try:
            async with self._overlay.find_value(key, need) as lookup:
                async for found in lookup:
                    signed = _site_record(found.value, site)
                    if signed is not None:
                        if found.extra.get("keeps") is True:
                            self._keeper(found.contact, signed)
                        told(signed, found.contact.address)
            while not taking.done():
                await asyncio.gather(taking, return_exceptions=True)
            if not taking.cancelled():
                taking.result()
            return not lookup.inconclusive
        finally:
            known.told = None
            taking.cancel()

    async def _take(self, signed: Signed | None, known: _Known, *, is_kept: bool) -> None:
        """Serve a version from now on, unless one as high was served already."""
        if signed is None or not self._is_higher(signed, known):
            return
        version, data = await self._open(signed, known.version)
        if data is not None and not is_kept and self._keeps(version.record.site):
            try:
                kept = await self._run(
                    lambda: self._store.commit([Item(signed)], segments_of(data))
                )
                if isinstance(kept[0], Full):
                    log.error("version %d is not on this disk: %s", signed.record.seq, kept[0].why)
            except InvalidBlockError:
                log.debug("the store has a newer version of %s", version.record.site)
            except OSError as error:
                log.error("this peer's disk refused a version: %s", error)
        # Asked again: another version may have been taken meanwhile.
        if self._is_higher(signed, known):
            known.version = version
            known.lease.end()
            site = version.record.site
            self._highest[site] = signed
            self._highest.move_to_end(site)
            while len(self._highest) > HIGHEST_MAX:
                self._highest.popitem(last=False)
            log.info("site %s is at version %d", site, version.record.seq)
            self._lives(signed)

    def _is_higher(self, signed: Signed, known: _Known) -> bool:
        if known.version is not None:
            return order_of(signed) > order_of(known.version.signed)
        if signed.record.seq < self._served(signed.record.site):
            return False
        floors = (self._highest.get(signed.record.site), known.floor)
        return all(floor is None or order_of(signed) >= order_of(floor) for floor in floors)

    async def _open(
        self, signed: Signed, before: SiteVersion | None
    ) -> tuple[SiteVersion, bytes | None]:
        """Fetch a version's manifest and read it; the version, and the manifest's bytes, unless the
        store has read them already. Of the version before it only the difference is fetched."""
        record = signed.record
        assert isinstance(record, SiteRecord)  # noqa: S101 - `_site_record` and the store see to it
        kept = self._store.live.manifest(signed)
        if kept is not None:
            return SiteVersion(signed, record, kept, Pages(kept)), None
        key = record_key(record)
        if record.manifest_size_bytes > PROXIED_BYTES_MAX and not self._keeps(record.site):
            raise UnavailableError("the site is too large for a peer that does not keep it")
        source = Source(record.manifest, lambda _: key)
        data = None
        if before is not None:
            root = before.record.manifest_root
            versions = record.seq - before.record.seq
            data = await self._reader.updated(source, before.manifest, root, versions)
        if data is None:
            data = await self._reader.read_all(source)
        try:
            manifest = await self._run(lambda: Manifest.decode(data))
        except InvalidManifestError as error:
            raise UnavailableError(f"the site's manifest makes no sense: {error}") from None
        if manifest.site != record.site or manifest.seq != record.seq:
            raise UnavailableError("the site's manifest is another version's")
        return SiteVersion(signed, record, manifest, Pages(manifest)), data


def _site_record(value: bytes, site: SiteId) -> Signed | None:
    """The record if it is the site's own; anything else that was found there is ignored."""
    try:
        signed = open_record(value)
    except InvalidRecordError:
        return None
    return signed if isinstance(signed.record, SiteRecord) and signed.record.site == site else None
