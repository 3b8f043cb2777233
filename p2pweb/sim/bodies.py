"""How many bytes of bodies are in what a peer answers to `copies`, which has records beside them.

Whatever else there are bodies in, between peers, has little else, and counts as these whole.
"""

from __future__ import annotations

import re

from p2pweb.exchange.wire import InvalidMessageError, decode_bundle

_LENGTH = re.compile(rb"\r\nContent-Length: (\d+)\r\n", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"


class Answer:
    """One answer, as it is sent. None that is broken off has bodies: what there is of it counts as
    anything else does."""

    def __init__(self) -> None:
        self._data = bytearray()

    def bodies_in(self, chunk: memoryview) -> int:
        """How many bytes of bodies there are, when this ends the answer; 0 until then."""
        data = self._data
        data += chunk
        head, _, body = data.partition(_HEAD_END)
        length = _LENGTH.search(head + _HEAD_END)
        if length is None or len(body) < int(length[1]) or not head.startswith(b"HTTP/1.1 200 "):
            return 0
        data.clear()
        try:
            bundle = decode_bundle(bytes(body))
        except InvalidMessageError:
            return 0
        return sum(len(part.data) for part in bundle.parts)
