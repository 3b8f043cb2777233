"""Which copies a peer should have, which come first, and whom to ask: against counting by hand."""

from __future__ import annotations

import math
import random

import msgspec

from p2pweb.dht.contact import ID_BYTES, Contact, NodeId, distance
from p2pweb.dht.events import ContactDown, ContactMoved, ContactReturned, ContactUp, Why
from p2pweb.keys import SiteKey
from p2pweb.manifest import Entry, Manifest
from p2pweb.records import COPIES_MAX, Encoding, record_key
from p2pweb.repair_plan import (
    GONE_MAX,
    GONE_S,
    KEEPERS_MAX,
    KEEPS_NOT_S,
    NEIGHBOURS,
    NEW_S,
    PATIENCE,
    RECORD_COPIES,
    SMALL_BYTES,
    SPARE_S,
    SUDDEN_LATE_S,
    SUDDEN_S,
    Neighbours,
    Ranks,
    affordable,
    beyond,
    plan_repairs,
    shares_of,
    spare_shares,
    whom_to_ask,
)

COPIES = 8
# Nobody has left.
NONE: tuple[frozenset[NodeId], ...] = (frozenset(),) * len(PATIENCE)
OWN = NodeId(bytes(20))
KEY = SiteKey(b"k" * 32)


def ids(count: int, seed: int = 1) -> list[NodeId]:
    rng = random.Random(seed)
    return [NodeId(rng.randbytes(ID_BYTES)) for _ in range(count)]


def manifest(files: int, size_bytes: int = 10) -> Manifest:
    return Manifest(
        KEY.public_key,
        1,
        [
            Entry(
                path=f"/{number}.txt",
                media_type="text/plain",
                seq=1,
                modified_s=1,
                encodings=(Encoding("identity", size_bytes, bytes(32)),),
            )
            for number in range(files)
        ],
    )


def closer(own: NodeId, others: list[NodeId], key: bytes) -> int:
    # In numbers: this is done some millions of times.
    place = int.from_bytes(key)
    apart = int.from_bytes(own) ^ place
    return sum((int.from_bytes(other) ^ place) < apart for other in others)


# Ranks


def test_a_rank_is_the_number_of_those_closer_where_they_are_few() -> None:
    own, *others = ids(RECORD_COPIES)
    ranks = Ranks(own, others)
    for key in ids(200, seed=2):
        assert ranks.of(key, RECORD_COPIES) == closer(own, others, key)


def test_a_rank_ends_at_the_most_that_is_asked_for() -> None:
    own, *others = ids(15)
    farthest = max(ids(100, seed=2), key=lambda key: closer(own, others, key))
    assert closer(own, others, farthest) > 3
    assert Ranks(own, others).of(farthest, 3) == 3


def test_alone_and_known_to_itself_a_peer_is_the_closest_to_everything() -> None:
    (own,) = ids(1)
    assert Ranks(own, []).of(bytes(20), 5) == Ranks(own, [own]).of(bytes(20), 5) == 0


def test_who_knows_everybody_finds_just_what_is_due() -> None:
    peers, keys = ids(300), ids(500, seed=2)
    for own in peers[:10]:
        others = [one for one in peers if one != own]
        ranks = Ranks(own, others)
        due = {key for key in keys if ranks.of(key, RECORD_COPIES) < RECORD_COPIES}
        assert due == {key for key in keys if closer(own, others, key) < RECORD_COPIES}


def test_who_knows_its_neighbours_alone_does_not_take_itself_for_everybody() -> None:
    peers, keys = ids(1_000), ids(500, seed=2)
    due = right = 0
    for own in peers[:10]:
        others = sorted(peers, key=lambda one: distance(one, own))[1:]
        ranks = Ranks(own, others[: COPIES_MAX + 1])
        is_due = {key for key in keys if ranks.of(key, RECORD_COPIES) < RECORD_COPIES}
        should = {key for key in keys if closer(own, others, key) < RECORD_COPIES}
        assert len(should - is_due) <= 0.05 * len(should)
        due, right = due + len(is_due), right + len(should)
    # Without looking at how dense they are it would be half of all keys for each.
    assert due < 2 * right


def test_beyond_its_span_nothing_is_due_to_a_peer() -> None:
    peers, keys = ids(300), ids(500, seed=2)
    for own in peers[:10]:
        ranks = Ranks(own, [one for one in peers if one != own])
        first, last = ranks.span(RECORD_COPIES)
        assert first <= own <= last
        far = [key for key in keys if not first <= key <= last]
        # It is an eighth of all keys, or a sixteenth.
        assert len(far) > 0.8 * len(keys)
        assert all(ranks.of(key, RECORD_COPIES) == RECORD_COPIES for key in far)


def test_the_span_of_a_peer_with_few_others_is_everything() -> None:
    own, *others = ids(RECORD_COPIES)
    assert Ranks(own, others).span(RECORD_COPIES) == (bytes(ID_BYTES), b"\xff" * ID_BYTES)
    # Who has others beside it at every distance has its own key alone.
    crowd = [NodeId((1 << bit).to_bytes(ID_BYTES)) for bit in range(8 * ID_BYTES)]
    assert Ranks(OWN, crowd).span(1) == (OWN, OWN)


def test_the_keys_beside_a_peer_lead_to_all_who_decide_what_is_due() -> None:
    peers, keys = ids(1_000), ids(500, seed=2)
    for own in peers[:10]:
        others = sorted(peers, key=lambda one: distance(one, own))[1:]
        near = others[:RECORD_COPIES]
        known = dict.fromkeys(near)
        for key in beyond(own, near):
            known |= dict.fromkeys(sorted(peers, key=lambda one: distance(one, key))[:20])
        ranks = Ranks(own, known)
        due = {key for key in keys if ranks.of(key, RECORD_COPIES) < RECORD_COPIES}
        assert due == {key for key in keys if closer(own, others, key) < RECORD_COPIES}


def test_who_knows_fewer_than_have_each_record_has_nobody_else_to_meet() -> None:
    own, *others = ids(RECORD_COPIES)
    assert beyond(own, others) == beyond(own, []) == []


# Plans


def test_the_record_is_due_to_twenty_and_the_bytes_to_the_first_of_them() -> None:
    peers, shares = ids(60), shares_of(manifest(50, SMALL_BYTES + 1))
    records = bodies = 0
    for own in peers:
        for due in plan_repairs(own, [one for one in peers if one != own], NONE, shares, COPIES):
            rank = closer(own, peers, due.share.key)
            assert rank < RECORD_COPIES and due.with_bytes == (rank < COPIES) and due.gone == 0
            records, bodies = records + 1, bodies + due.with_bytes
    assert (records, bodies) == (50 * RECORD_COPIES, 50 * COPIES)


def test_the_worst_off_come_first() -> None:
    own, *others = ids(16)
    present, gone = others[:8], others[8:]
    plan = plan_repairs(own, present, [*NONE[1:], gone], shares_of(manifest(100)), COPIES)
    assert [due.gone for due in plan] == sorted((due.gone for due in plan), reverse=True)
    for due in plan:
        assert due.gone == closer(own, gone, due.share.key)
    assert plan[0].gone > plan[-1].gone


def test_the_bytes_of_small_files_are_wherever_their_records_are() -> None:
    own, *others = ids(60)
    for size_bytes, is_small in ((SMALL_BYTES, True), (SMALL_BYTES + 1, False)):
        plan = plan_repairs(own, others, NONE, shares_of(manifest(50, size_bytes)), COPIES)
        assert plan and all(due.with_bytes for due in plan) == is_small


def test_the_more_copies_are_lacking_the_sooner_others_are_made() -> None:
    own, *others = ids(60)
    (share,) = shares_of(manifest(1, SMALL_BYTES + 1))
    others.sort(key=lambda one: distance(one, NodeId(share.key)))
    rank = closer(own, others, share.key)
    # This peer is next in line, or would be the second, the third or the fourth.
    closest = others[:rank][-COPIES:]
    rest = others[rank:]
    for lacking, step in ((1, 3), (2, 2), (3, 1), (4, 0), (8, 0)):
        present, away = closest[lacking:], closest[:lacking]
        for number in range(len(PATIENCE)):
            gone = [away if number == each else [] for each in range(len(PATIENCE))]
            (due,) = plan_repairs(own, present + rest, gone, [share], COPIES)
            assert due.with_bytes == (number >= step), (lacking, number)
            assert due.gone == lacking


def test_a_record_can_wait_too() -> None:
    own, *others = ids(2 * RECORD_COPIES)
    shares = shares_of(manifest(100))
    (first, *rest) = sorted(others, key=lambda one: distance(one, own))
    before = {one.share.key for one in plan_repairs(own, others, NONE, shares, COPIES)}
    for number in range(len(PATIENCE)):
        gone = [[first] if number == each else [] for each in range(len(PATIENCE))]
        due = {one.share.key for one in plan_repairs(own, rest, gone, shares, COPIES)}
        assert (due == before) == (number + 1 < len(PATIENCE))


def test_a_long_file_has_a_share_for_each_segment() -> None:
    shares = shares_of(manifest(1, size_bytes=9 * 1024 * 1024))
    assert [share.segment for share in shares] == [0, 1, 2]
    assert [share.key for share in shares] == [
        record_key(shares[0].record, number) for number in range(3)
    ]


def test_of_a_version_after_a_known_one_only_what_changed_is_shared() -> None:
    before = manifest(5)
    changed = msgspec.structs.replace(before.entries[2], seq=2)
    added = msgspec.structs.replace(before.entries[0], path="/new.txt", seq=2)
    after = Manifest(KEY.public_key, 2, [*before.entries[1:2], changed, added, before.entries[4]])
    assert [share.record.path for share in shares_of(after, before)] == ["/2.txt", "/new.txt"]
    assert list(shares_of(before, before)) == []


# Neighbours


def test_who_left_is_spared_for_a_while_and_then_gone_and_then_forgotten() -> None:
    near, (away, *rest) = Neighbours(OWN), contacts(10)
    near.met(ContactDown(away, Why.SILENT), 100.0)
    assert near.next_gone(100.0) == 100.0 + SPARE_S
    ids_of_rest = {one.id for one in rest}
    assert near.present_and_gone(rest, 100.0) == ({*ids_of_rest, away.id}, NONE)
    for number, (patience_s, _) in enumerate(PATIENCE):
        gone = [{away.id} if number == each else set() for each in range(len(PATIENCE))]
        assert near.present_and_gone(rest, 100.0 + patience_s) == (ids_of_rest, tuple(gone))
    assert near.next_gone(100.0 + SPARE_S) == math.inf
    assert near.present_and_gone(rest, 101.0 + GONE_S) == (ids_of_rest, NONE)
    assert near.present_and_gone(rest, 100.0) == (ids_of_rest, NONE)


def test_a_round_that_is_punctual_finds_gone_whom_it_comes_for() -> None:
    # (since + SPARE_S) - since is less than SPARE_S, in floating point.
    since = 111.39783392084384
    assert since + SPARE_S - since < SPARE_S
    near, (away, *rest) = Neighbours(OWN), contacts(10)
    near.met(ContactDown(away, Why.SILENT), since)
    _, gone = near.present_and_gone(rest, near.next_gone(since))
    assert gone[0] == {away.id}


def test_who_is_in_the_table_is_not_gone() -> None:
    near, (away, other) = Neighbours(OWN), contacts(2)
    near.met(ContactDown(away, Why.SILENT), 100.0)
    near.met(ContactDown(other, Why.SILENT), 101.0)
    near.met(ContactReturned(away, 20.0), 120.0)
    assert near.present_and_gone([away, other], 200.0) == ({away.id, other.id}, NONE)


def test_only_the_last_that_left_are_remembered() -> None:
    near = Neighbours(OWN)
    for contact in contacts(GONE_MAX + 1):
        near.met(ContactDown(contact, Why.SILENT), 0.0)
    _, *others = contacts(GONE_MAX + 1)
    present, gone = near.present_and_gone([], SPARE_S)
    assert not present and gone[-1] == {one.id for one in others}


def test_nobody_waits_for_many_that_left_at_once() -> None:
    everybody = contacts(NEIGHBOURS)
    quarter = NEIGHBOURS // 4
    for count, apart_s in ((quarter, 0.9), (quarter - 1, 0.9), (quarter, 1.2)):
        near = Neighbours(OWN)
        for number, contact in enumerate(everybody[:count]):
            near.met(ContactDown(contact, Why.SILENT), number * apart_s * SUDDEN_S / (quarter - 1))
        _, gone = near.present_and_gone(everybody[count:], 2 * SUDDEN_S + SPARE_S)
        left = {one.id for one in everybody[:count]}
        is_sudden = count == quarter and apart_s < 1.0
        assert gone[-1 if is_sudden else 0] == left


def test_who_is_missed_only_later_left_at_once_with_the_others() -> None:
    near, (late, later, *everybody) = Neighbours(OWN), contacts(NEIGHBOURS + 2)
    half = NEIGHBOURS // 2
    for contact in everybody[:half]:
        near.met(ContactDown(contact, Why.SILENT), 0.0)
    near.met(ContactDown(late, Why.SILENT), SUDDEN_LATE_S)
    near.met(ContactDown(later, Why.SILENT), SUDDEN_LATE_S + 1.0)
    _, gone = near.present_and_gone(everybody[half:], SUDDEN_LATE_S + 1.0 + SPARE_S)
    assert gone[-1] == {late.id, *(one.id for one in everybody[:half])}
    assert gone[0] == {later.id}


def test_who_is_missed_first_left_at_once_with_the_others_of_that_minute() -> None:
    near, everybody = Neighbours(OWN), sorted(contacts(NEIGHBOURS + 2), key=lambda one: one.id)
    *others, last, farthest = everybody
    half = NEIGHBOURS // 2
    near.met(ContactDown(farthest, Why.SILENT), 0.0)
    near.met(ContactDown(last, Why.SILENT), 1.0)
    for contact in others[:half]:
        near.met(ContactDown(contact, Why.SILENT), 0.5 + SUDDEN_S)
    _, gone = near.present_and_gone(others[half:], 0.5 + SUDDEN_S + SPARE_S)
    assert gone[-1] == {last.id, *(one.id for one in others[:half])}
    assert gone[0] == {farthest.id}


def test_who_left_before_a_peer_started_did_not_leave_all_at_once() -> None:
    near, everybody = Neighbours(OWN), contacts(NEIGHBOURS)
    half = NEIGHBOURS // 2
    for contact in everybody[:half]:
        near.met(ContactDown(contact, Why.UNSEEN), 0.0)
    _, gone = near.present_and_gone(everybody[half:], SPARE_S)
    assert gone[0] == {one.id for one in everybody[:half]}
    # Who came back, and left in this run, is as the others are.
    for contact in everybody[:half]:
        near.met(ContactReturned(contact, 1.0), 100.0)
        near.met(ContactDown(contact, Why.SILENT), 200.0)
    _, gone = near.present_and_gone(everybody[half:], 200.0 + SPARE_S)
    assert gone[-1] == {one.id for one in everybody[:half]}


def test_newcomers_are_asked_last_until_they_had_time_to_fetch_their_own() -> None:
    near, (one, two, moved) = Neighbours(OWN), contacts(3)
    near.met(ContactUp(one), 100.0)
    near.met(ContactMoved(moved, one.address), 100.0)
    assert near.best_first([one, two, moved], 101.0) == [two, moved, one]
    assert near.best_first([one, two, moved], 100.0 + NEW_S) == [one, two, moved]
    near.met(ContactDown(one, Why.SILENT), 102.0)
    assert near.best_first([one, two, moved], 103.0) == [one, two, moved]


def test_who_keeps_nothing_counts_for_nothing_and_is_asked_again_some_time() -> None:
    near, (one, two) = Neighbours(OWN), contacts(2)
    assert near.keepers([one, two]) == [one, two] and not near.is_known(one, 0.0)
    near.note(one, 0.0, keeps=False)
    near.note(two, 0.0, keeps=True)
    assert near.keepers([one, two]) == near.best_first([one, two], 1.0) == [two]
    assert near.is_known(one, KEEPS_NOT_S - 1.0) and not near.is_known(one, KEEPS_NOT_S)
    assert near.is_known(two, 1e9)
    near.met(ContactReturned(one, 60.0), 60.0)
    assert near.keepers([one]) == [one]


def test_of_keepers_only_so_many_are_noted() -> None:
    near = Neighbours(OWN)
    everybody = contacts(KEEPERS_MAX + 1)
    for contact in everybody:
        near.note(contact, 0.0, keeps=False)
    assert near.keepers(everybody) == everybody[:1]


# Whom to ask


def contacts(count: int) -> list[Contact]:
    return [Contact(known, ("192.0.2.1", port)) for port, known in enumerate(ids(count), 1)]


def test_few_contacts_are_asked_for_many_keys() -> None:
    everybody, keys = contacts(12), ids(100, seed=2)

    def closest(key: bytes) -> list[Contact]:
        return sorted(everybody, key=lambda one: distance(one.id, key))

    asks = whom_to_ask({key: closest(key) for key in keys}, COPIES, lambda _: 0.1)
    assert sorted(key for asked in asks.values() for key in asked) == sorted(keys)
    assert len(asks) <= 4
    for contact, asked in asks.items():
        assert all(contact in closest(key)[:COPIES] for key in asked)


def test_of_those_that_are_to_have_a_key_one_of_the_quicker_half_is_asked() -> None:
    everybody, keys = contacts(12), ids(100, seed=2)

    def closest(key: bytes) -> list[Contact]:
        return sorted(everybody, key=lambda one: distance(one.id, key))

    def rtt_s(contact: Contact) -> float:
        # Of one nothing is known.
        return math.inf if contact == everybody[0] else contact.address[1]

    asks = whom_to_ask({key: closest(key) for key in keys}, COPIES, rtt_s)
    assert sorted(key for asked in asks.values() for key in asked) == sorted(keys)
    for contact, asked in asks.items():
        for key in asked:
            near = closest(key)[:COPIES]
            assert contact in near
            assert sum(rtt_s(one) < rtt_s(contact) for one in near) < COPIES / 2


def test_a_key_with_nobody_to_ask_is_left_out() -> None:
    (other,) = contacts(1)
    key, lost = ids(2, seed=2)
    assert whom_to_ask({key: [other], lost: []}, COPIES, lambda _: 0.1) == {other: [key]}


# Room


def test_where_there_is_room_for_all_all_stay_in_their_order() -> None:
    own, *others = ids(30)
    due = plan_repairs(own, others, NONE, shares_of(manifest(50, 5_000)), COPIES)
    assert affordable(due, sum(one.size_bytes for one in due)) == due


def test_without_room_for_all_the_worst_off_come_first_and_then_the_closest() -> None:
    own, *others = ids(30)
    gone = [*NONE[1:], others[:5]]
    due = plan_repairs(own, others[5:], gone, shares_of(manifest(50, 5_000)), COPIES)
    assert len({one.gone for one in due}) > 1
    room = sum(one.size_bytes for one in due) // 3
    kept = affordable(due, room)
    assert kept == [one for one in due if one in kept]
    assert 0.8 * room < sum(one.size_bytes for one in kept) <= room
    worst = min((one.gone, -one.rank) for one in kept)
    assert all((one.gone, -one.rank) <= worst for one in due if one not in kept)
    assert affordable(due, 0) == []


def test_what_enough_others_are_closer_to_is_spared_the_farthest_first() -> None:
    own, *others = ids(15)
    whole = manifest(60, 5_000)
    spared = spare_shares(own, others, whole, COPIES)
    ranks = [closer(own, others, share.key) for share in spared]
    assert ranks == sorted(ranks, reverse=True)
    assert min(ranks) == COPIES
    due = {
        one.share.key
        for one in plan_repairs(own, others, NONE, shares_of(whole), COPIES)
        if one.with_bytes
    }
    assert len(due) + len(spared) == 60
    assert not due & {share.key for share in spared}


def test_a_small_file_is_spared_only_where_all_who_keep_its_record_are_closer() -> None:
    own, *others = ids(15)
    assert spare_shares(own, others, manifest(60), COPIES) == []
