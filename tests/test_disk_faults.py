"""A peer whose disk fails while it runs serves on, and is not counted for what it has not got."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from peer_processes import PeerProcess, assert_serves, files_of, network, publish, run_cli
from survive_peers import SurviveError
from survive_power import Disk


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    write_version(folder, 1)
    return folder


def write_version(folder: Path, seq: int) -> None:
    """Rows and a file, more bytes than a database that is open has room for."""
    noise = random.Random(seq)
    (folder / "same.txt").write_text("the same in every version\n")
    for number in range(8):
        (folder / f"{number}.bin").write_bytes(noise.randbytes(60_000))
    (folder / "film.mp4").write_bytes(noise.randbytes(1_500_000))


@contextlib.contextmanager
def disk_at(folder: Path) -> Iterator[Disk]:
    """An empty disk, where this machine allows one."""
    disk = Disk(folder)
    try:
        disk.format()
    except SurviveError as error:
        pytest.skip(str(error))
    try:
        yield disk
    finally:
        disk.unmount()


def breaks_off(
    peers: list[PeerProcess],
    site: Path,
    key: Path,
    fail: Callable[[], None],
    change: Callable[[], object],
) -> None:
    """The second of two peers has its disk fail; a publish through it, and one past it."""
    healthy, broken = peers[0], peers[1]
    assert publish(site, healthy, key)["copies"] == 2
    before = files_of(site)
    change()
    fail()
    assert_serves(broken, before)

    words = ["publish", str(site), "--key", str(key), "--peer"]
    through = run_cli(*words, broken.address)
    assert through.returncode == 1
    assert f"{broken.address} answers 507: " in through.stderr
    assert "Traceback" not in through.stderr

    past = publish(site, healthy, key)
    assert (past["exit code"], past["copies"], past["copies_wanted"]) == (2, 1, 2)
    for peer in peers:
        peer.wait_for("/0.bin", files_of(site)["/0.bin"])
        assert_serves(peer, files_of(site))
        assert "Traceback" not in peer.log.read_text()


def test_a_directory_that_is_removed(tmp_path: Path, site: Path) -> None:
    with network(tmp_path / "peers", 2) as peers:
        # One row: a database that is open takes it, and its file has no name any more.
        breaks_off(
            peers,
            site,
            tmp_path / "key",
            fail=lambda: shutil.rmtree(peers[1].data),
            change=lambda: (site / "0.bin").write_text("changed\n"),
        )


@pytest.mark.parametrize("fault", ["cut", "make_read_only", "fill"])
def test_a_disk_that_fails(tmp_path: Path, site: Path, fault: str) -> None:
    with (
        disk_at(tmp_path / "peers" / "1") as disk,
        network(tmp_path / "peers", 2) as peers,
    ):
        breaks_off(
            peers,
            site,
            tmp_path / "key",
            fail=getattr(disk, fault),
            change=lambda: write_version(site, 2),
        )
