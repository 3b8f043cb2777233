"""Who is asked for bytes: holders, and the readers that holders point to.

The holders of a segment are those that answer FIND_VALUE for its key and say that they have the
bytes. Of those known the one with the least to do for this peer is asked, and those equally busy
take turns. One that is slow, as fetches go here, is overtaken by the next, and one that fails is
replaced at once; whichever answers first with proved bytes wins. Those that lately failed or were
overtaken are asked last (`doubt`).

A holder that is asked by many may point to a peer that it has just sent the bytes (`crowd`). That
one is asked once, for a bounded time; if nothing comes of it, the holder has to send them itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import ip_address
from typing import Generic, TypeVar

from p2pweb.address import Address, format_address
from p2pweb.blobs import BlobId
from p2pweb.dht.contact import canonical
from p2pweb.dht.overlay import Overlay, OverlayClosedError
from p2pweb.dht.rtt import Rtt
from p2pweb.dht.settings import DEFAULTS
from p2pweb.errors import BusyError, LateError, RemoteError, UnavailableError
from p2pweb.exchange.client import READ_IDLE_S, PeerClient
from p2pweb.exchange.doubt import Doubt
from p2pweb.exchange.wire import Elsewhere

# Twice the median round trip of the wide-area network that DHT-NOTES takes as its measure. On a
# quick network a slow holder costs the same third of a second, once.
HEDGE_S = 0.3
# Where fetches take longer, as on a thin line or in a crowd, to ask somebody else after so short a
# time would double the load: then they are waited for as long as they take here, up to this.
HEDGE_S_MAX = READ_IDLE_S
# Holders that send one range at the same time: one, and one that overtakes it, twice over.
HEDGES_MAX = 4
# As many again may be silent beside them, which costs this peer's line nothing. A liar's silence
# lasts for READ_IDLE_S, and where half of all peers lie four of them are often asked in a row.
ASKED_MAX = 8
# Remembered holders: for how many keys, and how many of each.
KNOWN_KEYS_MAX = 4_096
KNOWN_HOLDERS_MAX = 4
# Holders asked for deltas, before a manifest is fetched whole.
DELTA_HOLDERS_MAX = 3
# And how long that may take: a manifest of 1 MiB takes no longer on most ways.
DELTAS_S = 2.0
# Of a file with a single copy the holder may be silent for just as long as a lookup waits for it.
LOOKUPS_MAX = 2
# A machine that is very busy is silent for longer, and whoever waits for a page waits some seconds
# rather than be told that there is none: where nobody sends it they are all looked for again, after
# so many seconds each time, and whoever was too late is asked again.
AGAIN_AFTER_S = (1.0, 3.0)
# Lookups for more holders of what is being read, beside the reading.
LEARNING_MAX = 4
# A peer that was pointed to may just be getting the bytes itself, over a few others. At least so
# long it is waited for, and longer where fetches take longer.
POINTED_S = 2.0
# After a pointer that led nowhere this peer follows none for so long, and has none follow to it:
# whoever it was that was too slow, the holder sends. So liars cost one try in so long.
ALONE_S = 10.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Candidate:
    """One more holder to ask; None where there are no more."""

    address: Address | None


@dataclass(frozen=True, slots=True)
class _Answer(Generic[T]):
    """What a holder came to: None where it has not got the bytes."""

    address: Address
    result: T | RemoteError | None


@dataclass(slots=True)
class _Asked:
    """A holder that was asked, and what has come of it so far: any bytes; a proved block, or where
    it points."""

    since_s: float
    sends: bool = False
    has_answered: bool = False

    def began(self) -> None:
        self.sends = True


@dataclass(slots=True)
class _Known:
    """The holders known of a key, whoever was asked last at the end."""

    addresses: list[Address] = field(default_factory=list)
    is_learnt: bool = False


class Holders:
    """All asking for bytes of one peer; `close` ends what goes on beside it.

    `port` is where this peer serves what it reads to others; None where it does not.
    """

    def __init__(
        self, client: PeerClient, overlay: Overlay, doubt: Doubt, port: int | None
    ) -> None:
        self._client = client
        self._overlay = overlay
        self._doubt = doubt
        self._port = port
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._asking: Counter[Address] = Counter()
        self._learning: dict[bytes, asyncio.Task[None]] = {}
        self._alone_until = 0.0
        self._took = Rtt(replace(DEFAULTS, rtt_floor_s=HEDGE_S, rtt_ceiling_s=HEDGE_S_MAX))

    async def close(self) -> None:
        tasks = list(self._learning.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def hashes(self, key: bytes, blob: BlobId) -> bytes:
        """A blob's joined block hashes, proved. UnavailableError where nobody sends them."""
        return await self._first(key, lambda address, _: self._client.hashes(address, blob))

    async def blocks(
        self,
        key: bytes,
        blob: BlobId,
        hashes: bytes,
        group: range,
        came: Callable[[int, bytes], None],
    ) -> list[bytes]:
        """Consecutive blocks of the segment with this key, proved; each handed to `came` as soon as
        it is, some more than once. UnavailableError likewise."""
        blocks = await self._first(
            key,
            lambda address, asked: self._blocks(address, blob, hashes, group, came, asked),
            self._took,
        )
        if blob.block_count > len(group):
            self._learn_soon(key)
        return blocks

    async def deltas(
        self, key: bytes, blob: BlobId, base_root: bytes, versions: int
    ) -> list[bytes]:
        """As `PeerClient.deltas`, of the first few holders; empty where they do not know, or do not
        say so soon. Whoever has none may well have the whole."""
        with contextlib.suppress(TimeoutError):
            async with (
                asyncio.timeout(DELTAS_S),
                contextlib.aclosing(self._holders(key)) as holders,
            ):
                for _ in range(DELTA_HOLDERS_MAX):
                    address = await anext(holders, None)
                    if address is None:
                        break
                    try:
                        found = await self._client.deltas(address, blob, base_root, versions)
                    except RemoteError:
                        self._doubt.failed(address, asyncio.get_running_loop().time())
                        continue
                    if found:
                        return found
        return []

    def remember(self, key: bytes, address: Address) -> None:
        """Ask there first for the bytes that belong to a key (20 bytes)."""
        known = self._known_at(key)
        if address not in known.addresses:
            known.addresses.insert(0, address)
            del known.addresses[KNOWN_HOLDERS_MAX:]

    # --- one after the other, or overtaking ---

    async def _first(
        self,
        key: bytes,
        ask: Callable[[Address, _Asked], Awaitable[T | None]],
        took: Rtt | None = None,
    ) -> T:
        """What the first holder answers, the next one being asked whenever one fails or dawdles."""
        clock = asyncio.get_running_loop().time
        events: asyncio.Queue[_Candidate | _Answer[T]] = asyncio.Queue()
        tasks: list[asyncio.Task[None]] = []
        asked: dict[Address, _Asked] = {}
        waiting: dict[Address, _Asked] = {}
        late: set[Address] = set()
        holders = self._holders(key)
        pauses = iter(AGAIN_AFTER_S)
        faults: dict[str, None] = {}
        seeking, exhausted, overtake = False, False, False

        async def seek() -> None:
            try:
                address = await anext(holders, None)
            except OverlayClosedError:
                address = None
            events.put_nowait(_Candidate(address))

        async def attempt(address: Address) -> None:
            self._asking[address] += 1
            try:
                result: T | RemoteError | None = await ask(address, asked[address])
            except RemoteError as error:
                result = error
            finally:
                self._asking[address] -= 1
                if not self._asking[address]:
                    del self._asking[address]
            events.put_nowait(_Answer(address, result))

        try:
            while True:
                sending = sum(one.sends for one in waiting.values())
                has_room = len(waiting) < ASKED_MAX and sending < HEDGES_MAX
                may_seek = has_room and not seeking and not exhausted
                if may_seek and (overtake or not waiting):
                    tasks.append(asyncio.ensure_future(seek()))
                    seeking, may_seek, overtake = True, False, False
                if not waiting and not seeking:
                    if (pause_s := next(pauses, None)) is None:
                        raise UnavailableError(_nobody(faults))
                    await asyncio.sleep(pause_s)
                    holders = self._holders(key, [one for one in asked if one not in late])
                    exhausted = False
                    late.clear()
                    continue
                try:
                    event = await asyncio.wait_for(
                        events.get(), self._patience_s() if may_seek else None
                    )
                except TimeoutError:
                    overtake = True
                    continue
                if isinstance(event, _Candidate):
                    seeking = False
                    if event.address is None:
                        exhausted = True
                    else:
                        asked[event.address] = waiting[event.address] = _Asked(clock())
                        tasks.append(asyncio.ensure_future(attempt(event.address)))
                    continue
                del waiting[event.address]
                if event.result is None or isinstance(event.result, RemoteError):
                    if event.result is not None:
                        self._doubt.failed(event.address, clock())
                    overtake = True
                    if isinstance(event.result, LateError | BusyError):
                        late.add(event.address)
                    lost = f"{format_address(event.address)} has lost it"
                    faults[str(event.result or lost)] = None
                    self._forget(key, event.address)
                else:
                    self.remember(key, event.address)
                    self._doubt.proved(event.address)
                    self._blame(waiting)
                    order = list(asked)
                    for overtaken in order[: order.index(event.address)]:
                        self._forget(key, overtaken)
                    if took is not None:
                        took.sample(clock() - asked[event.address].since_s)
                    return event.result
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await holders.aclose()

    def _patience_s(self) -> float:
        """How long a fetch may take here before somebody else is asked as well."""
        return self._took.timeout_s() or HEDGE_S

    def _blame(self, waiting: Mapping[Address, _Asked]) -> None:
        """Doubt those that have been silent for longer than a fetch takes here. Whoever has sent a
        block of its own is none of them; nor is who has pointed elsewhere, since a crowd is why."""
        now = asyncio.get_running_loop().time()
        for address, asked in waiting.items():
            if not asked.has_answered and now - asked.since_s > self._patience_s():
                self._doubt.failed(address, now)

    # --- which holder ---

    async def _holders(
        self, key: bytes, but: Collection[Address] = ()
    ) -> AsyncGenerator[Address, None]:
        """Where a key's bytes are, `but` for some: who is known to have them, then whom FIND_VALUE
        names, and then whom it names the next time. The doubtful come after all others of a lookup,
        or while it finds nobody for as long as others would be overtaken."""
        asked = list(but)
        while (address := self._least_busy(key, asked)) is not None:
            asked.append(address)
            yield address
        doubtful = [one for one in self._known_at(key).addresses if one not in asked]
        for _ in range(LOOKUPS_MAX):
            async with self._overlay.find_value(key) as lookup:
                values = aiter(lookup)
                while True:
                    try:
                        async with asyncio.timeout(self._patience_s() if doubtful else None):
                            found = await anext(values, None)
                    except TimeoutError:
                        asked.append(doubtful.pop(0))
                        yield asked[-1]
                        continue
                    if found is None:
                        break
                    address = found.contact.address
                    if found.extra.get("has") is not True or address in (*asked, *doubtful):
                        continue
                    if self._is_doubtful(address):
                        doubtful.append(address)
                    else:
                        asked.append(address)
                        yield address
            while doubtful:
                asked.append(doubtful.pop(0))
                yield asked[-1]

    def _least_busy(self, key: bytes, but: list[Address]) -> Address | None:
        """The known holder that is asked the least by this peer, and longest ago, but for doubtful
        ones; it is asked."""
        addresses = self._known_at(key).addresses
        able = [one for one in addresses if one not in but and not self._is_doubtful(one)]
        if not able:
            return None
        chosen = min(able, key=lambda address: self._asking[address])
        addresses.remove(chosen)
        addresses.append(chosen)
        return chosen

    def _is_doubtful(self, address: Address) -> bool:
        return self._doubt.has(address, asyncio.get_running_loop().time())

    def _known_at(self, key: bytes) -> _Known:
        known = self._known.setdefault(key, _Known())
        self._known.move_to_end(key)
        while len(self._known) > KNOWN_KEYS_MAX:
            self._known.popitem(last=False)
        return known

    def _forget(self, key: bytes, address: Address) -> None:
        known = self._known.get(key)
        if known is not None and address in known.addresses:
            known.addresses.remove(address)

    def _learn_soon(self, key: bytes) -> None:
        """Find more holders of what will be asked for again, so that they share the work."""
        known = self._known_at(key)
        if known.is_learnt or key in self._learning or len(self._learning) >= LEARNING_MAX:
            return
        known.is_learnt = True
        task = asyncio.ensure_future(self._learn(key))
        self._learning[key] = task
        task.add_done_callback(lambda _: self._learning.pop(key))

    async def _learn(self, key: bytes) -> None:
        try:
            async with self._overlay.find_value(key) as lookup:
                async for found in lookup:
                    addresses = self._known_at(key).addresses
                    if len(addresses) >= KNOWN_HOLDERS_MAX:
                        return
                    address = found.contact.address
                    is_news = address not in addresses and not self._is_doubtful(address)
                    if found.extra.get("has") is True and is_news:
                        addresses.insert(0, address)
        except OverlayClosedError:
            return

    # --- where a holder points ---

    async def _blocks(
        self,
        holder: Address,
        blob: BlobId,
        hashes: bytes,
        group: range,
        came: Callable[[int, bytes], None],
        asked: _Asked,
    ) -> list[bytes] | None:
        clock = asyncio.get_running_loop().time

        def sent(number: int, block: bytes) -> None:
            asked.has_answered = True
            came(number, block)

        ask = partial(
            self._client.blocks_or_pointer,
            holder,
            blob,
            hashes,
            group,
            began=asked.began,
            came=sent,
        )
        answer = await ask(serves_at=None if clock() < self._alone_until else self._port)
        if not isinstance(answer, Elsewhere):
            return answer
        asked.has_answered = True
        if answer.address != holder and may_point(holder, answer.address):
            blocks = await self._follow(answer.address, blob, hashes, group, came)
            if blocks is not None:
                return blocks
        self._alone_until = clock() + ALONE_S
        # Whoever does not say where it serves is not pointed elsewhere.
        answer = await ask()
        return None if isinstance(answer, Elsewhere) else answer

    async def _follow(
        self,
        pointed: Address,
        blob: BlobId,
        hashes: bytes,
        group: range,
        came: Callable[[int, bytes], None],
    ) -> list[bytes] | None:
        """What a peer sends that was pointed to, as long as one block after the other comes."""
        clock = asyncio.get_running_loop().time
        patience_s = max(POINTED_S, self._patience_s())

        def more(number: int, block: bytes) -> None:
            came(number, block)
            until.reschedule(clock() + patience_s)

        try:
            async with asyncio.timeout(patience_s) as until:
                answer = await self._client.blocks_or_pointer(
                    pointed, blob, hashes, group, came=more
                )
        except (RemoteError, TimeoutError):
            return None
        return None if isinstance(answer, Elsewhere) else answer


def may_point(holder: Address, pointed: Address) -> bool:
    """Whether a holder can know a peer there that this one can reach: nobody outside a machine or
    a private network may have this peer ask within it."""
    return canonical(*pointed) == pointed and _reach(pointed[0]) >= _reach(holder[0])


def _reach(host: str) -> int:
    try:
        address = ip_address(host)
    except ValueError:
        # A name that a person gave: nothing is known of where it leads.
        return 2
    return 0 if address.is_loopback else 1 + address.is_global


def _nobody(faults: Collection[str]) -> str:
    if not faults:
        return "no peer that can be reached holds it"
    return f"none of {len(faults)} holders could send it: {'; '.join(faults)}"
