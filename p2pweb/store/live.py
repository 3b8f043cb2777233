"""A site's live version, and which records it lets live.

The bare seq of a record does not tell: a publish that broke off leaves records of a seq that the
next one, which succeeds, uses too. Only the manifests tell. Pure.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from p2pweb.delta import delta_of
from p2pweb.keys import SiteId
from p2pweb.manifest import Manifest
from p2pweb.records import FileRecord, Record, Signed, SiteRecord, encode_record

# Deltas of manifests in memory: those of the last few versions of a site that changes little.
DELTAS_BYTES_MAX = 4 * 1024 * 1024


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


class LiveVersions:
    """The live version of each site here.

    Each is replaced by the next one and never changed: read by any thread, without a lock.
    """

    def __init__(self, versions: dict[SiteId, LiveVersion]) -> None:
        self._versions = versions
        # How the manifests that went live differ from those before them, by root; the latest last.
        self._deltas: OrderedDict[bytes, bytes] = OrderedDict()

    def get(self, site: SiteId) -> LiveVersion | None:
        """A site's; None where none is known here."""
        return self._versions.get(site)

    def damaged(self) -> list[SiteId]:
        """The sites whose manifests cannot be read."""
        return [site for site, live in self._versions.items() if live.manifest is None]

    def change(self, changed: dict[SiteId, LiveVersion]) -> None:
        """These went live."""
        for site, live in changed.items():
            self._note_delta(live, self._versions.get(site))
        self._versions |= changed

    def _note_delta(self, live: LiveVersion, before: LiveVersion | None) -> None:
        if before is None or before.manifest is None or live.manifest is None:
            return
        old, new = before.signed.record.blobs[0], live.signed.record.blobs[0]
        delta = delta_of(before.manifest, old.root, live.manifest, new.size_bytes)
        if delta is not None and new != old:
            self._deltas[new.root] = delta
        while sum(map(len, self._deltas.values())) > DELTAS_BYTES_MAX:
            self._deltas.popitem(last=False)

    def seq(self, site: SiteId) -> int:
        """The seq of a site's version; 0 where none is known here."""
        live = self._versions.get(site)
        return live.signed.record.seq if live else 0

    def has(self, record: Record) -> bool:
        """Whether the live version has just this of the record's path."""
        live = self._versions.get(record.site)
        return live is not None and live.has(record)

    def manifest(self, signed: Signed) -> Manifest | None:
        """The manifest of a site's record, if that is the live version and its manifest is here."""
        live = self._versions.get(signed.record.site)
        return live.manifest if live is not None and live.signed == signed else None

    def before(self, signed: Signed) -> LiveVersion | None:
        """The live version, where this record is a newer one's; None where none is here."""
        live = self._versions.get(signed.record.site)
        return live if live is not None and order_of(signed) > order_of(live.signed) else None

    def delta(self, root: bytes) -> bytes | None:
        """How the manifest with this root (32 bytes) differs from the one before it (`delta`); None
        where that is not known, or would not be worth it."""
        return self._deltas.get(root)


def _names(manifest: Manifest, record: Record) -> bool:
    if not isinstance(record, FileRecord):
        return False
    entry = manifest.get(record.path)
    return entry is not None and entry.file_record(manifest.public_key) == record


def order_of(signed: Signed) -> tuple[int, bytes]:
    """Of two records of one seq every peer prefers the same one."""
    return signed.record.seq, signed.value
