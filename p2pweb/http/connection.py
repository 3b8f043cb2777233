"""One visitor's connection: a transport, a parser, and every deadline between them.

Owns the order of things: requests one at a time, each answered by an `Exchange` in a task of its
own, and what happens after the answer. What it does is a matter of its phase (`_Phase`), and each
phase has one deadline, all on one timer. It closes what is too slow, lingers where a reset would
destroy the last answer, and aborts rather than end an incomplete body cleanly. Nothing is buffered
without bound: reading pauses while a handler is behind, writing waits while the visitor is.

Time comes from the loop alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from enum import Enum, auto
from typing import Protocol, cast

from p2pweb.http import answers
from p2pweb.http.exchange import Exchange, VisitorLeft
from p2pweb.http.messages import HTTP_1_1, Refusal, Request, Response
from p2pweb.http.parser import BodyData, RequestParser
from p2pweb.http.response_head import Framing, encode_head
from p2pweb.http.service import AccessEntry, Handler, ServerLimits

_log = logging.getLogger("p2pweb.http")


class Owner(Protocol):
    """What a connection asks of its server."""

    handler: Handler
    limits: ServerLimits
    log: Callable[[AccessEntry], None] | None
    closing: bool

    def admit(self, connection: Connection) -> bool:
        """Count a new connection in; False if there is no room for it."""

    def forget(self, connection: Connection) -> None:
        """The connection is lost and its task has ended."""

    def note_idle(self, connection: Connection) -> None:
        """It waits for a request."""

    def note_begun(self, connection: Connection) -> None:
        """It waits for the rest of a head."""

    def note_busy(self, connection: Connection) -> None:
        """It waits no longer."""

    def keep_alive_s(self) -> float:
        """How long an idle connection may now stay."""

    def date(self) -> str:
        """The Date field's value now."""


class _Phase(Enum):
    IDLE = auto()  # between requests: closed silently at the deadline
    HEAD = auto()  # a request has begun: 408 at the deadline
    ANSWERING = auto()  # an exchange runs
    DRAINING = auto()  # answered; the rest of the body is read and dropped
    LINGERING = auto()  # our half is closed; what still comes is dropped
    CLOSING = auto()  # the last bytes are on their way
    LOST = auto()


class Connection(asyncio.Protocol):
    """The protocol object of one accepted connection; the `Channel` of its exchanges."""

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop) -> None:
        self.limits = owner.limits
        self.parser = RequestParser(owner.limits.parser)
        self.address = ""
        self._owner = owner
        self._loop = loop
        self._phase = _Phase.IDLE
        self._exchange: Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._requests = 0
        self._reading_paused = False
        self._half_closed = False
        self._dropped_bytes = 0
        self._read_waiter: asyncio.Future[None] | None = None
        self._write_paused = False
        self._write_waiter: asyncio.Future[None] | None = None
        # How much the transport held when the deadline was last set: less means progress.
        self._unwritten_bytes = 0
        self._deadline_s: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Stream servers have no other kind; uvloop's does not derive from asyncio's.
        transport = cast(asyncio.Transport, transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=self.limits.write_buffer_bytes_max)
        # None where the visitor has left before we looked.
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) and peer else ""
        if self._owner.closing or not self._owner.admit(self):
            # Not counted in, so it may not stay: it is told, and closed without lingering.
            detail = "This peer has as many visitors as it can serve."
            page = answers.error(503, "Too many visitors", detail, retry_after_s=5)
            self._write_page(page)
            self._close()
            return
        self._owner.note_idle(self)
        self._set_deadline(self.limits.first_byte_s)

    def data_received(self, data: bytes) -> None:
        match self._phase:
            case _Phase.IDLE | _Phase.HEAD:
                self.parser.receive(data)
                self._read_head()
            case _Phase.ANSWERING:
                self.parser.receive(data)
                _wake(self._read_waiter)
                if self.parser.buffered_bytes >= self.limits.buffered_bytes_max:
                    self._reading_paused = True
                    self._transport.pause_reading()
            case _Phase.DRAINING:
                self.parser.receive(data)
                self._drain()
            case _Phase.LINGERING:
                self._dropped_bytes += len(data)
                if self._dropped_bytes > self.limits.linger_bytes_max:
                    self._close()
            case _:
                pass

    def eof_received(self) -> bool:
        self._half_closed = True
        if self._phase is not _Phase.ANSWERING:
            self._close()
        elif self._read_waiter is not None:
            _wake(self._read_waiter)
        elif self._exchange is not None and not self._exchange.head_sent:
            self._set_deadline(self.limits.half_closed_s)
        # Our half stays open: a client that has said all it has to say may still listen.
        return True

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        _wake(self._write_waiter)

    def connection_lost(self, exc: Exception | None) -> None:
        self._enter(_Phase.LOST, None)
        if self._timer is not None:
            self._timer.cancel()
        if self._task is None:
            self._owner.forget(self)
        else:
            # Its end is what makes the owner forget this connection.
            self._task.cancel()

    # What the server calls

    def close_if_waiting(self) -> None:
        """Close at once, unless an answer is in flight."""
        if self._phase in (_Phase.IDLE, _Phase.HEAD):
            self._close()

    def evict(self) -> None:
        """Make room at once: a visitor who has not taken the last answer loses it."""
        if self._transport.get_write_buffer_size():
            self.abort()
        else:
            self._close()

    def abort(self) -> None:
        """End the connection without flushing it, and so the handler."""
        self._transport.abort()

    # Requests

    def _read_head(self) -> None:
        try:
            event = self.parser.next_event()
        except Refusal as refusal:
            self._refuse(refusal)
            return
        if isinstance(event, Request):
            self._enter(_Phase.ANSWERING, self.limits.half_closed_s if self._half_closed else None)
            self._owner.note_busy(self)
            self._requests += 1
            self._exchange = Exchange(self, event)
            self._task = self._loop.create_task(self._answer(self._exchange))
            self._task.add_done_callback(self._answer_ended)
        elif self._phase is _Phase.IDLE and self.parser.begun:
            self._enter(_Phase.HEAD, self.limits.head_s)
            self._owner.note_begun(self)

    async def _answer(self, exchange: Exchange) -> None:
        try:
            await exchange.run(self._owner.handler)
            if exchange.complete:
                await self.writable()
        finally:
            self._report(exchange)
        if not exchange.complete or self._transport.is_closing():
            self.abort()
        elif exchange.last or self._owner.closing:
            self._leave()
        else:
            self._enter(_Phase.DRAINING, self.limits.body_base_s)
            self._dropped_bytes = 0
            self._drain()

    def _answer_ended(self, task: asyncio.Task[None]) -> None:
        if self._task is task:
            self._task = None
        if not task.cancelled() and (failure := task.exception()) is not None:
            _log.error("an exchange failed", exc_info=failure)
            self.abort()
        elif task.cancelled() and self._phase is not _Phase.LOST:
            # Something that the handler waited for was cancelled; there is no answer.
            self.abort()
        if self._phase is _Phase.LOST and self._task is None:
            self._owner.forget(self)

    def _drain(self) -> None:
        """Drop what is left of the answered request's body, then go on to the next request."""
        while not self.parser.ended:
            try:
                event = self.parser.next_event()
            except Refusal:
                # The answer is out already; there is nothing more to say.
                self._linger()
                return
            if isinstance(event, BodyData):
                self._dropped_bytes += len(event.data)
                if self._dropped_bytes > self.limits.drain_bytes_max:
                    self._linger()
                    return
            elif event is None:
                self.resume_reading()
                if self._half_closed:
                    self._close()
                return
        self.resume_reading()
        self.parser.next_request()
        self._enter(_Phase.IDLE, self._owner.keep_alive_s())
        self._owner.note_idle(self)
        if self.parser.begun:
            self._read_head()
        if self._half_closed and self._phase in (_Phase.IDLE, _Phase.HEAD):
            self._close()

    def _report(self, exchange: Exchange) -> None:
        if self._owner.log is None:
            return
        request = exchange.request
        self._owner.log(
            AccessEntry(
                address=self.address,
                method=request.method,
                host=request.host,
                target=request.target,
                status=exchange.status,
                sent_bytes=exchange.sent_bytes,
                duration_s=exchange.duration_s,
                complete=exchange.complete,
            )
        )

    # What an exchange calls

    def now_s(self) -> float:
        return self._loop.time()

    def date(self) -> str:
        return self._owner.date()

    def is_last(self) -> bool:
        return self._owner.closing or self._requests >= self.limits.requests_max

    def resume_reading(self) -> None:
        if self._reading_paused and self.parser.buffered_bytes < self.limits.buffered_bytes_max:
            self._reading_paused = False
            self._transport.resume_reading()

    async def readable(self, within_s: float) -> None:
        if self._half_closed:
            raise Refusal(400, "the body broke off")
        self.resume_reading()
        self._read_waiter = self._loop.create_future()
        self._set_deadline(within_s)
        try:
            await self._read_waiter
        finally:
            self._read_waiter = None
            self._set_deadline(None)

    def write(self, data: bytes) -> None:
        if self._phase is _Phase.LOST:
            raise VisitorLeft
        self._set_deadline(None)
        self._transport.write(data)

    async def writable(self) -> None:
        while self._write_paused:
            if self._phase is _Phase.LOST:
                raise VisitorLeft
            self._write_waiter = self._loop.create_future()
            self._await_progress()
            try:
                await self._write_waiter
            finally:
                self._write_waiter = None
                self._set_deadline(None)

    # Endings

    def _refuse(self, refusal: Refusal) -> None:
        """Answer a head that is none, or never comes, and leave."""
        page = answers.refused(refusal)
        self._write_page(page)
        self._owner.note_busy(self)
        if self._owner.log is not None:
            entry = AccessEntry(
                address=self.address,
                method="",
                host="",
                target=b"",
                status=page.status,
                sent_bytes=len(page.body) if isinstance(page.body, bytes) else 0,
                duration_s=0.0,
                complete=True,
            )
            self._owner.log(entry)
        self._linger()

    def _write_page(self, page: Response) -> None:
        body = page.body if isinstance(page.body, bytes) else b""
        framing = Framing(version=HTTP_1_1, date=self.date(), length=len(body), close=True)
        self._transport.write(encode_head(page.status, page.fields, framing) + body)

    def _leave(self) -> None:
        """End the connection after its last answer."""
        unread = self.parser.buffered_bytes or self._reading_paused
        if self.parser.body_left_bytes == 0 and not unread:
            self._close()
        else:
            self._linger()

    def _linger(self) -> None:
        # RFC 9112 §9.6: closing while bytes are unread makes TCP reset the connection, which can
        # erase our last answer. So the server closes its half, and reads on for a while.
        if self._half_closed:
            self._close()
            return
        self._enter(_Phase.LINGERING, self.limits.linger_s)
        self._dropped_bytes = 0
        self._transport.write_eof()
        if self._reading_paused:
            self._reading_paused = False
            self._transport.resume_reading()

    def _close(self) -> None:
        """Close once all that was written is on its way."""
        self._owner.note_busy(self)
        self._enter(_Phase.CLOSING, None)
        self._await_progress()
        self._transport.close()

    # Deadlines

    def _enter(self, phase: _Phase, within_s: float | None) -> None:
        self._phase = phase
        self._set_deadline(within_s)

    def _set_deadline(self, within_s: float | None) -> None:
        """Replace the deadline. The timer is moved only if it would ring too late: mostly it
        rings too early, and then sets itself anew."""
        if within_s is None:
            self._deadline_s = None
            return
        self._deadline_s = self._loop.time() + within_s
        if self._timer is not None:
            if self._timer.when() <= self._deadline_s:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline_s, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._deadline_s is None:
            return
        if self._deadline_s > self._loop.time():
            self._timer = self._loop.call_at(self._deadline_s, self._ring)
            return
        self._deadline_s = None
        self._miss_deadline()

    def _await_progress(self) -> None:
        self._unwritten_bytes = self._transport.get_write_buffer_size()
        self._set_deadline(self.limits.write_idle_s)

    def _miss_deadline(self) -> None:
        match self._phase:
            case _Phase.HEAD:
                self._refuse(Refusal(408, "the request came too slowly"))
            case _Phase.ANSWERING if self._read_waiter is not None:
                slow = Refusal(408, "the body came too slowly")
                if not self._read_waiter.done():
                    self._read_waiter.set_exception(slow)
            case _Phase.ANSWERING if self._write_waiter is None:
                # Half-closed, and no answer in time.
                self.abort()
            case _Phase.ANSWERING | _Phase.CLOSING:
                if self._transport.get_write_buffer_size() >= self._unwritten_bytes:
                    self.abort()
                else:
                    self._await_progress()
            case _:
                self._close()


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
