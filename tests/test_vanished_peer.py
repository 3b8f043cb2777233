"""A machine that vanishes is not waited for as long as a slow one."""

from __future__ import annotations

import asyncio
import socket

import pytest
from namespaces import own_network

from p2pweb.errors import RemoteError
from p2pweb.exchange import client as client_module
from p2pweb.exchange.client import PLACE_S, PeerClient

SERVER = "10.7.0.1"
# More than the server's system takes before the program does.
MUCH = bytes(1_000_000)


@pytest.mark.parametrize("body", [b"", MUCH], ids=["while it answers", "while it is sent to"])
def test_a_vanished_machine_is_noticed(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    monkeypatch.setattr(client_module, "PROBE_AFTER_S", 1)
    monkeypatch.setattr(client_module, "PROBE_EVERY_S", 1)
    monkeypatch.setattr(client_module, "PROBES_MAX", 1)
    with own_network(SERVER):
        asyncio.run(_ask_a_machine_that_vanishes(body))


async def _ask_a_machine_that_vanishes(body: bytes) -> None:
    is_over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        # Nothing reaches it any more, and nothing comes back: no RST, no ICMP.
        await (await asyncio.create_subprocess_exec("ip", "link", "set", "lo", "down")).wait()
        await is_over.wait()
        writer.transport.abort()

    listening = socket.create_server((SERVER, 0))
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    server = await asyncio.start_server(serve, sock=listening, limit=4_096)
    client = PeerClient()
    address = (SERVER, server.sockets[0].getsockname()[1])
    try:
        async with asyncio.timeout(60):
            with pytest.raises(RemoteError, match=SERVER):
                # As a publisher waits.
                await client._ask(address, "POST", "/", bytes, body=body, idle_s=PLACE_S)
    finally:
        is_over.set()
        await client.close()
        server.close()
        await server.wait_closed()
