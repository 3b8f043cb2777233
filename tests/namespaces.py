"""A network of a test's own: a network namespace with addresses that no other machine has."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import pytest

CLONE_NEWNET = 0x40000000
ETH_P_IP = 0x0800
SO_RCVBUFFORCE = 33
SOL_PACKET = 263
PACKET_STATISTICS = 6
# Room for all that a test sends while the thread that reads has no turn.
CAPTURED_BYTES_MAX = 64 * 1024 * 1024
# How often the thread looks whether it is to stop.
LOOK_S = 0.1


@contextlib.contextmanager
def own_network(*addresses: str) -> Iterator[None]:
    """Have the calling thread, and what it starts, in a new network with these IPv4 addresses.

    Skips the test with the reason where that cannot be made.
    """
    if not sys.platform.startswith("linux"):
        pytest.skip("network namespaces are Linux's")
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if libc.unshare(CLONE_NEWNET):
            pytest.skip(f"cannot make a network namespace: {os.strerror(ctypes.get_errno())}")
        try:
            _run_ip("link", "set", "lo", "up")
            for address in addresses:
                _run_ip("address", "add", f"{address}/24", "dev", "lo")
            yield
        finally:
            if libc.setns(before, CLONE_NEWNET):
                os._exit(1)  # Any other test would run in the wrong network.
    finally:
        os.close(before)


def _run_ip(*words: str) -> None:
    try:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("cannot give a network namespace addresses: there is no `ip` command")
    if done.returncode:
        pytest.skip(f"`ip {' '.join(words)}` fails: {done.stderr.strip()}")


@dataclass(frozen=True, slots=True)
class Packet:
    """An IPv4 packet of TCP or UDP, and what it carries."""

    protocol: int
    source: tuple[str, int]
    destination: tuple[str, int]
    payload: bytes


class Capture:
    """Every packet on the network's one interface from `with` to its end."""

    def __init__(self) -> None:
        self.packets: list[Packet] = []
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IP))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, CAPTURED_BYTES_MAX)
        self._socket.settimeout(LOOK_S)
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._stop.set()
        self._thread.join()
        lost = struct.unpack("II", self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1]
        self._socket.close()
        assert not lost, f"{lost} packets were not captured"

    def _read(self) -> None:
        while True:
            try:
                data, (_, _, kind, *_) = self._socket.recvfrom(65_536)
            except TimeoutError:
                # Only then is everything read that came before.
                if self._stop.is_set():
                    return
                continue
            # Each packet is seen as it leaves and as it arrives.
            if kind != socket.PACKET_OUTGOING and (packet := _packet(data)) is not None:
                self.packets.append(packet)


def _packet(data: bytes) -> Packet | None:
    header_bytes, protocol = 4 * (data[0] & 15), data[9]
    body = data[header_bytes : int.from_bytes(data[2:4])]
    if protocol == socket.IPPROTO_UDP:
        payload = body[8:]
    elif protocol == socket.IPPROTO_TCP:
        payload = body[4 * (body[12] >> 4) :]
    else:
        return None
    source, destination = (socket.inet_ntoa(data[at : at + 4]) for at in (12, 16))
    ports = struct.unpack_from("!HH", body)
    return Packet(protocol, (source, ports[0]), (destination, ports[1]), payload)
