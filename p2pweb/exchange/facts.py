"""What a peer finds out about itself when it is asked how it fares, and whether others reach it.

Pure. `Facts` go to people on the peer's own machine, as its status does; `Reached` to the very peer
that asks for it. `p2pweb.checkup` gathers both, and `p2pweb doctor` draws its conclusions.
"""

import re
from typing import Annotated

import msgspec

from p2pweb.address import Address
from p2pweb.dht.contact import canonical
from p2pweb.exchange.status import names_option
from p2pweb.exchange.wire import (
    PROTOCOL,
    Count,
    InvalidMessageError,
    PeerStatus,
    Port,
    Seconds,
    Word,
)
from p2pweb.http.messages import Request

# Whoever asks to be reached names this as an option of the Connection field, for the reasons that
# `status.may_see` has: else a proxy in front of the peer, or a page in a browser beside it, would
# make it try the ports of a machine that did not ask.
REACH_OPTION = "p2pweb-reach"
# How long one that asks to be reached is tried: three PINGs, each waited for longer than the one
# before, take three and a half seconds.
REACH_S = 5.0
# Peers asked whether they reach this one.
REACH_ASKED_MAX = 3

# What is shown on terminals holds no control characters.
Text = Annotated[str, msgspec.Meta(pattern=r"\A[^\x00-\x1f\x7f-\x9f]{0,4096}\Z")]


class Reached(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a peer that asked for it answers at its own address, as the peer that it claims to
    be: a PING by UDP, a request by TCP."""

    udp: bool
    tcp: bool


class ReachedBy(Reached, frozen=True, kw_only=True):
    """The same, as the peer at an address, `host:port`, has found out."""

    peer: Word


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """The disk of a peer's data directory. `sync_s` is how long a small write took to be durable;
    `fault` is why it failed, else empty."""

    data: Text
    free_bytes: Count
    sync_s: Seconds
    fault: Text


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """How a peer fares.

    `clock_ahead_s` is by how much its clock is ahead of that of other peers, their median, and
    None where nobody said. `one_machine` is whether all its contacts are on its own machine.
    """

    status: PeerStatus
    port: Port
    reached: Annotated[tuple[ReachedBy, ...], msgspec.Meta(max_length=REACH_ASKED_MAX)]
    clock_ahead_s: float | None
    disk: Disk
    one_machine: bool


_facts_decoder = msgspec.json.Decoder(Facts)
_reached_decoder = msgspec.json.Decoder(Reached)


def decode_facts(data: bytes) -> Facts:
    """InvalidMessageError where these are no facts."""
    try:
        facts = _facts_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidMessageError(str(error)) from None
    if facts.status.p2pweb != PROTOCOL:
        raise InvalidMessageError(f"it speaks protocol {facts.status.p2pweb}, this is {PROTOCOL}")
    return facts


def decode_reached(data: bytes) -> Reached:
    """InvalidMessageError where it is not that."""
    try:
        return _reached_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidMessageError(str(error)) from None


_ASKER = re.compile(r"([0-9a-f]{40})/([1-9][0-9]{0,4})")


def asker_of(request: Request, rest: str, sender: str) -> tuple[str, Address] | None:
    """Who asks to be reached, of `<node id>/<port>`: its id, and the address, which is the sender's
    own and never another; None where nobody is to be reached."""
    match = _ASKER.fullmatch(rest)
    address = canonical(sender, int(match[2])) if match else None
    if match is None or address is None or not names_option(request, REACH_OPTION):
        return None
    return match[1], address
