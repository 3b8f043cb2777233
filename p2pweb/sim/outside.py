"""What peers use that brings a clock or random numbers of its own, made to follow the run.

aiohttp's connector measures how long a connection was idle by the process's clock, and shuffles
those who wait for one by the process's random numbers. Neither can be passed in. And what a
thousand peers of one process have alike, and none of them changes, is in memory once.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import socket
from collections.abc import Callable, Iterator
from typing import TypeVar, cast
from unittest import mock

from aiohttp import connector

from p2pweb.exchange.client import SILENT_S_MAX, ConnectorFactory, tcp_connector
from p2pweb.manifest import Manifest
from p2pweb.sim.network import Host, Network

T = TypeVar("T")

# Those of the versions that live at one time, and of the ones before.
MANIFESTS_MAX = 8


@contextlib.contextmanager
def simulated(network: Network, seed: int) -> Iterator[None]:
    """Within it all of aiohttp lives on the run's clock and seed, and manifests are shared."""
    decode = functools.lru_cache(maxsize=MANIFESTS_MAX)(Manifest.decode)
    with (
        mock.patch.object(connector, "monotonic", network.loop.time),
        mock.patch.object(connector, "random", random.Random(f"aiohttp {seed}")),
        mock.patch.object(Manifest, "decode", decode),
    ):
        yield


class Inline:
    """In place of a thread that writes: a commit is done when the call returns."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def __call__(self, call: Callable[[], T], /) -> asyncio.Future[T]:
        return self._loop.run_in_executor(None, call)

    def close(self) -> None:
        """Nothing is left to be done."""


def connector_on(network: Network, host: Host) -> ConnectorFactory:
    """Connections from a host as long as it lives this life, within the limits of real ones."""
    life = host.life

    def open_socket(address: object) -> socket.socket:
        return cast(socket.socket, network.streams.socket(host, life, SILENT_S_MAX))

    return functools.partial(tcp_connector, open_socket)
