"""Hostile peers among whole ones: they also speak the peers' HTTP, as badly as can be.

Each says that it keeps the site, takes whatever it is sent, answers that it holds it, and keeps it
for nobody. All of them share what any of them was told, and hand out the version before the newest,
record and manifest. Of other bytes, every second one sends as many that are made up, which costs
the asker a hash; the others say nothing for so long that the asker gives up, which costs it most.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence

from p2pweb.address import Address
from p2pweb.blobs import BlobId, SegmentData
from p2pweb.dht import wire as dht_wire
from p2pweb.dht.contact import NodeId
from p2pweb.exchange import wire
from p2pweb.exchange.wire import ItemAnswer, PeerInfo
from p2pweb.http.messages import Request, Response
from p2pweb.http.server import HttpServer
from p2pweb.http.service import RequestBody, ServerLimits
from p2pweb.keys import SiteId
from p2pweb.records import (
    InvalidRecordError,
    Signed,
    SiteRecord,
    dht_key,
    open_record,
    record_key,
    site_name,
)
from p2pweb.sim.hostile import OLD_VALUES_MAX, HostilePeer, Kind
from p2pweb.sim.network import Host, Network
from p2pweb.store.items import Item

# Longer than anybody waits for a commit.
SILENT_S = 60.0


class Loot:
    """What the members of a gang were told: of each key its newest two records, and manifests."""

    def __init__(self) -> None:
        self._records: dict[bytes, list[Signed]] = {}
        self._bytes: dict[BlobId, bytes] = {}

    def note(self, value: bytes, segment: int = 0) -> None:
        """Somebody has one of them keep a record."""
        try:
            signed = open_record(value)
        except InvalidRecordError:
            return
        known = self._records.setdefault(record_key(signed.record, segment), [])
        if signed not in known and len(self._records) <= OLD_VALUES_MAX:
            known.append(signed)
            known.sort(key=lambda one: one.record.seq)
            del known[:-2]

    def note_bytes(self, part: SegmentData) -> None:
        """The same with bytes; those of blobs that are longer than a segment are of no use."""
        if part.blob.segment_count == 1 and len(self._bytes) < OLD_VALUES_MAX:
            self._bytes[part.blob] = part.data

    def newest(self, key: bytes) -> Signed | None:
        known = self._records.get(key)
        return known[-1] if known else None

    def old(self, key: bytes) -> Signed | None:
        """The record before the newest; None where only one is known, which may be the newest. Of a
        file any will do: whoever hands it out is asked for the bytes."""
        known = self._records.get(key, [])
        if len(known) == 1 and isinstance(known[0].record, SiteRecord):
            return None
        return known[0] if known else None

    def old_manifest(self, blob: BlobId) -> bytes | None:
        """The bytes of a manifest that is not the newest."""
        newest = [known[-1].record for known in self._records.values()]
        is_live = any(isinstance(one, SiteRecord) and one.manifest == blob for one in newest)
        olds = [known[0].record for known in self._records.values()]
        is_old = any(isinstance(one, SiteRecord) and one.manifest == blob for one in olds)
        return self._bytes.get(blob) if is_old and not is_live else None


class Impostor(HostilePeer):
    """One of them."""

    def __init__(
        self,
        network: Network,
        host: Host,
        chance: random.Random,
        kind: Kind,
        gang: Sequence[HostilePeer],
        known: NodeId | None,
        site: SiteId,
        loot: Loot,
    ) -> None:
        """As `HostilePeer`; `loot` is the gang's."""
        super().__init__(network, host, chance, kind, gang, known)
        self._site = site
        self._loot = loot
        self._is_silent = chance.random() < 0.5
        self._server = HttpServer(self._handle, limits=ServerLimits(), now_unix=network.loop.time)

    async def start(self, join: Sequence[Address]) -> None:
        await self._server.start([self.address])
        await super().start(join)

    async def close(self) -> None:
        """End all its connections."""
        await self._server.close(0.0)

    def hold(self, key: bytes, value: bytes) -> None:
        self._loot.note(value)

    def old_value(self, key: bytes) -> Mapping[str, dht_wire.Plain] | None:
        old = self._loot.old(key)
        return {"value": old.value, "has": True} if old is not None else None

    async def _handle(self, request: Request, body: RequestBody) -> Response:
        path = request.target.decode("latin-1").partition("?")[0]
        data = await body.read(wire.BUNDLE_BYTES_MAX)
        if not path.startswith(wire.PREFIX):
            return _answer(b"a page of nobody's")
        kind, _, rest = path.removeprefix(wire.PREFIX).partition("/")
        match kind:
            case "peer":
                return _answer(wire.encode_json(self._info()))
            case "peers":
                return _answer(wire.encode_json([one.address for one in self._gang]))
            case "bundle" | "pass" | "publish":
                return _answer(self._take(wire.decode_bundle(data)))
            case "site" if (old := self._loot.old(dht_key(site_name(self._site)))) is not None:
                return _answer(old.value)
            case "copies":
                return await self._late(self._copies(wire.decode_wanted(data)))
            case "blob" if (named := wire.parse_blob_name(rest)) is not None:
                blob, segment = named
                manifest = self._loot.old_manifest(blob)
                if manifest is not None:
                    return _answer(manifest)
                return await self._late(self._chance.randbytes(blob.segment_size(segment)))
        return Response(status=404)

    def _info(self) -> PeerInfo:
        return PeerInfo(p2pweb=wire.PROTOCOL, id=self.id.hex(), home=self._site, version="1")

    def _take(self, bundle: wire.Bundle) -> bytes:
        for item in bundle.items:
            self._loot.note(item.value, item.segment)
        for part in bundle.segments():
            self._loot.note_bytes(part)
        held = ItemAnswer("held", copies=bundle.copies, wanted=bundle.copies)
        return wire.encode_answers([held] * len(bundle.items))

    def _copies(self, wanted: Sequence[tuple[bytes, bool]]) -> bytes:
        """The records that are asked for, with bytes that are not theirs."""
        signed = [one for key, _ in wanted if (one := self._loot.newest(key)) is not None]
        items = [Item(one) for one in signed]
        parts = [part for one in signed for part in one.record.parts(0)]
        return wire.encode_bundle(items, [self._made_up(*part) for part in dict.fromkeys(parts)])

    def _made_up(self, blob: BlobId, segment: int) -> SegmentData:
        data = self._chance.randbytes(blob.segment_size(segment))
        return SegmentData(blob=blob, segment=segment, hashes=b"", data=data)

    async def _late(self, data: bytes) -> Response:
        if self._is_silent:
            await asyncio.sleep(SILENT_S)
        return _answer(data)


def _answer(data: bytes) -> Response:
    return Response(status=200, fields=(("Content-Type", "application/octet-stream"),), body=data)
