"""What a version has to say to a request: pages, redirects, 404s, and the date that it may tell."""

from __future__ import annotations

import hashlib

import pytest
from http_request import head_of, request_of

from p2pweb import pages as pages_module
from p2pweb.http.messages import Response
from p2pweb.http.target import parse_target
from p2pweb.keys import PUBLIC_KEY_BYTES
from p2pweb.manifest import Entry, Manifest
from p2pweb.pages import Page, Pages, other_than_page
from p2pweb.records import Encoding

MODIFIED_S = 1_700_000_000


def entry(path: str, *codings: str) -> Entry:
    return Entry(
        path=path,
        media_type="text/html; charset=utf-8",
        seq=1,
        modified_s=MODIFIED_S,
        encodings=tuple(
            Encoding(name, 1000, hashlib.sha256(f"{path}{name}".encode()).digest())
            for name in ("identity", *codings)
        ),
    )


PATHS = ("/index.html", "/about.html", "/sub/index.html", "/sub/404.html", "/a b.txt")
PAGES = Pages(Manifest(bytes(PUBLIC_KEY_BYTES), 1, [entry(path, "gzip") for path in PATHS]))


def ask(
    target: str, fields: str = "", pages: Pages = PAGES, now_s: float = MODIFIED_S
) -> Page | Response:
    request = request_of(head_of(target, fields))
    return pages.answer(request, parse_target(request.target), now_s)


def page(target: str, fields: str = "", **more: float) -> Page:
    found = ask(target, fields, **more)  # type: ignore[arg-type]
    assert isinstance(found, Page)
    return found


@pytest.mark.parametrize(
    ("target", "path", "status"),
    [
        ("/", "/index.html", 200),
        ("/about", "/about.html", 200),
        ("/sub/", "/sub/index.html", 200),
        ("/a%20b.txt", "/a b.txt", 200),
        ("/sub/none/at/all", "/sub/404.html", 404),
    ],
)
def test_page_is_an_entry_with_a_plan(target: str, path: str, status: int) -> None:
    found = page(target)
    assert (found.entry.path, found.plan.status) == (path, status)


def test_chosen_encoding_is_the_one_whose_bytes_are_sent() -> None:
    assert page("/").encoding.name == "identity"
    found = page("/", "Accept-Encoding: gzip\r\n")
    assert found.encoding.name == "gzip"
    assert ("ETag", f'"{found.encoding.root.hex()[:32]}"') in found.plan.fields


def test_directory_without_its_slash_is_a_redirect_that_keeps_the_query() -> None:
    moved = ask("/sub?a=b")
    assert isinstance(moved, Response)
    assert (moved.status, moved.fields[0]) == (301, ("Location", "/sub/?a=b"))
    assert dict(ask("/sub").fields)["Location"] == "/sub/"  # type: ignore[union-attr]


def test_nothing_is_a_plain_page_where_the_site_has_none() -> None:
    nothing = ask("/none")
    assert isinstance(nothing, Response)
    assert nothing.status == 404


def test_other_methods_have_the_same_answers_on_every_page() -> None:
    assert [other_than_page(method) for method in ("GET", "HEAD")] == [None, None]
    told, refused = other_than_page("OPTIONS"), other_than_page("POST")
    assert told is not None
    assert refused is not None
    assert (told.status, refused.status) == (204, 405)
    assert dict(told.fields)["Allow"] == dict(refused.fields)["Allow"] == "GET, HEAD, OPTIONS"


def test_last_modified_is_never_later_than_the_date() -> None:
    early, due = page("/", now_s=MODIFIED_S - 1), page("/", now_s=MODIFIED_S)
    assert "Last-Modified" not in dict(early.plan.fields)
    assert "Last-Modified" in dict(due.plan.fields)
    assert dict(early.plan.fields)["ETag"] == dict(due.plan.fields)["ETag"]


def test_refined_entry_replaces_the_one_before_it() -> None:
    pages = Pages(Manifest(bytes(PUBLIC_KEY_BYTES), 1, [entry("/a"), entry("/b")]))
    gzip = "Accept-Encoding: gzip\r\n"
    assert page("/a", gzip, pages=pages).encoding.name == "identity"  # type: ignore[arg-type]
    assert page("/b", gzip, pages=pages).encoding.name == "identity"  # type: ignore[arg-type]
    pages.refine(entry("/a", "gzip"))
    assert page("/a", gzip, pages=pages).encoding.name == "gzip"  # type: ignore[arg-type]
    assert page("/b", gzip, pages=pages).encoding.name == "identity"  # type: ignore[arg-type]


def test_planners_of_pages_that_are_visited_no_more_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pages_module, "PLANNERS_MAX", 2)
    pages = Pages(Manifest(bytes(PUBLIC_KEY_BYTES), 1, [entry(f"/{n}") for n in range(5)]))
    for number in (0, 1, 0, 2, 3):
        page(f"/{number}", pages=pages)  # type: ignore[arg-type]
    assert [path for path, _, _ in pages._planners] == ["/2", "/3"]
    page("/2", pages=pages)  # type: ignore[arg-type]
    page("/4", pages=pages)  # type: ignore[arg-type]
    assert [path for path, _, _ in pages._planners] == ["/2", "/4"]
