"""Datagrams of `kademlia` 2.2.3 on rpcudp 5.0.1: bytes in, typed messages out, and back.

A datagram is a type byte (0 question, 1 answer), a message id (20 bytes) and msgpack: for a
question `[name, [arguments]]`, for an answer whatever the question implies. A question may have
padding behind it, which stock nodes do not look at: it earns a long answer from a peer to which the
asking address is not proved. Everything that does not follow a schema below raises
`MalformedError`; nothing else is raised for what a peer sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, TypeVar

from msgspec import Meta, MsgspecError, Raw, Struct
from msgspec.msgpack import Decoder, Encoder

from p2pweb.dht.contact import ID_BYTES, Contact, NodeId, canonical

MESSAGE_ID_BYTES = 20
HEADER_BYTES = 1 + MESSAGE_ID_BYTES
QUESTION_TYPE = b"\x00"
ANSWER_TYPE = b"\x01"
# How a msgpack map begins: fixmap, map 16, map 32.
MAP_TYPES = bytes(range(0x80, 0x90)) + b"\xde\xdf"

# rpcudp refuses to send a question whose msgpack is longer than 8,192 bytes.
DATAGRAM_BYTES_MAX = HEADER_BYTES + 8_192
# What every path carries unfragmented: IPv6's 1,280-byte minimum less its headers and some tunnel.
ANSWER_BYTES_MAX = 1_200
# Padding: a zero, then bytes that msgpack never uses.
PADDING_MARK = b"\0"
PADDING = b"\xc1"
# A value of ours leaves room in one answer for the header, its key and a few extra fields.
VALUE_BYTES_MAX = 1_024
# A stock node answers with its k, usually 20, contacts; no honest one sends more than this.
NODES_MAX = 64
# Fields beside "value", fields of a STORE answer, and items in such a field: far more than any use.
FIELDS_MAX = 16
ITEMS_MAX = 256

Scalar = bool | int | float | str | bytes | None
Plain = Scalar | list[Scalar]
StoreAnswer = bool | dict[str, Plain]


class MalformedError(Exception):
    """A peer sent something that follows no schema: its fault, never ours."""


class Ping(Struct, frozen=True):
    sender: NodeId


class Store(Struct, frozen=True):
    sender: NodeId
    key: bytes
    # None: well-formed, but no value of ours (not bytes, or longer than VALUE_BYTES_MAX).
    value: bytes | None


class FindNode(Struct, frozen=True):
    sender: NodeId
    key: bytes


class FindValue(Struct, frozen=True):
    sender: NodeId
    key: bytes


class Stun(Struct, frozen=True):
    pass


Question = Ping | Store | FindNode | FindValue | Stun


class Asked(Struct, frozen=True):
    """A question as it arrived."""

    message_id: bytes
    question: Question


class Answered(Struct, frozen=True):
    """An answer as it arrived: only who asked knows what `body` should be."""

    message_id: bytes
    body: bytes


class Pong(Struct, frozen=True):
    id: NodeId


class Stored(Struct, frozen=True):
    answer: StoreAnswer


class Nodes(Struct, frozen=True):
    contacts: tuple[Contact, ...]


class Value(Struct, frozen=True):
    value: bytes
    extra: Mapping[str, Plain]


Answer = Pong | Stored | Nodes | Value

_Id = Annotated[bytes, Meta(min_length=ID_BYTES, max_length=ID_BYTES)]

_question: Decoder[tuple[str, Raw]] = Decoder(tuple[str, Raw])
_one_id: Decoder[tuple[bytes]] = Decoder(tuple[_Id])
_two_ids: Decoder[tuple[bytes, bytes]] = Decoder(tuple[_Id, _Id])
_store: Decoder[tuple[bytes, bytes, Raw]] = Decoder(tuple[_Id, _Id, Raw])
_nothing: Decoder[tuple[()]] = Decoder(tuple[()])
_id: Decoder[bytes] = Decoder(_Id)
_bytes: Decoder[bytes] = Decoder(bytes)
_bool: Decoder[bool] = Decoder(bool)
_fields: Decoder[dict[str, Raw]] = Decoder(dict[str, Raw])
_node: Decoder[tuple[bytes, str, int]] = Decoder(tuple[_Id, str, int])
_nodes: Decoder[list[tuple[bytes, str, int]]] = Decoder(list[tuple[_Id, str, int]])
_anythings: Decoder[list[Raw]] = Decoder(list[Raw])
_anything: Decoder[object] = Decoder(object)
_encoder = Encoder()

T = TypeVar("T")


def _decode(decoder: Decoder[T], data: bytes | Raw) -> T:
    """Decode or raise MalformedError.

    msgspec raises its own errors for a schema that does not match, UnicodeDecodeError (which is a
    ValueError) for text that is not UTF-8, and RecursionError for a thousand nested arrays.
    """
    try:
        return decoder.decode(data)
    except (MsgspecError, ValueError, RecursionError) as error:
        raise MalformedError(str(error)) from error


def decode(data: bytes) -> Asked | Answered:
    """Read one datagram. Raises MalformedError."""
    if not HEADER_BYTES < len(data) <= DATAGRAM_BYTES_MAX:
        raise MalformedError(f"a datagram of {len(data)} bytes")
    message_id = data[1:HEADER_BYTES]
    body = data[HEADER_BYTES:]
    if data[:1] == ANSWER_TYPE:
        return Answered(message_id, body)
    if data[:1] == QUESTION_TYPE:
        return Asked(message_id, _decode_question(body))
    raise MalformedError(f"a datagram of type {data[0]}")


def _decode_question(body: bytes) -> Question:
    if body.endswith(PADDING):
        # It may as well be the end of a key.
        unpadded = body.rstrip(PADDING)
        if unpadded.endswith(PADDING_MARK):
            try:
                return _decode_unpadded(unpadded[:-1])
            except MalformedError:
                pass
    return _decode_unpadded(body)


def _decode_unpadded(body: bytes) -> Question:
    name, arguments = _decode(_question, body)
    match name:
        case "ping":
            (sender,) = _decode(_one_id, arguments)
            return Ping(NodeId(sender))
        case "find_node":
            sender, key = _decode(_two_ids, arguments)
            return FindNode(NodeId(sender), key)
        case "find_value":
            sender, key = _decode(_two_ids, arguments)
            return FindValue(NodeId(sender), key)
        case "store":
            sender, key, value = _decode(_store, arguments)
            return Store(NodeId(sender), key, _value(value))
        case "stun":
            _decode(_nothing, arguments)
            return Stun()
        case _:
            raise MalformedError("an unknown question")


def _value(raw: Raw) -> bytes | None:
    """The value, if it can be one of ours: stock nodes also store text and numbers."""
    try:
        value = _decode(_bytes, raw)
    except MalformedError:
        return None
    return value if len(value) <= VALUE_BYTES_MAX else None


def encode_question(message_id: bytes, question: Question, *, padded: bool = False) -> bytes:
    """The datagram of a question; padded, any answer may be sent to it at once."""
    match question:
        case Ping(sender):
            content: tuple[str, tuple[bytes | None, ...]] = ("ping", (sender,))
        case FindNode(sender, key):
            content = ("find_node", (sender, key))
        case FindValue(sender, key):
            content = ("find_value", (sender, key))
        case Store(sender, key, value):
            content = ("store", (sender, key, value))
        case _:
            content = ("stun", ())
    data = QUESTION_TYPE + message_id + _encoder.encode(content)
    if padded and len(data) + len(PADDING_MARK) < PADDED_BYTES:
        data = (data + PADDING_MARK).ljust(PADDED_BYTES, PADDING)
    return data


def encode_answer(message_id: bytes, body: object) -> bytes:
    """The datagram of an answer other than a list of contacts."""
    return ANSWER_TYPE + message_id + _encoder.encode(body)


def encode_nodes(message_id: bytes, contacts: Sequence[Contact]) -> bytes:
    """The datagram of a list of contacts, nearest first; the farthest go when it is too long.

    Twenty IPv4 contacts always fit, eighteen of the longest IPv6 ones do. Each stays a tuple of
    three: stock nodes unpack it into a constructor.
    """
    rows = [(contact.id, *contact.address) for contact in contacts]
    while True:
        data = encode_answer(message_id, rows)
        if len(data) <= ANSWER_BYTES_MAX:
            return data
        rows.pop()


# The length of our PING: what an unproved address gets on top of an answer.
PING_BYTES = len(encode_question(bytes(MESSAGE_ID_BYTES), Ping(NodeId(bytes(ID_BYTES)))))
# A third of the longest answer and of two pings beside it.
PADDED_BYTES = -(-(ANSWER_BYTES_MAX + 2 * PING_BYTES) // 3)


def decode_answer(question: Question, body: bytes) -> Answer:
    """Read the answer to a question. Raises MalformedError.

    A list of contacts is read leniently, because honest stock nodes pass on the rubbish that others
    told them: what cannot be a contact is left out. A value that cannot be one of ours counts as an
    answer without contacts.
    """
    match question:
        case Ping():
            return Pong(NodeId(_decode(_id, body)))
        case Store():
            return Stored(_decode_stored(body))
        case FindNode():
            return _decode_nodes(body)
        case FindValue():
            if body[:1] in MAP_TYPES:
                return _decode_value(body)
            return _decode_nodes(body)
        case _:
            raise MalformedError("nobody asks this")


def _decode_stored(body: bytes) -> StoreAnswer:
    try:
        return _decode(_bool, body)
    except MalformedError:
        return _plain_fields(_decode(_fields, body))


def _decode_value(body: bytes) -> Value | Nodes:
    fields = _decode(_fields, body)
    if "value" not in fields:
        raise MalformedError("neither a value nor contacts")
    value = _value(fields.pop("value"))
    if value is None:
        return Nodes(())
    return Value(value, _plain_fields(fields))


def _plain_fields(fields: dict[str, Raw]) -> dict[str, Plain]:
    """The fields that are scalars or lists of scalars; later versions may send others."""
    if len(fields) > FIELDS_MAX:
        raise MalformedError(f"{len(fields)} fields")
    plain: dict[str, Plain] = {}
    for name, raw in fields.items():
        content = _decode(_anything, raw)
        if isinstance(content, list):
            scalars = [item for item in content[:ITEMS_MAX] if isinstance(item, Scalar)]
            if len(scalars) == len(content):
                plain[name] = scalars
        elif isinstance(content, Scalar):
            plain[name] = content
    return plain


def _decode_nodes(body: bytes) -> Nodes:
    try:
        rows = _decode(_nodes, body)
    except MalformedError:
        rows = []
        for raw in _decode(_anythings, body)[:NODES_MAX]:
            try:
                rows.append(_decode(_node, raw))
            except MalformedError:
                continue
    contacts: list[Contact] = []
    for raw_id, host, port in rows[:NODES_MAX]:
        address = canonical(host, port)
        if address is not None:
            contacts.append(Contact(NodeId(raw_id), address))
    return Nodes(tuple(contacts))
