"""The network of memory: who hears what, when, and what goes wrong on the way."""

import asyncio
import random
from collections.abc import Iterator
from statistics import median

import pytest

from p2pweb.address import Address
from p2pweb.sim.latency import Latency
from p2pweb.sim.loop import SimLoop
from p2pweb.sim.network import Conditions, Host, Network, StormError

PORT = 8_001


class Ear(asyncio.DatagramProtocol):
    def __init__(self, loop: SimLoop) -> None:
        self.loop = loop
        self.heard: list[tuple[float, bytes, Address]] = []

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self.heard.append((self.loop.time(), data, addr))


class Bench:
    """Two hosts, each with a socket; `main` runs on the loop."""

    def __init__(self, **conditions: float) -> None:
        self.loop = SimLoop()
        latency = Latency(1)
        self.network = Network(self.loop, 1, latency=latency, conditions=Conditions(**conditions))
        self.hosts = [self.network.add_host() for _ in range(2)]
        self.ears = [Ear(self.loop) for _ in self.hosts]
        self.sockets = [
            self.network.bind((host.ip, PORT), ear)
            for host, ear in zip(self.hosts, self.ears, strict=True)
        ]

    def send(self, data: bytes = b"data") -> None:
        self.sockets[0].sendto(data, (self.hosts[1].ip, PORT))

    def pass_time(self, seconds: float = 10.0) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    @property
    def heard(self) -> list[bytes]:
        return [data for _, data, _ in self.ears[1].heard]


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.loop.close()


def test_a_datagram_arrives_after_the_way_with_its_sender(bench: Bench) -> None:
    bench.send()
    bench.pass_time()
    ((when, data, source),) = bench.ears[1].heard
    base_s = bench.network.latency.base_s(0, 1)
    assert base_s <= when <= 1.1 * base_s + 1e-9
    assert (data, source) == (b"data", (bench.hosts[0].ip, PORT))


def test_nothing_reaches_a_host_that_is_down_or_cut_off(bench: Bench) -> None:
    bench.hosts[1].part = 1
    bench.send(b"cut off")
    bench.pass_time()
    bench.hosts[1].part = 0
    bench.send(b"on its way")
    bench.network.crash(bench.hosts[1])
    bench.send(b"down")
    bench.pass_time()
    bench.network.start(bench.hosts[1])
    bench.send(b"nobody listens yet")
    bench.pass_time()
    assert bench.heard == []


def test_a_cut_stops_what_is_under_way_and_a_senders_death_does_not(bench: Bench) -> None:
    bench.send(b"cut")
    bench.hosts[0].part = 1
    bench.pass_time()
    bench.hosts[0].part = 0
    bench.send(b"last words")
    bench.network.crash(bench.hosts[0])
    bench.pass_time()
    assert bench.heard == [b"last words"]


def test_the_dead_send_nothing_also_by_a_socket_of_an_earlier_life(bench: Bench) -> None:
    bench.network.crash(bench.hosts[0])
    bench.send(b"dead")
    bench.network.start(bench.hosts[0])
    again = bench.network.bind((bench.hosts[0].ip, PORT), Ear(bench.loop))
    bench.send(b"a ghost")
    again.sendto(b"alive", (bench.hosts[1].ip, PORT))
    bench.pass_time()
    assert bench.heard == [b"alive"]


def test_an_address_is_bound_once_and_only_by_its_host(bench: Bench) -> None:
    with pytest.raises(OSError, match="in use"):
        bench.network.bind((bench.hosts[0].ip, PORT), Ear(bench.loop))
    with pytest.raises(OSError, match="no host has"):
        bench.network.bind(("9.9.9.9", PORT), Ear(bench.loop))
    bench.sockets[0].close()
    bench.sockets[0].close()
    assert bench.sockets[0].is_closing()
    bench.network.bind((bench.hosts[0].ip, PORT), Ear(bench.loop))


def test_loss_and_duplication_are_the_shares_that_were_asked_for() -> None:
    bench = Bench(loss=0.25, duplicated=0.1)
    for _ in range(4_000):
        bench.send()
    bench.pass_time()
    assert 3_000 * 1.1 * 0.95 < len(bench.heard) < 3_000 * 1.1 * 1.05
    bench.loop.close()


def test_some_overtake_others() -> None:
    bench = Bench(delayed=0.3)
    for number in range(50):
        bench.send(bytes([number]))
    bench.pass_time()
    assert len(bench.heard) == 50
    assert bench.heard != sorted(bench.heard)
    bench.loop.close()


def test_a_slow_host_is_slow_both_ways(bench: Bench) -> None:
    bench.hosts[0].slow_s = 2.0
    bench.send()
    bench.pass_time()
    assert bench.ears[1].heard[0][0] > 2.0


def test_a_storm_ends_the_run(bench: Bench) -> None:
    with pytest.raises(StormError, match="within one second"):
        for _ in range(1_000_000):
            bench.send()


def test_traffic_is_counted_by_the_question_with_its_answer(bench: Bench) -> None:
    message_id = bytes(range(20))
    bench.send(b"\x00" + message_id + b"\x92\xa4ping\x91")
    bench.sockets[1].sendto(b"\x01" + message_id + b"\xc3", (bench.hosts[0].ip, PORT))
    bench.send(b"\x01" + bytes(20) + b"to nothing")
    assert {kind: tuple(of) for kind, of in bench.network.traffic.by_kind.items()} == {
        "ping": (2, 28 + 22),
        "other": (1, 31),
    }


def test_the_trace_is_of_times_addresses_and_bytes() -> None:
    def trace(*sent: bytes, wait_s: float = 0.0) -> str:
        bench = Bench()
        bench.pass_time(wait_s)
        for data in sent:
            bench.send(data)
        bench.loop.close()
        return bench.network.trace()

    assert trace(b"a", b"b") == trace(b"a", b"b")
    different = {trace(), trace(b"a"), trace(b"ab"), trace(b"b", b"a"), trace(b"a", wait_s=1.0)}
    assert len(different) == 5


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_median_round_trip_is_the_one_asked_for(seed: int) -> None:
    latency = Latency(seed, median_rtt_s=0.156)
    hosts = [latency.add() for _ in range(600)]
    rng = random.Random(seed)
    pairs = [rng.sample(hosts, 2) for _ in range(4_000)]
    trips = [latency.one_way_s(*pair) + latency.one_way_s(*reversed(pair)) for pair in pairs]
    assert median(trips) == pytest.approx(0.156, rel=0.15)
    assert min(trips) > 0
    assert max(trips) < 1.5


def test_addresses_of_hosts_are_strangers_to_one_another() -> None:
    loop = SimLoop()
    network = Network(loop, 1, latency=Latency(1), conditions=Conditions())
    hosts: list[Host] = [network.add_host() for _ in range(70_000)]
    loop.close()
    assert len({host.ip.rpartition(".")[0] for host in hosts}) == len(hosts)
