"""Two readings of one stream → what they disagree on, up to where they part.

A verdict that comes early is no disagreement: a parser may refuse a line before the rest of the
head is there, where another waits for it. So whoever waits is given the end of a head first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from fuzzing.readers import CLOSED, REFUSED, WAITS, Message, Reading, read_ours

COMPLETE = "complete"

_END_OF_HEAD = b"\r\n\r\n"


class Disagreement(NamedTuple):
    """`message` is the stream from where the message begins that is read in two ways.

    It goes on to the stream's end. `ours` and `theirs` say how far each has come with it:
    complete, waits, refused, closed, upgraded. `parts` are the names of what differs, where both
    have read it.
    """

    peer: str
    message: bytes
    ours: str
    theirs: str
    parts: frozenset[str]
    status: int
    why: str
    our: Message | None
    their: Message | None

    def __str__(self) -> str:
        told = f"ours {self.ours} {self.status or ''}, {self.peer} {self.theirs} {self.why}"
        if self.parts:
            told += f", differing in {', '.join(sorted(self.parts))}: {self.our} / {self.their}"
        return f"{told}: {self.message!r:.2000}"


def compare(
    peer: str, stream: bytes, our: Reading, their: Reading, read: Callable[[bytes], Reading]
) -> Iterator[Disagreement]:
    """`read` is the other parser's."""
    for index in range(len(our.starts)):
        ours, our_message = _state(our, index)
        theirs, their_message = _state(their, index)
        parts: frozenset[str] = frozenset()
        if ours == theirs:
            parts = _differing(our_message, their_message, whole=ours == COMPLETE)
            if not parts and ours == COMPLETE:
                continue
            if not parts:
                return
        message = stream[our.starts[index] :]
        if not parts and _only_waits(message, ours, theirs, read):
            return
        # One at a time, so that no rule for one part passes another.
        for one in [frozenset((part,)) for part in sorted(parts)] or [parts]:
            yield Disagreement(
                peer, message, ours, theirs, one, our.status, their.why, our_message, their_message
            )
        # Having taken a word in two ways, they may yet agree on where the message ends.
        if ours != theirs or "keep_alive" in parts:
            return


def _state(reading: Reading, index: int) -> tuple[str, Message | None]:
    if index < len(reading.messages):
        return COMPLETE, reading.messages[index]
    if index > len(reading.messages):
        # It was ended before.
        return CLOSED, None
    return reading.end, reading.head


def _differing(our: Message | None, their: Message | None, *, whole: bool) -> frozenset[str]:
    """Of a message that has not ended, only the head is compared, where both have it."""
    if our is None or their is None or our == their:
        return frozenset()
    pairs = zip(Message._fields, our, their, strict=True)
    parts = {name for name, one, other in pairs if one != other}
    return frozenset(parts if whole else parts - {"body", "keep_alive"})


def _only_waits(message: bytes, ours: str, theirs: str, read: Callable[[bytes], Reading]) -> bool:
    """Whether the one that waits would refuse too, were this the whole head."""
    if (ours, theirs) == (REFUSED, WAITS):
        return _refuses_first(read(message + _END_OF_HEAD))
    if (ours, theirs) == (WAITS, REFUSED):
        return _refuses_first(read_ours(message + _END_OF_HEAD))
    return False


def _refuses_first(reading: Reading) -> bool:
    return not reading.messages and reading.end == REFUSED
