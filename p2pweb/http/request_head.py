"""A request line and its fields → a `Request`, or the reason why there is none.

Owns what RFC 9112 demands of a head as a whole: one Host, one way to tell the body's length, a
target in the form that the method asks for. The grammar of the lines is the parser's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from p2pweb.http.authority import parse_authority
from p2pweb.http.fields import split_list
from p2pweb.http.messages import HTTP_1_0, HTTP_1_1, HttpVersion, Refusal, Request

# Enough for an exabyte: conversion stays cheap.
_LENGTH_DIGITS_MAX = 18

_DIGITS = re.compile(rb"[0-9]+")
# The fields that say where a message ends, whom it is for, and what follows it.
_DECISIVE = frozenset((b"connection", b"content-length", b"expect", b"host", b"transfer-encoding"))
_ABSOLUTE_FORM = re.compile(rb"https?://([^/?]*)(.*)", re.IGNORECASE)

Fields = tuple[tuple[bytes, bytes], ...]


def accept_head(method: str, raw_target: bytes, version: HttpVersion, fields: Fields) -> Request:
    """Judge a head whose lines are well-formed; raises `Refusal`."""
    found: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        if name in _DECISIVE:
            found.setdefault(name, []).append(value)
    content_length = _content_length(found, version)
    host, port = _host(found.get(b"host", []), version)
    target, authority = _split_target(method, raw_target)
    if authority is not None:
        # RFC 9112 §3.2.2: an origin server MUST ignore the received Host field and use the host of
        # the absolute-form target instead.
        host, port = authority
    return Request(
        method=method,
        target=target,
        version=version,
        fields=fields,
        host=host,
        host_port=port,
        content_length=content_length,
        keep_alive=_keep_alive(found.get(b"connection", []), version),
        expects_continue=_expects_continue(found.get(b"expect", []), version),
    )


def _content_length(found: Mapping[bytes, list[bytes]], version: HttpVersion) -> int | None:
    """RFC 9112 §6.3, without its leniencies: the body's length, None for chunked."""
    codings = found.get(b"transfer-encoding")
    lengths = found.get(b"content-length")
    if codings:
        # RFC 9112 §6.1: a message with both, and one in HTTP/1.0 with Transfer-Encoding, might be
        # an attempt at smuggling and ought to be handled as an error.
        if lengths:
            raise Refusal(400, "Content-Length and Transfer-Encoding contradict each other")
        if version == HTTP_1_0:
            raise Refusal(400, "HTTP/1.0 has no Transfer-Encoding")
        _check_codings(b",".join(codings))
        return None
    if not lengths:
        return 0
    # RFC 9110 §8.6 lets a recipient accept a list of identical lengths; refusing it is safer.
    if len(lengths) > 1 or not _DIGITS.fullmatch(lengths[0]):
        raise Refusal(400, "Content-Length is not one number")
    if len(lengths[0]) > _LENGTH_DIGITS_MAX:
        raise Refusal(413, "the body is too large")
    return int(lengths[0])


def _check_codings(value: bytes) -> None:
    *others, last = (coding.strip(b" \t").lower() for coding in value.split(b","))
    # RFC 9112 §6.3: without chunked as the final coding the length of a request's body cannot be
    # determined reliably; §6.1: chunked MUST NOT be applied more than once.
    if last != b"chunked" or b"chunked" in others or b"" in others:
        raise Refusal(400, "Transfer-Encoding does not end in one chunked")
    if others:
        raise Refusal(501, "the only transfer coding known here is chunked")


def _host(values: list[bytes], version: HttpVersion) -> tuple[str, int | None]:
    # RFC 9112 §3.2: 400 to any HTTP/1.1 request that lacks a Host field, and to any request with
    # more than one Host field line or an invalid value.
    if not values and version == HTTP_1_0:
        return "", None
    if len(values) != 1:
        raise Refusal(400, "there must be exactly one Host field")
    return parse_authority(values[0])


def _split_target(method: str, target: bytes) -> tuple[bytes, tuple[str, int | None] | None]:
    """RFC 9112 §3.2: the target in origin-form or "*", and the authority of an absolute-form."""
    if method == "CONNECT":
        # RFC 9112 §3.2.3: authority-form is only for CONNECT, and CONNECT has no other.
        _, port = parse_authority(target)
        if not port:
            raise Refusal(400, "CONNECT needs a host and a port")
        raise Refusal(501, "this is not a proxy")
    if target.startswith(b"/"):
        return target, None
    if target == b"*":
        if method != "OPTIONS":
            raise Refusal(400, 'only OPTIONS may ask for "*"')
        return target, None
    match = _ABSOLUTE_FORM.fullmatch(target)
    if match is None:
        raise Refusal(400, "the request target is malformed")
    rest = match[2]
    if not rest and method == "OPTIONS":
        # RFC 9112 §3.2.4: OPTIONS for an absolute-form with no path and no query means "*".
        rest = b"*"
    elif not rest.startswith(b"/"):
        rest = b"/" + rest
    return rest, parse_authority(match[1])


def _keep_alive(values: list[bytes], version: HttpVersion) -> bool:
    """RFC 9112 §9.3: close overrules keep-alive, which only HTTP/1.0 needs."""
    options = {option.lower() for value in values for option in split_list(value)}
    return b"close" not in options and (version == HTTP_1_1 or b"keep-alive" in options)


def _expects_continue(values: list[bytes], version: HttpVersion) -> bool:
    expectations = {value.lower() for field in values for value in split_list(field)}
    # RFC 9110 §10.1.1: an HTTP/1.0 request's 100-continue MUST be ignored; any other expectation
    # may be answered 417.
    if expectations - {b"100-continue"}:
        raise Refusal(417, "the expectation cannot be met")
    return bool(expectations) and version != HTTP_1_0
