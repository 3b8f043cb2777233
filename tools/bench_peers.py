"""Real peers on loopback, each a process of its own that ends with the bench, whatever becomes of
it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from bench_kinds import HOST, BenchError
from ports import free_ports

READY_S = 60.0


@dataclass(frozen=True, slots=True)
class Peer:
    """One of them, which is ready."""

    port: int
    process: asyncio.subprocess.Process


@contextlib.asynccontextmanager
async def peers(folder: Path, count: int, program: Path) -> AsyncIterator[list[Peer]]:
    """So many peers that joined by the first one, whose ends come with the block's.

    `program` is run as `p2pweb` is, and ends with its standard input. Their data and their logs
    are in the folder, by port.
    """
    ports = free_ports(HOST, count)
    started: list[asyncio.subprocess.Process] = []
    try:
        first = await _start(started, folder, program, ports[0], None)
        others = (_start(started, folder, program, port, ports[0]) for port in ports[1:])
        yield [first, *await asyncio.gather(*others)]
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        for process in started:
            await asyncio.shield(process.wait())


async def _start(
    started: list[asyncio.subprocess.Process],
    folder: Path,
    program: Path,
    port: int,
    join: int | None,
) -> Peer:
    joins = () if join is None else ("--join", f"{HOST}:{join}")
    log = folder / f"{port}.log"
    output = os.open(log, os.O_WRONLY | os.O_CREAT)
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(program), "up", "--port", str(port), "--host", HOST),
            *("--data", str(folder / str(port)), *joins),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=output,
            start_new_session=True,
        )
    finally:
        os.close(output)
    started.append(process)
    assert process.stdout is not None
    line = b""
    with contextlib.suppress(TimeoutError):
        line = await asyncio.wait_for(process.stdout.readline(), READY_S)
    if not line.startswith(b"p2pweb ready"):
        words = log.read_text(errors="replace").strip().splitlines() or ["it says nothing"]
        raise BenchError(f"the peer on port {port} does not start: {words[-1]}")
    return Peer(port, process)


async def until_known(client: object, entry: tuple[str, int], others: int) -> None:
    """Wait until a peer knows so many others."""
    deadline = time.monotonic() + READY_S
    while len(await client.peers(entry)) < others:
        if time.monotonic() > deadline:
            raise BenchError(f"a peer does not know the {others} others after {READY_S:.0f} s")
        await asyncio.sleep(0.2)
