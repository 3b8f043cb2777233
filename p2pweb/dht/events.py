"""What the core tells the world: actions to perform and events worth knowing.

The core decides, the shell performs: a method of the core returns these in the order in which they
are to happen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from p2pweb.dht.contact import Address, Contact
from p2pweb.dht.wire import Plain, StoreAnswer


class Why(Enum):
    """Why a contact left the routing table."""

    SILENT = "silent"  # it missed every question of a series, pauses included
    REPLACED = "replaced"  # its address answers under another id now


@dataclass(frozen=True, slots=True)
class ContactUp:
    """A contact entered the routing table: it answered from its address, with its id."""

    contact: Contact


@dataclass(frozen=True, slots=True)
class ContactDown:
    """A contact left the routing table."""

    contact: Contact
    why: Why


@dataclass(frozen=True, slots=True)
class ContactReturned:
    """A contact that had been struck out is back in the routing table after `away_s` seconds."""

    contact: Contact
    away_s: float


@dataclass(frozen=True, slots=True)
class ContactMoved:
    """A contact answers from a new address, and its old one is silent."""

    contact: Contact
    before: Address


Event = ContactUp | ContactDown | ContactReturned | ContactMoved


@dataclass(frozen=True, slots=True)
class Found:
    """One contact's answer to FIND_VALUE. The value is unverified: the layer above judges it.

    `contact.id` is what others said of that address unless the contact is in the routing table.
    """

    contact: Contact
    value: bytes
    extra: Mapping[str, Plain]


@dataclass(frozen=True, slots=True)
class Send:
    """Send one datagram."""

    data: bytes
    address: Address


@dataclass(frozen=True, slots=True)
class Ponged:
    """What a ping came to: the id that answered and the round trip, or None for silence."""

    token: int
    id: bytes | None
    rtt_s: float | None


@dataclass(frozen=True, slots=True)
class StoreDone:
    """What a STORE came to; None for silence or garbage."""

    token: int
    answer: StoreAnswer | None


@dataclass(frozen=True, slots=True)
class Yielded:
    """A value turned up in a lookup that goes on."""

    token: int
    found: Found


@dataclass(frozen=True, slots=True)
class LookupDone:
    """A lookup ended: the closest contacts that answered, nearest first."""

    token: int
    closest: tuple[Contact, ...]


Action = Send | Ponged | StoreDone | Yielded | LookupDone | Event
