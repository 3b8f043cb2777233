"""Questions that await answers."""

from math import inf

from p2pweb.dht import wire
from p2pweb.dht.contact import NodeId
from p2pweb.dht.queries import Queries, Query

A = ("192.0.2.1", 1)
B = ("192.0.2.2", 1)


def query(number: int, timeout_s: float = 1.0, sent: float = 0.0) -> Query[None]:
    return Query(
        message_id=number.to_bytes(20, "big"),
        question=wire.Ping(NodeId(bytes(20))),
        address=A,
        contact=None,
        sent=sent,
        timeout_s=timeout_s,
        owner=None,
    )


def queries(most: int = 3) -> Queries[None]:
    return Queries(most=most, late_for_s=10.0)


def test_answer_needs_message_id_and_address() -> None:
    pool = queries()
    one = query(1)
    pool.add(one)
    assert pool.take(one.message_id, B) is None
    assert pool.take(b"?" * 20, A) is None
    assert pool.take(one.message_id, A) is one
    assert pool.take(one.message_id, A) is None
    assert len(pool) == 0
    assert pool.expire(1.0) == []
    assert pool.next_timer == inf


def test_late_answers_count_until_forgotten() -> None:
    pool = queries()
    one, two = query(1), query(2)
    pool.add(one)
    pool.add(two)
    assert pool.next_timer == 1.0
    assert pool.expire(1.0) == [one, two]
    assert pool.next_timer == 10.0
    assert pool.take(two.message_id, A) is two
    assert pool.expire(10.0) == []
    assert pool.take(one.message_id, A) is None
    assert len(pool) == 0


def test_late_queries_give_way_those_on_time_do_not() -> None:
    pool = queries(most=2)
    one, two, three = query(1), query(2, 2.0), query(3, 2.0, sent=1.0)
    pool.add(one)
    pool.add(two)
    assert not pool.make_room()
    pool.expire(1.0)
    assert pool.make_room()
    pool.add(three)
    assert len(pool) == 2
    assert pool.take(one.message_id, A) is None
    assert not pool.make_room()


def test_a_suspended_process_forgets_at_once_but_never_in_the_past() -> None:
    pool = queries()
    pool.add(query(1))
    assert len(pool.expire(3_600.0)) == 1
    assert pool.next_timer >= 3_600.0
