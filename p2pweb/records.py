"""Signed records: what a site's key vouches for, in the form that travels and is stored.

A signed value is `signature (64 bytes) + payload`, the payload a msgpack array whose first element
is the kind. The signature covers a domain tag and the payload's own bytes: nothing is encoded
again to verify it. `open_record` is the only way from bytes to a record, and it verifies.

A record says what lies at its DHT keys: `names` are the URLs without a scheme whose SHA-1 digests
are the keys, and `parts(segment)` the pieces of blobs that belong there.
"""

import hashlib
import re
import unicodedata
import urllib.parse
from dataclasses import dataclass
from functools import lru_cache

import msgspec

from p2pweb import keys
from p2pweb.blobs import BLOB_BYTES_MAX, HASH_BYTES, BlobId, Part
from p2pweb.keys import SiteId, SiteKey

# A record and everything around it fits one datagram of 1,200 bytes.
RECORD_BYTES_MAX = 1_024
# What a record of 1,024 bytes leaves for the path after four encodings and a media type.
PATH_BYTES_MAX = 512
MEDIA_TYPE_CHARS_MAX = 100
ENCODING_NAMES = ("identity", "br", "zstd", "gzip")
# 2**53 - 1, the largest integer that every JSON reader keeps exact.
SEQ_MAX = 9_007_199_254_740_991
# As many as there are peers that keep a record: the k of Kademlia.
COPIES_MAX = 20
COPIES_DEFAULT = 8
# 100,000 paths at some 300 bytes each, with every encoding; a peer keeps the manifests of its sites
# in memory.
MANIFEST_BYTES_MAX = 32 * 1024 * 1024

# What a path may not have anywhere, and what most have nothing but: looked for in one pass, since a
# version has thousands of paths, and each peer looks at all of them.
_FORBIDDEN = re.compile(r"[\\\x00-\x1f\x7f-\x9f]")
_PLAIN_PATH = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[ -.0-\[\]-~]+)+")
_SAFE_PATH = re.compile(r"[A-Za-z0-9/\-._~!$&'()*+,;=:@]*")

_DOMAIN = {1: b"p2pweb site record 1\0", 2: b"p2pweb file record 1\0"}


class InvalidRecordError(Exception):
    """These bytes are no record that its site has signed; the text says why."""


class Encoding(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One content coding of a file (RFC 9110 §8.4.1), and the blob that it is."""

    name: str
    size_bytes: int
    root: bytes

    @property
    def blob(self) -> BlobId:
        return BlobId(self.size_bytes, self.root)


class SiteRecord(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=1, kw_only=True
):
    """What a site is at version `seq`: when published (Unix seconds), and its manifest's blob."""

    public_key: bytes
    seq: int
    published_s: int
    copies: int
    manifest_size_bytes: int
    manifest_root: bytes

    @property
    def site(self) -> SiteId:
        return keys.site_id_of(self.public_key)

    @property
    def path(self) -> None:
        """A site record is not about one path."""
        return None

    @property
    def manifest(self) -> BlobId:
        return BlobId(self.manifest_size_bytes, self.manifest_root)

    @property
    def blobs(self) -> tuple[BlobId, ...]:
        return (self.manifest,)

    @property
    def segment_count(self) -> int:
        """1: the whole manifest lies at the site's one key."""
        return 1

    def parts(self, segment: int) -> list[Part]:
        """Every segment of the manifest."""
        blob = self.manifest
        return [(blob, number) for number in range(blob.segment_count)] if segment == 0 else []


class FileRecord(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=2, kw_only=True
):
    """What a path holds since version `seq`: the warrant for storing these blobs."""

    public_key: bytes
    path: str
    seq: int
    media_type: str
    encodings: tuple[Encoding, ...]

    @property
    def site(self) -> SiteId:
        return keys.site_id_of(self.public_key)

    @property
    def blobs(self) -> tuple[BlobId, ...]:
        return tuple(encoding.blob for encoding in self.encodings)

    @property
    def segment_count(self) -> int:
        return max(blob.segment_count for blob in self.blobs)

    def parts(self, segment: int) -> list[Part]:
        """This segment of every encoding that is so long."""
        return [(blob, segment) for blob in self.blobs if segment < blob.segment_count]


Record = SiteRecord | FileRecord

_decoder = msgspec.msgpack.Decoder(Record)
_encoder = msgspec.msgpack.Encoder()


@dataclass(frozen=True, slots=True)
class Signed:
    """A verified record beside the very bytes that were verified."""

    value: bytes
    record: Record


def sign(record: Record, key: SiteKey) -> Signed:
    """Sign a record of the key's own site. InvalidRecordError where a field is out of bounds."""
    fault = _fault_of(record)
    if fault:
        raise InvalidRecordError(fault)
    if record.public_key != key.public_key:
        raise InvalidRecordError("the record is another site's")
    payload = encode_record(record)
    value = key.sign(_domain_of(record) + payload) + payload
    # The bounds of the fields add up to no more than a record may have.
    assert len(value) <= RECORD_BYTES_MAX  # noqa: S101
    return Signed(value, record)


# A record is offered, then sent with its bytes, then asked for; proving it costs 100 µs each time.
# 4,096 records are about 4 MB.
OPENED_MAX = 4_096


def open_record(value: bytes) -> Signed:
    """Decode and verify. InvalidRecordError where anything at all is wrong with the bytes."""
    if not isinstance(value, bytes) or len(value) > RECORD_BYTES_MAX:
        raise InvalidRecordError(f"a record is bytes, {RECORD_BYTES_MAX} at most")
    return _open_record(value)


@lru_cache(maxsize=OPENED_MAX)
def _open_record(value: bytes) -> Signed:
    signature, payload = value[: keys.SIGNATURE_BYTES], payload_of(value)
    try:
        record = _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRecordError(f"not a record: {error}") from None
    fault = _fault_of(record)
    if fault:
        raise InvalidRecordError(fault)
    if not keys.verify(record.public_key, _domain_of(record) + payload, signature):
        raise InvalidRecordError("the signature is not the site's")
    return Signed(value, record)


def encode_record(record: Record) -> bytes:
    """A record's payload: what its signature covers, after the domain tag."""
    return _encoder.encode(record)


def payload_of(value: bytes) -> bytes:
    """The payload within a signed value."""
    return value[keys.SIGNATURE_BYTES :]


def site_name(site: SiteId) -> str:
    """The name whose digest is the key of a site's record."""
    return str(site)


def file_name(site: SiteId, path: str, segment: int = 0) -> str:
    """The name whose digest is the key of a path's record: its URL without the scheme.

    The path is spelled as in a URL (RFC 3986 §3.3), so a `#` in a file's name is `%23` and never
    taken for the fragment that names a segment.
    """
    fragment = f"#{segment}" if segment else ""
    return f"{site}{quote_path(path)}{fragment}"


def record_key(record: Record, segment: int = 0) -> bytes:
    """The DHT key, 20 bytes, of a record's segment."""
    if isinstance(record, SiteRecord):
        return dht_key(site_name(record.site))
    return dht_key(file_name(record.site, record.path, segment))


def dht_key(name: str) -> bytes:
    """SHA-1 of a name, 20 bytes: what `kademlia.utils.digest` makes of it."""
    return hashlib.sha1(name.encode(), usedforsecurity=False).digest()


def quote_path(path: str) -> str:
    """A path spelled as in a URL: UTF-8, percent-encoded but for pchar and `/` (RFC 3986 §3.3)."""
    if _SAFE_PATH.fullmatch(path):
        return path
    return urllib.parse.quote(path, safe="/-._~!$&'()*+,;=:@")


def path_fault(path: str) -> str | None:
    """Why this cannot be a file's URL path, decoded; None where it can."""
    if len(path) <= PATH_BYTES_MAX and _PLAIN_PATH.fullmatch(path):
        return None
    try:
        length = len(path.encode())
    except UnicodeEncodeError:
        return "its name is not valid Unicode"
    if length > PATH_BYTES_MAX:
        return f"its path is longer than {PATH_BYTES_MAX} bytes"
    if not path.startswith("/") or path == "/":
        return "a path begins with '/' and names a file"
    if any(segment in ("", ".", "..") for segment in path[1:].split("/")):
        return "a path has no empty and no dot segments"
    if _FORBIDDEN.search(path):
        return "its name has a backslash or a control character"
    if unicodedata.normalize("NFC", path) != path:
        return "its name is not in Unicode's normal form NFC"
    return None


def _domain_of(record: Record) -> bytes:
    return _DOMAIN[1 if isinstance(record, SiteRecord) else 2]


def _fault_of(record: Record) -> str | None:
    if len(record.public_key) != keys.PUBLIC_KEY_BYTES:
        return "a public key has 32 bytes"
    if not 1 <= record.seq <= SEQ_MAX:
        return "seq is out of range"
    if isinstance(record, SiteRecord):
        return _fault_of_site(record)
    return _fault_of_file(record)


def _fault_of_site(record: SiteRecord) -> str | None:
    if not 0 <= record.published_s <= SEQ_MAX:
        return "the time of publication is out of range"
    if not 1 <= record.copies <= COPIES_MAX:
        return f"copies wanted are 1 to {COPIES_MAX}"
    if not 0 <= record.manifest_size_bytes <= MANIFEST_BYTES_MAX:
        return f"a manifest has {MANIFEST_BYTES_MAX} bytes at most"
    if len(record.manifest_root) != HASH_BYTES:
        return "a root has 32 bytes"
    return None


def _fault_of_file(record: FileRecord) -> str | None:
    return path_fault(record.path) or representation_fault(record.media_type, record.encodings)


def representation_fault(media_type: str, encodings: tuple[Encoding, ...]) -> str | None:
    """Why a file cannot have this media type and these encodings; None where it can."""
    if not 1 <= len(media_type) <= MEDIA_TYPE_CHARS_MAX or not (
        media_type.isascii() and media_type.isprintable()
    ):
        return "the media type is not printable ASCII of a sensible length"
    names = [encoding.name for encoding in encodings]
    if names[:1] != ["identity"]:
        return "the first encoding is identity"
    if any(name not in ENCODING_NAMES for name in names) or len(set(names)) != len(names):
        return "encodings are known ones, each once"
    for encoding in encodings:
        if not 0 <= encoding.size_bytes <= BLOB_BYTES_MAX:
            return f"a blob has {BLOB_BYTES_MAX} bytes at most"
        if len(encoding.root) != HASH_BYTES:
            return "a root has 32 bytes"
    return None
