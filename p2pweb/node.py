"""The one place that wires a peer together, and chooses clock, entropy, sockets and disk for it.

Start: the directory (locked), the UDP socket and the TCP listeners on one port number, the peers to
join; a peer that knows others from an earlier run serves at once, and joins beside that. Stop: the
other way round, answers in flight first. What a peer remembers of itself between runs (its id, its
home site, its contacts) is one small file in its directory.
"""

import asyncio
import contextlib
import logging
import math
import random
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from p2pweb import __version__
from p2pweb.address import Address, format_address
from p2pweb.blobs import SegmentData
from p2pweb.census import Census
from p2pweb.checkup import Checkup, Place, Reacher
from p2pweb.clock import Entropy, WallClock
from p2pweb.dht.contact import ID_BYTES, Contact
from p2pweb.dht.events import ContactDown, ContactMoved, ContactReturned, ContactUp, Event
from p2pweb.dht.overlay import Overlay
from p2pweb.dht.seal import Seal
from p2pweb.dht.settings import DEFAULTS
from p2pweb.errors import CorruptError, UnavailableError
from p2pweb.exchange.authorization import Gate, Prover
from p2pweb.exchange.client import ConnectorFactory, PeerClient, tcp_connector
from p2pweb.exchange.doubt import Doubt
from p2pweb.exchange.reader import BlobReader
from p2pweb.exchange.service import Duties, PeerService, Placed
from p2pweb.exchange.status import status_of
from p2pweb.exchange.wire import PROTOCOL, DiskStatus, PeerInfo, PeerStatus
from p2pweb.gateway import Gateway
from p2pweb.holdings import Holdings
from p2pweb.hosts import Hosts, own_names
from p2pweb.http.access_log import AccessLog
from p2pweb.http.server import HttpServer
from p2pweb.joining import Joining
from p2pweb.keys import SiteId
from p2pweb.listening import GRACE_S, listen_fault, server_limits, urls_of
from p2pweb.news import News
from p2pweb.peer_state import CONTACTS_MAX, PeerState, read_peer_state, write_peer_state
from p2pweb.records import (
    Signed,
    SiteRecord,
)
from p2pweb.repair import Repair
from p2pweb.replication import Replication
from p2pweb.scrub import DAY_S, DAYS_DEFAULT, Scrub
from p2pweb.secret import Secret
from p2pweb.sites import Sites, SiteVersion
from p2pweb.store.items import Item
from p2pweb.store.opening import FreeBytes, free_on_disk, open_store
from p2pweb.store.room import Room
from p2pweb.store.store import Store
from p2pweb.watch import Watch
from p2pweb.worker import Runs, Worker

log = logging.getLogger("p2pweb.node")

# Disk and hashing beside the event loop. Two cores are what the smallest machines have; the others
# wait for the disk.
WORKERS = 4
# News that did not reach a peer turns up so late; to ask around costs some 8 KB.
FOLLOW_S = 300.0
# A peer that was away asks the peers that it knew for a newer version of its site before it serves
# anything, and no longer than this: all of them may be gone.
CATCH_UP_S = 2.0
# Contacts are saved so long after one came or went, so that many at once are one write. The more of
# them there are, the less one of them matters: 200 are saved every 20 s at most.
SAVE_AFTER_S = 1.0
SAVE_AFTER_EACH_S = 0.1
# A peer that nobody has answered for so long may be cut off itself, and forgets nobody meanwhile.
# The silent leave the table after fifteen seconds at the earliest, so no outage costs a contact.
CUT_OFF_S = 10.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerOptions:
    """How to run a peer. `hosts` are IP addresses to listen on.

    `range_limit` is how many contacts of one address range it knows at most; 0 is no limit. With a
    `secret` it deals with peers that have the same one, and with no others.
    """

    port: int
    data: Path
    hosts: tuple[str, ...] = ("::",)
    join: tuple[Address, ...] = ()
    home: SiteId | None = None
    access_log: AccessLog | None = None
    range_limit: int = DEFAULTS.range_limit
    # How many bytes the data directory may hold; None for as many as its disk has room for.
    disk_bytes: int | None = None
    # In how many days everything on the disk is read again.
    scrub_days: float = DAYS_DEFAULT
    secret: Secret | None = None


class PeerNode:
    """A running peer; make one with `start_peer`."""

    def __init__(
        self,
        options: PeerOptions,
        store: Store,
        wall: WallClock,
        entropy: Entropy,
        connector: ConnectorFactory,
        writer: Callable[[], Runs],
    ) -> None:
        self._options = options
        self._store = store
        self._state_path = options.data / "peer.json"
        remembered = read_peer_state(self._state_path)
        self._state = remembered or PeerState(node_id=entropy(ID_BYTES).hex())
        self._executor = ThreadPoolExecutor(WORKERS, thread_name_prefix="p2pweb")
        self._writer = writer()
        self._saving: asyncio.Task[None] | None = None
        self._state_lock = threading.Lock()
        self._is_closing = False
        # When the home site is asked for again.
        self._follow_at = 0.0
        self._rng = random.Random(entropy(32))
        self._begun_s = asyncio.get_running_loop().time()
        self.node_id = bytes.fromhex(self._state.node_id)
        home = options.home or self._state.home_site
        if home != self._state.home:
            self._state.home, self._state.served, self._state.keepers = home, 0, []
        self._begun_seq = store.live.seq(home) if home is not None else 0
        self.holdings = Holdings(store, home, self._has_home, self._has_news)
        secret = options.secret
        self.overlay = Overlay(
            node_id=self.node_id,
            records=self.holdings,
            rng=random.Random(entropy(32)),
            entropy=entropy,
            on_event=self._met,
            settings=replace(DEFAULTS, range_limit=options.range_limit),
            known=self._state.known(),
            seal=Seal(secret) if secret else None,
        )
        self.client = PeerClient(connector, Prover(secret, wall) if secret else None)
        doubt = Doubt()
        self.reader = BlobReader(
            store, self.client, self.overlay, self._run, doubt=doubt, port=options.port
        )
        self.sites = Sites(
            store,
            self.overlay,
            self.reader,
            self._run,
            self.holdings.keeps,
            self._lives,
            lambda site: self._state.served if site == self._state.home else 0,
            is_alone=lambda: self.joining.is_whole_network,
            keeper=self._found_site,
        )
        self.joining = Joining(
            options.join,
            lambda: self._state.known(),
            self.overlay,
            self.client,
            self.holdings,
            self.sites,
            is_new=remembered is None,
        )
        self.news = News(self.overlay, self._rng, self.sites.refresh_soon, self._found_keeper)
        self.repair = Repair(
            self.node_id,
            store,
            self.client,
            self.overlay,
            self.reader,
            doubt,
            self._kept_site,
            run=self._run,
            write=self._writer,
            rng=self._rng,
            remembered=self._state.known(),
        )
        for keeper in self._state.known_keepers():
            self.repair.note(keeper, keeps=True)
        self.census = Census(
            self.node_id,
            store,
            self.client,
            self.overlay,
            self.repair,
            self._counted_site,
            run=self._run,
            rng=self._rng,
        )
        place = Place(
            node_id=self.node_id, hosts=options.hosts, port=options.port, data=options.data
        )
        self._checkup = Checkup(place, self.client, self.overlay, wall, self._run)
        self.watch = Watch(self.overlay)
        self.scrub = Scrub(
            store, self._run, self._rng, options.scrub_days * DAY_S, self.repair.has_damage
        )
        self.replication = Replication(self.node_id, store, self.client, self.overlay, self._run)
        duties = Duties(
            info=self.info,
            status=self.status,
            facts=lambda: self._checkup.facts(self.status),
            contacts=lambda: [one.address for one in self.overlay.contacts() if one.proved],
            takes=self.holdings.takes,
            live_site=self._live_site,
            held=self.census.held,
            reach=Reacher(self.client, self.overlay).reach,
            kept=self._kept,
            place=self._place,
        )
        gate = Gate(secret, wall) if secret else None
        service = PeerService(store, duties, self._run, self._writer, self.reader, gate)
        hosts = Hosts(own_names(), lambda: self.holdings.home)
        gateway = Gateway(
            hosts, self.sites, self.reader, service, wall, lambda: self.joining.has_asked_home
        )
        self._access_log = options.access_log
        self.server = HttpServer(
            gateway.handle,
            limits=server_limits(),
            now_unix=wall,
            log=self._access_log.note if self._access_log else None,
        )

    @property
    def urls(self) -> list[str]:
        """Where a browser on this machine, and on others, finds this peer."""
        return urls_of(self.server)

    def info(self) -> PeerInfo:
        return PeerInfo(
            p2pweb=PROTOCOL,
            id=self.node_id.hex(),
            home=self.holdings.home,
            version=__version__,
            room_bytes=self._room_bytes(),
        )

    def _room_bytes(self) -> int | None:
        room = self._room()
        if room is None:
            return 0
        return None if math.isinf(room.for_good) else int(room.for_good)

    def _disk_status(self) -> DiskStatus | None:
        room = self._room()
        if room is None or math.isinf(room.disk_free_bytes):
            return None
        return DiskStatus(
            used_bytes=room.used_bytes,
            budget_bytes=room.limit_bytes,
            free_bytes=int(room.disk_free_bytes),
        )

    def _room(self) -> Room | None:
        try:
            return self._store.room()
        except CorruptError as error:
            log.warning("%s", error)
            return None

    async def status(self) -> PeerStatus:
        sites = await self.census.statuses()
        return status_of(
            self.info(),
            self.overlay.contacts(),
            begun_s=self._begun_s,
            now_s=asyncio.get_running_loop().time(),
            knows_others=bool(self._options.join or self._state.contacts),
            sites=sites,
            disk=self._disk_status(),
        )

    async def start(self) -> None:
        """Listen and join. UsageError or RemoteError with one sentence where that fails."""
        addresses = [(host, self._options.port) for host in self._options.hosts]
        try:
            await self.overlay.listen(addresses)
        except OSError as error:
            raise listen_fault(error, self._options.port) from None
        await self._catch_up()
        try:
            await self.server.start(addresses)
        except OSError as error:
            raise listen_fault(error, self._options.port) from None
        knows_others = bool(self._state.contacts)
        if not knows_others:
            await self.joining.join(entered=self.repair.begin)
        self._note_contacts()
        self._save_state()
        chores = (
            self.joining.start(joined=not knows_others),
            self.watch.start(),
            self.repair.start(),
            self.scrub.start(),
            self.census.start(),
        )
        for chore in chores:
            chore.add_done_callback(_tell_failure)

    async def _catch_up(self) -> None:
        """Learn what was published meanwhile, before anything is served: of the peers known."""
        began_s = asyncio.get_running_loop().time()
        with contextlib.suppress(TimeoutError, UnavailableError):
            async with asyncio.timeout(CATCH_UP_S):
                if self.holdings.home is None and self._state.contacts:
                    await self.joining.ask_home()
                home = self.holdings.home
                if home is not None and self._store.live.seq(home):
                    await self.sites.fresh(home)
                    if any(one.last_answer > began_s for one in self.overlay.contacts()):
                        self._follow_at = self._next_follow_s()

    async def close(self) -> None:
        """Stop: no new connections, answers in flight finish, the state is saved."""
        self._is_closing = True
        saving = self._saving
        await self.joining.close()
        if saving is not None:
            saving.cancel()
            await asyncio.gather(saving, return_exceptions=True)
            if self._note_contacts():
                await self._run(self._save_state)
        await self.server.close(GRACE_S)
        if self._access_log is not None:
            await self._access_log.close()
        await self.watch.close()
        await self.census.close()
        await self.repair.close()
        await self.scrub.close()
        await self.news.close()
        await self.sites.close()
        await self.reader.close()
        await self.client.close()
        await self.overlay.close()
        self._writer.close()
        self._executor.shutdown()
        self._store.close()

    # --- what the layers below report ---

    def _kept(self, items: Sequence[Item]) -> None:
        for item in items:
            if isinstance(item.signed.record, SiteRecord):
                self.sites.notice(item.signed.record.site)
                self.repair.has_version()
            elif item.signed.record.seq > self._store.live.seq(item.signed.record.site) + 1:
                # A version is on its way, and not the next one. Without the live one this peer
                # could not tell which of the records that it has are needed.
                self.sites.refresh_if_old(item.signed.record.site)

    def _has_home(self, site: SiteId) -> None:
        """This peer keeps a site from now on."""
        self._save_state()
        self.repair.has_version()

    async def _place(
        self, items: Sequence[Item], copies: int, segments: Sequence[SegmentData]
    ) -> list[Placed]:
        placed = await self.replication.place(items, copies, segments)
        # Not before: whoever hears of a version looks for its manifest.
        for item in items:
            if isinstance(item.signed.record, SiteRecord):
                self.news.spread(item.signed)
        return placed

    def _has_news(self, signed: Signed, teller: Address) -> None:
        """A newer site's record came by STORE, without its manifest."""
        if self.holdings.home is None:
            # Anybody may send a STORE: those that it was told to join say which site is its home.
            self.joining.ask_soon()
        elif self.news.spread(signed, teller):
            self.sites.hear(signed, teller)

    def _found_keeper(self, site: SiteId, contact: Contact) -> None:
        """A contact answered that it keeps a site."""
        if site == self.holdings.home:
            self.repair.note(contact, keeps=True)

    def _found_site(self, contact: Contact, signed: Signed) -> None:
        """A contact answered that it keeps a site, and has this record of it."""
        self._found_keeper(signed.record.site, contact)
        self.news.compare(contact, signed)

    def _lives(self, signed: Signed) -> None:
        """A version is served from now on."""
        if self.holdings.keeps(signed.record.site):
            self._state.served = signed.record.seq
            self._save_soon()
            # What lived here in an earlier run was told to others then.
            if signed.record.seq <= self._begun_seq:
                self.news.know(signed)
            else:
                self.news.spread(signed)
            self.repair.has_version()

    async def _kept_site(self) -> SiteVersion | None:
        """The live version of the home site, as the others have it every now and then."""
        home, now = self.holdings.home, asyncio.get_running_loop().time()
        if home is None:
            return None
        known = await self.sites.known(home)
        if known is not None and now < self._follow_at:
            return known
        is_first = not self._follow_at
        self._follow_at = self._next_follow_s()
        version = await self.sites.current(home)
        if is_first:
            # The peer that this one joined by may be behind the others.
            self.sites.refresh_soon(home)
        return version

    def _next_follow_s(self) -> float:
        return asyncio.get_running_loop().time() + FOLLOW_S * self._rng.uniform(0.75, 1.25)

    async def _counted_site(self) -> SiteVersion | None:
        """The live version of the home site, without asking anybody."""
        home = self.holdings.home
        return None if home is None else await self.sites.known(home)

    async def _live_site(self, site: SiteId, fresh: bool) -> Signed | None:
        version = await (self.sites.fresh(site) if fresh else self.sites.current(site))
        return version.signed if version else None

    # --- what is remembered ---

    def _met(self, event: Event) -> None:
        _tell(event)
        self.repair.met(event)
        self.census.met(event)
        if isinstance(event, ContactReturned):
            self.news.remind(event.contact)
        self._save_soon()

    def _save_soon(self) -> None:
        if self._saving is None and not self._is_closing:
            self._saving = asyncio.ensure_future(self._save_contacts())
            self._saving.add_done_callback(_tell_failure)

    async def _save_contacts(self) -> None:
        """Save whom the overlay knows, beside the loop: a busy disk may take seconds to sync."""
        noted = False
        while not noted:
            saved = len(self._state.contacts)
            await asyncio.sleep(max(SAVE_AFTER_S, SAVE_AFTER_EACH_S * saved))
            noted = self._note_contacts()
        # What happens from here on is for the next one.
        self._saving = None
        await self._run(self._save_state)

    def _note_contacts(self) -> bool:
        """Take over whom the overlay knows; False while it may be cut off, or knows nobody."""
        if asyncio.get_running_loop().time() - self.overlay.last_heard() > CUT_OFF_S:
            return False
        best = self.overlay.best_contacts(CONTACTS_MAX)
        self._state = self._state.with_contacts(best, self.repair.known_keepers(best))
        return True

    def _save_state(self) -> None:
        with self._state_lock:
            self._state.home = self.holdings.home
            try:
                write_peer_state(self._state_path, self._state)
            except OSError as error:
                log.error("cannot save %s: %s", self._state_path, error.strerror)

    def _run(self, call: Callable[[], T]) -> Awaitable[T]:
        return asyncio.get_running_loop().run_in_executor(self._executor, call)


async def start_peer(
    options: PeerOptions,
    *,
    wall: WallClock,
    entropy: Entropy,
    connector: ConnectorFactory = tcp_connector,
    writer: Callable[[], Runs] = Worker,
    free: FreeBytes = free_on_disk,
) -> PeerNode:
    """Start a peer, or leave nothing behind. P2PWebError with one sentence where it cannot be.

    The sockets that it listens on are the running loop's; `connector` makes its connections, and
    `writer` what its commits run on; `free` tells what the disk has left.
    """
    store = open_store(options.data, options.disk_bytes, free)
    try:
        node = PeerNode(options, store, wall, entropy, connector, writer)
    except BaseException:
        store.close()
        raise
    try:
        await node.start()
    except BaseException:
        await node.close()
        raise
    return node


def _tell_failure(task: asyncio.Task[None]) -> None:
    """A chore ended by a fault of ours: the peer goes on without it."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a chore of this peer broke off", exc_info=error)


def _tell(event: Event) -> None:
    """A peer's coming and going, one line each."""
    where = format_address(event.contact.address)
    match event:
        case ContactUp():
            log.info("peer %s is here", where)
        case ContactReturned(_, away_s):
            log.info("peer %s is back after %.0f s", where, away_s)
        case ContactMoved(_, before):
            log.info("peer %s has moved from %s", where, format_address(before))
        case ContactDown(_, why):
            log.info("peer %s is gone (%s)", where, why.value)
