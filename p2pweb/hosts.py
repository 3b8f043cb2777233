"""A request's Host → the site that it names.

Names that belong to nobody here are refused, so that no page of a stranger's can make a browser
read a peer under the stranger's own name (DNS rebinding).
"""

import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from functools import lru_cache

from p2pweb.http.messages import Refusal
from p2pweb.keys import SITE_ID_CHARS, SiteId, is_site_id

# Visitors of a peer name a few hosts, over and over.
_NAMES_CACHED = 256


class Hosts:
    """Which site a Host names: a site id as first label, or this peer's own names for its home."""

    def __init__(self, own_names: Sequence[str], home: Callable[[], SiteId | None]) -> None:
        self._own_names = frozenset(["localhost", *(name.lower() for name in own_names)])
        self._home = home

    def site_of(self, host: str) -> SiteId | None:
        """The site; None for the home site while there is none. Refusal 421 for other names.

        `host` is lower-case, without port and brackets, and empty where an HTTP/1.0 client
        names none.
        """
        name = host.removesuffix(".")
        label = name.partition(".")[0]
        if len(label) == SITE_ID_CHARS and is_site_id(label):
            return SiteId(label)
        if not name or name in self._own_names or _is_address(name):
            return self._home()
        raise Refusal(421, f"no site of this peer is known as {name}")


def own_names() -> list[str]:
    """This machine's names, under which visitors may ask for the home site."""
    name = socket.gethostname()
    label = name.partition(".")[0]
    return [name, label, f"{label}.local", f"{label}.lan"]


@lru_cache(maxsize=_NAMES_CACHED)
def _is_address(name: str) -> bool:
    # All of an IPv4 literal's labels are digits; anything else that looks like one is a name.
    if not re.fullmatch(r"[0-9a-f:.]+", name):
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
