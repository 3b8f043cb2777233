"""Peers that lie. They answer PINGs as anybody does, and know one another.

To a lookup they are silent, or invent contacts that are nearer than any there is, or send made-up
or old values. Colluding ones name nobody but one another, as they are, take what is stored and hand
out what is old, or nothing: all over the id space, or as Sybils next to one key.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Literal

from p2pweb.address import Address
from p2pweb.dht import wire
from p2pweb.dht.contact import ID_BYTES, Contact, NodeId, distance
from p2pweb.sim.network import Host, Network

PORT = 8_001
# Contacts in one answer, as honest peers send them.
NODES = 20
# How many of the id's last bytes an invented contact differs in from the key that was asked for.
INVENTED_TAIL_BYTES = 4
# Old values remembered to be sent again.
OLD_VALUES_MAX = 10_000

Kind = Literal["silent", "inventing", "rubbish", "stale", "mixed", "colluding"]


class HostilePeer(asyncio.DatagramProtocol):
    """One of them. `gang` is all of them, this one included once it has started."""

    def __init__(
        self,
        network: Network,
        host: Host,
        chance: random.Random,
        kind: Kind,
        gang: Sequence[HostilePeer],
        known: NodeId | None = None,
    ) -> None:
        """`known` is its id, if that is not any."""
        self.id = known or NodeId(chance.randbytes(ID_BYTES))
        self._network = network
        self._host = host
        self._chance = chance
        self._kind = kind
        self._gang = gang
        # Of each key the first value and the last.
        self._values: dict[bytes, tuple[bytes, bytes]] = {}
        self._transport: asyncio.DatagramTransport | None = None

    @property
    def address(self) -> Address:
        return self._host.ip, PORT

    async def start(self, join: Sequence[Address]) -> None:
        """Listen, and have others know this one."""
        self._transport, _ = await self._network.loop.create_datagram_endpoint(
            lambda: self, local_addr=self.address
        )
        for address in join:
            self._ask(wire.FindNode(self.id, self.id), address)

    def datagram_received(self, data: bytes, addr: Address) -> None:
        try:
            message = wire.decode(data)
        except wire.MalformedError:
            return
        if isinstance(message, wire.Asked):
            self._answer(message, addr)
            return
        # Whoever answers a question is told of this one's existence by the next.
        try:
            nodes = wire.decode_answer(wire.FindNode(self.id, self.id), message.body)
        except wire.MalformedError:
            return
        if isinstance(nodes, wire.Nodes):
            for contact in nodes.contacts:
                self._ask(wire.Ping(self.id), contact.address)

    def _ask(self, question: wire.Question, address: Address) -> None:
        message_id = self._chance.randbytes(wire.MESSAGE_ID_BYTES)
        self._send(wire.encode_question(message_id, question), address)

    def _send(self, data: bytes, address: Address) -> None:
        if self._transport is not None:
            self._transport.sendto(data, address)

    def _answer(self, asked: wire.Asked, address: Address) -> None:
        question = asked.question
        if isinstance(question, wire.Ping):
            self._send(wire.encode_answer(asked.message_id, self.id), address)
            return
        if isinstance(question, wire.Store):
            if question.value is not None:
                self.hold(question.key, question.value)
            self._send(wire.encode_answer(asked.message_id, True), address)
            return
        if isinstance(question, wire.FindNode | wire.FindValue):
            kind = self._kind
            if kind == "mixed":
                kind = ("silent", "inventing", "rubbish", "stale")[self.id[0] % 4]
            self._lie(kind, asked.message_id, question, address)

    def hold(self, key: bytes, value: bytes) -> None:
        """Somebody has it keep a value."""
        if len(self._values) < OLD_VALUES_MAX:
            first, _ = self._values.get(key, (value, b""))
            self._values[key] = first, value

    def _lie(
        self,
        kind: Kind,
        message_id: bytes,
        question: wire.FindNode | wire.FindValue,
        address: Address,
    ) -> None:
        if kind == "silent":
            return
        if kind == "rubbish" and isinstance(question, wire.FindValue):
            self._send(wire.encode_answer(message_id, {"value": b"made up"}), address)
            return
        is_repeating = kind in ("stale", "colluding") and isinstance(question, wire.FindValue)
        if is_repeating and (old := self.old_value(question.key)) is not None:
            self._send(wire.encode_answer(message_id, old), address)
            return
        name = self._accomplices if kind == "colluding" else self._invented
        self._send(wire.encode_nodes(message_id, name(question.key)), address)

    def old_value(self, key: bytes) -> Mapping[str, wire.Plain] | None:
        """What is said in place of a key's newest value; None where nothing older is known."""
        old, last = self._values.get(key, (b"", b""))
        # The only value that it knows may be the newest.
        return {"value": old} if old != last else None

    def _accomplices(self, key: bytes) -> list[Contact]:
        """Members of the gang as they are, the nearest to a key first."""
        nearest = sorted(self._gang, key=lambda one: distance(one.id, key))
        return [Contact(one.id, one.address) for one in nearest[:NODES]]

    def _invented(self, key: bytes) -> list[Contact]:
        """Members of the gang, under ids that no honest peer can be nearer with."""
        contacts = []
        for member in self._chance.sample(self._gang, min(NODES, len(self._gang))):
            tail = self._chance.randbytes(INVENTED_TAIL_BYTES)
            near = NodeId(key[:-INVENTED_TAIL_BYTES] + tail)
            contacts.append(Contact(near, member.address))
        return contacts
