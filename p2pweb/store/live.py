"""A site's live version, and which records it lets live.

The bare seq of a record does not tell: a publish that broke off leaves records of a seq that the
next one, which succeeds, uses too. Only the manifests tell. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from p2pweb.manifest import Manifest
from p2pweb.records import FileRecord, Record, Signed, SiteRecord, encode_record


@dataclass(frozen=True, slots=True)
class LiveVersion:
    """A site's live version; no manifest where that is damaged. And the manifest before it."""

    signed: Signed
    manifest: Manifest | None
    before: Manifest | None

    def allows(self, signed: Signed) -> bool:
        """Whether a record is worth keeping beside this version."""
        record = signed.record
        if isinstance(record, SiteRecord):
            return order_of(signed) >= order_of(self.signed)
        # With the manifest damaged nobody can tell; what lives must come back here.
        return record.seq > self.signed.record.seq or self.manifest is None or self.names(record)

    def names(self, record: Record) -> bool:
        """Whether this version, or the one before, has just this of the record's path."""
        return self.has(record) or (self.before is not None and _names(self.before, record))

    def has(self, record: Record) -> bool:
        """Whether this version has just this of the record's path."""
        return self.manifest is not None and _names(self.manifest, record)

    def payloads(self) -> set[bytes]:
        """What the signatures cover of every record that this version, or the one before, names.

        For going through all records of a site: comparing bytes costs a hundredth of proving
        signatures.
        """
        return {
            encode_record(entry.file_record(manifest.public_key))
            for manifest in (self.manifest, self.before)
            if manifest is not None
            for entry in manifest.entries
        }


def _names(manifest: Manifest, record: Record) -> bool:
    if not isinstance(record, FileRecord):
        return False
    entry = manifest.get(record.path)
    return entry is not None and entry.file_record(manifest.public_key) == record


def order_of(signed: Signed) -> tuple[int, bytes]:
    """Of two records of one seq every peer prefers the same one."""
    return signed.record.seq, signed.value
