"""The small answers, the media types, and the bytes of a response's head."""

from __future__ import annotations

import re

import pytest

from p2pweb.http import answers
from p2pweb.http.media_types import media_type_of
from p2pweb.http.messages import HTTP_1_0, HTTP_1_1, Refusal, Response, reason_phrase
from p2pweb.http.response_head import Framing, encode_head, has_body


def body_of(response: Response) -> str:
    assert isinstance(response.body, bytes)
    return response.body.decode()


def test_error_page_escapes_what_is_put_into_it() -> None:
    page = answers.error(404, "<b>Not & here", '"quoted" <script>')
    assert page.status == 404
    assert "<script>" not in body_of(page)
    assert "&lt;b&gt;Not &amp; here" in body_of(page)
    assert "404 Not Found" in body_of(page)


def test_error_page_needs_nothing_from_elsewhere() -> None:
    page = answers.error(503, "Away", "Soon.", retry_after_s=7, close=True)
    assert not re.search(r"src=|href=|@import|url\(", body_of(page))
    assert ("Retry-After", "7") in page.fields
    assert page.close
    for name in ("Content-Type", "Cache-Control", "X-Content-Type-Options"):
        assert name in dict(page.fields)


def test_what_cannot_be_had_just_now_is_told_with_its_reason_and_when_to_come_again() -> None:
    for page, what in (
        (answers.unavailable("nobody sends them"), "This page exists"),
        (answers.site_unavailable("nobody sends them"), "This site cannot be had"),
    ):
        assert page.status == 503
        assert ("Retry-After", str(answers.RETRY_AFTER_S)) in page.fields
        assert what in body_of(page)
        assert "obody sends them." in body_of(page)


def test_refusal_is_told_with_its_reason() -> None:
    page = answers.refused(Refusal(400, "the host is malformed"))
    assert page.status == 400
    assert "The host is malformed." in body_of(page)
    assert "The request was refused" in body_of(answers.refused(Refusal(499, "no")))


def test_redirect_names_the_place() -> None:
    answer = answers.redirect(301, "/a/?b&c")
    assert answer.status == 301
    assert ("Location", "/a/?b&c") in answer.fields
    assert '<a href="/a/?b&amp;c">' in body_of(answer)
    assert answers.redirect(302, "https://example.com/").status == 302


@pytest.mark.parametrize("location", ["", "//evil", "/\\evil", "/a b", "/a\r\nX: y", "/é"])
def test_redirect_that_deceives_is_a_mistake(location: str) -> None:
    with pytest.raises(ValueError, match="not a location"):
        answers.redirect(301, location)


def test_methods_are_listed() -> None:
    assert ("Allow", "GET, HEAD") in answers.method_not_allowed(("GET", "HEAD")).fields
    options = answers.options(("GET", "HEAD", "OPTIONS"))
    assert options == Response(status=204, fields=(("Allow", "GET, HEAD, OPTIONS"),))


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("index.html", "text/html; charset=utf-8"),
        ("/dir.d/MAIN.CSS", "text/css; charset=utf-8"),
        ("a.mjs", "text/javascript; charset=utf-8"),
        ("a.js.map", "application/json"),
        ("a.json", "application/json"),
        ("a.svg", "image/svg+xml"),
        ("feed.atom", "application/atom+xml"),
        ("a.wasm", "application/wasm"),
        ("a.woff2", "font/woff2"),
        ("a.webmanifest", "application/manifest+json"),
        ("objects.inv", "application/octet-stream"),
        ("a", "application/octet-stream"),
        (".html", "application/octet-stream"),
        ("/dir.html/a", "application/octet-stream"),
        ("LICENSE", "text/plain; charset=utf-8"),
        ("/.well-known/apple-app-site-association", "application/json"),
        ("", "application/octet-stream"),
    ],
)
def test_media_type_follows_the_name(name: str, media_type: str) -> None:
    assert media_type_of(name) == media_type


def frame(version: tuple[int, int], length: int | None, close: bool) -> Framing:
    return Framing(version=version, date="NOW", length=length, close=close)


def test_head_is_written_with_its_framing() -> None:
    head = encode_head(200, (("ETag", '"é"'),), frame(HTTP_1_1, 5, False))
    assert head == (
        b'HTTP/1.1 200 OK\r\nETag: "\xe9"\r\nServer: p2pweb\r\nDate: NOW\r\n'
        b"Content-Length: 5\r\n\r\n"
    )


def test_head_says_how_the_connection_goes_on() -> None:
    assert b"Connection: close" in encode_head(200, (), frame(HTTP_1_1, 0, True))
    assert b"Connection: keep-alive" in encode_head(200, (), frame(HTTP_1_0, 0, False))
    assert b"Connection" not in encode_head(200, (), frame(HTTP_1_1, 0, False))


def test_head_may_lack_a_length_and_a_reason() -> None:
    head = encode_head(299, (), frame(HTTP_1_1, None, False))
    assert head.startswith(b"HTTP/1.1 299 \r\n")
    assert b"Content-Length" not in head
    assert reason_phrase(404) == "Not Found"


@pytest.mark.parametrize(
    "pair",
    [
        ("X-A", "b\r\nSet-Cookie: c"),
        ("X-A", "b\x00"),
        ("X-A", "\u2028"),
        ("X A", "b"),
        ("", "b"),
        ("Content-Length", "5"),
        ("transfer-encoding", "chunked"),
        ("Connection", "close"),
        ("Date", "now"),
    ],
)
def test_field_that_breaks_the_head_is_a_mistake(pair: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match=r"not a field|written by the connection"):
        encode_head(200, (pair,), frame(HTTP_1_1, 0, False))


@pytest.mark.parametrize("status", [0, 100, 199, 600])
def test_only_final_statuses_are_written(status: int) -> None:
    with pytest.raises(ValueError, match="status"):
        encode_head(status, (), frame(HTTP_1_1, 0, False))


def test_bodies_go_with_what_may_have_them() -> None:
    assert has_body("GET", 200)
    assert has_body("OPTIONS", 404)
    assert not has_body("HEAD", 200)
    assert not has_body("GET", 204)
    assert not has_body("GET", 304)
