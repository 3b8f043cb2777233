"""Running a command: its event loop, its signals, its log."""

import asyncio
import contextlib
import logging
import os
import resource
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

# Each connection may take two descriptors, and the store a few dozen.
DESCRIPTORS_WANTED = 4096

T = TypeVar("T")


def run(main_task: Coroutine[Any, Any, T]) -> T:
    """Run on uvloop where the platform has it."""
    _raise_descriptor_limit()
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main_task)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main_task)


def _raise_descriptor_limit() -> None:
    """Many systems grant 1,024 open files and let a process ask for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = hard == resource.RLIM_INFINITY
    wanted = DESCRIPTORS_WANTED if unlimited else min(hard, DESCRIPTORS_WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # What there is will do for most.
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def stop_on_signals() -> None:
    """Let Ctrl-C and SIGTERM cancel the current task, and end the process when they come again."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in one
    loop = asyncio.get_running_loop()

    def stop() -> None:
        task.cancel()
        for number in (signal.SIGINT, signal.SIGTERM):
            # Who asks twice will not wait for answers in flight. The disk needs no farewell.
            loop.add_signal_handler(number, os._exit, 130)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)


def log_to_stderr(*, verbose: bool) -> None:
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname).1s %(name)s: %(message)s",
    )
    for noisy in ("asyncio", "aiohttp", "rpcudp", "kademlia"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
