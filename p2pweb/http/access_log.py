"""Access entries → lines in a file, off the way of the answers.

An answer only appends its entry to a list. Every so often a thread turns what has come together
into lines, Combined Log Format or JSON, and appends them to the file, which is opened anew each
time: it may be moved away at any moment, and the next lines begin a new one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from p2pweb.http.messages import HTTP_1_0, Request
from p2pweb.http.service import AccessEntry

_log = logging.getLogger("p2pweb.http")

# Soon enough for somebody who watches the file, seldom enough to cost nothing.
FLUSH_S = 0.5
# What may wait while the disk stands still: a second of the fastest traffic. What comes on top is
# counted. An entry keeps its request, whose head may have 32 KiB.
ENTRIES_MAX = 65_536
ENTRIES_BYTES_MAX = 32 * 1024 * 1024
# A disk, or a reader of our standard output, that takes nothing for so long at the end is given up.
CLOSE_S = 5.0

# What Python's objects cost beside the bytes in them.
_ENTRY_BYTES = 512
_FIELD_BYTES = 128

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class AccessLog:
    """Writes entries to `path`, or to standard output where it is None; call from the loop."""

    def __init__(self, path: Path | None, format_line: Callable[[AccessEntry], str]) -> None:
        self._path = path
        self._format_line = format_line
        self._entries: list[AccessEntry] = []
        self._size_bytes = 0
        self._dropped = 0
        self._flush: asyncio.TimerHandle | None = None
        self._writing: asyncio.Future[None] | None = None
        self._is_failing = False

    def note(self, entry: AccessEntry) -> None:
        """Take one entry; the server's `log`."""
        if len(self._entries) >= ENTRIES_MAX or self._size_bytes >= ENTRIES_BYTES_MAX:
            self._dropped += 1
            return
        self._entries.append(entry)
        self._size_bytes += _size(entry)
        if self._flush is None and self._writing is None:
            self._flush = asyncio.get_running_loop().call_later(FLUSH_S, self._begin)

    async def close(self) -> None:
        """Write what is left, as far as that takes `CLOSE_S` at most."""
        try:
            async with asyncio.timeout(CLOSE_S):
                while self._writing is not None or self._entries:
                    if self._writing is None:
                        self._begin()
                    if self._writing is not None:
                        await asyncio.wait([self._writing])
                        await asyncio.sleep(0)
        except TimeoutError:
            _log.error("the access log %s lacks its end: it cannot be written", self._path or "")
        if self._flush is not None:
            self._flush.cancel()

    def _begin(self) -> None:
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        entries, self._entries, self._size_bytes = self._entries, [], 0
        dropped, self._dropped = self._dropped, 0
        if dropped:
            _log.warning("the access log lacks %d entries: the disk was too slow", dropped)
        loop = asyncio.get_running_loop()
        self._writing = loop.create_future()
        self._writing.add_done_callback(self._written)
        # Not the loop's pool: at the end that is waited for, and what reads a pipe may never come.
        threading.Thread(
            target=self._write_beside, args=(loop, self._writing, entries), daemon=True
        ).start()

    def _write_beside(
        self,
        loop: asyncio.AbstractEventLoop,
        writing: asyncio.Future[None],
        entries: Sequence[AccessEntry],
    ) -> None:
        fault: Exception | None = None
        try:
            self._write(entries)
        except Exception as error:  # noqa: BLE001 - it is told where the future is looked at
            fault = error
        with suppress(RuntimeError):  # The loop has been closed without waiting for this.
            loop.call_soon_threadsafe(_settle, writing, fault)

    def _written(self, writing: asyncio.Future[None]) -> None:
        self._writing = None
        failure = None if writing.cancelled() else writing.exception()
        if failure is not None and not self._is_failing:
            _log.error("cannot write the access log %s: %s", self._path or "", failure)
        self._is_failing = failure is not None
        if self._entries and self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(FLUSH_S, self._begin)

    def _write(self, entries: Sequence[AccessEntry]) -> None:
        lines = "".join([self._format_line(entry) + "\n" for entry in entries])
        if self._path is None:
            sys.stdout.write(lines)
            sys.stdout.flush()
            return
        with self._path.open("ab") as file:
            file.write(lines.encode("ascii"))


def _settle(writing: asyncio.Future[None], fault: Exception | None) -> None:
    if writing.done():
        return
    if fault is None:
        writing.set_result(None)
    else:
        writing.set_exception(fault)


def _size(entry: AccessEntry) -> int:
    """About what an entry keeps in memory, in bytes."""
    request = entry.request
    if request is None:
        return _ENTRY_BYTES
    fields = sum(len(name) + len(value) + _FIELD_BYTES for name, value in request.fields)
    return _ENTRY_BYTES + len(request.target) + fields


def combined(entry: AccessEntry) -> str:
    """A line of the Combined Log Format, without its end; times are UTC."""
    then = time.gmtime(entry.at_unix)
    when = f"{then.tm_mday:02}/{_MONTHS[then.tm_mon - 1]}/{then.tm_year:04}"
    clock = f"{then.tm_hour:02}:{then.tm_min:02}:{then.tm_sec:02}"
    request = entry.request
    line = "-" if request is None else _request_line(request)
    return (
        f'{entry.address or "-"} - - [{when}:{clock} +0000] "{line}" {entry.status} '
        f'{entry.sent_bytes} "{_field(request, b"referer")}" "{_field(request, b"user-agent")}"'
    )


def json_line(entry: AccessEntry) -> str:
    """A JSON object, without the line's end; members that do not apply are null."""
    request = entry.request
    return json.dumps(
        {
            "time": round(entry.at_unix, 3),
            "address": entry.address,
            "method": request and request.method,
            "host": request and request.host,
            "target": request and request.target.decode("latin-1"),
            "http": request and ("1.0" if request.version == HTTP_1_0 else "1.1"),
            "status": entry.status,
            "sent_bytes": entry.sent_bytes,
            "duration_s": round(entry.duration_s, 6),
            "complete": entry.complete,
            "referer": _text(request, b"referer"),
            "user_agent": _text(request, b"user-agent"),
        }
    )


FORMATS = {"combined": combined, "json": json_line}


def _request_line(request: Request) -> str:
    version = "1.0" if request.version == HTTP_1_0 else "1.1"
    return f"{request.method} {_escape(request.target)} HTTP/{version}"


def _field(request: Request | None, name: bytes) -> str:
    value = None if request is None else request.field(name)
    return _escape(value) if value else "-"


def _text(request: Request | None, name: bytes) -> str | None:
    value = None if request is None else request.field(name)
    return None if value is None else value.decode("latin-1")


def _escape(value: bytes) -> str:
    """What could end a quoted text, or reach a terminal, as \\xHH."""
    text = value.decode("latin-1")
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return "".join(c if " " <= c <= "~" and c not in '"\\' else f"\\x{ord(c):02X}" for c in text)
