"""Signed records: what is signed can be opened, and nothing else can."""

from __future__ import annotations

import unicodedata
import urllib.parse

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kademlia.utils import digest

from p2pweb import records
from p2pweb.blobs import BLOB_BYTES_MAX, SEGMENT_BYTES, BlobId
from p2pweb.keys import SiteKey
from p2pweb.records import (
    COPIES_MAX,
    MANIFEST_BYTES_MAX,
    PATH_BYTES_MAX,
    RECORD_BYTES_MAX,
    SEQ_MAX,
    Encoding,
    FileRecord,
    InvalidRecordError,
    Record,
    SiteRecord,
    open_record,
    path_fault,
    sign,
)

KEY = SiteKey(b"k" * 32)
OTHER = SiteKey(b"o" * 32)
ROOT = b"r" * 32
IDENTITY = Encoding("identity", 10, ROOT)

SITE = SiteRecord(
    public_key=KEY.public_key,
    seq=3,
    published_s=1_700_000_000,
    copies=8,
    manifest_size_bytes=1_000,
    manifest_root=ROOT,
)
FILE = FileRecord(
    public_key=KEY.public_key,
    path="/css/main.css",
    seq=2,
    media_type="text/css; charset=utf-8",
    encodings=(IDENTITY, Encoding("br", 5, b"b" * 32)),
)

roots = st.binary(min_size=32, max_size=32)
sizes = st.integers(0, BLOB_BYTES_MAX)
seqs = st.integers(1, SEQ_MAX)
segments = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
paths = st.lists(segments, min_size=1, max_size=4).map(
    lambda names: unicodedata.normalize("NFC", "/" + "/".join(names))
)
valid_paths = paths.filter(lambda path: path_fault(path) is None)
media_types = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1)
site_records = st.builds(
    SiteRecord,
    public_key=st.just(KEY.public_key),
    seq=seqs,
    published_s=st.integers(0, SEQ_MAX),
    copies=st.integers(1, COPIES_MAX),
    manifest_size_bytes=st.integers(0, MANIFEST_BYTES_MAX),
    manifest_root=roots,
)
file_records = st.builds(
    FileRecord,
    public_key=st.just(KEY.public_key),
    path=valid_paths,
    seq=seqs,
    media_type=media_types.map(lambda text: text[:100]),
    encodings=st.tuples(
        st.builds(Encoding, st.just("identity"), sizes, roots),
        st.builds(Encoding, st.sampled_from(records.ENCODING_NAMES[1:]), sizes, roots),
    ),
)


@given(site_records | file_records)
def test_signed_record_is_opened_again(record: Record) -> None:
    signed = sign(record, KEY)
    assert signed.record == record
    assert open_record(signed.value) == signed


@pytest.mark.parametrize("record", [SITE, FILE], ids=["site", "file"])
def test_every_flipped_bit_is_refused(record: Record) -> None:
    value = sign(record, KEY).value
    for bit in range(len(value) * 8):
        flipped = bytearray(value)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(InvalidRecordError):
            open_record(bytes(flipped))


@pytest.mark.parametrize("record", [SITE, FILE], ids=["site", "file"])
def test_every_cut_and_every_addition_is_refused(record: Record) -> None:
    value = sign(record, KEY).value
    for length in range(len(value)):
        with pytest.raises(InvalidRecordError):
            open_record(value[:length])
    for more in (b"\0", b"\xc0", value):
        with pytest.raises(InvalidRecordError):
            open_record(value + more)


@example(b"\x91" * 960)
@example(b"\x81" * 960)
@example(b"\xdd\xff\xff\xff\xff" * 190)
@example(b"\x96\x01\xc6\xff\xff\xff\xff")
@example(b"\x96\x02\xc4\x01a\xa2\xff\xff\x01\xa1a\x90")  # text that is not UTF-8
@given(st.binary(max_size=RECORD_BYTES_MAX))
def test_other_bytes_are_refused(payload: bytes) -> None:
    with pytest.raises(InvalidRecordError):
        open_record(bytes(64) + payload)
    with pytest.raises(InvalidRecordError):
        open_record(payload)


@given(
    st.sampled_from([SITE, FILE]),
    st.integers(0, 7),
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats()
    | st.binary()
    | st.lists(st.none()),
)
def test_well_formed_nonsense_is_refused(record: Record, place: int, thing: object) -> None:
    array = msgspec.msgpack.decode(msgspec.msgpack.encode(record))
    array[place : place + 1] = [thing]
    with pytest.raises(InvalidRecordError):
        open_record(bytes(64) + msgspec.msgpack.encode(array))


@pytest.mark.parametrize("value", [None, True, 1, "text", ["list"], bytearray(64), b"x" * 1_025])
def test_what_is_no_short_bytes_is_refused(value: object) -> None:
    with pytest.raises(InvalidRecordError, match="a record is bytes, 1024 at most"):
        open_record(value)  # type: ignore[arg-type]  # the DHT may hand over anything


def test_only_the_sites_own_key_signs() -> None:
    with pytest.raises(InvalidRecordError, match="another site"):
        sign(FILE, OTHER)


def test_signature_without_the_domain_tag_is_refused() -> None:
    payload = msgspec.msgpack.encode(FILE)
    with pytest.raises(InvalidRecordError, match="signature"):
        open_record(KEY.sign(payload) + payload)


def test_longest_fields_make_a_record_that_fits() -> None:
    longest = FileRecord(
        public_key=KEY.public_key,
        path="/" + "é" * ((PATH_BYTES_MAX - 2) // 2) + "x",
        seq=SEQ_MAX,
        media_type="x" * records.MEDIA_TYPE_CHARS_MAX,
        encodings=tuple(Encoding(n, BLOB_BYTES_MAX, ROOT) for n in records.ENCODING_NAMES),
    )
    assert len(longest.path.encode()) == PATH_BYTES_MAX
    assert len(sign(longest, KEY).value) <= RECORD_BYTES_MAX


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("public_key", b"short", "public key has 32 bytes"),
        ("seq", 0, "seq is out of range"),
        ("seq", -1, "seq is out of range"),
        ("seq", SEQ_MAX + 1, "seq is out of range"),
        ("seq", 2**64, "seq is out of range"),
        ("published_s", -1, "time of publication"),
        ("published_s", SEQ_MAX + 1, "time of publication"),
        ("copies", 0, "copies wanted are 1 to 20"),
        ("copies", COPIES_MAX + 1, "copies wanted are 1 to 20"),
        ("manifest_size_bytes", -1, "a manifest has"),
        ("manifest_size_bytes", MANIFEST_BYTES_MAX + 1, "a manifest has"),
        ("manifest_root", b"r" * 31, "a root has 32 bytes"),
    ],
)
def test_site_record_out_of_bounds_is_refused(field: str, value: object, why: str) -> None:
    with pytest.raises(InvalidRecordError, match=why):
        sign(msgspec.structs.replace(SITE, **{field: value}), KEY)


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("public_key", b"p" * 33, "public key has 32 bytes"),
        ("seq", 0, "seq is out of range"),
        ("path", "/a//b", "no empty"),
        ("path", "/\ud800", "not valid Unicode"),
        ("media_type", "", "media type"),
        ("media_type", "x" * 101, "media type"),
        ("media_type", "text/html\r\nX: y", "media type"),
        ("media_type", "text/é", "media type"),
        ("encodings", (), "first encoding is identity"),
        ("encodings", (Encoding("br", 1, ROOT), IDENTITY), "first encoding is identity"),
        ("encodings", (IDENTITY, Encoding("lzma", 1, ROOT)), "known ones, each once"),
        ("encodings", (IDENTITY, IDENTITY), "known ones, each once"),
        ("encodings", (Encoding("identity", -1, ROOT),), "a blob has"),
        ("encodings", (Encoding("identity", BLOB_BYTES_MAX + 1, ROOT),), "a blob has"),
        ("encodings", (IDENTITY, Encoding("br", 1, b"")), "a root has 32 bytes"),
    ],
)
def test_file_record_out_of_bounds_is_refused(field: str, value: object, why: str) -> None:
    with pytest.raises(InvalidRecordError, match=why):
        sign(msgspec.structs.replace(FILE, **{field: value}), KEY)


@pytest.mark.parametrize(
    "path", ["/a", "/index.html", "/.well-known/x", "/a b/c#d?e", "/...", "/é", "/" + "x" * 511]
)
def test_path_of_a_file_passes(path: str) -> None:
    assert path_fault(path) is None


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("", "begins with '/'"),
        ("/", "names a file"),
        ("a", "begins with '/'"),
        ("/a/", "empty"),
        ("//a", "empty"),
        ("/a//b", "empty"),
        ("/.", "dot segments"),
        ("/../a", "dot segments"),
        ("/a/./b", "dot segments"),
        ("/a\\b", "backslash"),
        ("/a\0", "control character"),
        ("/a\x1f", "control character"),
        ("/a\x7f", "control character"),
        ("/a\x9f", "control character"),
        ("/e\u0301", "NFC"),
        ("/\udcff", "not valid Unicode"),
        ("/" + "x" * 512, "longer than 512 bytes"),
        ("/" + "é" * 256, "longer than 512 bytes"),
    ],
)
def test_path_that_deceives_is_refused(path: str, why: str) -> None:
    assert why in str(path_fault(path))


def test_a_path_is_spelled_as_the_standard_library_spells_it() -> None:
    for char in map(chr, range(0x300)):
        path = f"/a{char}b"
        assert records.quote_path(path) == urllib.parse.quote(path, safe="/-._~!$&'()*+,;=:@")
        in_order = char != "\\" and (" " <= char <= "~" or char >= "\xa0")
        assert (path_fault(path) is None) == (in_order and unicodedata.is_normalized("NFC", path))


@given(st.text(st.characters(codec=None)))
def test_any_text_is_a_path_or_has_a_fault(path: str) -> None:
    if path_fault(path) is None:
        assert urllib.parse.unquote(records.quote_path(path), errors="strict") == path


def test_names_are_urls_without_a_scheme_and_keys_their_digests() -> None:
    site = KEY.site
    assert SITE.site == FILE.site == site
    assert SITE.path is None
    assert records.site_name(site) == site
    assert records.file_name(site, "/a b/#1?é") == f"{site}/a%20b/%231%3F%C3%A9"
    assert records.file_name(site, "/v.mp4", 2) == f"{site}/v.mp4#2"
    assert records.record_key(SITE) == digest(str(site))
    assert records.record_key(FILE) == digest(f"{site}/css/main.css")
    assert records.record_key(FILE, 1) == digest(f"{site}/css/main.css#1")


tricky_paths = st.text("#1%23é/", min_size=1, max_size=5).map("/".__add__)


@given(tricky_paths, tricky_paths, st.integers(0, 3), st.integers(0, 3))
def test_no_two_parts_of_a_site_share_a_name(a: str, b: str, m: int, n: int) -> None:
    same = records.file_name(KEY.site, a, m) == records.file_name(KEY.site, b, n)
    assert same == ((a, m) == (b, n))


def test_site_record_places_the_whole_manifest_at_its_one_key() -> None:
    long = msgspec.structs.replace(SITE, manifest_size_bytes=SEGMENT_BYTES + 1)
    blob = BlobId(SEGMENT_BYTES + 1, ROOT)
    assert (long.manifest, long.blobs, long.segment_count) == (blob, (blob,), 1)
    assert long.parts(0) == [(blob, 0), (blob, 1)]
    assert long.parts(1) == []


def test_file_record_places_each_segment_of_every_encoding_that_is_so_long() -> None:
    long, short = BlobId(2 * SEGMENT_BYTES, ROOT), BlobId(SEGMENT_BYTES, b"b" * 32)
    record = msgspec.structs.replace(
        FILE,
        encodings=(
            Encoding("identity", long.size_bytes, long.root),
            Encoding("br", short.size_bytes, short.root),
        ),
    )
    assert (record.blobs, record.segment_count) == ((long, short), 2)
    assert record.parts(0) == [(long, 0), (short, 0)]
    assert record.parts(1) == [(long, 1)]
    assert record.parts(2) == []
