"""How many questions of others are answered: a token bucket for each host, one for all strangers.

A question costs up to 50 µs, and a STORE a signature to verify, so that one host could keep a peer
busy, or by a forged source have it send to somebody else. Answers are not counted: only those that
we asked for do anything, and any other costs a look-up, not much more than it would cost to count.

*Who shares a bucket.* All ports of an IPv4 address, and all addresses of an IPv6 /64, which is what
one host gets. The known (in the routing table at that very address, or proved) and the strangers of
one host have buckets of their own. Whoever shares a host with a flooder shares its fate.

*Forged sources.* The tables keep the buckets used last. To forget a bucket is to forget what was
used of it, so no flood takes anything from an honest host by pushing out its bucket; it only frees
itself of the limit of its own hosts. Against that the strangers have a total. A flood of s forged
questions a second from more hosts than the table holds leaves to each stranger's question a chance
of `strangers_rate`/s, one in twenty at 20,000 a second: who is new may fail to join by this peer
and joins by another. The known do not notice. A host gets a bucket among those of the known by
answering us, which forgers cannot; and the known have no total, with which one that owns many
hosts could silence the others.

Who forges the very address of a known peer drains its bucket: f forged questions a second leave to
that peer's own questions, and to those of its host, a chance of `known_rate`/f, one in ten at
20,000 a second (9 Mbit/s, spent on one peer by keeping it from one other). Its answers still count,
so it stays in our table and is asked as before, and what it looks up it gets from others. Without a
limit the same flood would take as much from everybody. The host is sent up to `known_rate` answers
a second that it never asked for, 2.4 MB/s at the longest; that of a stranger `stranger_rate`, each
no longer than three times the question.

*Loopback is not limited.* No other machine can send from it, programs of this machine have plainer
ways to keep it busy, and where many peers run on one machine, as in tests, they ask one another as
fast as it can.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from functools import lru_cache
from typing import Generic, TypeVar

from p2pweb.dht.contact import Address
from p2pweb.dht.settings import Settings

# Known peers ask again and again, and cutting a literal costs as much as the rest. 2,048 entries
# are about 500 KB.
PREFIX_CACHE_ENTRIES = 2_048

_PREFIX_GROUPS = 4


Name = TypeVar("Name", bound=Hashable)


class Buckets(Generic[Name]):
    """A bucket for each name, the least recently used forgotten beyond `most`.

    Of a bucket only the moment is kept at which it will be full again: `now` plus what was used of
    it, as time. One token comes every 1/rate seconds.
    """

    __slots__ = ("_burst_s", "_full_at", "_most", "_token_s")

    def __init__(self, *, rate: float, burst: int, most: int) -> None:
        self._token_s = 1.0 / rate
        # One token is left while no more than burst - 1 are used; the hundredth is for rounding.
        self._burst_s = (burst - 0.99) / rate
        self._most = most
        self._full_at: OrderedDict[Name, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, name: Name, now: float) -> bool:
        """Use a token, if there is one."""
        buckets = self._full_at
        full_at = buckets.get(name, now)
        if full_at <= now:
            full_at = now
        elif full_at - now > self._burst_s:
            return False
        buckets[name] = full_at + self._token_s
        buckets.move_to_end(name)
        if len(buckets) > self._most:
            buckets.popitem(last=False)
        return True

    def give_back(self, name: Name) -> None:
        """What was just taken was not used."""
        self._full_at[name] -= self._token_s


class Rates:
    """Says of each question of others whether it is answered."""

    __slots__ = ("_known", "_strangers", "_total")

    def __init__(self, settings: Settings) -> None:
        self._known: Buckets[str] = Buckets(
            rate=settings.known_rate, burst=settings.known_burst, most=settings.buckets_max
        )
        self._strangers: Buckets[str] = Buckets(
            rate=settings.stranger_rate, burst=settings.stranger_burst, most=settings.buckets_max
        )
        self._total: Buckets[None] = Buckets(
            rate=settings.strangers_rate, burst=settings.strangers_burst, most=1
        )

    def __len__(self) -> int:
        """How many buckets there are."""
        return len(self._known) + len(self._strangers) + len(self._total)

    def allows(self, address: Address, now: float, *, known: bool) -> bool:
        """Whether a question from an address (canonical) is answered; if so, it is counted."""
        if is_loopback(address[0]):
            return True
        asker = machine(address)
        if known:
            return self._known.take(asker, now)
        # What one of the two refuses costs the other nothing: no host can use up the total alone,
        # and who was refused by the total has used nothing.
        if not self._total.take(None, now):
            return False
        if self._strangers.take(asker, now):
            return True
        self._total.give_back(None)
        return False


def is_loopback(host: str) -> bool:
    """Whether an IP literal (canonical) is this machine's own."""
    return host.startswith("127.") or host == "::1"


def machine(address: Address) -> str:
    """What counts as one machine: an IPv4 address, a /64 of IPv6. Many peers share the loopback
    address, and nobody else can use it: there each port counts as one."""
    host, port = address
    if is_loopback(host):
        return f"{host} {port}"
    return prefix(host) if ":" in host else host


@lru_cache(maxsize=PREFIX_CACHE_ENTRIES)
def prefix(host: str) -> str:
    """The /64 of an IPv6 literal (canonical), as its first four groups."""
    head, _, tail = host.partition("::")
    groups = (head or "0").split(":")
    if len(groups) < _PREFIX_GROUPS:
        after = tail.split(":") if tail else []
        groups += ["0"] * (2 * _PREFIX_GROUPS - len(groups) - len(after)) + after
    return ":".join(groups[:_PREFIX_GROUPS])
