"""How long an answer is waited for."""

from __future__ import annotations

from p2pweb.dht.asking import Asker
from p2pweb.dht.contact import Contact, NodeId
from p2pweb.dht.proof import Proofs
from p2pweb.dht.rtt import Rtt
from p2pweb.dht.settings import DEFAULTS
from p2pweb.dht.table import Table

STRANGER = ("192.0.2.1", 8_000)


def test_a_stranger_is_waited_for_as_most_others_and_not_as_the_slowest() -> None:
    everyone = Rtt(DEFAULTS)
    table = Table(NodeId(bytes(20)), DEFAULTS, 0.0)
    asker = Asker(DEFAULTS, table, lambda count: bytes(count), everyone, Proofs(DEFAULTS))
    assert asker.brisk_s(STRANGER) == asker.steady_s(STRANGER) == DEFAULTS.rtt_initial_s
    for number in range(1, DEFAULTS.join_need + 1):
        # The first may all be next door.
        everyone.sample(0.001)
        assert asker.brisk_s(STRANGER) == asker.steady_s(STRANGER) == DEFAULTS.rtt_initial_s
        known = Contact(NodeId(number.to_bytes(20)), (STRANGER[0], number))
        table.proved(known, 0.001, 0.0)
    for _ in range(50):
        everyone.sample(0.1)
    assert asker.brisk_s(STRANGER) < 0.12
    assert asker.steady_s(STRANGER) < 0.12
    # One in ten takes nearly ten seconds: nobody else is to wait for the dead that long.
    for number in range(50):
        everyone.sample(9.9 if number % 10 == 0 else 0.1)
        assert asker.brisk_s(STRANGER) <= DEFAULTS.rtt_initial_s
        assert asker.steady_s(STRANGER) <= DEFAULTS.rtt_initial_s
