"""The overlay on real sockets, beside stock nodes and hostile ones."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import random
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import umsgpack
import uvloop
from kademlia.network import Server

from p2pweb.dht import wire
from p2pweb.dht.contact import Address, Contact, NodeId, key_for
from p2pweb.dht.events import ContactUp, Event, Found
from p2pweb.dht.overlay import Overlay, OverlayClosedError
from p2pweb.dht.peer import Peer
from p2pweb.dht.serving import Held
from p2pweb.dht.settings import DEFAULTS, Settings

LOCAL = ("127.0.0.1", 0)
MESSAGE = b"m" * 20
ID = NodeId(b"\x55" * 20)
KEY = b"k" * 20


class Records:
    """Records that believe everybody."""

    def __init__(self) -> None:
        self.held: dict[bytes, Held] = {}

    def find(self, key: bytes) -> Held | None:
        return self.held.get(key)

    def store(self, key: bytes, value: bytes, sender: Address) -> bool | Mapping[str, wire.Plain]:
        self.held[key] = Held(value)
        return True


@asynccontextmanager
async def overlay(
    *addresses: Address,
    seed: int = 1,
    records: Records | None = None,
    on_event: Callable[[Event], None] | None = None,
    settings: Settings = DEFAULTS,
    known: Sequence[Contact] = (),
) -> AsyncIterator[Overlay]:
    rng = random.Random(f"overlay {seed}")
    made = Overlay(
        node_id=rng.randbytes(20),
        records=records or Records(),
        rng=rng,
        entropy=rng.randbytes,
        on_event=on_event,
        settings=settings,
        known=known,
    )
    await made.listen(addresses or [LOCAL])
    try:
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def stock_node(*bootstrap: Address) -> AsyncIterator[Server]:
    server = Server()
    await server.listen(0, interface="127.0.0.1")
    try:
        if bootstrap:
            await server.bootstrap(list(bootstrap))
        yield server
    finally:
        server.stop()


def here(server: Server) -> Address:
    return server.transport.get_extra_info("sockname")


@contextmanager
def raw_socket() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as raw:
        raw.bind(LOCAL)
        raw.setblocking(False)
        yield raw


class Hostile(asyncio.DatagramProtocol):
    """Answers every PING properly, as `id`, and everything else with `body`, whole or cut short."""

    def __init__(self, own: bytes, body: object, cut: int | None = None) -> None:
        self.own = own
        self.body = body
        self.cut = cut
        self.asked = 0

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Address) -> None:
        if data[:1] != b"\x00":
            return
        name = umsgpack.unpackb(data[21:])[0]
        if name != "ping":
            self.asked += 1
        body = umsgpack.packb(self.own if name == "ping" else self.body)
        self.transport.sendto(b"\x01" + data[1:21] + body[: self.cut], addr)


@asynccontextmanager
async def hostile(
    body: object, own: bytes = ID, cut: int | None = None
) -> AsyncIterator[tuple[Contact, Hostile]]:
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: Hostile(own, body, cut), local_addr=LOCAL
    )
    try:
        yield Contact(NodeId(own), transport.get_extra_info("sockname")[:2]), protocol
    finally:
        transport.close()


LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


def run(loop: Callable[[], asyncio.AbstractEventLoop], main: Coroutine[None, None, None]) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main)


# --- stock nodes ---


async def test_a_stock_node_joins_ours_and_reads_a_value_that_ours_holds() -> None:
    records = Records()
    records.held[key_for("name")] = Held(b"value", {"seq": 4})
    async with overlay(records=records) as ours, stock_node(*ours.addresses) as stock:
        assert [node.id for node in stock.protocol.router.find_neighbors(stock.node)] == [ours.id]
        assert await stock.get("name") == b"value"
        assert await stock.get("nothing") is None
        assert await stock.set("other", b"of stock")
        assert records.held[key_for("other")].value == b"of stock"


async def test_ours_finds_what_stock_nodes_hold_and_they_keep_what_it_stores() -> None:
    async with stock_node() as one, stock_node(here(one)) as other, overlay() as ours:
        other.storage[key_for("name")] = b"value"
        assert await ours.join([here(one)])
        assert await ours.get("name") == b"value"
        assert {state.id for state in ours.contacts()} == {one.node.id, other.node.id}
        assert await ours.set("mine", b"of ours")
        assert one.storage.get(key_for("mine")) == b"of ours"
        assert await ours.ping(here(one)) is not None
        assert {node.id for node in await ours.find_node(key_for("x"))} == {
            one.node.id,
            other.node.id,
        }


# --- address proof ---


async def test_nothing_sent_to_an_unproved_address_exceeds_three_times_its_question() -> None:
    records = Records()
    for name in ("short", "middle", "long"):
        length = {"short": 1, "middle": 150, "long": wire.VALUE_BYTES_MAX}[name]
        records.held[key_for(name)] = Held(b"v" * length)
    loop = asyncio.get_running_loop()
    async with overlay(records=records) as ours:
        for number in range(40):
            ours._peer.table.proved(  # type: ignore[union-attr]
                Contact(NodeId(bytes([number + 1]) * 20), ("192.0.2.1", number + 1)), 0.1, 0.0
            )
        questions: list[wire.Question] = [
            wire.Ping(ID),
            wire.Stun(),
            wire.FindNode(ID, key_for("near")),
            wire.Store(ID, key_for("stored"), b"v"),
            wire.Store(ID, key_for("stored"), b"v" * 1_024),
            *(wire.FindValue(ID, key_for(name)) for name in ("none", *("short", "middle", "long"))),
        ]
        for question in questions:
            for times in (1, 5):
                with raw_socket() as raw:
                    data = wire.encode_question(MESSAGE, question)
                    for _ in range(times):
                        raw.sendto(data, ours.addresses[0])
                    # What we ask here after all of that is answered after it, too.
                    got = await _everything_until_pong(loop, ours, raw)
                    assert got <= DEFAULTS.amplification_max * len(data) * times, question


async def _everything_until_pong(
    loop: asyncio.AbstractEventLoop, ours: Overlay, raw: socket.socket
) -> int:
    """The bytes that came, once the overlay has surely read all that was sent to it before."""
    with raw_socket() as other:
        other.sendto(wire.encode_question(MESSAGE, wire.Stun()), ours.addresses[0])
        await asyncio.wait_for(loop.sock_recv(other, 2_000), 5.0)
    got = 0
    while True:
        try:
            got += len(raw.recv(65_536))
        except BlockingIOError:
            return got


async def test_a_long_answer_comes_once_the_address_is_proved() -> None:
    records = Records()
    records.held[key_for("long")] = Held(b"v" * 1_024)
    loop = asyncio.get_running_loop()
    async with overlay(records=records) as ours:
        with raw_socket() as raw:
            question = wire.encode_question(MESSAGE, wire.FindValue(ID, key_for("long")))
            raw.sendto(question, ours.addresses[0])
            ping = await asyncio.wait_for(loop.sock_recv(raw, 2_000), 5.0)
            assert umsgpack.unpackb(ping[21:]) == ["ping", [ours.id]]
            raw.sendto(b"\x01" + ping[1:21] + umsgpack.packb(ID), ours.addresses[0])
            answer = await asyncio.wait_for(loop.sock_recv(raw, 2_000), 5.0)
            assert umsgpack.unpackb(answer[21:]) == {"value": b"v" * 1_024}


# --- hostile answers ---

HOSTILE_BODIES: dict[str, object] = {
    "int": 7,
    "40-byte id": [[b"x" * 40, "127.0.0.1", 1]],
    "unhashable": [[[], {}, []]],
    "empty map": {},
    "map": {"value": {"deep": [1, [2]]}},
    "text value": {"value": "text"},
    "nil": None,
    "host name": [[b"x" * 20, "localhost", 53]],
    "port": [[b"x" * 20, "127.0.0.1", 2**40]],
    "our own address": [[b"x" * 20, "127.0.0.1", 0]],
}


@pytest.mark.parametrize("cut", [None, 0, 1, -1])
@pytest.mark.parametrize("name", HOSTILE_BODIES)
async def test_no_hostile_answer_breaks_a_lookup_or_a_store(name: str, cut: int | None) -> None:
    records = Records()
    key = key_for("name")
    records.held[key] = Held(b"value")
    body = HOSTILE_BODIES[name]
    async with (
        overlay(seed=1, records=records) as holder,
        overlay(seed=2) as asker,
        hostile(body, own=key) as (nearest, protocol),
    ):
        assert await asker.join([nearest.address])
        assert await asker.join([holder.addresses[0]])
        protocol.cut = cut
        protocol.asked = 0
        assert await asker.get("name") == b"value"
        # A truncated pong would have it leave the table; the id as such is honest.
        assert holder.id in [one.id for one in await asker.find_node(key)]
        stored = await asker.store(nearest, key, b"value")
        assert stored is None or isinstance(stored, dict)
        assert protocol.asked


async def test_a_contact_that_answers_under_another_id_hides_nothing() -> None:
    records = Records()
    key = key_for("name")
    records.held[key] = Held(b"value")
    async with (
        overlay(seed=1, records=records) as holder,
        overlay(seed=2) as asker,
        hostile([], own=b"\x01" * 20) as (liar, _),
        hostile([[key, *liar.address]], own=b"\x02" * 20) as (gossip, _),
    ):
        assert await asker.join([gossip.address])
        assert await asker.join([holder.addresses[0]])
        assert await asker.get("name") == b"value"
        assert await asker.ping(liar.address) is not None
        assert key not in [one.id for one in await asker.find_node(key)]


# --- callers that leave ---


@pytest.mark.parametrize("loop", LOOPS)
def test_cancelled_callers_leave_nothing_behind(
    loop: Callable[[], asyncio.AbstractEventLoop], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        failures: list[Mapping[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: failures.append(context)
        )
        with raw_socket() as silent:
            address = silent.getsockname()
            contact = Contact(ID, address)
            async with overlay(settings=Settings(rtt_initial_s=0.05)) as ours:
                peer = ours._peer
                assert peer is not None
                peer.table.proved(contact, 0.01, asyncio.get_running_loop().time())
                calls = [
                    asyncio.ensure_future(call)
                    for call in (
                        ours.ping(address),
                        ours.store(contact, key_for("x"), b"v"),
                        ours.find_node(key_for("x")),
                        ours.get("x"),
                        ours.set("x", b"v"),
                        ours.join([address]),
                    )
                ]
                for _ in range(5):
                    await asyncio.sleep(0)
                assert len(ours._futures) == 6
                assert len(ours._searches) == 1
                for call in calls:
                    call.cancel()
                ended = await asyncio.gather(*calls, return_exceptions=True)
                assert all(isinstance(one, asyncio.CancelledError) for one in ended)
                assert not ours._futures
                assert not ours._searches
                assert not peer._tokens
                assert not peer._lookups._tokens
                # Whatever was in flight becomes late and is answered now: nobody minds.
                assert await ours.ping(address) is None
            gc.collect()
        assert not failures
        assert len(asyncio.all_tasks()) == 1

    run(loop, main())
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]


async def test_after_each_value_others_are_asked_only_when_another_is_wanted() -> None:
    found: set[NodeId] = set()
    async with AsyncExitStack() as stack:
        records = Records()
        records.held[key_for("name")] = Held(b"value")
        settings = Settings(alpha=1)
        ours = await stack.enter_async_context(overlay(settings=settings))
        holders = [
            await stack.enter_async_context(overlay(seed=seed, records=records))
            for seed in (2, 3, 4)
        ]
        await ours.join([one.addresses[0] for one in holders])
        async with ours.find_value(key_for("name")) as search:
            for asked in (1, 2, 3):
                found.add((await anext(search)).contact.id)
                (run,) = ours._peer._lookups._running  # type: ignore[union-attr]
                assert run.paused
                assert run.lookup is not None
                assert run.lookup._asks == asked
            assert found == {one.id for one in holders}
            with pytest.raises(StopAsyncIteration):
                await anext(search)
        assert {one.id for one in search.closest} == found
        assert not ours._peer._lookups._running  # type: ignore[union-attr]


async def test_a_search_left_early_asks_nobody_anything_more() -> None:
    records = Records()
    records.held[key_for("name")] = Held(b"value")
    async with overlay(seed=1, records=records) as holder, overlay(seed=2) as ours:
        await ours.join(holder.addresses)
        async with ours.find_value(key_for("name")) as search:
            assert (await anext(search)).value == b"value"
        assert not ours._searches
        with pytest.raises(StopAsyncIteration):
            await anext(search)
        found = [one.value async for one in ours.find_value(key_for("name"))]
        assert found == [b"value"]
        waiting = ours.find_value(key_for("nothing"))
        assert [one async for one in waiting] == []
        assert [one.id for one in waiting.closest] == [holder.id]
        # Left while somebody waits for it.
        other = ours.find_value(key_for("nothing"))
        task = asyncio.ensure_future(anext(other, None))
        await asyncio.sleep(0)
        await other.aclose()
        assert await task is None


# --- life ---


@pytest.mark.parametrize("loop", LOOPS)
def test_close_ends_everything(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        with raw_socket() as silent:
            contact = Contact(ID, silent.getsockname())
            async with overlay() as ours:
                bound = ours.addresses[0]
                peer = ours._peer
                assert peer is not None
                peer.table.proved(contact, 0.01, asyncio.get_running_loop().time())
                search = ours.find_value(key_for("x"))
                calls = [
                    asyncio.ensure_future(call)
                    for call in (
                        ours.ping(contact.address),
                        ours.store(contact, key_for("x"), b"v"),
                        ours.find_node(key_for("x")),
                        ours.get("x"),
                        anext(search),
                    )
                ]
                await asyncio.sleep(0)
                await ours.close()
                await ours.close()
                ended = await asyncio.gather(*calls, return_exceptions=True)
                assert [type(one) for one in ended] == [OverlayClosedError] * 5
                for refused in (
                    ours.ping(contact.address),
                    ours.listen([LOCAL]),
                    ours.find_node(key_for("x")),
                ):
                    with pytest.raises(OverlayClosedError):
                        await refused
                for call in (lambda: ours.find_value(ID), lambda: ours.contacts()):
                    with pytest.raises(OverlayClosedError):
                        call()
                assert ours._timer is None
            # The port is free again at once.
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
                again.bind(bound)
        assert len(asyncio.all_tasks()) == 1

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_joins_finds_and_stores_on_either_loop(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def main() -> None:
        events: list[Event] = []
        async with (
            overlay(seed=1) as one,
            overlay(seed=2) as other,
            overlay(seed=3, on_event=events.append) as third,
        ):
            assert await other.join(one.addresses)
            assert await third.join(one.addresses)
            assert await third.set("name", b"value")
            assert await other.get("name") == b"value"
            assert {state.id for state in third.contacts()} == {one.id, other.id}
            near = third.heard_of(ID, 9)
            assert {known.id for known in near} == {one.id, other.id}
            assert all(0.0 <= third.rtt_s(known) < math.inf for known in near)
            assert third.rtt_s(Contact(third.id, third.addresses[0])) == math.inf
            assert {event.contact.id for event in events if isinstance(event, ContactUp)} == {
                one.id,
                other.id,
            }

    run(loop, main())


async def test_an_overlay_that_knew_others_before_asks_them_at_once_and_meets_the_rest() -> None:
    events: list[Event] = []
    records = Records()
    records.held[ID] = Held(b"value")
    async with overlay(seed=1, records=records) as one, overlay(seed=2) as other:
        await other.join(one.addresses)
        with raw_socket() as silent:
            dead = Contact(NodeId(b"\x01" * 20), silent.getsockname())
            known = [dead, Contact(one.id, one.addresses[0])]
            async with overlay(seed=3, on_event=events.append, known=known) as third:
                assert [state.proved for state in third.contacts()] == [False, False]
                assert set(third.best_contacts(9)) == set(known)
                async with third.find_value(ID) as search:
                    async for found in search:
                        assert found.value == b"value"
                        break
                assert set(await third.look_around()) == {
                    Contact(one.id, one.addresses[0]),
                    Contact(other.id, other.addresses[0]),
                }
                proved = {state.id for state in third.contacts() if state.proved}
                assert proved == {one.id, other.id}
                assert third.best_contacts(9)[-1] == dead
                assert {event.contact.id for event in events} == proved


async def test_one_contact_says_what_it_holds_and_whoever_else_holds_it_is_not_asked() -> None:
    records = Records()
    records.held[KEY] = Held(b"value", {"keeps": True})
    async with (
        overlay(seed=1, records=records) as one,
        overlay(seed=2) as other,
        overlay(seed=3) as third,
    ):
        await other.join(one.addresses)
        await third.join(one.addresses)
        holder, friend = Contact(NodeId(one.id), one.addresses[0]), other.addresses[0]
        assert await third.value_of(holder, KEY) == Found(holder, b"value", {"keeps": True})
        assert await third.value_of(Contact(NodeId(other.id), friend), KEY) is None


async def test_who_is_in_a_network_already_asks_nobody_else_when_it_joins_there_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with overlay(seed=1) as one, overlay(seed=2) as other, overlay(seed=3) as third:
        await other.join(one.addresses)
        assert await third.join(one.addresses)
        assert {state.id for state in third.contacts()} == {one.id, other.id}
        monkeypatch.delattr(Overlay, "look_around")
        monkeypatch.delattr(Peer, "contacts_at")
        async with overlay(seed=4) as stranger, overlay(seed=5) as lone:
            assert await third.join([*stranger.addresses, *one.addresses], again=True)
            with pytest.raises(AttributeError, match="look_around"):
                await third.join(lone.addresses, again=True)
        with pytest.raises(AttributeError, match="contacts_at"):
            await third.join(one.addresses)


async def test_who_joins_waits_for_nobody_once_one_has_answered() -> None:
    with raw_socket() as silent:
        dead = silent.getsockname()
        patient = Settings(rtt_initial_s=60.0)
        async with overlay(seed=1) as one, overlay(seed=2, settings=patient) as other:
            async with asyncio.timeout(30.0):
                assert await other.join([dead, *one.addresses])
            assert not other._futures
        async with overlay(settings=Settings(rtt_initial_s=0.01)) as alone:
            assert not await alone.join([dead])


async def test_addresses_that_cannot_be_bound_are_named_and_nothing_stays_open() -> None:
    async with overlay() as ours:
        with pytest.raises(OSError, match="listening already"):
            await ours.listen([LOCAL])
        second = Overlay(
            node_id=ID, records=Records(), rng=random.Random(1), entropy=random.Random(1).randbytes
        )
        with pytest.raises(OverlayClosedError):
            second.contacts()
        with pytest.raises(OSError, match="no address"):
            await second.listen([])
        taken = ours.addresses[0]
        with pytest.raises(OSError, match=f"{taken[0]}:{taken[1]}/udp"):
            await second.listen([LOCAL, taken])
        assert second._doors == []
        await second.listen([LOCAL])
        await second.close()


async def test_close_while_sockets_are_being_opened_closes_those_too() -> None:
    ours = Overlay(
        node_id=ID, records=Records(), rng=random.Random(1), entropy=random.Random(1).randbytes
    )
    opening = asyncio.ensure_future(ours.listen([LOCAL, LOCAL]))
    await asyncio.sleep(0)
    await ours.close()
    with pytest.raises(OverlayClosedError):
        await opening
    assert ours._doors == []


async def test_what_no_peer_could_be_sent_is_refused_here() -> None:
    async with overlay() as ours:
        contact = Contact(ID, ("127.0.0.1", 9))
        for address in (("localhost", 9), ("127.0.0.1", 0)):
            with pytest.raises(ValueError, match="not the IP address"):
                await ours.ping(address)
        with pytest.raises(ValueError, match="20 bytes"):
            await ours.find_node(b"short")
        with pytest.raises(ValueError, match="1025 bytes"):
            await ours.store(contact, ID, b"v" * 1_025)
        with pytest.raises(TypeError):
            await ours.set("name", "text")  # type: ignore[arg-type]
        assert not ours._futures


async def test_the_packages_state_file_is_neither_written_nor_read(tmp_path: Path) -> None:
    async with overlay() as ours:
        for save in (ours.save_state, ours.save_state_regularly):
            with pytest.raises(NotImplementedError):
                save(str(tmp_path / "state"))
        with pytest.raises(NotImplementedError):
            await Overlay.load_state(str(tmp_path / "state"), 0)
    assert not list(tmp_path.glob("*"))  # noqa: ASYNC240  # nothing else runs any more


async def test_the_rest_of_the_packages_api() -> None:
    records = Records()
    async with overlay(seed=1, records=records) as one, overlay(seed=2) as other:
        assert [node.id for node in await other.bootstrap(one.addresses)] == [one.id]
        assert other.bootstrappable_neighbors() == one.addresses
        other.refresh_table()
        one.storage[ID] = b"value"
        assert one.storage[ID] == one.storage.get(ID) == b"value"
        assert one.storage.get(MESSAGE, b"default") == b"default"
        with pytest.raises(KeyError):
            one.storage[MESSAGE]
        assert list(one.storage) == list(one.storage.iter_older_than(0)) == []
        with pytest.raises(AttributeError):
            one.protocol.no_such_rpc  # noqa: B018


# --- several sockets ---


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="no ::1 on this machine")


@ipv6
@pytest.mark.parametrize("loop", LOOPS)
def test_one_overlay_speaks_both_families(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        async with (
            overlay(LOCAL, ("::1", 0), seed=1) as both,
            overlay(LOCAL, seed=2, settings=Settings(rtt_initial_s=0.02)) as four,
            overlay(("::1", 0), seed=3) as six,
        ):
            assert [host for host, _ in both.addresses] == ["127.0.0.1", "::1"]
            assert await four.join(both.addresses[:1])
            assert await six.join(both.addresses[1:])
            assert await both.ping(four.addresses[0]) is not None
            assert await both.ping(six.addresses[0]) is not None
            assert {state.id for state in both.contacts()} == {four.id, six.id}
            assert await six.store(Contact(both.id, both.addresses[1]), ID, b"value") is True
            # Nobody can be reached through a socket of the other family.
            assert await four.ping(six.addresses[0]) is None

    run(loop, main())


@ipv6
@pytest.mark.parametrize("loop", LOOPS)
def test_a_socket_for_every_interface_takes_ipv4_too(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def main() -> None:
        async with (
            overlay(("::", 0), ("0.0.0.0", 0), seed=1) as every,
            overlay(LOCAL, seed=2) as four,
        ):
            assert len(every.addresses) == 1
            port = every.addresses[0][1]
            assert await four.join([("127.0.0.1", port)])
            assert await every.ping(four.addresses[0]) is not None
            assert every.closest(ID, 9) == [Contact(four.id, four.addresses[0])]

    run(loop, main())


# --- a flood ---


def _mutated(rng: random.Random, own: bytes, count: int) -> Iterator[bytes]:
    questions: list[wire.Question] = [
        wire.Ping(ID),
        wire.FindNode(ID, key_for("x")),
        wire.FindValue(ID, own),
        wire.Store(ID, key_for("y"), b"v" * 40),
        wire.Stun(),
    ]
    seeds = [wire.encode_question(MESSAGE, question) for question in questions]
    seeds += [
        wire.encode_answer(MESSAGE, body)
        for body in (own, True, [[ID, "127.0.0.1", 9]], {"value": ID})
    ]
    for _ in range(count):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(0, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        if rng.random() < 0.1:
            data += rng.randbytes(rng.randrange(200))
        yield bytes(data)


@pytest.mark.parametrize("loop", LOOPS)
def test_ten_thousand_mutated_datagrams_change_nothing(
    loop: Callable[[], asyncio.AbstractEventLoop], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        failures: list[Mapping[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: failures.append(context)
        )
        records = Records()
        records.held[key_for("name")] = Held(b"value")
        async with overlay(seed=1, records=records) as holder, overlay(seed=2) as ours:
            await ours.join(holder.addresses)
            peer = ours._peer
            assert peer is not None
            with raw_socket() as raw:
                for number, data in enumerate(_mutated(random.Random(9), ours.id, 10_000)):
                    raw.sendto(data, ours.addresses[0])
                    if number % 100 == 99:
                        # Its pong says that it has read all of them, before its socket's buffer
                        # could overflow.
                        assert await holder.ping(ours.addresses[0]) is not None
                    if number % 1_000 == 999:
                        assert await ours.get("name") == b"value"
            assert peer.malformed > 1_000
            # Whoever sent all this never said who it is.
            assert [state.id for state in ours.contacts()] == [holder.id]
            assert len(peer._proofs._introduced) <= DEFAULTS.introductions_max
            assert peer._proofs._held_count <= DEFAULTS.held_each_max
            assert len(peer._pings) <= DEFAULTS.proofs_max
            assert len(peer._proving) <= 1
            assert not ours._futures
            assert not ours._searches
        assert not failures

    run(loop, main())
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]
