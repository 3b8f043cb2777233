"""Node files: what is read, and that each fault names the file, the line and the key."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pweb.config import NodeFile, parse_host, parse_site, read_node_file
from p2pweb.errors import UsageError
from p2pweb.keys import SiteKey

SITE = SiteKey(b"k" * 32).site

WHOLE = f"""\
port = 8001
host = ["127.0.0.1", "::1"]
join = ["192.168.1.10:8001", "[2001:DB8::1]:8002"]
home = "{SITE}"
data = "data/8001"
access_log = "access.log"
access_log_format = "json"
range_limit = 0
disk = "50GB"
scrub_days = 7
secret = "secret"
"""


def fault(path: Path, text: str | bytes) -> str:
    """The sentence that refuses this text, without the folder before the file's name."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError) as caught:
        read_node_file(path)
    return str(caught.value).replace(str(path), path.name)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node.toml"


def test_whole_file_is_read(path: Path) -> None:
    path.write_text(WHOLE)
    assert read_node_file(path) == NodeFile(
        port=8001,
        host=("127.0.0.1", "::1"),
        join=(("192.168.1.10", 8001), ("2001:db8::1", 8002)),
        home=SITE,
        data=path.parent / "data/8001",
        access_log=path.parent / "access.log",
        access_log_format="json",
        range_limit=0,
        disk=50_000_000_000,
        scrub_days=7.0,
        secret=path.parent / "secret",
    )


def test_what_is_left_out_is_none(path: Path) -> None:
    path.write_text("# nothing\n")
    assert read_node_file(path) == NodeFile()


def test_access_log_may_be_standard_output(path: Path) -> None:
    path.write_text('access_log = "-"')
    assert read_node_file(path).access_log == Path("-")


def test_absolute_data_folder_stays(path: Path) -> None:
    path.write_text('data = "/srv/p2pweb"')
    assert read_node_file(path).data == Path("/srv/p2pweb")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("port = 0", "a port is a number from 1 to 65535"),
        ("port = 65536", "a port is a number from 1 to 65535"),
        ("port = true", "a port is a number from 1 to 65535"),
        ("port = 1.5", "a port is a number from 1 to 65535"),
        ('port = "8001"', "a port is a number from 1 to 65535"),
        ('host = "127.0.0.1"', 'it takes a list of texts, as ["192.168.1.10:8001"]'),
        ("host = [1]", 'it takes a list of texts, as ["192.168.1.10:8001"]'),
        ('host = ["home"]', "'home' is no IP address to listen on, as 127.0.0.1 or ::"),
        (
            'join = ["home"]',
            "'home' is no peer address: write HOST:PORT, as in 192.168.1.10:8001",
        ),
        ("home = 1", "it takes a text in quotes"),
        ('home = "x"', "'x' is no site id: it has 52 characters a-z and 2-7"),
        ("data = []", "it takes a text in quotes"),
        ('access_log_format = "common"', "an access log is one of combined, json"),
        ('disk = "lots"', "'lots' is no size: write one as 50GB or 512MiB"),
        ('disk = "1MB"', "'1MB' is too little for a peer: give it 32MB at least"),
        ("disk = 50", "it takes a text in quotes"),
        ('scrub_days = "7"', "it takes a number of days"),
        ("scrub_days = true", "it takes a number of days"),
        ("scrub_days = 0", "it takes 0.01 to 3650 days"),
        ("secret = 1", "it takes a text in quotes"),
        ("range_limit = -1", "a range limit is a number from 0, which is no limit"),
        ("range_limit = true", "a range limit is a number from 0, which is no limit"),
        ('range_limit = "16"', "a range limit is a number from 0, which is no limit"),
    ],
)
def test_wrong_value_is_named_with_file_line_and_key(path: Path, line: str, why: str) -> None:
    key = line.split()[0]
    others = "".join(one for one in WHOLE.splitlines(True) if not one.startswith(key))
    said = fault(path, f"{others}# {key} = comment\n\n{line}\n")
    assert said == f"node.toml, line 13, key '{key}': {why}"


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("ports = 1", "ports"),
        ('"a b" = 1', "a b"),
        ("'a.b' = 1", "a.b"),
        ("x.y = 1", "x"),
        ("[table]", "table"),
        ("[[ many ]]", "many"),
        ("  indented\t= 1", "indented"),
    ],
)
def test_unknown_key_is_named_with_its_line(path: Path, line: str, key: str) -> None:
    said = fault(path, f"port = 1\n\n{line}\n")
    assert said == (
        f"node.toml, line 3, key '{key}': there is no such key; "
        "known are port, host, join, home, data, access_log, access_log_format, range_limit, "
        "disk, scrub_days, secret"
    )


def test_key_that_is_spelled_with_escapes_is_named(path: Path) -> None:
    assert "key 'pört': there is no such key" in fault(path, '"p\\u00f6rt" = 1')


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("port = 1\nport = ?\n", "line 2, key 'port': this is not TOML: invalid value"),
        ("\n?\n", "line 2: this is not TOML: invalid statement"),
        ('port = 1\nhost = "a\n', "line 2, key 'host': this is not TOML: illegal character '\\n'"),
        ("port = 1\njoin = [\n", "line 2, key 'join': this is not TOML: invalid value"),
        ("port = 1\nport = 2", "line 2, key 'port': this is not TOML: cannot overwrite a value"),
        ("# a\u2028b\nport = ?\n", "line 2, key 'port': this is not TOML: invalid value"),
        ("# a\u2028b\nport =", "line 2, key 'port': this is not TOML: invalid value"),
        ("# a\x85b\nport = ?\n", "line 2, key 'port': this is not TOML: invalid value"),
    ],
)
def test_text_that_is_not_toml_is_refused_where_it_breaks(path: Path, text: str, said: str) -> None:
    assert fault(path, text) == f"node.toml: {said}"


@pytest.mark.parametrize("text", ["port = " + "[" * 10_000, "port = " + "1" * 5_000])
def test_toml_beyond_its_readers_limits_is_a_usage_error(path: Path, text: str) -> None:
    assert fault(path, text).startswith("node.toml")


def test_message_without_a_place_is_passed_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(text: str) -> None:
        raise tomllib.TOMLDecodeError("No.")  # No release of tomllib leaves the place out today.

    monkeypatch.setattr(tomllib, "loads", refuse)
    assert fault(path, "") == "node.toml: No."


def test_file_that_is_not_utf_8_is_refused(path: Path) -> None:
    assert fault(path, b'data = "\xff"') == "node.toml: it is not UTF-8 text"


def test_file_that_cannot_be_read_says_why(path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read the node file .*: No such file"):
        read_node_file(path)
    with pytest.raises(UsageError, match=r"cannot read the node file .*: Is a directory"):
        read_node_file(path.parent)


@given(text=st.text("port=hsijna.[]{}\"'#\\\n 0189", max_size=30))
def test_any_text_is_a_node_file_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(text)
    try:
        read_node_file(path)
    except UsageError as error:
        assert re.match(re.escape(str(path)) + "(, line [0-9]+, key '|: line [0-9]+)", str(error))


def test_listening_address_has_one_spelling() -> None:
    assert parse_host("2001:DB8:0::1") == "2001:db8::1"
    assert parse_host("0.0.0.0") == "0.0.0.0"


def test_site_id_is_taken_as_it_is_spelled() -> None:
    assert parse_site(SITE) == SITE
    with pytest.raises(UsageError, match="is no site id"):
        parse_site(SITE.upper())
