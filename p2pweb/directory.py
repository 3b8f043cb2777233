"""A directory on the publisher's disk → the files of a site.

Walks, names what is left out and why, hashes, encodes, and reads segments back for sending. A
file's URL path is its path below the directory in Unicode's normal form NFC, `/` between names.
Nothing outside the directory is ever read: a symbolic link that leaves it is refused. Encoded bytes
lie in a work directory that the caller makes and removes.
"""

import os
import threading
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from p2pweb.blobs import (
    BLOB_BYTES_MAX,
    BLOCK_BYTES,
    SEGMENT_BYTES,
    BlobHasher,
    BlobId,
    InvalidBlockError,
    SegmentData,
)
from p2pweb.encodings import codings_for, compressor, worth_keeping
from p2pweb.errors import UsageError
from p2pweb.http.media_types import media_type_of
from p2pweb.manifest import Entry, Manifest
from p2pweb.records import Encoding, path_fault

# The one hidden name that the web itself gives a meaning to (RFC 8615).
WELL_KNOWN = ".well-known"
# What belongs to the peer on every host, and so to no site.
RESERVED_PREFIX = "/.well-known/p2pweb/"
# The manifest's own limit in bytes comes at about as many.
FILES_MAX = 100_000
# Files being encoded at one time: as many as there are processors, at some 30 MB of memory each.
ENCODERS_MAX = 8


@dataclass(frozen=True, slots=True)
class SiteFile:
    """A file to publish: its URL path, decoded, and where it lies."""

    path: str
    source: Path
    size_bytes: int


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something in the directory that is not published, and why."""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Listing:
    """What a directory comes to."""

    files: list[SiteFile]
    left_out: list[LeftOut]


@dataclass(frozen=True, slots=True)
class OnDisk:
    """A blob, the file that has its bytes, and its joined block hashes."""

    source: Path
    blob: BlobId
    hashes: bytes


@dataclass(frozen=True, slots=True)
class EncodedFile:
    """A file with all its encodings by name: identity first, which is the file itself."""

    file: SiteFile
    encodings: Mapping[str, OnDisk]

    def entry(self) -> Entry:
        """The manifest's entry, its seq and time still to be set."""
        return Entry(
            path=self.file.path,
            media_type=media_type_of(self.file.path),
            seq=0,
            modified_s=0,
            encodings=tuple(
                Encoding(name, found.blob.size_bytes, found.blob.root)
                for name, found in self.encodings.items()
            ),
        )


@dataclass(frozen=True, slots=True)
class HashedFile:
    """A file with what its bytes came to when they were read."""

    file: SiteFile
    blob: BlobId
    hashes: bytes

    @property
    def identity(self) -> OnDisk:
        return OnDisk(self.file.source, self.blob, self.hashes)

    @property
    def codings(self) -> tuple[str, ...]:
        """The codings to try; none where it is not worth it."""
        return codings_for(media_type_of(self.file.path), self.blob.size_bytes)


def list_directory(root: Path) -> Listing:
    """Every file below `root`, sorted by URL path. UsageError where it cannot be a site."""
    try:
        real = root.resolve(strict=True)
        if not real.is_dir():
            raise UsageError(f"{root} is no directory")
        with os.scandir(real) as names:
            next(names, None)
    except FileNotFoundError:
        raise UsageError(f"there is no directory {root}") from None
    except OSError as error:
        raise UsageError(f"cannot read the directory {root}: {error.strerror}") from None
    except RuntimeError:
        raise UsageError(f"{root} is a symbolic link to itself") from None
    listing = Listing([], [])
    by_path: dict[str, SiteFile] = {}
    for file in _walk(real, real, "", listing.left_out, (real,)):
        other = by_path.setdefault(file.path, file)
        if other is not file:
            raise UsageError(f"{other.source} and {file.source} have the same URL path {file.path}")
        if file.size_bytes > BLOB_BYTES_MAX:
            raise UsageError(
                f"{file.source} has {file.size_bytes} bytes, and a file may have "
                f"{BLOB_BYTES_MAX} (1 GiB): move it out of the directory"
            )
        if len(by_path) > FILES_MAX:
            raise UsageError(f"{root} has more than {FILES_MAX} files, which a site may have")
    if not by_path:
        raise UsageError(f"there is nothing to publish in {root}")
    listing.files.extend(by_path[path] for path in sorted(by_path))
    return listing


def _walk(
    root: Path, folder: Path, url: str, left_out: list[LeftOut], above: tuple[Path, ...]
) -> Iterator[SiteFile]:
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        left_out.append(LeftOut(f"{url}/", f"it cannot be read: {error.strerror}"))
        return
    for entry in entries:
        name = entry.name
        path = f"{url}/{unicodedata.normalize('NFC', name)}"
        target = folder / name
        try:
            # `folder` is free of links: to resolve each of thousands of names takes most of a walk.
            if entry.is_symlink():
                target = target.resolve(strict=True)
            status = target.stat()
        except (FileNotFoundError, NotADirectoryError, RuntimeError):
            left_out.append(LeftOut(_printable(path), "it is a symbolic link to nothing"))
            continue
        except OSError as error:
            left_out.append(LeftOut(_printable(path), f"it cannot be read: {error.strerror}"))
            continue
        why = _refusal(root, name, path, target, above)
        if why:
            left_out.append(LeftOut(_printable(path), why))
        elif S_ISDIR(status.st_mode):
            yield from _walk(root, target, path, left_out, (*above, target))
        elif not S_ISREG(status.st_mode):
            left_out.append(LeftOut(path, "it is neither a file nor a directory"))
        elif not os.access(target, os.R_OK):
            left_out.append(LeftOut(path, "it cannot be read: permission denied"))
        else:
            yield SiteFile(path, target, status.st_size)


def _refusal(root: Path, name: str, path: str, target: Path, above: tuple[Path, ...]) -> str | None:
    if name.startswith(".") and path != f"/{WELL_KNOWN}":
        return "it is hidden"
    if not target.is_relative_to(root):
        return "it is a symbolic link that leaves the directory"
    if target in above:
        return "it is a symbolic link to a directory that it is in"
    if f"{path}/".startswith(RESERVED_PREFIX):
        return "that address belongs to the peer itself"
    return path_fault(path)


def _printable(path: str) -> str:
    """A name that may not be valid Unicode, fit for a terminal and for JSON."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in path)


def hash_files(
    files: list[SiteFile], progress: Callable[[int], None] = lambda _: None
) -> list[HashedFile]:
    """Read and hash every file; `progress` gets the bytes done since the last call."""
    return [HashedFile(file, *_hash(file.source, progress)) for file in files]


def _hash(source: Path, progress: Callable[[int], None]) -> tuple[BlobId, bytes]:
    hasher = BlobHasher()
    size_bytes = 0
    try:
        with source.open("rb") as opened:
            while block := opened.read(BLOCK_BYTES):
                hasher.add_block(block)
                progress(len(block))
                size_bytes += len(block)
                if size_bytes > BLOB_BYTES_MAX:
                    raise UsageError(f"{source} grows while it is read: stop what writes it")
                if len(block) < BLOCK_BYTES:
                    break
    except OSError as error:
        raise UsageError(f"cannot read {source}: {error.strerror}") from None
    return hasher.finish()


def encode_files(
    files: Sequence[HashedFile],
    workdir: Path,
    progress: Callable[[int], None] = lambda _: None,
    at_once: int = ENCODERS_MAX,
) -> list[EncodedFile]:
    """Make the encodings that are worth it, of several files at a time; in the same order.

    Their bytes lie in `workdir`, named by what they are made of, and what lies there is not made
    again. `progress` gets the source bytes done since the last call, from any thread; with
    `at_once` 1 no thread is started. UsageError where a file is no longer what was hashed, or where
    `workdir` cannot be written.
    """
    # The longest first: otherwise one of them, begun last, would keep one core busy alone.
    order = sorted(files, key=lambda file: -file.blob.size_bytes)
    if at_once == 1:
        encoded = [_encode_file(file, workdir, progress) for file in order]
    else:
        with ThreadPoolExecutor(min(os.cpu_count() or 1, at_once)) as pool:
            encoded = list(pool.map(lambda file: _encode_file(file, workdir, progress), order))
    by_path = {file.file.path: file for file in encoded}
    return [by_path[file.file.path] for file in files]


def _encode_file(hashed: HashedFile, workdir: Path, progress: Callable[[int], None]) -> EncodedFile:
    blob = hashed.blob
    name = f"{blob.root.hex()}-{blob.size_bytes}"
    places = {coding: workdir / f"{name}.{coding}" for coding in hashed.codings}
    try:
        missing = {coding: place for coding, place in places.items() if not place.exists()}
        if missing:
            _make_encodings(hashed, missing, progress)
        elif places:
            progress(blob.size_bytes)
        sizes = {coding: place.stat().st_size for coding, place in places.items()}
    except OSError as error:
        raise UsageError(f"cannot write to {workdir}: {error.strerror}") from None
    encodings = {"identity": hashed.identity}
    for coding in worth_keeping(blob.size_bytes, sizes):
        place = places[coding]
        encodings[coding] = OnDisk(place, *_hash(place, lambda _: None))
    return EncodedFile(hashed.file, encodings)


def _make_encodings(
    hashed: HashedFile, places: Mapping[str, Path], progress: Callable[[int], None]
) -> None:
    """Encode a file into each of the places, all at once, so that it is read and proved once."""
    # Files of the same bytes may be on their way in two threads: each has names of its own.
    unfinished = {
        place: place.with_suffix(f"{place.suffix}.{threading.get_ident()}")
        for place in places.values()
    }
    with ExitStack() as stack:
        outputs = [
            (compressor(coding, hashed.blob.size_bytes), stack.enter_context(new.open("wb")))
            for coding, new in zip(places, unfinished.values(), strict=True)
        ]
        for segment in range(hashed.blob.segment_count):
            for _, block in read_segment(hashed.identity, segment).blocks():
                for compressing, output in outputs:
                    output.write(compressing.compress(block))
                progress(len(block))
        for compressing, output in outputs:
            output.write(compressing.flush())
    for place, new in unfinished.items():
        new.replace(place)


def read_segment(found: OnDisk, segment: int) -> SegmentData:
    """One segment for sending. UsageError where the file is no longer what was hashed."""
    changed = f"{found.source} has changed while it was published: publish again"
    try:
        with found.source.open("rb") as opened:
            opened.seek(segment * SEGMENT_BYTES)
            data = opened.read(found.blob.segment_size(segment))
        read = SegmentData(blob=found.blob, segment=segment, hashes=found.hashes, data=data)
        read.check()
    except (OSError, InvalidBlockError):
        raise UsageError(changed) from None
    return read


class EncodingsDifferError(Exception):
    """A live version's encoding cannot be made again: another version of a library made it."""


class SiteContent:
    """A directory's files as one publish sees them: their entries, and the bytes of every blob.

    What is encoded in the live version already is not encoded again, unless its bytes are asked
    for: then they must come out as they were, or the live version's encodings are given up
    altogether. Methods may be called from several threads.
    """

    def __init__(
        self, hashed: Sequence[HashedFile], workdir: Path, *, at_once: int = ENCODERS_MAX
    ) -> None:
        self._hashed = hashed
        self._workdir = workdir
        self._at_once = at_once
        self._at_hand = {file.blob: file.identity for file in hashed}
        # The encodings that the live version has and that were not made here, so far.
        self._reused: dict[BlobId, HashedFile] = {}

    def to_encode(self, live: Manifest | None) -> list[HashedFile]:
        """The files whose encodings have to be made, where `live` has those that may be reused."""
        return [file for file in self._hashed if file.codings and not _reusable(file, live)]

    def entries(
        self, live: Manifest | None, progress: Callable[[int], None] = lambda _: None
    ) -> list[Entry]:
        """The entry of every file, those of `live` reused; the others' encodings are made."""
        made = {file.file.path: file for file in self._encode(self.to_encode(live), progress)}
        entries: list[Entry] = []
        for hashed in self._hashed:
            reused = _reusable(hashed, live)
            if reused is not None:
                entries.append(reused)
                self._reused.update((encoding.blob, hashed) for encoding in reused.encodings)
                continue
            encoded = made.get(hashed.file.path)
            whole = encoded or EncodedFile(hashed.file, {"identity": hashed.identity})
            entries.append(whole.entry())
        return entries

    def read_segment(
        self, blob: BlobId, segment: int, progress: Callable[[int], None] = lambda _: None
    ) -> SegmentData:
        """One segment of any blob of `entries`, whose encoding is made if it was reused.

        EncodingsDifferError where that gives other bytes: ask for `entries` without a live version.
        """
        if blob not in self._at_hand:
            self._encode([self._reused[blob]], progress)
        if blob not in self._at_hand:
            raise EncodingsDifferError(self._reused[blob].file.path)
        return read_segment(self._at_hand[blob], segment)

    def _encode(
        self, files: Sequence[HashedFile], progress: Callable[[int], None]
    ) -> list[EncodedFile]:
        encoded = encode_files(files, self._workdir, progress, self._at_once)
        for file in encoded:
            self._at_hand.update((found.blob, found) for found in file.encodings.values())
        return encoded


def _reusable(hashed: HashedFile, live: Manifest | None) -> Entry | None:
    """The live entry of the same bytes and type, if it has the encodings that it should have."""
    before = live.get(hashed.file.path) if live else None
    if before is None or before.blob != hashed.blob:
        return None
    if before.media_type != media_type_of(hashed.file.path):
        return None
    # What an older version published has none, and gets some if any is worth keeping.
    return before if len(before.encodings) > 1 or not hashed.codings else None
