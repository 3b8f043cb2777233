"""Ids, addresses and distance."""

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kademlia.utils import digest

import p2pweb.dht
from p2pweb.dht.contact import canonical, distance, key_for, node_id


@given(st.text())
def test_key_is_what_the_stock_package_hashes(name: str) -> None:
    assert key_for(name) == digest(name)


def test_id_has_twenty_bytes() -> None:
    assert node_id(b"i" * 20) == b"i" * 20
    for length in (0, 19, 21, 40):
        with pytest.raises(ValueError, match="20 bytes"):
            node_id(b"i" * length)


def test_distance_is_xor() -> None:
    assert distance(b"\x0f\xf0", b"\xff\xf0") == 0xF000


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [
        ("192.0.2.1", 1, ("192.0.2.1", 1)),
        ("192.0.2.1", 65_535, ("192.0.2.1", 65_535)),
        ("::ffff:192.0.2.1", 7, ("192.0.2.1", 7)),
        ("2001:DB8:0:0::1", 7, ("2001:db8::1", 7)),
        ("127.0.0.1", 0, None),
        ("127.0.0.1", 65_536, None),
        ("127.0.0.1", -1, None),
        ("localhost", 7, None),
        ("", 7, None),
        ("0.0.0.0", 7, None),
        ("::", 7, None),
        ("::ffff:0.0.0.0", 7, None),
        ("255.255.255.255", 7, None),
        ("224.0.0.1", 7, None),
        ("ff02::1", 7, None),
        ("fe80::1%eth0", 7, None),
        ("192.0.2.01", 7, None),
        ("1" * 10_000, 7, None),
    ],
)
def test_addresses_are_literals_in_one_spelling(
    host: str, port: int, expected: tuple[str, int] | None
) -> None:
    assert canonical(host, port) == expected


def test_only_the_shell_knows_clocks_sockets_and_the_package() -> None:
    forbidden = {
        *("asyncio", "time", "random", "socket", "kademlia", "rpcudp"),
        *("datetime", "os", "secrets", "threading"),
    }
    folder = Path(p2pweb.dht.__file__).parent
    for path in sorted(folder.glob("*.py")):
        if path.name == "overlay.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not forbidden & {name.split(".")[0] for name in names}, path.name
