"""What the core tells the world: actions to perform and events worth knowing.

The core decides, the shell performs: a method of the core returns these in the order in which they
are to happen.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from msgspec import Struct

from p2pweb.dht.contact import Address, Contact
from p2pweb.dht.wire import Plain, StoreAnswer


class Why(Enum):
    """Why a contact left the routing table."""

    SILENT = "silent"  # it missed every question of a series, pauses included
    REPLACED = "replaced"  # its address answers under another id now
    UNSEEN = "not seen since the start"  # known from an earlier run, and silent in this one


class ContactUp(Struct, frozen=True):
    """A contact of the routing table answered from its address, with its id, for the first time."""

    contact: Contact


class ContactDown(Struct, frozen=True):
    """A contact left the routing table. Of one that was UNSEEN there was no ContactUp."""

    contact: Contact
    why: Why


class ContactReturned(Struct, frozen=True):
    """A contact that had been struck out is back in the routing table after `away_s` seconds."""

    contact: Contact
    away_s: float


class ContactMoved(Struct, frozen=True):
    """A contact answers from a new address, and its old one is silent."""

    contact: Contact
    before: Address


Event = ContactUp | ContactDown | ContactReturned | ContactMoved


class Found(Struct, frozen=True):
    """One contact's answer to FIND_VALUE. The value is unverified: the layer above judges it.

    `contact.id` is what others said of that address unless the contact is in the routing table.
    """

    contact: Contact
    value: bytes
    extra: Mapping[str, Plain]


class Send(Struct, frozen=True):
    """Send one datagram."""

    data: bytes
    address: Address


class Ponged(Struct, frozen=True):
    """What a ping came to: the id that answered and the round trip, or None for silence."""

    token: int
    id: bytes | None
    rtt_s: float | None


class StoreDone(Struct, frozen=True):
    """What a STORE came to; None for silence or garbage."""

    token: int
    answer: StoreAnswer | None


class ValueDone(Struct, frozen=True):
    """What a question for a value to one contact came to; None where it names none."""

    token: int
    found: Found | None


class NodesDone(Struct, frozen=True):
    """What a question for contacts to one address came to: how many were named, None where it was
    not answered."""

    token: int
    named: int | None


class Yielded(Struct, frozen=True):
    """A value turned up in a lookup that goes on."""

    token: int
    found: Found


class LookupDone(Struct, frozen=True):
    """A lookup ended: the closest contacts that answered, nearest first.

    `inconclusive` where values were looked for and too few have answered for a miss to be believed.
    """

    token: int
    closest: tuple[Contact, ...]
    inconclusive: bool = False


Action = Send | Ponged | StoreDone | ValueDone | NodesDone | Yielded | LookupDone | Event
