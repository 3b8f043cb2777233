"""A newcomer is known and learns its surroundings although packets get lost."""

from __future__ import annotations

import random

from p2pweb.dht import wire
from p2pweb.dht.contact import Address, Contact, NodeId
from p2pweb.dht.events import Action, ContactUp, LookupDone, Send
from p2pweb.dht.peer import Peer
from p2pweb.dht.serving import Held
from p2pweb.dht.settings import DEFAULTS, Settings

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


def test_a_newcomer_asks_all_whom_it_wants_at_once_and_who_comes_back_does_not() -> None:
    others = [Contact(NodeId(bytes([n]) + bytes(19)), (f"192.0.2.{n}", 4_000)) for n in range(1, 8)]
    options = Settings(alpha=1, k=4, join_need=3, return_need=3)
    for again, count in ((False, 3), (True, 1)):
        rng = random.Random(1)
        peer = Peer(
            OWN,
            Nothing(),
            rng=rng,
            entropy=rng.randbytes,
            settings=options,
            now=0.0,
            known=others,
        )
        asked = [wire.decode(one.data) for one in sends(peer.join(1, 0.0, again=again))]
        assert [isinstance(one, wire.Asked) for one in asked] == [True] * count


def test_a_newcomer_makes_itself_known_to_the_nearest_it_hears_of_and_looks_around() -> None:
    rng = random.Random(1)
    options = Settings(k=4, join_need=2, glances=3, alpha=2)
    peer = Peer(OWN, Nothing(), rng=rng, entropy=rng.randbytes, settings=options, now=0.0)
    others = [Contact(NodeId(bytes([n]) + bytes(19)), (f"192.0.2.{n}", 4_000)) for n in range(1, 8)]
    (ping,) = sends(peer.ping(1, others[6].address, 0.0))
    peer.receive(wire.encode_answer(ping.data[1:21], others[6].id), others[6].address, 0.1)
    asked = sends(peer.join(2, 0.1))
    done: list[Action] = []
    addresses = {one.address: one for one in others}
    questions: list[tuple[wire.Question, Contact]] = []
    while asked:
        sent = asked.pop(0)
        message = wire.decode(sent.data)
        if not isinstance(message, wire.Asked):
            continue
        questions.append((message.question, addresses[sent.address]))
        if isinstance(message.question, wire.FindNode):
            answer = wire.encode_nodes(message.message_id, others[:4])
            actions = peer.receive(answer, sent.address, 0.2)
            done += [one for one in actions if isinstance(one, LookupDone)]
            asked += sends(actions)
        elif message.question == wire.Ping(OWN):
            pong = wire.encode_answer(message.message_id, addresses[sent.address].id)
            actions = peer.receive(pong, sent.address, 0.2)
            done += [one for one in actions if isinstance(one, LookupDone)]
            asked += sends(actions)
    (end,) = done
    assert isinstance(end, LookupDone)
    sought = [one for question, one in questions if question == wire.FindNode(OWN, OWN)]
    assert sought == [others[6], *others[:2]]
    # Those that were asked are asked who they are too; the rest of the k nearest is only greeted.
    greeted = {one.id for question, one in questions if question == wire.Ping(OWN)}
    assert greeted == {one.id for one in others[:4]}
    glances = sends(peer.explore(0.3))
    assert len(glances) == options.glances
    for seen in [wire.decode(one.data) for one in glances]:
        assert isinstance(seen, wire.Asked)
        assert isinstance(seen.question, wire.FindNode)
        assert seen.question.key != OWN
