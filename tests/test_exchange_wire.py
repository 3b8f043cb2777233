"""Messages between peers over HTTP: round trips, and that other bytes are refused as such."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from p2pweb.blobs import BLOB_BYTES_MAX, SEGMENT_BYTES, BlobId, SegmentData, segments_of
from p2pweb.exchange import wire
from p2pweb.exchange.facts import decode_facts, decode_reached
from p2pweb.exchange.wire import Bundle, InvalidMessageError, ItemAnswer, PeerInfo
from p2pweb.keys import SiteKey
from p2pweb.records import SEQ_MAX, Encoding, FileRecord, Signed, sign
from p2pweb.store.items import Held, Item, Outcome, Refused, Stale

KEY = SiteKey(b"k" * 32)
DATA = b"body {}"
(SEGMENT,) = segments_of(DATA)
SIGNED = sign(
    FileRecord(
        public_key=KEY.public_key,
        path="/main.css",
        seq=1,
        media_type="text/css",
        encodings=(Encoding("identity", SEGMENT.blob.size_bytes, SEGMENT.blob.root),),
    ),
    KEY,
)
ROOT = b"r" * 32
BIGGEST = BlobId(BLOB_BYTES_MAX, ROOT)

DECODERS: list[Callable[[bytes], object]] = [
    wire.decode_bundle,
    lambda data: wire.decode_answers(data, 1),
    wire.decode_wanted,
    wire.decode_peer_info,
    wire.decode_status,
    wire.decode_peers,
    decode_facts,
    decode_reached,
]
EVERY_DECODER = pytest.mark.parametrize(
    "decode",
    DECODERS,
    ids=["bundle", "answers", "keys", "info", "status", "peers", "facts", "reached"],
)

blobs = st.builds(BlobId, st.integers(0, BLOB_BYTES_MAX), st.binary(min_size=32, max_size=32))
parts = blobs.flatmap(lambda blob: st.tuples(st.just(blob), st.integers(0, blob.segment_count - 1)))
segments = st.builds(
    lambda part, hashes, data: SegmentData(blob=part[0], segment=part[1], hashes=hashes, data=data),
    parts,
    st.binary(max_size=64),
    st.binary(max_size=64),
)
items = st.builds(Item, st.just(SIGNED), st.integers(0, 255), st.booleans())
outcomes: st.SearchStrategy[Outcome] = (
    st.builds(Held, st.lists(parts, max_size=3).map(tuple))
    | st.builds(Stale, st.binary(max_size=100))
    | st.builds(Refused, st.text())
)


# Bundles


@settings(max_examples=50)
@given(st.lists(items, max_size=3), st.lists(segments, max_size=3), st.integers(0, 20))
def test_bundle_is_decoded_again(sent: list[Item], bodies: list[SegmentData], copies: int) -> None:
    bundle = wire.decode_bundle(wire.encode_bundle(sent, bodies, copies))
    assert [(one.value, one.segment, one.with_bytes) for one in bundle.items] == [
        (one.signed.value, one.segment, one.with_bytes) for one in sent
    ]
    assert bundle.segments() == bodies
    assert bundle.copies == copies


def test_bundle_of_records_alone_asks_for_no_copies() -> None:
    bundle = wire.decode_bundle(wire.encode_bundle([Item(SIGNED)]))
    assert (bundle.segments(), bundle.copies) == ([], 0)


def test_every_cut_and_every_addition_to_a_bundle_is_refused() -> None:
    data = wire.encode_bundle([Item(SIGNED)], [SEGMENT], 8)
    for broken in [*(data[:length] for length in range(len(data))), data + b"\0", data * 2]:
        with pytest.raises(InvalidMessageError):
            wire.decode_bundle(broken)


def test_flipped_byte_never_raises_anything_else() -> None:
    data = wire.encode_bundle([Item(SIGNED)], [SEGMENT], 8)
    for place in range(len(data)):
        for change in (0x01, 0x40, 0xFF):
            broken = bytearray(data)
            broken[place] ^= change
            try:
                wire.decode_bundle(bytes(broken)).segments()
            except InvalidMessageError:
                continue


def test_bundle_has_so_many_records_and_no_more() -> None:
    most = [Item(SIGNED)] * wire.BUNDLE_ITEMS_MAX
    assert len(wire.decode_bundle(wire.encode_bundle(most)).items) == wire.BUNDLE_ITEMS_MAX
    with pytest.raises(InvalidMessageError, match="length <= 256"):
        wire.decode_bundle(wire.encode_bundle([*most, Item(SIGNED)]))


def test_fullest_bundle_fits_its_limit() -> None:
    longest = SegmentData(
        blob=BIGGEST,
        segment=0,
        hashes=bytes(BIGGEST.block_count * 32),
        data=bytes(wire.BUNDLE_DATA_BYTES),
    )
    data = wire.encode_bundle([Item(SIGNED)] * wire.BUNDLE_ITEMS_MAX, [longest], 20)
    longest_records = wire.BUNDLE_ITEMS_MAX * (1_024 - len(SIGNED.value))
    assert len(data) + longest_records <= wire.BUNDLE_BYTES_MAX


OUT_OF_BOUNDS = pytest.mark.parametrize(
    ("size", "root", "segment", "why"),
    [
        (-1, ROOT, 0, "size or root"),
        (BLOB_BYTES_MAX + 1, ROOT, 0, "size or root"),
        (1, ROOT[1:], 0, "size or root"),
        (1, ROOT + b"r", 0, "size or root"),
        (1, ROOT, 1, "segment's number"),
        (1, ROOT, -1, "segment's number"),
        (SEGMENT_BYTES, ROOT, 1, "segment's number"),
        (BLOB_BYTES_MAX, ROOT, 256, "segment's number"),
    ],
)


@OUT_OF_BOUNDS
def test_part_out_of_bounds_is_refused(size: int, root: bytes, segment: int, why: str) -> None:
    data = msgspec.msgpack.encode([[], [[size, root, segment, b"", b""]], 0])
    with pytest.raises(InvalidMessageError, match=why):
        wire.decode_bundle(data).segments()


# Answers


@settings(max_examples=50)
@given(st.lists(st.tuples(outcomes, st.integers(0, 20), st.integers(0, 20)), max_size=4))
def test_answers_are_decoded_again(told: list[tuple[Outcome, int, int]]) -> None:
    answers = [ItemAnswer.of(*one) for one in told]
    found = wire.decode_answers(wire.encode_answers(answers), len(answers))
    assert list(found) == answers
    for answer, (outcome, copies, wanted) in zip(found, told, strict=True):
        match outcome:
            case Held(wants):
                assert (answer.state, tuple(answer.parts)) == ("held", wants)
                assert (answer.copies, answer.wanted) == (copies, wanted)
                assert answer.is_whole == (not wants)
            case Stale(newer):
                assert (answer.state, answer.newer, answer.is_whole) == ("stale", newer, False)
            case Refused(why):
                assert (answer.state, answer.why, answer.is_whole) == ("refused", why, False)


def test_only_a_signed_record_of_the_site_makes_another_one_stale() -> None:
    def proved(newer: bytes) -> int:
        return ItemAnswer.of(Stale(newer)).proved_seq(SIGNED)

    def record(**changes: object) -> Signed:
        return sign(msgspec.structs.replace(SIGNED.record, **changes), KEY)

    newer = record(seq=SIGNED.record.seq + 5)
    assert proved(newer.value) == newer.record.seq
    assert proved(record(media_type="text/rival").value) == SIGNED.record.seq
    # Its own echo proves nothing, nor does a record of the same version for another path.
    for echo in (SIGNED.value, record(path="/another").value):
        with pytest.raises(InvalidMessageError, match="no rival"):
            proved(echo)
    forged = bytearray(newer.value)
    forged[0] ^= 1
    other = SiteKey(bytes(32))
    foreign = sign(
        msgspec.structs.replace(SIGNED.record, public_key=other.public_key, seq=99), other
    )
    for lie in (b"", bytes(forged), foreign.value):
        with pytest.raises(InvalidMessageError, match="stale"):
            proved(lie)
    with pytest.raises(InvalidMessageError, match="not newer"):
        ItemAnswer.of(Stale(SIGNED.value)).proved_seq(newer)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_another_number_of_answers_is_refused(count: int) -> None:
    data = wire.encode_answers([ItemAnswer("held")] * 2)
    with pytest.raises(InvalidMessageError, match=f"2 answers to {count} records"):
        wire.decode_answers(data, count)


def test_every_cut_and_every_addition_to_answers_is_refused() -> None:
    data = wire.encode_answers([ItemAnswer.of(Held(((SEGMENT.blob, 0),))), ItemAnswer("stale")])
    for broken in [*(data[:length] for length in range(len(data))), data + b"\0"]:
        with pytest.raises(InvalidMessageError):
            wire.decode_answers(broken, 2)


@OUT_OF_BOUNDS
def test_wanted_part_out_of_bounds_is_refused(
    size: int, root: bytes, segment: int, why: str
) -> None:
    answers = wire.encode_answers([ItemAnswer("held", wants=((size, root, segment),))])
    (answer,) = wire.decode_answers(answers, 1)
    with pytest.raises(InvalidMessageError, match=why):
        _ = answer.parts


# Who answers, and whom it knows


@pytest.mark.parametrize("home", [None, KEY.site])
def test_peer_info_is_decoded_again(home: str | None) -> None:
    info = PeerInfo(p2pweb=wire.PROTOCOL, id="ab" * 20, home=home, version="1.0")
    assert wire.decode_peer_info(wire.encode_json(info)) == info
    assert info.home_site == home


@pytest.mark.parametrize("home", ["", "docs", KEY.site.upper()])
def test_home_that_is_no_site_id_is_none(home: str) -> None:
    assert PeerInfo(p2pweb=1, id="", home=home, version="").home_site is None


def test_peer_info_may_say_more_than_is_known_today() -> None:
    data = b'{"p2pweb": 1, "id": "a", "home": null, "version": "9", "new": [1]}'
    assert wire.decode_peer_info(data).version == "9"


def test_peer_of_another_protocol_is_refused() -> None:
    data = wire.encode_json(PeerInfo(p2pweb=2, id="", home=None, version=""))
    with pytest.raises(InvalidMessageError, match="it speaks protocol 2, this is 1"):
        wire.decode_peer_info(data)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.ip_addresses().map(str), st.integers(1, 65_535)), max_size=4))
def test_peers_are_decoded_again(peers: list[tuple[str, int]]) -> None:
    assert wire.decode_peers(wire.encode_json(peers)) == peers


# Whatever else arrives


@EVERY_DECODER
@example(data=b"")
@example(data=b"\xc1")
@example(data=b"\x91" * 100_000)
@example(data=b"\x81" * 100_000)
@example(data=b"\xdd\xff\xff\xff\xff" * 1_000)
@example(data=b"\x93\xdd\xff\xff\xff\xff")
@example(data=b"[" * 100_000)
@example(data=b'[["\xff", 1]]')
@example(data=b'[["\\ud800", 1]]')
@example(data=b'[["a", 1.5]]')
@example(data=b'{"p2pweb": 1, "id": "\\ud800", "home": null, "version": ""}')
@example(data=b'{"p2pweb": 1}')
@settings(max_examples=50)
@given(data=st.binary(max_size=200))
def test_other_bytes_are_refused(decode: Callable[[bytes], object], data: bytes) -> None:
    if data.strip() == b"[]":
        return  # the one list of peers that may come up by chance
    with pytest.raises(InvalidMessageError):
        decode(data)


things = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@EVERY_DECODER
@settings(max_examples=50)
@given(thing=things)
def test_well_formed_nonsense_never_raises_anything_else(
    decode: Callable[[bytes], object], thing: object
) -> None:
    for encode in (msgspec.msgpack.encode, msgspec.json.encode):
        try:
            found = decode(encode(thing))
            if isinstance(found, Bundle):
                found.segments()
        except InvalidMessageError:
            continue


# Paths


@given(parts)
def test_path_of_a_segment_names_it(part: tuple[BlobId, int]) -> None:
    blob, segment = part
    tail = wire.blob_path(blob, segment).removeprefix("/.well-known/p2pweb/blob/")
    assert wire.parse_blob_name(tail) == (blob, segment)
    tail = wire.hashes_path(blob).removeprefix("/.well-known/p2pweb/hashes/")
    assert wire.parse_blob_name(tail) == (blob, 0)


@pytest.mark.parametrize(
    "name",
    [
        "",
        f"{ROOT.hex()}",
        f"{ROOT.hex()}/",
        f"{ROOT.hex()}/1/",
        f"{ROOT.hex()}/1/1",
        f"{ROOT.hex()}/1/0/0",
        f"{ROOT.hex()}/1/0\n",
        f"{ROOT.hex()}/-1/0",
        f"{ROOT.hex()}/\u0661/0",
        f"{ROOT.hex()}/12345678901/0",
        f"{ROOT.hex()[:-1]}/1/0",
        f"{'AB' * 32}/1/0",
        f"{'g' * 64}/1/0",
        f"../{ROOT.hex()}/1/0",
    ],
)
def test_other_names_are_none(name: str) -> None:
    assert wire.parse_blob_name(name) is None


def test_keys_come_through_and_no_more_than_go_into_an_answer() -> None:
    wanted = [(bytes([number]) * 20, number % 2 == 0) for number in range(wire.BUNDLE_ITEMS_MAX)]
    data = wire.encode_wanted(wanted)
    assert len(data) <= wire.KEYS_BYTES_MAX
    assert wire.decode_wanted(data) == wanted
    for broken in ([*wanted, (bytes(20), True)], [(bytes(19), True)], [(bytes(21), True)]):
        with pytest.raises(InvalidMessageError):
            wire.decode_wanted(wire.encode_wanted(broken))


def test_a_version_has_one_name() -> None:
    path = wire.held_path(KEY.site, SEQ_MAX)
    name = path.removeprefix(f"{wire.PREFIX}held/")
    assert wire.parse_held_name(name) == (KEY.site, SEQ_MAX)


@pytest.mark.parametrize(
    "name",
    [
        "",
        f"{KEY.site}",
        f"{KEY.site}/",
        f"{KEY.site}/0",
        f"{KEY.site}/01",
        f"{KEY.site}/1/",
        f"{KEY.site}/-1",
        f"{KEY.site}/{10**16}",
        f"{KEY.site.upper()}/1",
        f"{KEY.site[1:]}/1",
    ],
)
def test_other_names_of_versions_are_none(name: str) -> None:
    assert wire.parse_held_name(name) is None


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("http://10.0.0.1:8001/elsewhere", "8001/elsewhere"),
        ("http://10.0.0.1" + wire.blob_path(BlobId(9, bytes(32)), 0), "10.0.0.1"),
        ("10.0.0.1:8001" + wire.blob_path(BlobId(9, bytes(32)), 0), "points to something else"),
    ],
)
def test_a_pointer_leads_to_the_same_bytes_of_another_peer_or_nowhere(
    location: str, said: str
) -> None:
    blob = BlobId(9, bytes(32))
    address = ("10.0.0.1", 8001)
    assert wire.parse_pointer(wire.pointer(address, blob, 0), blob, 0).address == address
    with pytest.raises(InvalidMessageError, match=said):
        wire.parse_pointer(location, blob, 0)


@pytest.mark.parametrize(
    ("value", "port"),
    [(b"1", 1), (b"65535", 65_535), (b"65536", None), (b"0", None), (b"x", None), (None, None)],
)
def test_a_port_is_a_number_that_ports_have(value: bytes | None, port: int | None) -> None:
    assert wire.parse_port(value) == port
