"""Power cuts: what `publish` counted must be on the disks of peers that lost all unsynced writes.

Each peer's directory is an ext4 file system in a file of its own. A cut is what the ext4 ioctl
"shutdown" without a flush of the journal does: from then on nothing more reaches the device, as if
the power were gone; mounted again, the file system has what was synced, and hardly more. The mount
options keep the system from flushing by itself within the seconds of a round. That is checked each
time before a run (`check_premise`), and `SABOTAGES` are peers that do not sync: a run with one of
them must find faults, or its finding none with real peers says nothing.

What it cannot show: ext4 makes all earlier names durable with any sync, other file systems may not.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import random
import shutil
import struct
import subprocess
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from ports import free_ports
from survive_disk import SITE, copies_of, copies_on
from survive_peers import HOST, Files, Published, Site, SurviveError
from survive_warm import WarmPeer, warm_publish

from p2pweb.blobs import SEGMENT_BYTES
from p2pweb.errors import P2PWebError
from p2pweb.exchange.client import PeerClient
from p2pweb.store.store import INLINE_BYTES_MAX

DISK_BYTES = 96 * 1024 * 1024
# The journal is committed after so many seconds; a rename does not flush the bytes of its file.
MOUNT_OPTIONS = "loop,noatime,commit=300,noauto_da_alloc,errors=remount-ro"
# linux/fs/ext4/ext4.h: _IOR('X', 125, __u32), and not even the journal is flushed.
EXT4_IOC_SHUTDOWN = 0x8004587D
EXT4_GOING_FLAGS_NOLOGFLUSH = 2
# A new file system, a new site and new peers every so many rounds: first writes are special.
FRESH_EVERY = 4
# Before one round in so many, the power fails at a random moment of a publish.
BROKEN_OFF_EVERY = 3
BROKEN_OFF_S = 1.0
ANSWER_S = 60.0
# Whoever was silent is asked again within fifteen seconds; peers have a minute.
MEET_PAUSE_S = 0.05
MEET_LOOKS = 1_200

# Python that begins a peer which does not sync one of the things that it should.
_NO_SYNC = """
import os, types, {module} as module
module.os = types.SimpleNamespace(**{{**vars(os), "fsync": lambda descriptor: None}})
"""
SABOTAGES: Mapping[str, str] = {
    "rows": """
from p2pweb.store import opening
def connect(database, connect=opening.connect, **options):
    connection = connect(database, **options)
    connection.execute("PRAGMA synchronous = OFF")
    return connection
opening.connect = connect
""",
    "segments": _NO_SYNC.format(module="p2pweb.store.segments"),
    "state": _NO_SYNC.format(module="p2pweb.peer_state"),
}


class Disk:
    """A file system that can lose its power. SurviveError where this machine allows none."""

    def __init__(self, folder: Path) -> None:
        self._image = folder.with_suffix(".img")
        self.folder = folder
        self._is_mounted = False
        folder.mkdir(parents=True)

    def format(self) -> None:
        """Make it empty, and mount it."""
        self.unmount()
        with self._image.open("wb") as image:
            image.truncate(DISK_BYTES)
        _system("mkfs.ext4", "-q", "-F", "-m", "0", str(self._image))
        self.mount()

    def mount(self) -> None:
        _system("mount", "-o", MOUNT_OPTIONS, str(self._image), str(self.folder))
        self._is_mounted = True

    def cut(self) -> None:
        """The power is gone. Whoever still has a file open there can do no more with it."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            flags = struct.pack("I", EXT4_GOING_FLAGS_NOLOGFLUSH)
            fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, flags)
        except OSError as error:
            raise SurviveError(f"this system cannot cut a disk off: {error.strerror}") from None
        finally:
            os.close(descriptor)

    def make_read_only(self) -> None:
        """What ext4 does where it finds itself damaged, also with files open for writing."""
        device = self.folder.stat().st_dev
        name = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve().name
        try:
            Path(f"/sys/fs/ext4/{name}/trigger_fs_error").write_text("1")
        except OSError as error:
            raise SurviveError(
                f"this system cannot fake a damaged disk: {error.strerror}"
            ) from None

    def fill(self) -> None:
        """Leave no byte free."""
        with (self.folder / "filler").open("wb", buffering=0) as file:
            for size in (1024 * 1024, 1024):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def unmount(self) -> None:
        if self._is_mounted:
            _system("umount", str(self.folder))
            self._is_mounted = False

    def power_up(self) -> None:
        """Mount it again after a cut, when nobody uses it any more."""
        self.unmount()
        self.mount()


def _system(*command: str) -> None:
    if os.geteuid() != 0:
        raise SurviveError("only root may mount file systems")
    if shutil.which(command[0]) is None:
        raise SurviveError(f"there is no {command[0]} here")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["it does not say why"])[0]
        raise SurviveError(f"{command[0]} fails: {why}")


def check_premise(disk: Disk) -> None:
    """A cut loses what was not synced, and only that. SurviveError where it is otherwise."""
    disk.format()
    lost, kept = disk.folder / "lost", disk.folder / "kept"
    lost.write_bytes(b"not synced")
    with kept.open("wb") as file:
        file.write(b"synced")
        file.flush()
        os.fsync(file.fileno())
    late = disk.folder / "late"
    late.write_bytes(b"not synced")
    disk.cut()
    disk.power_up()
    if late.exists() or (lost.exists() and lost.read_bytes()) or kept.read_bytes() != b"synced":
        raise SurviveError("a cut on this system does not lose just what was not synced")


@dataclass(kw_only=True)
class PowerReport:
    seed: int
    rounds: int
    cuts: int = 0
    broken_off: int = 0
    """Cuts in the middle of a publish."""
    counted: int = 0
    """Copies that were counted by a publish and then looked for."""
    faults: list[str] = field(default_factory=list)


async def run_power(
    folder: Path, *, seed: int, rounds: int, peers: int = 2, code: str = ""
) -> PowerReport:
    """So many publishes, each followed by a power cut of all peers; what was lost."""
    report = PowerReport(seed=seed, rounds=rounds)
    disks = [Disk(folder / f"disk{number}") for number in range(peers)]
    run = _Run(report, folder, disks, random.Random(f"{seed} power"), code)
    try:
        check_premise(disks[0])
        for number in range(rounds):
            await run.round(number)
            if report.faults:
                break  # What follows would only echo it.
    finally:
        await asyncio.gather(*(peer.kill() for peer in run.peers))
        for disk in disks:
            disk.unmount()
    return report


class _Run:
    def __init__(
        self, report: PowerReport, folder: Path, disks: list[Disk], rng: random.Random, code: str
    ) -> None:
        self.report = report
        self.folder = folder
        self.disks = disks
        self.rng = rng
        self.code = code
        self.peers: list[WarmPeer] = []
        self.site = Site(folder / "site", rng)
        self.key = folder / "key"
        self.live: tuple[int, Files] = (0, {})

    async def round(self, number: int) -> None:
        if number % FRESH_EVERY == 0:
            await self._begin_afresh(number)
        self.site.write(self._next_files())
        seq, before = self.live[0] + 1, self.live
        if before[0] and number % BROKEN_OFF_EVERY == 0:
            publishing = asyncio.ensure_future(self._publish())
            await asyncio.wait([publishing], timeout=self.rng.uniform(0, BROKEN_OFF_S))
            self.report.broken_off += 1
            await self._cut(
                f"round {number}, cut within a publish", [before, (seq, self.site.files)]
            )
            await asyncio.gather(publishing, return_exceptions=True)
            if self.report.faults:
                return
        await self._meet()
        told = await self._publish()
        if told.code != 0 or told.copies < len(self.peers):
            raise SurviveError(f"a publish counted {told.copies} copies: {told.told}")
        self.live = (told.seq, self.site.files)
        await self._cut(f"round {number}", [self.live])

    async def _meet(self) -> None:
        """Wait until all know that the others are there: one that was silent a moment ago, its
        power being cut, is not counted on before it has answered."""
        client = PeerClient()
        try:
            for peer in self.peers:
                for _ in range(MEET_LOOKS):
                    if not await self._strangers(client, peer):
                        break
                    await asyncio.sleep(MEET_PAUSE_S)
                else:
                    raise SurviveError(f"peer {peer.number} does not meet the others")
        finally:
            await client.close()

    async def _strangers(self, client: PeerClient, peer: WarmPeer) -> int:
        status = await client.status((HOST, peer.port))
        here = sum(one.answered_ago_s is not None and not one.strikes for one in status.contacts)
        return len(self.peers) - 1 - here

    def _publish(self) -> Awaitable[Published]:
        through = self.rng.choice(self.peers)
        log = self.folder / "publish.log"
        return warm_publish(self.site.folder, self.key, through, len(self.peers), log)

    async def _begin_afresh(self, number: int) -> None:
        await asyncio.gather(*(peer.kill() for peer in self.peers))
        ports = free_ports(HOST, len(self.disks))
        self.peers = []
        for index, (disk, port) in enumerate(zip(self.disks, ports, strict=True)):
            disk.format()
            join = ports[0] if index else None
            log = self.folder / f"{index}.log"
            peer = WarmPeer(index, port, disk.folder / "data", log, join=join, code=self.code)
            self.peers.append(peer)
            await peer.start()
        self.site = Site(self.folder / f"site{number}", self.rng)
        self.key = self.folder / f"key{number}"
        self.live = (0, {})

    def _next_files(self) -> Files:
        """Rows, files, and one file of two segments; of a version before, every third one anew."""
        sizes = [self.rng.randrange(12_000) for _ in range(12)]
        sizes += [self.rng.randrange(INLINE_BYTES_MAX + 1, 400_000) for _ in range(4)]
        sizes += [SEGMENT_BYTES + self.rng.randrange(1, 400_000)]
        return {
            path: self.site.files[path]
            if path in self.site.files and self.rng.randrange(3)
            else (self.site.text(size) if number % 4 == 0 else self.site.bytes(size))
            for number, size in enumerate(sizes)
            for path in [f"/{number}.{'txt' if number % 4 == 0 else 'bin'}"]
        }

    async def _cut(self, where: str, right: list[tuple[int, Files]]) -> None:
        """Cut the power of all, look for one of these versions on each disk, and start them again.

        One peer is started alone, and asked for everything; the disks of the others are read.
        """
        ids = [peer.node_id for peer in self.peers]
        for disk in self.disks:
            disk.cut()
        await asyncio.gather(*(peer.kill() for peer in self.peers))
        for disk in self.disks:
            disk.power_up()
        self.report.cuts += 1
        self.report.counted += len(self.peers) * (1 + len(copies_of(right[0][1])))
        first, *others = self.rng.sample(self.peers, len(self.peers))
        try:
            await first.start()
            lost = await _not_served(first, right)
            self._blame(f"{where}: peer {first.number} alone does not serve", lost)
            for peer in others:
                lost = min((_not_on_disk(peer, *version) for version in right), key=len)
                self._blame(f"{where}: the disk of peer {peer.number} lacks", lost)
            await asyncio.gather(*(peer.start() for peer in others))
            if [peer.node_id for peer in self.peers] != ids:
                self.report.faults.append(f"{where}: a peer has come back with another id")
        except P2PWebError as error:
            self.report.faults.append(f"{where}: {error}")
        except SurviveError as error:
            self.report.faults.append(f"{where}: {error}")
        self.report.faults += [
            f"{where}: the log of peer {peer.number} has a traceback"
            for peer in self.peers
            if peer.tracebacks()
        ]

    def _blame(self, what: str, lost: list[str]) -> None:
        if lost:
            self.report.faults.append(f"{what} {len(lost)} of its copies, such as {lost[0]}")


def _not_on_disk(peer: WarmPeer, seq: int, files: Files) -> list[str]:
    found = copies_on(peer.data, seq, files)
    return [
        f"{path or 'the site record'} #{n}"
        for path, n in [SITE, *copies_of(files)]
        if (path, n) not in found
    ]


async def _not_served(peer: WarmPeer, right: list[tuple[int, Files]]) -> list[str]:
    """What a peer does not serve of the one of these versions that it has the most of."""
    served: dict[str, bytes] = {}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_S)) as session:
        for path in sorted({path for _, files in right for path in files}):
            try:
                async with session.get(peer.url + path) as response:
                    if response.status == 200:
                        served[path] = await response.read()
            except (aiohttp.ClientError, TimeoutError):
                continue
    return min(
        ([path for path in files if served.get(path) != files[path]] for _, files in right), key=len
    )
