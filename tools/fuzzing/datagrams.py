"""Seed and number → the datagrams of one case: questions and answers, mostly made wrong somewhere.

Starts from what stock nodes send and from what an attacker would: forged sender ids, message ids
overheard or guessed, contacts that are not. Then nodes of the msgpack tree are replaced by others,
and bytes flipped, cut, doubled and spliced.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from p2pweb.dht.contact import ID_BYTES, Address
from p2pweb.dht.wire import (
    ANSWER_TYPE,
    DATAGRAM_BYTES_MAX,
    HEADER_BYTES,
    MESSAGE_ID_BYTES,
    QUESTION_TYPE,
    VALUE_BYTES_MAX,
)

# How many numbers a seed has of its own.
_CASES_MAX = 1 << 40
# What a loopback interface carries.
_UDP_BYTES_MAX = 65_507
_NAMES = ("ping", "store", "find_node", "find_value", "stun")
_WORDS = (
    "ping", "value", "store", "welcome_if_new", "rpc_ping", "__init__", "", "\x00", "a" * 300,
    "\ud7ff", "127.0.0.1", "::1", "0.0.0.0", "255.255.255.255", "224.0.0.1", "fe80::1%eth0",
    "::ffff:127.0.0.1", "localhost", "999.1.1.1", "1" * 5_000, "has", "want", "stale", "refused",
)  # fmt: skip
_NUMBERS = (
    0, 1, -1, 20, 127, 128, 255, 256, 65_535, 65_536, -32, -33, 1 << 31, 1 << 32, (1 << 63) - 1,
    -(1 << 63), (1 << 64) - 1, 1.5, -0.0, 1e308, float("inf"), float("nan"),
)  # fmt: skip
# Headers that promise far more than follows, types that do not exist, extensions, half a word.
_PROMISES = (
    b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff\x01", b"\xdc\xff\xff", b"\xde\xff\xff", b"\xc5\xff\xff", b"\xda\xff\xff",
    b"\xc4\xff", b"\xd9\xff", b"\xc1", b"\xc7\x00\x00", b"\xd6\xff\x00\x00\x00\x00", b"\xd8\x01",
    b"\x9f", b"\x8f", b"\xbf", b"\xcb", b"\xcf\xff", b"\xd3", b"\xa4\xff\xfe\xfd\xfc", b"\xe0",
)  # fmt: skip
_NESTS = (b"\x91", b"\x81\xa1a", b"\x81\x01", b"\x92\x90", b"\xdd\x00\x00\x00\x01", b"\x81")

Tree = object


@dataclass(frozen=True, slots=True)
class Scene:
    """What one who sends datagrams may know of the network."""

    own: bytes
    """The id of the peer that is sent to."""
    ids: Sequence[bytes]
    addresses: Sequence[Address]
    keys: Sequence[bytes]
    values: Sequence[bytes]


def make_datagrams(
    seed: int, number: int, scene: Scene, overheard: Sequence[bytes]
) -> tuple[list[bytes], random.Random]:
    """The datagrams of case `number` under `seed`, one or several, and chance for what follows.

    `overheard` are message ids that reached the sender in questions of the peer.
    """
    chance = random.Random(seed * _CASES_MAX + number)
    draw = chance.random()
    if draw < 0.03:
        data = chance.randbytes(chance.choice((0, 1, 20, 21, 22, 23, 40, 60, 1_200)))
        return [data], chance
    is_question = draw < 0.7
    tree = _question(chance, scene) if is_question else _answer(chance, scene)
    for _ in range(chance.choice((0, 0, 0, 0, 1, 2))):
        tree = _replace(tree, chance, scene)
    header = _header(chance, overheard, is_question=is_question)
    data = header + msgspec.msgpack.encode(tree)
    for _ in range(chance.choice((0, 0, 0, 0, 1, 1, 2, 4))):
        data = _mutate(data, chance)
    copies = chance.choice((1,) * 12 + (2, 2, 3, 8))
    return [data[:_UDP_BYTES_MAX]] * copies, chance


def make_answer(question: bytes, scene: Scene, chance: random.Random) -> bytes:
    """An answer to a question of the peer, from one who wants to harm it: mostly well formed."""
    message_id = question[1:HEADER_BYTES]
    if b"ping" in question[HEADER_BYTES : HEADER_BYTES + 8]:
        tree: Tree = _id(chance, scene)
    elif b"store" in question[HEADER_BYTES : HEADER_BYTES + 8]:
        tree = chance.choice((True, False, {"want": "x"}, {"stale": 1 << 60}))
    elif chance.random() < 0.2:
        tree = {"value": chance.randbytes(50), "has": True}
    else:
        tree = _contacts(chance, scene, question[-ID_BYTES:])
    if chance.random() < 0.15:
        tree = _replace(tree, chance, scene)
    return ANSWER_TYPE + message_id + msgspec.msgpack.encode(tree)


def _header(chance: random.Random, overheard: Sequence[bytes], *, is_question: bool) -> bytes:
    kind = QUESTION_TYPE if is_question else ANSWER_TYPE
    if chance.random() < 0.02:
        kind = bytes((chance.randrange(256),))
    # A question that repeats the id of a question of the peer's own is a reflection.
    if overheard and chance.random() < (0.1 if is_question else 0.7):
        return kind + chance.choice(overheard)
    return kind + chance.randbytes(MESSAGE_ID_BYTES)


def _question(chance: random.Random, scene: Scene) -> Tree:
    sender, key = _id(chance, scene), _key(chance, scene)
    match chance.choice(_NAMES):
        case "ping":
            return ["ping", [sender]]
        case "store":
            value = chance.choice((*scene.values, b"", chance.randbytes(100), b"v" * 1_024))
            return ["store", [sender, key, value]]
        case "stun":
            return ["stun", []]
        case name:
            return [name, [sender, key]]


def _answer(chance: random.Random, scene: Scene) -> Tree:
    draw = chance.random()
    if draw < 0.3:
        return _id(chance, scene)
    if draw < 0.7:
        return _contacts(chance, scene, _key(chance, scene))
    if draw < 0.85:
        return {"value": chance.choice((*scene.values, b"", b"junk")), "has": chance.random() < 0.5}
    return chance.choice((True, False, {"stale": 3}, {"want": "0" * 64}, {"refused": "no"}, None))


def _contacts(chance: random.Random, scene: Scene, key: bytes) -> Tree:
    """Contacts nobody has: near the key, or known ids elsewhere, or known addresses renamed."""
    rows: list[Tree] = []
    count = chance.choice((0, 1, 1, 3, 3, 20, 20, 64))
    drawn = chance.randbytes(count * (ID_BYTES + 8))
    for _ in range(count):
        made, (kind, shared, *rest) = drawn[:ID_BYTES], drawn[ID_BYTES : ID_BYTES + 8]
        drawn = drawn[ID_BYTES + 8 :]
        known = (key[: shared % ID_BYTES] + made)[:ID_BYTES]
        # Most are nowhere; ports that are given to nobody, on this machine.
        host: Tree = f"127.{128 | rest[0]}.{rest[1]}.{rest[2]}"
        port: Tree = 1 + rest[3]
        if kind < 40:
            known = scene.ids[rest[4] % len(scene.ids)]
        elif kind < 80:
            host, port = scene.addresses[rest[4] % len(scene.addresses)]
        elif kind < 90:
            host, port = _WORDS[rest[4] % len(_WORDS)], _NUMBERS[rest[5] % len(_NUMBERS)]
        rows.append((known, host, port))
    return rows


def _id(chance: random.Random, scene: Scene) -> bytes:
    """An id that is forged (usually), somebody's, or the peer's own."""
    draw = chance.random()
    if draw < 0.75:
        return chance.randbytes(ID_BYTES)
    if draw < 0.85:
        return scene.own
    if draw < 0.95:
        return chance.choice(scene.ids)
    # A neighbour of the peer, nearer than anybody honest.
    return scene.own[:-1] + chance.randbytes(1)


def _key(chance: random.Random, scene: Scene) -> bytes:
    draw = chance.random()
    if draw < 0.5:
        return chance.choice(scene.keys)
    if draw < 0.6:
        return scene.own
    return chance.randbytes(ID_BYTES)


def _replace(tree: Tree, chance: random.Random, scene: Scene) -> Tree:
    """The tree with one node of it changed into something else, or lost, or doubled."""
    if isinstance(tree, list | tuple) and tree and chance.random() < 0.8:
        items = list(tree)
        at = chance.randrange(len(items))
        draw = chance.random()
        if draw < 0.7:
            items[at] = _replace(items[at], chance, scene)
        elif draw < 0.8:
            del items[at]
        elif draw < 0.9:
            items.insert(at, items[at])
        else:
            items.append(_anything(chance, scene, 0))
        return items
    if isinstance(tree, dict) and tree and chance.random() < 0.8:
        fields = dict(tree)
        name = chance.choice(list(fields))
        if chance.random() < 0.7:
            fields[name] = _replace(fields[name], chance, scene)
        else:
            fields.update({f"{name}{n}": fields[name] for n in range(chance.choice((1, 20, 300)))})
        return fields
    if isinstance(tree, bytes) and chance.random() < 0.4:
        # A wrong length.
        return chance.choice((tree[:-1], tree + b"\x00", tree * 2, b"", tree[:1]))
    return _anything(chance, scene, 0)


def _anything(chance: random.Random, scene: Scene, depth: int) -> Tree:
    makers: tuple[Callable[[], Tree], ...] = (
        lambda: chance.choice(_NUMBERS),
        lambda: chance.choice(_WORDS),
        lambda: chance.choice((None, True, False)),
        lambda: chance.randbytes(chance.choice((0, 1, 19, 20, 21, 40, 100))),
        lambda: chance.choice(scene.keys),
        lambda: msgspec.msgpack.Ext(chance.randrange(-128, 128), b"x"),
        lambda: b"v" * chance.choice((VALUE_BYTES_MAX, VALUE_BYTES_MAX + 1, 8_000)),
        lambda: [_anything(chance, scene, depth + 1) for _ in range(chance.randrange(5))],
        lambda: {
            chance.choice(_WORDS): _anything(chance, scene, depth + 1)
            for _ in range(chance.randrange(4))
        },
        lambda: {chance.choice(_NUMBERS): 1, chance.randbytes(3): 2},
    )
    return chance.choice(makers[:6] if depth > 3 else makers)()


def _mutate(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data) + 1)
    match chance.randrange(9):
        case 0 | 1:
            changed = bytearray(data)
            for _ in range(chance.choice((1, 1, 1, 2, 8)) if changed else 0):
                changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
            return bytes(changed)
        case 2:
            return data[:at]
        case 3:
            return data + chance.choice((b"\x00", b"\xc0", data, chance.randbytes(30)))
        case 4:
            return data[:at] + chance.choice(_PROMISES) + data[at:]
        case 5:
            # Behind the header, so that what is meant to be read comes to it.
            at = chance.randrange(HEADER_BYTES, max(len(data), HEADER_BYTES) + 1)
            nest = chance.choice(_NESTS)
            depth = chance.choice((2, 30, 600, 1_100, 8_000 // len(nest)))
            return data[:at] + nest * depth + data[at:]
        case 6:
            other = chance.randrange(len(data) + 1)
            return data[: max(at, other)] + data[min(at, other) :]
        case 7:
            # One of the lengths at which something changes.
            length = chance.choice(
                (0, 1, HEADER_BYTES, HEADER_BYTES + 1, DATAGRAM_BYTES_MAX, DATAGRAM_BYTES_MAX + 1)
                + (60_000,) * (chance.random() < 0.05)
            )
            return data[:length] + bytes(length - len(data[:length]))
        case _:
            return data[:at] + chance.choice(_PROMISES)[:1] + data[at + 1 :]
