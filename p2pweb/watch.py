"""Watches the peers nearest to this one, so that it notices soon when they leave.

What they keep is what this peer keeps, or is next in line for. The overlay looks at one contact of
all every half a minute; this looks at one of the nearest every few seconds, and where one is
silent at five more: whatever took the one may have taken others. With fewer than one in five gone
that comes to an end by itself; with more it goes on until all have been looked at, and those who
are next in line for the places of the silent. Where peers come and go all the time that would be so
every time, and most of what a peer sends: so these looks are saved up for, a few every minute.
"""

import asyncio
import logging
import math

from p2pweb.dht.contact import Address
from p2pweb.dht.neighbourhood import NEIGHBOURS
from p2pweb.dht.overlay import Overlay, OverlayClosedError

log = logging.getLogger("p2pweb.watch")

# One of them every few seconds is some 20 bytes a second.
EVERY_S = 5.0
MORE = 5
# One of those is saved up in so many seconds, 9 bytes a second; at most as many as it takes where
# half of all have left, until as many as are watched have answered, and half as many more.
MORE_PAUSE_S = 10.0
MORE_MAX = 3 * NEIGHBOURS
# Whoever was heard so lately need not be looked at.
FRESH_S = 15.0


class Watch:
    """The watching of one peer; `start` when it has joined, `close` when done."""

    def __init__(self, overlay: Overlay) -> None:
        self._overlay = overlay
        self._task: asyncio.Task[None] | None = None
        # Since when more looks are saved up; a newcomer begins with the most.
        self._saving_since = -math.inf

    def start(self) -> asyncio.Task[None]:
        """Begin; the task that goes on with it."""
        # Who comes back asks the nearest of those that it remembers by itself.
        if not all(one.proved for one in self._overlay.contacts()):
            self._saving_since = asyncio.get_running_loop().time()
        self._task = asyncio.ensure_future(self._keep_watching())
        return self._task

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _keep_watching(self) -> None:
        try:
            while True:
                await asyncio.sleep(EVERY_S)
                await self._look()
        except OverlayClosedError:
            return

    async def _look(self) -> None:
        """Look at one neighbour; the overlay notes who is silent, and asks again."""
        looked: set[Address] = set()
        stale, silent = self._stalest(1, NEIGHBOURS, looked), 0
        while stale:
            looked.update(stale)
            round_trips = await asyncio.gather(
                *(self._overlay.ping(address, tries=1) for address in stale)
            )
            lost = round_trips.count(None)
            silent += lost
            stale = self._stalest(min(MORE * lost, self._saved()), NEIGHBOURS + silent, looked)
            self._saving_since += len(stale) * MORE_PAUSE_S

    def _saved(self) -> int:
        """How many more looks there may be."""
        now = asyncio.get_running_loop().time()
        self._saving_since = max(self._saving_since, now - MORE_MAX * MORE_PAUSE_S)
        return int((now - self._saving_since) / MORE_PAUSE_S)

    def _stalest(self, count: int, of: int, looked: set[Address]) -> list[Address]:
        """Of so many neighbours those not heard for longest, but for those who are being asked
        already."""
        before = asyncio.get_running_loop().time() - FRESH_S
        # Those with a strike are asked again by the overlay, and others take their places here.
        nearest = self._overlay.neighbours(of)
        stale = [one for one in nearest if one.last_answer < before and one.address not in looked]
        return [one.address for one in sorted(stale, key=lambda one: one.last_answer)[:count]]
