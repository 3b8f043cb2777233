"""One visitor's connection: a transport, a parser, and every wait between them.

Owns the order of things: requests one at a time, each answered by an `Exchange`, and what happens
after the answer. What it does is a matter of its phase (`_Phase`); whatever it waits for has a time
limit (`deadline`). It closes what is too slow, lingers where a reset would destroy the last answer,
and aborts rather than end an incomplete body cleanly. Nothing is buffered without bound: what may
be read ahead is what the receive buffer is offered for, and what goes out is the `outlet`'s.

The way of a request: bytes → an answer that is ready (`ready`), or the parser → the handler, at
once or in a task. Time comes from the loop alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import Protocol, cast

from p2pweb.http import answers
from p2pweb.http.deadline import Deadline
from p2pweb.http.exchange import Exchange
from p2pweb.http.messages import HTTP_1_1, Refusal, Request, Response
from p2pweb.http.outlet import Outlet
from p2pweb.http.parser import RequestParser
from p2pweb.http.ready import HEAD_BYTES_MAX, Ready, ReadyAnswers
from p2pweb.http.response_head import Framing, encode_head
from p2pweb.http.service import AccessEntry, Handler, ServerLimits

_log = logging.getLogger("p2pweb.http")

# What is read where nothing more should be: the loop takes no empty buffer.
_READ_BYTES_MIN = 1024
# Pipelined requests that are answered in one turn of the loop; then the others have theirs.
_ANSWERS_A_TURN = 16


class Owner(Protocol):
    """What a connection asks of its server."""

    handler: Handler
    limits: ServerLimits
    log: Callable[[AccessEntry], None] | None
    closing: bool
    ready: ReadyAnswers
    # Where every connection receives: bytes are taken out of it before the next one reads.
    incoming: memoryview

    def admit(self, connection: Connection) -> bool:
        """Count a new connection in; False if there is no room for it."""

    def forget(self, connection: Connection) -> None:
        """The connection is lost and its task has ended."""

    def is_under_pressure(self) -> bool:
        """Whether waiting visitors should make room sooner."""

    def date(self) -> str:
        """The Date field's value now."""

    def now_unix(self) -> float:
        """The wall clock."""


class _Phase(Enum):
    IDLE = auto()  # between requests: closed silently in the end
    HEAD = auto()  # a request has begun: 408 in the end
    ANSWERING = auto()  # an exchange runs
    DRAINING = auto()  # answered; the rest of the body is read and dropped
    LINGERING = auto()  # our half is closed; what still comes is dropped
    CLOSING = auto()  # the last bytes are on their way
    LOST = auto()


class Connection(asyncio.BufferedProtocol):
    """The protocol object of one accepted connection; the `Channel` of its exchanges."""

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop) -> None:
        self.limits = owner.limits
        self.parser = RequestParser(owner.limits.parser)
        self.address = ""
        self._owner = owner
        self._loop = loop
        self._ready = owner.ready
        self._phase = _Phase.IDLE
        self._exchange: Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._requests = 0
        self._answers_left = 0
        self._reading_paused = False
        self._half_closed = False
        self._dropped_bytes = 0
        self._read_waiter: asyncio.Future[None] | None = None
        self._deadline = Deadline(loop, self._give_up)

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Stream servers have no other kind; uvloop's does not derive from asyncio's.
        transport = cast(asyncio.Transport, transport)
        self._transport = transport
        self.outlet = Outlet(self._loop, transport, self.limits, self._deadline)
        # None where the visitor has left before we looked.
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) and peer else ""
        if self._owner.closing or not self._owner.admit(self):
            # Not counted in, so it may not stay: it is told, and closed without lingering.
            detail = "This peer has as many visitors as it can serve."
            page = answers.error(503, "Too many visitors", detail, retry_after_s=5)
            self._write_page(page, with_body=True)
            self._close()
            return
        self._deadline.start(self.limits.first_byte_s)

    def get_buffer(self, sizehint: int) -> memoryview:
        room_bytes = self._read_ahead_bytes_max() - self.parser.buffered_bytes
        # A body's reader that asks no more may leave what it was given room for; reading is paused
        # after these few.
        return self._owner.incoming[: room_bytes if room_bytes > 0 else _READ_BYTES_MIN]

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(self._owner.incoming[:nbytes])
        if self._phase is _Phase.IDLE and nbytes <= HEAD_BYTES_MAX:
            # Nothing of a request is here yet, so these bytes begin one; mostly they are all of it.
            ready = self._ready.get(data)
            if ready is not None and self._repeat(data, ready):
                return
        self._receive(data)

    def _receive(self, data: bytes) -> None:
        match self._phase:
            case _Phase.IDLE | _Phase.HEAD | _Phase.DRAINING:
                self.parser.receive(data)
                self._advance()
            case _Phase.ANSWERING:
                self.parser.receive(data)
                _wake(self._read_waiter)
                if self.parser.buffered_bytes >= self._read_ahead_bytes_max():
                    self._reading_paused = True
                    self._transport.pause_reading()
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
            self._deadline.start(self.limits.half_closed_s)
        # Our half stays open: a client that has said all it has to say may still listen.
        return True

    def pause_writing(self) -> None:
        self.outlet.pause()

    def resume_writing(self) -> None:
        self.outlet.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self._phase = _Phase.LOST
        self.outlet.lose()
        self._deadline.close()
        if self._task is None:
            self._owner.forget(self)
        else:
            # Its end is what makes the owner forget this connection.
            self._task.cancel()

    # What the server calls

    @property
    def waiting_since_s(self) -> float | None:
        """Since when it waits for its visitor, in the loop's time; None if it does not."""
        return self._deadline.since_s if self._deadline.is_running else None

    @property
    def is_answered(self) -> bool:
        """Whether nothing of an answer would be lost with it."""
        return self._phase in (_Phase.IDLE, _Phase.HEAD, _Phase.DRAINING, _Phase.LINGERING)

    def close_if_waiting(self) -> None:
        """Close at once, unless an answer is in flight."""
        if self._phase in (_Phase.IDLE, _Phase.HEAD):
            self._close()

    def evict(self) -> None:
        """Make room at once: a visitor who has not taken the last answer loses it.

        Who has begun a request and had no answer to it is told that it came too slowly.
        """
        sending = self.outlet.unsent_bytes > 0
        exchange = self._exchange
        uploads = self._read_waiter is not None and exchange is not None and not exchange.head_sent
        if not sending and (uploads or self._phase is _Phase.HEAD):
            late = answers.refused(Refusal(408, "others wait for this one's place"))
            self._write_page(late, with_body=not self.parser.is_head_request)
            self._close()
        elif sending or self._phase is _Phase.ANSWERING:
            self._enter(_Phase.CLOSING)
            self.outlet.reset()
        else:
            self._close()

    def abort(self) -> None:
        """End the connection without flushing it, and so the handler."""
        self._transport.abort()

    # Requests

    def _repeat(self, head: bytes, ready: Ready) -> bool:
        """Answer with what answered the same head before; False if that may not be."""
        now_s = self._loop.time()
        if (
            ready.lease.until_s <= now_s
            or self.outlet.is_full
            or self.parser.empty_lines
            or self._requests + 1 >= self.limits.requests_max
        ):
            return False
        if ready.is_long:
            self.parser.repeat(head)
            self._answers_left = _ANSWERS_A_TURN
            if self._answer(ready.request, ready.response):
                self._advance()
            return True
        self._requests += 1
        self._deadline.since_s = now_s
        self.outlet.send(ready.wire(self._owner.date()))
        if self._owner.log is not None:
            self._owner.log(self._entry(ready.request, ready.response.status, ready.sent_bytes))
        if ready.closes:
            self._close()
        return True

    def _advance(self) -> None:
        """Go on with what has arrived, until something must be waited for."""
        self._answers_left = _ANSWERS_A_TURN
        while self._drain() if self._phase is _Phase.DRAINING else self._read_head():
            pass

    def _read_head(self) -> bool:
        """Take up the next request if its head is here; True if it was answered at once."""
        if self._phase not in (_Phase.IDLE, _Phase.HEAD):
            return False
        try:
            event = self.parser.next_event()
        except Refusal as refusal:
            self._refuse(refusal)
            return False
        if isinstance(event, Request):
            return self._answer(event)
        if self._phase is _Phase.IDLE and self.parser.begun:
            self._enter(_Phase.HEAD, self.limits.head_s)
        if self._half_closed:
            self._close()
        return False

    def _answer(self, request: Request, known: Response | None = None) -> bool:
        """Begin to answer, with what is known or by asking; True if that is done already."""
        self._enter(_Phase.ANSWERING, self.limits.half_closed_s if self._half_closed else None)
        self._requests += 1
        exchange = self._exchange = Exchange(self, request)
        rest = exchange.answer(known) if known else exchange.begin(self._owner.handler)
        if rest is None and exchange.complete:
            self._answers_left -= 1
            if self._answers_left > 0 and not self._is_behind(exchange):
                self._conclude(exchange)
                return True
            # At once, and not when the task runs: many may be behind in the same turn of the loop.
            self._remember(exchange)
        self._task = self._loop.create_task(self._finish(exchange, rest))
        self._task.add_done_callback(self._finished)
        return False

    async def _finish(self, exchange: Exchange, rest: Awaitable[None] | None) -> None:
        """What cannot be done at once: the rest of an exchange, or waiting for its reader."""
        try:
            if rest is not None:
                await rest
            if exchange.complete and self._is_behind(exchange):
                self._remember(exchange)
                await self.outlet.flushed()
        except BaseException:
            self._report(exchange)
            raise
        self._conclude(exchange)
        if self._phase is _Phase.DRAINING:
            self._advance()

    def _is_behind(self, exchange: Exchange) -> bool:
        """Whether the visitor has to take more before the next request is looked at."""
        # The end of an answer holds the whole of it in memory: none comes on top of a long one.
        is_long = exchange.sent_bytes > self.limits.write_buffer_bytes_max
        return self.outlet.is_full or (is_long and self.outlet.unsent_bytes > 0)

    def _conclude(self, exchange: Exchange) -> None:
        """After an answer: on to the next request, or to the end."""
        self._report(exchange)
        if not exchange.complete or self._transport.is_closing():
            self.abort()
        elif exchange.last or self._owner.closing:
            self._remember(exchange)
            self._leave(exchange.request)
        else:
            self._remember(exchange)
            self._enter(_Phase.DRAINING, self.limits.body_base_s)
            self._dropped_bytes = 0

    def _remember(self, exchange: Exchange) -> None:
        """Keep a complete answer for those who ask the same, and none of it for its reader: what
        is still to be taken lies in the transport."""
        response, exchange.response = exchange.response, None
        if response is not None and not self.is_last():
            self._ready.put(self.parser.head, exchange.request, response)

    def _finished(self, task: asyncio.Task[None]) -> None:
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

    def _drain(self) -> bool:
        """Drop what is left of the answered request's body; True once the next may be read."""
        while not self.parser.ended:
            held_bytes = self.parser.buffered_bytes
            try:
                event = self.parser.next_event()
            except Refusal:
                # The answer is out already; there is nothing more to say.
                self._linger()
                return False
            # What chunks are wrapped in counts like their data: tiny ones are nearly all wrapping.
            self._dropped_bytes += held_bytes - self.parser.buffered_bytes
            if self._dropped_bytes > self.limits.drain_bytes_max:
                self._linger()
                return False
            if event is None:
                self.resume_reading()
                if self._half_closed:
                    self._close()
                return False
        self.resume_reading()
        self.parser.next_request()
        if self._owner.closing:
            self._linger()
            return False
        self._enter(_Phase.IDLE, self._keep_alive_s())
        return True

    def _report(self, exchange: Exchange) -> None:
        if self._owner.log is not None:
            entry = self._entry(
                exchange.request,
                exchange.status,
                exchange.sent_bytes,
                duration_s=exchange.duration_s,
                complete=exchange.complete,
            )
            self._owner.log(entry)

    def _entry(
        self,
        request: Request | None,
        status: int,
        sent_bytes: int,
        *,
        duration_s: float = 0.0,
        complete: bool = True,
    ) -> AccessEntry:
        return AccessEntry(
            at_unix=self._owner.now_unix(),
            address=self.address,
            request=request,
            status=status,
            sent_bytes=sent_bytes,
            duration_s=duration_s,
            complete=complete,
        )

    # What exchanges call

    def now_s(self) -> float:
        return self._loop.time()

    def date(self) -> str:
        return self._owner.date()

    def is_last(self) -> bool:
        return self._owner.closing or self._requests >= self.limits.requests_max

    def resume_reading(self) -> None:
        if self._reading_paused and self.parser.buffered_bytes < self._read_ahead_bytes_max():
            self._reading_paused = False
            self._transport.resume_reading()

    def _read_ahead_bytes_max(self) -> int:
        """How much may be held of what has come: more only where it is taken at once."""
        taken = self._read_waiter is not None or self._phase in (_Phase.DRAINING, _Phase.LINGERING)
        return self.limits.buffered_bytes_max if taken else self.limits.read_ahead_bytes_max

    async def readable(self, within_s: float) -> None:
        if self._half_closed:
            raise Refusal(400, "the body broke off")
        self._read_waiter = self._loop.create_future()
        self.resume_reading()
        self._deadline.start(within_s)
        try:
            await self._read_waiter
        finally:
            self._read_waiter = None
            self._deadline.stop()

    # Endings

    def _refuse(self, refusal: Refusal) -> None:
        """Answer a head that is none, or never comes, and leave."""
        page = answers.refused(refusal)
        # RFC 9110 §9.3.2: no content answers HEAD. A head may be refused after it has said that.
        sent_bytes = self._write_page(page, with_body=not self.parser.is_head_request)
        if self._owner.log is not None:
            self._owner.log(self._entry(None, page.status, sent_bytes))
        self._linger()

    def _write_page(self, page: Response, *, with_body: bool) -> int:
        """Write an answer that ends the connection; how many bytes of its body went out."""
        body = page.body if isinstance(page.body, bytes) else b""
        framing = Framing(version=HTTP_1_1, date=self.date(), length=len(body), close=True)
        sent = body if with_body else b""
        self.outlet.send(encode_head(page.status, page.fields, framing) + sent)
        return len(sent)

    def _leave(self, request: Request) -> None:
        """End the connection after its last answer."""
        unread = self.parser.buffered_bytes or self._reading_paused
        if self.parser.body_left_bytes == 0 and not unread and not request.keep_alive:
            self._close()
        else:
            # What the visitor has sent is not all here; or the end is news to it, and the next
            # request may be on its way.
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
        self._enter(_Phase.CLOSING)
        if self.outlet.unsent_bytes:
            self.outlet.expect_progress()
        self._transport.close()

    # Waiting

    def _enter(self, phase: _Phase, within_s: float | None = None) -> None:
        self._phase = phase
        if within_s is None:
            self._deadline.stop()
        else:
            self._deadline.start(within_s)

    def _keep_alive_s(self) -> float:
        limits = self.limits
        pressed = self._owner.is_under_pressure()
        return limits.keep_alive_under_pressure_s if pressed else limits.keep_alive_s

    def _give_up(self) -> None:
        """What was waited for has not come in time."""
        match self._phase:
            case _Phase.IDLE if self._has_idle_time():
                self._deadline.extend(self._keep_alive_s())
            case _Phase.HEAD:
                self._refuse(Refusal(408, "the request came too slowly"))
            case _Phase.ANSWERING if self._read_waiter is not None:
                slow = Refusal(408, "the body came too slowly")
                if not self._read_waiter.done():
                    self._read_waiter.set_exception(slow)
            case _Phase.ANSWERING if not self.outlet.is_waiting:
                # Half-closed, and no answer in time.
                self.abort()
            case _Phase.ANSWERING | _Phase.CLOSING:
                self.outlet.judge(is_under_pressure=self._owner.is_under_pressure())
            case _:
                self._close()

    def _has_idle_time(self) -> bool:
        """Whether repeated answers have put off the end: they set no deadline of their own."""
        idle_s = self._loop.time() - self._deadline.since_s
        return self._requests > 0 and idle_s < self._keep_alive_s()


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
