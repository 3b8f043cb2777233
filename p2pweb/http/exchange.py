"""One request and its answer: runs the handler, feeds it the body, sends what it returns.

Owns what lasts as long as one request: how much of its body has come, whether 100 (Continue) was
sent, how far the answer has got. The transport, the deadlines and the next request are the
connection's. Every failure ends here as an answer (before the head is sent) or as "incomplete"
(after it), which the connection turns into an abort.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator
from typing import Protocol

from p2pweb.errors import P2PWebError
from p2pweb.http import answers
from p2pweb.http.messages import Body, Refusal, Request, Response
from p2pweb.http.parser import BodyData, EndOfMessage, RequestParser
from p2pweb.http.response_head import CONTINUE, Framing, encode_head, has_body
from p2pweb.http.service import Handler, RequestBody, ServerLimits

_log = logging.getLogger("p2pweb.http")


class Channel(Protocol):
    """What an exchange asks of its connection."""

    parser: RequestParser
    limits: ServerLimits

    def now_s(self) -> float:
        """The loop's time."""

    def date(self) -> str:
        """The Date field's value now."""

    def is_last(self) -> bool:
        """Whether the connection takes no request after this one."""

    def resume_reading(self) -> None:
        """Some of the buffered body was consumed."""

    async def readable(self, within_s: float) -> None:
        """Wait for more of the body; raises `Refusal` if it breaks off or does not come."""

    def write(self, data: bytes) -> None:
        """Hand bytes to the transport; raises `VisitorLeft`."""

    async def writable(self) -> None:
        """Wait until the client has taken most of what was written; raises `VisitorLeft`."""


class VisitorLeft(Exception):  # noqa: N818 - nobody's error
    """The connection is lost: whatever is sent now reaches nobody.

    Not a ConnectionError: a handler's own connections raise that.
    """


class BrokenBody(Exception):  # noqa: N818 - the handler's fault, told in its log
    """A response body is not as long as it said."""


class Exchange:
    """One request and its answer on a channel."""

    def __init__(self, channel: Channel, request: Request) -> None:
        self._channel = channel
        self._request = request
        self._received_bytes = 0
        self._waited_s = 0.0
        self._reading = False
        self._body_wanted = False
        self._begun_s = channel.now_s()
        # The answer so far: for the access log, and for what the connection does next.
        self.head_sent = False
        self.status = 0
        self.sent_bytes = 0
        self.complete = False
        self.last = True

    @property
    def duration_s(self) -> float:
        return self._channel.now_s() - self._begun_s

    @property
    def request(self) -> Request:
        return self._request

    async def run(self, handler: Handler) -> None:
        """Answer the request; afterwards `complete` says whether the whole answer was written."""
        body = RequestBody(self._request.content_length, self._next_body_data)
        try:
            response = await handler(self._request, body)
        except Refusal as refusal:
            response = answers.refused(refusal)
        except Exception:  # noqa: BLE001 - whatever it is, it is logged and answered
            response = self._fail()
        with contextlib.suppress(VisitorLeft):
            await self._send(response)

    def _fail(self) -> Response:
        """The answer to an error of ours; called while that is handled."""
        request = self._request
        _log.exception("%s %r on %r failed", request.method, request.target, request.host)
        detail = "This peer could not answer. The fault is not yours."
        return answers.error(500, "Something went wrong", detail, close=True)

    # The request's body

    async def _next_body_data(self) -> bytes:
        """The next bytes of the body; b"" at its end. Raises `Refusal`."""
        if self._reading:
            raise RuntimeError("a body has one reader at a time")
        self._reading = True
        try:
            return await self._read_body()
        finally:
            self._reading = False

    async def _read_body(self) -> bytes:
        parser = self._channel.parser
        while True:
            event = parser.next_event()
            if isinstance(event, BodyData):
                self._received_bytes += len(event.data)
                self._channel.resume_reading()
                return event.data
            if isinstance(event, EndOfMessage) or parser.ended:
                return b""
            self._ask_for_body()
            # Only the time that we wait for the client counts, not what the handler takes.
            limits = self._channel.limits
            earned_s = self._received_bytes / limits.body_rate_bytes_per_s
            began_s = self._channel.now_s()
            await self._channel.readable(limits.body_base_s + earned_s - self._waited_s)
            self._waited_s += self._channel.now_s() - began_s

    def _ask_for_body(self) -> None:
        # RFC 9110 §10.1.1: 100 (Continue) once it is known that the body will be read; none where
        # some of it has come already, and none after the final status.
        if self._body_wanted or self.head_sent or not self._request.expects_continue:
            return
        self._body_wanted = True
        if not self._received_bytes and not self._channel.parser.buffered_bytes:
            self._channel.write(CONTINUE)

    def _body_is_abandoned(self) -> bool:
        """Whether the rest of the request's body is not worth waiting for."""
        parser = self._channel.parser
        left_bytes = parser.body_left_bytes
        if parser.refused:
            return True
        if self._request.expects_continue and not self._body_wanted and not self._received_bytes:
            # RFC 9110 §10.1.1: after a final status the client may send the body or not; the two
            # cannot be told apart.
            return left_bytes != 0
        unread_bytes = 0 if left_bytes is None else left_bytes - parser.buffered_bytes
        return unread_bytes > self._channel.limits.drain_bytes_max

    # The answer

    async def _send(self, response: Response) -> None:
        body = response.body
        try:
            if isinstance(body, bytes):
                self._send_head(response, body, len(body))
                self.complete = True
            elif body.size_bytes and has_body(self._request.method, response.status):
                await self._send_body(response, body)
            else:
                self._send_head(response, b"", body.size_bytes)
                self.complete = True
        except VisitorLeft:
            raise
        except Exception as failure:  # noqa: BLE001 - whatever it is, it is logged and answered
            if self.head_sent:
                # Bytes that no peer has any more are told in a line; anything else is our fault.
                is_known = isinstance(failure, P2PWebError)
                target = self._request.target
                _log.warning("%r broke off: %s", target, failure, exc_info=not is_known)
                return
            self._send_page(failure)
        finally:
            if isinstance(body, Body) and isinstance(body.chunks, AsyncGenerator):
                await body.chunks.aclose()

    def _send_page(self, failure: Exception) -> None:
        page = answers.refused(failure) if isinstance(failure, Refusal) else self._fail()
        assert isinstance(page.body, bytes)  # noqa: S101 - our pages are
        self._send_head(page, page.body, len(page.body))
        self.complete = True

    def _send_head(self, response: Response, first: bytes, size_bytes: int) -> None:
        """Write the head together with the body's first bytes."""
        self.last = response.close or self._channel.is_last() or self._is_final()
        # RFC 9110 §8.6: no Content-Length with 204. In a 304 it would be the 200's, or nothing.
        framed = response.status not in (204, 304)
        framing = Framing(
            version=self._request.version,
            date=self._channel.date(),
            length=size_bytes if framed else None,
            close=self.last,
        )
        head = encode_head(response.status, response.fields, framing)
        if not has_body(self._request.method, response.status):
            first = b""
        self._channel.write(head + first if first else head)
        self.head_sent = True
        self.status = response.status
        self.sent_bytes = len(first)

    def _is_final(self) -> bool:
        return not self._request.keep_alive or self._body_is_abandoned()

    async def _send_body(self, response: Response, body: Body) -> None:
        """Send a body as it is made. The head waits for its first bytes: until then a failure can
        still be told in an answer."""
        left_bytes = body.size_bytes
        async for chunk in body.chunks:
            if len(chunk) > left_bytes:
                raise BrokenBody("the body is longer than its size says")
            left_bytes -= len(chunk)
            if not self.head_sent and chunk:
                self._send_head(response, chunk, body.size_bytes)
            elif chunk:
                self._channel.write(chunk)
                self.sent_bytes += len(chunk)
            await self._channel.writable()
        if left_bytes:
            raise BrokenBody(f"the body lacks {left_bytes} bytes")
        self.complete = True
