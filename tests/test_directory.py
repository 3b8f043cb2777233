"""Directories: what is published, what is left out and why, and that nothing outside is read."""

from __future__ import annotations

import errno
import gzip
import os
import random
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pweb import directory
from p2pweb.blobs import BLOB_BYTES_MAX, BLOCK_BYTES, SEGMENT_BYTES, BlobId, blob_of
from p2pweb.directory import (
    EncodedFile,
    EncodingsDifferError,
    HashedFile,
    SiteContent,
    SiteFile,
    encode_files,
    hash_files,
    list_directory,
    read_segment,
)
from p2pweb.encodings import SOURCE_BYTES_MIN
from p2pweb.errors import UsageError
from p2pweb.manifest import Entry, Manifest, next_version
from p2pweb.records import ENCODING_NAMES, Encoding, path_fault


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory of one page."""
    folder = tmp_path / "site"
    write(folder / "index.html", b"home")
    return folder


def write(path: Path, data: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def published(root: Path) -> list[str]:
    return [file.path for file in list_directory(root).files]


def left_out(root: Path) -> dict[str, str]:
    """What is left out and why, where the one page is not."""
    listing = list_directory(root)
    assert [file.path for file in listing.files] == ["/index.html"]
    return {one.name: one.why for one in listing.left_out}


# What is published


def test_files_are_listed_by_path_with_their_sizes(root: Path) -> None:
    css = write(root / "css" / "main.css", b"body {}")
    write(root / "css.html")
    (root / "empty").mkdir()
    listing = list_directory(root)
    assert [file.path for file in listing.files] == ["/css.html", "/css/main.css", "/index.html"]
    assert listing.files[1] == SiteFile("/css/main.css", css.resolve(), 7)
    assert listing.left_out == []


def test_directory_may_be_named_through_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    assert published(tmp_path / "link") == ["/index.html"]


def test_empty_file_is_published(root: Path) -> None:
    write(root / "empty.txt", b"")
    assert published(root) == ["/empty.txt", "/index.html"]


def test_hidden_names_are_left_out(root: Path) -> None:
    write(root / ".htaccess")
    write(root / ".git" / "config")
    write(root / "deep" / ".hidden")
    write(root / "deep" / ".well-known" / "x")
    assert left_out(root) == dict.fromkeys(
        ["/.git", "/.htaccess", "/deep/.hidden", "/deep/.well-known"], "it is hidden"
    )


def test_well_known_is_published_but_for_what_is_the_peers(root: Path) -> None:
    write(root / ".well-known" / "security.txt")
    write(root / ".well-known" / "p2pweb.txt")
    write(root / ".well-known" / "p2pweb" / "peer")
    listing = list_directory(root)
    assert [file.path for file in listing.files] == [
        "/.well-known/p2pweb.txt",
        "/.well-known/security.txt",
        "/index.html",
    ]
    assert [(one.name, one.why) for one in listing.left_out] == [
        ("/.well-known/p2pweb", "that address belongs to the peer itself")
    ]


def test_file_with_the_peers_own_name_is_left_out(root: Path) -> None:
    write(root / ".well-known" / "p2pweb")
    assert left_out(root) == {"/.well-known/p2pweb": "that address belongs to the peer itself"}


# Links


def test_link_that_stays_inside_is_followed(root: Path) -> None:
    page = write(root / "docs" / "page.html", b"page")
    (root / "copy.html").symlink_to("docs/page.html")
    (root / "manual").symlink_to("docs")
    listing = list_directory(root)
    assert {file.path: file.source for file in listing.files} == {
        "/copy.html": page.resolve(),
        "/docs/page.html": page.resolve(),
        "/index.html": (root / "index.html").resolve(),
        "/manual/page.html": page.resolve(),
    }
    assert listing.left_out == []


def test_link_that_leaves_the_directory_is_left_out(root: Path, tmp_path: Path) -> None:
    write(tmp_path / "secret" / "key")
    write(tmp_path / "site2" / "x")  # a name that merely begins like the directory's own
    (root / "file").symlink_to(tmp_path / "secret" / "key")
    (root / "folder").symlink_to("../secret")
    (root / "sibling").symlink_to("../site2")
    (root / "up").symlink_to("..")
    assert left_out(root) == dict.fromkeys(
        ["/file", "/folder", "/sibling", "/up"], "it is a symbolic link that leaves the directory"
    )


@pytest.mark.parametrize("target", ["..", "../..", "."])
def test_link_to_a_folder_that_it_is_in_is_left_out(root: Path, target: str) -> None:
    (root / "deep" / "er").mkdir(parents=True)
    (root / "deep" / "er" / "link").symlink_to(target)
    assert left_out(root) == {"/deep/er/link": "it is a symbolic link to a directory that it is in"}


def test_link_to_nothing_and_link_in_a_circle_are_left_out(root: Path) -> None:
    (root / "dangling").symlink_to("nowhere")
    (root / "circle").symlink_to("circle")
    (root / "file-below").symlink_to("index.html/x")
    assert left_out(root) == dict.fromkeys(
        ["/circle", "/dangling", "/file-below"], "it is a symbolic link to nothing"
    )


# What cannot be read or named


def test_fifo_is_left_out(root: Path) -> None:
    os.mkfifo(root / "fifo")
    assert left_out(root) == {"/fifo": "it is neither a file nor a directory"}


def test_name_that_cannot_be_looked_at_is_left_out_with_the_reason(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Path.stat

    def stat(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if path.name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied")
        return whole(path, follow_symlinks=follow_symlinks)

    (root / "closed").write_text("")
    monkeypatch.setattr(Path, "stat", stat)
    assert left_out(root) == {"/closed": "it cannot be read: Permission denied"}


def test_file_without_permission_is_left_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = write(root / "secret").resolve()
    secret.chmod(0)
    if os.access(secret, os.R_OK):  # Nothing is forbidden to root.
        monkeypatch.setattr(os, "access", lambda path, mode: path != secret)
    assert left_out(root) == {"/secret": "it cannot be read: permission denied"}


def test_folder_without_permission_is_left_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = write(root / "secret" / "file").parent.resolve()
    listed = os.scandir

    def scandir(path: Path) -> object:
        if path == secret:
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert left_out(root) == {"/secret/": "it cannot be read: Permission denied"}


def test_names_are_published_in_nfc(root: Path) -> None:
    write(root / "caf\u0065\u0301" / "e\u0301.html")
    assert published(root) == ["/café/é.html", "/index.html"]


def test_two_names_that_are_one_in_nfc_are_refused(root: Path) -> None:
    write(root / "e\u0301.html")
    try:
        (root / "\u00e9.html").open("x").close()
    except FileExistsError:
        pytest.skip("this file system takes both names for one")
    with pytest.raises(UsageError, match="have the same URL path /\u00e9"):
        list_directory(root)


def test_two_folders_that_are_one_in_nfc_are_joined(root: Path) -> None:
    write(root / "e\u0301" / "a")
    write(root / "\u00e9" / "b")
    assert published(root) == ["/index.html", "/é/a", "/é/b"]


def test_name_that_is_not_utf_8_is_left_out_and_can_be_printed(root: Path) -> None:
    try:
        write(root / os.fsdecode(b"caf\xe9"))
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    assert left_out(root) == {"/caf\\udce9": "its name is not valid Unicode"}


def test_name_with_control_characters_is_left_out_and_can_be_printed(root: Path) -> None:
    write(root / "\x1b[2Ja\nb")
    ((name, why),) = left_out(root).items()
    assert why == "its name has a backslash or a control character"
    assert name.isprintable()


def test_path_that_is_too_long_is_left_out(root: Path) -> None:
    write(root.joinpath(*["d" * 100] * 5, "long-name"))
    (why,) = left_out(root).values()
    assert why == "its path is longer than 512 bytes"


# What cannot be a site


def test_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no directory .*none"):
        list_directory(tmp_path / "none")


def test_file_is_no_directory(root: Path) -> None:
    with pytest.raises(UsageError, match=r"index\.html is no directory"):
        list_directory(root / "index.html")
    with pytest.raises(UsageError, match=r"cannot read the directory .*: Not a directory"):
        list_directory(root / "index.html" / "x")


def test_link_in_a_circle_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(UsageError, match="circle"):
        list_directory(tmp_path / "circle")


def test_directory_without_files_is_nothing_to_publish(tmp_path: Path) -> None:
    write(tmp_path / ".hidden")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="there is nothing to publish in"):
        list_directory(tmp_path)


def test_longest_file_passes_and_a_longer_one_is_refused(root: Path) -> None:
    film = write(root / "film.mp4")
    os.truncate(film, BLOB_BYTES_MAX)  # sparse: it takes no room on the disk
    assert published(root) == ["/film.mp4", "/index.html"]
    os.truncate(film, BLOB_BYTES_MAX + 1)
    with pytest.raises(UsageError, match=r"film\.mp4 has 1073741825 bytes.*\(1 GiB\)"):
        list_directory(root)


def test_more_files_than_a_site_may_have_are_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(root / "a")
    monkeypatch.setattr(directory, "FILES_MAX", 2)
    assert len(published(root)) == 2
    write(root / "b")
    with pytest.raises(UsageError, match="more than 2 files"):
        list_directory(root)


# Hashing and reading


@pytest.mark.parametrize(
    "size",
    [
        0,  # no byte, and yet a blob
        1,
        BLOCK_BYTES,  # one whole block
        BLOCK_BYTES + 1,  # the second is one byte long
        SEGMENT_BYTES + 1,  # the second segment is one byte long
    ],
)
def test_file_is_hashed_and_read_back_by_segment(root: Path, size: int) -> None:
    data = os.urandom(size)
    write(root / "index.html", data)
    done: list[int] = []
    (hashed,) = hash_files(list_directory(root).files, done.append)
    assert (hashed.blob, hashed.hashes) == blob_of(data)
    assert sum(done) == size
    numbers = range(hashed.blob.segment_count)
    segments = [read_segment(hashed.identity, number) for number in numbers]
    assert b"".join(segment.data for segment in segments) == data
    assert all(segment.hashes == hashed.hashes for segment in segments)


def test_file_that_is_gone_when_hashed_is_a_usage_error(root: Path) -> None:
    files = list_directory(root).files
    (root / "index.html").unlink()
    with pytest.raises(UsageError, match=r"cannot read .*index\.html: No such file"):
        hash_files(files)


def test_file_that_grows_while_hashed_is_hashed_or_a_usage_error(root: Path) -> None:
    file = root / "index.html"
    grown: list[int] = []

    def grow(done: int) -> None:
        if not grown:
            with file.open("ab") as opened:
                opened.write(b"more")
        grown.append(done)

    try:
        (hashed,) = hash_files(list_directory(root).files, grow)
    except UsageError:
        return
    assert hashed.blob in (blob_of(b"home")[0], blob_of(b"homemore")[0])


def test_file_that_grows_too_long_while_hashed_is_a_usage_error(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = list_directory(root).files
    monkeypatch.setattr(directory, "BLOB_BYTES_MAX", 4)
    assert len(hash_files(files)) == 1
    write(root / "index.html", b"home!")
    with pytest.raises(UsageError, match="grows while it is read"):
        hash_files(files)


@pytest.mark.parametrize("now", [b"", b"hom", b"HOME", None])
def test_file_that_changed_since_it_was_hashed_is_not_sent(root: Path, now: bytes | None) -> None:
    (hashed,) = hash_files(list_directory(root).files)
    if now is None:
        (root / "index.html").unlink()
    else:
        write(root / "index.html", now)
    with pytest.raises(UsageError, match="has changed while it was published: publish again"):
        read_segment(hashed.identity, 0)


# Encoding


# Its second half is the first once more, further back than gzip can see.
PAGE = b"<p>The same words once more.</p>\n" + 2 * random.Random(4).randbytes(40_000).hex().encode()
# Every encoding has a second segment: gzip saves the zeros, br and zstd what repeats, too.
NOISE = random.Random(3).randbytes(SEGMENT_BYTES + BLOCK_BYTES)
BIG = NOISE + 2 * NOISE[-4 * BLOCK_BYTES :] + bytes(SEGMENT_BYTES)


def hashed_files(root: Path) -> list[HashedFile]:
    return hash_files(list_directory(root).files)


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def bytes_of(encoded: EncodedFile) -> dict[str, bytes]:
    return {name: read_segment(found, 0).data for name, found in encoded.encodings.items()}


def test_files_worth_it_are_encoded_and_the_others_are_themselves(
    root: Path, workdir: Path
) -> None:
    write(root / "page.html", PAGE)
    write(root / "photo.jpg", PAGE)
    write(root / "noise.txt", random.Random(1).randbytes(5_000))
    write(root / "brief.txt", PAGE[:6_000])
    write(root / "short.txt", PAGE[: SOURCE_BYTES_MIN - 1])
    done: list[int] = []
    encoded = encode_files(hashed_files(root), workdir, done.append)
    assert [file.file.path for file in encoded] == [
        "/brief.txt",
        "/index.html",
        "/noise.txt",
        "/page.html",
        "/photo.jpg",
        "/short.txt",
    ]
    by_path = {file.file.path: file for file in encoded}
    names = {"/page.html": ENCODING_NAMES, "/brief.txt": ("identity", "gzip")}
    for path, file in by_path.items():
        assert tuple(file.encodings) == names.get(path, ("identity",))
        assert file.encodings["identity"].source == root.resolve() / path[1:]
        for name, found in file.encodings.items():
            data = read_segment(found, 0).data
            assert (found.blob, found.hashes) == blob_of(data)
            if name == "gzip":
                assert gzip.decompress(data) == file.file.source.read_bytes()
    entry = by_path["/page.html"].entry()
    assert (entry.path, entry.media_type) == ("/page.html", "text/html; charset=utf-8")
    assert tuple(encoding.name for encoding in entry.encodings) == ENCODING_NAMES
    assert entry.blob == blob_of(PAGE)[0]
    assert sum(done) == len(PAGE) + 5_000 + 6_000
    (workdir / "again").mkdir()
    again = encode_files(hashed_files(root), workdir / "again", at_once=1)
    assert [file.entry() for file in again] == [file.entry() for file in encoded]


def test_what_lies_in_the_work_directory_is_not_made_again(
    root: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(root / "page.html", PAGE)
    write(root / "copy.html", PAGE)
    files = hashed_files(root)
    first = encode_files(files, workdir)
    monkeypatch.setattr(directory, "compressor", None)
    done: list[int] = []
    again = encode_files(files, workdir, done.append)
    assert [*map(bytes_of, again)] == [*map(bytes_of, first)]
    assert sum(done) == 2 * len(PAGE)
    assert len(list(workdir.iterdir())) == 3


def test_file_that_changed_since_it_was_hashed_is_not_encoded(root: Path, workdir: Path) -> None:
    write(root / "page.html", PAGE)
    files = hashed_files(root)
    write(root / "page.html", PAGE.replace(b"same", b"SAME"))
    with pytest.raises(UsageError, match="has changed while it was published"):
        encode_files(files, workdir)


def test_work_directory_that_cannot_be_written_is_a_usage_error(root: Path, workdir: Path) -> None:
    write(root / "page.html", PAGE)
    workdir.rmdir()
    with pytest.raises(UsageError, match=r"cannot write to .*work: No such file"):
        encode_files(hashed_files(root), workdir)


def test_progress_that_raises_ends_the_encoding(root: Path, workdir: Path) -> None:
    for number in range(50):
        write(root / f"{number}.html", PAGE + b"%d" % number)

    def stop(done_bytes: int) -> None:
        raise UsageError("stopped")

    with pytest.raises(UsageError, match="stopped"):
        encode_files(hashed_files(root), workdir, stop)


# What a publish takes of the live version


def live_of(entries: list[Entry]) -> Manifest:
    return next_version(None, b"k" * 32, 1, 100, entries)[0]


def without_encodings(manifest: Manifest) -> Manifest:
    """As published before there were any."""
    bare = [
        Entry(
            path=entry.path,
            media_type=entry.media_type,
            seq=entry.seq,
            modified_s=entry.modified_s,
            encodings=entry.encodings[:1],
        )
        for entry in manifest.entries
    ]
    return Manifest(manifest.public_key, manifest.seq, bare)


def changed_paths(live: Manifest, entries: list[Entry]) -> list[str]:
    changes = next_version(live, live.public_key, live.seq + 1, 200, entries)[1]
    return [*changes.added, *changes.changed, *changes.removed]


def blobs_of(entries: list[Entry]) -> list[BlobId]:
    return [encoding.blob for entry in entries for encoding in entry.encodings]


def test_entries_of_a_first_version_can_be_read_in_every_encoding(
    root: Path, workdir: Path
) -> None:
    write(root / "page.html", PAGE)
    write(root / "big.txt", BIG)
    content = SiteContent(hashed_files(root), workdir)
    assert [file.file.path for file in content.to_encode(None)] == ["/big.txt", "/page.html"]
    done: list[int] = []
    entries = content.entries(None, done.append)
    assert sum(done) == len(PAGE) + len(BIG)
    assert [len(entry.encodings) for entry in entries] == [4, 1, 4]
    assert all(encoding.blob.segment_count == 2 for encoding in entries[0].encodings[1:])
    for blob in blobs_of(entries):
        for segment in range(blob.segment_count):
            assert content.read_segment(blob, segment).blob == blob


def test_unchanged_files_keep_the_live_encodings_and_are_not_encoded(
    root: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(root / "page.html", PAGE)
    write(root / "other.html", PAGE + b"other")
    live = live_of(SiteContent(hashed_files(root), workdir).entries(None))
    write(root / "other.html", PAGE + b"OTHER")
    content = SiteContent(hashed_files(root), workdir)
    assert [file.file.path for file in content.to_encode(live)] == ["/other.html"]
    assert changed_paths(live, content.entries(live)) == ["/other.html"]

    write(root / "other.html", PAGE + b"other")
    monkeypatch.setattr(directory, "encode_files", lambda files, *_: list(files))
    content = SiteContent(hashed_files(root), workdir)
    assert content.to_encode(live) == []
    assert changed_paths(live, content.entries(live)) == []


def test_bytes_of_a_live_encoding_are_made_when_they_are_asked_for(
    root: Path, workdir: Path, tmp_path: Path
) -> None:
    write(root / "page.html", PAGE)
    live = live_of(SiteContent(hashed_files(root), tmp_path).entries(None))
    content = SiteContent(hashed_files(root), workdir)
    entries = content.entries(live)
    assert not list(workdir.iterdir())
    for blob in blobs_of(entries):
        content.read_segment(blob, 0).check()
    assert len(list(workdir.iterdir())) == 3


def test_live_encoding_that_cannot_be_made_again_gives_way_to_new_ones(
    root: Path, workdir: Path
) -> None:
    write(root / "page.html", PAGE)
    entries = SiteContent(hashed_files(root), workdir).entries(None)
    foreign = Encoding("br", 3, blob_of(b"old")[0].root)
    page = entries[1]
    entries[1] = Entry(
        path=page.path,
        media_type=page.media_type,
        seq=0,
        modified_s=0,
        encodings=(page.encodings[0], foreign, *page.encodings[2:]),
    )
    live = live_of(entries)
    content = SiteContent(hashed_files(root), workdir)
    assert changed_paths(live, content.entries(live)) == []
    with pytest.raises(EncodingsDifferError, match=r"page\.html"):
        content.read_segment(foreign.blob, 0)
    assert changed_paths(live, content.entries(None)) == ["/page.html"]


def test_files_published_without_encodings_change_only_if_some_are_worth_it(
    root: Path, workdir: Path
) -> None:
    write(root / "page.html", PAGE)
    write(root / "noise.txt", random.Random(1).randbytes(5_000))
    content = SiteContent(hashed_files(root), workdir)
    bare = without_encodings(live_of(content.entries(None)))
    assert [file.file.path for file in content.to_encode(bare)] == ["/noise.txt", "/page.html"]
    assert changed_paths(bare, content.entries(bare)) == ["/page.html"]


def test_live_encodings_of_another_media_type_are_not_reused(root: Path, workdir: Path) -> None:
    write(root / "page.html", PAGE)
    content = SiteContent(hashed_files(root), workdir)
    entries = content.entries(None)
    page = entries[1]
    entries[1] = Entry(
        path=page.path, media_type="text/old", seq=0, modified_s=0, encodings=page.encodings
    )
    live = live_of(entries)
    assert changed_paths(live, content.entries(live)) == ["/page.html"]


characters = st.characters(codec="utf-8", exclude_characters="/\0")
names = st.text(characters, min_size=1, max_size=6).filter(lambda name: name not in (".", ".."))


@settings(max_examples=50)
@given(st.lists(names, min_size=1, max_size=3))
def test_any_names_make_a_site_or_say_why_not(
    tmp_path_factory: pytest.TempPathFactory, found: list[str]
) -> None:
    root = tmp_path_factory.mktemp("names")
    for name in found:
        write(root / name)
    write(root / "index.html")
    try:
        listing = list_directory(root)
    except UsageError as error:
        assert "have the same URL path" in str(error)
        return
    assert len(listing.files) + len(listing.left_out) == len(os.listdir(root))
    paths = [file.path for file in listing.files]
    assert paths == sorted(paths)
    for path in paths:
        assert path_fault(path) is None
        assert unicodedata.is_normalized("NFC", path)
    content = SiteContent(hash_files(listing.files), root)
    manifest = Manifest(b"k" * 32, 1, content.entries(None))
    assert [entry.path for entry in manifest.entries] == paths
