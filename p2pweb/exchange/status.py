"""A peer's status: made of what it knows, and who may see it.

Pure. In: the overlay's contacts and the loop's time; out: the bounded message of `wire`. It goes to
people on the peer's own machine and to nobody else: it says which machines a person's peers are on,
and how well each is reached.
"""

import ipaddress
from collections.abc import Sequence

from p2pweb.address import Address, format_address
from p2pweb.dht.contact import canonical_host
from p2pweb.dht.overlay import ContactState
from p2pweb.exchange.wire import (
    STATUS_CONTACTS_MAX,
    STATUS_OPTION,
    ContactStatus,
    DiskStatus,
    PeerInfo,
    PeerStatus,
    SiteStatus,
)
from p2pweb.http.fields import split_list
from p2pweb.http.messages import Request

_Order = tuple[int, int, int]


def may_see(request: Request, sender: str) -> bool:
    """Whether a request for the status comes from a program on this machine, and from no page.

    A loopback address is not enough. Every site that a peer serves could ask for this path on its
    own origin, in the browser of a visitor who sits at this machine, and so could any page whose
    name is pointed at 127.0.0.1; and a proxy in front of the peer asks for the whole world. Fields
    that give a page away are of no use: over plain HTTP Sec-Fetch-Site is missing on most names, a
    GET on the own origin has no Origin, and a page decides whether there is a Referer. So the asker
    must name an option of the Connection field: no page can set that field (Fetch Standard,
    forbidden request-headers), and no proxy passes it on (RFC 9110 §7.6.1).
    """
    host = canonical_host(sender)
    if host is None or not ipaddress.ip_address(host).is_loopback:
        return False
    return names_option(request, STATUS_OPTION)


def names_option(request: Request, option: str) -> bool:
    """Whether a request names an option of the Connection field: no page can, and no proxy does."""
    options = split_list(request.field(b"connection") or b"")
    return option.encode() in (one.lower() for one in options)


def status_of(
    info: PeerInfo,
    contacts: Sequence[ContactState],
    *,
    begun_s: float,
    now_s: float,
    knows_others: bool,
    sites: Sequence[SiteStatus] = (),
    disk: DiskStatus | None = None,
) -> PeerStatus:
    """The status of a peer that runs since `begun_s`; both times are the loop's.

    Contacts are in the order of their addresses. Where they are more than the message holds, the
    silent ones are kept first: somebody looks for these.
    """
    listed = sorted(contacts, key=lambda one: (_is_well(one), _order(one.address)))
    listed = sorted(listed[:STATUS_CONTACTS_MAX], key=lambda one: _order(one.address))
    return PeerStatus(
        p2pweb=info.p2pweb,
        id=info.id,
        home=info.home,
        version=info.version,
        up_s=_seconds(now_s - begun_s),
        knows_others=knows_others,
        contact_count=len(contacts),
        silent_count=sum(not _is_well(one) for one in contacts),
        contacts=tuple(
            ContactStatus(
                address=format_address(one.address),
                id=one.id.hex(),
                rtt_s=None if one.rtt_s is None else _seconds(one.rtt_s),
                answered_ago_s=_seconds(now_s - one.last_answer) if one.proved else None,
                strikes=one.strikes,
            )
            for one in listed
        ),
        sites=tuple(sites),
        disk=disk,
    )


def _is_well(contact: ContactState) -> bool:
    """Whether it has answered in this run, and what it was asked last."""
    return contact.proved and not contact.strikes


def _order(address: Address) -> _Order:
    """IPv4 before IPv6, each by number."""
    host, port = address
    parsed = ipaddress.ip_address(host)
    return parsed.version, int(parsed), port


def _seconds(seconds: float) -> float:
    """To the microsecond: a round trip on loopback takes a hundred of them."""
    return round(max(0.0, seconds), 6)
