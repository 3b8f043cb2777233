"""A directory on the publisher's disk → the files of a site.

Walks, names what is left out and why, hashes, and reads segments back for sending. A file's URL
path is its path below the directory in Unicode's normal form NFC, `/` between names. Nothing
outside the directory is ever read: a symbolic link that leaves it is refused.
"""

import os
import unicodedata
from collections.abc import Callable, Iterator
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
from p2pweb.errors import UsageError
from p2pweb.http.media_types import media_type_of
from p2pweb.manifest import Entry
from p2pweb.records import Encoding, path_fault

# The one hidden name that the web itself gives a meaning to (RFC 8615).
WELL_KNOWN = ".well-known"
# What belongs to the peer on every host, and so to no site.
RESERVED_PREFIX = "/.well-known/p2pweb/"
# The manifest's own limit in bytes comes at about as many.
FILES_MAX = 100_000


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
class HashedFile:
    """A file with what its bytes came to when they were read."""

    file: SiteFile
    blob: BlobId
    hashes: bytes

    def entry(self) -> Entry:
        """The manifest's entry, its seq and time still to be set."""
        encoding = Encoding("identity", self.blob.size_bytes, self.blob.root)
        return Entry(
            path=self.file.path,
            media_type=media_type_of(self.file.path),
            seq=0,
            modified_s=0,
            encodings=(encoding,),
        )


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
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        left_out.append(LeftOut(f"{url}/", f"it cannot be read: {error.strerror}"))
        return
    for name in names:
        path = f"{url}/{unicodedata.normalize('NFC', name)}"
        source = folder / name
        try:
            target = source.resolve(strict=True)
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
    return [_hash_file(file, progress) for file in files]


def _hash_file(file: SiteFile, progress: Callable[[int], None]) -> HashedFile:
    hasher = BlobHasher()
    size_bytes = 0
    try:
        with file.source.open("rb") as opened:
            while block := opened.read(BLOCK_BYTES):
                hasher.add_block(block)
                progress(len(block))
                size_bytes += len(block)
                if size_bytes > BLOB_BYTES_MAX:
                    raise UsageError(f"{file.source} grows while it is read: stop what writes it")
                if len(block) < BLOCK_BYTES:
                    break
    except OSError as error:
        raise UsageError(f"cannot read {file.source}: {error.strerror}") from None
    return HashedFile(file, *hasher.finish())


def read_segment(hashed: HashedFile, segment: int) -> SegmentData:
    """One segment for sending. UsageError where the file is no longer what was hashed."""
    changed = f"{hashed.file.source} has changed while it was published: publish again"
    try:
        with hashed.file.source.open("rb") as opened:
            opened.seek(segment * SEGMENT_BYTES)
            data = opened.read(hashed.blob.segment_size(segment))
        found = SegmentData(blob=hashed.blob, segment=segment, hashes=hashed.hashes, data=data)
        found.check()
    except OSError:
        raise UsageError(changed) from None
    except InvalidBlockError:
        raise UsageError(changed) from None
    return found
