"""What a publisher sees of its new version through another peer: two real processes."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from peer_processes import PATIENCE_S, network, publish_here

from p2pweb import publish as publishing
from p2pweb.address import Address
from p2pweb.blobs import BlobId, blob_of
from p2pweb.exchange.client import PeerClient
from p2pweb.keys import create_key_file
from p2pweb.publish import Summary

FILES = {f"/{n}.txt": b"%d" % n * 100 for n in range(3)}


class Reader(PeerClient):
    """Notes what it reads back."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[str] = []

    async def page(self, address: Address, site: str, path: str, limit_bytes: int) -> BlobId:
        self.read.append(path)
        return await super().page(address, site, path, limit_bytes)


class AllAtOnce(Reader):
    """Reads no file before all of them are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self._all = asyncio.Barrier(len(FILES))

    async def page(self, address: Address, site: str, path: str, limit_bytes: int) -> BlobId:
        async with asyncio.timeout(PATIENCE_S), self._all:
            return await super().page(address, site, path, limit_bytes)


class Deceived(Reader):
    """Finds something else under one path."""

    async def page(self, address: Address, site: str, path: str, limit_bytes: int) -> BlobId:
        blob = await super().page(address, site, path, limit_bytes)
        return blob_of(b"something else")[0] if path == "/1.txt" else blob


async def read_back(folder: Path, client: Reader) -> Summary:
    """Publish the files to two peers."""
    site = folder / "site"
    site.mkdir()
    for path, data in FILES.items():
        (site / path[1:]).write_bytes(data)
    create_key_file(folder / "key", os.urandom)
    with network(folder / "peers", 2) as peers:
        return await publish_here(site, peers[0], folder / "key", client)


async def test_samples_are_read_side_by_side(tmp_path: Path) -> None:
    client = AllAtOnce()
    summary = await read_back(tmp_path, client)
    assert summary.read_back_from and sorted(client.read) == sorted(FILES)


async def test_other_bytes_are_told_and_the_version_is_live(tmp_path: Path) -> None:
    summary = await read_back(tmp_path, Deceived())
    assert summary.live and not summary.read_back_from
    assert "serves other bytes for /1.txt" in str(summary.not_read_back)


async def test_no_more_is_read_than_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "SAMPLE_BYTES_MAX", 250)
    client = Reader()
    summary = await read_back(tmp_path, client)
    assert summary.read_back_from and len(client.read) == 2
