"""A visitor's request → the answer: which site, which version, which path, which bytes.

The way of a GET: Host → site (`Hosts`), site → live version (`sites`), path → entry (`manifest`),
request and entry → plan (`http.plan`), plan → bytes (`exchange.reader`). One request is answered
from one version. Bytes that cannot be had are a 503 that says why; a path that the version has not
got is the site's own 404 page, or a plain one.
"""

import ipaddress
import re
from collections.abc import Callable, Sequence
from functools import partial

from p2pweb.errors import UnavailableError
from p2pweb.exchange import wire
from p2pweb.exchange.reader import BlobReader, Source
from p2pweb.exchange.service import PeerService
from p2pweb.http import answers
from p2pweb.http.content import respond
from p2pweb.http.messages import Refusal, Request, Response
from p2pweb.http.plan import Representation, Resource, plan
from p2pweb.http.service import RequestBody
from p2pweb.http.target import Target, parse_target, quote_path
from p2pweb.keys import SITE_ID_CHARS, SiteId, is_site_id
from p2pweb.manifest import Entry, Found, MovedTo, Nothing
from p2pweb.records import dht_key, file_name
from p2pweb.sites import Sites, SiteVersion

METHODS = ("GET", "HEAD", "OPTIONS")
# Every peer may hold another version for a moment, so a cache asks each time; a 304 is cheap.
CACHE_CONTROL = "public, max-age=0, must-revalidate"
# A holder that restarts, or the news of a new one, is there within seconds.
RETRY_AFTER_S = 5


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


class Gateway:
    """The handler of every request that reaches a peer."""

    def __init__(
        self, hosts: Hosts, sites: Sites, reader: BlobReader, service: PeerService
    ) -> None:
        self._hosts = hosts
        self._sites = sites
        self._reader = reader
        self._service = service

    async def handle(self, request: Request, body: RequestBody) -> Response:
        """Answer one request; `http.server`'s handler."""
        if request.target == b"*":
            return answers.options(METHODS)
        target = parse_target(request.target)
        if target.path.startswith(wire.PREFIX):
            return await self._service.handle(request, target.path, target.query, body)
        site = self._hosts.site_of(request.host)
        if request.method == "OPTIONS":
            return answers.options(METHODS)
        if request.method not in METHODS:
            return answers.method_not_allowed(METHODS)
        if site is None:
            return answers.error(
                404,
                "Nothing is published here yet",
                "This peer is running and has no home site so far. Publish a directory: "
                "p2pweb publish DIR --peer HOST:PORT",
            )
        try:
            version = await self._sites.current(site)
            if version is None:
                return answers.error(
                    404,
                    "This site is not known here",
                    f"No peer that can be reached has a version of the site {site}.",
                )
            return await self._answer(request, target, version)
        except UnavailableError as error:
            return _unavailable(str(error))

    async def _answer(self, request: Request, target: Target, version: SiteVersion) -> Response:
        match version.manifest.resolve(target.path):
            case Found(entry):
                return await self._send(request, version, entry, status=200)
            case MovedTo(path):
                query = "" if target.query is None else f"?{target.query}"
                return answers.redirect(301, quote_path(path) + query, cache_control=CACHE_CONTROL)
            case Nothing(page):
                if page is not None:
                    return await self._send(request, version, page, status=404)
                return answers.error(
                    404, "There is no such page", "This version of the site has nothing there."
                )

    async def _send(
        self, request: Request, version: SiteVersion, entry: Entry, *, status: int
    ) -> Response:
        answer = plan(request, _resource(entry, status))
        source = _source(version.record.site, entry, answer.representation)
        return await respond(answer, partial(self._reader.read, source))


def _resource(entry: Entry, status: int) -> Resource:
    return Resource(
        media_type=entry.media_type,
        last_modified_s=entry.modified_s,
        representations=tuple(
            Representation(
                encoding=encoding.name,
                size_bytes=encoding.size_bytes,
                # 128 bits of the root: the same at every peer, and another for other bytes.
                etag=f'"{encoding.root.hex()[:32]}"',
            )
            for encoding in entry.encodings
        ),
        cache_control=CACHE_CONTROL,
        status=status,
    )


def _source(site: SiteId, entry: Entry, chosen: Representation | None) -> Source:
    name = chosen.encoding if chosen else entry.encodings[0].name
    blob = next(encoding.blob for encoding in entry.encodings if encoding.name == name)
    return Source(blob, lambda segment: dht_key(file_name(site, entry.path, segment)))


def _unavailable(why: str) -> Response:
    return answers.error(
        503,
        "This page exists but cannot be had just now",
        f"The site has it, and its bytes are on other peers: {why}.",
        retry_after_s=RETRY_AFTER_S,
    )


def _is_address(name: str) -> bool:
    # All of an IPv4 literal's labels are digits; anything else that looks like one is a name.
    if not re.fullmatch(r"[0-9a-f:.]+", name):
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
