"""A visitor's request → the answer: which site, which version, which path, which bytes.

The way of a GET: Host → site (`Hosts`), site → live version (`sites`), request → an answer without
bytes or a plan (`pages`), plan → bytes (`exchange.reader`). One request is answered from one
version. Bytes that cannot be had are a 503 that says why; a path that the version has not got is
the site's own 404 page, or a plain one. That there is no such site is said only where the others
say so: while they are silent, or this peer is still joining, that is a 503 too.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from p2pweb.clock import WallClock
from p2pweb.errors import UnavailableError
from p2pweb.exchange import wire
from p2pweb.exchange.reader import BlobReader, Source
from p2pweb.exchange.service import PeerService
from p2pweb.hosts import Hosts
from p2pweb.http import answers
from p2pweb.http.content import respond, respond_without_content
from p2pweb.http.messages import SHORT_BODY_BYTES_MAX, HangUp, Refusal, Request, Response, Span
from p2pweb.http.service import RequestBody
from p2pweb.http.target import Target, parse_target
from p2pweb.keys import SiteId
from p2pweb.pages import OPTIONS, Page, other_than_page
from p2pweb.records import dht_key, file_name
from p2pweb.sites import Sites, SiteVersion


class Gateway:
    """The handler of every request that reaches a peer."""

    def __init__(
        self,
        hosts: Hosts,
        sites: Sites,
        reader: BlobReader,
        service: PeerService,
        wall: WallClock,
        has_asked: Callable[[], bool] = lambda: True,
    ) -> None:
        """`has_asked` says whether a peer without a home site has been told that others have none,
        or has nobody to ask."""
        self._has_asked = has_asked
        self._hosts = hosts
        self._wall = wall
        self._sites = sites
        self._reader = reader
        self._service = service

    def handle(self, request: Request, body: RequestBody) -> Response | Awaitable[Response]:
        """Answer one request, at once where nothing must be waited for; `http.server`'s handler."""
        if request.target == b"*":
            return OPTIONS
        try:
            target = parse_target(request.target)
        except Refusal:
            if self._service.is_closed and request.target.startswith(wire.PREFIX.encode()):
                raise HangUp from None
            raise
        if target.path.startswith(wire.PREFIX):
            return self._service.handle(request, target.path, target.query, body)
        site = self._hosts.site_of(request.host)
        if (other := other_than_page(request.method)) is not None:
            return other
        if site is None and not self._has_asked():
            return answers.site_unavailable(
                "this peer has no home site so far, and none of those that it knows has told it of "
                "one yet"
            )
        if site is None:
            return answers.error(
                404,
                "Nothing is published here yet",
                "This peer is running and has no home site so far. Publish a directory: "
                "p2pweb publish DIR --peer HOST:PORT",
            )
        leased = self._sites.leased(site)
        if leased is not None:
            version, lease = leased
            page = version.pages.answer(request, target, self._wall())
            response = page if isinstance(page, Response) else self._at_hand(version, page)
            if response is not None:
                return replace(response, lease=lease)
        return self._answer(request, target, site)

    def _at_hand(self, version: SiteVersion, page: Page) -> Response | None:
        """The response, if its bytes are in memory or it has none."""
        pieces = page.plan.pieces
        if not pieces:
            return respond_without_content(page.plan)
        data = self._reader.at_hand(_source(version, page))
        if data is None or len(pieces) > 1 or not isinstance(span := pieces[0], Span):
            return None
        if span.stop - span.start > SHORT_BODY_BYTES_MAX:
            return None
        body = data[span.start : span.stop]
        return Response(status=page.plan.status, fields=page.plan.fields, body=body)

    async def _answer(self, request: Request, target: Target, site: SiteId) -> Response:
        """Answer with a version, or with bytes, that must be waited for."""
        try:
            version = await self._sites.current(site)
        except UnavailableError as error:
            return answers.site_unavailable(str(error))
        if version is None:
            return answers.error(
                404,
                "This site is not known here",
                f"No peer that can be reached has a version of the site {site}.",
            )
        try:
            try:
                return await self._answer_from(version, request, target)
            except UnavailableError:
                # A peer that was away asks for what its holders have given up since.
                newer = await self._sites.newer_than(version)
                if newer is None:
                    raise
                return await self._answer_from(newer, request, target)
        except UnavailableError as error:
            return answers.unavailable(str(error))

    async def _answer_from(
        self, version: SiteVersion, request: Request, target: Target
    ) -> Response:
        page = version.pages.answer(request, target, self._wall())
        if isinstance(page, Response):
            return self._leased(page, version)
        source = _source(version, page)
        response = await respond(page.plan, lambda: self._reader.open(source))
        return self._leased(response, version)

    def _leased(self, response: Response, version: SiteVersion) -> Response:
        """The answer with the lease of its version, if that is still the live one."""
        leased = self._sites.leased(version.record.site)
        if leased is None or leased[0] is not version:
            return response
        return replace(response, lease=leased[1])


def _source(version: SiteVersion, page: Page) -> Source:
    site, path = version.record.site, page.entry.path
    return Source(page.encoding.blob, lambda segment: dht_key(file_name(site, path, segment)))
