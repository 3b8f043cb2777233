"""The shell of the overlay: sockets, the one timer, and futures for callers.

The only module that knows asyncio, `kademlia` and `rpcudp`. It extends that package through its own
hooks (`Server.protocol_class`, `KademliaProtocol`, `Node`, `IStorage`), and hands every datagram to
the core at once, so nothing of the package's own routing, crawling or republishing ever runs. No
task is made for a datagram; nothing is left behind by a caller that is cancelled.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NoReturn, TypeVar

from kademlia.network import Server
from kademlia.node import Node
from kademlia.protocol import KademliaProtocol
from kademlia.storage import IStorage
from msgspec import Struct

from p2pweb.dht import wire
from p2pweb.dht.contact import Address, Contact, NodeId, canonical, key_for, node_id
from p2pweb.dht.events import (
    Action,
    Event,
    Found,
    LookupDone,
    NodesDone,
    Ponged,
    Send,
    StoreDone,
    ValueDone,
    Yielded,
)
from p2pweb.dht.peer import Peer
from p2pweb.dht.seal import Seal
from p2pweb.dht.serving import Records
from p2pweb.dht.settings import DEFAULTS, Settings
from p2pweb.dht.table import Entry

# A "::" socket takes IPv4 too.
ANY_IPV4 = "0.0.0.0"  # noqa: S104  # which interfaces to bind is the caller's choice
ANY_IPV6 = "::"

# With several sockets, through which of them an address was last heard. 4,096 entries are 1 MB.
ROUTES_MAX = 4_096

Answered = TypeVar("Answered")
# What ends a call.
_Ended = Ponged | StoreDone | ValueDone | NodesDone | LookupDone


class OverlayClosedError(ConnectionError):
    """The overlay was closed, or never listened: the question remains unanswered."""


class ContactState(Struct, frozen=True, gc=False):
    """A contact of the table, for display. `last_answer` is on the event loop's clock."""

    id: NodeId
    address: Address
    rtt_s: float | None
    last_answer: float
    strikes: int
    # Whether it answered in this run; until then `last_answer` is the start.
    proved: bool


class RecordStorage(IStorage):  # type: ignore[misc]  # the package has no types
    """The records behind the package's storage hook; nothing here is republished."""

    def __init__(self, records: Records, here: Callable[[], Address]) -> None:
        self._records = records
        self._here = here

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self._records.store(key, value, self._here())

    def __getitem__(self, key: bytes) -> bytes:
        held = self._records.find(key)
        if held is None:
            raise KeyError(key)
        return held.value

    def get(self, key: bytes, default: bytes | None = None) -> bytes | None:
        held = self._records.find(key)
        return default if held is None else held.value

    def iter_older_than(self, seconds_old: float) -> Iterator[tuple[bytes, bytes]]:
        """Nothing: old values have no business coming back by themselves."""
        return iter(())

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(())


class OverlayProtocol(KademliaProtocol):  # type: ignore[misc]  # the package has no types
    """One socket of an overlay. It has no RPC of its own: the core answers."""

    def __init__(self, source_node: Node, storage: IStorage, ksize: int, overlay: Overlay) -> None:
        super().__init__(source_node, storage, ksize)
        self.overlay = overlay
        self.transport: asyncio.DatagramTransport | None = None
        self.closed = asyncio.get_running_loop().create_future()
        self.paused = False

    def __getattr__(self, name: str) -> NoReturn:
        # The package makes an RPC of every unknown name, which would hide every slip of the pen.
        raise AttributeError(name)

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False

    def error_received(self, exc: OSError) -> None:
        """An unreachable address is as good as a lost packet."""

    def datagram_received(self, data: bytes, addr: tuple[str | bytes, int]) -> None:
        self.overlay.heard(self, data, addr)


@dataclass(frozen=True, slots=True)
class _Door:
    """A socket and what can be reached through it."""

    protocol: OverlayProtocol
    transport: asyncio.DatagramTransport
    address: Address
    dual_stack: bool

    def reaches(self, destination: Address) -> bool:
        return self.dual_stack or (":" in self.address[0]) == (":" in destination[0])

    def send(self, data: bytes, destination: Address) -> None:
        # A datagram that would have to wait is dropped: buffers are bounded, and UDP may lose it.
        if self.protocol.paused or self.transport.is_closing():
            return
        host, port = destination
        if ":" in self.address[0] and ":" not in host:
            host = f"::ffff:{host}"
        self.transport.sendto(data, (host, port))


class ValueSearch:
    """Values as they turn up. Iterate it once; leave it early by `aclose` or `async with`.

    After a value nobody else is asked until the next one is wanted. Where none has turned up until
    the end, `inconclusive` says that too few have answered to tell that there is none.
    """

    def __init__(self, overlay: Overlay, token: int) -> None:
        self._overlay = overlay
        self._token = token
        # At most one for each contact that is asked.
        self._found: deque[Found] = deque()
        self._ended = False
        self._error: OverlayClosedError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.closest: tuple[Contact, ...] = ()
        self.inconclusive = True

    def __aiter__(self) -> ValueSearch:
        return self

    async def __anext__(self) -> Found:
        while not self._found:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._overlay.go_on(self._token)
            if self._found or self._ended:
                continue
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._found.popleft()

    async def __aenter__(self) -> ValueSearch:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the search: no more questions are sent for it."""
        if not self._ended:
            self._ended = True
            self._overlay.give_up(self._token)
        self._found.clear()
        self._wake()

    def add(self, found: Found) -> None:
        """A value turned up."""
        self._found.append(found)
        self._wake()

    def end(self, done: LookupDone) -> None:
        """All who may know have answered, or are silent."""
        self._ended = True
        self.closest, self.inconclusive = done.closest, done.inconclusive
        self._wake()

    def break_off(self, error: OverlayClosedError) -> None:
        """The overlay was closed."""
        self._ended = True
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Overlay(Server):  # type: ignore[misc]  # the package has no types
    """A node of the overlay.

    `node_id` is 20 bytes; `entropy(n)` gives n unguessable bytes; `on_event` is called after the
    datagrams of the same moment were sent; `known` are contacts of an earlier run, the most useful
    first, at canonical addresses. With a `seal`, datagrams that do not have it are not heard.
    """

    protocol_class = OverlayProtocol

    def __init__(
        self,
        *,
        node_id: bytes,
        records: Records,
        rng: random.Random,
        entropy: Callable[[int], bytes],
        on_event: Callable[[Event], None] | None = None,
        settings: Settings = DEFAULTS,
        known: Sequence[Contact] = (),
        seal: Seal | None = None,
    ) -> None:
        own = _own(node_id)
        storage = RecordStorage(records, self._here)
        super().__init__(ksize=settings.k, alpha=settings.alpha, node_id=own, storage=storage)
        self.id = own
        self.addresses: list[Address] = []
        self._records = records
        self._rng = rng
        self._entropy = entropy
        self._on_event = on_event
        self._settings = settings
        self._known = known
        self._seal = seal
        self._peer: Peer | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._doors: list[_Door] = []
        self._routes: OrderedDict[Address, _Door] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        # When the timer fires. Not asked of the handle: uvloop makes one without a time of whatever
        # is due within half a millisecond.
        self._timer_at = 0.0
        self._next_token = 0
        self._futures: dict[int, asyncio.Future[_Ended]] = {}
        self._searches: dict[int, ValueSearch] = {}
        self._closed = False

    # --- life ---

    async def listen(self, addresses: Sequence[Address]) -> None:
        """Bind a socket for each address (IP literal, real port or 0); all of them, or OSError.

        A "::" socket takes IPv4 too, so "0.0.0.0" at the same port is left out beside it.
        `addresses` then says what was bound.
        """
        if self._closed:
            raise OverlayClosedError("the overlay is closed")
        if self._peer is not None:
            raise OSError("the overlay is listening already")
        loop = asyncio.get_running_loop()
        dual = [port for host, port in addresses if host == ANY_IPV6]
        try:
            for host, port in addresses:
                if not (host == ANY_IPV4 and port in dual):
                    self._doors.append(await self._open(loop, (host, port)))
        except OSError as error:
            await self._close_doors()
            raise OSError(error.errno, f"cannot listen on {host}:{port}/udp: {error}") from error
        if self._closed:
            # Closed while the sockets were being opened.
            await self._close_doors()
            raise OverlayClosedError("the overlay is closed")
        if not self._doors:
            raise OSError("no address to listen on")
        self.addresses = [door.address for door in self._doors]
        self.protocol = self._doors[0].protocol
        self.transport = self._doors[0].transport
        self._peer = Peer(
            self.id,
            self._records,
            rng=self._rng,
            entropy=self._entropy,
            settings=self._settings,
            now=loop.time(),
            known=self._known,
        )
        self._loop = loop
        self._arm()

    async def close(self) -> None:
        """Close every socket and end every call with OverlayClosedError. Again: nothing happens."""
        self.stop()
        await self._close_doors()

    def stop(self) -> None:
        """What `close` does, without waiting until the sockets are gone."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        error = OverlayClosedError("the overlay was closed")
        for future in list(self._futures.values()):
            if not future.done():
                future.set_exception(error)
        self._futures.clear()
        for search in list(self._searches.values()):
            search.break_off(error)
        self._searches.clear()
        for door in self._doors:
            door.transport.close()

    # --- questions ---

    async def join(self, addresses: Sequence[Address], *, again: bool = False) -> bool:
        """Enter the network known at these addresses (IP literals); whether any of them answered.

        When this returns, the contacts closest to this node know it; the rest of the id space is
        explored in the background. Once one has answered, the others are not waited for. With
        `again` this node comes back and looks around by itself: where one of those that answer was
        known before, nobody else is asked.
        """
        before = {one.address for one in self.contacts()}
        greet = self._ping_other if again else self._greet
        pings = [asyncio.ensure_future(greet(address)) for address in addresses]
        answered = None
        try:
            for ping in asyncio.as_completed(pings):
                answered = await ping or answered
                if answered and (not again or answered in before):
                    break
            if not answered:
                return False
            if not (again and answered in before):
                await self.look_around()
                self.refresh_table()
            return True
        finally:
            for each in pings:
                each.cancel()
            await asyncio.gather(*pings, return_exceptions=True)

    async def _greet(self, address: Address) -> Address | None:
        """The address if another node answers there. Whom that knows near this one has been heard
        of then: asked afterwards it would be one round trip more."""
        known = _reachable(address)
        contacts = self._call(
            NodesDone, lambda peer, token, now: peer.contacts_at(token, known, now)
        )
        other, _ = await asyncio.gather(self._ping_other(address), contacts)
        return other

    async def _ping_other(self, address: Address) -> Address | None:
        """The address if another node answers there."""
        pong = await self._ping(address)
        return address if pong.id is not None and pong.id != self.id else None

    async def look_around(self, *, again: bool = False) -> list[Contact]:
        """Meet the contacts closest to this node, by way of those in the table; some of them.

        With `again` it knew most of them in an earlier run, and asks fewer.
        """
        done = await self._call(
            LookupDone, lambda peer, token, now: peer.join(token, now, again=again)
        )
        return list(done.closest)

    async def find_node(
        self, key: bytes, need: int | None = None, *, wide: bool = False
    ) -> list[Contact]:
        """The `need` (1 to k) contacts closest to a key (20 bytes) that answered, in order.

        Without `need` it is all k, exactly. A few of them are had sooner: one that has missed a
        question is then not waited for. More than `need` are those of a crowd next to the key,
        which may be one liar's, and all within the distance in which k are to be expected.

        With `wide` up to k are asked at one time from the start, as where these have been heard of.
        """
        _own(key)
        done = await self._call(
            LookupDone, lambda peer, token, now: peer.find_node(token, key, now, need, wide=wide)
        )
        return list(done.closest)

    def find_value(self, key: bytes, need: int | None = None) -> ValueSearch:
        """Every value that the contacts closest to a key (20 bytes) hold, as answers arrive: the k
        closest, or `need` (1 to k)."""
        _own(key)
        peer, now = self._at_work()
        token = self._token()
        search = self._searches[token] = ValueSearch(self, token)
        self._perform(peer.find_value(token, key, now, need))
        return search

    async def ping(self, address: Address, *, tries: int | None = None) -> float | None:
        """The round trip to an address (IP literal) in seconds; None when it stays silent, or does
        to so many tries (1 to `ping_tries`)."""
        return (await self._ping(address, tries)).rtt_s

    async def store(self, contact: Contact, key: bytes, value: bytes) -> wire.StoreAnswer | None:
        """What a contact answers to a STORE; None when it does not answer.

        The key is 20 bytes; a value longer than 1,024 bytes raises ValueError.
        """
        _own(key)
        _storable(value)
        done = await self._call(
            StoreDone, lambda peer, token, now: peer.store(token, contact, key, value, now)
        )
        return done.answer

    async def value_of(self, contact: Contact, key: bytes) -> Found | None:
        """The value that a contact holds under a key (20 bytes), asked once; None where it does not
        answer, or has none."""
        _own(key)
        done = await self._call(
            ValueDone, lambda peer, token, now: peer.value_of(token, contact, key, now)
        )
        return done.found

    async def get(self, key: str) -> bytes | None:
        """The package's API: the first value under a name, here or elsewhere. It is unverified."""
        target = key_for(key)
        held = self._records.find(target)
        if held is not None:
            return held.value
        async with self.find_value(target) as search:
            async for found in search:
                return found.value
        return None

    async def set(self, key: str, value: bytes) -> bool:
        """The package's API: whether at least one other node said that it stored the value."""
        return await self.set_digest(key_for(key), value)

    async def set_digest(self, dkey: bytes, value: bytes) -> bool:
        """The package's API: `set` under a key of 20 bytes."""
        _storable(value)
        contacts = await self.find_node(dkey)
        answers = await asyncio.gather(*(self.store(one, dkey, value) for one in contacts))
        return any(answer is True for answer in answers)

    def closest(self, key: bytes, count: int) -> list[Contact]:
        """The contacts of the table nearest to a key (20 bytes), nearest first."""
        _own(key)
        return self._at_work()[0].table.nearest(key, count)

    def heard_of(self, key: bytes, count: int) -> list[Contact]:
        """The contacts nearest to a key (20 bytes), nearest first: those of the table, and those
        that others named, of whom nobody knows whether they are there."""
        _own(key)
        peer, now = self._at_work()
        return peer.heard_of(key, count, now)

    def rtt_s(self, contact: Contact) -> float:
        """The round trip to a contact in seconds, smoothed; infinity where it is not known."""
        entry = self._at_work()[0].table.get(contact.id)
        known = None if entry is None else entry.rtt.smoothed_s
        return math.inf if known is None else known

    def contacts(self) -> list[ContactState]:
        """Every contact of the table, the stalest first."""
        return list(map(_state_of, self._at_work()[0].table))

    def neighbours(self, count: int) -> list[ContactState]:
        """Of the contacts that answered what they were asked last the `count` nearest to this peer,
        nearest first."""
        return list(map(_state_of, self._at_work()[0].table.neighbours(count)))

    def last_heard(self) -> float:
        """When a contact that answered a PING in this run answered last, on the event loop's clock;
        minus infinity where none has."""
        return self._at_work()[0].table.last_heard

    def knows_few(self) -> bool:
        """Whether fewer than k others are known, by hearsay or at first hand.

        Those in the table are then the closest to every key. A table alone may be short of
        contacts because all of them are of one address range.
        """
        return self._at_work()[0].knows_few()

    def best_contacts(self, count: int) -> list[Contact]:
        """The contacts to begin with in the next run, the most useful first."""
        return self._at_work()[0].table.best(count)

    # --- the rest of the package's API ---

    async def bootstrap(self, addrs: Sequence[Address]) -> list[Node]:
        """The package's API: join, then the contacts closest to this node."""
        await self.join(addrs)
        return [Node(one.id, *one.address) for one in self.closest(self.id, self._settings.k)]

    def bootstrappable_neighbors(self) -> list[Address]:
        """The package's API: addresses worth joining after a restart."""
        return [one.address for one in self.closest(self.id, self._settings.k)]

    def refresh_table(self, interval: int = 3600) -> None:
        """The package's API: the core refreshes by itself; this does it now."""
        peer, now = self._at_work()
        self._perform(peer.explore(now))

    def save_state(self, fname: str) -> NoReturn:
        """Refused: the package's state file is a pickle, which runs whatever is written in it."""
        raise NotImplementedError("the state of an overlay is kept by the layer above")

    def save_state_regularly(self, fname: str, frequency: int = 600) -> NoReturn:
        """Refused, as `save_state` is."""
        self.save_state(fname)

    @classmethod
    async def load_state(cls, fname: str, port: int, interface: str = ANY_IPV4) -> NoReturn:
        """Refused, as `save_state` is."""
        raise NotImplementedError("the state of an overlay is kept by the layer above")

    # --- what sockets, timers and searches call ---

    def heard(
        self, protocol: OverlayProtocol, data: bytes, source: tuple[str | bytes, int]
    ) -> None:
        """A datagram arrived."""
        if self._peer is None or self._loop is None or self._closed:
            return
        if self._seal is not None:
            opened = self._seal.open(data)
            if opened is None:
                return
            data = opened
        address = canonical(str(source[0]), source[1])
        if address is None:
            return
        if len(self._doors) > 1:
            self._learn_route(protocol, address)
        self._perform(self._peer.receive(data, address, self._loop.time()))

    def go_on(self, token: int) -> None:
        """A search wants another value."""
        peer, now = self._at_work()
        self._perform(peer.resume(token, now))

    def give_up(self, token: int) -> None:
        """Nobody awaits a call any longer."""
        self._futures.pop(token, None)
        self._searches.pop(token, None)
        if not self._closed:
            peer, now = self._at_work()
            self._perform(peer.cancel(token, now))

    # --- inside ---

    def _create_protocol(self) -> OverlayProtocol:
        return self.protocol_class(self.node, self.storage, self.ksize, self)

    async def _open(self, loop: asyncio.AbstractEventLoop, address: Address) -> _Door:
        transport, protocol = await loop.create_datagram_endpoint(
            self._create_protocol, local_addr=address
        )
        bound: tuple[str, int] = transport.get_extra_info("sockname")
        return _Door(protocol, transport, (bound[0], bound[1]), dual_stack=bound[0] == ANY_IPV6)

    async def _close_doors(self) -> None:
        while self._doors:
            door = self._doors.pop()
            door.transport.close()
            await door.protocol.closed

    def _here(self) -> Address:
        return self.addresses[0]

    def _at_work(self) -> tuple[Peer, float]:
        if self._closed or self._peer is None or self._loop is None:
            raise OverlayClosedError("the overlay is not listening")
        return self._peer, self._loop.time()

    def _token(self) -> int:
        self._next_token += 1
        return self._next_token

    async def _ping(self, address: Address, tries: int | None = None) -> Ponged:
        known = _reachable(address)
        return await self._call(
            Ponged, lambda peer, token, now: peer.ping(token, known, now, tries)
        )

    async def _call(
        self, kind: type[Answered], start: Callable[[Peer, int, float], list[Action]]
    ) -> Answered:
        peer, now = self._at_work()
        token = self._token()
        future: asyncio.Future[_Ended]
        future = self._futures[token] = asyncio.get_running_loop().create_future()
        try:
            self._perform(start(peer, token, now))
            result = await future
        finally:
            if token in self._futures:
                self.give_up(token)
        if not isinstance(result, kind):
            raise AssertionError(f"{start} ended in {result}")
        return result

    def _perform(self, actions: list[Action]) -> None:
        events: list[Event] = []
        for action in actions:
            # By far the most are these.
            if type(action) is Send:
                self._send(action.data, action.address)
                continue
            match action:
                case Yielded(token, found):
                    self._searches[token].add(found)
                case LookupDone(token) as done if token in self._searches:
                    self._searches.pop(token).end(done)
                case (
                    LookupDone(token)
                    | Ponged(token)
                    | StoreDone(token)
                    | ValueDone(token)
                    | NodesDone(token)
                ):
                    future = self._futures.pop(token)
                    if not future.done():
                        future.set_result(action)
                case Send():
                    raise AssertionError(action)
                case event:
                    events.append(event)
        self._arm()
        if self._on_event is not None:
            for event in events:
                self._on_event(event)

    def _send(self, data: bytes, address: Address) -> None:
        if self._seal is not None:
            data = self._seal.seal(data)
        known = self._routes.get(address)
        for door in self._doors if known is None else (known,):
            if door.reaches(address):
                door.send(data, address)
                return

    def _learn_route(self, protocol: OverlayProtocol, address: Address) -> None:
        for door in self._doors:
            if door.protocol is protocol:
                self._routes[address] = door
        self._routes.move_to_end(address)
        if len(self._routes) > ROUTES_MAX:
            self._routes.popitem(last=False)

    def _arm(self) -> None:
        """Have the one timer fire no later than the core needs it."""
        if self._peer is None or self._loop is None or self._closed:
            return
        when = self._peer.next_timer()
        if self._timer is not None:
            # Too early costs one idle call; moving it for every datagram would cost more.
            if self._timer_at <= when:
                return
            self._timer.cancel()
        self._timer_at = when
        self._timer = self._loop.call_at(when, self._fire, when)

    def _fire(self, when: float) -> None:
        self._timer = None
        peer, now = self._at_work()
        # An event loop may fire a timer a clock tick before its time.
        self._perform(peer.handle_timer(max(when, now)))


def _state_of(entry: Entry) -> ContactState:
    return ContactState(
        entry.contact.id,
        entry.contact.address,
        entry.rtt.smoothed_s,
        entry.last_answer,
        entry.strikes,
        entry.proved,
    )


def _reachable(address: Address) -> Address:
    known = canonical(*address)
    if known is None:
        raise ValueError(f"not the IP address and port of a peer: {address}")
    return known


def _own(raw: bytes) -> NodeId:
    return node_id(raw)


def _storable(value: bytes) -> None:
    if not isinstance(value, bytes):
        raise TypeError("a value is bytes")
    if len(value) > wire.VALUE_BYTES_MAX:
        raise ValueError(f"a value of {len(value)} bytes; at most {wire.VALUE_BYTES_MAX} fit")
