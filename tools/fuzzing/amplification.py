"""What one question brings to an address that never proves itself, over real sockets.

Such an address may be anybody's who did not ask. Each kind of question is sent once, from a socket
of its own that answers nothing, and a number of times from another; everything that arrives there
until nothing more can is counted.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass

from p2pweb.dht import wire
from p2pweb.dht.contact import ID_BYTES, Address, Contact, NodeId
from p2pweb.dht.overlay import Overlay
from p2pweb.dht.serving import Held
from p2pweb.dht.settings import DEFAULTS

# All pings of a stranger have been sent by then, the last one after a timeout of `rtt_initial_s`.
_SILENCE_S = 3 * DEFAULTS.rtt_initial_s
_OFTEN = 20
# What IP version 4 and UDP put before each datagram.
_HEADERS_BYTES = 28


@dataclass(frozen=True, slots=True)
class Measured:
    """The bytes of all questions of one kind from one address, and of what arrived there."""

    name: str
    questions: int
    asked_bytes: int
    datagrams: int
    got_bytes: int

    @property
    def ratio(self) -> float:
        return self.got_bytes / self.asked_bytes

    @property
    def ratio_on_the_wire(self) -> float:
        """The same with the headers of IP and UDP."""
        asked = self.asked_bytes + self.questions * _HEADERS_BYTES
        return (self.got_bytes + self.datagrams * _HEADERS_BYTES) / asked

    def __str__(self) -> str:
        return (
            f"{self.name:28} {self.questions:3} x {self.asked_bytes // self.questions:4} bytes, "
            f"{self.datagrams:3} datagrams back, {self.got_bytes:6} bytes: {self.ratio:.2f}, "
            f"with headers {self.ratio_on_the_wire:.2f}"
        )


class _Full:
    """Records that have the longest value under one key, and take whatever is stored."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def find(self, key: bytes) -> Held | None:
        return Held(b"v" * wire.VALUE_BYTES_MAX, {"has": True}) if key == self._key else None

    def store(self, key: bytes, value: bytes, sender: Address) -> bool | Mapping[str, wire.Plain]:
        # The longest answer there is.
        return {"refused": "x" * 1_100}


class _Silent(asyncio.DatagramProtocol):
    """Counts what comes, and answers nothing."""

    def __init__(self) -> None:
        self.datagrams = 0
        self.got_bytes = 0

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self.datagrams += 1
        self.got_bytes += len(data)


async def measure() -> list[Measured]:
    """Each kind of question, to a peer whose table is full and which holds a value."""
    rng = random.Random("amplification")
    key = rng.randbytes(ID_BYTES)
    peer = Overlay(
        node_id=rng.randbytes(ID_BYTES), records=_Full(key), rng=rng, entropy=rng.randbytes
    )
    await peer.listen([("127.0.0.1", 0)])
    try:
        await _fill(peer, rng)
        message_id, sender = rng.randbytes(wire.MESSAGE_ID_BYTES), NodeId(rng.randbytes(ID_BYTES))
        kinds: dict[str, wire.Question] = {
            "ping": wire.Ping(sender),
            "store": wire.Store(sender, key, b""),
            "store of 1,024 bytes": wire.Store(sender, key, b"v" * wire.VALUE_BYTES_MAX),
            "find_node": wire.FindNode(sender, key),
            "find_value, held": wire.FindValue(sender, key),
            "find_value, not held": wire.FindValue(sender, rng.randbytes(ID_BYTES)),
            "stun": wire.Stun(),
        }
        cases = {name: wire.encode_question(message_id, kind) for name, kind in kinds.items()}
        cases |= {
            "an answer to nothing": wire.encode_answer(message_id, sender),
            "garbage": rng.randbytes(100),
            "a question that is garbage": wire.QUESTION_TYPE + rng.randbytes(100),
            "an unknown question": wire.QUESTION_TYPE + message_id + b"\x92\xa1x\x90",
            "one byte": wire.QUESTION_TYPE,
        }
        return list(
            await asyncio.gather(
                *(
                    _try(peer.addresses[0], name, data, times)
                    for name, data in cases.items()
                    for times in (1, _OFTEN)
                )
            )
        )
    finally:
        await peer.close()


async def _fill(peer: Overlay, rng: random.Random) -> None:
    """Fill the routing table, with contacts at ports of this machine where nobody is."""
    core, now = peer._at_work()
    for number in range(DEFAULTS.small_network):
        host = f"127.{200 + (number >> 8)}.{number & 255}.{1 + number % 250}"
        core.table.proved(Contact(NodeId(rng.randbytes(ID_BYTES)), (host, 60_000)), 0.001, now)
    if len(peer.contacts()) != DEFAULTS.small_network:
        raise RuntimeError("the table is not full")


async def _try(to: Address, name: str, data: bytes, times: int) -> Measured:
    loop = asyncio.get_running_loop()
    transport, silent = await loop.create_datagram_endpoint(_Silent, local_addr=("127.0.0.1", 0))
    try:
        for _ in range(times):
            transport.sendto(data, to)
            await asyncio.sleep(_SILENCE_S / 2 / times)
        await asyncio.sleep(_SILENCE_S)
    finally:
        transport.close()
    return Measured(name, times, times * len(data), silent.datagrams, silent.got_bytes)
