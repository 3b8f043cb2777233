"""Answers to the questions of others, exactly as stock nodes expect them.

Whether an answer may be sent yet is not decided here: its address may be unproved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from p2pweb.dht import wire
from p2pweb.dht.contact import Address, NodeId
from p2pweb.dht.settings import Settings
from p2pweb.dht.table import Table

# A STORE that can never be ours is refused aloud: silence would make a stock node drop us.
REFUSED_VALUE: Mapping[str, str] = {"refused": "value"}
# The layer above answered more than a datagram carries; its sender must not count a copy.
REFUSED_ANSWER: Mapping[str, str] = {"refused": "answer too long"}


@dataclass(frozen=True, slots=True)
class Held:
    """A value held here, at most 1,024 bytes, and what else its answer says beside "value"."""

    value: bytes
    extra: Mapping[str, bool | int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.value) > wire.VALUE_BYTES_MAX:
            raise ValueError(f"a value of {len(self.value)} bytes does not fit one answer")
        if "value" in self.extra:
            raise ValueError('the key "value" is taken')


class Records(Protocol):
    """The layer above: it holds values and judges those that others send.

    Both calls return at once and must not raise for anything a peer sent.
    """

    def find(self, key: bytes) -> Held | None:
        """The value held under a key of 20 bytes."""

    def store(self, key: bytes, value: bytes, sender: Address) -> bool | Mapping[str, wire.Plain]:
        """The answer to a STORE: True, or what is wrong or wanted, in at most 1,178 bytes."""


@dataclass(frozen=True, slots=True)
class Service:
    """Answers questions from the table and the records."""

    own: NodeId
    table: Table
    records: Records
    settings: Settings

    def answer(self, asked: wire.Asked, address: Address) -> bytes:
        """The datagram that answers a question, at most 1,200 bytes."""
        match asked.question:
            case wire.Ping():
                return wire.encode_answer(asked.message_id, self.own)
            case wire.Stun():
                return wire.encode_answer(asked.message_id, address)
            case wire.Store(_, key, value):
                return self._store(asked.message_id, key, value, address)
            case wire.FindNode(sender, key):
                return self._nodes(asked.message_id, sender, key, address)
            case question:
                held = self.records.find(question.key)
                if held is None:
                    return self._nodes(asked.message_id, question.sender, question.key, address)
                return self._value(asked.message_id, held)

    def _store(self, message_id: bytes, key: bytes, value: bytes | None, sender: Address) -> bytes:
        if value is None:
            return wire.encode_answer(message_id, REFUSED_VALUE)
        data = wire.encode_answer(message_id, self.records.store(key, value, sender))
        if len(data) > wire.ANSWER_BYTES_MAX:
            return wire.encode_answer(message_id, REFUSED_ANSWER)
        return data

    def _nodes(self, message_id: bytes, sender: NodeId, key: bytes, address: Address) -> bytes:
        # Who asks knows itself: by its id or by its address, hence two more than are sent.
        nearest = self.table.nearest(key, self.settings.k + 2)
        # Those of an earlier run are passed on once they have answered in this one.
        others = [
            one
            for one in nearest
            if one.id != sender and one.address != address and self.table.has_proved(one.id)
        ]
        return wire.encode_nodes(message_id, others[: self.settings.k])

    def _value(self, message_id: bytes, held: Held) -> bytes:
        data = wire.encode_answer(message_id, {"value": held.value, **held.extra})
        if len(data) > wire.ANSWER_BYTES_MAX:
            # What stands beside the value is a hint; the value is the answer.
            return wire.encode_answer(message_id, {"value": held.value})
        return data
