"""Peers and publishes forked from a process that has everything imported.

A power cut needs a peer started anew, and of the time that takes nearly all goes into Python's
imports. What runs is what `p2pweb up` and `p2pweb publish` run, in processes of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from survive_peers import (
    PUBLISH_S,
    READY_S,
    STOP_S,
    Peer,
    Published,
    SurviveError,
    publish_words,
    published,
)

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["p2pweb.cli"])


@dataclass
class WarmPeer(Peer):
    """A peer whose lives are forks, each of which begins with `code`."""

    code: str = ""
    fork: ForkServerProcess | None = None
    output: Connection | None = None

    async def start(self) -> None:
        assert self.fork is None
        self.fork, output = _fork(self.code, self.words(), self.log)
        self.lives += 1
        self.output = output  # Open while it lives: it says more than its first line.
        is_said = await asyncio.to_thread(output.poll, READY_S)
        self.check_ready(os.read(output.fileno(), 200) if is_said else b"")

    async def kill(self) -> None:
        self.is_ready = False
        fork, self.fork = self.fork, None
        if fork is not None and self.output is not None:
            fork.kill()
            await asyncio.to_thread(fork.join, STOP_S)
            fork.close()
            self.output.close()


async def warm_publish(site: Path, key: Path, through: Peer, copies: int, log: Path) -> Published:
    fork, output = _fork("", publish_words(site, key, through, copies), log)

    def finish() -> Published:
        with contextlib.closing(output):
            said = b""
            while output.poll(PUBLISH_S) and (piece := os.read(output.fileno(), 65_536)):
                said += piece
        fork.join(STOP_S)
        if fork.exitcode is None:
            fork.kill()
            raise SurviveError("a publish does not end")
        return published(fork.exitcode, said, log.read_text(errors="replace"))

    return await asyncio.to_thread(finish)


def _fork(code: str, words: list[str], log: Path) -> tuple[ForkServerProcess, Connection]:
    """Run Python and then the program; the process, and what it says on its standard output."""
    output, theirs = _CONTEXT.Pipe(duplex=False)
    fork = _CONTEXT.Process(target=_run, args=(code, words, str(log), theirs), daemon=True)
    fork.start()
    theirs.close()
    return fork, output


def _run(code: str, words: list[str], log: str, output: Connection) -> None:
    from p2pweb.cli import main

    os.dup2(output.fileno(), 1)
    output.close()
    with Path(log).open("ab") as told:
        os.dup2(told.fileno(), 2)
    sys.argv = ["p2pweb", *words]
    exec(code, {})
    main()
