"""Which peers got which bytes here lately, so that a crowd serves itself. Pure.

A holder that is asked for the same blocks by one peer after the other sends them to the first, and
points the others to those that have them by then or are just getting them, two to each: so that a
tree of readers grows for each range of blocks. Of those that could give, the one that came first is
taken, unless it has given more of this blob than the others: then it is another's turn, and this
peer's own sending counts like that of any other.

Nobody is pointed to twice: who comes back is sent the bytes. What a peer says of its port is
believed, its host is that of its connection; what it says of the bytes is proved by who reads them.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from p2pweb.address import Address
from p2pweb.blobs import BlobId

# A reader's caches keep what it read at least so long, mostly. One that has it no more says so at
# once, which costs whoever asked it a round trip.
LATELY_S = 30.0
# So few are no crowd: a second way would cost them more than it spares this peer.
READERS_MIN = 3
# Of one range from one reader. With more of them the tree is flatter, and one slow peer has more
# who wait for it.
PLACES = 2
# Nobody gives more of a blob than so many times what all give in the mean ...
SHARES_MAX = 1.5
# ... and some blocks: at the start the mean says nothing.
SLACK_BLOCKS = 4
# Hot blobs remembered; the ranges of each, which are 64 MiB between the first of a crowd and the
# last; the readers of a blob, and of a range those with free places. All of it together is 10 MB.
BLOBS_MAX = 16
RANGES_MAX = 64
READERS_MAX = 1_024
GIVERS_MAX = 64
# To find somebody who got these bytes takes a round trip, in which so many bytes come anyway.
POINTED_BYTES_MIN = 64 * 1024


@dataclass(slots=True)
class _Giver:
    """Who can give a range, this peer being None: to so many more, and until then."""

    address: Address | None
    until: float
    places: int = PLACES


@dataclass(slots=True)
class _Hot:
    """A blob that was asked for lately. `given` counts the blocks that each has given, this peer's
    under None, as far as this peer had a hand in it."""

    until: float = 0.0
    given: dict[Address | None, int] = field(default_factory=lambda: {None: 0})
    ranges: OrderedDict[range, list[_Giver]] = field(default_factory=OrderedDict)


class Crowd:
    """The readers of one peer's bytes; `now` is any clock that does not go back, in seconds."""

    def __init__(self) -> None:
        self._hot: OrderedDict[BlobId, _Hot] = OrderedDict()

    def place(self, blob: BlobId, blocks: range, reader: Address, now: float) -> Address | None:
        """Where a reader who serves others is to ask for blocks; None: send them.

        It counts as having them from now on, and whoever is named as having given them.
        """
        hot = self._hot_now(blob, now)
        if len(hot.given) <= READERS_MAX:
            hot.given.setdefault(reader, 0)
        # Who asks again has them no more.
        known = hot.ranges.pop(blocks, [])
        able = [one for one in known if one.until > now and one.places and one.address != reader]
        givers = hot.ranges[blocks] = able or [_Giver(None, now + LATELY_S)]
        while len(hot.ranges) > RANGES_MAX:
            hot.ranges.popitem(last=False)
        giver = _whose_turn(hot, givers)
        if giver is not None:
            giver.places -= 1
        address = giver.address if giver else None
        hot.given[address] += len(blocks)
        if reader in hot.given and len(givers) < GIVERS_MAX:
            givers.append(_Giver(reader, now + LATELY_S))
        return address

    def sent(self, blob: BlobId, blocks: range, now: float) -> None:
        """These were sent to somebody who is not to be pointed elsewhere."""
        hot = self._hot.get(blob)
        if hot is not None and hot.until > now:
            hot.given[None] += len(blocks)

    def _hot_now(self, blob: BlobId, now: float) -> _Hot:
        hot = self._hot.pop(blob, None)
        if hot is None or hot.until <= now:
            hot = _Hot()
        hot.until = now + LATELY_S
        self._hot[blob] = hot
        while len(self._hot) > BLOBS_MAX:
            self._hot.popitem(last=False)
        return hot


def _whose_turn(hot: _Hot, givers: list[_Giver]) -> _Giver | None:
    """Who gives next; None: this peer, though it has no place left, or there is no crowd."""
    if len(hot.given) - 1 < READERS_MIN:
        return next((one for one in givers if one.address is None), None)
    most = SHARES_MAX * sum(hot.given.values()) / len(hot.given) + SLACK_BLOCKS
    fair = (one for one in givers if hot.given[one.address] <= most)
    return next(fair, None) or min(givers, key=lambda one: hot.given[one.address])
