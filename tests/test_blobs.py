"""Blobs: roots against an oracle, and proofs that let nothing else through."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pweb import blobs
from p2pweb.blobs import (
    BLOCK_BYTES,
    HASH_BYTES,
    SEGMENT_BYTES,
    BlobHasher,
    BlobId,
    InvalidBlockError,
    SegmentData,
)

SMALL_SIZES = [
    0,  # no byte, and yet one block
    1,
    BLOCK_BYTES - 1,
    BLOCK_BYTES,  # the longest blob whose root is its own hash
    BLOCK_BYTES + 1,  # the shortest with a list of hashes, its last block one byte long
    2 * BLOCK_BYTES,
]
BIG_SIZES = [
    SEGMENT_BYTES - 1,
    SEGMENT_BYTES,  # the longest blob of one segment
    SEGMENT_BYTES + 1,  # the second segment is one byte long
    SEGMENT_BYTES + BLOCK_BYTES + 1,  # the second segment has two blocks
]
INTERESTING_SIZES = SMALL_SIZES + BIG_SIZES


def content(size_bytes: int) -> bytes:
    """Bytes of which no two blocks are alike."""
    return hashlib.shake_128(b"content").digest(size_bytes)


def oracle(data: bytes) -> tuple[bytes, bytes]:
    """The root and the joined hashes, worked out from the definition."""
    if len(data) <= 262_144:
        return hashlib.sha256(data).digest(), b""
    joined = b""
    while data:
        joined += hashlib.sha256(data[:262_144]).digest()
        data = data[262_144:]
    return hashlib.sha256(joined).digest(), joined


@pytest.mark.parametrize("size", INTERESTING_SIZES)
def test_blob_is_what_the_definition_says(size: int) -> None:
    data = content(size)
    root, joined = oracle(data)
    assert blobs.blob_of(data) == (BlobId(size, root), joined)


@pytest.mark.parametrize("size", INTERESTING_SIZES)
def test_blocks_and_segments_cover_the_blob_once(size: int) -> None:
    blob = BlobId(size, bytes(HASH_BYTES))
    block_sizes = [blob.block_size(block) for block in range(blob.block_count)]
    segment_sizes = [blob.segment_size(segment) for segment in range(blob.segment_count)]
    assert sum(block_sizes) == sum(segment_sizes) == size
    assert all(0 < length <= BLOCK_BYTES for length in block_sizes) or size == 0
    assert all(0 < length <= SEGMENT_BYTES for length in segment_sizes) or size == 0
    numbers = [n for segment in range(blob.segment_count) for n in blob.segment_blocks(segment)]
    assert numbers == list(range(blob.block_count))


@given(st.integers(0, blobs.BLOB_BYTES_MAX))
def test_block_and_segment_counts_agree(size: int) -> None:
    blob = BlobId(size, bytes(HASH_BYTES))
    last = blob.segment_count - 1
    assert blob.segment_blocks(last)[-1] == blob.block_count - 1
    assert sum(map(blob.block_size, blob.segment_blocks(last))) == blob.segment_size(last)


@pytest.mark.parametrize("size", INTERESTING_SIZES)
def test_segments_prove_themselves_and_join_to_the_blob(size: int) -> None:
    data = content(size)
    segments = blobs.segments_of(data)
    for segment in segments:
        segment.check()
    assert b"".join(segment.data for segment in segments) == data
    assert [segment.segment for segment in segments] == list(range(len(segments)))
    pieces = [piece for segment in segments for piece in segment.blocks()]
    assert [block for block, _ in pieces] == list(range(segments[0].blob.block_count))
    assert b"".join(piece for _, piece in pieces) == data


def test_hasher_refuses_blocks_that_are_no_blocks() -> None:
    with pytest.raises(ValueError, match="256 KiB"):
        BlobHasher().add_block(b"")
    with pytest.raises(ValueError, match="256 KiB"):
        BlobHasher().add_block(bytes(BLOCK_BYTES + 1))
    hasher = BlobHasher()
    hasher.add_block(b"short")
    with pytest.raises(ValueError, match="only the last"):
        hasher.add_block(bytes(BLOCK_BYTES))


SHORT = blobs.segments_of(content(100))[0]
LONG = blobs.segments_of(content(2 * BLOCK_BYTES + 1))[0]
SECOND = blobs.segments_of(content(SEGMENT_BYTES + 1))[1]
SEGMENTS = pytest.mark.parametrize("whole", [SHORT, LONG, SECOND], ids=["short", "long", "second"])


@SEGMENTS
@settings(max_examples=40)
@given(chance=st.data())
def test_flipped_byte_is_refused(whole: SegmentData, chance: st.DataObject) -> None:
    data = bytearray(whole.data)
    data[chance.draw(st.integers(0, len(data) - 1))] ^= chance.draw(st.integers(1, 255))
    with pytest.raises(InvalidBlockError, match="does not match its hash"):
        replace(whole, data=bytes(data)).check()


@given(st.integers(0, len(LONG.hashes) - 1), st.integers(1, 255))
def test_flipped_byte_in_the_hashes_is_refused(place: int, change: int) -> None:
    hashes = bytearray(LONG.hashes)
    hashes[place] ^= change
    with pytest.raises(InvalidBlockError, match="block hashes do not belong"):
        replace(LONG, hashes=bytes(hashes)).check()


@SEGMENTS
def test_another_length_is_refused(whole: SegmentData) -> None:
    for data in (b"", whole.data[:-1], whole.data + b"\0"):
        with pytest.raises(InvalidBlockError, match="wrong length"):
            replace(whole, data=data).check()


@SEGMENTS
def test_segment_that_the_blob_does_not_have_is_refused(whole: SegmentData) -> None:
    for segment in (-1, whole.blob.segment_count):
        with pytest.raises(InvalidBlockError, match="has no segment"):
            replace(whole, segment=segment).check()


def test_hashes_where_the_root_is_the_blocks_own_are_refused() -> None:
    with pytest.raises(InvalidBlockError, match="no list of hashes"):
        replace(SHORT, hashes=SHORT.blob.root).check()


@pytest.mark.parametrize("change", [-HASH_BYTES, -1, 1, HASH_BYTES])
def test_hashes_of_another_length_are_refused(change: int) -> None:
    hashes = (LONG.hashes + bytes(HASH_BYTES))[: len(LONG.hashes) + change]
    with pytest.raises(InvalidBlockError, match="takes 3 block hashes"):
        blobs.check_hashes(LONG.blob, hashes)


def test_root_of_a_long_blob_is_no_root_of_its_hashes_taken_as_a_file() -> None:
    disguised = blobs.segments_of(LONG.hashes)[0]
    assert disguised.blob.root == LONG.blob.root
    assert disguised.blob != LONG.blob  # The size, always beside the root, tells them apart.


@given(st.integers(-5, 2 * SEGMENT_BYTES), st.binary(max_size=64), st.binary(max_size=100))
def test_made_up_segment_is_refused(size: int, hashes: bytes, data: bytes) -> None:
    made_up = SegmentData(blob=BlobId(size, b"r" * 32), segment=0, hashes=hashes, data=data)
    with pytest.raises(InvalidBlockError):
        made_up.check()


def test_one_block_is_proved_by_itself() -> None:
    for block, data in LONG.blocks():
        blobs.check_block(LONG.blob, block, LONG.hashes, data)
        with pytest.raises(InvalidBlockError, match=f"block {block} of"):
            blobs.check_block(LONG.blob, block, LONG.hashes, bytes(len(data)))
        with pytest.raises(InvalidBlockError, match="wrong length"):
            blobs.check_block(LONG.blob, block, LONG.hashes, data[:-1])


def test_blob_is_shown_short() -> None:
    assert str(BlobId(5, b"\xab" * 32)) == "abababababab… (5 bytes)"
