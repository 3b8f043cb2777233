"""The secret's file, the keys made of it, and the seal of datagrams."""

from __future__ import annotations

import hashlib
import hmac
import logging
from pathlib import Path

import pytest
import umsgpack
from hypothesis import given
from hypothesis import strategies as st

from p2pweb.dht import wire
from p2pweb.dht.contact import NodeId
from p2pweb.dht.seal import MAC_BYTES, Seal
from p2pweb.errors import UsageError
from p2pweb.secret import SECRET_BYTES_MIN, SECRET_FILE_BYTES_MAX, Secret, load_secret

SECRET = Secret(b"sixteen bytes ok")
USES = [b"datagram", b"http request", b"http answer"]
PING = wire.encode_question(b"m" * 20, wire.Ping(NodeId(b"s" * 20)))
# Nothing, a type alone, a PING, the longest answer, the longest datagram, and their neighbours.
SIZES = [
    *(0, 1, 15, 16, 17, wire.HEADER_BYTES, wire.PING_BYTES),
    *(n + d for n in (wire.ANSWER_BYTES_MAX, wire.DATAGRAM_BYTES_MAX) for d in (-1, 0, 1)),
]


def fault(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        load_secret(path)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), path.name)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "secret"
    found.touch(0o600)
    return found


def test_white_space_at_the_ends_is_no_part_of_a_secret(path: Path) -> None:
    path.write_bytes(b"\r\n\t sixteen bytes ok\r\n\n")
    assert load_secret(path).key(b"datagram") == SECRET.key(b"datagram")
    path.write_bytes(b"sixteen  bytes ok")
    assert load_secret(path).key(b"datagram") != SECRET.key(b"datagram")


@pytest.mark.parametrize("size", [SECRET_BYTES_MIN, SECRET_FILE_BYTES_MAX])
def test_the_shortest_and_the_longest_secret_are_read(path: Path, size: int) -> None:
    path.write_bytes(b"\xff" * size)
    assert load_secret(path).key(b"datagram") == Secret(b"\xff" * size).key(b"datagram")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the secret file secret is empty"),
        (b" \n\t ", "the secret file secret is empty"),
        (b"x" * (SECRET_BYTES_MIN - 1), "the secret in secret is too short: it has 15 bytes"),
        (b" " * 99 + b"x\n", "the secret in secret is too short: it has 1 bytes"),
        (b"x" * (SECRET_FILE_BYTES_MAX + 1), "longer than 4096 bytes"),
    ],
)
def test_a_file_that_holds_no_secret_is_named(path: Path, content: bytes, says: str) -> None:
    path.write_bytes(content)
    assert says in fault(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert fault(tmp_path / "nothing") == "there is no secret file nothing"
    (tmp_path / "folder").mkdir()
    assert fault(tmp_path / "folder") == "cannot read the secret file folder: Is a directory"
    (tmp_path / "file").touch()
    assert "Not a directory" in fault(tmp_path / "file" / "below")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_secret_that_others_can_read_is_told(
    path: Path, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    path = path.rename(path.with_name("my secret"))
    path.write_bytes(b"x" * 16)
    load_secret(path)
    assert not caplog.records
    path.chmod(mode)
    load_secret(path)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().endswith(f"chmod 600 '{path}'")


def test_a_secret_shows_nothing_of_itself_and_each_use_has_its_own_key() -> None:
    with pytest.raises(ValueError, match="at least 16 bytes, not 15"):
        Secret(b"x" * 15)
    assert "sixteen" not in repr(SECRET)
    keys = [secret.key(use) for secret in (SECRET, Secret(b"another sixteen.")) for use in USES]
    assert len(set(keys)) == 2 * len(USES)


def test_keys_are_those_of_rfc_5869() -> None:
    # By hand, so that no other release makes other keys of the same secret.
    root = hmac.new(b"p2pweb closed network", b"sixteen bytes ok", hashlib.sha256).digest()
    key = hmac.new(root, b"datagram\x01", hashlib.sha256).digest()
    assert SECRET.key(b"datagram") == key


@pytest.mark.parametrize("size", SIZES)
def test_what_is_sealed_is_opened_by_the_same_secret_alone(size: int) -> None:
    datagram = bytes(number % 251 for number in range(size))
    sealed = Seal(SECRET).seal(datagram)
    assert len(sealed) == size + MAC_BYTES
    assert Seal(SECRET).open(sealed) == datagram
    assert Seal(Secret(b"another sixteen.")).open(sealed) is None
    assert Seal(SECRET).open(datagram) is None


def test_every_bit_counts() -> None:
    sealed = Seal(SECRET).seal(PING)
    for bit in range(8 * len(sealed)):
        flipped = bytearray(sealed)
        flipped[bit // 8] ^= 1 << bit % 8
        assert Seal(SECRET).open(bytes(flipped)) is None, bit


def test_nothing_cut_off_or_added_is_opened() -> None:
    sealed = Seal(SECRET).seal(PING)
    for size in range(len(sealed)):
        assert Seal(SECRET).open(sealed[:size]) is None
        assert Seal(SECRET).open(sealed[len(sealed) - size :]) is None
    assert Seal(SECRET).open(sealed + b"\0") is None
    assert Seal(SECRET).open(sealed + wire.PADDING_MARK + wire.PADDING) is None


@given(st.binary(max_size=100))
def test_no_open_node_reads_what_is_sealed(datagram: bytes) -> None:
    sealed = Seal(SECRET).seal(datagram)
    # The type bytes of `rpcudp`, which ignores all others.
    assert sealed[:1] not in (wire.QUESTION_TYPE, wire.ANSWER_TYPE)
    with pytest.raises(wire.MalformedError):
        wire.decode(sealed)


def test_an_open_node_would_read_a_question_with_bytes_behind_it() -> None:
    # Why the MAC stands in front.
    assert umsgpack.unpackb(PING[wire.HEADER_BYTES :] + bytes(MAC_BYTES)) == ["ping", [b"s" * 20]]


def test_the_longest_answer_still_travels_whole_once_it_is_sealed() -> None:
    ipv6_mtu_min, ipv6_header, udp_header = 1_280, 40, 8
    assert ipv6_mtu_min - ipv6_header - udp_header >= wire.ANSWER_BYTES_MAX + MAC_BYTES
    # A third stays a third: both sides grow alike.
    answer, question = wire.ANSWER_BYTES_MAX + 2 * wire.PING_BYTES, wire.PADDED_BYTES
    assert answer + 3 * MAC_BYTES <= 3 * (question + MAC_BYTES)
