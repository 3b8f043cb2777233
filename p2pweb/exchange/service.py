"""Answers other peers and publishers: everything under `/.well-known/p2pweb/`, on every host.

Reading hands out what this peer has on its disk or in its readers' memory (`giving`); it never asks
further peers, so requests cannot circle. Writing takes signed records of sites that this peer
stores, and bytes that those records name: no other authority counts. The upper layers are the few
callbacks of `Duties`.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import msgspec

from p2pweb.address import Address
from p2pweb.blobs import InvalidBlockError, Part, SegmentData, segments_of, size_of
from p2pweb.delta import InvalidDeltaError, base_of, rebuild
from p2pweb.errors import CorruptError, UnavailableError
from p2pweb.exchange import wire
from p2pweb.exchange.authorization import Gate
from p2pweb.exchange.facts import Facts, Reached, asker_of
from p2pweb.exchange.giving import Giving
from p2pweb.exchange.reader import BlobReader, Runner
from p2pweb.exchange.status import may_see
from p2pweb.exchange.wire import InvalidMessageError, ItemAnswer, PeerInfo, PeerStatus
from p2pweb.http.answers import method_not_allowed
from p2pweb.http.messages import Refusal, Request, Response
from p2pweb.http.service import RequestBody
from p2pweb.keys import SiteId, is_site_id
from p2pweb.records import InvalidRecordError, Signed, SiteRecord, open_record
from p2pweb.store.items import Full, Item, Outcome, Refused
from p2pweb.store.store import Store

log = logging.getLogger("p2pweb.exchange")

# Bodies in memory at one time. Bytes are counted and not senders, so that who sends slowly takes
# nothing from the others; sixteen whole bundles are more than honest publishers have under way.
BODIES_BYTES_MAX = 16 * wire.BUNDLE_BYTES_MAX
# A whole bundle at 32 KiB/s, the slowest link that peers wait for, and some.
BODY_S = 240.0
# Of these, one in its commit and one having its signatures proved, so that those do not take all
# the threads from readers.
COMMITS_MAX = 2
# Answers being put together of up to `BUNDLE_BYTES_MAX`: repairs leave the disk to readers.
COPIES_MAX = 2
# Signatures proved on the loop's thread, at some 100 µs each: a change of thread and back takes
# longer than one of them. Decoding a bundle of so many bytes takes next to nothing.
QUICK_ITEMS_MAX = 4
QUICK_BUNDLE_BYTES_MAX = 64 * 1024
# What is sent on at once is not read from the disk first; with longer ones it would be no gain.
AT_HAND_BYTES_MAX = 64 * 1024
RETRY_AFTER_S = 1

_BYTES = "application/octet-stream"
_STATUS_REFUSED = "this peer tells its status to `p2pweb status` on its own machine alone"


@dataclass(frozen=True, slots=True)
class Placed:
    """How many of the copies wanted of an item are durable on peers that should hold it.

    `newer` is a signed record that shows that some of them have a newer version; else it is empty.
    """

    copies: int
    wanted: int
    newer: bytes = b""
    why: str = ""
    """Why there are fewer copies than wanted, in one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Duties:
    """What the service asks of the layers above it."""

    info: Callable[[], PeerInfo]
    status: Callable[[], Awaitable[PeerStatus]]
    facts: Callable[[], Awaitable[Facts]]
    """The status, and what this peer found out about itself just now: see `facts`."""
    contacts: Callable[[], list[Address]]
    takes: Callable[[SiteId], bool]
    """Whether this peer keeps the records of a site. May make it the home site of a new peer."""
    live_site: Callable[[SiteId, bool], Awaitable[Signed | None]]
    """The live version, and whether to ask around first."""
    held: Callable[[SiteId, int], Awaitable[bytes | None]]
    """What is here of a site's live version, as `tally.bitmap`; None for any other version."""
    reach: Callable[[str, Address], Awaitable[Reached]]
    """Whether the peer of this id can be reached at its own address. UnavailableError when busy."""
    kept: Callable[[Sequence[Item]], None]
    """Called when these are durable here."""
    place: Callable[[Sequence[Item], int, Sequence[SegmentData]], Awaitable[list[Placed]]]
    """Put copies, so many, of items that are durable here on the closest peers; the proved
    segments, as far as they came just now, need not be read again."""


class PeerService:
    """The handler of one path prefix."""

    def __init__(
        self,
        store: Store,
        duties: Duties,
        run: Runner,
        write: Runner,
        reader: BlobReader | None = None,
        gate: Gate | None = None,
    ) -> None:
        """`write` runs commits, so that they wait for one another and for nothing else. What
        `reader` has in memory is given to other peers too. With a `gate`, what has no proof gets
        no answer."""
        self._store = store
        self._giving = Giving(store, run, reader)
        self._duties = duties
        self._run = run
        self._write = write
        self._gate = gate
        self._held_bytes = 0
        self._commits = asyncio.Semaphore(COMMITS_MAX)
        self._copies = asyncio.Semaphore(COPIES_MAX)

    @property
    def is_closed(self) -> bool:
        """Whether nothing below `wire.PREFIX` is answered without proof."""
        return self._gate is not None

    async def handle(
        self, request: Request, path: str, query: str | None, body: RequestBody
    ) -> Response:
        """Answer a request whose decoded path begins with `wire.PREFIX`, or `HangUp`."""
        # A person at the machine need not have the secret at hand to see how the peer is.
        about_itself = (wire.PREFIX + "status", wire.PREFIX + "facts")
        is_at_home = path in about_itself and may_see(request, body.sender)
        if self._gate is None or is_at_home:
            return await self._answer(request, path, query, body)
        body, proof = self._gate.admit(request, body)
        response = await self._answer(request, path, query, body)
        return replace(response, fields=(*response.fields, proof))

    async def _answer(
        self, request: Request, path: str, query: str | None, body: RequestBody
    ) -> Response:
        kind, _, rest = path.removeprefix(wire.PREFIX).partition("/")
        if kind in ("bundle", "pass", "publish") and not rest:
            if request.method != "POST":
                return method_not_allowed(("POST",))
            return await self._take_bundle(request, body, kind)
        if kind == "copies" and not rest:
            if request.method != "POST":
                return method_not_allowed(("POST",))
            return await self._give_copies(request, body)
        if request.method not in ("GET", "HEAD"):
            return method_not_allowed(("GET", "HEAD"))
        if kind == "peer" and not rest:
            return _json(wire.encode_json(self._duties.info()))
        if kind in ("status", "facts") and not rest:
            if not may_see(request, body.sender):
                return _plain(403, _STATUS_REFUSED)
            tell = self._duties.status if kind == "status" else self._duties.facts
            return _json(wire.encode_json(await tell()))
        if kind == "held" and (version := wire.parse_held_name(rest)) is not None:
            held = await self._duties.held(*version)
            if held is not None:
                return Response(status=200, fields=_fields(_BYTES, "no-store"), body=held)
        if kind == "reach" and (asker := asker_of(request, rest, body.sender)) is not None:
            try:
                return _json(wire.encode_json(await self._duties.reach(*asker)))
            except UnavailableError:
                return _busy()
        if kind == "peers" and not rest:
            return _json(wire.encode_json(self._duties.contacts()))
        if kind == "site" and is_site_id(rest):
            try:
                signed = await self._duties.live_site(SiteId(rest), query == "fresh")
            except UnavailableError as error:
                return _plain(503, str(error))
            if signed is not None:
                return Response(status=200, fields=_fields(_BYTES, "no-store"), body=signed.value)
        if kind == "delta" and (root := wire.parse_root(rest)) is not None:
            delta = self._store.live.delta(root)
            if delta is not None:
                return Response(status=200, fields=_fields(_BYTES, "no-store"), body=delta)
        if kind in ("blob", "hashes") and (named := wire.parse_blob_name(rest)) is not None:
            try:
                if kind == "blob":
                    answer = await self._giving.segment(request, *named, body.sender)
                else:
                    answer = await self._giving.hashes(*named)
            except CorruptError as error:
                log.warning("%s", error)
                answer = None
            if answer is not None:
                return answer
        return _plain(404, "this peer has nothing there")

    async def _give_copies(self, request: Request, body: RequestBody) -> Response:
        """The records at some keys, and of their bytes as many as there is room for."""
        if request.field(b"content-type") != wire.KEYS_MEDIA_TYPE.encode():
            raise Refusal(415, f"keys are sent as {wire.KEYS_MEDIA_TYPE}")
        pieces: list[bytes] = []
        try:
            if not await self._read_body(body, pieces, wire.KEYS_BYTES_MAX):
                return _busy()
            wanted = wire.decode_wanted(b"".join(pieces))
        except InvalidMessageError as error:
            return _plain(400, str(error))
        finally:
            self._held_bytes -= sum(map(len, pieces))
            pieces.clear()
        async with self._copies:
            data = await self._run(lambda: _copies(self._store, wanted))
            return Response(
                status=200, fields=_fields(wire.BUNDLE_MEDIA_TYPE, "no-store"), body=data
            )

    async def _take_bundle(self, request: Request, body: RequestBody, kind: str) -> Response:
        """Keep a bundle: for good, or, where it is published through this peer, to place it."""
        if request.field(b"content-type") != wire.BUNDLE_MEDIA_TYPE.encode():
            raise Refusal(415, f"a bundle is sent as {wire.BUNDLE_MEDIA_TYPE}")
        with contextlib.ExitStack() as placing:
            return await self._take_bundle_while(placing, request, body, kind)

    async def _take_bundle_while(
        self, placing: contextlib.ExitStack, request: Request, body: RequestBody, kind: str
    ) -> Response:
        pieces: list[bytes] = []
        try:
            if not await self._read_body(body, pieces, wire.BUNDLE_BYTES_MAX):
                return _busy()
            async with self._commits:
                bundle, items = await self._open(b"".join(pieces))
                if kind != "bundle" and self._store.has_budget:
                    items = [_to_pass(one) for one in items]
                    placing.enter_context(
                        self._store.placing([one for one in items if isinstance(one, Item)])
                    )
                segments = bundle.segments() + await self._rebuilt(bundle, items)
                outcomes = await self._keep(items, segments)
        except (InvalidMessageError, InvalidBlockError, InvalidDeltaError) as error:
            return _plain(400, str(error))
        except OSError as error:
            log.error("this peer's disk refused a write: %s", error)
            return _plain(507, f"this peer's disk refused the write: {error.strerror}")
        finally:
            self._held_bytes -= sum(map(len, pieces))
            pieces.clear()
        full = [outcome for outcome in outcomes if isinstance(outcome, Full)]
        if any(outcome.for_now for outcome in full):
            return _busy()
        answers = [ItemAnswer.of(outcome) for outcome in outcomes]
        whole = [
            item
            for item, answer in zip(items, answers, strict=True)
            if isinstance(item, Item) and answer.is_whole
        ]
        self._duties.kept(whole)
        if full and not whole:
            return _plain(507, full[0].why)
        if kind == "publish":
            copies, at_hand = bundle.copies, _at_hand(segments)
            del bundle, segments  # Counted as memory no longer, and placing may take minutes.
            placed = iter(await self._duties.place(whole, copies, at_hand))
            answers = [
                _with_copies(answer, next(placed)) if answer.is_whole else answer
                for answer in answers
            ]
        return Response(
            status=200,
            fields=_fields(wire.BUNDLE_MEDIA_TYPE, "no-store"),
            body=wire.encode_answers(answers),
        )

    async def _rebuilt(
        self, bundle: wire.Bundle, items: Sequence[Item | Refused]
    ) -> list[SegmentData]:
        """The manifest that a bundle has the delta of; none where this peer cannot make it, or need
        not."""
        if not bundle.delta:
            return []
        if len(items) != 1:
            raise InvalidMessageError("a delta comes with one site's record alone")
        (item,) = items
        if isinstance(item, Refused) or not isinstance(item.signed.record, SiteRecord):
            return []
        # Others may send old records again, and again, with any delta.
        live = self._store.live.before(item.signed)
        root = live.signed.record.blobs[0].root if live else None
        if live is None or live.manifest is None or base_of(bundle.delta) != root:
            return []
        base, delta, blob = live.manifest, bundle.delta, item.signed.record.manifest
        return await self._run(lambda: _segments(rebuild(base, [delta], blob)))

    async def _read_body(self, body: RequestBody, pieces: list[bytes], limit_bytes: int) -> bool:
        """Read a body into `pieces`; False where others leave no room for it."""
        size_bytes = 0
        try:
            async with asyncio.timeout(BODY_S):
                async for piece in body:
                    size_bytes += len(piece)
                    if size_bytes > limit_bytes:
                        raise Refusal(413, f"this has {limit_bytes} bytes at most")
                    if self._held_bytes + len(piece) > BODIES_BYTES_MAX:
                        return False
                    self._held_bytes += len(piece)
                    pieces.append(piece)
        except TimeoutError:
            raise Refusal(408, f"it may take {BODY_S:.0f} s") from None
        return True

    async def _open(self, data: bytes) -> tuple[wire.Bundle, list[Item | Refused]]:
        """What a bundle holds, its records verified: beside the loop unless that is quick."""
        if len(data) <= QUICK_BUNDLE_BYTES_MAX:
            bundle = wire.decode_bundle(data)
            if len(bundle.items) <= QUICK_ITEMS_MAX:
                return bundle, _open_items(bundle)
        return await self._run(lambda: _open_bundle(data))

    async def _keep(
        self, items: Sequence[Item | Refused], segments: Sequence[SegmentData]
    ) -> list[Outcome]:
        """Commit what may be kept; an outcome for each item."""
        refusals = [self._refusal(item) for item in items]
        taken: list[Item] = []
        refused: set[Part] = set()
        for item, refusal in zip(items, refusals, strict=True):
            if isinstance(item, Item):
                if refusal is None:
                    taken.append(item)
                else:
                    refused.update(item.parts)
        if refused:
            # Sent along with their records, which are told why they are not kept.
            refused.difference_update(*(one.signed.record.parts(one.segment) for one in taken))
            segments = [data for data in segments if (data.blob, data.segment) not in refused]
        committed = iter(await self._write(lambda: self._store.commit(taken, segments)))
        return [refusal or next(committed) for refusal in refusals]

    def _refusal(self, item: Item | Refused) -> Refused | None:
        if isinstance(item, Refused):
            return item
        site = item.signed.record.site
        if not self._duties.takes(site):
            return Refused(f"this peer does not store the site {site}")
        return None


def _segments(data: bytes | None) -> list[SegmentData]:
    return segments_of(data) if data is not None else []


def _copies(store: Store, wanted: Sequence[tuple[bytes, bool]]) -> bytes:
    """A bundle of what lies at these keys. `with_bytes` says of each that its bytes are here."""
    items: list[Item] = []
    segments: dict[Part, SegmentData] = {}
    room_bytes = wire.BUNDLE_DATA_BYTES
    for key, with_bytes in wanted:
        try:
            kept = store.find(key)
            if kept is None:
                continue
            items.append(Item(kept.signed, kept.segment, kept.has_bytes))
            parts = [one for one in kept.signed.record.parts(kept.segment) if one not in segments]
            size_bytes = size_of(parts)
            if with_bytes and kept.has_bytes and size_bytes <= room_bytes:
                room_bytes -= size_bytes
                for part in parts:
                    if (data := store.read_segment(*part)) is not None:
                        segments[part] = data
        except CorruptError as error:
            log.warning("%s", error)
    return wire.encode_bundle(items, segments.values())


def _with_copies(answer: ItemAnswer, placed: Placed) -> ItemAnswer:
    if placed.newer:
        return ItemAnswer("stale", newer=placed.newer)
    return msgspec.structs.replace(
        answer, copies=placed.copies, wanted=placed.wanted, why=placed.why[: wire.WHY_CHARS_MAX]
    )


def _open_bundle(data: bytes) -> tuple[wire.Bundle, list[Item | Refused]]:
    bundle = wire.decode_bundle(data)
    return bundle, _open_items(bundle)


def _open_items(bundle: wire.Bundle) -> list[Item | Refused]:
    items: list[Item | Refused] = []
    for item in bundle.items:
        try:
            items.append(Item(open_record(item.value), item.segment, item.with_bytes))
        except InvalidRecordError as error:
            items.append(Refused(str(error)))
    return items


def _to_pass(item: Item | Refused) -> Item | Refused:
    """A file's copies go to others; a site's own record stays on every peer of it."""
    if isinstance(item, Refused) or isinstance(item.signed.record, SiteRecord):
        return item
    return replace(item, passing=True)


def _at_hand(segments: Sequence[SegmentData]) -> Sequence[SegmentData]:
    """Segments to keep in memory until their copies are placed: none where they are many bytes."""
    size_bytes = sum(len(data.data) + len(data.hashes) for data in segments)
    return segments if size_bytes <= AT_HAND_BYTES_MAX else ()


def _fields(media_type: str, cache_control: str) -> tuple[tuple[str, str], ...]:
    return (
        ("Content-Type", media_type),
        ("Cache-Control", cache_control),
        ("X-Content-Type-Options", "nosniff"),
    )


def _busy() -> Response:
    return _plain(503, "this peer is busy", ("Retry-After", str(RETRY_AFTER_S)))


def _json(data: bytes) -> Response:
    return Response(status=200, fields=_fields("application/json", "no-store"), body=data)


def _plain(status: int, line: str, *more: tuple[str, str]) -> Response:
    fields = _fields("text/plain; charset=utf-8", "no-store")
    return Response(status=status, fields=(*fields, *more), body=f"{line}\n".encode())
