"""Reads everything on this peer's disk again, slowly, and proves it.

A disk forgets without a word. What nobody reads would be found damaged when it is the last copy;
so each segment and each record is looked at once in a settable time. What is damaged is removed,
and the peer fetches it from others, as it does whatever it lacks.
"""

import asyncio
import logging
import random
from collections.abc import Callable

from p2pweb.errors import CorruptError
from p2pweb.exchange.reader import Runner
from p2pweb.store.store import Store

log = logging.getLogger("p2pweb.scrub")

DAYS_DEFAULT = 14.0
DAY_S = 86_400.0
# The reads of one step: so much, and then a pause in proportion.
STEP_BYTES = 4 * 1024 * 1024
STEP_ROWS = 256
# A store of few steps is read more often: no pause is longer than this part of the time.
STEPS_MIN = 100
# After a disk that cannot be read at all.
AGAIN_S = 60.0


class Scrub:
    """The scrubbing of one peer; `start` once, `close` when done."""

    def __init__(
        self,
        store: Store,
        run: Runner,
        rng: random.Random,
        period_s: float,
        damaged: Callable[[], None],
    ) -> None:
        """`period_s` is the time for everything; `damaged` is told when something was removed."""
        self._store = store
        self._run = run
        self._rng = rng
        self._period_s = period_s
        self._damaged = damaged
        self._task: asyncio.Task[None] | None = None

    def start(self) -> asyncio.Task[None]:
        """Begin somewhere: a peer that is started every day comes round all the same."""
        self._task = asyncio.ensure_future(self._go_round())
        return self._task

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _go_round(self) -> None:
        last = await self._run(self._store.last_row)
        after = self._rng.randint(0, last)
        while True:
            try:
                after, pause_s = await self.step(after)
            except (CorruptError, OSError) as error:
                log.warning("this peer's disk cannot be looked through: %s", error)
                pause_s = AGAIN_S
            await asyncio.sleep(pause_s)

    async def step(self, after: int) -> tuple[int, float]:
        """Prove what comes after a row: the row to go on after, and after how many seconds."""
        look = await self._run(lambda: self._store.look_through(after, STEP_ROWS, STEP_BYTES))
        if look.damaged:
            log.warning(
                "%d of %d things on this disk were damaged; they are fetched from other peers",
                look.damaged,
                look.rows,
            )
            self._damaged()
        at_most = 1 / STEPS_MIN
        return look.after, self._period_s * (min(look.share, at_most) if look.rows else at_most)
