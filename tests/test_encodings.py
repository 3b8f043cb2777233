"""Content codings: which files get them, what is kept, and bytes that are always the same ones."""

from __future__ import annotations

import gzip
import hashlib
import random
import subprocess
import sys
import zlib

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from p2pweb.blobs import BLOCK_BYTES
from p2pweb.encodings import (
    CODINGS,
    ONLY_GZIP_BELOW_BYTES,
    SAVED_BYTES_MIN,
    SOURCE_BYTES_MAX,
    SOURCE_BYTES_MIN,
    codings_for,
    compressor,
    worth_keeping,
)
from p2pweb.http.media_types import is_compressible, media_type_of
from p2pweb.records import ENCODING_NAMES

# RFC 9659 §3: a longer window must not be sent.
ZSTD_WINDOW_BYTES_MAX = 8 * 1024 * 1024


def encode(coding: str, data: bytes) -> bytes:
    compressing = compressor(coding, len(data))
    blocks = [data[at : at + BLOCK_BYTES] for at in range(0, len(data), BLOCK_BYTES)]
    return b"".join([*map(compressing.compress, blocks), compressing.flush()])


def decode(coding: str, data: bytes) -> bytes:
    match coding:
        case "br":
            return brotli.decompress(data)
        case "zstd":
            limited = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES_MAX)
            return limited.decompressobj().decompress(data)
        case _:
            return gzip.decompress(data)


def text_of(size: int) -> bytes:
    """Something like text: words of a small vocabulary."""
    words = random.Random(size).choices([b"peer ", b"site ", b"block ", b"the ", b"of\n"], k=size)
    return b"".join(words)[:size]


# Which files


def test_codings_are_those_that_a_record_may_name_in_its_order() -> None:
    assert ("identity", *CODINGS) == ENCODING_NAMES


@pytest.mark.parametrize(
    ("size", "codings"),
    [
        (0, ()),
        (SOURCE_BYTES_MIN - 1, ()),
        (SOURCE_BYTES_MIN, ("gzip",)),
        (ONLY_GZIP_BELOW_BYTES - 1, ("gzip",)),
        (ONLY_GZIP_BELOW_BYTES, CODINGS),
        (SOURCE_BYTES_MAX, CODINGS),
        (SOURCE_BYTES_MAX + 1, ()),
    ],
)
def test_files_of_a_sensible_length_get_codings(size: int, codings: tuple[str, ...]) -> None:
    assert codings_for("text/html; charset=utf-8", size) == codings
    assert codings_for("image/png", size) == ()


@pytest.mark.parametrize(
    ("names", "compressible"),
    [
        ("a.html a.css a.js a.txt a.md a.csv a.vtt LICENSE", True),
        ("a.json a.webmanifest a.geojson a.map a.jsonld a.gltf", True),
        ("a.xml a.svg a.atom a.rss a.xhtml a.mpd a.yaml a.toml", True),
        ("a.wasm a.ttf a.otf a.eot a.glb a.stl a.bmp a.ico a.m3u8", True),
        ("a.png a.jpg a.webp a.avif a.gif a.mp4 a.mp3 a.ogg a.wav", False),
        ("a.woff a.woff2 a.zip a.gz a.tgz a.tar a.epub a.docx", False),
        ("a.pdf a.sqlite a.parquet a.unknown unknown", False),
    ],
)
def test_compressible_types(names: str, compressible: bool) -> None:
    for name in names.split():
        assert is_compressible(media_type_of(name)) is compressible, name


# What is kept


@pytest.mark.parametrize(
    ("size", "encoded", "kept"),
    [
        (1024, {"gzip": 1024 - SAVED_BYTES_MIN}, ["gzip"]),
        (1024, {"gzip": 1024 - SAVED_BYTES_MIN + 1}, []),
        (1024, {"gzip": 1100}, []),
        (100_000, {"gzip": 90_000}, ["gzip"]),
        (100_000, {"gzip": 90_001}, []),
        # The others are measured against gzip,
        (100_000, {"br": 18_000, "zstd": 18_001, "gzip": 20_000}, ["br", "gzip"]),
        (100_000, {"br": 18_001, "zstd": 18_000, "gzip": 20_000}, ["zstd", "gzip"]),
        (10_000, {"br": 489, "zstd": 488, "gzip": 1_000}, ["zstd", "gzip"]),
        # and against the file where gzip is no use.
        (100_000, {"br": 90_000, "zstd": 90_001, "gzip": 90_001}, ["br"]),
        (100_000, {}, []),
    ],
)
def test_encoding_that_saves_enough_is_kept(
    size: int, encoded: dict[str, int], kept: list[str]
) -> None:
    assert worth_keeping(size, encoded) == tuple(kept)


# The bytes


@pytest.mark.parametrize("coding", CODINGS)
@given(data=st.binary(max_size=2_000) | st.text(max_size=2_000).map(str.encode))
def test_any_bytes_come_back(coding: str, data: bytes) -> None:
    encoded = encode(coding, data)
    assert decode(coding, encoded) == data
    assert encode(coding, data) == encoded


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("size", [BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES - 1])
def test_several_blocks_come_back_and_are_short(coding: str, size: int) -> None:
    data = text_of(size)
    encoded = encode(coding, data)
    assert decode(coding, encoded) == data
    assert len(encoded) < size / 2


def test_windows_are_within_what_every_decoder_takes() -> None:
    data = random.Random(1).randbytes(ZSTD_WINDOW_BYTES_MAX + 1)
    frame = zstandard.get_frame_parameters(encode("zstd", data))
    assert frame.window_size <= ZSTD_WINDOW_BYTES_MAX
    assert frame.content_size == len(data)
    # RFC 7932 §9.1: 10 to 24 bits; the two lowest bits 01 begin 18 to 24 bits, 17 + the next three.
    first = encode("br", data)[0]
    assert first & 1
    assert (first >> 1) & 7 != 0
    assert 17 + ((first >> 1) & 7) <= 24


def test_gzip_has_neither_name_nor_date() -> None:
    encoded = encode("gzip", text_of(5_000))
    # RFC 1952 §2.3: magic, deflate, no flags, four bytes of date.
    assert encoded[:8] == b"\x1f\x8b\x08\x00" + bytes(4)
    assert zlib.decompress(encoded, 31) == text_of(5_000)


def test_another_process_makes_the_same_bytes() -> None:
    script = (
        "import hashlib, test_encodings as t\n"
        "for c in t.CODINGS: print(hashlib.sha256(t.encode(c, t.text_of(600_000))).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"},
    )
    here = [hashlib.sha256(encode(coding, text_of(600_000))).hexdigest() for coding in CODINGS]
    assert done.stdout.split() == here


def test_unknown_coding_is_no_coding() -> None:
    with pytest.raises(ValueError, match="no coding is called lzma"):
        compressor("lzma", 1)
