"""A site's whole life, on real peers: published, read, losing peers, gaining peers, changed."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
from pathlib import Path

import pytest
from peer_processes import (
    SAMPLE,
    PeerProcess,
    assert_serves,
    files_of,
    free_ports,
    network,
    publish,
)

from p2pweb.blobs import BLOCK_BYTES, SEGMENT_BYTES, blob_of, segments_of
from p2pweb.dht.contact import distance
from p2pweb.exchange.client import PeerClient
from p2pweb.keys import SiteId, load_key_file
from p2pweb.peer_state import read_peer_state
from p2pweb.records import Encoding, FileRecord, dht_key, file_name, sign
from p2pweb.store.items import Item


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A copy of the sample site, to change at will."""
    return shutil.copytree(SAMPLE, tmp_path / "site")


def test_a_site_outlives_its_publisher_and_the_peers_that_come_back_serve_it(
    tmp_path: Path, site: Path
) -> None:
    files = files_of(site)
    with network(tmp_path / "peers", 5) as peers:
        summary = publish(site, peers[1], tmp_path / "key")
        assert summary["copies"] == summary["copies_wanted"] == 5
        assert len(summary["addresses"]) == 5
        for peer in peers:
            assert_serves(peer, files)

        peers[1].kill_9()
        peers[3].kill_9()
        for peer in (peers[0], peers[2], peers[4]):
            assert_serves(peer, files)

        for peer in (peers[1], peers[3]):
            peer.start()
            assert_serves(peer, files)


def test_a_restarted_peer_serves_from_its_own_disk_with_all_others_gone(
    tmp_path: Path, site: Path
) -> None:
    with network(tmp_path / "peers", 2) as peers:
        publish(site, peers[0], tmp_path / "key")
        for peer in peers:
            peer.kill_9()
        peers[1].start()
        assert_serves(peers[1], files_of(site))


def test_a_restarted_peer_needs_neither_its_own_bytes_nor_the_peers_that_it_joined_by(
    tmp_path: Path, site: Path
) -> None:
    shutil.rmtree(site)
    site.mkdir()
    for number in range(40):
        (site / f"{number}.txt").write_text(f"{number}\n")
    with network(tmp_path / "peers", 5) as peers:
        reader = peers[4]
        # Killed as soon as it has joined: what it has learned by then must do.
        reader.kill_9()
        known = read_peer_state(reader.data / "peer.json")
        assert known is not None and known.known()
        reader.start()
        summary = publish(site, peers[1], tmp_path / "key", "--copies", "1")
        ids = [peer.node_id for peer in peers]
        elsewhere = [
            path
            for path in files_of(site)
            if _closest(ids, dht_key(file_name(SiteId(str(summary["site"])), path, 0)))
            not in (ids[0], ids[4])
        ]
        assert len(elsewhere) > 3
        peers[0].kill_9()
        for path in elsewhere[:3]:
            reader.kill_9()
            # It is told to join by the peer that is gone, as it was the first time.
            answer = reader.start().get(path)
            assert (answer.status, answer.body) == (200, files_of(site)[path])
        assert "Traceback" not in reader.log.read_text()


def test_a_peer_that_missed_the_first_publish_learns_the_site_from_those_that_it_met(
    tmp_path: Path, site: Path
) -> None:
    with network(tmp_path / "peers", 3) as peers:
        late = peers[2]
        late.kill_9()
        publish(site, peers[1], tmp_path / "key")
        # The only one that it was told to join by.
        peers[0].kill_9()
        assert_serves(late.start(), files_of(site))


def _closest(ids: list[bytes], key: bytes) -> bytes:
    return min(ids, key=lambda one: distance(one, key))


def test_a_peer_that_joins_last_serves_every_page_at_once(tmp_path: Path, site: Path) -> None:
    with network(tmp_path / "peers", 3) as peers:
        publish(site, peers[0], tmp_path / "key")
        newcomer = PeerProcess(free_ports(1)[0], tmp_path / "new", [peers[2].port])
        try:
            newcomer.start()
            assert_serves(newcomer, files_of(site))
        finally:
            newcomer.kill_9()


def test_publishing_again_sends_only_what_changed_and_shows_one_version_everywhere(
    tmp_path: Path, site: Path
) -> None:
    with network(tmp_path / "peers", 3) as peers:
        publish(site, peers[0], tmp_path / "key")
        (site / "notes" / "words.txt").write_text("changed\n")
        (site / "new.txt").write_text("new\n")
        (site / "robots.txt").unlink()

        summary = publish(site, peers[2], tmp_path / "key")

        assert summary["seq"] == 2
        changes = summary["changes"]
        assert isinstance(changes, dict)
        assert changes["changed"] == ["/notes/words.txt"]
        assert changes["added"] == ["/new.txt"]
        assert changes["removed"] == ["/robots.txt"]
        assert summary["sent_bytes"] == len("changed\n") + len("new\n")
        for peer in peers:
            assert_serves(peer, files_of(site))
            assert peer.get("/robots.txt").status == 404

        again = publish(site, peers[1], tmp_path / "key")
        assert (again["seq"], again["sent_bytes"]) == (2, 0)


def test_a_flipped_byte_on_one_peers_disk_is_never_served_and_is_put_right(
    tmp_path: Path, site: Path
) -> None:
    with network(tmp_path / "peers", 3) as peers:
        publish(site, peers[0], tmp_path / "key")
        victim = peers[1]
        victim.stop()
        whole = _flip_bytes(victim.data)
        victim.start()

        assert_serves(victim, files_of(site))

        assert "is damaged" in victim.log.read_text()
        victim.wait_for("/index.html", files_of(site)["/index.html"])
        peers[0].kill_9()
        peers[2].kill_9()
        # What was fetched was put back: alone, and started afresh, the peer has everything.
        victim.stop()
        victim.start()
        assert_serves(victim, files_of(site))
        assert {path.name: path.read_bytes() for path in _blob_files(victim.data)} == whole


def _blob_files(data: Path) -> list[Path]:
    return sorted(path for path in (data / "blobs").rglob("*") if path.is_file())


def _flip_bytes(data: Path) -> dict[str, bytes]:
    """Damage every file and every row of bytes but the manifest's; what the files were before."""
    before = {path.name: path.read_bytes() for path in _blob_files(data)}
    for path in _blob_files(data):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    assert before
    database = sqlite3.connect(data / "records.sqlite")
    with database:
        for number, content in database.execute(
            "SELECT id, data FROM segments WHERE data IS NOT NULL"
        ).fetchall():
            flipped = bytes([content[0] ^ 1]) + content[1:] if content else content
            database.execute("UPDATE segments SET data = ? WHERE id = ?", (flipped, number))
    database.close()
    return before


def test_a_long_file_is_spread_by_segments_and_read_whole_and_in_ranges_anywhere(
    tmp_path: Path, site: Path
) -> None:
    shutil.rmtree(site)
    site.mkdir()
    film = random.Random(1).randbytes(3 * SEGMENT_BYTES + BLOCK_BYTES + 7)
    (site / "film.mp4").write_bytes(film)
    with network(tmp_path / "peers", 4) as peers:
        publish(site, peers[0], tmp_path / "key", "--copies", "2")
        sizes = [sum(path.stat().st_size for path in _blob_files(p.data)) for p in peers[1:]]
        # The first passes everything on and may itself be one of the two closest to a segment.
        assert len(film) <= sum(sizes) <= 2 * len(film)

        newcomer = PeerProcess(free_ports(1)[0], tmp_path / "new", [peers[3].port])
        try:
            newcomer.start()
            for peer in (*peers, newcomer):
                answer = peer.get("/film.mp4")
                assert answer.fields["Content-Type"] == "video/mp4"
                assert answer.body == film
            tags = {peer.get("/film.mp4", "HEAD").fields["ETag"] for peer in (*peers, newcomer)}
            assert len(tags) == 1
            for start, stop in RANGES:
                part = newcomer.get("/film.mp4", Range=f"bytes={start}-{stop - 1}")
                assert (part.status, part.body) == (206, film[start:stop])
        finally:
            newcomer.kill_9()


# Inside a block, across blocks, across segments, and the very last byte.
RANGES = [
    (5, 10),
    (BLOCK_BYTES - 1, BLOCK_BYTES + 1),
    (SEGMENT_BYTES - 3, 2 * SEGMENT_BYTES + 3),
    (3 * SEGMENT_BYTES + BLOCK_BYTES + 6, 3 * SEGMENT_BYTES + BLOCK_BYTES + 7),
]


def test_bytes_that_no_living_peer_has_are_a_503_that_says_why(tmp_path: Path, site: Path) -> None:
    shutil.rmtree(site)
    site.mkdir()
    # So many that the reader surely has some of them itself, and surely not all.
    for number in range(60):
        (site / f"{number}.txt").write_text(f"{number}\n")
    with network(tmp_path / "peers", 3) as peers:
        publish(site, peers[0], tmp_path / "key", "--copies", "1")
        reader = peers[2]
        for path, body in files_of(site).items():
            assert reader.get(path).body == body
        # The peer published through keeps what it passed on; started afresh, the reader has
        # nothing in memory.
        for peer in peers[:2]:
            peer.kill_9()
        reader.stop()
        reader.start()
        answers = [reader.get(path) for path in files_of(site)]
        statuses = {answer.status for answer in answers}
        assert statuses == {200, 503}
        unavailable = next(answer for answer in answers if answer.status == 503)
        assert unavailable.fields["Retry-After"]
        assert b"other peers" in unavailable.body

        for peer in peers[:2]:
            peer.start()
        for path, body in files_of(site).items():
            reader.wait_for(path, body)


async def test_publishes_that_broke_off_do_no_harm_to_those_that_follow(
    tmp_path: Path, site: Path
) -> None:
    words = site / "notes" / "words.txt"
    key_path = tmp_path / "key"
    with network(tmp_path / "peers", 3) as peers:
        await asyncio.to_thread(publish, site, peers[0], key_path)
        original = words.read_bytes()
        for seq in (2, 3, 4):
            # As far as a publisher came that was killed before its site record: on every peer,
            # a record of the next version, with its bytes.
            await hand_over(f"attempt {seq}".encode(), "/notes/words.txt", seq, key_path, peers)
            (site / "robots.txt").write_text(f"version {seq}\n")
            summary = await asyncio.to_thread(publish, site, peers[seq % 3], key_path)
            assert summary["seq"] == seq
            assert words.read_bytes() == original
            for peer in peers:
                await asyncio.to_thread(assert_serves, peer, files_of(site))


async def hand_over(
    data: bytes, path: str, seq: int, key_path: Path, peers: list[PeerProcess]
) -> None:
    key = load_key_file(key_path).key
    blob, _ = blob_of(data)
    record = FileRecord(
        public_key=key.public_key,
        path=path,
        seq=seq,
        media_type="text/plain; charset=utf-8",
        encodings=(Encoding("identity", blob.size_bytes, blob.root),),
    )
    client = PeerClient()
    for peer in peers:
        address = ("127.0.0.1", peer.port)
        (answer,) = await client.send(address, [Item(sign(record, key))], segments_of(data))
        assert answer.is_whole
    await client.close()


def test_a_publish_through_a_peer_of_another_site_is_refused(tmp_path: Path, site: Path) -> None:
    with network(tmp_path / "peers", 2) as peers:
        publish(site, peers[0], tmp_path / "key")
        with pytest.raises(AssertionError, match="does not store the site"):
            publish(site, peers[0], tmp_path / "other key")
        assert_serves(peers[1], files_of(site))


def test_a_site_is_served_under_its_own_name_and_unknown_names_are_refused(
    tmp_path: Path, site: Path
) -> None:
    with network(tmp_path / "peers", 2) as peers:
        summary = publish(site, peers[0], tmp_path / "key")
        own = peers[1].get("/", Host=f"{summary['site']}.localhost")
        assert (own.status, own.body) == (200, files_of(site)["/index.html"])
        assert peers[1].get("/", Host="example.org").status == 421
        unknown = peers[1].get("/", Host=f"{'a' * 52}.localhost")
        assert unknown.status == 404
