"""The manifest: every URL path of one version of a site, and what a request's path comes to.

Pure. A manifest is a blob whose (size, root) a signed site record names, so its bytes are proved
before `decode` sees them; what is checked here is that they make sense. One request is answered
from one manifest. A path that is not in it is provably nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import msgspec

from p2pweb.blobs import BlobId
from p2pweb.keys import PUBLIC_KEY_BYTES, SiteId, site_id_of
from p2pweb.records import (
    MANIFEST_BYTES_MAX,
    SEQ_MAX,
    Encoding,
    FileRecord,
    path_fault,
    record_key,
    representation_fault,
)

INDEX = "index.html"
ERROR_PAGE = "404.html"


class InvalidManifestError(Exception):
    """These bytes are no manifest that makes sense; the text says why."""


class Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """One path of a version: since which seq it is as it is, and when that was published."""

    path: str
    media_type: str
    seq: int
    modified_s: int
    encodings: tuple[Encoding, ...]

    @property
    def blob(self) -> BlobId:
        """The file's own bytes."""
        return self.encodings[0].blob

    def same_content(self, other: "Entry") -> bool:
        """Whether a visitor gets the same from both."""
        return self.media_type == other.media_type and self.encodings == other.encodings

    def file_record(self, public_key: bytes) -> FileRecord:
        """The record that vouches for this path."""
        return FileRecord(
            public_key=public_key,
            path=self.path,
            seq=self.seq,
            media_type=self.media_type,
            encodings=self.encodings,
        )


class _Wire(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=1, kw_only=True
):
    public_key: bytes
    seq: int
    entries: tuple[Entry, ...]


_decoder = msgspec.msgpack.Decoder(_Wire)
_encoder = msgspec.msgpack.Encoder()


@dataclass(frozen=True, slots=True)
class Found:
    """The path is a file, or a directory's index page."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class MovedTo:
    """The path is a directory without its slash: the visitor is sent to `path`."""

    path: str


@dataclass(frozen=True, slots=True)
class Nothing:
    """The version has nothing there; `page` is the site's own nearest 404 page, if it has one."""

    page: Entry | None


Resolution = Found | MovedTo | Nothing


@dataclass(frozen=True, slots=True)
class Share:
    """What lies at one key (20 bytes): a record, and the bytes of one segment of its file."""

    key: bytes
    record: FileRecord
    segment: int


class Manifest:
    """The paths of one version."""

    def __init__(self, public_key: bytes, seq: int, entries: Iterable[Entry]) -> None:
        self.public_key = public_key
        self.seq = seq
        self.entries = tuple(sorted(entries, key=lambda entry: entry.path))
        self._by_path = {entry.path: entry for entry in self.entries}

    @property
    def site(self) -> SiteId:
        return site_id_of(self.public_key)

    @cached_property
    def shares(self) -> tuple[Share, ...]:
        """Everything that its file records put at a key, by path and segment. 200 bytes each."""
        return tuple(
            Share(record_key(record, segment), record, segment)
            for record in (entry.file_record(self.public_key) for entry in self.entries)
            for segment in range(record.segment_count)
        )

    @cached_property
    def shares_by_key(self) -> tuple[Share, ...]:
        """The same in the order of their keys: those near a peer's id stand together."""
        return tuple(sorted(self.shares, key=lambda share: share.key))

    def get(self, path: str) -> Entry | None:
        """The entry of exactly this path, decoded."""
        return self._by_path.get(path)

    def resolve(self, path: str) -> Resolution:
        """What a request for this path, decoded and free of dot segments, comes to.

        A file wins over a page of the same name with `.html`, that one over a directory.
        """
        if path.endswith("/"):
            found = self.get(path + INDEX)
            return Found(found) if found else Nothing(self._error_page(path))
        for candidate in (path, path + ".html"):
            found = self.get(candidate)
            if found:
                return Found(found)
        if self.get(f"{path}/{INDEX}"):
            return MovedTo(path + "/")
        return Nothing(self._error_page(path))

    def _error_page(self, path: str) -> Entry | None:
        """The nearest 404.html up the tree."""
        folder = path
        while folder:
            folder = folder[: folder.rfind("/")]
            page = self.get(f"{folder}/{ERROR_PAGE}")
            if page:
                return page
        return None

    def encode(self) -> bytes:
        """The manifest's blob. InvalidManifestError where it is longer than one may be."""
        data = _encoder.encode(
            _Wire(public_key=self.public_key, seq=self.seq, entries=self.entries)
        )
        if len(data) > MANIFEST_BYTES_MAX:
            raise InvalidManifestError(
                f"a manifest has {MANIFEST_BYTES_MAX} bytes at most, and this one {len(data)}: "
                "the site has too many files"
            )
        return data

    @classmethod
    def decode(cls, data: bytes) -> "Manifest":
        """Read a manifest's blob. InvalidManifestError where it makes no sense."""
        try:
            wire = _decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidManifestError(f"not a manifest: {error}") from None
        if len(wire.public_key) != PUBLIC_KEY_BYTES or not 1 <= wire.seq <= SEQ_MAX:
            raise InvalidManifestError("its site or its seq is out of range")
        before = ""
        for entry in wire.entries:
            if entry.path <= before:
                raise InvalidManifestError(f"paths are sorted and stand once: {entry.path!r}")
            before = entry.path
            fault = path_fault(entry.path) or representation_fault(
                entry.media_type, entry.encodings
            )
            if not 1 <= entry.seq <= wire.seq or not 0 <= entry.modified_s <= SEQ_MAX:
                fault = "its seq or its time is out of range"
            if fault:
                raise InvalidManifestError(f"{entry.path!r}: {fault}")
        return cls(wire.public_key, wire.seq, wire.entries)


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What the next version does to the live one, by path, sorted."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    unchanged: int

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)


def next_version(
    live: Manifest | None, public_key: bytes, seq: int, now_s: int, files: Iterable[Entry]
) -> tuple[Manifest, Changes]:
    """The manifest of `seq`, and its difference from the live version.

    A file whose content is the live one's keeps its seq and its time, so its record, its copies
    and every visitor's cache stay good.
    """
    added: list[str] = []
    changed: list[str] = []
    entries: list[Entry] = []
    for file in files:
        before = live.get(file.path) if live else None
        if before and before.same_content(file):
            entries.append(before)
            continue
        (changed if before else added).append(file.path)
        entries.append(msgspec.structs.replace(file, seq=seq, modified_s=now_s))
    manifest = Manifest(public_key, seq, entries)
    removed = [e.path for e in live.entries if manifest.get(e.path) is None] if live else []
    changes = Changes(
        added=tuple(sorted(added)),
        changed=tuple(sorted(changed)),
        removed=tuple(removed),
        unchanged=len(entries) - len(added) - len(changed),
    )
    return manifest, changes
