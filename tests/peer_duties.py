"""What a peer's service asks of the layers above it, for tests of the service alone."""

from __future__ import annotations

from collections.abc import Callable

from p2pweb.exchange.facts import Facts, Reached
from p2pweb.exchange.service import Duties, Placed
from p2pweb.exchange.wire import PeerInfo, PeerStatus
from p2pweb.keys import SiteId


async def _places_nothing(*_: object) -> list[Placed]:
    return []


async def _knows_no_version(*_: object) -> None:
    return None


async def _no_status() -> PeerStatus:
    raise NotImplementedError


async def _no_facts() -> Facts:
    raise NotImplementedError


async def _reaches_nobody(*_: object) -> Reached:
    return Reached(udp=False, tcp=False)


def duties(takes: Callable[[SiteId], bool]) -> Duties:
    """A peer that keeps what `takes` says, places nothing and knows nobody."""
    return Duties(
        info=lambda: PeerInfo(p2pweb=1, id="", home=None, version=""),
        status=_no_status,
        facts=_no_facts,
        contacts=list,
        takes=takes,
        live_site=_knows_no_version,
        held=_knows_no_version,
        reach=_reaches_nobody,
        kept=lambda _: None,
        place=_places_nothing,
    )
