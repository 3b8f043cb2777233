"""A machine that vanishes in the middle of an answer is not waited for as long as a slow one."""

from __future__ import annotations

import asyncio

import pytest
from namespaces import own_network

from p2pweb.errors import RemoteError
from p2pweb.exchange import client as client_module
from p2pweb.exchange.client import (
    PLACE_S,
    PROBE_AFTER_S,
    PROBE_EVERY_S,
    PROBES_MAX,
    PeerClient,
)

SERVER = "10.7.0.1"


def test_a_vanished_machine_is_noticed_by_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "PROBE_AFTER_S", 1)
    monkeypatch.setattr(client_module, "PROBE_EVERY_S", 1)
    monkeypatch.setattr(client_module, "PROBES_MAX", 1)
    with own_network(SERVER):
        asyncio.run(_ask_a_machine_that_vanishes())


async def _ask_a_machine_that_vanishes() -> None:
    is_over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        # Nothing reaches it any more, and nothing comes back: no RST, no ICMP.
        await (await asyncio.create_subprocess_exec("ip", "link", "set", "lo", "down")).wait()
        await is_over.wait()
        writer.transport.abort()

    server = await asyncio.start_server(serve, SERVER, 0)
    client = PeerClient()
    address = (SERVER, server.sockets[0].getsockname()[1])
    try:
        async with asyncio.timeout(30):
            with pytest.raises(RemoteError, match=SERVER):
                # As a publisher waits.
                await client._ask(address, "GET", "/", bytes, idle_s=PLACE_S)
    finally:
        is_over.set()
        await client.close()
        server.close()
        await server.wait_closed()


def test_that_takes_less_than_half_a_minute() -> None:
    assert PROBE_AFTER_S + PROBES_MAX * PROBE_EVERY_S < 30
