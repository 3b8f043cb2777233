"""Ports for the servers and peers that the tools start."""

import contextlib
import socket


def free_ports(host: str, count: int) -> list[int]:
    """Ports of an address of this machine that nobody uses, neither for TCP nor for UDP: a peer
    takes both."""
    ports: list[int] = []
    with contextlib.ExitStack() as held:
        while len(ports) < count:
            stream = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            stream.bind((host, 0))
            port = stream.getsockname()[1]
            datagram = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            with contextlib.suppress(OSError):
                datagram.bind((host, port))
                ports.append(port)
    return ports
