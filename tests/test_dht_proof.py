"""Proof of address, and the answers that wait for it."""

from p2pweb.dht.contact import Contact, NodeId
from p2pweb.dht.proof import Proofs
from p2pweb.dht.settings import DEFAULTS, Settings

A = ("192.0.2.1", 1)


def test_proof_ages() -> None:
    proofs = Proofs(Settings(proved_for_s=10.0))
    assert not proofs.proved(A, 0.0)
    proofs.prove(A, 0.0)
    assert proofs.proved(A, 10.0)
    assert not proofs.proved(A, 10.1)


def test_only_so_many_addresses_are_remembered_the_latest() -> None:
    proofs = Proofs(Settings(proved_max=2))
    for port in (1, 2, 1, 3):
        proofs.prove(("192.0.2.1", port), 0.0)
    assert [proofs.proved(("192.0.2.1", port), 0.0) for port in (1, 2, 3)] == [True, False, True]


def test_held_answers_come_out_in_order_while_fresh() -> None:
    proofs = Proofs(DEFAULTS)
    proofs.hold(A, b"old", 0.0)
    proofs.hold(A, b"one", 2.0)
    proofs.hold(A, b"two", 3.0)
    assert proofs.prove(A, DEFAULTS.held_for_s + 1.0) == [b"one", b"two"]
    assert proofs.prove(A, 7.0) == []


def test_held_answers_are_bounded_for_each_and_for_all() -> None:
    proofs = Proofs(Settings(held_max=4, held_each_max=2))
    for number in range(3):
        proofs.hold(A, b"%d" % number, 0.0)
    assert proofs.prove(A, 0.0) == [b"1", b"2"]
    for port in range(1, 4):
        proofs.hold(("192.0.2.1", port), b"a%d" % port, 0.0)
        proofs.hold(("192.0.2.1", port), b"b%d" % port, 0.0)
    assert proofs.prove(("192.0.2.1", 1), 0.0) == []
    assert proofs.prove(("192.0.2.1", 2), 0.0) == [b"a2", b"b2"]
    assert proofs.prove(("192.0.2.1", 3), 0.0) == [b"a3", b"b3"]


def test_one_answer_of_several_gives_way() -> None:
    proofs = Proofs(Settings(held_max=2))
    for name in (b"1", b"2", b"3"):
        proofs.hold(A, name, 0.0)
    assert proofs.prove(A, 0.0) == [b"2", b"3"]


def test_strangers_are_asked_seldom() -> None:
    proofs = Proofs(Settings(introductions_max=2, introduction_pause_s=60.0))
    one, two, three = (Contact(NodeId(bytes([n]) * 20), A) for n in (1, 2, 3))
    assert proofs.introduce(one, 0.0)
    assert not proofs.introduce(one, 59.0)
    assert proofs.introduce(one, 60.0)
    # A restart under a new id is another stranger.
    for other in (two, three):
        assert proofs.introduce(other, 61.0)
    # Forgotten, hence asked again: the bound on memory comes first.
    assert proofs.introduce(one, 62.0)


def test_an_address_is_asked_about_few_of_the_ids_that_it_claims() -> None:
    proofs = Proofs(Settings(ids_each_burst=3, ids_each_pause_s=10.0))
    claims = [Contact(NodeId(bytes([n]) * 20), A) for n in range(100)]
    assert [proofs.introduce(one, 0.0) for one in claims[:5]] == [True, True, True, False, False]
    assert sum(proofs.introduce(one, 1.0 * n) for n, one in enumerate(claims[5:])) == 9
    # Others are asked all the same.
    assert proofs.introduce(Contact(NodeId(b"\x07" * 20), ("192.0.2.1", 2)), 1.0)


def test_where_we_are_proved_is_remembered_for_a_while_and_of_few() -> None:
    proofs = Proofs(Settings(proved_max=2, proved_for_s=10.0))
    assert not proofs.met(A, 0.0)
    for port in (1, 2, 1, 3):
        proofs.meet(("192.0.2.1", port), 0.0)
    assert [proofs.met(("192.0.2.1", port), 0.0) for port in (1, 2, 3)] == [True, False, True]
    assert proofs.met(A, 10.0)
    assert not proofs.met(A, 10.1)


def test_who_is_gone_is_a_stranger_that_was_never_asked() -> None:
    proofs = Proofs(DEFAULTS)
    one, other = Contact(NodeId(b"\x01" * 20), A), Contact(NodeId(b"\x02" * 20), A)
    assert proofs.introduce(one, 0.0)
    assert proofs.introduce(other, 0.0)
    proofs.meet(A, 0.0)
    proofs.forget(one)
    assert not proofs.met(A, 1.0)
    assert proofs.introduce(one, 1.0)
    assert not proofs.introduce(other, 1.0)
    # Nothing to forget is nothing to complain of.
    proofs.forget(Contact(NodeId(b"\x03" * 20), ("192.0.2.2", 1)))
