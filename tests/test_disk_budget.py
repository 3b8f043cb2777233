"""Budgets with real peers: a site larger than any of them, and a disk that has no room."""

from __future__ import annotations

import random
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
    run_cli,
)

BUDGET = 32_000_000


def _site(folder: Path, count: int, size: int) -> Path:
    folder.mkdir()
    rng = random.Random(7)
    for number in range(count):
        (folder / f"{number}.bin").write_bytes(rng.randbytes(size))
    return folder


def _on_disk(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def peers(tmp_path: Path) -> list[PeerProcess]:
    ports = free_ports(4)
    return [
        PeerProcess(port, tmp_path / "peers" / str(port), join=ports[:1] if index else [])
        for index, port in enumerate(ports)
    ]


def test_a_site_larger_than_each_disk_is_spread_and_a_larger_one_refused(
    tmp_path: Path, peers: list[PeerProcess]
) -> None:
    site = _site(tmp_path / "site", 11, 3_000_000)
    key = tmp_path / "key"
    try:
        for peer in peers:
            peer.start("--disk", "32MB")
        done = run_cli("publish", str(site), "--peer", peers[0].address, "--key", str(key))
        assert done.returncode == 2, done.stderr
        assert "copies: 1 of 4 wanted" in done.stdout
        assert "the peers have room for 33.0 MB 1 times: " in done.stderr
        for peer in peers:
            assert_serves(peer, files_of(site))
            assert _on_disk(peer.data) <= BUDGET
        for number in range(20):
            (site / f"more-{number}.bin").write_bytes(random.Random(number).randbytes(3_000_000))
        refused = run_cli("publish", str(site), "--peer", peers[0].address, "--key", str(key))
        assert refused.returncode == 1
        assert "the peers have no room for 60.0 MB: " in refused.stderr
        assert peers[1].address in refused.stderr
        assert "--disk" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert_serves(
            peers[3], {name: data for name, data in files_of(site).items() if "more" not in name}
        )
    finally:
        for peer in peers:
            peer.stop()


def test_a_peer_whose_database_is_damaged_starts_and_has_everything_from_the_others(
    tmp_path: Path,
) -> None:
    with network(tmp_path / "peers", 2) as (first, second):
        publish(SAMPLE, first, tmp_path / "key")
        second.stop()
        (second.data / "records.sqlite").write_bytes(b"no database " * 1_000)
        second.start()
        assert_serves(second, files_of(SAMPLE))
        assert "is damaged" in second.log.read_text()
        assert "Traceback" not in second.log.read_text()
        assert (second.data / "records.sqlite.damaged").exists()


def test_a_data_directory_that_vanishes_counts_no_copies_and_the_site_is_served(
    tmp_path: Path,
) -> None:
    with network(tmp_path / "peers", 2) as (first, second):
        publish(SAMPLE, first, tmp_path / "key")
        second.data.rename(tmp_path / "gone")
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "new.txt").write_text("new")
        done = run_cli(
            *("publish", str(tmp_path / "site"), "--peer", first.address),
            *("--key", str(tmp_path / "key")),
        )
        assert done.returncode == 2, done.stderr
        assert f"{second.address} answers 507" in done.stderr
        assert "records.sqlite is gone" in done.stderr
        assert_serves(first, {"/new.txt": b"new"})
        assert second.get("/new.txt").body == b"new"
        assert "Traceback" not in second.log.read_text()
        (tmp_path / "gone").rename(second.data)
