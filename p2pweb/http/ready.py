"""Answers that need no asking: a head seen before → the bytes that answered it.

Owns a bounded table from the exact bytes of a request head to its answer. The same head
means the same request, and while the answer's lease lasts the same answer; only Date moves on.
A head takes part only if the whole of it came at once and no body followed, so nothing about a
message's framing is decided here: that was the parser's, the first time.
"""

from __future__ import annotations

from p2pweb.http.messages import SHORT_BODY_BYTES_MAX, Lease, Request, Response
from p2pweb.http.response_head import Framing, content_length, encode_head, has_body

# Longer heads carry cookies or an attack; hashing them would cost more than it saves.
HEAD_BYTES_MAX = 4 * 1024
# The pages of a small site, as several browsers ask for them.
TABLE_BYTES_MAX = 16 * 1024 * 1024
# What an entry costs besides its head and its body: the objects, and those of each field.
_ENTRY_BYTES = 2 * 1024
_FIELD_BYTES = 160


class Ready:
    """One answer to repeat: complete but for its Date where it is short, or to be sent anew."""

    __slots__ = (
        *("_body", "_date", "_wire"),
        *("closes", "is_long", "lease", "request", "response", "sent_bytes"),
    )

    def __init__(self, request: Request, response: Response, lease: Lease) -> None:
        self.request = request
        self.response = response
        self.lease = lease
        # RFC 9112 §9.6: the visitor has said that this request is its last.
        self.closes = not request.keep_alive
        body = response.body if has_body(request.method, response.status) else b""
        self.is_long = not isinstance(body, bytes)
        self._body = body if isinstance(body, bytes) else b""
        self.sent_bytes = len(self._body)
        self._date = ""
        self._wire = b""

    def wire(self, date: str) -> bytes:
        """All of a short answer; made anew once a second, when the date has changed."""
        if date is not self._date:
            response = self.response
            body = response.body
            size_bytes = len(body) if isinstance(body, bytes) else body.size_bytes
            framing = Framing(
                version=self.request.version,
                date=date,
                length=content_length(response.status, size_bytes),
                close=self.closes,
            )
            self._wire = encode_head(response.status, response.fields, framing) + self._body
            self._date = date
        return self._wire


class ReadyAnswers:
    """The table; the oldest entry makes room."""

    def __init__(self) -> None:
        self._answers: dict[bytes, Ready] = {}
        self._size_bytes = 0
        # The way in for every read of an idle connection: one look-up and nothing more.
        self.get = self._answers.get

    def put(self, head: bytes, request: Request, response: Response) -> None:
        """Remember an answer, if it is one that may be repeated."""
        lease = response.lease
        if lease is None or not head or len(head) > HEAD_BYTES_MAX or response.close:
            return
        if request.content_length != 0 or request.expects_continue:
            return
        known = self._answers.get(head)
        if known is not None and known.response is response:
            return
        ready = Ready(request, response, lease)
        if ready.sent_bytes > SHORT_BODY_BYTES_MAX:
            return
        self._forget(head)
        self._answers[head] = ready
        self._size_bytes += _size(head, ready)
        while self._size_bytes > TABLE_BYTES_MAX:
            self._forget(next(iter(self._answers)))

    def clear(self) -> None:
        """Forget everything."""
        self._answers.clear()
        self._size_bytes = 0

    def _forget(self, head: bytes) -> None:
        gone = self._answers.pop(head, None)
        if gone is not None:
            self._size_bytes -= _size(head, gone)


def _size(head: bytes, ready: Ready) -> int:
    # The body lies there twice: as it came, and in the last second's answer.
    body = ready.response.body
    body_bytes = len(body) if isinstance(body, bytes) else 0
    fields = len(ready.request.fields) * _FIELD_BYTES
    return _ENTRY_BYTES + fields + 2 * len(head) + 2 * body_bytes
