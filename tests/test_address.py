"""Peer addresses: what is read, what is refused, and that each has one spelling."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pweb.address import format_address, parse_address
from p2pweb.errors import UsageError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.168.1.10:8001", ("192.168.1.10", 8001)),
        ("localhost:1", ("localhost", 1)),
        ("My-Host_2.Example:65535", ("my-host_2.example", 65_535)),
        ("[::1]:8001", ("::1", 8001)),
        ("[2001:DB8:0:0::1]:8001", ("2001:db8::1", 8001)),
        ("  localhost:8001\n", ("localhost", 8001)),
    ],
)
def test_address_is_read(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost",
        ":8001",
        "localhost:",
        "localhost:0",
        "localhost:65536",
        "localhost:123456",
        "localhost:-1",
        "localhost:http",
        "localhost:\u0661",  # a digit, but no ASCII one
        "local host:8001",
        "http://localhost:8001",
        "localhost:8001/",
        "::1:8001",
        "[::1]",
        "[::g]:8001",
        "[1.2.3.4]:8001",
        "[1:2]:8001",
        "[localhost]:8001",
        "é:8001",
    ],
)
def test_other_text_is_refused_and_quoted(text: str) -> None:
    with pytest.raises(UsageError, match="is no peer address: write HOST:PORT") as caught:
        parse_address(text)
    assert repr(text) in str(caught.value)


@given(
    st.ip_addresses().map(str) | st.text("az09._-", min_size=1, max_size=9),
    st.integers(1, 65_535),
)
def test_written_address_is_read_back(host: str, port: int) -> None:
    assert parse_address(format_address((host, port))) == (host, port)


@given(st.ip_addresses(v=6), st.integers(1, 65_535))
def test_every_spelling_of_a_literal_is_the_same_address(
    literal: ipaddress.IPv6Address, port: int
) -> None:
    assert parse_address(f"[{literal.exploded.upper()}]:{port}") == (str(literal), port)


@given(st.text())
def test_any_text_is_an_address_or_a_usage_error(text: str) -> None:
    try:
        host, port = parse_address(text)
    except UsageError:
        return
    assert host
    assert 1 <= port <= 65_535
