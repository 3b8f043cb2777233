"""Content codings (RFC 9110 §8.4.1): which files get them, which are kept, and their bytes.

Owns the codings with their levels, the bounds of what is worth compressing, and the rule for what
is worth keeping. Pure: blocks of bytes in, encoded bytes out, the same ones each time, since they
carry no date and no name; only another version of a library may make others. Refuses what is
compressed already, what is too short to gain anything, and what is too long to be a page.
"""

import zlib
from collections.abc import Mapping
from typing import Protocol

import brotli
import zstandard

from p2pweb.http.media_types import is_compressible

# In the order of a record's encodings. Everybody who knows one of them knows gzip, and over plain
# HTTP most browsers ask for nothing else; br is the shortest; zstd is for programs without br.
CODINGS = ("br", "zstd", "gzip")

# Where the curve of size over time bends, measured on a site of 66 MB (ARCHITECTURE.md): higher
# levels save another hundredth of the encoded size for half the time again, or for ten times it.
BR_QUALITY = 6
# Its windows have 4 MiB at most; longer ones than 8 MiB must not be sent (RFC 9659 §3).
ZSTD_LEVEL = 9
GZIP_LEVEL = 6
# 4 MiB, brotli's own default; every decoder takes up to 16 MiB (RFC 7932 §9.1).
BR_WINDOW_BITS = 22
# zlib's largest window, 32 KiB, and 16 for the frame of gzip around it.
_GZIP_WINDOW_BITS = 15 + 16

# A shorter file and the head of its answer fit one packet as they are, so that nobody gains.
SOURCE_BYTES_MIN = 1024
# And up to here br and zstd have never been found to save enough over gzip to be kept.
ONLY_GZIP_BELOW_BYTES = 8 * 1024
# A longer one is no part of a page but a download, which its author packs if it matters; it would
# hold up a publish for seconds, and every holder's disk has to bear each of its encodings.
SOURCE_BYTES_MAX = 32 * 1024 * 1024
# An encoding is one more blob on all holders, where it costs its own bytes and, measured, 900 more
# in the books, and it adds 45 bytes to the record and the manifest. No visitor notices less.
SAVED_BYTES_MIN = 512
SAVED_PERCENT_MIN = 10


class Compressor(Protocol):
    """One file on its way through one coding."""

    def compress(self, data: bytes | memoryview, /) -> bytes:
        """Take in the next bytes; what is encoded so far, which may be nothing yet."""

    def flush(self) -> bytes:
        """The rest, after which the compressor is used up."""


class _Brotli:
    """Brotli's compressor, whose methods have names of their own."""

    def __init__(self) -> None:
        self._inner = brotli.Compressor(quality=BR_QUALITY, lgwin=BR_WINDOW_BITS)

    def compress(self, data: bytes | memoryview, /) -> bytes:
        encoded: bytes = self._inner.process(data)
        return encoded

    def flush(self) -> bytes:
        encoded: bytes = self._inner.finish()
        return encoded


def codings_for(media_type: str, size_bytes: int) -> tuple[str, ...]:
    """The codings to try for a file of this type and length; none where it is not worth it."""
    fits = SOURCE_BYTES_MIN <= size_bytes <= SOURCE_BYTES_MAX
    if not fits or not is_compressible(media_type):
        return ()
    return CODINGS if size_bytes >= ONLY_GZIP_BELOW_BYTES else ("gzip",)


def worth_keeping(size_bytes: int, encoded_bytes: Mapping[str, int]) -> tuple[str, ...]:
    """Of the encodings of a file that came to so many bytes, those that are kept, in order.

    What counts is what an encoding saves over what its clients would be sent without it: that is
    gzip, where there is one, and the file itself for gzip.
    """
    gzip_bytes = encoded_bytes.get("gzip", size_bytes)
    else_bytes = gzip_bytes if _saves(size_bytes, gzip_bytes) else size_bytes
    return tuple(
        coding
        for coding in CODINGS
        if coding in encoded_bytes
        and _saves(size_bytes if coding == "gzip" else else_bytes, encoded_bytes[coding])
    )


def _saves(before_bytes: int, after_bytes: int) -> bool:
    saved_bytes = before_bytes - after_bytes
    return saved_bytes >= SAVED_BYTES_MIN and saved_bytes * 100 >= before_bytes * SAVED_PERCENT_MIN


def compressor(coding: str, size_bytes: int) -> Compressor:
    """Begin a coding of a file of exactly so many bytes. ValueError where there is none such.

    It lets other threads run while it works. The output depends on how the bytes are cut, so
    whoever wants the same output twice hands over the same pieces: blocks.
    """
    match coding:
        case "br":
            return _Brotli()
        case "zstd":
            parameters = zstandard.ZstdCompressionParameters.from_level(
                ZSTD_LEVEL, source_size=size_bytes
            )
            return zstandard.ZstdCompressor(compression_params=parameters).compressobj(size_bytes)
        case "gzip":
            # zlib writes a header without a name and with no date (RFC 1952 §2.3).
            return zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW_BITS)
        case _:
            raise ValueError(f"no coding is called {coding}")
