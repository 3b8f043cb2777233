"""Finds out how this peer fares, for `p2pweb doctor`; and tries to reach another one that asks.

Three things cannot be seen from inside: whether others reach this peer's port, whether its clock is
right, whether its disk keeps up. Some contacts are asked for the first two. Whoever asks to be
reached is tried at the address that it asks from, and nowhere else, and not often: a peer is no
tool to look for other machines' open ports.
"""

import asyncio
import functools
import ipaddress
import os
import shutil
import socket
import statistics
import tempfile
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from p2pweb.address import Address, format_address
from p2pweb.clock import WallClock
from p2pweb.dht.contact import canonical_host
from p2pweb.dht.overlay import ContactState, Overlay
from p2pweb.errors import RemoteError, UnavailableError
from p2pweb.exchange.client import PeerClient, tcp_connector
from p2pweb.exchange.facts import REACH_ASKED_MAX, REACH_S, Disk, Facts, Reached, ReachedBy
from p2pweb.exchange.reader import Runner
from p2pweb.exchange.wire import PeerStatus
from p2pweb.http.fields import parse_date

# Peers whose clocks are compared: of five, two may be wrong.
CLOCKS_MAX = 5
# What a commit of small pages comes to. The best of three: somebody else may use the disk.
SYNCED_BYTES = 4_096
SYNCS = 3
# Peers being tried at one time; each waits for `REACH_S` at most.
REACHES_MAX = 4
# A machine is tried again after so long; a person does not ask more often.
REACH_PAUSE_S = 5.0
# Machines of which that is remembered, 0.2 KB each; of more the oldest is forgotten.
REACHED_MAX = 1_024


class Reacher:
    """Tries whether those that ask can be reached at their own address."""

    def __init__(self, client: PeerClient, overlay: Overlay) -> None:
        self._client = client
        self._overlay = overlay
        self._trying = 0
        # When a machine was tried last; on loopback each port is one.
        self._tried: OrderedDict[str, float] = OrderedDict()

    async def reach(self, node_id: str, address: Address) -> Reached:
        """Whether the peer of this id answers there. UnavailableError where that is asked for too
        often."""
        now = asyncio.get_running_loop().time()
        machine = format_address(address) if _is_loopback(address[0]) else address[0]
        is_soon = now - self._tried.get(machine, -REACH_PAUSE_S) < REACH_PAUSE_S
        if is_soon or self._trying >= REACHES_MAX:
            raise UnavailableError("this peer has tried that a moment ago")
        self._tried[machine] = now
        self._tried.move_to_end(machine)
        while len(self._tried) > REACHED_MAX:
            self._tried.popitem(last=False)
        self._trying += 1
        try:
            udp, tcp = await asyncio.gather(self._ping(address), self._ask(address, node_id))
        finally:
            self._trying -= 1
        return Reached(udp=udp, tcp=tcp)

    async def _ping(self, address: Address) -> bool:
        try:
            async with asyncio.timeout(REACH_S):
                return await self._overlay.ping(address) is not None
        except TimeoutError:
            return False

    async def _ask(self, address: Address, node_id: str) -> bool:
        try:
            async with asyncio.timeout(REACH_S):
                return (await self._client.peer_info(address)).id == node_id
        except (RemoteError, TimeoutError):
            return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a peer runs: its id, the IP addresses and the port that it listens on, its data."""

    node_id: bytes
    hosts: tuple[str, ...]
    port: int
    data: Path


class Checkup:
    """Gathers the facts about one peer."""

    def __init__(
        self, place: Place, client: PeerClient, overlay: Overlay, wall: WallClock, run: Runner
    ) -> None:
        self._place = place
        self._client = client
        self._overlay = overlay
        self._wall = wall
        self._run = run
        # Asked twice at once, the second waits: writing to the disk is enough once.
        self._one = asyncio.Lock()

    async def facts(self, status: Callable[[], Awaitable[PeerStatus]]) -> Facts:
        """All of them; takes some seconds where somebody does not answer."""
        async with self._one:
            contacts = [one for one in self._overlay.contacts() if one.proved and not one.strikes]
            is_own = _own_hosts({one.address[0] for one in contacts})
            # Those elsewhere can tell what this machine's own cannot; then the last heard first.
            contacts.sort(key=lambda one: (is_own[one.address[0]], -one.last_answer))
            told, reached, ahead_s, disk = await asyncio.gather(
                status(),
                self._reached(contacts[:REACH_ASKED_MAX]),
                self._clock_ahead(contacts[:CLOCKS_MAX]),
                self._run(lambda: probe_disk(self._place.data)),
            )
            return Facts(
                status=told,
                port=self._place.port,
                reached=reached,
                clock_ahead_s=ahead_s,
                disk=disk,
                one_machine=bool(contacts) and all(is_own.values()),
            )

    async def _reached(self, contacts: Sequence[ContactState]) -> tuple[ReachedBy, ...]:
        async def ask(contact: ContactState) -> ReachedBy | None:
            client = self._client_towards(contact.address)
            node_id, port = self._place.node_id.hex(), self._place.port
            try:
                found = await client.reach(contact.address, node_id, port)
            except RemoteError:
                return None  # It is busy, or leaving.
            finally:
                if client is not self._client:
                    await client.close()
            if found is None:
                return None
            peer = format_address(contact.address)
            return ReachedBy(peer=peer, udp=found.udp, tcp=found.tcp)

        found = await asyncio.gather(*map(ask, contacts))
        return tuple(one for one in found if one is not None)

    def _client_towards(self, address: Address) -> PeerClient:
        """Who asks to be reached must ask from the address that it listens on: another one of this
        machine has no peer."""
        hosts = [
            host
            for host in self._place.hosts
            if canonical_host(host) is not None and (":" in host) == (":" in address[0])
        ]
        if not hosts:
            return self._client  # It listens on all addresses.
        # Of several, one from which there is a way.
        hosts.sort(key=lambda host: _is_loopback(host) != _is_loopback(address[0]))
        return PeerClient(functools.partial(tcp_connector, local_host=hosts[0]))

    async def _clock_ahead(self, contacts: Sequence[ContactState]) -> float | None:
        """By how much this clock is ahead of the others', their median, to the second or so."""

        async def ask(contact: ContactState) -> float | None:
            before_s = self._wall()
            try:
                date = await self._client.clock(contact.address)
            except RemoteError:
                return None
            now_s = self._wall()
            there_s = parse_date(date.encode(), near_unix_s=int(now_s))
            # A Date has no fractions: half a second is the mean of what it leaves out.
            return None if there_s is None else (before_s + now_s) / 2 - (there_s + 0.5)

        found = await asyncio.gather(*map(ask, contacts))
        ahead = [one for one in found if one is not None]
        return statistics.median(ahead) if ahead else None


def probe_disk(folder: Path) -> Disk:
    """How much room there is, and how long a small write to a file of its own takes to be durable.

    Blocks for as long as the disk does; nothing is left behind.
    """
    free_bytes, sync_s, fault = 0, 0.0, ""
    try:
        free_bytes = shutil.disk_usage(folder).free
        with tempfile.TemporaryFile(dir=folder) as file:
            sync_s = min(_sync(file.fileno()) for _ in range(SYNCS))
    except OSError as error:
        fault = error.strerror or type(error).__name__
    return Disk(
        data=_shown(str(folder.resolve())),
        free_bytes=free_bytes,
        sync_s=sync_s,
        fault=_shown(fault),
    )


def _shown(text: str) -> str:
    """Text fit for a terminal, and for JSON: names of files may hold any bytes."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _sync(descriptor: int) -> float:
    began = time.monotonic()
    os.write(descriptor, bytes(SYNCED_BYTES))
    os.fsync(descriptor)
    return time.monotonic() - began


def _own_hosts(hosts: set[str]) -> dict[str, bool]:
    """Which of these addresses (IP literals) are this machine's: a socket can be bound to those."""
    return {host: _is_loopback(host) or _is_own(host) for host in hosts}


def _is_own(host: str) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host).is_loopback
