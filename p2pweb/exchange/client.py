"""Asks other peers over HTTP. Everything that comes back is bounded, and proved where it can be.

Each call raises RemoteError with one sentence that begins with the peer's address, whatever went
wrong there: nobody listening, too slow, not a peer, bytes that are not what their root says.
"""

import asyncio
import itertools
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import aiohttp
from yarl import URL

from p2pweb.address import Address, format_address
from p2pweb.blobs import (
    BLOCK_BYTES,
    HASH_BYTES,
    SEGMENT_BLOCKS,
    BlobId,
    InvalidBlockError,
    Part,
    SegmentData,
    blob_of,
    check_block,
    check_hashes,
)
from p2pweb.delta import SHARE_MAX, InvalidDeltaError, base_of
from p2pweb.errors import BusyError, LateError, NotAPeerError, RemoteError
from p2pweb.exchange import wire
from p2pweb.exchange.authorization import ANSWER_FIELD, DATE_WINDOW_S, Prover
from p2pweb.exchange.facts import (
    REACH_OPTION,
    REACH_S,
    Facts,
    Reached,
    decode_facts,
    decode_reached,
)
from p2pweb.exchange.wire import Elsewhere, InvalidMessageError, ItemAnswer, PeerInfo, PeerStatus
from p2pweb.keys import SiteId
from p2pweb.records import (
    RECORD_BYTES_MAX,
    InvalidRecordError,
    Signed,
    SiteRecord,
    open_record,
    quote_path,
)
from p2pweb.store.items import Item
from p2pweb.tally import BITMAP_BYTES_MAX

# A live peer on any network answers a SYN within this; a dead one must not hold up a reader.
CONNECT_S = 2.0
# Between two reads of a body. A peer that pauses longer is asked no more.
READ_IDLE_S = 5.0
# A commit of a whole bundle on a slow disk, with others before it in the queue.
COMMIT_S = 30.0
# The slowest link worth waiting for; below it a body takes so long that another peer is better.
SLOWEST_BYTES_PER_S = 32 * 1024
# A publish answers after several such commits on other peers, and retries.
PLACE_S = 300.0
# A machine that vanishes meanwhile says nothing: after so long without a word the system asks it
# whether it is there, so often, every so many seconds. Then the connection is over, as it is where
# what was sent is not received for as long.
PROBE_AFTER_S = 10
PROBES_MAX = 4
PROBE_EVERY_S = 5
SILENT_S_MAX = PROBE_AFTER_S + PROBES_MAX * PROBE_EVERY_S
# A peer looks at its disk and asks some others, each of which tries for `REACH_S`.
FACTS_S = 20.0
# Enough for every peer of a small network at once; more wait their turn.
CONNECTIONS_MAX = 128
CONNECTIONS_PER_PEER_MAX = 8
SMALL_ANSWER_BYTES_MAX = 64 * 1024
# So few bytes go along with their records, asked for or not: on most ways the question whether
# they are lacking takes longer than they do.
SENT_UNASKED_BYTES_MAX = 32 * 1024
# A publisher whose peer has too much under way tries again so often, with such pauses.
BUSY_TRIES_MAX = 60
BUSY_PAUSE_S = 1.0
# Versions that somebody may have missed to catch up by deltas; each is a round trip.
DELTAS_MAX = 16

ConnectorFactory = Callable[[], aiohttp.BaseConnector]


def tcp_connector(
    socket_factory: aiohttp.SocketFactoryType | None = None,
    local_host: str | None = None,
) -> aiohttp.BaseConnector:
    """Connections within the limits above, over real sockets, probed, or those of a factory; from a
    certain address (IP literal) of this machine, or from whichever the system takes."""
    return aiohttp.TCPConnector(
        local_addr=None if local_host is None else (local_host, 0),
        limit=CONNECTIONS_MAX,
        limit_per_host=CONNECTIONS_PER_PEER_MAX,
        socket_factory=socket_factory or _probed_socket,
    )


def _probed_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # Linux's name and macOS's.
    after = "TCP_KEEPIDLE" if hasattr(socket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE"
    options = {
        after: PROBE_AFTER_S,
        "TCP_KEEPINTVL": PROBE_EVERY_S,
        "TCP_KEEPCNT": PROBES_MAX,
        # In milliseconds, and Linux's alone: elsewhere it is what the system gives up after.
        "TCP_USER_TIMEOUT": 1_000 * SILENT_S_MAX,
    }
    for name, value in options.items():
        if hasattr(socket, name):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made


class PeerClient:
    """One pool of connections to all other peers; `close` when done."""

    def __init__(
        self, connector: ConnectorFactory = tcp_connector, prover: Prover | None = None
    ) -> None:
        """With a `prover`, the peers asked are those of its closed network."""
        self._prover = prover
        self._session = aiohttp.ClientSession(
            connector=connector(),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "p2pweb", "Accept-Encoding": "identity"},
        )

    async def close(self) -> None:
        await self._session.close()

    async def peer_info(self, address: Address) -> PeerInfo:
        """Who answers there."""
        answer = await self._ask(address, "GET", wire.PREFIX + "peer", wire.decode_peer_info)
        return _present(answer, address)

    async def status(self, address: Address) -> PeerStatus:
        """How a peer on this machine is, and its contacts."""
        answer = await self._ask(
            address,
            "GET",
            wire.PREFIX + "status",
            wire.decode_status,
            headers={"Connection": wire.STATUS_OPTION},
            limit_bytes=wire.STATUS_BYTES_MAX,
        )
        return _present(answer, address)

    async def facts(self, address: Address) -> Facts:
        """What a peer on this machine finds out about itself, in up to some ten seconds."""
        answer = await self._ask(
            address,
            "GET",
            wire.PREFIX + "facts",
            decode_facts,
            headers={"Connection": wire.STATUS_OPTION},
            limit_bytes=wire.STATUS_BYTES_MAX,
            idle_s=FACTS_S,
        )
        return _present(answer, address)

    async def reach(self, address: Address, node_id: str, port: int) -> Reached | None:
        """Whether that peer reaches the one of this id at this machine's port; None where it is a
        peer that does not try."""
        return await self._ask(
            address,
            "GET",
            f"{wire.PREFIX}reach/{node_id}/{port}",
            decode_reached,
            headers={"Connection": REACH_OPTION},
            idle_s=REACH_S + READ_IDLE_S,
        )

    async def clock(self, address: Address) -> str:
        """The Date of a peer's answer; "" where it says none."""
        dates: list[str] = []
        path = wire.PREFIX + "peer"
        _present(await self._ask(address, "GET", path, wire.decode_peer_info, dates=dates), address)
        return dates[0]

    async def held(self, address: Address, site: SiteId, seq: int) -> bytes | None:
        """Which shares of a site's version a peer holds, as `tally.bitmap`; None where that is not
        its live version of the site."""
        path = wire.held_path(site, seq)
        return await self._ask(address, "GET", path, bytes, limit_bytes=BITMAP_BYTES_MAX)

    async def peers(self, address: Address) -> list[Address]:
        """The contacts that a peer has."""
        answer = await self._ask(address, "GET", wire.PREFIX + "peers", wire.decode_peers)
        return _present(answer, address)

    async def live_site(self, address: Address, site: SiteId, *, fresh: bool) -> Signed | None:
        """The live version of a site as a peer knows it; with `fresh`, after it asked around."""

        def decode(data: bytes) -> Signed:
            signed = open_record(data)
            if not isinstance(signed.record, SiteRecord) or signed.record.site != site:
                raise InvalidRecordError("it is another site's")
            return signed

        query = "?fresh" if fresh else ""
        return await self._ask(
            address, "GET", f"{wire.PREFIX}site/{site}{query}", decode, limit_bytes=RECORD_BYTES_MAX
        )

    async def hashes(self, address: Address, blob: BlobId) -> bytes | None:
        """A blob's joined block hashes, proved; None where that peer has not got them."""

        def decode(data: bytes) -> bytes:
            check_hashes(blob, data)
            return data

        return await self._ask(
            address,
            "GET",
            wire.hashes_path(blob),
            decode,
            limit_bytes=blob.block_count * HASH_BYTES,
        )

    async def blocks(
        self, address: Address, blob: BlobId, hashes: bytes, blocks: range
    ) -> list[bytes] | None:
        """Consecutive blocks of one segment, each proved; None where that peer has none of them."""
        answer = await self.blocks_or_pointer(address, blob, hashes, blocks)
        if isinstance(answer, Elsewhere):
            raise RemoteError(f"{format_address(address)} points elsewhere, unasked")
        return answer

    async def blocks_or_pointer(
        self,
        address: Address,
        blob: BlobId,
        hashes: bytes,
        blocks: range,
        *,
        serves_at: int | None = None,
        began: Callable[[], None] = lambda: None,
        came: Callable[[int, bytes], None] = lambda number, block: None,
    ) -> list[bytes] | Elsewhere | None:
        """As `blocks`, each handed to `came` once it is proved; or who else has them, where this
        peer says at which port it passes on what it reads. `began` is called with the first bytes,
        and maybe later."""
        segment = blocks.start // SEGMENT_BLOCKS
        start = (blocks.start - segment * SEGMENT_BLOCKS) * BLOCK_BYTES
        size = sum(blob.block_size(block) for block in blocks)
        found: list[bytes] = []

        def take(data: bytes | bytearray) -> None:
            began()
            while len(found) < len(blocks):
                number, at = blocks[len(found)], len(found) * BLOCK_BYTES
                if len(data) < at + blob.block_size(number):
                    return
                block = bytes(data[at : at + blob.block_size(number)])
                check_block(blob, number, hashes, block)
                found.append(block)
                came(number, block)

        def decode(data: bytes) -> list[bytes] | Elsewhere:
            if len(data) != size:
                raise InvalidBlockError(f"{len(data)} bytes of blob {blob} instead of {size}")
            take(data)
            return found

        path = wire.blob_path(blob, segment)
        whole = size == blob.segment_size(segment)
        headers = {} if whole else {"Range": f"bytes={start}-{start + size - 1}"}
        if serves_at is not None:
            headers[wire.PORT_FIELD] = str(serves_at)
        return await self._ask(
            address,
            "GET",
            path,
            decode,
            headers=headers,
            limit_bytes=size,
            pointed=None
            if serves_at is None
            else lambda location: wire.parse_pointer(location, blob, segment),
            take=take,
        )

    async def send(
        self,
        address: Address,
        items: Sequence[Item],
        segments: Sequence[SegmentData] = (),
        *,
        delta: bytes = b"",
        place_copies: int | None = None,
        passing: bool = False,
    ) -> tuple[ItemAnswer, ...]:
        """Have a peer keep a bundle, and with `place_copies` place it; one answer for each item.

        `delta` stands for the manifest of a site's record. `passing` says that it will be asked to
        place it later.
        """
        place = place_copies is not None
        body = wire.encode_bundle(items, segments, place_copies or 0, delta)
        for attempt in itertools.count(1):
            try:
                answer = await self._ask(
                    address,
                    "POST",
                    wire.PREFIX + ("publish" if place else "pass" if passing else "bundle"),
                    lambda data: wire.decode_answers(data, len(items)),
                    body=body,
                    headers={"Content-Type": wire.BUNDLE_MEDIA_TYPE},
                    limit_bytes=wire.ANSWER_BYTES_MAX,
                    idle_s=PLACE_S if place else COMMIT_S,
                )
                break
            except BusyError:
                if not (place or passing) or attempt == BUSY_TRIES_MAX:
                    raise
                await asyncio.sleep(BUSY_PAUSE_S)
        return _present(answer, address)

    async def copies(
        self, address: Address, wanted: Sequence[tuple[bytes, bool]]
    ) -> wire.Bundle | None:
        """What a peer has at these keys, as `wire.encode_wanted` takes them; of the bytes what
        there is room for. None where it is a peer that gives no copies. Nothing is proved yet."""
        return await self._ask(
            address,
            "POST",
            wire.PREFIX + "copies",
            wire.decode_bundle,
            body=wire.encode_wanted(wanted),
            headers={"Content-Type": wire.KEYS_MEDIA_TYPE},
            limit_bytes=wire.BUNDLE_BYTES_MAX,
        )

    async def deltas(
        self, address: Address, blob: BlobId, base_root: bytes, versions: int
    ) -> list[bytes]:
        """What leads in so many versions from the manifest with `base_root` (32 bytes) to that one,
        in order; empty where that peer does not know, or where it would be more than a quarter of
        the manifest. Nothing is proved yet."""

        def decode(data: bytes) -> tuple[bytes, bytes]:
            return base_of(data), data

        found: list[bytes] = []
        root, left_bytes = blob.root, int(SHARE_MAX * blob.size_bytes)
        while root != base_root:
            if len(found) >= min(versions, DELTAS_MAX) or left_bytes <= 0:
                return []
            path = wire.delta_path(root)
            step = await self._ask(address, "GET", path, decode, limit_bytes=left_bytes)
            if step is None:
                return []
            root, delta = step
            left_bytes -= len(delta)
            found.insert(0, delta)
        return found

    async def page(self, address: Address, site: SiteId, path: str, limit_bytes: int) -> BlobId:
        """The blob that a peer serves to visitors of a site under a path, decoded."""
        answer = await self._ask(
            address,
            "GET",
            quote_path(path),
            lambda data: blob_of(data)[0],
            headers={"Host": f"{site}.localhost"},
            limit_bytes=limit_bytes,
        )
        if answer is None:
            raise RemoteError(f"{format_address(address)} has no page {path}")
        return answer

    async def push(
        self,
        address: Address,
        items: Sequence[Item],
        read: Callable[[Sequence[Part]], Awaitable[Sequence[SegmentData]]],
        *,
        place_copies: int | None = None,
        unasked: bool = False,
        delta: bytes = b"",
    ) -> tuple[ItemAnswer, ...]:
        """Have a peer keep these whole: first the records, then just the bytes that it lacks.

        With `unasked`, bytes that are few go along with the records, and a `delta` always does, in
        the place of a manifest; who can make nothing of it wants the bytes. `read` gives the bytes
        of segments, together no more than a bundle holds; where some are not to be had, the answer
        still wants them. With `place_copies` the peer places what it then holds.
        """
        sent: Sequence[SegmentData] = ()
        few = _few_parts(items) if unasked else []
        if few:
            sent = await read(few)
        # Where all went along, there is nothing left to ask, and the peer can place them at once.
        all_along = delta or (few and len(sent) == len(few))
        at_once = place_copies if all_along else None
        passing = place_copies is not None
        answers = await self.send(
            address, items, sent, delta=delta, place_copies=at_once, passing=passing
        )
        try:
            # Nobody is owed the bytes of a record that it is sent without them.
            wants = dict.fromkeys(
                part
                for item, answer in zip(items, answers, strict=True)
                if item.with_bytes
                for part in answer.parts
            )
            if not wants and place_copies == at_once:
                return answers
            offered = {part for item in items for part in item.parts}
            if not offered.issuperset(wants):
                raise InvalidMessageError("it wants bytes that the records do not name")
            if wants.keys() & {(data.blob, data.segment) for data in sent}:
                raise InvalidMessageError("it wants bytes that it was just sent")
        except InvalidMessageError as error:
            where = format_address(address)
            raise RemoteError(f"{where} sent what it should not: {error}") from None
        *batches, last = _batches(wants) or [[]]
        for batch in batches:
            await self.send(address, [], await read(batch))
        segments = await read(last) if last else []
        if not segments and place_copies == at_once:
            return answers
        return await self.send(address, items, segments, place_copies=place_copies)

    def _why(self) -> str:
        """What may be the matter with a peer that says nothing."""
        if self._prover is None:
            return "its network may be closed, and take a secret (--secret FILE)"
        return f"it may have another secret, or a clock that is {DATE_WINDOW_S} s off this one's"

    async def _ask(
        self,
        address: Address,
        method: str,
        path: str,
        decode: "Callable[[bytes], wire._T]",
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        limit_bytes: int = SMALL_ANSWER_BYTES_MAX,
        idle_s: float = READ_IDLE_S,
        pointed: "Callable[[str], wire._T] | None" = None,
        take: Callable[[bytearray], None] = lambda data: None,
        dates: list[str] | None = None,
    ) -> "wire._T | None":
        """None where the answer is 404; what `pointed` makes of the Location where it is 307.

        `take` sees what has come of a good answer so far, each time that more has. The answer's
        Date goes into `dates`.
        """
        where = format_address(address)
        url = URL(f"http://{where}{path}", encoded=True)
        proof = None
        if self._prover is not None and path.startswith(wire.PREFIX):
            proof = self._prover.prove(method, url.raw_path_qs, body)
            headers = {**(headers or {}), **proof.fields}
        # An answer that drips is cut off too: each byte would begin the idle time again.
        total_s = CONNECT_S + idle_s + (len(body or b"") + limit_bytes) / SLOWEST_BYTES_PER_S
        timeout = aiohttp.ClientTimeout(
            total=total_s, connect=None, sock_connect=CONNECT_S, sock_read=idle_s
        )
        try:
            async with self._session.request(
                method,
                url,
                data=body,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                # Other statuses are faults, whoever tells of them.
                is_proved = proof is None or proof.is_shown_by(response.headers.get(ANSWER_FIELD))
                if response.status in (200, 206, 307, 404) and not is_proved:
                    raise NotAPeerError(f"{where} does not have the secret of this network")
                if response.status == 404:
                    return None
                data = await _read(response, limit_bytes, take)
                if dates is not None:
                    dates.append(response.headers.get("Date", ""))
                if response.status == 307 and pointed is not None:
                    return pointed(response.headers.get("Location", ""))
                if response.status not in (200, 206):
                    fault = BusyError if response.status == 503 else RemoteError
                    raise fault(f"{where} answers {response.status}: {_first_line(data)}")
                return decode(data)
        except (
            InvalidMessageError,
            InvalidRecordError,
            InvalidBlockError,
            InvalidDeltaError,
        ) as error:
            raise RemoteError(f"{where} sent what it should not: {error}") from None
        except TimeoutError:
            raise LateError(f"{where} does not answer in time") from None
        except aiohttp.ClientConnectorError as error:
            raise NotAPeerError(f"{where} cannot be reached: {error.strerror or error}") from None
        except UnicodeError:
            # What the resolver says to an empty label, or to one of more than 63 characters.
            raise NotAPeerError(f"{where} cannot be reached: no machine has such a name") from None
        except aiohttp.ServerDisconnectedError:
            raise RemoteError(
                f"{where} closed the connection without an answer: {self._why()}"
            ) from None
        except aiohttp.ClientResponseError:
            raise NotAPeerError(f"{where} does not speak HTTP: it is no p2pweb peer") from None
        except (aiohttp.ClientError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise RemoteError(f"{where} broke off: {reason}") from None


def _few_parts(items: Iterable[Item]) -> list[Part]:
    """The segments that items stand for where those are few bytes; else none."""
    parts: dict[Part, None] = {}
    size_bytes = 0
    for item in items:
        if item.with_bytes:
            for part in item.parts:
                blob, segment = part
                size_bytes += 0 if part in parts else blob.segment_size(segment)
                parts[part] = None
            if size_bytes > SENT_UNASKED_BYTES_MAX:
                return []
    return list(parts)


def _batches(parts: Iterable[Part]) -> list[list[Part]]:
    """Segments in lists whose bytes fit one bundle."""
    batches: list[list[Part]] = []
    room_bytes = 0
    for part in parts:
        blob, segment = part
        size_bytes = blob.segment_size(segment)
        if not batches or size_bytes > room_bytes:
            batches.append([])
            room_bytes = wire.BUNDLE_DATA_BYTES
        batches[-1].append(part)
        room_bytes -= size_bytes
    return batches


def _present(answer: "wire._T | None", address: Address) -> "wire._T":
    """What every peer has an answer to."""
    if answer is None:
        raise NotAPeerError(f"{format_address(address)} answers 404: it is no p2pweb peer")
    return answer


async def _read(
    response: aiohttp.ClientResponse, limit_bytes: int, take: Callable[[bytearray], None]
) -> bytes:
    """The body, no longer than the limit; an error page is cut off there."""
    data = bytearray()
    limit_bytes = max(limit_bytes, SMALL_ANSWER_BYTES_MAX if response.status >= 400 else 0)
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > limit_bytes:
            raise InvalidMessageError(f"an answer longer than {limit_bytes} bytes")
        if response.status in (200, 206):
            take(data)
    return bytes(data)


def _first_line(data: bytes) -> str:
    """What a plain-text error answer says, fit for one line of a terminal."""
    line = data[:300].decode("utf-8", "replace").partition("\n")[0].strip()
    # A page for a browser says nothing in its first line.
    return "" if line.startswith("<") else "".join(char for char in line if char.isprintable())
