"""Peers that lie: what they remember, and what they answer."""

from __future__ import annotations

import asyncio
import random

from p2pweb.dht import wire
from p2pweb.dht.contact import ID_BYTES, NodeId
from p2pweb.sim.hostile import HostilePeer, Kind
from p2pweb.sim.latency import Latency
from p2pweb.sim.loop import SimLoop
from p2pweb.sim.network import Conditions, Network

ASKER = NodeId(bytes(ID_BYTES))
KEY = b"k" * ID_BYTES
ASKER_PORT = 9


class Ear(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.heard: list[bytes] = []

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.heard.append(data)


def answer_after(*values: bytes, kind: Kind = "stale") -> wire.Answer:
    """What a liar says of a key after it was sent these values."""
    loop = SimLoop()
    network = Network(loop, 1, latency=Latency(1), conditions=Conditions())
    liar = HostilePeer(network, network.add_host(), random.Random(1), kind, gang := [])
    gang.append(liar)
    loop.run_until_complete(liar.start([]))
    ear = Ear()
    socket = network.bind((network.add_host().ip, ASKER_PORT), ear)
    question = wire.FindValue(ASKER, KEY)
    for asked in (*(wire.Store(ASKER, KEY, value) for value in values), question):
        socket.sendto(wire.encode_question(bytes(wire.MESSAGE_ID_BYTES), asked), liar.address)
        loop.run_until_complete(asyncio.sleep(1.0))
    loop.close()
    answered = wire.decode(ear.heard[-1])
    assert isinstance(answered, wire.Answered)
    return wire.decode_answer(question, answered.body)


def test_a_stale_liar_answers_with_an_old_value_and_never_with_the_last() -> None:
    assert answer_after(b"one", b"two", b"three") == wire.Value(b"one", {})
    for values in ([], [b"one"], [b"one", b"two", b"one"]):
        assert isinstance(answer_after(*values), wire.Nodes)


def test_a_sybil_names_the_others_as_they_are_and_hands_out_what_is_old() -> None:
    assert answer_after(b"one", b"two", kind="sybil") == wire.Value(b"one", {})
    named = answer_after(b"one", kind="sybil")
    assert isinstance(named, wire.Nodes) and len(named.contacts) == 1
    # The stale liar under an id that it has not got.
    invented = answer_after(b"one")
    assert isinstance(invented, wire.Nodes) and invented.contacts[0].id[:16] == KEY[:16]
    assert named.contacts[0].id[:16] != KEY[:16]
