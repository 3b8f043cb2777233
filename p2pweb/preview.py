"""A directory, served as it will be once published: same pages, same fields, no network.

The handler of `p2pweb preview`. It scans the directory when it is visited, at most so often, and
serves what is there then: a changed file is read and hashed anew, so its ETag is the one that it
will have. A file's encodings are made when it is visited first, into a work directory that the
caller makes and removes. Long files are sent from where they lie.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import Awaitable
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from p2pweb.clock import WallClock
from p2pweb.directory import (
    EncodedFile,
    HashedFile,
    LeftOut,
    encode_files,
    hash_files,
    list_directory,
)
from p2pweb.errors import UsageError
from p2pweb.exchange.reader import Runner
from p2pweb.hosts import Hosts
from p2pweb.http import answers
from p2pweb.http.content import FileContent, respond_without_content
from p2pweb.http.messages import (
    SHORT_BODY_BYTES_MAX,
    Body,
    Lease,
    Refusal,
    Request,
    Response,
)
from p2pweb.http.service import RequestBody
from p2pweb.http.target import Target, parse_target
from p2pweb.keys import PUBLIC_KEY_BYTES
from p2pweb.manifest import Entry, Manifest
from p2pweb.pages import OPTIONS, Page, Pages, other_than_page

log = logging.getLogger("p2pweb.preview")

# Somebody who saves a file and turns to the browser sees it.
SCAN_EVERY_S = 0.5
# A large directory on a slow disk is scanned for a tenth of the time at most.
SCAN_SHARE = 10
# So long after a visit the directory is scanned again and again; after that, a visitor waits for
# the scan. Were each scan to begin with a visit, all who come meanwhile would wait for it.
WATCH_S = 60.0

_CHANGED = "the file has changed this very moment: load the page again"


@dataclass(frozen=True, slots=True)
class _State:
    """What of a file tells whether it is still the one that was read."""

    size_bytes: int
    modified_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> _State:
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


@dataclass(slots=True)
class _Read:
    """A file as it was read, and its encodings once they are made."""

    hashed: HashedFile
    state: _State
    encoded: EncodedFile | None

    @classmethod
    def of(cls, hashed: HashedFile, state: _State) -> _Read:
        return cls(hashed, state, None if hashed.codings else _plain(hashed))

    @property
    def entry(self) -> Entry:
        modified_s = max(0, self.state.modified_ns // 1_000_000_000)
        encoded = self.encoded or _plain(self.hashed)
        return msgspec.structs.replace(encoded.entry(), seq=1, modified_s=modified_s)


def _plain(hashed: HashedFile) -> EncodedFile:
    return EncodedFile(hashed.file, {"identity": hashed.identity})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A directory as it was scanned: its pages, its files by URL path, what is left out."""

    pages: Pages
    files: dict[str, _Read]
    left_out: tuple[LeftOut, ...]
    lease: Lease


def scan(directory: Path, before: Snapshot | None) -> Snapshot:
    """Read what is in a directory, and again only what has changed. UsageError as publishing."""
    listing = list_directory(directory)
    known = before.files if before else {}
    states: dict[str, _State] = {}
    for file in listing.files:
        with suppress(FileNotFoundError):  # Gone since it was listed, as editors' own files go.
            states[file.path] = _State.of(file.source.stat())
    present = [file for file in listing.files if file.path in states]
    stale = [
        file
        for file in present
        if (read := known.get(file.path)) is None or read.state != states[file.path]
    ]
    if before is not None and not stale and len(known) == len(present):
        return replace(before, left_out=tuple(listing.left_out))
    fresh = {one.file.path: _Read.of(one, states[one.file.path]) for one in hash_files(stale)}
    files = {file.path: fresh.get(file.path) or known[file.path] for file in present}
    manifest = Manifest(bytes(PUBLIC_KEY_BYTES), 1, [read.entry for read in files.values()])
    return Snapshot(Pages(manifest), files, tuple(listing.left_out), Lease(-math.inf))


class Preview:
    """The handler of every request; `start` it first."""

    def __init__(
        self, directory: Path, workdir: Path, hosts: Hosts, run: Runner, wall: WallClock
    ) -> None:
        self._directory = directory
        self._workdir = workdir
        self._hosts = hosts
        self._run = run
        self._wall = wall
        self._snapshot: Snapshot | None = None
        self._lease = Lease(-math.inf)
        self._scanning: asyncio.Task[Snapshot] | None = None
        self._encoding: dict[str, asyncio.Task[None]] = {}
        self._visited_s = 0.0
        self._rescan: asyncio.TimerHandle | None = None

    async def start(self) -> Snapshot:
        """Read the directory. UsageError where it makes no site."""
        return await self._scan()

    async def close(self) -> None:
        """Wait for what is under way, so that the work directory can go."""
        self._visited_s = -math.inf
        if self._rescan is not None:
            self._rescan.cancel()
        under_way = [*self._encoding.values(), *([self._scanning] if self._scanning else [])]
        await asyncio.gather(*under_way, return_exceptions=True)

    def handle(self, request: Request, body: RequestBody) -> Response | Awaitable[Response]:
        """Answer one request; `http.server`'s handler."""
        if request.target == b"*":
            return OPTIONS
        target = parse_target(request.target)
        if self._hosts.site_of(request.host) is not None:
            raise Refusal(421, "a preview has no site id")
        if (other := other_than_page(request.method)) is not None:
            return other
        self._visited_s = asyncio.get_running_loop().time()
        if self._snapshot is None or self._lease.until_s <= self._visited_s:
            return self._look_and_answer(request, target)
        return self._answer(request, target, self._snapshot)

    async def _look_and_answer(self, request: Request, target: Target) -> Response:
        try:
            snapshot = await self._scan()
        except UsageError as error:
            return answers.error(503, "The directory makes no site", f"{error}.", retry_after_s=1)
        answer = self._answer(request, target, snapshot)
        return answer if isinstance(answer, Response) else await answer

    def _answer(
        self, request: Request, target: Target, snapshot: Snapshot
    ) -> Response | Awaitable[Response]:
        page = snapshot.pages.answer(request, target, self._wall())
        if isinstance(page, Response):
            return replace(page, lease=snapshot.lease)
        read = snapshot.files[page.entry.path]
        if read.encoded is None:
            return self._encode_and_answer(request, target, snapshot, read)
        if len(page.entry.encodings) < len(read.encoded.encodings):
            snapshot.pages.refine(read.entry)
            return self._answer(request, target, snapshot)
        response = respond_without_content(page.plan)
        if page.plan.pieces:
            response = replace(response, body=self._body(page, read, read.encoded))
        return replace(response, lease=snapshot.lease)

    async def _encode_and_answer(
        self, request: Request, target: Target, snapshot: Snapshot, read: _Read
    ) -> Response:
        path = read.hashed.file.path
        encoding = self._encoding.get(path)
        if encoding is None:
            encoding = self._encoding[path] = asyncio.ensure_future(self._encode(read))
            encoding.add_done_callback(lambda _: self._encoding.pop(path))
        try:
            await asyncio.shield(encoding)
        except UsageError as error:
            self._lease.end()
            raise Refusal(503, f"{error}") from None
        answer = self._answer(request, target, snapshot)
        return answer if isinstance(answer, Response) else await answer

    async def _encode(self, read: _Read) -> None:
        """Make a file's encodings, once for all who wait for them."""
        (read.encoded,) = await self._run(lambda: encode_files([read.hashed], self._workdir))

    def _body(self, page: Page, read: _Read, encoded: EncodedFile) -> bytes | Body:
        size_bytes = page.plan.content_length or 0
        source = encoded.encodings[page.encoding.name].source
        # What was encoded lies in the work directory, where nobody changes it.
        state = read.state if page.encoding.name == "identity" else None
        if size_bytes > SHORT_BODY_BYTES_MAX:
            return Body(
                size_bytes=size_bytes,
                pieces=page.plan.pieces,
                open=lambda: self._open(source, state),
            )
        with closing(self._open(source, state)) as content:
            body = b"".join(
                piece if isinstance(piece, bytes) else content.read_now(piece.start, piece.stop)
                for piece in page.plan.pieces
            )
        if len(body) != size_bytes:
            raise Refusal(503, _CHANGED)
        return body

    def _open(self, path: Path, state: _State | None) -> FileContent:
        """Open a file. Refusal 503 where its state is no longer what it was when it was hashed."""
        try:
            content = FileContent(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
        except OSError as error:
            self._lease.end()
            raise Refusal(503, f"the file cannot be read: {error.strerror}") from None
        if state is None or _State.of(os.fstat(content.fileno())) == state:
            return content
        content.close()
        self._lease.end()
        raise Refusal(503, _CHANGED)

    async def _scan(self) -> Snapshot:
        """The directory as it is now; one scan for all who ask at the same time."""
        return await asyncio.shield(self._start_scan())

    def _start_scan(self) -> asyncio.Task[Snapshot]:
        if self._scanning is None:
            self._scanning = asyncio.ensure_future(self._scan_now())
            self._scanning.add_done_callback(self._scanned)
        return self._scanning

    async def _scan_now(self) -> Snapshot:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        before = self._snapshot
        try:
            snapshot = await self._run(lambda: scan(self._directory, before))
        except BaseException:
            self._lease.end()
            raise
        if before is None or snapshot.pages is not before.pages:
            for item in snapshot.left_out:
                log.info("left out: %s: %s", item.name, item.why)
            # Answers of the state before must not outlive it.
            self._lease.end()
            self._lease = snapshot.lease
        now_s = loop.time()
        pause_s = max(SCAN_EVERY_S, SCAN_SHARE * (now_s - began_s))
        # Long enough for the next scan to be over before it ends.
        self._lease.until_s = now_s + 2 * pause_s
        self._snapshot = snapshot
        if now_s - self._visited_s < WATCH_S:
            if self._rescan is not None:
                self._rescan.cancel()
            self._rescan = loop.call_later(pause_s, self._start_scan)
        return snapshot

    def _scanned(self, scanning: asyncio.Task[Snapshot]) -> None:
        self._scanning = None
        if not scanning.cancelled():
            scanning.exception()  # Those who wait get it, and the next visitor asks again.
