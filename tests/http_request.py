"""Requests as the parser makes them, for tests of what answers them."""

from __future__ import annotations

from p2pweb.http.messages import Request
from p2pweb.http.parser import RequestParser


def head_of(target: str = "/", fields: str = "", method: str = "GET", host: str = "a") -> bytes:
    """The bytes of a request's head."""
    return f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n".encode()


def request_of(head: bytes) -> Request:
    """The request that a head makes, which must be a valid one."""
    parser = RequestParser()
    parser.receive(head)
    request = parser.next_event()
    assert isinstance(request, Request)
    return request
