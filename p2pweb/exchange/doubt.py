"""Who lately failed to send what it says it has, and so is asked last. Pure.

Whoever is silent, sends what is not proved, drips or breaks off is remembered by address, whatever
it was asked for: another key does not make it honest. It is asked all the same where nobody else
can be, and is off the list once it sends something that is proved.

Who says that it has not got something is none of them. An honest peer says so to each reader who is
a version behind, so that after a publish the honest would come after the liars; and of all lies
this one costs the least: one round trip, and nobody else waits.
"""

from __future__ import annotations

from collections import OrderedDict

from p2pweb.address import Address

# Longer than a restart, or than one large file keeps a line busy. A liar that is forgotten costs a
# hedge again, an honest peer that was slow is spared meanwhile, and asked where others have failed.
DOUBTED_S = 600.0
# More than the peers that one peer reads from in that time, mostly; 350 KB. Then whoever failed
# longest ago is forgotten, and is soon found out again.
DOUBTED_MAX = 1_024


class Doubt:
    """The doubtful peers of one peer; `now` is any clock that does not go back, in seconds."""

    def __init__(self) -> None:
        # When each is forgotten, the first first.
        self._until: OrderedDict[Address, float] = OrderedDict()

    def failed(self, address: Address, now: float) -> None:
        """It was asked, and sent nothing of worth."""
        self._until[address] = now + DOUBTED_S
        self._until.move_to_end(address)
        if len(self._until) > DOUBTED_MAX:
            self._until.popitem(last=False)

    def proved(self, address: Address) -> None:
        """It sent something that is proved."""
        self._until.pop(address, None)

    def has(self, address: Address, now: float) -> bool:
        """Whether it is to be asked last."""
        return self._until.get(address, now) > now
