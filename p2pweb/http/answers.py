"""The small answers that belong to no site: errors, redirects, OPTIONS.

Builds whole responses with `bytes` bodies. The page is self-contained (no script, no font, no
image: whatever is wrong must not stop it from being read), works without colour, and escapes
every word that is put into it. Refuses a Location that could leave this host unnoticed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from p2pweb.http.messages import Refusal, Response, reason_phrase

# RFC 3986 §2 and the rule that a Location never begins like a reference to another host.
_LOCATION = re.compile(r"(?!//|/\\)[\x21-\x7e]+")

# A holder that restarts, or the news of a new one, is there within seconds.
RETRY_AFTER_S = 5

_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
body {{ font: 1.125rem/1.6 system-ui, sans-serif; max-width: 36rem; margin: 18vh auto 4rem; \
padding: 0 1.5rem }}
h1 {{ font-size: 1.75rem; line-height: 1.25; margin: 0 0 .75rem }}
p {{ margin: 0 0 .75rem; overflow-wrap: anywhere }}
small {{ opacity: .75 }}
</style>
<main>
<h1>{title}</h1>
<p>{detail}</p>
<p><small>{status} {phrase}</small></p>
</main>
</html>
"""


def error(
    status: int,
    title: str,
    detail: str,
    *,
    retry_after_s: int | None = None,
    close: bool = False,
    fields: tuple[tuple[str, str], ...] = (),
) -> Response:
    """An error page. `title` and `detail` are plain text; `fields` come on top."""
    return Response(
        status=status,
        fields=(
            *_PAGE_FIELDS,
            # RFC 9110 §10.2.3: a number of seconds.
            *((("Retry-After", str(retry_after_s)),) if retry_after_s is not None else ()),
            *fields,
        ),
        body=_page(status, title, detail),
        close=close,
    )


# An error is a state of the moment, and never the site's own word: nothing may keep it.
_PAGE_FIELDS = (
    ("Content-Type", "text/html; charset=utf-8"),
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
)


def _page(status: int, title: str, detail: str) -> bytes:
    return _PAGE.format(
        title=escape(title), detail=escape(detail), status=status, phrase=reason_phrase(status)
    ).encode()


def refused(refusal: Refusal, *, close: bool = False) -> Response:
    """The page for a `Refusal`."""
    title = reason_phrase(refusal.status) or "The request was refused"
    detail = refusal.why[:1].upper() + refusal.why[1:] + "."
    # RFC 9110 §15.5.9: with 408 the server has decided not to wait on; what would still come of
    # the request is not waited for either.
    return error(refusal.status, title, detail, close=close or refusal.status == 408)


def unavailable(why: str) -> Response:
    """RFC 9110 §15.6.4: what the site has, and nobody can send just now, for this reason."""
    return error(
        503,
        "This page exists but cannot be had just now",
        f"The site has it, and its bytes are on other peers: {why}.",
        retry_after_s=RETRY_AFTER_S,
    )


def site_unavailable(why: str) -> Response:
    """The same where the site itself is not to be had, so that it cannot be told what it has."""
    detail = why[:1].upper() + why[1:] + "."
    title = "This site cannot be had just now"
    return error(503, title, detail, retry_after_s=RETRY_AFTER_S)


def redirect(status: int, location: str, *, cache_control: str = "no-cache") -> Response:
    """A redirect (301, 302, 303, 307, 308) with the short note that RFC 9110 §15.4 asks for.

    `location` is an ASCII URI reference: a path on this host, or a whole URI. Raises ValueError
    for others, and for one that begins with "//" or "/" and a backslash.
    """
    if not _LOCATION.fullmatch(location):
        raise ValueError(f"not a location: {location!r}")
    link = escape(location)
    page = (
        f'<!doctype html>\n<title>Moved</title>\n<p>This page is at <a href="{link}">{link}</a>.\n'
    )
    fields = (
        ("Location", location),
        ("Content-Type", "text/html; charset=utf-8"),
        ("Cache-Control", cache_control),
        ("X-Content-Type-Options", "nosniff"),
    )
    return Response(status=status, fields=fields, body=page.encode())


def method_not_allowed(allow: Sequence[str]) -> Response:
    """RFC 9110 §15.5.6: 405 with the methods that are allowed."""
    return error(
        405,
        "Method not allowed",
        f"This address answers to {', '.join(allow)}.",
        fields=(("Allow", ", ".join(allow)),),
    )


def options(allow: Sequence[str]) -> Response:
    """RFC 9110 §9.3.7: what the target answers to; 204, so there is no body and no length."""
    return Response(status=204, fields=(("Allow", ", ".join(allow)),))
