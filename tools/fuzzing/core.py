"""A peer without sockets, on a clock of its own, between honest contacts and everybody else.

The cases of one round happen to one peer; a round is repeated exactly by its seed. After each
datagram: nothing was raised, little was done, nobody unproved was sent more than three times what
came from there, and nothing has outgrown its bound. After the round: each lookup has found what the
honest hold, and the peer knows each of them still.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sized

from fuzzing.datagrams import Scene, make_answer, make_datagrams
from fuzzing.readers import BrokenInvariant
from p2pweb.dht import wire
from p2pweb.dht.contact import ID_BYTES, Address, Contact, NodeId, distance
from p2pweb.dht.events import Action, LookupDone, Ponged, Send, StoreDone, Yielded
from p2pweb.dht.peer import Peer
from p2pweb.dht.serving import Held
from p2pweb.dht.settings import DEFAULTS, Settings

ROUND = 1_500
HONEST = 24
HOLDERS = 8
KEYS = 6
SYBILS = 40
STRANGERS = 3_000
LOOKUP_EVERY = 100
# The longest lookup that liars can bring about, and the peace after it.
PATIENCE_S = 90.0
# One datagram may let each lookup go on, with all the questions that it has slots for.
QUESTIONS_MAX = DEFAULTS.k
# Everything small, so that every bound is reached in every round.
TIGHT = Settings(
    k=8,
    small_network=32,
    replacements_max=4,
    gone_max=8,
    proved_max=64,
    held_max=8,
    held_each_max=2,
    hearsay_max=32,
    hearsay_each_max=8,
    proofs_max=16,
    introductions_max=32,
    known_burst=500,
    stranger_burst=20,
    strangers_burst=200,
    buckets_max=16,
)
# Mean pauses between datagrams: a flood, a busy day, a quiet one.
_PAUSES_S = (0.0001, 0.001, 0.01)


def check_core(seed: int, numbers: Iterable[int], told: Counter[str]) -> list[str]:
    """Try each case; the faults, each a sentence with the number of its case."""
    faults: list[str] = []
    for at, cases in itertools.groupby(numbers, lambda number: number // ROUND):
        fault = _check_round(seed, at, cases, told)
        if fault:
            faults.append(fault)
    return faults


def whole_round(number: int) -> range:
    """What has to happen again for a case to happen again: its round, up to it."""
    return range(number - number % ROUND, number + 1)


def _check_round(seed: int, at: int, numbers: Iterator[int], told: Counter[str]) -> str:
    number = -1
    try:
        # Whatever is raised is a fault of the case, never the end of the run.
        world = _World(seed, at)
        for number in numbers:
            world.meet(seed, number)
        world.end()
    except Exception as fault:  # noqa: BLE001
        return f"case {number}: {fault!r}"
    told.update(world.told)
    return ""


class _Shelf:
    """Records that keep a few values and refuse the others."""

    def __init__(self) -> None:
        self.held: dict[bytes, Held] = {}

    def find(self, key: bytes) -> Held | None:
        return self.held.get(key)

    def store(self, key: bytes, value: bytes, sender: Address) -> bool | Mapping[str, wire.Plain]:
        return True if key in self.held else {"refused": "this peer does not store the site"}


class _World:
    """One peer, those around it, and the account of what it sent to whom."""

    def __init__(self, seed: int, at: int) -> None:
        rng = random.Random(f"core {seed} {at}")
        self._rng = rng
        self.settings = (DEFAULTS, TIGHT)[at % 2]
        self.pause_s = _PAUSES_S[at % len(_PAUSES_S)]
        self.now = 1_000.0
        self.shelf = _Shelf()
        own = NodeId(rng.randbytes(ID_BYTES))
        self.honest = [
            Contact(NodeId(rng.randbytes(ID_BYTES)), (f"10.1.0.{n + 1}", 4_000))
            for n in range(HONEST)
        ]
        self.by_address = {one.address: one for one in self.honest}
        self.values = {rng.randbytes(ID_BYTES): rng.randbytes(200) for _ in range(KEYS)}
        keys = list(self.values)
        for key in keys[: KEYS // 2]:
            self.shelf.held[key] = Held(self.values[key], {"has": True})
        self.sought = keys[KEYS // 2 :]
        self.holders = {
            key: sorted(self.honest, key=lambda one: distance(one.id, key))[:HOLDERS]
            for key in self.sought
        }
        # Forgers sit at loopback addresses too, which no rate holds back.
        self.sybils = [(f"203.0.113.{n}", 5_000 + n) for n in range(SYBILS // 2)]
        self.sybils += [(f"127.0.1.{n}", 5_000) for n in range(SYBILS // 2)]
        self.strangers = [
            (f"198.51.{n & 255}.{n >> 8}", 1_024 + n)
            if n % 3
            else (f"2001:db8:{n:x}::{n:x}", n + 9)
            for n in range(STRANGERS)
        ]
        addresses = [one.address for one in self.honest]
        self.scene = Scene(own, [one.id for one in self.honest], addresses, keys, [b"v" * 64])
        self.overheard: deque[bytes] = deque(maxlen=64)
        self.told: Counter[str] = Counter()
        self._proved: set[Address] = set()
        self._came: Counter[Address] = Counter()
        self._went: Counter[Address] = Counter()
        self._asked: dict[bytes, Address] = {}
        self._post: list[tuple[float, int, bytes, Address]] = []
        self._serial = 0
        self._token = 0
        self._lookups: dict[int, bytes] = {}
        self._found: set[int] = set()
        # Pings to those that liars named, when the table has a place for them.
        self._rumours_pinged = 0
        self._begun = self.now
        self._calls: set[int] = set()
        self._awaited: dict[bytes, Address] = {}
        self.peer = Peer(
            own,
            self.shelf,
            rng=random.Random(f"peer {seed} {at}"),
            entropy=random.Random(f"entropy {seed} {at}").randbytes,
            settings=self.settings,
            now=self.now,
        )
        for one in self.honest:
            self._do(self.peer.ping(self._call(), one.address, self.now))
        self._pass_until(self.now + 2.0)
        if len(self.peer.table) != HONEST:
            raise BrokenInvariant("the honest are not known to begin with")

    # --- one case ---

    def meet(self, seed: int, number: int) -> None:
        """Let a case happen, and what is due before it."""
        datagrams, chance = make_datagrams(seed, number, self.scene, tuple(self.overheard))
        self._pass_until(self.now + chance.expovariate(1.0 / self.pause_s))
        draw = chance.random()
        if draw < 0.1:
            source = chance.choice(self.honest).address
        elif draw < 0.4:
            source = chance.choice(self.sybils)
        else:
            source = chance.choice(self.strangers)
        for data in datagrams:
            self._hear(data, source)
        if number % LOOKUP_EVERY == 0:
            self._work(chance)

    def end(self) -> None:
        """Everything comes to its end, and nobody honest was forgotten."""
        self._pass_until(self.now + PATIENCE_S)
        if self._lookups or self._calls or self._awaited:
            raise BrokenInvariant(
                f"{len(self._lookups)} lookups, {len(self._calls)} calls and {len(self._awaited)} "
                "questions of the honest have no end"
            )
        lost = [one for one in self.honest if not self.peer.table.knows(one)]
        if lost or any(self.peer.table.suspect(one) for one in self.honest):
            raise BrokenInvariant(f"{len(lost)} honest contacts are gone, or others in doubt")
        self.told["datagrams refused as malformed"] += self.peer.malformed
        self.told["questions beyond the rate"] += self.peer.limited
        self.told["contacts at the end of all rounds"] += len(self.peer.table)

    def _work(self, chance: random.Random) -> None:
        """What the peer and the honest do all day."""
        key, one = chance.choice(self.sought), chance.choice(self.honest)
        self._lookups[self._call()] = key
        self._calls.discard(self._token)
        self._do(self.peer.find_value(self._token, key, self.now))
        token = self._call()
        if chance.random() < 0.5:
            self._do(self.peer.ping(token, one.address, self.now))
        else:
            self._do(self.peer.store(token, one, key, b"value", self.now))
        message_id = chance.randbytes(wire.MESSAGE_ID_BYTES)
        self._awaited[message_id] = one.address
        self._hear(wire.encode_question(message_id, wire.FindNode(one.id, key)), one.address)

    # --- time and post ---

    def _call(self) -> int:
        self._token += 1
        self._calls.add(self._token)
        return self._token

    def _pass_until(self, moment: float) -> None:
        while True:
            alarm = self.peer.next_timer()
            arrival = self._post[0][0] if self._post else float("inf")
            if min(alarm, arrival) > moment:
                break
            self.now = max(self.now, min(alarm, arrival))
            if arrival <= alarm:
                _, _, data, source = heapq.heappop(self._post)
                self._hear(data, source)
            else:
                self._do(self.peer.handle_timer(self.now))
        self.now = max(self.now, moment)

    def _mail(self, data: bytes, source: Address) -> None:
        self._serial += 1
        delay_s = self._rng.uniform(0.001, 0.02)
        heapq.heappush(self._post, (self.now + delay_s, self._serial, data, source))

    # --- what goes in and out ---

    def _hear(self, data: bytes, source: Address) -> None:
        self._came[source] += len(data)
        is_answer = data[:1] == wire.ANSWER_TYPE and len(data) > wire.HEADER_BYTES
        # Whoever repeats the id of a question that was sent there has proved itself.
        if is_answer and self._asked.get(data[1 : wire.HEADER_BYTES]) == source:
            self._proved.add(source)
        actions = self.peer.receive(data, source, self.now)
        sent = [action for action in actions if isinstance(action, Send)]
        if source not in self._proved:
            size = sum(len(one.data) for one in sent if not one.data[21:].startswith(_ASKS))
            if size > self.settings.amplification_max * len(data):
                raise BrokenInvariant(f"{size} bytes at once for {len(data)} from {source}")
        answers = [one for one in sent if one.data[:1] == wire.ANSWER_TYPE]
        if any(one.address != source for one in answers):
            raise BrokenInvariant("an answer went to somebody else")
        if len(answers) > 1 + self.settings.held_each_max:
            raise BrokenInvariant(f"{len(answers)} answers at once")
        if len(sent) - len(answers) > QUESTIONS_MAX * (2 + len(self._lookups)):
            raise BrokenInvariant(f"{len(sent) - len(answers)} questions at once")
        self._do(actions)

    def _do(self, actions: list[Action]) -> None:
        wanted: list[int] = []
        for action in actions:
            match action:
                case Send(data, address):
                    self._sent(data, address)
                case Yielded(token, found):
                    if found.value == self.values[self._lookups[token]]:
                        self._found.add(token)
                    wanted.append(token)
                case LookupDone(token):
                    del self._lookups[token]
                    if token not in self._found:
                        raise BrokenInvariant("a lookup did not find what eight honest hold")
                    self.told["lookups that found the value"] += 1
                case Ponged(token, None) | StoreDone(token, None):
                    raise BrokenInvariant("an honest contact's answer was not heard")
                case Ponged(token) | StoreDone(token):
                    self._calls.remove(token)
        self._check_bounds()
        # Every lookup is to find all that there is.
        for token in wanted:
            self._do(self.peer.resume(token, self.now))

    def _sent(self, data: bytes, address: Address) -> None:
        is_question = data[:1] == wire.QUESTION_TYPE
        message_id = data[1 : wire.HEADER_BYTES]
        if is_question:
            self._asked[message_id] = address
        # What our lookups ask of those that liars named is no answer, and bounded by their number.
        if address not in self._proved and not data[21:].startswith(_ASKS):
            went = self._went[address] + len(data)
            is_ours = address in self.by_address
            allowed = self.settings.amplification_max * self._came[address]
            if is_ours or went <= allowed:
                self._went[address] = went
            elif data[21:].startswith(_PING) and self._rumours_pinged < self._rumours_pinged_max():
                self._rumours_pinged += 1
            else:
                raise BrokenInvariant(
                    f"{went} bytes went to {address}, unproved, for {self._came[address]} that came"
                )
        one = self.by_address.get(address)
        if one is not None:
            if is_question:
                self._mail(self._honest_answer(one, data), address)
            elif self._awaited.get(message_id) == address:
                del self._awaited[message_id]
        elif address in self.sybils and is_question:
            self.overheard.append(message_id)
            if self._rng.random() < 0.8:
                self._mail(make_answer(data, self.scene, self._rng), address)
        elif is_question:
            self.overheard.append(message_id)

    def _rumours_pinged_max(self) -> int:
        """One of them is asked in each period, and once more where it is silent."""
        periods = 1 + int((self.now - self._begun) / self.settings.probe_every_s)
        return periods * self.settings.proof_tries

    def _honest_answer(self, one: Contact, data: bytes) -> bytes:
        asked = wire.decode(data)
        if not isinstance(asked, wire.Asked):
            raise BrokenInvariant("what was sent as a question is none")
        match asked.question:
            case wire.FindValue(_, key) if one in self.holders.get(key, ()):
                body: object = {"value": self.values[key], "has": True}
            case wire.FindValue(_, key) | wire.FindNode(_, key):
                near = sorted(self.honest, key=lambda other: distance(other.id, key))[:20]
                return wire.encode_nodes(asked.message_id, near)
            case wire.Store():
                body = True
            case _:
                body = one.id
        return wire.encode_answer(asked.message_id, body)

    def _check_bounds(self) -> None:
        """Everything that a stranger can make grow."""
        peer, settings = self.peer, self.settings
        table, proofs = peer.table, peer._proofs
        sizes = (
            ("table", len(table), settings.small_network + settings.k * 160),
            ("replacements", _longest(table._replacements), settings.replacements_max),
            ("gone", len(table._gone), settings.gone_max),
            ("proofs", len(proofs._proved), settings.proved_max),
            ("addresses met", len(proofs._met), settings.proved_max),
            ("hearsay", len(peer._lookups._hearsay), settings.hearsay_max),
            ("held answers", proofs._held_count, settings.held_max),
            ("addresses of held answers", len(proofs._held), settings.held_max),
            ("introductions", len(proofs._introduced), settings.introductions_max),
            ("addresses with several ids", len(proofs._ids), settings.introductions_max),
            ("pings of strangers", len(peer._pings), settings.proofs_max),
            ("strangers asked", len(peer._proving), settings.proofs_max),
            ("questions of lookups", len(peer._lookups.pool), settings.queries_max),
            ("questions of callers", len(peer._calls), settings.queries_max),
            ("buckets", len(peer._rates), 2 * settings.buckets_max + 1),
        )
        for name, size, most in sizes:
            if size > most:
                raise BrokenInvariant(f"{name}: {size}, at most {most}")


def _longest(queues: Mapping[int, Sized]) -> int:
    return max((len(queue) for queue in queues.values()), default=0)


# How the body of a question of a lookup, or of a caller's STORE, begins.
_ASKS = (b"\x92\xa9find_node", b"\x92\xaafind_value", b"\x92\xa5store")
_PING = b"\x92\xa4ping"
