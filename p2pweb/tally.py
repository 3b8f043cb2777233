"""How many copies the files of a version have, by what each peer says that it holds. Pure.

The manifest of a version is the same on all peers, and so is the order of its shares (a share is
one segment of one file: what lies at one key). So what a peer holds of it is a bitmap: one bit for
each share, the first in the lowest bit of the first byte. Bitmaps are counted as whole numbers.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from p2pweb.blobs import SEGMENT_BYTES
from p2pweb.manifest import Entry, Manifest

# A site of 100,000 files, or of 4 TB in long ones, as 128 KiB. Of a larger one the rest is not
# counted.
SHARES_MAX = 1 << 20
BITMAP_BYTES_MAX = SHARES_MAX // 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """The copies of those files of a version that were counted.

    `copies` are those of the worst-off file, up to the number wanted, and `worst` is its path, None
    where no file is short; `short` is how many files are.
    """

    files: int
    wanted: int
    copies: int
    worst: str | None
    short: int


def bitmap(held: Collection[bool]) -> bytes:
    """One bit for each."""
    digits = "".join("1" if one else "0" for one in reversed(list(held)))
    return int(digits or "0", 2).to_bytes(-(-len(held) // 8), "little")


def read_bitmap(data: bytes, shares: int) -> int | None:
    """The bitmap as a number; None where it is not one of so many shares."""
    bits = int.from_bytes(data, "little")
    return bits if len(data) == -(-shares // 8) and not bits >> shares else None


def shares_in(entry: Entry) -> int:
    """How many shares a file has."""
    longest_bytes = max(encoding.size_bytes for encoding in entry.encodings)
    return max(1, -(-longest_bytes // SEGMENT_BYTES))


def share_count(manifest: Manifest) -> int:
    """How many shares of a version are counted."""
    return min(SHARES_MAX, sum(map(shares_in, manifest.entries)))


def copies_wanted(asked: int, peers: int) -> int:
    """Of a site that asks for so many copies: all peers that keep it where there are fewer."""
    return min(asked, peers)


def tally(manifest: Manifest, counted: int, held: Iterable[int], wanted: int) -> Tally:
    """Count the copies that each file has of its worst-off share.

    `counted` has a bit for each share that is looked at; `held` has what each peer holds.
    """
    # In `least[n]` are the shares that n peers hold at least.
    least = [counted] + [0] * wanted
    for bits in held:
        for number in range(wanted, 0, -1):
            least[number] |= least[number - 1] & bits
    copies = max(number for number in range(wanted + 1) if least[number] == counted)
    lacking = counted & ~least[wanted]
    short = files_of(manifest, lacking)
    worst = files_of(manifest, counted & ~least[copies + 1]) if copies < wanted else []
    return Tally(
        files=len(files_of(manifest, counted)),
        wanted=wanted,
        copies=copies,
        worst=worst[0] if worst else None,
        short=len(short),
    )


def bytes_of(manifest: Manifest, shares: int) -> int:
    """How many bytes these shares have, in all encodings."""
    return sum(
        blob.segment_size(part)
        for entry, segments in _each_file(manifest, shares)
        for segment in segments
        for blob, part in entry.file_record(manifest.public_key).parts(segment)
    )


def files_of(manifest: Manifest, shares: int) -> list[str]:
    """The paths of the files that have some of these shares, in order."""
    return [entry.path for entry, _ in _each_file(manifest, shares)]


def _each_file(manifest: Manifest, shares: int) -> Iterator[tuple[Entry, list[int]]]:
    """The files that have some of these shares, and the numbers of the segments that these are."""
    data = shares.to_bytes(BITMAP_BYTES_MAX, "little")
    start = 0
    for entry in manifest.entries:
        stop = min(SHARES_MAX, start + shares_in(entry))
        segments = [
            share - start for share in range(start, stop) if data[share >> 3] >> (share & 7) & 1
        ]
        if segments:
            yield entry, segments
        start = stop


@dataclass(frozen=True, slots=True)
class Shortage:
    """Since when a site is short of copies, and whether that was told."""

    since: float | None = None
    is_told: bool = False

    def after(self, *, is_short: bool, now: float, grace_s: float) -> "tuple[Shortage, bool]":
        """The shortage after another count, and whether there is news to tell: that it has lasted
        for `grace_s`, or that one that was told is over."""
        if not is_short:
            return Shortage(), self.is_told
        since = now if self.since is None else self.since
        is_old = now - since >= grace_s
        return Shortage(since, self.is_told or is_old), is_old and not self.is_told
