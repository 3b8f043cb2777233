"""Runs redbot's checks on the URLs given, and prints what they came to as JSON lines.

A process of its own, since redbot brings its own event loop. Each line is an object: `url`, `check`
(redbot's name of the request), `method`, `status`, `media_type`, `note`, `level`, `summary`.
"""

from __future__ import annotations

import configparser
import json
import sys
from collections.abc import Iterator

import thor
from redbot.resource import HttpResource
from redbot.resource.fetch import RedFetcher


def check(urls: list[str]) -> list[HttpResource]:
    """Every URL, with all the requests that redbot thinks fit, at the same time."""
    parser = configparser.ConfigParser()
    # Without this, redbot asks nobody on this machine.
    parser.read_dict({"redbot": {"enable_local_access": "True"}})
    resources = [HttpResource(parser["redbot"]) for _ in urls]
    left = len(resources)

    def done() -> None:
        nonlocal left
        left -= 1
        if not left:
            thor.stop()

    for resource, url in zip(resources, urls, strict=True):
        resource.set_request(url)
        resource.once("check_done", done)
    for resource in resources:
        resource.check()
    thor.run()
    return resources


def rows(resource: HttpResource) -> Iterator[dict[str, object]]:
    requests: list[RedFetcher] = [resource, *resource.subreqs.values()]
    for one in requests:
        about = {
            "url": resource.request.uri,
            "check": one.check_id,
            "method": one.request.method,
            "status": one.response.status_code,
            "media_type": one.response.headers.parsed.get("content-type", ("",))[0],
        }
        if one.fetch_error is not None:
            detail = f"{one.fetch_error.desc} {one.fetch_error.detail}"
            yield {**about, "note": "-", "level": "BAD", "summary": detail}
        for note in one.response.notes:
            for each in (note, *note.subnotes):
                name = type(each).__name__
                yield {**about, "note": name, "level": each.level.name, "summary": each.summary}


if __name__ == "__main__":
    for checked in check(sys.argv[1:]):
        for row in rows(checked):
            print(json.dumps(row))
