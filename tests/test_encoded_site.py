"""A site with encodings, on real peers: served as it is asked for, kept, and made up for."""

from __future__ import annotations

import asyncio
import base64
import gzip
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import brotli
import pytest
import zstandard
from peer_processes import (
    PATIENCE_S,
    Answer,
    PeerProcess,
    assert_serves,
    files_of,
    free_ports,
    network,
    publish,
    publish_here,
    run_cli,
)

from p2pweb import encodings
from p2pweb.blobs import SEGMENT_BYTES

# Its second half is the first once more, further back than gzip can see, so that br and zstd save
# enough to be kept beside it.
PAGE = "<p>Größe</p>".encode() + 2 * random.Random(4).randbytes(40_000).hex().encode()

DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "br": brotli.decompress,
    "zstd": lambda data: zstandard.ZstdDecompressor().decompress(data),
    "gzip": gzip.decompress,
}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "index.html").write_bytes(PAGE)
    (folder / "404.html").write_bytes(PAGE + b"nothing here")
    (folder / "main.css").write_bytes(b"p { color: red }" + PAGE)
    (folder / "small.txt").write_text("small\n")
    (folder / "photo.jpg").write_bytes(random.Random(1).randbytes(5_000))
    return folder


def ask(peer: PeerProcess, path: str, accepted: str, method: str = "GET", **more: str) -> Answer:
    return peer.get(path, method, Accept_Encoding=accepted, **more)


def assert_serves_encoded(peer: PeerProcess, path: str, expected: bytes) -> dict[str, str]:
    """Every encoding when it is asked for, and identity when not; the ETag of each."""
    answers = {name: ask(peer, path, name) for name in DECODERS}
    answers["identity"] = peer.get(path)
    tags: dict[str, str] = {}
    for name, answer in answers.items():
        where = f"{path} as {name} through {peer.address}"
        assert answer.status == 200, where
        assert answer.fields["Vary"] == "Accept-Encoding", where
        assert answer.fields["Content-Length"] == str(len(answer.body)), where
        if name == "identity":
            assert "Content-Encoding" not in answer.fields
            assert answer.body == expected, where
        else:
            assert answer.fields["Content-Encoding"] == name
            assert len(answer.body) < len(expected) * 0.6, where
            assert DECODERS[name](answer.body) == expected, where
        tags[name] = answer.fields["ETag"]
    assert len(set(tags.values())) == 4
    return tags


def test_every_peer_serves_what_is_asked_for_also_after_the_publisher_is_gone(
    tmp_path: Path, site: Path
) -> None:
    with network(tmp_path / "peers", 4) as peers:
        publish(site, peers[0], tmp_path / "key")
        tags = [assert_serves_encoded(peer, "/index.html", PAGE) for peer in peers]
        assert all(one == tags[0] for one in tags)

        peers[0].kill_9()
        newcomer = PeerProcess(free_ports(1)[0], tmp_path / "new", [peers[2].port])
        try:
            newcomer.start()
            for peer in (*peers[1:], newcomer):
                assert assert_serves_encoded(peer, "/index.html", PAGE) == tags[0]
                assert_serves(peer, files_of(site))
        finally:
            newcomer.kill_9()


def test_negotiation_ranges_and_conditions_hold_for_each_encoding(
    tmp_path: Path, site: Path
) -> None:
    with network(tmp_path / "peers", 1) as peers:
        peer = peers[0]
        publish(site, peer, tmp_path / "key")
        whole = ask(peer, "/", "gzip, deflate, br, zstd")
        assert whole.fields["Content-Encoding"] in ("br", "zstd")
        assert whole.body == min((ask(peer, "/", name).body for name in DECODERS), key=len)
        whole = ask(peer, "/", "gzip, deflate, br")
        assert whole.fields["Content-Encoding"] == "br"
        assert ask(peer, "/", "gzip, deflate").fields["Content-Encoding"] == "gzip"
        assert "Content-Encoding" not in ask(peer, "/", "br;q=0").fields
        head = ask(peer, "/", "br", "HEAD")
        assert {**head.fields, "Date": ""} == {**whole.fields, "Date": ""}
        assert head.body == b""

        part = ask(peer, "/", "br", Range="bytes=3-9")
        assert (part.status, part.body) == (206, whole.body[3:10])
        assert part.fields["Content-Range"] == f"bytes 3-9/{len(whole.body)}"
        known = {"If_None_Match": whole.fields["ETag"]}
        assert ask(peer, "/", "br", **known).status == 304
        assert ask(peer, "/", "gzip", **known).status == 200

        missing = ask(peer, "/missing", "gzip")
        assert (missing.status, missing.fields["Content-Encoding"]) == (404, "gzip")
        assert gzip.decompress(missing.body) == PAGE + b"nothing here"
        for path in ("/small.txt", "/photo.jpg"):
            plain = ask(peer, path, "br, gzip")
            assert "Content-Encoding" not in plain.fields
            assert plain.body == (site / path[1:]).read_bytes()


def test_long_encodings_are_spread_by_segments_and_read_anywhere(
    tmp_path: Path, site: Path
) -> None:
    # Letters that carry six bits each, and some that repeat: there are two segments of all.
    data = base64.b64encode(random.Random(2).randbytes(SEGMENT_BYTES + SEGMENT_BYTES // 8))
    data += 2 * data[-SEGMENT_BYTES // 4 :]
    (site / "data.csv").write_bytes(data)
    with network(tmp_path / "peers", 3) as peers:
        publish(site, peers[0], tmp_path / "key", "--copies", "1")
        for peer in peers:
            for name, decode in DECODERS.items():
                answer = ask(peer, "/data.csv", name)
                assert answer.fields["Content-Encoding"] == name
                assert len(answer.body) > SEGMENT_BYTES
                assert decode(answer.body) == data


def test_publishing_again_changes_nothing_and_one_change_is_one_change(
    tmp_path: Path, site: Path
) -> None:
    key = tmp_path / "key"
    with network(tmp_path / "peers", 3) as peers:
        first = publish(site, peers[0], key)
        sizes = sum(len(data) for data in files_of(site).values())
        assert first["sent_bytes"] > sizes
        words = ["publish", str(site), "--peer", peers[1].address, "--key", str(key)]
        assert "0 added, 0 changed, 0 removed, 5 unchanged" in run_cli(*words, "--dry-run").stdout
        again = run_cli(*words)
        assert "nothing has changed" in again.stdout
        assert "compressing" not in again.stderr
        (site / "main.css").write_bytes(b"p { color: blue }" + PAGE)
        assert "0 added, 1 changed, 0 removed, 4 unchanged" in run_cli(*words, "--dry-run").stdout

        summary = publish(site, peers[1], key)

        assert summary["seq"] == 2
        assert summary["changes"]["changed"] == ["/main.css"]  # type: ignore[index]
        for peer in peers:
            assert_serves_encoded(peer, "/main.css", (site / "main.css").read_bytes())


def lose_encodings(peer: PeerProcess, sizes: set[int]) -> None:
    """Stop a peer, take blobs of these sizes from its disk, and start it again."""
    peer.stop()
    database = sqlite3.connect(peer.data / "records.sqlite")
    with database:
        for size in sizes:
            assert database.execute("DELETE FROM segments WHERE size = ?", (size,)).rowcount
    database.close()
    peer.start()


def encoded_sizes(peer: PeerProcess, path: str) -> set[int]:
    return {len(ask(peer, path, name).body) for name in DECODERS}


def test_encodings_that_were_lost_are_made_again_from_the_directory(
    tmp_path: Path, site: Path
) -> None:
    key = tmp_path / "key"
    with network(tmp_path / "peers", 1) as peers:
        publish(site, peers[0], key)
        sizes = encoded_sizes(peers[0], "/index.html")
        lose_encodings(peers[0], sizes)
        assert ask(peers[0], "/index.html", "gzip").status == 503

        summary = publish(site, peers[0], key)

        assert (summary["seq"], summary["sent_bytes"]) == (1, sum(sizes))
        assert_serves_encoded(peers[0], "/index.html", PAGE)


async def test_encodings_that_cannot_be_made_again_become_a_new_version(
    tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "key"
    with network(tmp_path / "peers", 1) as peers:
        await asyncio.to_thread(publish, site, peers[0], key)
        # As another version of zlib would: bytes that no peer has asked for.
        monkeypatch.setattr(encodings, "GZIP_LEVEL", 1)
        assert (await publish_here(site, peers[0], key)).seq == 1

        await asyncio.to_thread(
            lambda: lose_encodings(peers[0], encoded_sizes(peers[0], "/index.html"))
        )
        summary = await publish_here(site, peers[0], key)

        assert summary.seq == 2
        assert "/index.html" in summary.changes.changed
        assert set(summary.changes.changed) <= {"/index.html", "/404.html", "/main.css"}
        await asyncio.to_thread(assert_serves_encoded, peers[0], "/index.html", PAGE)


def test_the_work_directory_is_gone_after_success_failure_and_ctrl_c(
    tmp_path: Path, site: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    environment = {"TMPDIR": str(scratch)}
    with network(tmp_path / "peers", 1) as peers:
        words = ["publish", str(site), "--peer", peers[0].address, "--key"]
        assert run_cli(*words, str(tmp_path / "key"), **environment).returncode == 0
        assert list(scratch.iterdir()) == []
        # The peer keeps one site, and hears of the other one after its encodings were made.
        assert run_cli(*words, str(tmp_path / "other key"), **environment).returncode == 1
        assert list(scratch.iterdir()) == []

        for number in range(24):
            data = base64.b64encode(random.Random(number).randbytes(2_000_000))
            (site / f"{number}.csv").write_bytes(data)
        process = subprocess.Popen(
            [sys.executable, "-m", "p2pweb", *words, str(tmp_path / "key")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        assert process.stderr is not None
        while not process.stderr.readline().startswith("compressing"):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 130
        process.stderr.close()
        assert list(scratch.iterdir()) == []
