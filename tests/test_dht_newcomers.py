"""A newcomer is known and learns its surroundings although packets get lost."""

from __future__ import annotations

import random

from p2pweb.dht import wire
from p2pweb.dht.contact import Address, Contact, NodeId
from p2pweb.dht.events import Action, ContactUp, Send
from p2pweb.dht.peer import Peer
from p2pweb.dht.serving import Held
from p2pweb.dht.settings import DEFAULTS
from p2pweb.dht.table import Table

OWN = NodeId(bytes(20))
NEWCOMER = Contact(NodeId(b"\x20" + bytes(19)), ("192.0.2.7", 4_000))


class Nothing:
    def find(self, key: bytes) -> Held | None:
        return None

    def store(self, key: bytes, value: bytes, sender: Address) -> bool:
        return False


def sends(actions: list[Action]) -> list[Send]:
    return [action for action in actions if isinstance(action, Send)]


def test_the_ping_that_proves_a_newcomer_is_repeated_once_within_the_limit() -> None:
    rng = random.Random(1)
    peer = Peer(OWN, Nothing(), rng=rng, entropy=rng.randbytes, settings=DEFAULTS, now=0.0)
    asked = wire.encode_question(b"m" * 20, wire.Ping(NEWCOMER.id))
    sent = sends(peer.receive(asked, NEWCOMER.address, 0.0))
    while (when := peer.next_timer()) < 4.0:
        sent += sends(peer.handle_timer(when))
    assert len(sent) == 1 + DEFAULTS.proof_tries
    assert sum(len(one.data) for one in sent) <= 3 * len(asked)
    pong = wire.encode_answer(sent[-1].data[1:21], NEWCOMER.id)
    assert ContactUp(NEWCOMER) in peer.receive(pong, NEWCOMER.address, 4.0)


def test_exploring_starts_at_a_closest_contact_that_is_not_proved_yet() -> None:
    table = Table(OWN, DEFAULTS, 0.0)
    table.proved(Contact(NodeId(b"\x80" + bytes(19)), ("192.0.2.8", 4_000)), 0.1, 0.0)
    rng = random.Random(1)
    assert len(table.stale_keys(0.0, rng, idle_s=0.0)) == 1
    assert len(table.stale_keys(0.0, rng, idle_s=0.0, closest=NEWCOMER)) == 3
