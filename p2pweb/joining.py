"""How a peer enters its network, and learns which site is its home.

It asks the peers that it was told to join, and those that it remembers of an earlier run: by UDP to
be known, by HTTP which site they have. While it is alone, or has no home site, it asks again.
"""

import asyncio
import contextlib
import logging
import math
import socket
from collections.abc import Callable, Sequence

from p2pweb.address import Address, format_address
from p2pweb.dht.contact import Contact, canonical_host
from p2pweb.dht.overlay import Overlay
from p2pweb.errors import RemoteError
from p2pweb.exchange.client import PeerClient
from p2pweb.holdings import Holdings
from p2pweb.sites import Sites

log = logging.getLogger("p2pweb.node")

# A peer that is alone, or has no home site yet, asks the peers that it was told to join so often.
ASK_AGAIN_S = 5.0
# Sooner when somebody tells of a site, and after so long: those asked have heard of it by then.
# Strangers can make a peer without a home ask so often.
ASK_PAUSE_S = 0.5
# And with them so many of those remembered, in turn.
REMEMBERED_ASKED = 20


class Joining:
    """The joining of one peer; `close` ends what is under way."""

    def __init__(
        self,
        named: Sequence[Address],
        remembered: Callable[[], Sequence[Contact]],
        overlay: Overlay,
        client: PeerClient,
        holdings: Holdings,
        sites: Sites,
        *,
        is_new: bool,
    ) -> None:
        """`named` are the peers that it was told to join, `remembered` gives the contacts of an
        earlier run, and later those of this one; `is_new` says that there was none before."""
        self._named = named
        self._remembered = remembered
        self._overlay = overlay
        self._client = client
        self._holdings = holdings
        self._sites = sites
        self._is_new = is_new
        self._next_remembered = 0
        # Somebody has a site, and this peer no home yet.
        self._ask_now = asyncio.Event()
        self._asking: asyncio.Task[None] | None = None
        self.has_asked_home = not (named or remembered())
        """Whether somebody said which site is the home, or that there is none; or nobody is to be
        asked, this peer being the first of its network."""

    def start(self, *, joined: bool) -> asyncio.Task[None]:
        """Go on asking; the task that does so. `joined` says that `join` was called before."""
        self._asking = asyncio.ensure_future(self._keep_asking(joined=joined))
        return self._asking

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    @property
    def is_whole_network(self) -> bool:
        """Whether this peer was told to join nobody, and has never known anybody."""
        return not (self._named or self._remembered() or self._overlay.contacts())

    def ask_soon(self) -> None:
        """Somebody tells of a site."""
        self._ask_now.set()

    async def join(
        self, *, again: bool = False, entered: Callable[[], object] = lambda: None
    ) -> None:
        """Enter the network by the peers named; `again` as of `Overlay.join`.

        `entered` is called once that is done, while the home site may still be asked for.
        RemoteError where none of these answers a new peer.
        """

        async def enter() -> bool:
            answered = await self._ask_around(again=again)
            entered()
            return answered

        answered, _ = await asyncio.gather(enter(), self.ask_home())
        if self._named and not answered:
            why = await self._why_not_joined()
            # A new peer was most likely given a wrong address; one that knows its site serves it.
            if self._is_new:
                raise RemoteError(why)
            if self._is_alone():
                log.warning("%s; going on alone, and asking again", why)
            else:
                log.info("%s; going on with the peers known before", why)

    async def ask_home(self) -> None:
        """Learn the home site, and its version, from the peers to join; where none answers, from
        those remembered."""
        if self._holdings.home is None and not await self._ask_home_of(self._named):
            await self._ask_home_of([one.address for one in self._remembered()[:REMEMBERED_ASKED]])
            # The first of its network, whose others are gone, has nobody else to ask.
            self.has_asked_home |= not self._named

    async def _keep_asking(self, *, joined: bool) -> None:
        if not joined:
            # `repair` looks around among those remembered; they may all be gone.
            await self.join(again=True)
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ASK_AGAIN_S):
                    await self._ask_now.wait()
                    await asyncio.sleep(ASK_PAUSE_S)
            self._ask_now.clear()
            if self._is_alone():
                await self._ask_around()
            await self.ask_home()

    def _is_alone(self) -> bool:
        return self._overlay.last_heard() == -math.inf

    async def _ask_around(self, *, again: bool = False) -> bool:
        """Ping the peers to join, and in turn those remembered; whether any answered."""
        named = [address for name in self._named for address in await _resolve(name)]
        # Those in the overlay's table are asked by it.
        here = {contact.address for contact in self._overlay.contacts()}
        known = [one.address for one in self._remembered() if one.address not in here]
        first = self._next_remembered % max(1, len(known))
        self._next_remembered = first + REMEMBERED_ASKED
        turn = [*known[first:], *known[:first]][:REMEMBERED_ASKED]
        return await self._overlay.join(list(dict.fromkeys([*named, *turn])), again=again)

    async def _ask_home_of(self, peers: Sequence[Address]) -> bool:
        """Take the home site of the first of these that knows one; whether any answered."""
        answered = False
        for address in peers:
            try:
                home = (await self._client.peer_info(address)).home_site
                answered = self.has_asked_home = True
                if home is None:
                    continue
                if self._holdings.home is None:  # A publisher may have come first.
                    self._holdings.adopt(home)
                    signed = await self._client.live_site(address, home, fresh=False)
                    if signed is not None:
                        self._sites.hear(signed, address)
                break
            except RemoteError as error:
                log.debug("no home site to learn: %s", error)
        return answered

    async def _why_not_joined(self) -> str:
        """One sentence on the first of the peers to join, none of which answers by UDP."""
        name = self._named[0]
        where = format_address(name)
        try:
            await self._client.peer_info(name)
        except RemoteError as error:
            return f"cannot join by {where}, which is no peer that answers: {error}"
        return (
            f"cannot join by {where}: it answers by TCP and not by UDP, which a firewall may stop"
        )


async def _resolve(address: Address) -> list[Address]:
    """The IP addresses of a host name; none where it is not known."""
    host, port = address
    loop = asyncio.get_running_loop()
    try:
        infos = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        # The resolver says the latter to an empty label, or to one of more than 63 characters.
        log.warning("cannot find the host %s: %s", host, error)
        return []
    hosts = [canonical_host(str(info[4][0])) for info in infos]
    return [(name, port) for name in dict.fromkeys(hosts) if name is not None]
