"""`p2pweb` as anybody runs it, which counts what it asks of others, and tells when it is asked.

A line on standard input is answered with a line of JSON on standard output; the end of standard
input is the end of the process. Otherwise the counts are told at the end, as the last line.
Lookups are those that somebody waits for: the overlay's upkeep has none of these. Bytes are those
of HTTP bodies, both ways, counted by whoever asks.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import ClientSession

from p2pweb.cli import main
from p2pweb.dht.overlay import Overlay
from p2pweb.exchange import client

counts: Counter[str] = Counter()


def _tell() -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = {
        "cpu_s": usage.ru_utime + usage.ru_stime,
        # Linux counts in KiB.
        "peak_bytes": usage.ru_maxrss * 1024,
        "rss_bytes": _rss_bytes(),
    }
    print(json.dumps({"lookups": 0, "requests": 0, "bytes": 0, **counts, **used}), flush=True)


def _rss_bytes() -> int:
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _answer() -> None:
    for _ in sys.stdin:
        _tell()
    os._exit(1)


def _counting(method: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*given: Any, **named: Any) -> Any:
        counts["lookups"] += 1
        return method(*given, **named)

    return counted


def _counting_requests(request: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*given: Any, data: bytes | None = None, **named: Any) -> Any:
        counts["requests"] += 1
        counts["bytes"] += len(data or b"")
        return request(*given, data=data, **named)

    return counted


def _counting_answers(read: Callable[..., Awaitable[bytes]]) -> Callable[..., Awaitable[bytes]]:
    async def counted(*given: Any) -> bytes:
        data = await read(*given)
        counts["bytes"] += len(data)
        return data

    return counted


if __name__ == "__main__":
    Overlay.find_node = _counting(Overlay.find_node)  # type: ignore[method-assign]
    Overlay.find_value = _counting(Overlay.find_value)  # type: ignore[method-assign]
    ClientSession.request = _counting_requests(ClientSession.request)  # type: ignore[method-assign]
    client._read = _counting_answers(client._read)
    threading.Thread(target=_answer, daemon=True).start()
    try:
        main()
    finally:
        _tell()
