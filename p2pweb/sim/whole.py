"""Whole peers of a run: real ones, each with a real directory, on the simulated loop and network.

A crash takes the directory as it is at that moment: the dead process is disposed of, with its own
copy, and whoever comes back starts from what the crash left. Nothing that the dead one still does
reaches the network or that disk.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Sequence
from copy import copy
from pathlib import Path

from p2pweb.address import Address
from p2pweb.dht.overlay import Overlay
from p2pweb.errors import RemoteError
from p2pweb.keys import SEED_BYTES, SiteKey
from p2pweb.node import PeerNode, PeerOptions, start_peer
from p2pweb.sim.network import Host, Network
from p2pweb.sim.outside import Inline, connector_on

PORT = 8_001
# What the clocks say when a run begins: 14 November 2023.
EPOCH_S = 1_700_000_000.0
# A peer that none of those it is to join by answers is started again so often, as its owner would.
STARTS_MAX = 20
START_AGAIN_S = 5.0
# What peers say of their room must not depend on the machine that a run is on.
FREE_BYTES = 1e12


def site_key(seed: int) -> SiteKey:
    """The key of the site that whole peers keep in a run."""
    return SiteKey(random.Random(f"key {seed}").randbytes(SEED_BYTES))


class Graveyard:
    """Dead peers until they are disposed of."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ending: dict[asyncio.Task[None], None] = {}

    def bury(self, node: PeerNode, folder: Path) -> None:
        task = self._loop.create_task(_dispose(node, folder))
        self._ending[task] = None
        task.add_done_callback(self._ended)

    async def emptied(self) -> None:
        """Wait until nothing is left of them."""
        while self._ending:
            await asyncio.wait(list(self._ending))

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._ending[task]
        task.result()


async def _dispose(node: PeerNode, folder: Path) -> None:
    await node.close()
    shutil.rmtree(folder)


class WholePeer:
    """One real peer. `folder` is where it, and those of the same disk after it, keep things."""

    def __init__(
        self,
        network: Network,
        host: Host,
        chance: random.Random,
        folder: Path,
        graveyard: Graveyard,
    ) -> None:
        self.host = host
        self.id = b""
        # Names the disk, across lives.
        self.disk = folder
        self._network = network
        self._chance = chance
        self._graveyard = graveyard
        self._lives = 0
        self._join: tuple[Address, ...] = ()
        self._node: PeerNode | None = None

    @property
    def address(self) -> Address:
        return self.host.ip, PORT

    @property
    def folder(self) -> Path:
        """Where this life's files are."""
        return self.disk / str(self._lives)

    @property
    def is_on_disk(self) -> bool:
        """Whether it has begun to keep things."""
        return (self.folder / "records.sqlite").exists()

    @property
    def records_received(self) -> int:
        """How many records others have sent it, in this life, to have it keep what it should."""
        return self._node.repair.received if self._node is not None else 0

    @property
    def overlay(self) -> Overlay:
        assert self._node is not None  # noqa: S101 - asked only of those that have started
        return self._node.overlay

    async def start(self, join: Sequence[Address]) -> None:
        # Its owner writes these down once, whoever of them is still there when it comes back.
        self._join = self._join or tuple(join)
        options = PeerOptions(port=PORT, data=self.folder, hosts=(self.host.ip,), join=self._join)
        for start in range(1, STARTS_MAX + 1):
            try:
                self._node = await start_peer(
                    options,
                    wall=self._wall,
                    entropy=self._chance.randbytes,
                    connector=connector_on(self._network, self.host),
                    writer=Inline,
                    free=lambda _: FREE_BYTES,
                )
                break
            except RemoteError:
                if start == STARTS_MAX:
                    raise
                await asyncio.sleep(START_AGAIN_S)
        assert self._node is not None  # noqa: S101 - it has just started
        self.id = self._node.node_id

    def kill(self) -> None:
        assert self._node is not None  # noqa: S101 - only those that have started are killed
        node, left = self._node, self.folder
        self._node = None
        self._lives += 1
        shutil.copytree(left, self.folder)
        self._graveyard.bury(node, left)

    def again(self) -> WholePeer:
        return copy(self)

    def _wall(self) -> float:
        return EPOCH_S + self._network.loop.time() + self.host.skew_s
