"""Targets: each path has one spelling once decoded, and none that deceives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pweb.http.messages import Refusal
from p2pweb.http.target import parse_target, quote_path


@pytest.mark.parametrize(
    ("raw", "path", "query"),
    [
        (b"/", "/", None),
        (b"/a/b.html", "/a/b.html", None),
        (b"/a/", "/a/", None),
        (b"/a?b=c?d", "/a", "b=c?d"),
        (b"/a?", "/a", ""),
        (b"/?100%", "/", "100%"),
        (b"/a?../b", "/a", "../b"),
        (b"/caf%C3%A9", "/café", None),
        (b"/a%20b%3Fc%23d", "/a b?c#d", None),
        (b"/%41%2e", "/A.", None),
        (b"/%2541", "/%41", None),
        (b"/a//b", "/a//b", None),
        (b"//a", "//a", None),
        (b"/a+b;c=d,e", "/a+b;c=d,e", None),
        (b'/[a]|{b}^`"', '/[a]|{b}^`"', None),
        (b"/.", "/", None),
        (b"/./a", "/a", None),
        (b"/a/.", "/a/", None),
        (b"/a/..", "/", None),
        (b"/a/../b", "/b", None),
        (b"/a/b/..", "/a/", None),
        (b"/a//../b", "/a/b", None),
        (b"//..", "/", None),
        (b"/a/%2e%2E/b", "/b", None),
        (b"/a/.%2e/b", "/b", None),
        (b"/...", "/...", None),
        (b"/.a/..b/c..", "/.a/..b/c..", None),
    ],
)
def test_target_is_decoded_once(raw: bytes, path: str, query: str | None) -> None:
    target = parse_target(raw)
    assert (target.path, target.query) == (path, query)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"", 400),
        (b"*", 400),
        (b"a", 400),
        (b"/a b", 400),
        (b"/a\x00", 400),
        (b"/a\n", 400),
        (b"/a\x7f", 400),
        (b"/a#b", 400),
        (b"/a?b#c", 400),
        (b"/a\\b", 400),
        (b"/a?b\\c", 400),
        (b"/caf\xc3\xa9", 400),
        (b"/a%", 400),
        (b"/a%4", 400),
        (b"/a%zz", 400),
        (b"/%u0041", 400),
        (b"/%ff", 400),
        (b"/%c0%af", 400),
        (b"/%ed%a0%80", 400),
        (b"/a%00b", 400),
        (b"/a%0d%0ab", 400),
        (b"/%c2%85", 400),
        (b"/dir%2findex.html", 404),
        (b"/dir%2F..%2f", 404),
        (b"/dir%5cindex.html", 404),
        (b"/..", 400),
        (b"/%2e%2e/a", 400),
        (b"/a/../../b", 400),
    ],
)
def test_target_that_deceives_is_refused(raw: bytes, status: int) -> None:
    with pytest.raises(Refusal) as caught:
        parse_target(raw)
    assert caught.value.status == status


@given(st.binary(max_size=40))
def test_any_bytes_give_a_clean_path_or_a_refusal(noise: bytes) -> None:
    try:
        path = parse_target(b"/" + noise).path
    except Refusal:
        return
    assert path.startswith("/")
    assert not {".", ".."} & set(path.split("/"))
    assert "\\" not in path


_SEGMENT = st.text(
    st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/\\"), max_size=8
).filter(lambda segment: segment not in (".", ".."))


@given(st.lists(_SEGMENT, min_size=1, max_size=5))
def test_quoted_path_leads_back_to_itself(segments: list[str]) -> None:
    path = "/" + "/".join(segments)
    quoted = quote_path(path)
    assert quoted.isascii()
    assert not quoted.startswith(("//", "/\\"))
    assert parse_target(quoted.encode()).path == path


def test_quoted_path_cannot_name_another_host() -> None:
    assert quote_path("//evil.example/") == "/.//evil.example/"
    assert quote_path("/\\evil.example/") == "/%5Cevil.example/"
    assert quote_path("/a\r\nb") == "/a%0D%0Ab"
