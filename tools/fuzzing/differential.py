"""Our parser on each case: by itself, whatever the cuts; and beside h11 and llhttp."""

from __future__ import annotations

import random
from collections import Counter

from fuzzing.comparison import compare
from fuzzing.readers import READERS, BrokenInvariant, Reading, read_ours
from fuzzing.rules import explain
from fuzzing.streams import make_stream
from p2pweb.http.parser import Limits

# Each byte alone costs ten times what the rest does, so only one in eight gets it, and only so far.
_BYTEWISE_EVERY = 8
_BYTEWISE_BYTES_MAX = 400

# Limits that short streams can reach.
_TINY = Limits(
    target_bytes_max=24,
    field_line_bytes_max=32,
    head_bytes_max=128,
    fields_max=4,
    chunk_line_bytes_max=12,
    chunk_extensions_bytes_max=16,
    trailer_bytes_max=48,
)


def check_case(seed: int, number: int, explained: Counter[str]) -> list[str]:
    """The faults of one case, each a sentence; counts the explained disagreements by rule."""
    stream = make_stream(seed, number)
    chance = random.Random(number)
    try:
        reading = read_ours(stream)
        _check_cuts(stream, reading, number, chance)
        if number % _BYTEWISE_EVERY == 1:
            # Nobody else has these limits, so only our own answers are compared.
            tiny = read_ours(stream, (), _TINY)
            if read_ours(stream, _some_cuts(stream, chance), _TINY) != tiny:
                raise BrokenInvariant("under tiny limits the cuts change what it reads")
    except BrokenInvariant as broken:
        return [f"{broken}: {stream!r:.2000}"]
    faults: list[str] = []
    for peer, read in READERS.items():
        for disagreement in compare(peer, stream, reading, read(stream), read):
            rule = explain(disagreement)
            if rule is None:
                faults.append(str(disagreement))
            else:
                explained[f"{peer}: {rule.name}"] += 1
    return faults


def _some_cuts(stream: bytes, chance: random.Random) -> list[int]:
    return sorted(int(chance.random() * len(stream)) for _ in range(chance.randrange(1, 6)))


def _check_cuts(stream: bytes, whole: Reading, number: int, chance: random.Random) -> None:
    # Where a message begins is told as far as it is known, which is the same for all cuts.
    if read_ours(stream, _some_cuts(stream, chance)) != whole:
        raise BrokenInvariant("the cuts change what it reads")
    if number % _BYTEWISE_EVERY == 0:
        cuts = range(1, min(len(stream), _BYTEWISE_BYTES_MAX))
        if read_ours(stream, cuts) != whole:
            raise BrokenInvariant("byte by byte it reads something else")
    if sum(len(message.body) for message in whole.messages) > len(stream):
        raise BrokenInvariant("it gives more body than there are bytes")
