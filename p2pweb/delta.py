"""How a version's manifest differs from an earlier one: what travels when few files change.

Pure. Nothing that a delta says is believed: the manifest that comes of it must be the blob that the
site's record names. Where it is not, the manifest is fetched whole.
"""

from collections.abc import Sequence

import msgspec

from p2pweb.blobs import HASH_BYTES, BlobId, blob_of
from p2pweb.manifest import Entry, InvalidManifestError, Manifest

# A manifest of up to so many bytes goes whole: it is sent unasked along with its record.
WHOLE_BYTES_MAX = 32 * 1024
# A longer delta saves too little to be worth a second form.
SHARE_MAX = 0.25
# A quarter of the longest manifest of which most would change is no small change either.
DELTA_BYTES_MAX = 1024 * 1024


class InvalidDeltaError(Exception):
    """These bytes are no delta; the text says why."""


class _Delta(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=1, kw_only=True
):
    seq: int
    removed: tuple[str, ...]
    entries: tuple[Entry, ...]


_decoder = msgspec.msgpack.Decoder(_Delta)
_encoder = msgspec.msgpack.Encoder()


def delta_of(base: Manifest, base_root: bytes, manifest: Manifest, size_bytes: int) -> bytes | None:
    """What makes this manifest, of so many bytes, of an earlier one of its site, with `base_root`
    (32 bytes); None where it had better go whole."""
    if size_bytes <= WHOLE_BYTES_MAX:
        return None
    delta = _Delta(
        seq=manifest.seq,
        removed=tuple(one.path for one in base.entries if manifest.get(one.path) is None),
        entries=tuple(one for one in manifest.entries if base.get(one.path) != one),
    )
    data = base_root + _encoder.encode(delta)
    return data if len(data) <= min(DELTA_BYTES_MAX, SHARE_MAX * size_bytes) else None


def base_of(delta: bytes) -> bytes:
    """The root (32 bytes) of the manifest that a delta begins with. InvalidDeltaError where it says
    none."""
    if len(delta) <= HASH_BYTES:
        raise InvalidDeltaError("a delta begins with a root")
    return delta[:HASH_BYTES]


def rebuild(base: Manifest, deltas: Sequence[bytes], blob: BlobId) -> bytes | None:
    """The blob of the manifest that these deltas, one after the other, make of `base`; None where
    what comes of them is anything else. It takes as long as writing a whole manifest does."""
    entries = {entry.path: entry for entry in base.entries}
    seq = base.seq
    try:
        for data in deltas:
            delta = _decode(data)
            seq = delta.seq
            for path in delta.removed:
                entries.pop(path, None)
            entries.update((entry.path, entry) for entry in delta.entries)
        rebuilt = Manifest(base.public_key, seq, entries.values()).encode()
    except (InvalidDeltaError, InvalidManifestError):
        return None
    return rebuilt if blob_of(rebuilt)[0] == blob else None


def _decode(delta: bytes) -> _Delta:
    try:
        return _decoder.decode(memoryview(delta)[HASH_BYTES:])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidDeltaError(f"not a delta of a manifest: {error}") from None
