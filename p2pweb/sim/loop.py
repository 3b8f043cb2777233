"""An asyncio event loop whose clock jumps to whatever is due next.

Nothing here waits: when no callback is ready the clock moves to the earliest timer. Sockets are the
simulated network's; what would run in a thread runs at once. So thousands of real peers share one
thread, an hour passes in as long as its events take, and the same calls give the same order of
events every time.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import socket
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from p2pweb.sim.network import Network
    from p2pweb.sim.streams import StreamSocket

# Timers closer than this fire together: adding up seconds as floats is no more exact.
CLOCK_GRAIN_S = 1e-9

T = TypeVar("T")


class StuckError(RuntimeError):
    """Nothing is ready and no timer is set, so whatever is awaited will never come."""


class _NumberedTask(asyncio.Task[T]):
    """A task that sets keep in the order of a number, not of a place in memory.

    `asyncio.TaskGroup` has its tasks in a set, and cancels them in its order.
    """

    def __init__(self, number: int, coroutine: Coroutine[Any, Any, T], **options: Any) -> None:
        self._number = number
        super().__init__(coroutine, **options)

    def __hash__(self) -> int:
        return self._number


class SimLoop(asyncio.BaseEventLoop):
    """A virtual clock that starts at 0. `network` has to be set before anything is sent."""

    network: Network

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        # What is due, earliest first, equals in the order in which they were set: tuples, because
        # most of a run is spent in comparing and calling these.
        self._agenda: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._serial = 0
        # What happened that nobody awaited; a run with any of these has failed.
        self.faults: list[str] = []
        self.set_exception_handler(_note_fault)
        self._tasks_made = 0
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        return self._now

    def at(self, when: float, callback: Callable[..., object], *args: object) -> None:
        """Call back then; there is no way to cancel it."""
        self._serial += 1
        heapq.heappush(self._agenda, (when, self._serial, callback, args))

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: object,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self.at(when, _ring, timer)
        return timer

    def call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *args: object,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def _run_once(self) -> None:
        """What is ready; when nothing is, what is due next, at its time."""
        ready = self._ready  # type: ignore[attr-defined]
        if ready:
            for _ in range(len(ready)):
                handle = ready.popleft()
                if not handle.cancelled():
                    handle._run()
            return
        agenda = self._agenda
        if not agenda:
            if self._stopping:  # type: ignore[attr-defined]
                return
            raise StuckError("nobody will ever wake what is being waited for")
        self._now = max(self._now, agenda[0][0])
        until = self._now + CLOCK_GRAIN_S
        while agenda and agenda[0][0] <= until:
            _, _, callback, args = heapq.heappop(agenda)
            try:
                callback(*args)
            except Exception as error:  # noqa: BLE001 - as any loop does with a callback's
                self.call_exception_handler({"message": f"in {callback}", "exception": error})

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It goes when it would have rung."""

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
    ) -> asyncio.Task[Any]:
        self._tasks_made += 1
        return _NumberedTask(self._tasks_made, coroutine, loop=loop, **options)

    def _process_events(self, event_list: list[object]) -> None:
        """There are none: what arrives is a timer that the network has set."""

    def _write_to_self(self) -> None:
        """Nobody has to be woken: there is no other thread."""

    # --- what a peer asks its loop for ---

    async def create_datagram_endpoint(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.DatagramProtocol],
        local_addr: tuple[str, int] | None = None,
        remote_addr: tuple[str, int] | None = None,
        **options: object,
    ) -> tuple[asyncio.DatagramTransport, asyncio.DatagramProtocol]:
        if local_addr is None or remote_addr is not None:
            raise NotImplementedError("a simulated peer binds an explicit address")
        protocol = protocol_factory()
        transport = self.network.bind(local_addr, protocol)
        protocol.connection_made(transport)
        return transport, protocol

    async def create_server(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str,
        port: int,
        **options: object,
    ) -> asyncio.AbstractServer:
        return self.network.streams.listen((host, port), protocol_factory)

    async def create_connection(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        *,
        sock: StreamSocket,
        **options: object,
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        protocol = protocol_factory()
        return sock.open(protocol), protocol

    async def sock_connect(self, sock: Any, address: Any) -> None:
        await sock.connect(address)

    async def getaddrinfo(  # type: ignore[override]
        self, host: str, port: int, **options: object
    ) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        """Names are the addresses themselves."""
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (host, port))]

    def run_in_executor(
        self, executor: Executor | None, func: Callable[..., T], *args: object
    ) -> asyncio.Future[T]:
        """Done when this returns: disks and hashing take no virtual time."""
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - whoever awaits it gets it
            future.set_exception(error)
        return future


def _ring(timer: asyncio.TimerHandle) -> None:
    if not timer.cancelled():
        timer._run()


def _note_fault(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    assert isinstance(loop, SimLoop)  # noqa: S101 - it is the loop's own handler
    loop.faults.append(f"{context['message']}: {context.get('exception')!r}")
