"""Peers that lie: what they remember and answer, and what visitors are served beside them."""

from __future__ import annotations

import asyncio
import random

import pytest

from p2pweb.blobs import blob_of, segments_of
from p2pweb.dht import wire
from p2pweb.dht.contact import ID_BYTES, NodeId
from p2pweb.keys import SEED_BYTES, SiteKey
from p2pweb.records import Signed, SiteRecord, dht_key, sign, site_name
from p2pweb.sim.hostile import HostilePeer, Kind
from p2pweb.sim.impostor import Loot
from p2pweb.sim.latency import Latency
from p2pweb.sim.loop import SimLoop
from p2pweb.sim.network import Conditions, Network
from p2pweb.sim.report import report
from p2pweb.sim.run import run
from p2pweb.sim.scenario import Expected, Hostile, Scenario, Sessions, Site, Workload

ASKER = NodeId(bytes(ID_BYTES))
KEY = b"k" * ID_BYTES
ASKER_PORT = 9


class Ear(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.heard: list[bytes] = []

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.heard.append(data)


def answer_after(*values: bytes, kind: Kind = "stale") -> wire.Answer:
    """What a liar says of a key after it was sent these values."""
    loop = SimLoop()
    network = Network(loop, 1, latency=Latency(1), conditions=Conditions())
    liar = HostilePeer(network, network.add_host(), random.Random(1), kind, gang := [])
    gang.append(liar)
    loop.run_until_complete(liar.start([]))
    ear = Ear()
    socket = network.bind((network.add_host().ip, ASKER_PORT), ear)
    question = wire.FindValue(ASKER, KEY)
    for asked in (*(wire.Store(ASKER, KEY, value) for value in values), question):
        socket.sendto(wire.encode_question(bytes(wire.MESSAGE_ID_BYTES), asked), liar.address)
        loop.run_until_complete(asyncio.sleep(1.0))
    loop.close()
    answered = wire.decode(ear.heard[-1])
    assert isinstance(answered, wire.Answered)
    return wire.decode_answer(question, answered.body)


def test_a_stale_liar_answers_with_an_old_value_and_never_with_the_last() -> None:
    assert answer_after(b"one", b"two", b"three") == wire.Value(b"one", {})
    for values in ([], [b"one"], [b"one", b"two", b"one"]):
        assert isinstance(answer_after(*values), wire.Nodes)


def test_a_colluding_liar_names_the_others_as_they_are_and_hands_out_what_is_old() -> None:
    assert answer_after(b"one", b"two", kind="colluding") == wire.Value(b"one", {})
    named = answer_after(b"one", kind="colluding")
    assert isinstance(named, wire.Nodes) and len(named.contacts) == 1
    # The stale liar under an id that it has not got.
    invented = answer_after(b"one")
    assert isinstance(invented, wire.Nodes) and invented.contacts[0].id[:16] == KEY[:16]
    assert named.contacts[0].id[:16] != KEY[:16]


SITE_KEY = SiteKey(bytes(SEED_BYTES))
SITE = dht_key(site_name(SITE_KEY.site))


def version(seq: int) -> tuple[Signed, bytes]:
    """A site's record, and bytes that stand for its manifest."""
    manifest = f"manifest {seq}".encode()
    blob, _ = blob_of(manifest)
    record = SiteRecord(
        public_key=SITE_KEY.public_key,
        seq=seq,
        published_s=0,
        copies=8,
        manifest_size_bytes=blob.size_bytes,
        manifest_root=blob.root,
    )
    return sign(record, SITE_KEY), manifest


def test_a_gang_hands_out_the_version_before_the_newest() -> None:
    loot = Loot()
    versions = [version(seq) for seq in (1, 2, 3)]
    blobs = [signed.record.blobs[0] for signed, _ in versions]
    for number, (signed, manifest) in enumerate(versions):
        # The only version that it knows may be the newest.
        assert (loot.old(SITE) is not None) == (number > 1)
        loot.note(signed.value)
        loot.note_bytes(segments_of(manifest)[0])
    loot.note(versions[0][0].value)
    loot.note(b"rubbish")
    assert loot.old(SITE) == versions[1][0] and loot.newest(SITE) == versions[2][0]
    assert [loot.old_manifest(blob) for blob in blobs] == [None, b"manifest 2", None]


@pytest.mark.parametrize(
    "hostile", [Hostile(share=0.3, kind="colluding"), Hostile(sybils=30)], ids=["anywhere", "next"]
)
def test_whole_peers_serve_the_newest_version_among_hostile_ones(hostile: Hostile) -> None:
    wanted = Scenario(
        about="versions of a site, and visitors, while honest peers come and go",
        peers_are="whole",
        peers=24,
        hours=0.025,
        joins_per_s=4.0,
        settle_s=20.0,
        hostile=hostile,
        sessions=Sessions(mean_s=100.0, place="same", away_s=15.0),
        workload=Workload(gets_per_s=4.0, misses=0.05),
        site=Site(files=4, publishes_per_hour=150.0, surveys=4),
        expected=Expected(served=0.99, newest=0.99, newest_after_s=1.0, proved=0.9, lost=0),
    )
    done = run(wanted, 2, lambda what, share: None)
    assert done.faults == [] and done.ledger.violations == []
    assert len(done.ledger.puts_s) >= 2 and len(done.ledger.gets) > 200
    assert report(done).missed == []
