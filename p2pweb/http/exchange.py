"""One request and its answer: runs the handler, feeds it the body, sends what it returns.

An answer in memory is handed to the transport at once, without a task if the handler returned it
without one. A long one goes from where it lies straight into the socket.

Owns what lasts as long as one request: how much of its body has come, whether 100 (Continue) was
sent, how far the answer has got. The transport, the deadlines and the next request are the
connection's. Every failure ends here as an answer (before the head is sent) or as "incomplete"
(after it), which the connection turns into an abort.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from contextlib import suppress
from typing import Protocol

from p2pweb.errors import P2PWebError
from p2pweb.http import answers
from p2pweb.http.messages import Body, Content, HangUp, Refusal, Request, Response
from p2pweb.http.outlet import Outlet, VisitorLeft, Writer
from p2pweb.http.parser import BodyData, EndOfMessage, RequestParser
from p2pweb.http.response_head import CONTINUE, Framing, content_length, encode_head, has_body
from p2pweb.http.service import Handler, RequestBody, ServerLimits

_log = logging.getLogger("p2pweb.http")

# One visitor with a fast line lets the others have a turn after so much.
_TURN_BYTES = 2 * 1024 * 1024


class Channel(Protocol):
    """What an exchange asks of its connection."""

    parser: RequestParser
    limits: ServerLimits
    outlet: Outlet
    address: str

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
        self._body_failed = False
        self._begun_s = channel.now_s()
        # The answer so far: for the access log, and for what the connection does next.
        self.response: Response | None = None
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

    def begin(self, handler: Handler) -> Awaitable[None] | None:
        """Answer at once if handler and visitor let it be; otherwise what remains to be awaited.

        When that is done, `complete` says whether the whole answer was written.
        """
        length, sender = self._request.content_length, self._channel.address
        body = RequestBody(length, self._next_body_data, sender)
        try:
            outcome = handler(self._request, body)
        except HangUp:
            return None
        except Refusal as refusal:
            outcome = answers.refused(refusal)
        except Exception:  # noqa: BLE001 - whatever it is, it is logged and answered
            outcome = self._fail()
        return self.answer(outcome) if isinstance(outcome, Response) else self._answer(outcome)

    def answer(self, response: Response) -> Awaitable[None] | None:
        """Answer with this; what remains to be awaited, as for `begin`."""
        if self._is_long(response):
            return self._send(response)
        with suppress(VisitorLeft):
            self._send_at_once(response)
        return None

    async def _answer(self, pending: Awaitable[Response]) -> None:
        try:
            response = await pending
        except HangUp:
            return
        except Refusal as refusal:
            response = answers.refused(refusal)
        except Exception:  # noqa: BLE001 - whatever it is, it is logged and answered
            response = self._fail()
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
            try:
                await self._channel.readable(limits.body_base_s + earned_s - self._waited_s)
            except Refusal:
                self._body_failed = True
                raise
            self._waited_s += self._channel.now_s() - began_s

    def _ask_for_body(self) -> None:
        # RFC 9110 §10.1.1: 100 (Continue) once it is known that the body will be read; none where
        # some of it has come already, and none after the final status.
        if self._body_wanted or self.head_sent or not self._request.expects_continue:
            return
        self._body_wanted = True
        if not self._received_bytes and not self._channel.parser.buffered_bytes:
            self._channel.outlet.write(CONTINUE)

    def _body_is_abandoned(self) -> bool:
        """Whether the rest of the request's body is not worth waiting for."""
        parser = self._channel.parser
        left_bytes = parser.body_left_bytes
        # RFC 9110 §15.5.9: a server that waits no longer SHOULD say that it closes.
        if parser.refused or self._body_failed:
            return True
        if self._request.expects_continue and not self._body_wanted and not self._received_bytes:
            # RFC 9110 §10.1.1: after a final status the client may send the body or not; the two
            # cannot be told apart.
            return left_bytes != 0
        unread_bytes = 0 if left_bytes is None else left_bytes - parser.buffered_bytes
        return unread_bytes > self._channel.limits.drain_bytes_max

    # The answer

    def _is_long(self, response: Response) -> bool:
        body = response.body
        return (
            isinstance(body, Body)
            and bool(body.pieces)
            and has_body(self._request.method, response.status)
        )

    async def _send(self, response: Response) -> None:
        with suppress(VisitorLeft):
            if isinstance(response.body, Body) and self._is_long(response):
                await self._send_long(response, response.body)
            else:
                self._send_at_once(response)

    def _send_at_once(self, response: Response) -> None:
        body = response.body
        try:
            if isinstance(body, bytes):
                self._write(response, body, len(body))
            else:
                self._write(response, b"", body.size_bytes)
        except ValueError:
            # A head that may not be sent; nothing of it was.
            self._write_page(self._fail())

    def _write_page(self, page: Response) -> None:
        assert isinstance(page.body, bytes)  # noqa: S101 - our pages are
        self._write(page, page.body, len(page.body))

    def _write(self, response: Response, body: bytes, size_bytes: int) -> None:
        """Write a whole answer whose body is in memory."""
        head = self._head(response, size_bytes)
        if not has_body(self._request.method, response.status):
            body = b""
        self._channel.outlet.write(head + body if body else head)
        self._note_head(response)
        self.sent_bytes = len(body)
        self.complete = True

    def _head(self, response: Response, size_bytes: int) -> bytes:
        self.last = response.close or self._channel.is_last() or self._is_final()
        framing = Framing(
            version=self._request.version,
            date=self._channel.date(),
            length=content_length(response.status, size_bytes),
            close=self.last,
        )
        return encode_head(response.status, response.fields, framing)

    def _note_head(self, response: Response) -> None:
        self.head_sent = True
        self.status = response.status
        self.response = response

    def _is_final(self) -> bool:
        return not self._request.keep_alive or self._body_is_abandoned()

    # A long answer

    async def _send_long(self, response: Response, body: Body) -> None:
        """Send a body from where it lies. The head waits for its first bytes: until then a failure
        can still be told in an answer."""
        content: Content | None = None
        try:
            content = body.open()
            await self._stream(response, body, content)
            self.complete = True
        except VisitorLeft:
            raise
        except (ConnectionError, TimeoutError) as failure:
            if not self.head_sent:
                self._write_page(self._fail())
            else:
                _log.debug("%r broke off: %s", self._request.target, failure)
        except Exception as failure:  # noqa: BLE001 - whatever it is, it is logged and answered
            if self.head_sent:
                # Bytes that no peer has any more are told in a line; anything else is our fault.
                is_known = isinstance(failure, P2PWebError)
                target = self._request.target
                _log.warning("%r broke off: %s", target, failure, exc_info=not is_known)
            elif isinstance(failure, Refusal):
                self._write_page(answers.refused(failure))
            elif isinstance(failure, P2PWebError):
                self._write_page(answers.unavailable(str(failure)))
            else:
                self._write_page(self._fail())
        finally:
            if content is not None:
                content.close()

    async def _stream(self, response: Response, body: Body, content: Content) -> None:
        sizes = [len(p) if isinstance(p, bytes) else p.stop - p.start for p in body.pieces]
        if sum(sizes) != body.size_bytes:
            raise BrokenBody(f"pieces of {sum(sizes)} bytes make no body of {body.size_bytes}")
        first = next((piece for piece in body.pieces if not isinstance(piece, bytes)), None)
        if first is not None and content.fileno() is None:
            await content.read(first.start, first.stop)
        await self._channel.outlet.flushed()
        with self._channel.outlet.direct() as writer:
            head = self._head(response, body.size_bytes)
            self._note_head(response)
            await self._send_all(writer, head, more=True)
            for piece in body.pieces:
                if isinstance(piece, bytes):
                    await self._send_all(writer, piece, more=piece is not body.pieces[-1])
                    self.sent_bytes += len(piece)
                else:
                    await self._send_span(writer, content, piece.start, piece.stop)

    async def _send_all(self, writer: Writer, data: bytes, *, more: bool) -> None:
        """Send a few bytes that belong to no file."""
        rest = memoryview(data)
        while rest:
            taken_bytes = writer.send(rest, more=more)
            rest = rest[taken_bytes:]
            if not taken_bytes:
                await self._channel.outlet.taken(writer)

    async def _send_span(self, writer: Writer, content: Content, start: int, stop: int) -> None:
        descriptor = content.fileno()
        turn_bytes = 0
        while start < stop:
            if descriptor is None:
                data = await content.read(start, stop)
                if not data:
                    raise BrokenBody(f"the body lacks {stop - start} bytes")
                taken_bytes: int | None = writer.send(data, more=False) or None
                # Not held while the visitor is waited for.
                del data
            else:
                taken_bytes = writer.send_file(descriptor, start, min(stop, start + _TURN_BYTES))
                if taken_bytes == 0:
                    raise BrokenBody(f"the file lacks {stop - start} bytes")
            if taken_bytes is None:
                await self._channel.outlet.taken(writer)
                continue
            start += taken_bytes
            self.sent_bytes += taken_bytes
            turn_bytes += taken_bytes
            if turn_bytes >= _TURN_BYTES and start < stop:
                turn_bytes = 0
                await asyncio.sleep(0)
