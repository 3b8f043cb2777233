"""Questions of our own that await their answers, in time or late."""

from __future__ import annotations

from typing import Generic, TypeVar

from msgspec import Struct

from p2pweb.dht.contact import Address, Contact
from p2pweb.dht.deadlines import Deadlines
from p2pweb.dht.wire import Question

Owner = TypeVar("Owner")


class Query(Struct, Generic[Owner], frozen=True, kw_only=True):
    """One datagram sent. `contact` is whom we took the address for, if anybody."""

    message_id: bytes
    question: Question
    address: Address
    contact: Contact | None
    sent: float
    timeout_s: float
    owner: Owner


class Queries(Generic[Owner]):
    """At most `most` queries: each first on time, then late, then forgotten."""

    def __init__(self, *, most: int, late_for_s: float) -> None:
        self._most = most
        self._late_for_s = late_for_s
        self._on_time: dict[bytes, Query[Owner]] = {}
        # In the order in which they became late: the first has the least to be waited for.
        self._late: dict[bytes, Query[Owner]] = {}
        self._deadlines: Deadlines[bytes] = Deadlines()

    def __len__(self) -> int:
        return len(self._on_time) + len(self._late)

    def make_room(self) -> bool:
        """Whether one more may be added; the one late for longest goes if that makes room."""
        if len(self) < self._most:
            return True
        if not self._late:
            return False
        oldest = next(iter(self._late))
        del self._late[oldest]
        self._deadlines.cancel(oldest)
        return True

    def add(self, query: Query[Owner]) -> None:
        """Await an answer. `make_room` was asked first."""
        self._on_time[query.message_id] = query
        self._deadlines.set(query.message_id, query.sent + query.timeout_s)

    def take(self, message_id: bytes, address: Address) -> Query[Owner] | None:
        """The query that this answer belongs to: same message id, same address."""
        query = self._on_time.get(message_id) or self._late.get(message_id)
        if query is None or query.address != address:
            return None
        self._on_time.pop(message_id, None)
        self._late.pop(message_id, None)
        self._deadlines.cancel(message_id)
        return query

    @property
    def next_timer(self) -> float:
        """When `expire` is next worth calling, or sooner."""
        return self._deadlines.earliest

    def expire(self, now: float) -> list[Query[Owner]]:
        """The queries that have become late; those late for too long are forgotten."""
        became_late: list[Query[Owner]] = []
        if now < self._deadlines.earliest:
            return became_late
        for message_id in self._deadlines.pop_due(now):
            query = self._on_time.pop(message_id, None)
            if query is None:
                del self._late[message_id]
                continue
            self._late[message_id] = query
            # Never in the past, even when the process was suspended.
            self._deadlines.set(message_id, max(now, query.sent + self._late_for_s))
            became_late.append(query)
        return became_late
