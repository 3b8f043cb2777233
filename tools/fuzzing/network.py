"""The same datagrams to a real peer at work, from thousands of addresses.

Five `p2pweb up` keep a published site, two copies of each file. One of them is sent the cases, from
sockets all over 127.0.0.0/8, as fast as it takes them; a few of these stay and answer what they are
asked, each time under another forged id. Meanwhile a visitor reads through it what others hold, and
an honest contact asks it for values. Afterwards each read has succeeded, each question has had its
answer, nothing was logged as an error, no address that proved nothing got more than three times
what it sent, the memory has stopped growing, and the peer knows the honest ones still.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import socket
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
from peer_processes import PeerProcess, assert_serves, files_of, network, publish

from fuzzing.datagrams import Scene, make_answer, make_datagrams
from p2pweb.dht import wire
from p2pweb.dht.contact import ID_BYTES, Address, NodeId
from p2pweb.records import dht_key

PEERS = 5
FILES = 400
COPIES = 2
# Sent before the peer is asked whether it has kept up: its socket holds more.
BATCH = 64
BATCH_BYTES = 64 << 10
SOCKETS = 192
# So many of them answer. Together with the honest they are fewer than a lookup begins with: more,
# nearer to a key than all who are honest, can hide what these hold, which is another matter.
ANSWERING = 12
# And send so many of the cases.
ANSWERING_SHARE = 0.2
# One address goes and another comes after so many cases.
CASES_PER_ADDRESS = 24
SAMPLE_EVERY = 100_000
# Until then the tables fill that a stranger can fill: proofs, introductions, buckets, caches of
# address literals, replies to visitors.
WARM_UP = 2 * SAMPLE_EVERY
# From the end of the warm-up to the end of the run, however long: what allocators do. What leaks 16
# bytes a case is above it after 500,000.
GROWTH_BYTES_MAX = 8 << 20
# An honest contact asks so often, as each does that looks something up.
_TRIES = 6
_TRY_S = 0.25
_PAUSE_S = 0.02
# What a peer logs when something is wrong with it.
_ERRORS = re.compile(r"^\S+ \S+ [EC] |Traceback|Error\b|exception", re.MULTILINE)
_WARNINGS = re.compile(r"^\S+ \S+ W .*$", re.MULTILINE)


async def check_network(
    seed: int, numbers: Sequence[int], told: list[str], *, peers: int = PEERS, files: int = FILES
) -> list[str]:
    """Send each case; the faults, each a sentence. `told` gets the figures."""
    with tempfile.TemporaryDirectory(prefix="fuzz-dht-") as name, contextlib.ExitStack() as stack:
        folder, site = Path(name), Path(name) / "site"
        _make_site(site, files)
        # Waiting is for threads: the loop has datagrams to send.
        up = await asyncio.to_thread(stack.enter_context, network(folder / "peers", peers))
        summary = await asyncio.to_thread(
            publish, site, up[0], folder / "key", "--copies", str(COPIES)
        )
        attack = _Attack(seed, up, files_of(site), str(summary["site"]), told)
        await attack.run(numbers)
        for peer in up:
            code = await asyncio.to_thread(peer.stop)
            if code:
                attack.faults.append(f"the peer at {peer.address} ended with {code}")
        for peer in up:
            attack.read_log(peer)
        return attack.faults


def _make_site(site: Path, files: int) -> None:
    rng = random.Random("site")
    site.mkdir()
    (site / "index.html").write_text("<!doctype html><title>fuzz</title>")
    for number in range(files):
        (site / f"{number}.txt").write_text(f"{number} {rng.randbytes(100).hex()}\n")


class _Friend(asyncio.DatagramProtocol):
    """An honest contact: it answers pings, and asks until it is answered."""

    def __init__(self, own: NodeId) -> None:
        self.own = own
        self.tries = 0
        self.asked = 0
        self._awaited: dict[bytes, asyncio.Future[bytes]] = {}

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Address) -> None:
        message = wire.decode(data)
        if isinstance(message, wire.Answered):
            future = self._awaited.get(message.message_id)
            if future is not None and not future.done():
                future.set_result(message.body)
        elif isinstance(message.question, wire.Ping):
            self.transport.sendto(wire.encode_answer(message.message_id, self.own), addr)
        else:
            self.transport.sendto(wire.encode_nodes(message.message_id, ()), addr)

    async def ask(self, to: Address, question: wire.Question, rng: random.Random) -> bytes | None:
        """The body of the answer; None when none came to any of the tries."""
        self.asked += 1
        for number in range(_TRIES):
            self.tries += 1
            message_id = rng.randbytes(wire.MESSAGE_ID_BYTES)
            future = asyncio.get_running_loop().create_future()
            self._awaited[message_id] = future
            self.transport.sendto(wire.encode_question(message_id, question), to)
            try:
                return await asyncio.wait_for(future, _TRY_S * 2**number)
            except TimeoutError:
                continue
            finally:
                del self._awaited[message_id]
        return None


class _Source:
    """One address that sends cases; when it answers, it does so under forged ids."""

    def __init__(self, chance: random.Random, *, answers: bool) -> None:
        self.answers = answers
        # Whether it repeated the id of a question that had come to it, as some cases do by chance.
        self.proved = False
        self._ids: set[bytes] = set()
        self.sent_bytes = 0
        self.got_bytes = 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        host = f"127.{chance.randrange(1, 128)}.{chance.randrange(256)}.{chance.randrange(1, 255)}"
        try:
            self.socket.bind((host, 0))
        except OSError:
            # Not every system has all of 127.0.0.0/8.
            self.socket.bind(("127.0.0.1", 0))

    def send(self, data: bytes, to: Address) -> None:
        if data[:1] == wire.ANSWER_TYPE and data[1 : wire.HEADER_BYTES] in self._ids:
            self.proved = True
        # A full socket loses a datagram, as the network does.
        with contextlib.suppress(BlockingIOError):
            self.sent_bytes += self.socket.sendto(data, to)

    def arrivals(self) -> Iterator[bytes]:
        with contextlib.suppress(BlockingIOError):
            while True:
                data = self.socket.recv(65_536)
                self.got_bytes += len(data)
                if data[:1] == wire.QUESTION_TYPE:
                    self._ids.add(data[1 : wire.HEADER_BYTES])
                yield data


class _Attack:
    """One run: the peers, who attacks, and what came of it."""

    def __init__(
        self,
        seed: int,
        peers: Sequence[PeerProcess],
        files: dict[str, bytes],
        site: str,
        told: list[str],
    ) -> None:
        self.faults: list[str] = []
        self._seed = seed
        self._peers = peers
        self._files = files
        self._told = told
        self._target = peers[1]
        self._to = ("127.0.0.1", self._target.port)
        self._rng = random.Random(f"network {seed}")
        self._keys = [dht_key(f"{site}{path}") for path in files]
        self._answering = [_Source(self._rng, answers=True) for _ in range(ANSWERING)]
        self._sources: deque[_Source] = deque()
        self._overheard: deque[bytes] = deque(maxlen=64)
        self._addresses = ANSWERING
        self._batches = 0
        self._reads = 0
        self._values = 0
        self._proved = 0
        self._worst = 0.0
        self._samples: list[tuple[int, int]] = []

    async def run(self, numbers: Sequence[int]) -> None:
        """Send all cases, then look at everybody."""
        ids = [await asyncio.to_thread(_id_of, peer) for peer in self._peers]
        honest = {
            ids[n]: ("127.0.0.1", peer.port)
            for n, peer in enumerate(self._peers)
            if peer is not self._target
        }
        scene = Scene(
            ids[1], list(honest), list(honest.values()), self._keys[:50], [b"v" * 64, b"w" * 500]
        )
        loop = asyncio.get_running_loop()
        transport, friend = await loop.create_datagram_endpoint(
            lambda: _Friend(NodeId(self._rng.randbytes(ID_BYTES))), local_addr=("127.0.0.1", 0)
        )
        over = asyncio.Event()
        work = [
            asyncio.ensure_future(self._ask_values(friend, over)),
            asyncio.ensure_future(self._read_files(over)),
        ]
        began_s = loop.time()
        try:
            await self._send_all(numbers, scene, friend)
            took_s = loop.time() - began_s
            # The last pings of strangers.
            await asyncio.sleep(2.0)
            over.set()
            await asyncio.gather(*work)
            await self._check_honest(honest, friend)
        finally:
            over.set()
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            transport.close()
            for source in (*self._answering, *self._sources):
                self._retire(source)
        self._tell(len(numbers), took_s, friend)

    # --- the attack ---

    async def _send_all(self, numbers: Sequence[int], scene: Scene, friend: _Friend) -> None:
        ping = wire.Ping(friend.own)
        used: list[_Source] = []
        waiting_bytes = 0
        for count, number in enumerate(numbers):
            if count % SAMPLE_EVERY == 0:
                self._sample(count)
            datagrams, chance = make_datagrams(self._seed, number, scene, tuple(self._overheard))
            if count % CASES_PER_ADDRESS == 0:
                self._sources.append(_Source(chance, answers=False))
                self._addresses += 1
            among = self._answering if chance.random() < ANSWERING_SHARE else self._sources
            source = among[chance.randrange(len(among))]
            for data in datagrams:
                source.send(data, self._to)
                waiting_bytes += len(data)
            used.append(source)
            if len(used) >= BATCH or waiting_bytes >= BATCH_BYTES:
                if await friend.ask(self._to, ping, self._rng) is None:
                    self.faults.append(f"case {number} or one before: the peer answers no more")
                    return
                self._batches += 1
                # Now and then all of them: some are asked later.
                everybody = self._batches % 16 == 0
                for one in list(self._sources) if everybody else dict.fromkeys(used):
                    self._hear(one, scene, chance)
                for one in self._answering:
                    self._hear(one, scene, chance)
                used.clear()
                waiting_bytes = 0
                while len(self._sources) > SOCKETS:
                    self._retire(self._sources.popleft())
        self._sample(len(numbers))

    def _hear(self, source: _Source, scene: Scene, chance: random.Random) -> None:
        for data in source.arrivals():
            if data[:1] == wire.QUESTION_TYPE:
                self._overheard.append(data[1 : wire.HEADER_BYTES])
                if source.answers:
                    source.send(make_answer(data, scene, chance), self._to)

    def _retire(self, source: _Source) -> None:
        for _ in source.arrivals():
            pass
        source.socket.close()
        self._proved += source.proved
        if not source.proved and source.sent_bytes:
            self._worst = max(self._worst, source.got_bytes / source.sent_bytes)

    # --- the work that goes on ---

    async def _ask_values(self, friend: _Friend, over: asyncio.Event) -> None:
        while not over.is_set():
            key = self._rng.choice(self._keys)
            body = await friend.ask(self._to, wire.FindValue(friend.own, key), self._rng)
            self._values += 1
            if body is None:
                self.faults.append("a FIND_VALUE of an honest contact was not answered")
                return
            answer = msgspec.msgpack.decode(body)
            if not answer:
                self.faults.append("a FIND_VALUE was answered with neither value nor contacts")
            await asyncio.sleep(_PAUSE_S)

    async def _read_files(self, over: asyncio.Event) -> None:
        paths = list(self._files)
        # A thread of its own: nobody else's waiting delays it.
        with ThreadPoolExecutor(1) as threads:
            while not over.is_set():
                path = paths[self._reads % len(paths)]
                loop = asyncio.get_running_loop()
                answer = await loop.run_in_executor(threads, self._target.get, path)
                self._reads += 1
                if answer.status != 200 or answer.body != self._files[path]:
                    self.faults.append(f"{path} was answered {answer.status}: {answer.body!r:.300}")
                await asyncio.sleep(_PAUSE_S * 5)

    # --- what came of it ---

    async def _check_honest(self, honest: dict[bytes, Address], friend: _Friend) -> None:
        raw = (await asyncio.to_thread(self._target.get, "/.well-known/p2pweb/peers")).body
        known = {(host, port) for host, port in json.loads(raw)}
        for own, address in honest.items():
            if address not in known:
                self.faults.append(f"the honest contact at {address} is gone")
            body = await friend.ask(self._to, wire.FindNode(friend.own, own), self._rng)
            rows = msgspec.msgpack.decode(body or b"\x90")
            if not rows or tuple(rows[0]) != (own, *address):
                self.faults.append(f"the honest contact at {address} is not told to others")
        self._told.append(f"contacts known at the end: {len(known)}, {len(honest)} of them honest")
        for peer in self._peers:
            try:
                await asyncio.to_thread(assert_serves, peer, self._files)
            except (AssertionError, OSError) as fault:
                self.faults.append(f"read back: {fault}")

    def read_log(self, peer: PeerProcess) -> None:
        """What the peer said that it should not have."""
        log = peer.log.read_text(errors="replace")
        found = _ERRORS.search(log)
        if found is not None:
            self.faults.append(f"logged by {peer.address}: {log[found.start() :]:.2000}")
        if peer is self._target:
            self._told.append(
                f"its log: {len(log)} bytes, {len(_WARNINGS.findall(log))} warnings, "
                f"{log.count(' is here')} arrivals"
            )

    def _sample(self, count: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            pages = int(Path(f"/proc/{self._target.pid}/statm").read_text().split()[1])
            self._samples.append((count, pages * os.sysconf("SC_PAGE_SIZE")))

    def _tell(self, count: int, took_s: float, friend: _Friend) -> None:
        self._told.append(
            f"{count} cases from {self._addresses} addresses in {took_s:.0f} s; meanwhile "
            f"{self._reads} reads and {self._values} FIND_VALUEs; {friend.asked} questions of an "
            f"honest contact took {friend.tries} tries"
        )
        self._told.append(
            f"most bytes for each byte of an address that proved nothing: {self._worst:.2f} "
            f"({self._proved} proved themselves)"
        )
        sizes = ", ".join(f"{at // 1000}k {size / 2**20:.1f}" for at, size in self._samples)
        self._told.append(f"memory of the peer in MiB after so many cases: {sizes}")
        warm = [size for at, size in self._samples if at >= WARM_UP]
        if len(warm) > 1:
            growth = warm[-1] - warm[0]
            self._told.append(f"memory since the warm-up: {growth / 2**20:+.1f} MiB")
            if growth > GROWTH_BYTES_MAX:
                self.faults.append(f"the peer has grown by {growth} bytes since the warm-up")
        if self._worst > 3.0:
            self.faults.append(
                f"an address that proved nothing got {self._worst:.2f} times what it sent"
            )


def _id_of(peer: PeerProcess) -> bytes:
    return bytes.fromhex(json.loads(peer.get("/.well-known/p2pweb/peer").body)["id"])
