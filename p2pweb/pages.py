"""A version's manifest and a request → what the version has to say to it.

The part of an answer that is the same at every peer and in a preview: the path is looked up, a
directory without its slash is a redirect, what is not there is the site's own 404 page or a plain
one, and what is there has a plan. No bytes of a file are read here, and nothing waits. What can be
made once for a version is: the planners, with all that is the same in every answer of an entry.
"""

from collections import OrderedDict
from dataclasses import dataclass

from p2pweb.http import answers
from p2pweb.http.messages import Request, Response
from p2pweb.http.plan import Plan, Planner, Representation, Resource
from p2pweb.http.target import Target, quote_path
from p2pweb.manifest import Entry, Found, Manifest, MovedTo
from p2pweb.records import Encoding

METHODS = ("GET", "HEAD", "OPTIONS")
# Every peer may hold another version for a moment, so a cache asks each time; a 304 is cheap.
# "public" says to caches that store nothing without it that they may.
CACHE_CONTROL = "public, max-age=0, must-revalidate"

# For the pages that are visited, mostly 3 KB each; somebody who reads all of a site of this size
# finds them made when reading it again. A peer has 64 sites in memory at most.
PLANNERS_MAX = 2048

# What the server as a whole answers to ("*"), and every address of a site.
OPTIONS = answers.options(METHODS)


def other_than_page(method: str) -> Response | None:
    """The answer where no page is asked for: OPTIONS, or a method that no page has; else None."""
    if method == "OPTIONS":
        return OPTIONS
    return None if method in METHODS else answers.method_not_allowed(METHODS)


@dataclass(frozen=True, slots=True)
class Page:
    """A plan, and whose bytes it sends: this encoding of this entry."""

    plan: Plan
    entry: Entry
    encoding: Encoding


class Pages:
    """The answers of one version."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._planners: OrderedDict[tuple[str, int, bool], Planner] = OrderedDict()
        self._refined: dict[str, Entry] = {}

    def refine(self, entry: Entry) -> None:
        """Use this entry for its path from now on: its encodings have been made meanwhile."""
        self._refined[entry.path] = entry
        for key in [key for key in self._planners if key[0] == entry.path]:
            del self._planners[key]

    def answer(self, request: Request, target: Target, now_s: float) -> Page | Response:
        """The answer to GET or HEAD at a time in Unix seconds."""
        found = self._manifest.resolve(target.path)
        if isinstance(found, Found):
            return self._page(request, found.entry, 200, now_s)
        if isinstance(found, MovedTo):
            query = "" if target.query is None else f"?{target.query}"
            location = quote_path(found.path) + query
            return answers.redirect(301, location, cache_control=CACHE_CONTROL)
        if found.page is not None:
            return self._page(request, found.page, 404, now_s)
        return answers.error(
            404, "There is no such page", "This version of the site has nothing there."
        )

    def _page(self, request: Request, entry: Entry, status: int, now_s: float) -> Page:
        # RFC 9110 §8.8.2.1: a Last-Modified later than Date MUST NOT be sent. Published by a clock
        # that is ahead of this one, a file has none for so long.
        is_dated = entry.modified_s <= now_s
        key = (entry.path, status, is_dated)
        entry = self._refined.get(entry.path, entry)
        planner = self._planners.get(key)
        if planner is None:
            planner = self._planners[key] = Planner(_resource(entry, status, is_dated=is_dated))
            if len(self._planners) > PLANNERS_MAX:
                self._planners.popitem(last=False)
        else:
            self._planners.move_to_end(key)
        answer = planner.plan(request)
        chosen = answer.representation
        name = "identity" if chosen is None else chosen.encoding
        return Page(answer, entry, next(one for one in entry.encodings if one.name == name))


def _resource(entry: Entry, status: int, *, is_dated: bool) -> Resource:
    return Resource(
        media_type=entry.media_type,
        last_modified_s=entry.modified_s if is_dated else None,
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
