"""Streams in memory: what protocols see of them, beside what they see of real sockets."""

from __future__ import annotations

import asyncio
import math
import random
import socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, cast

import pytest

from p2pweb.address import Address
from p2pweb.blobs import segments_of
from p2pweb.exchange.wire import encode_bundle
from p2pweb.http.messages import Body, Request, Response, Span
from p2pweb.http.server import HttpServer, RequestBody
from p2pweb.http.service import ServerLimits
from p2pweb.sim.latency import Latency
from p2pweb.sim.loop import SimLoop
from p2pweb.sim.network import Conditions, Network
from p2pweb.sim.streams import GIVE_UP_S, WINDOW_BYTES, StreamTransport

PORT = 8_001
LONG = random.Random(1).randbytes(3_000_000)
# More than systems and transports hold between them.
MUCH = bytes(20_000_000)


class Talker(asyncio.Protocol):
    """Notes what happens to it; `keeps_half` is what it answers to the other's end."""

    def __init__(self, *, echoes: bool = False, keeps_half: bool = False) -> None:
        self.echoes = echoes
        self.keeps_half = keeps_half
        self.heard = bytearray()
        self.told: list[str] = []
        self.error: Exception | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.heard += data
        if self.echoes:
            self.transport.write(data)

    def eof_received(self) -> bool:
        self.told.append("end")
        return self.keeps_half

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append("lost")
        self.error = exc


class BufferedTalker(asyncio.BufferedProtocol):
    """Echoes, by way of a buffer that is smaller than what comes."""

    def __init__(self) -> None:
        self.buffer = bytearray(1_000)
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.transport.write(bytes(self.buffer[:nbytes]))


class Bench:
    """Somewhere to listen and to connect."""

    loop: asyncio.AbstractEventLoop

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        self.loop.run_until_complete(asyncio.wait_for(main, 3_600.0))

    async def listen(self, factory: Callable[[], asyncio.BaseProtocol]) -> Address:
        raise NotImplementedError

    async def connect(self, address: Address, client: Talker) -> Talker:
        raise NotImplementedError

    async def pair(self, client: Talker, server: Talker) -> None:
        await self.connect(await self.listen(lambda: server), client)
        await self.until(lambda: hasattr(server, "transport"))

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(3_000.0):
            while not condition():  # noqa: ASYNC110 - whatever it is, nobody tells of it
                await asyncio.sleep(0.005)


class Simulated(Bench):
    silent_s_max = math.inf

    def __init__(self, **conditions: float) -> None:
        self.loop = self.sim = SimLoop()
        self.network = Network(self.sim, 1, latency=Latency(1), conditions=Conditions(**conditions))
        self.here, self.there = self.network.add_host(), self.network.add_host()

    async def listen(self, factory: Callable[[], asyncio.BaseProtocol]) -> Address:
        await self.sim.create_server(factory, self.there.ip, PORT)
        return self.there.ip, PORT

    async def connect(self, address: Address, client: Talker) -> Talker:
        opened = self.network.streams.socket(self.here, silent_s_max=self.silent_s_max)
        await self.sim.sock_connect(opened, address)
        await self.sim.create_connection(lambda: client, sock=opened)
        return client


class Real(Bench):
    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.servers: list[asyncio.Server] = []

    async def listen(self, factory: Callable[[], asyncio.BaseProtocol]) -> Address:
        server = await self.loop.create_server(factory, "127.0.0.1", 0)
        self.servers.append(server)
        name: Address = server.sockets[0].getsockname()
        return name

    async def connect(self, address: Address, client: Talker) -> Talker:
        await self.loop.create_connection(lambda: client, *address)
        return client


@pytest.fixture(params=[Simulated, Real])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made: Bench = request.param()
    yield made
    if isinstance(made, Real):
        for server in made.servers:
            server.close()
        made.loop.run_until_complete(asyncio.sleep(0))
    else:
        assert isinstance(made, Simulated)
        assert not made.sim.faults
    made.loop.close()


@pytest.fixture
def sim() -> Iterator[Simulated]:
    made = Simulated()
    yield made
    assert not made.sim.faults
    made.loop.close()


# What holds for both


@pytest.mark.parametrize("buffered", [False, True])
def test_an_echo_comes_back_whole_and_in_order(bench: Bench, buffered: bool) -> None:
    async def main() -> None:
        client = Talker()
        echo = BufferedTalker if buffered else lambda: Talker(echoes=True)
        await bench.connect(await bench.listen(echo), client)
        client.transport.write(LONG)
        await bench.until(lambda: len(client.heard) == len(LONG))
        assert client.heard == LONG
        client.transport.close()
        await bench.until(lambda: "lost" in client.told)
        assert client.error is None

    bench.run(main())


def test_who_does_not_read_stops_the_writer_until_it_does(bench: Bench) -> None:
    async def main() -> None:
        client, server = Talker(), Talker()
        await bench.pair(client, server)
        server.transport.pause_reading()
        client.transport.write(MUCH)
        assert client.told == ["pause"]
        await asyncio.sleep(0.2)
        assert client.told == ["pause"]
        assert client.transport.get_write_buffer_size() > 0
        server.transport.resume_reading()
        await bench.until(lambda: len(server.heard) == len(MUCH))
        assert client.told == ["pause", "resume"]
        assert client.transport.get_write_buffer_size() == 0
        client.transport.abort()
        server.transport.abort()
        await bench.until(lambda: "lost" in client.told and "lost" in server.told)

    bench.run(main())


def test_limits_of_nothing_pause_until_all_is_taken(bench: Bench) -> None:
    async def main() -> None:
        client, server = Talker(), Talker()
        await bench.pair(client, server)
        server.transport.pause_reading()
        client.transport.set_write_buffer_limits(high=100_000_000)
        client.transport.write(MUCH)
        assert client.told == []
        client.transport.set_write_buffer_limits(high=0)
        assert client.told == ["pause"]
        server.transport.resume_reading()
        await bench.until(lambda: client.told == ["pause", "resume"])
        assert client.transport.get_write_buffer_size() == 0
        client.transport.abort()
        await bench.until(lambda: "lost" in server.told)

    bench.run(main())


def test_a_half_closed_connection_still_answers(bench: Bench) -> None:
    async def main() -> None:
        client, server = Talker(), Talker(keeps_half=True)
        await bench.pair(client, server)
        client.transport.write(b"question")
        client.transport.write_eof()
        with pytest.raises(RuntimeError):
            client.transport.write(b"more")
        await bench.until(lambda: "end" in server.told)
        assert server.heard == b"question"
        server.transport.write(b"answer")
        server.transport.close()
        await bench.until(lambda: "lost" in client.told and "lost" in server.told)
        assert client.heard == b"answer"
        assert client.told == ["end", "lost"]
        assert client.error is None and server.error is None

    bench.run(main())


def test_what_was_written_before_closing_arrives(bench: Bench) -> None:
    async def main() -> None:
        client, server = Talker(), Talker()
        await bench.pair(client, server)
        client.transport.write(LONG)
        client.transport.close()
        assert client.transport.is_closing()
        await bench.until(lambda: "lost" in client.told and "lost" in server.told)
        assert server.heard == LONG
        assert server.told == ["end", "lost"]

    bench.run(main())


def test_closing_waits_for_nobody_who_reads_what_the_system_holds(bench: Bench) -> None:
    async def main() -> None:
        client, server = Talker(), Talker()
        await bench.pair(client, server)
        server.transport.pause_reading()
        client.transport.write(bytes(50_000))
        client.transport.close()
        await bench.until(lambda: "lost" in client.told)
        assert client.error is None
        server.transport.resume_reading()
        await bench.until(lambda: "lost" in server.told)
        assert len(server.heard) == 50_000

    bench.run(main())


def test_aborting_drops_what_waits_and_ends_both(bench: Bench) -> None:
    async def main() -> None:
        client, server = Talker(), Talker()
        await bench.pair(client, server)
        server.transport.pause_reading()
        client.transport.write(MUCH)
        client.transport.abort()
        client.transport.abort()
        server.transport.resume_reading()
        await bench.until(lambda: "lost" in client.told and "lost" in server.told)
        assert client.error is None
        assert len(server.heard) < len(MUCH)

    bench.run(main())


def test_closing_with_bytes_unread_resets(bench: Bench) -> None:
    async def main() -> None:
        client, server = Talker(), Talker()
        await bench.pair(client, server)
        client.transport.pause_reading()
        server.transport.write(b"unread")
        await asyncio.sleep(0.2)
        client.transport.close()
        await bench.until(lambda: "lost" in server.told)
        assert isinstance(server.error, ConnectionResetError)

    bench.run(main())


def test_who_writes_to_a_closed_end_is_reset(bench: Bench) -> None:
    async def main() -> None:
        client, server = Talker(), Talker(keeps_half=True)
        await bench.pair(client, server)
        client.transport.close()
        await bench.until(lambda: "end" in server.told)
        server.transport.write(b"one")
        await asyncio.sleep(0.2)
        server.transport.write(b"two")
        await bench.until(lambda: "lost" in server.told)
        assert isinstance(server.error, ConnectionError | None)
        assert client.heard == b""

    bench.run(main())


def test_nobody_listens_nobody_connects(bench: Bench) -> None:
    async def main() -> None:
        if isinstance(bench, Simulated):
            address: Address = (bench.there.ip, PORT)
        else:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                address = free.getsockname()
        with pytest.raises(ConnectionRefusedError):
            await bench.connect(address, Talker())

    bench.run(main())


def test_a_listener_that_closed_refuses_and_keeps_what_it_accepted(bench: Bench) -> None:
    async def main() -> None:
        server = Talker(echoes=True)
        where = (bench.there.ip, PORT) if isinstance(bench, Simulated) else ("127.0.0.1", 0)
        listening = await bench.loop.create_server(lambda: server, *where)
        address: Address = listening.sockets[0].getsockname()
        client = await bench.connect(address, Talker())
        await bench.until(lambda: hasattr(server, "transport"))
        assert listening.is_serving()
        listening.close()
        assert not listening.is_serving()
        with pytest.raises(ConnectionRefusedError):
            await bench.connect(address, Talker())
        client.transport.write(b"still here")
        await bench.until(lambda: client.heard == b"still here")
        client.transport.close()
        await bench.until(lambda: "lost" in server.told)

    bench.run(main())


# What only a simulation can show


def rtt_s(sim: Simulated) -> float:
    return 2 * sim.network.latency.base_s(sim.here.number, sim.there.number)


def test_connecting_takes_a_round_trip(sim: Simulated) -> None:
    async def main() -> None:
        await sim.pair(Talker(), Talker())
        assert sim.loop.time() == pytest.approx(rtt_s(sim), rel=0.15)

    sim.run(main())


def test_a_window_is_under_way_at_one_time(sim: Simulated) -> None:
    async def main() -> None:
        client, server = Talker(), Talker()
        await sim.pair(client, server)
        began_s = sim.loop.time()
        client.transport.write(LONG)
        await sim.until(lambda: len(server.heard) == len(LONG))
        trips = len(LONG) / WINDOW_BYTES
        assert sim.loop.time() - began_s == pytest.approx(trips * rtt_s(sim), rel=0.2)

    sim.run(main())


def test_a_cut_way_delays_and_loses_nothing(sim: Simulated) -> None:
    async def main() -> None:
        client, server = Talker(), Talker()
        await sim.pair(client, server)
        client.transport.write(LONG)
        await asyncio.sleep(2 * rtt_s(sim))
        sim.network.part([sim.there])
        before = len(server.heard)
        await asyncio.sleep(60.0)
        assert len(server.heard) == before < len(LONG)
        assert client.told == ["pause"]
        sim.network.heal()
        await sim.until(lambda: len(server.heard) == len(LONG))
        assert server.heard == LONG

    sim.run(main())


def test_a_cut_without_end_is_given_up(sim: Simulated) -> None:
    async def main() -> None:
        client, server = Talker(), Talker()
        await sim.pair(client, server)
        sim.network.part([sim.there])
        client.transport.write(b"into the void")
        await asyncio.sleep(GIVE_UP_S - 10.0)
        assert client.told == []
        await asyncio.sleep(150.0)
        assert client.told == ["lost"]
        assert isinstance(client.error, TimeoutError)
        assert server.told == []

    sim.run(main())


def test_a_system_that_probes_gives_up_a_silent_machine(sim: Simulated) -> None:
    sim.silent_s_max = 30.0

    async def main() -> None:
        client, server = Talker(), Talker()
        await sim.pair(client, server)
        # Whoever waits for an answer has nothing to send.
        sim.network.crash(sim.there)
        await asyncio.sleep(29.0)
        assert client.told == []
        await asyncio.sleep(2.0)
        assert client.told == ["lost"]
        assert isinstance(client.error, TimeoutError)

    sim.run(main())


def test_probes_are_answered_after_a_short_cut_and_by_a_machine_that_is_back(
    sim: Simulated,
) -> None:
    sim.silent_s_max = 30.0

    async def main() -> None:
        client, server = Talker(), Talker(echoes=True)
        await sim.pair(client, server)
        sim.network.part([sim.there])
        await asyncio.sleep(20.0)
        sim.network.heal()
        await asyncio.sleep(100.0)
        client.transport.write(b"still there")
        await sim.until(lambda: client.heard == b"still there")
        sim.network.crash(sim.there)
        await asyncio.sleep(20.0)
        sim.network.start(sim.there)
        await asyncio.sleep(11.0)
        assert isinstance(client.error, ConnectionResetError)

    sim.run(main())


def test_a_crash_ends_its_own_side_and_tells_nobody(sim: Simulated) -> None:
    async def main() -> None:
        client, server = Talker(), Talker()
        await sim.pair(client, server)
        client.transport.write(b"before")
        await asyncio.sleep(1.0)
        server.transport.write(b"last words")
        sim.network.crash(sim.there)
        await asyncio.sleep(100.0)
        assert server.told == ["lost"]
        assert client.told == []
        # What had left the dead host arrives.
        assert client.heard == b"last words"
        server.transport.write(b"from the grave")
        server.transport.abort()
        client.transport.write(b"anybody?")
        await asyncio.sleep(10.0)
        assert client.told == []
        sim.network.start(sim.there)
        await sim.until(lambda: client.told)
        assert isinstance(client.error, ConnectionResetError)
        assert client.heard == b"last words"

    sim.run(main())


def test_a_dead_host_answers_no_syn_and_its_sockets_do_not_outlive_it(sim: Simulated) -> None:
    async def main() -> None:
        address = await sim.listen(Talker)
        old = sim.network.streams.socket(sim.there)
        sim.network.crash(sim.there)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(sim.connect(address, Talker()), 2.0)
        sim.network.start(sim.there)
        with pytest.raises(ConnectionRefusedError):
            await sim.connect(address, Talker())
        with pytest.raises(OSError, match="down"):
            await old.connect((sim.here.ip, PORT))
        with pytest.raises(OSError, match="no route"):
            await sim.connect(("9.9.9.9", PORT), Talker())

    sim.run(main())


def test_a_syn_is_sent_again(sim: Simulated) -> None:
    async def main() -> None:
        address = await sim.listen(lambda: Talker(echoes=True))
        sim.network.part([sim.there])
        sim.loop.call_later(2.0, sim.network.heal)
        await sim.connect(address, Talker())
        assert sim.loop.time() == pytest.approx(3.0 + rtt_s(sim), abs=0.05)
        sim.network.part([sim.there])
        with pytest.raises(TimeoutError):
            await sim.connect(address, Talker())
        assert sim.loop.time() > 127.0

    sim.run(main())


def test_a_slow_way_makes_one_connection_of_several_syns(sim: Simulated) -> None:
    made: list[Talker] = []

    def accept() -> Talker:
        made.append(Talker(echoes=True))
        return made[-1]

    async def main() -> None:
        address = await sim.listen(accept)
        sim.there.slow_s = 1.5
        client = await sim.connect(address, Talker())
        client.transport.write(b"hello")
        await sim.until(lambda: client.heard == b"hello")
        await asyncio.sleep(10.0)
        assert len(made) == 1

    sim.run(main())


def test_who_gives_up_connecting_leaves_no_connection(sim: Simulated) -> None:
    server = Talker()

    async def main() -> None:
        address = await sim.listen(lambda: server)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(sim.connect(address, Talker()), 0.75 * rtt_s(sim))
        await sim.until(lambda: "lost" in server.told)

    sim.run(main())


def test_a_connection_lost_before_it_has_a_protocol_tells_that_one(sim: Simulated) -> None:
    server = Talker()

    async def main() -> None:
        address = await sim.listen(lambda: server)
        opened = sim.network.streams.socket(sim.here)
        await opened.connect(address)
        sim.network.crash(sim.here)
        client = Talker()
        opened.open(client)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert client.told == ["lost"]

    sim.run(main())


def test_losses_cost_time_and_no_bytes() -> None:
    sim = Simulated(loss=0.05)

    async def main() -> None:
        client, server = Talker(), Talker(echoes=True)
        await sim.pair(client, server)
        client.transport.write(LONG)
        await sim.until(lambda: len(client.heard) == len(LONG))
        assert client.heard == LONG
        assert sim.loop.time() > 1.5 * rtt_s(sim) * len(LONG) / WINDOW_BYTES

    sim.run(main())
    sim.loop.close()


# The front end on a transport that has no socket


class Stored:
    """A body that lies in memory or in a file."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int | None:
        return self._descriptor

    def close(self) -> None:
        """It stays."""

    async def read(self, start: int, stop: int) -> memoryview:
        return memoryview(LONG)[start:stop]


async def serve(sim: Simulated, descriptor: int | None) -> HttpServer:
    def handler(request: Request, body: RequestBody) -> Response:
        pieces = (b"begun ", Span(0, len(LONG)), b" ended")
        made = Body(size_bytes=len(LONG) + 12, pieces=pieces, open=lambda: Stored(descriptor))
        return Response(status=200, body=made)

    server = HttpServer(handler, limits=ServerLimits(), now_unix=sim.loop.time)
    await server.start([(sim.there.ip, PORT)])
    return server


@pytest.mark.parametrize("way", ["memory", "file"])
def test_a_long_answer_goes_through_a_transport_alone(
    sim: Simulated, way: str, tmp_path: Any
) -> None:
    place = tmp_path / "body"
    place.write_bytes(LONG)

    async def main() -> None:
        with place.open("rb") as file:
            server = await serve(sim, file.fileno() if way == "file" else None)
            client = await sim.connect((sim.there.ip, PORT), Talker())
            request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
            client.transport.write(request * 2)
            expected = b"begun " + LONG + b" ended"
            await sim.until(lambda: client.heard.count(b" ended") == 2)
            assert client.heard.count(expected) == 2
            client.transport.close()
            await server.close(1.0)

    sim.run(main())


def test_a_reader_who_takes_nothing_holds_little_and_is_given_up(sim: Simulated) -> None:
    async def main() -> None:
        server = await serve(sim, None)
        client = await sim.connect((sim.there.ip, PORT), Talker())
        client.transport.pause_reading()
        client.transport.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await asyncio.sleep(5.0)
        far = cast(StreamTransport, client.transport).other
        held = far.get_write_buffer_size()
        assert 0 < held <= server.limits.write_buffer_bytes_max + 64 * 1024
        assert not far.is_closing()
        await asyncio.sleep(server.limits.write_idle_s + server.limits.linger_s)
        assert far.is_closing()
        client.transport.resume_reading()
        await sim.until(lambda: "lost" in client.told)
        assert len(client.heard) < len(LONG)
        await server.close(1.0)

    sim.run(main())


def test_a_visitor_who_leaves_ends_a_long_answer(sim: Simulated) -> None:
    async def main() -> None:
        server = await serve(sim, None)
        client = await sim.connect((sim.there.ip, PORT), Talker())
        client.transport.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await sim.until(lambda: len(client.heard) > 100_000)
        client.transport.abort()
        await asyncio.sleep(5.0)
        assert len(asyncio.all_tasks()) == 2
        await server.close(1.0)

    sim.run(main())


class Giver(Talker):
    """Answers `copies` with a bundle, in pieces of some bytes, and is asked again."""

    def __init__(self, answer: bytes, piece_bytes: int) -> None:
        super().__init__()
        self.answer = answer
        self.piece_bytes = piece_bytes

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.heard.endswith(b"keys"):
            for start in range(0, len(self.answer), self.piece_bytes):
                self.transport.write(self.answer[start : start + self.piece_bytes])


SOME_BODIES = [b"a" * 5_000, b"b" * 70]
BUNDLE = encode_bundle([], [part for data in SOME_BODIES for part in segments_of(data)])
GIVEN = b"HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: %d\r\n\r\n%b" % (len(BUNDLE), BUNDLE)
ASKS = b"POST /.well-known/p2pweb/copies HTTP/1.1\r\nContent-Length: 4\r\n\r\nkeys"


@pytest.mark.parametrize(
    ("answer", "bodies"),
    [
        (GIVEN, 5_070),
        (GIVEN[:-1], 0),
        (GIVEN.replace(b"200 OK", b"404 No"), 0),
        (GIVEN.replace(b"200 OK", b"100 So").partition(b"Content")[0], 0),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nnones", 0),
    ],
)
@pytest.mark.parametrize("piece_bytes", [7, 100_000])
def test_bodies_in_answers_with_copies_are_counted_apart(
    sim: Simulated, answer: bytes, bodies: int, piece_bytes: int
) -> None:
    async def main() -> None:
        client = Talker()
        await sim.connect((sim.there.ip, PORT), client)
        for times in (1, 2):
            client.transport.write(ASKS[:-4])
            client.transport.write(ASKS[-4:])
            await sim.until(lambda times=times: len(client.heard) == times * len(answer))

    sim.run(sim.sim.create_server(lambda: Giver(answer, piece_bytes), sim.there.ip, PORT))
    sim.run(main())
    others = 2 * (len(ASKS) + len(answer) - bodies)
    assert sim.network.traffic.streamed == {"copies": others, "bodies": 2 * bodies}


def test_bytes_between_hosts_are_counted_by_what_was_asked_for(sim: Simulated) -> None:
    asked = (b"GET /.well-known/p2pweb/peer HTTP/1.1\r\n\r\n", b"GET /page HTTP/1.1\r\n\r\n", b"x")

    async def main() -> None:
        for words in asked:
            client = Talker()
            await sim.connect((sim.there.ip, PORT), client)
            client.transport.write(words)
            await sim.until(lambda client=client, words=words: client.heard == words)
        # What a visitor asks on the peer's own machine crosses no network.
        sim.here = sim.there
        client = Talker()
        await sim.connect((sim.there.ip, PORT), client)
        client.transport.write(asked[0])
        await sim.until(lambda: client.heard == asked[0])

    sim.run(sim.sim.create_server(lambda: Talker(echoes=True), sim.there.ip, PORT))
    sim.run(main())
    sizes = [2 * len(words) for words in asked]
    assert sim.network.traffic.streamed == dict(zip(("peer", "pages", "other"), sizes, strict=True))
