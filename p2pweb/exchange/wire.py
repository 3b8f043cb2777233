"""What peers send one another over HTTP: bundles of records and segments, and their answers.

A bundle carries many records and small bodies at once, so that one request and one commit serve
them all. Decoding proves shapes and bounds; signatures and hashes are proved by whoever keeps
them (`records.open_record`, `store.Store.commit`).
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

import msgspec

from p2pweb.address import Address, format_address, parse_address
from p2pweb.blobs import BLOB_BYTES_MAX, HASH_BYTES, SEGMENT_BYTES, BlobId, Part, SegmentData
from p2pweb.delta import DELTA_BYTES_MAX
from p2pweb.dht.contact import ID_BYTES
from p2pweb.errors import UsageError
from p2pweb.keys import SiteId, is_site_id
from p2pweb.records import (
    COPIES_MAX,
    RECORD_BYTES_MAX,
    InvalidRecordError,
    Signed,
    open_record,
)
from p2pweb.store.items import Full, Held, Item, Outcome, Stale

_T = TypeVar("_T")

PREFIX = "/.well-known/p2pweb/"
PROTOCOL = 1
BUNDLE_MEDIA_TYPE = "application/vnd.p2pweb.bundle"
KEYS_MEDIA_TYPE = "application/vnd.p2pweb.keys"

# Keeps one bundle's signatures (some 100 µs each) well under the time of its bytes' way.
BUNDLE_ITEMS_MAX = 256
# Four encodings of each, and a manifest's few segments.
BUNDLE_PARTS_MAX = 4 * BUNDLE_ITEMS_MAX + 16
# One whole segment, or as many small ones as make up about that.
BUNDLE_DATA_BYTES = SEGMENT_BYTES
# That, the hashes of the longest blob (128 KiB), 256 records, and framing.
BUNDLE_BYTES_MAX = 6 * 1024 * 1024
ANSWER_BYTES_MAX = 1024 * 1024
# One sentence: so many answers of this length fit.
WHY_CHARS_MAX = 500
# So many keys of 20 bytes, and framing.
KEYS_BYTES_MAX = 16 * 1024

# Whoever asks for a segment's bytes says here at which port it serves them from then on; only such
# a one is pointed to others, and others to it. Its host is that of its connection.
PORT_FIELD = "P2PWeb-Port"
# Whoever asks for a status names this as an option of the Connection field; see `status`.
STATUS_OPTION = "p2pweb-status"
# More contacts than a peer of ten thousand others has, so that its table is told whole.
STATUS_CONTACTS_MAX = 1_024
# More sites than a peer keeps, and of each more holders than are asked.
STATUS_SITES_MAX = 16
STATUS_HOLDERS_MAX = 64
# The contacts, at up to 200 bytes, the sites, at up to 5 KB, and what is said of the peer itself.
STATUS_BYTES_MAX = 384 * 1024

Copies = Annotated[int, msgspec.Meta(ge=0, le=COPIES_MAX)]
"""How many peers keep something; 0 where that is not said."""

Host = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65_535)]

Count = Annotated[int, msgspec.Meta(ge=0)]
# Thirty years: nothing runs so long, and a date so far back still is one.
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
# What is shown on terminals holds no control characters.
IdHex = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{40}\Z")]
Word = Annotated[str, msgspec.Meta(pattern=r"\A[!-~]{1,64}\Z")]

# A path as it is spelled in a URL: three characters for a byte at most.
UrlPath = Annotated[str, msgspec.Meta(pattern=r"\A/[!-~]{1,1535}\Z")]


class InvalidMessageError(Exception):
    """Another peer's message does not have the shape that this protocol gives it."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """In place of bytes: a peer that has them too, and is to be asked first."""

    address: Address


class PeerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Who answers at an address. `p2pweb` is the protocol's number, and marks a peer as one.

    `room_bytes` is what it could still take of its site; None where it does not say.
    """

    p2pweb: int
    id: str
    home: str | None
    version: str
    room_bytes: Annotated[int, msgspec.Meta(ge=0)] | None = None

    @property
    def home_site(self) -> SiteId | None:
        return SiteId(self.home) if self.home and is_site_id(self.home) else None


class ContactStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A contact as its peer sees it. `address` is an IP literal and a port, `host:port`.

    `rtt_s` is the smoothed round trip, `answered_ago_s` how long ago the last answer came, both
    None before the first one in this run; `strikes` are the questions left unanswered since.
    """

    address: str
    id: IdHex
    rtt_s: Seconds | None
    answered_ago_s: Seconds | None
    strikes: Count

    def __post_init__(self) -> None:
        try:
            address = parse_address(self.address)
            ipaddress.ip_address(address[0])
        except UsageError as error:
            raise ValueError(str(error)) from None
        if format_address(address) != self.address:
            raise ValueError("an address is not spelled as it should be")


class CopiesStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The copies of a site as its peer counted them `ago_s` ago.

    `peers` keep the site, this one included; `holders` are those of the others that answered, up to
    the nearest forty. `files` is how many files were counted: all, or, where not everybody is
    known, those due to this peer. `copies` are those of the worst-off file, up to the number
    `wanted`; `short` files have fewer, the first of the worst-off being `worst`. This peer itself
    still fetches `lacking_bytes`.
    """

    ago_s: Seconds
    peers: Count
    holders: Annotated[tuple[Word, ...], msgspec.Meta(max_length=STATUS_HOLDERS_MAX)]
    files: Count
    wanted: Count
    copies: Count
    short: Count
    worst: UrlPath | None
    lacking_bytes: Count


class SiteStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A site that a peer keeps: its live version, and the copies of that one, None while they are
    being counted. `copies_asked` is how many each file should have where there are peers enough."""

    site: Word
    seq: Count
    files: Count
    copies_asked: Count
    copies: CopiesStatus | None

    @property
    def is_short(self) -> bool:
        """Whether a file has fewer copies than wanted."""
        return self.copies is not None and self.copies.short > 0


class DiskStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a peer's data directory holds, may hold (None: as much as the disk has room for), and
    what its disk has left, all in bytes."""

    used_bytes: Count
    budget_bytes: Count | None
    free_bytes: Count


class PeerStatus(PeerInfo, frozen=True, kw_only=True):
    """What a peer says of itself and of its contacts to people on its own machine.

    The counts are of all contacts, `contacts` has those listed, by address. `knows_others` is
    whether it was told to join other peers, or knew some once: else being alone is as it should be.
    What later versions say on top is passed over here.
    """

    id: IdHex
    version: Word
    up_s: Seconds
    knows_others: bool
    contact_count: Count
    silent_count: Count
    contacts: Annotated[tuple[ContactStatus, ...], msgspec.Meta(max_length=STATUS_CONTACTS_MAX)]
    disk: DiskStatus | None = None
    sites: Annotated[tuple[SiteStatus, ...], msgspec.Meta(max_length=STATUS_SITES_MAX)] = ()

    def __post_init__(self) -> None:
        if self.contact_count < max(self.silent_count, len(self.contacts)):
            raise ValueError("it counts fewer contacts than it lists")

    @property
    def is_cut_off(self) -> bool:
        """Whether no contact answers, and some should."""
        return self.silent_count == self.contact_count and (
            self.knows_others or self.contact_count > 0
        )

    @property
    def is_short(self) -> bool:
        """Whether a site that it keeps is short of copies."""
        return any(site.is_short for site in self.sites)


class _Item(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    value: bytes
    segment: int
    with_bytes: bool


class _Part(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    size_bytes: int
    root: bytes
    segment: int
    hashes: bytes
    data: bytes


class Bundle(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Records (not yet verified) and segments (not yet proved), and the copies wanted of each.

    In the place of the manifest of a site's record, which is then the only item, there may be its
    `delta` from the version before.
    """

    items: Annotated[tuple[_Item, ...], msgspec.Meta(max_length=BUNDLE_ITEMS_MAX)]
    parts: Annotated[tuple[_Part, ...], msgspec.Meta(max_length=BUNDLE_PARTS_MAX)]
    copies: Copies
    delta: Annotated[bytes, msgspec.Meta(max_length=DELTA_BYTES_MAX)] = b""

    def segments(self) -> list[SegmentData]:
        """The bytes, still to be proved. InvalidMessageError where a number is out of bounds."""
        return [
            SegmentData(
                blob=_blob(part.size_bytes, part.root, part.segment),
                segment=part.segment,
                hashes=part.hashes,
                data=part.data,
            )
            for part in self.parts
        ]


class ItemAnswer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What became of one item: `state` is held, stale, refused or full.

    Held: `wants` are the (size, root, segment) still lacking, and after `publish`, `copies` of
    `wanted` are on disks, and `why` not all. Stale: `newer` is a signed record of the same site
    that shows it. Refused, or full, which is for want of room: `why`.
    """

    state: Literal["held", "stale", "refused", "full"]
    wants: tuple[tuple[int, bytes, int], ...] = ()
    newer: Annotated[bytes, msgspec.Meta(max_length=RECORD_BYTES_MAX)] = b""
    why: Annotated[str, msgspec.Meta(max_length=WHY_CHARS_MAX)] = ""
    copies: Copies = 0
    wanted: Copies = 0

    @classmethod
    def of(cls, outcome: Outcome, copies: int = 0, wanted: int = 0) -> "ItemAnswer":
        """The answer that tells of a store's outcome."""
        if isinstance(outcome, Held):
            named = tuple((blob.size_bytes, blob.root, segment) for blob, segment in outcome.wants)
            return cls("held", wants=named, copies=copies, wanted=wanted)
        if isinstance(outcome, Stale):
            return cls("stale", newer=outcome.newer)
        return cls("full" if isinstance(outcome, Full) else "refused", why=outcome.why)

    @property
    def parts(self) -> list[Part]:
        """The segments wanted. InvalidMessageError where a number is out of bounds."""
        return [(_blob(size, root, segment), segment) for size, root, segment in self.wants]

    def proved_seq(self, signed: Signed) -> int:
        """The seq that makes this record stale; InvalidMessageError where nothing proves it.

        Anybody could claim that there is a newer version, and so end a site's life at the highest
        seq: only the site's own signature counts.
        """
        try:
            newer = open_record(self.newer).record
        except InvalidRecordError as error:
            raise InvalidMessageError(f"stale, and no record shows it: {error}") from None
        if newer.site != signed.record.site or newer.seq < signed.record.seq:
            raise InvalidMessageError("stale, and the record shown is not newer")
        is_rival = newer.path in (None, signed.record.path) and newer != signed.record
        if newer.seq == signed.record.seq and not is_rival:
            raise InvalidMessageError("stale, and the record shown is no rival of this one")
        return newer.seq

    @property
    def is_whole(self) -> bool:
        """Whether the record and all its bytes are durable there."""
        return self.state == "held" and not self.wants


class _Wanted(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    key: Annotated[bytes, msgspec.Meta(min_length=ID_BYTES, max_length=ID_BYTES)]
    with_bytes: bool


_wanted_decoder = msgspec.msgpack.Decoder(
    Annotated[tuple[_Wanted, ...], msgspec.Meta(max_length=BUNDLE_ITEMS_MAX)]
)
_bundle_decoder = msgspec.msgpack.Decoder(Bundle)
_answers_decoder = msgspec.msgpack.Decoder(tuple[ItemAnswer, ...])
_peer_decoder = msgspec.json.Decoder(PeerInfo)
_status_decoder = msgspec.json.Decoder(PeerStatus)
_peers_decoder = msgspec.json.Decoder(list[tuple[Host, Port]])
_encoder = msgspec.msgpack.Encoder()


def encode_bundle(
    items: Iterable[Item],
    segments: Iterable[SegmentData] = (),
    copies: int = 0,
    delta: bytes = b"",
) -> bytes:
    return _encoder.encode(
        Bundle(
            tuple(_Item(item.signed.value, item.segment, item.with_bytes) for item in items),
            tuple(
                _Part(part.blob.size_bytes, part.blob.root, part.segment, part.hashes, part.data)
                for part in segments
            ),
            copies,
            delta,
        )
    )


def decode_bundle(data: bytes) -> Bundle:
    """InvalidMessageError where it is no bundle."""
    return _decode(_bundle_decoder, data)


def encode_wanted(wanted: Iterable[tuple[bytes, bool]]) -> bytes:
    """Up to `BUNDLE_ITEMS_MAX` DHT keys (20 bytes), and whether bytes are asked for too."""
    return _encoder.encode(tuple(_Wanted(key, with_bytes) for key, with_bytes in wanted))


def decode_wanted(data: bytes) -> list[tuple[bytes, bool]]:
    """InvalidMessageError where these are no keys."""
    return [(one.key, one.with_bytes) for one in _decode(_wanted_decoder, data)]


def encode_answers(answers: Iterable[ItemAnswer]) -> bytes:
    return _encoder.encode(tuple(answers))


def decode_answers(data: bytes, count: int) -> tuple[ItemAnswer, ...]:
    """The answers to `count` items. InvalidMessageError where they are not that."""
    answers = _decode(_answers_decoder, data)
    if len(answers) != count:
        raise InvalidMessageError(f"{len(answers)} answers to {count} records")
    return answers


def decode_peer_info(data: bytes) -> PeerInfo:
    """InvalidMessageError where this is no peer's word."""
    info = _decode(_peer_decoder, data)
    _check_protocol(info)
    return info


def decode_status(data: bytes) -> PeerStatus:
    """InvalidMessageError where this is no peer's status."""
    status = _decode(_status_decoder, data)
    _check_protocol(status)
    return status


def decode_peers(data: bytes) -> list[tuple[str, int]]:
    """InvalidMessageError where this is no list of addresses."""
    return _decode(_peers_decoder, data)


def encode_json(value: msgspec.Struct | Sequence[tuple[str, int]]) -> bytes:
    return msgspec.json.encode(value)


def blob_path(blob: BlobId, segment: int) -> str:
    return f"{PREFIX}blob/{blob.root.hex()}/{blob.size_bytes}/{segment}"


def hashes_path(blob: BlobId) -> str:
    return f"{PREFIX}hashes/{blob.root.hex()}/{blob.size_bytes}"


def pointer(address: Address, blob: BlobId, segment: int) -> str:
    """The Location of a segment at another peer."""
    return f"http://{format_address(address)}{blob_path(blob, segment)}"


def parse_pointer(location: str, blob: BlobId, segment: int) -> Elsewhere:
    """What `pointer` made. InvalidMessageError where it leads to anything else."""
    where = location.removeprefix("http://").removesuffix(blob_path(blob, segment))
    try:
        address = parse_address(where)
    except UsageError as error:
        raise InvalidMessageError(str(error)) from None
    if location != pointer(address, blob, segment):
        raise InvalidMessageError("it points to something else")
    return Elsewhere(address)


_PORT = re.compile(rb"[1-9][0-9]{0,4}")


def parse_port(value: bytes | None) -> int | None:
    """The value of `PORT_FIELD`; None where it is no port."""
    if value is None or not _PORT.fullmatch(value):
        return None
    port = int(value)
    return port if port <= 65_535 else None


def held_path(site: SiteId, seq: int) -> str:
    return f"{PREFIX}held/{site}/{seq}"


_HELD_NAME = re.compile(r"([a-z2-7]{52})/([1-9][0-9]{0,15})")


def parse_held_name(text: str) -> tuple[SiteId, int] | None:
    """`<site>/<seq>`, the tail of the path above; None where it is none."""
    match = _HELD_NAME.fullmatch(text)
    return (SiteId(match[1]), int(match[2])) if match and is_site_id(match[1]) else None


# Numbers without leading zeros, so that a blob has one URL.
_BLOB_NAME = re.compile(r"([0-9a-f]{64})/(0|[1-9][0-9]{0,9})(?:/(0|[1-9][0-9]{0,3}))?")


def parse_blob_name(text: str) -> tuple[BlobId, int] | None:
    """`<root>/<size>[/<segment>]`, the tail of the two paths above; None where it is none."""
    match = _BLOB_NAME.fullmatch(text)
    if match is None:
        return None
    blob = BlobId(int(match[2]), bytes.fromhex(match[1]))
    segment = int(match[3] or 0)
    fits = blob.size_bytes <= BLOB_BYTES_MAX and segment < blob.segment_count
    return (blob, segment) if fits else None


def delta_path(root: bytes) -> str:
    return f"{PREFIX}delta/{root.hex()}"


_ROOT = re.compile(r"[0-9a-f]{64}")


def parse_root(text: str) -> bytes | None:
    """The tail of the path above; None where it is no root."""
    return bytes.fromhex(text) if _ROOT.fullmatch(text) else None


def _check_protocol(info: PeerInfo) -> None:
    if info.p2pweb != PROTOCOL:
        raise InvalidMessageError(f"it speaks protocol {info.p2pweb}, this is {PROTOCOL}")


def _blob(size_bytes: int, root: bytes, segment: int) -> BlobId:
    blob = BlobId(size_bytes, root)
    if len(root) != HASH_BYTES or not 0 <= size_bytes <= BLOB_BYTES_MAX:
        raise InvalidMessageError("a blob's size or root is out of bounds")
    if not 0 <= segment < blob.segment_count:
        raise InvalidMessageError("a segment's number is out of bounds")
    return blob


def _decode(decoder: "msgspec.msgpack.Decoder[_T] | msgspec.json.Decoder[_T]", data: bytes) -> _T:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidMessageError(str(error)) from None
