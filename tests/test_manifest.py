"""Manifests: what a path comes to, the bytes that are one, and the step to the next version."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from p2pweb import manifest as module
from p2pweb.blobs import BlobId
from p2pweb.keys import SiteKey
from p2pweb.manifest import (
    Entry,
    Found,
    InvalidManifestError,
    Manifest,
    MovedTo,
    Nothing,
    next_version,
)
from p2pweb.records import SEQ_MAX, Encoding, sign

KEY = SiteKey(b"k" * 32)
SEQ = 5


def entry(path: str, content: int = 0, seq: int = 1, modified_s: int = 100) -> Entry:
    return Entry(
        path=path,
        media_type="text/html",
        seq=seq,
        modified_s=modified_s,
        encodings=(Encoding("identity", content, bytes([content]) * 32),),
    )


def site(*paths: str) -> Manifest:
    return Manifest(KEY.public_key, SEQ, map(entry, paths))


def wire(*entries: object, key: object = KEY.public_key, seq: object = SEQ) -> bytes:
    return msgspec.msgpack.encode([1, key, seq, entries])


# Resolution


@pytest.mark.parametrize(
    ("paths", "asked", "found"),
    [
        (["/index.html"], "/", "/index.html"),
        (["/index.html"], "/index.html", "/index.html"),
        (["/index.html"], "/index", "/index.html"),
        (["/a/index.html"], "/a/", "/a/index.html"),
        (["/a.html"], "/a", "/a.html"),
        (["/a", "/a.html", "/a/index.html"], "/a", "/a"),
        (["/a.html", "/a/index.html"], "/a", "/a.html"),
        (["/a", "/a.html", "/a/index.html"], "/a/", "/a/index.html"),
        (["/a.html.html", "/a.html"], "/a.html", "/a.html"),
        (["/404.html"], "/404", "/404.html"),
    ],
)
def test_path_finds_file_then_page_then_index(paths: list[str], asked: str, found: str) -> None:
    assert site(*paths).resolve(asked) == Found(entry(found))


def test_directory_without_its_slash_is_moved_to_the_one_with_it() -> None:
    assert site("/a/b/index.html").resolve("/a/b") == MovedTo("/a/b/")


@pytest.mark.parametrize(
    "asked", ["/b", "/A", "/a/", "/a/b", "/a.htm", "/b/", "//a", "/a//", "//evil", ""]
)
def test_path_that_is_not_there_is_nothing(asked: str) -> None:
    assert site("/a", "/evil/index.html").resolve(asked) == Nothing(None)


@pytest.mark.parametrize(
    ("asked", "page"),
    [
        ("/x", "/404.html"),
        ("/x/", "/404.html"),
        ("/x/y/z", "/404.html"),
        ("/a", "/404.html"),
        ("/a/", "/a/404.html"),
        ("/a/x", "/a/404.html"),
        ("/a/b/x", "/a/404.html"),
        ("/a/b/c/", "/a/b/c/404.html"),
        ("/a/b/c/x/y", "/a/b/c/404.html"),
        ("/ab/x", "/404.html"),
        ("/", "/404.html"),
    ],
)
def test_404_page_is_the_nearest_up_the_tree(asked: str, page: str) -> None:
    found = site("/404.html", "/a/404.html", "/a/b/c/404.html").resolve(asked)
    assert found == Nothing(entry(page))


@given(st.lists(st.text("/ab."), max_size=5), st.text("/ab.", max_size=12))
def test_every_path_comes_to_something_of_this_version(paths: list[str], asked: str) -> None:
    version = site(*paths)
    match version.resolve(asked):
        case Found(one) | Nothing(Entry() as one):
            assert version.get(one.path) == one
        case MovedTo(path):
            assert isinstance(version.resolve(path), Found)
        case Nothing(page):
            assert page is None


def test_entry_vouches_for_its_path() -> None:
    one = entry("/a", content=7)
    assert one.blob == BlobId(7, b"\x07" * 32)
    record = sign(one.file_record(KEY.public_key), KEY).record
    assert (record.path, record.seq, record.blobs) == ("/a", 1, (one.blob,))


# Encoding and decoding

# Few, so that two versions have some in common.
PATHS = ["/a", "/a.html", "/a/index.html", "/a/é.png", "/b c/#?", "/404.html", "/雪/404.html"]
entries = st.builds(
    entry,
    st.sampled_from(PATHS),
    content=st.integers(0, 2),
    seq=st.integers(1, SEQ),
    modified_s=st.integers(0, SEQ_MAX),
)
manifests = st.lists(entries, max_size=6, unique_by=lambda one: one.path).map(
    lambda found: Manifest(KEY.public_key, SEQ, found)
)


@settings(max_examples=50)
@given(manifests)
def test_encoded_manifest_is_decoded_again(manifest: Manifest) -> None:
    again = Manifest.decode(manifest.encode())
    assert (again.site, again.seq, again.entries) == (KEY.site, SEQ, manifest.entries)
    assert again.encode() == manifest.encode()


@settings(max_examples=20)
@given(manifests, st.randoms())
def test_order_of_files_makes_no_difference(manifest: Manifest, chance: object) -> None:
    mixed = list(manifest.entries)
    chance.shuffle(mixed)  # type: ignore[attr-defined]
    assert Manifest(KEY.public_key, SEQ, mixed).encode() == manifest.encode()


@settings(max_examples=20)
@given(manifests)
def test_every_cut_and_every_addition_is_refused(manifest: Manifest) -> None:
    data = manifest.encode()
    for broken in [*(data[:length] for length in range(len(data))), data + b"\0", data * 2]:
        with pytest.raises(InvalidManifestError):
            Manifest.decode(broken)


@settings(max_examples=50)
@given(manifests, st.data())
def test_flipped_byte_is_refused_or_gives_a_manifest_that_makes_sense(
    manifest: Manifest, chance: st.DataObject
) -> None:
    data = bytearray(manifest.encode())
    data[chance.draw(st.integers(0, len(data) - 1))] ^= chance.draw(st.integers(1, 255))
    try:
        found = Manifest.decode(bytes(data))
    except InvalidManifestError:
        return
    assert Manifest.decode(found.encode()).entries == found.entries


@example(b"\x91" * 100_000)
@example(b"\x94\x01\xc4\x00\x01" + b"\x91" * 100_000)
@example(b"\xdd\xff\xff\xff\xff" * 1_000)
@example(b"\x94\x01\xc4\x00\x01\xdd\xff\xff\xff\xff")
@example(b"\x94\x01\xc4\x00\x01\x91\x95\xa1\xff\xa1a\x01\x01\x90")  # text that is not UTF-8
@given(st.binary(max_size=300))
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidManifestError, match="not a manifest"):
        Manifest.decode(data)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (wire(key=b"short"), "its site or its seq"),
        (wire(seq=0), "its site or its seq"),
        (wire(seq=SEQ_MAX + 1), "its site or its seq"),
        (wire(entry("/b"), entry("/a")), "paths are sorted"),
        (wire(entry("/a"), entry("/a")), "paths are sorted"),
        (wire(entry("")), "paths are sorted"),
        (wire(entry("a")), "'a': a path begins with '/'"),
        (wire(entry("/../a")), "dot segments"),
        (wire(entry("/a", seq=0)), "its seq or its time"),
        (wire(entry("/a", seq=SEQ + 1)), "its seq or its time"),
        (wire(entry("/a", modified_s=-1)), "its seq or its time"),
        (wire(entry("/a", modified_s=SEQ_MAX + 1)), "its seq or its time"),
        (wire(["/a", "", 1, 1, [["identity", 0, b"r" * 32]]]), "media type"),
        (wire(["/a", "a/b", 1, 1, []]), "first encoding is identity"),
        (wire(["/a", "a/b", 1, 1, [["identity", 0, b"r"]]]), "a root has 32 bytes"),
        (wire(["/a", "a/b", 1, 1]), "not a manifest"),
        (msgspec.msgpack.encode([2, KEY.public_key, SEQ, []]), "not a manifest"),
    ],
)
def test_manifest_that_makes_no_sense_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(InvalidManifestError, match=why):
        Manifest.decode(data)


def test_manifest_that_is_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = site("/a")
    length = len(whole.encode())
    monkeypatch.setattr(module, "MANIFEST_BYTES_MAX", length)
    assert len(whole.encode()) == length
    monkeypatch.setattr(module, "MANIFEST_BYTES_MAX", length - 1)
    with pytest.raises(InvalidManifestError, match="too many files"):
        whole.encode()


# The next version


def test_first_version_is_all_new() -> None:
    manifest, changes = next_version(None, KEY.public_key, 1, 500, [entry("/b"), entry("/a")])
    assert manifest.entries == (entry("/a", modified_s=500), entry("/b", modified_s=500))
    assert (manifest.public_key, manifest.seq) == (KEY.public_key, 1)
    assert (changes.added, changes.changed, changes.removed) == (("/a", "/b"), (), ())
    assert changes.unchanged == 0
    assert changes


def test_unchanged_file_keeps_its_seq_and_time_and_others_get_new_ones() -> None:
    live = Manifest(KEY.public_key, SEQ, [entry("/same", 1), entry("/new", 1), entry("/gone", 1)])
    files = [entry("/same", 1, 0, 0), entry("/new", 2, 0, 0), entry("/more", 3, 0, 0)]
    manifest, changes = next_version(live, KEY.public_key, SEQ + 1, 500, files)
    assert manifest.get("/same") == entry("/same", 1, 1, 100)
    assert manifest.get("/new") == entry("/new", 2, SEQ + 1, 500)
    assert manifest.get("/more") == entry("/more", 3, SEQ + 1, 500)
    assert manifest.get("/gone") is None
    assert changes.added == ("/more",)
    assert changes.changed == ("/new",)
    assert changes.removed == ("/gone",)
    assert changes.unchanged == 1


def test_another_media_type_is_a_change() -> None:
    live = site("/a")
    file = msgspec.structs.replace(entry("/a"), media_type="text/plain")
    assert next_version(live, KEY.public_key, SEQ + 1, 500, [file])[1].changed == ("/a",)


def test_same_files_are_no_change() -> None:
    live = site("/a", "/b")
    manifest, changes = next_version(live, KEY.public_key, SEQ + 1, 500, live.entries)
    assert not changes
    assert changes.unchanged == 2
    assert manifest.entries == live.entries


@settings(max_examples=50)
@given(manifests, manifests)
def test_changes_turn_the_live_version_into_the_next(live: Manifest, new: Manifest) -> None:
    manifest, changes = next_version(live, KEY.public_key, SEQ + 1, 500, new.entries)
    before, after = ({one.path for one in version.entries} for version in (live, manifest))
    assert (before | set(changes.added)) - set(changes.removed) == after
    assert changes.unchanged + len(changes.added) + len(changes.changed) == len(after)
    for one in manifest.entries:
        fresh = one.path in (*changes.added, *changes.changed)
        assert (one.seq == SEQ + 1) == fresh
        assert fresh or one == live.get(one.path)
        assert one.same_content(new.get(one.path) or one)
    assert Manifest.decode(manifest.encode()).entries == manifest.entries
