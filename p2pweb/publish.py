"""Publishing: a directory becomes the next version of a site, through any one peer.

The way of a publish: list, hash and encode the directory (`directory`), compare with the live
version (`published`, `manifest`), sign what changed, have the peer keep and place it in bundles
(`exchange.client`), the site record last, and read the new version back through another peer. The
key stays here.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol, TypeVar

from p2pweb import records
from p2pweb.address import Address, format_address
from p2pweb.blobs import BlobId, Part, SegmentData, segments_of, size_of
from p2pweb.clock import WallClock
from p2pweb.delta import WHOLE_BYTES_MAX, delta_of
from p2pweb.directory import (
    ENCODERS_MAX,
    EncodingsDifferError,
    LeftOut,
    SiteContent,
    hash_files,
    list_directory,
)
from p2pweb.errors import P2PWebError, RemoteError, UsageError
from p2pweb.exchange.client import PeerClient
from p2pweb.exchange.reader import Runner
from p2pweb.exchange.wire import (
    BUNDLE_DATA_BYTES,
    BUNDLE_ITEMS_MAX,
    InvalidMessageError,
    ItemAnswer,
)
from p2pweb.keys import SiteId, SiteKey
from p2pweb.manifest import Changes, Entry, InvalidManifestError, Manifest, next_version
from p2pweb.published import keep_published, live_manifest
from p2pweb.records import (
    COPIES_DEFAULT,
    InvalidRecordError,
    Signed,
    SiteRecord,
    record_key,
    sign,
)
from p2pweb.store.items import Item
from p2pweb.store.room import megabytes

# Bundles under way at once: one being read and signed, one on the wire, one being committed.
BUNDLES_IN_FLIGHT = 3
# A publish that is overtaken by another one begins again so often before it gives up.
ATTEMPTS_MAX = 5
ATTEMPT_PAUSE_S = 2.0
# How long the new version may take to be seen through another peer, and how often it is asked.
SEEN_WITHIN_S = 10.0
SEEN_EVERY_S = 0.25
# Peers through which the new version is tried to be read before that is given up.
READERS_MAX = 3
# Files read back through another peer; all of them would be a second publish.
SAMPLES_MAX = 8
# And so many bytes together: more would hold up the publisher, and fill its memory.
SAMPLE_BYTES_MAX = 16 * 1024 * 1024
# Peers asked for their room, in turn; more of them are taken to be alike.
ROOMS_ASKED_MAX = 40
# What is less than that is sent unasked: whoever has no room for it says so.
ROOM_MATTERS_BYTES = 1024 * 1024
# Keys are not spread evenly, and records take room beside their bytes.
ROOM_USED_MAX = 0.9
# Reasons told why copies are missing.
REASONS_MAX = 8
# Addresses printed.
ADDRESSES_MAX = 20

T = TypeVar("T")


class Progress(Protocol):
    """Hears how far a publish is."""

    def phase(self, name: str, total_bytes: int) -> None:
        """A new phase begins, with so many bytes to go."""

    def advance(self, done_bytes: int) -> None:
        """So many more are done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishOptions:
    """What to publish, and through whom."""

    directory: Path
    peer: Address
    key: Callable[[], SiteKey]
    """The site's key; asked for when the peer has answered and the directory makes a site."""
    copies: int = COPIES_DEFAULT
    dry_run: bool = False
    manifests: Path | None = None
    """Where what was published last is kept, so that it need not be fetched; None for nowhere."""
    # Files encoded at one time; 1 starts no thread.
    encoders: int = ENCODERS_MAX


@dataclass(slots=True, kw_only=True)
class Summary:
    """What a publish came to. `short` names the paths with fewer copies than wanted."""

    site: SiteId
    seq: int
    changes: Changes
    left_out: list[LeftOut]
    live: bool = False
    sent_bytes: int = 0
    copies: int = 0
    copies_wanted: int = 0
    short: list[str] = field(default_factory=list)
    # Why copies are missing, one sentence for each cause.
    reasons: list[str] = field(default_factory=list)
    read_back_from: str | None = None
    not_read_back: str | None = None
    addresses: list[str] = field(default_factory=list)


class Overtaken(Exception):  # noqa: N818 - it is news, not an error
    """Some peer has a record of this seq or a newer one already."""

    def __init__(self, seq: int) -> None:
        super().__init__(seq)
        self.seq = seq


async def publish(
    options: PublishOptions,
    client: PeerClient,
    progress: Progress,
    wall: WallClock,
    rng: random.Random,
    run: Runner,
) -> Summary:
    """Publish a directory. P2PWebError with one sentence where the version did not go live."""
    # The peer first: nobody waits for a large directory only to hear of a wrong port.
    await client.peer_info(options.peer)
    listing = await run(lambda: list_directory(options.directory))
    progress.phase("reading", sum(file.size_bytes for file in listing.files))
    hashed = await _work(run, lambda advance: hash_files(listing.files, advance), progress.advance)
    key = options.key()
    floor = 0
    reuse = True
    with TemporaryDirectory(prefix="p2pweb-publish-") as folder:
        content = SiteContent(hashed, Path(folder), at_once=options.encoders)
        for _ in range(ATTEMPTS_MAX):
            attempt = _Attempt(options, key, client, progress, run, content)
            try:
                # A clock that stands before 1970 is wrong, and no reason to fail.
                now_s = max(0, int(wall()))
                return await attempt.run_once(listing.left_out, now_s, floor, reuse=reuse)
            except Overtaken as news:
                floor = news.seq
                # Two publishers that began together must not meet again at the next version.
                await asyncio.sleep(rng.uniform(0, ATTEMPT_PAUSE_S))
            except EncodingsDifferError:
                reuse = False
            except (InvalidRecordError, InvalidManifestError) as error:
                raise UsageError(f"this directory makes no version of a site: {error}") from None
    raise RemoteError(
        f"another publish of this site is under way: version {floor} is newer; try again"
    )


async def _work(
    run: Runner, call: Callable[[Callable[[int], None]], T], advance: Callable[[int], None]
) -> T:
    """Run a call that reads files beside the loop, which tells `advance` what it has done.

    Cancelled, it is stopped at its next block, and over when this is: what it works in can go.
    """
    is_cancelled = False

    def go_on(done_bytes: int) -> None:
        if is_cancelled:
            raise UsageError("stopped")
        advance(done_bytes)

    working = asyncio.ensure_future(run(lambda: call(go_on)))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        is_cancelled = True
        with contextlib.suppress(P2PWebError, EncodingsDifferError):
            await working
        raise


class _Attempt:
    """One try at one seq."""

    def __init__(
        self,
        options: PublishOptions,
        key: SiteKey,
        client: PeerClient,
        progress: Progress,
        run: Runner,
        content: SiteContent,
    ) -> None:
        self._options = options
        self._client = client
        self._progress = progress
        self._run = run
        self._content = content
        self._peer = options.peer
        self._key = key
        self._site_record: Signed | None = None

    async def run_once(
        self, left_out: list[LeftOut], now_s: int, floor: int, *, reuse: bool
    ) -> Summary:
        """With `reuse`, files that the live version has keep its encodings."""
        folder, site = self._options.manifests, self._key.site
        published = await live_manifest(self._client, self._peer, site, folder, self._run)
        live, live_root = published or (None, b"")
        seq = max(live.seq if live else 0, floor) + 1
        files = await self._encode(live if reuse else None)
        manifest, changes = next_version(live, self._key.public_key, seq, now_s, files)
        summary = Summary(site=self._key.site, seq=seq, changes=changes, left_out=left_out)
        if self._options.dry_run:
            return summary
        if live is not None and not changes:
            # The same version: what is missing of its copies is made up for.
            summary.seq, summary.live, manifest = live.seq, True, live
        encoded = manifest.encode()  # Before anything is sent: it may turn out too long.
        await self._send_files(summary, manifest)
        if not summary.live:
            delta = delta_of(live, live_root, manifest, len(encoded)) if live else None
            await self._send_site(summary, encoded, delta or b"", now_s)
        if folder is not None and len(encoded) > WHOLE_BYTES_MAX:
            await self._run(lambda: keep_published(folder, site, encoded))
        await self._read_back(summary, manifest)
        return summary

    async def _encode(self, reused: Manifest | None) -> list[Entry]:
        to_encode = self._content.to_encode(reused)
        if to_encode:
            self._progress.phase("compressing", sum(file.blob.size_bytes for file in to_encode))
        return await _work(
            self._run, partial(self._content.entries, reused), self._progress.advance
        )

    async def _send_files(self, summary: Summary, manifest: Manifest) -> None:
        """Place the records, and the bytes, of what changed; of everything where nothing did."""
        names = {*summary.changes.added, *summary.changes.changed}
        entries = [e for e in manifest.entries if not names or e.path in names]
        total = sum(encoding.size_bytes for entry in entries for encoding in entry.encodings)
        copies = await self._affordable(summary, total) if names else self._options.copies
        self._progress.phase("sending" if names else "checking copies of", total)
        limit = asyncio.Semaphore(BUNDLES_IN_FLIGHT)

        async def read(parts: Sequence[Part]) -> list[SegmentData]:
            found = await _work(
                self._run,
                lambda advance: [self._content.read_segment(*part, advance) for part in parts],
                lambda _: None,
            )
            summary.sent_bytes += sum(len(data.data) for data in found)
            return found

        async def send(bundle: list[Item]) -> None:
            try:
                answers = await self._client.push(
                    self._peer,
                    bundle,
                    read,
                    place_copies=copies,
                    unasked=bool(names),  # The peer lacks what changed.
                )
                for item, answer in zip(bundle, answers, strict=True):
                    self._count(summary, item, answer)
                self._progress.advance(sum(size_of(item.parts) for item in bundle))
            finally:
                limit.release()

        records = [entry.file_record(self._key.public_key) for entry in entries]
        # In the order of their keys: what lies near one another goes to the same peers.
        places = sorted(
            (record_key(record, segment), number, segment)
            for number, record in enumerate(records)
            for segment in range(record.segment_count)
        )
        items = (Item(sign(records[number], self._key), segment) for _, number, segment in places)
        try:
            async with asyncio.TaskGroup() as group:
                for bundle in _bundles(items):
                    await limit.acquire()
                    group.create_task(send(bundle))
        except* (P2PWebError, InvalidRecordError, Overtaken, EncodingsDifferError) as errors:
            raise _first(errors) from None

    async def _affordable(self, summary: Summary, total_bytes: int) -> int:
        """How many copies of so many bytes the peers have room for, up to those wanted.

        RemoteError where they have no room for one.
        """
        wanted = self._options.copies
        if total_bytes < ROOM_MATTERS_BYTES:
            return wanted
        addresses = [self._peer, *await self._client.peers(self._peer)]
        asked = await asyncio.gather(*map(self._room, addresses[:ROOMS_ASKED_MAX]))
        known = [(where, room) for where, room in asked if room is not None]
        if not known or min(room for _, room in known) >= total_bytes:
            return wanted
        mean = sum(min(room, total_bytes) for _, room in known) / len(known)
        affordable = mean * len(addresses) / total_bytes
        copies = min(wanted, max(1, int(affordable * ROOM_USED_MAX)))
        least = sorted(known, key=lambda one: one[1])[:REASONS_MAX]
        told = ", ".join(f"{where} {megabytes(room)}" for where, room in least)
        if affordable < 1:
            raise RemoteError(
                f"the peers have no room for {megabytes(total_bytes)}: {told}; start more peers, "
                "or give them more with --disk"
            )
        if copies < min(wanted, len(addresses)):
            summary.copies_wanted = min(wanted, len(addresses))
            summary.reasons.append(
                f"the peers have room for {megabytes(total_bytes)} {copies} times: {told}"
            )
        return copies

    async def _room(self, peer: Address) -> tuple[str, int | None]:
        """What a peer says that it could still take; None where nothing is known."""
        where = format_address(peer)
        try:
            return where, (await self._client.peer_info(peer)).room_bytes
        except RemoteError:
            return where, None

    def _count(self, summary: Summary, item: Item, answer: ItemAnswer) -> None:
        """Take in one answer. RemoteError where the item is not kept, Overtaken where stale."""
        path = item.signed.record.path or "the site's record"
        where = format_address(self._peer)
        if answer.state == "stale":
            try:
                raise Overtaken(answer.proved_seq(item.signed))
            except InvalidMessageError as error:
                raise RemoteError(f"{where} answers for {path}: {error}") from None
        if answer.state == "refused":
            raise RemoteError(f"{where} refuses {path}: {answer.why}")
        if answer.state == "full":
            raise RemoteError(f"{where} has no room for {path}: {answer.why}")
        if answer.wants or answer.copies < 1:
            why = f": {_printable(answer.why)}" if answer.why else ""
            raise RemoteError(f"{where} has no place for {path}: no copy was made{why}")
        summary.copies = min(summary.copies or answer.copies, answer.copies)
        summary.copies_wanted = max(summary.copies_wanted, answer.wanted)
        if answer.copies < summary.copies_wanted and path not in summary.short[-1:]:
            summary.short.append(path)
            why = _printable(answer.why)
            if why and why not in summary.reasons and len(summary.reasons) < REASONS_MAX:
                summary.reasons.append(why)

    async def _send_site(self, summary: Summary, manifest: bytes, delta: bytes, now_s: int) -> None:
        """The site record, last of all: from here on the version is live."""
        segments = {(part.blob, part.segment): part for part in segments_of(manifest)}
        blob: BlobId = next(iter(segments))[0]
        record = SiteRecord(
            public_key=self._key.public_key,
            seq=summary.seq,
            published_s=now_s,
            copies=self._options.copies,
            manifest_size_bytes=blob.size_bytes,
            manifest_root=blob.root,
        )
        item = Item(sign(record, self._key))
        self._site_record = item.signed

        async def read(parts: Sequence[Part]) -> list[SegmentData]:
            return [segments[part] for part in parts]

        self._progress.phase("going live", 0)
        answers = await self._client.push(
            self._peer, [item], read, place_copies=records.COPIES_MAX, unasked=True, delta=delta
        )
        answer = answers[0]
        if answer.state == "held" and answer.copies < min(answer.wanted, self._options.copies):
            summary.short.append("the site's record")
        elif not answer.is_whole or not answer.copies:
            self._count(summary, item, answer)
        summary.live = True

    async def _read_back(self, summary: Summary, manifest: Manifest) -> None:
        """See the new version through another peer, and learn where it can be opened.

        The version is live already: what goes wrong here is told, and fails nothing.
        """
        try:
            others = await self._client.peers(self._peer)
        except RemoteError as error:
            summary.not_read_back = str(error)
            return
        everywhere = [self._peer, *sorted(peer for peer in others if peer != self._peer)]
        homes = await asyncio.gather(*map(self._home, everywhere[:ADDRESSES_MAX]))
        urls: list[str] = []
        for peer, home in zip(everywhere, homes, strict=False):
            if home is None:
                continue
            where = format_address(peer)
            own = f"{summary.site}.localhost:{peer[1]}"
            urls.append(f"http://{where if home == summary.site else own}/")
        summary.addresses = urls
        peers = [p for p, home in zip(everywhere, homes, strict=False) if home is not None]
        readers = peers[1:] or peers
        self._progress.phase("reading back", 0)
        faults: list[str] = []
        for peer in readers[:READERS_MAX]:
            try:
                await self._see(peer, summary.seq)
                await self._sample(peer, summary, manifest)
            except RemoteError as error:
                faults.append(str(error))
            else:
                summary.read_back_from = format_address(peer)
                return
        summary.not_read_back = faults[0] if faults else "no peer answers"

    async def _home(self, peer: Address) -> str | None:
        """The home site of a peer, "" where it has none; None where it is no peer."""
        try:
            return (await self._client.peer_info(peer)).home or ""
        except RemoteError:
            return None

    async def _see(self, peer: Address, seq: int) -> None:
        """Wait until a peer serves this version or a newer one."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SEEN_WITHIN_S
        while True:
            signed = await self._client.live_site(peer, self._key.site, fresh=True)
            if signed is not None and signed.record.seq >= seq:
                own = self._site_record
                if own is not None and signed.record.seq == seq and signed != own:
                    raise Overtaken(seq)  # Another publisher's version of this seq prevails.
                return
            if loop.time() > deadline:
                raise RemoteError(f"{format_address(peer)} does not see version {seq}")
            await asyncio.sleep(SEEN_EVERY_S)

    async def _sample(self, peer: Address, summary: Summary, manifest: Manifest) -> None:
        """Read a few of the changed files as a visitor would, and compare their hashes."""
        names = [*summary.changes.added, *summary.changes.changed]
        names = names or [entry.path for entry in manifest.entries]
        step = max(1, len(names) // SAMPLES_MAX)
        left_bytes = SAMPLE_BYTES_MAX
        try:
            async with asyncio.TaskGroup() as group:
                for path in names[::step][:SAMPLES_MAX]:
                    entry = manifest.get(path)
                    if entry is not None and entry.blob.size_bytes <= left_bytes:
                        left_bytes -= entry.blob.size_bytes
                        group.create_task(self._read_one(peer, summary, entry))
        except* RemoteError as errors:
            raise _first(errors) from None

    async def _read_one(self, peer: Address, summary: Summary, entry: Entry) -> None:
        blob = await self._client.page(peer, summary.site, entry.path, entry.blob.size_bytes)
        if blob != entry.blob and not await self._is_superseded(peer, summary.seq):
            raise RemoteError(f"{format_address(peer)} serves other bytes for {entry.path}")

    async def _is_superseded(self, peer: Address, seq: int) -> bool:
        """Whether a later version went live meanwhile, so that other bytes are right."""
        signed = await self._client.live_site(peer, self._key.site, fresh=True)
        return signed is not None and signed.record.seq > seq


def _bundles(items: Iterator[Item]) -> Iterator[list[Item]]:
    """Items in lists whose records and bytes fit one bundle, or one long segment alone."""
    bundle: list[Item] = []
    size_bytes = 0
    for item in items:
        size = size_of(item.parts)
        if bundle and (len(bundle) == BUNDLE_ITEMS_MAX or size_bytes + size > BUNDLE_DATA_BYTES):
            yield bundle
            bundle, size_bytes = [], 0
        bundle.append(item)
        size_bytes += size
    if bundle:
        yield bundle


def _printable(text: str) -> str:
    """What another machine says, fit for a terminal."""
    return "".join(char for char in text if char.isprintable())


def _first(errors: BaseExceptionGroup[Exception]) -> Exception:
    """The first of several errors of one cause: the others are its echo."""
    first: BaseException = errors
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    assert isinstance(first, Exception)  # noqa: S101 - `except*` let no other in
    return first
