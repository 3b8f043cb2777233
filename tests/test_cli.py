"""The command line: what it says, and one clear sentence for each thing that is wrong."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import socket
import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from peer_processes import SAMPLE, PeerProcess, free_ports, network, publish, run_cli

from p2pweb.blobs import BLOB_BYTES_MAX


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[PeerProcess]:
    with network(tmp_path / "peers", 1) as peers:
        yield peers[0]


def fault_of(*words: str, **environment: str) -> str:
    """Run what must fail: the one line it says, without a traceback."""
    done = run_cli(*words, **environment)
    assert done.returncode in (1, 2), done
    shown = ("Usage", "Try", "reading")
    lines = [line for line in done.stderr.splitlines() if line and not line.startswith(shown)]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_publishing_where_nobody_listens_names_the_address(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    key = str(tmp_path / "key")
    fault = fault_of("publish", str(SAMPLE), "--peer", f"127.0.0.1:{port}", "--key", key)
    assert f"127.0.0.1:{port} cannot be reached" in fault


def test_publishing_to_a_server_that_is_no_peer_says_so(tmp_path: Path) -> None:
    with other_server() as port:
        key = str(tmp_path / "key")
        fault = fault_of("publish", str(SAMPLE), "--peer", f"127.0.0.1:{port}", "--key", key)
    assert "no p2pweb peer" in fault


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"secret = 1", "'secret' must be 64 hexadecimal digits"),
        (b"\xff\xfe", "no TOML text"),
        (b'site = "a"\nsecret = "' + b"0" * 64 + b'"', "do not belong together"),
    ],
)
def test_a_malformed_key_file_is_named(
    tmp_path: Path, peer: PeerProcess, content: bytes, says: str
) -> None:
    key = tmp_path / "bad key"
    key.write_bytes(content)
    fault = fault_of("publish", str(SAMPLE), "--peer", peer.address, "--key", str(key))
    assert str(key) in fault
    assert says in fault


def test_an_unreadable_key_file_is_named(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.mkdir()  # Unreadable as a file by everybody, root included.
    assert f"cannot read the key file {key}" in fault_of("publish", str(SAMPLE), "--key", str(key))


def test_an_empty_a_missing_and_a_wrong_directory_are_named(
    tmp_path: Path, peer: PeerProcess
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    key = tmp_path / "key"
    flags = ("--peer", peer.address, "--key", str(key))
    assert f"nothing to publish in {empty}" in fault_of("publish", str(empty), *flags)
    missing = str(tmp_path / "missing")
    assert f"there is no directory {missing}" in fault_of("publish", missing, *flags)
    assert not key.exists(), "a publish that fails makes no site"


def test_a_file_over_the_limit_is_named(tmp_path: Path, peer: PeerProcess) -> None:
    site = tmp_path / "site"
    site.mkdir()
    with (site / "film.mp4").open("wb") as file:
        file.truncate(BLOB_BYTES_MAX + 1)
    fault = fault_of("publish", str(site), "--peer", peer.address, "--key", str(tmp_path / "key"))
    assert "film.mp4 has 1073741825 bytes" in fault


def test_joining_by_an_address_where_nobody_or_no_peer_answers_is_refused(tmp_path: Path) -> None:
    here, there = free_ports(2)
    flags = ("up", "--host", "127.0.0.1", "--port", str(here), "--data", str(tmp_path / "data"))
    nobody = fault_of(*flags, "--join", f"127.0.0.1:{there}")
    assert f"cannot join by 127.0.0.1:{there}" in nobody
    nameless = run_cli(*flags, "--join", f"a..b:{there}")
    assert nameless.returncode == 1
    assert nameless.stderr.splitlines()[-1].startswith(f"p2pweb: cannot join by a..b:{there}")
    assert "Traceback" not in nameless.stderr
    with other_server() as port:
        fault = fault_of(*flags, "--join", f"127.0.0.1:{port}")
        # And again: a first failure leaves nothing behind that would let the second one pass.
        assert fault == fault_of(*flags, "--join", f"127.0.0.1:{port}")
    assert f"cannot join by 127.0.0.1:{port}" in fault
    assert "no peer" in fault


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("port = 8001\nhost = [\n", "line 2"),
        ("port = 8001\njoin = 127.0.0.1:1\n", "line 2, key 'join'"),
        ("\nport = 'a'\n", "line 2, key 'port'"),
        ("port = 8001\n\ncolour = 'red'\n", "line 3, key 'colour'"),
        ("join = ['nowhere']\n", "line 1, key 'join': 'nowhere' is no peer address"),
        ("home = 'me'\n", "line 1, key 'home': 'me' is no site id"),
    ],
)
def test_a_malformed_node_file_is_named_with_line_and_key(
    tmp_path: Path, text: str, says: str
) -> None:
    node_file = tmp_path / "node.toml"
    node_file.write_text(text)
    fault = fault_of("up", str(node_file))
    assert str(node_file) in fault
    assert says in fault


def test_a_range_limit_is_a_number_from_nought(tmp_path: Path) -> None:
    for wrong in ("-1", "few"):
        assert "'--range-limit'" in fault_of("up", "--range-limit", wrong)
    peer = PeerProcess(free_ports(1)[0], tmp_path / "peer")
    try:
        assert peer.start("--range-limit", "0").get("/").status == 404
    finally:
        peer.kill_9()


def test_a_port_in_use_and_a_data_directory_in_use_are_named(
    tmp_path: Path, peer: PeerProcess
) -> None:
    flags = ("up", "--host", "127.0.0.1")
    taken = fault_of(*flags, "--port", str(peer.port), "--data", str(tmp_path / "other"))
    assert f"port {peer.port} is in use" in taken
    other = str(free_ports(1)[0])
    locked = fault_of(*flags, "--port", other, "--data", str(peer.data))
    assert str(peer.data) in locked
    assert "in use by another peer" in locked


def test_a_data_directory_that_is_a_file_or_damaged_is_named(tmp_path: Path) -> None:
    flags = ("up", "--host", "127.0.0.1", "--port", str(free_ports(1)[0]), "--data")
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in fault_of(*flags, str(tmp_path / "file"))
    later = tmp_path / "later"
    later.mkdir()
    with contextlib.closing(sqlite3.connect(later / "records.sqlite")) as database:
        database.execute("PRAGMA user_version = 99")
    assert "made by a newer p2pweb" in fault_of(*flags, str(later))
    state = tmp_path / "state"
    state.mkdir()
    (state / "peer.json").write_text("{")
    assert "peer.json is damaged" in fault_of(*flags, str(state))


def test_a_peer_stops_cleanly_on_sigterm_and_starts_again(peer: PeerProcess) -> None:
    assert peer.stop() == 0
    assert "Traceback" not in peer.log.read_text()
    peer.start()
    assert peer.get("/").status == 404


def test_a_peer_serves_ipv4_and_ipv6_on_one_port(tmp_path: Path) -> None:
    if not _has_ipv6():
        pytest.skip("this machine has no IPv6")
    port = free_ports(1)[0]
    peer = PeerProcess(port, tmp_path / "peer")
    try:
        peer.start("--host", "::1")
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with socket.create_connection((host, port)) as connection:
                assert connection.family == family
                connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                assert connection.recv(100).startswith(b"HTTP/1.1 404")
    finally:
        peer.kill_9()


def test_two_peers_join_over_ipv6(tmp_path: Path) -> None:
    if not _has_ipv6():
        pytest.skip("this machine has no IPv6")
    with network(tmp_path / "peers", 1) as peers:
        peers[0].stop()
        peers[0].start("--host", "::1")
        publish(SAMPLE, peers[0], tmp_path / "key")
        other = PeerProcess(free_ports(1)[0], tmp_path / "other")
        try:
            other.start("--host", "::1", "--join", f"[::1]:{peers[0].port}")
            assert other.get("/index.html").body == (SAMPLE / "index.html").read_bytes()
        finally:
            other.kill_9()


def test_keys_are_made_once_for_a_directory_private_and_listed(
    tmp_path: Path, peer: PeerProcess
) -> None:
    environment = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    words = ("publish", str(SAMPLE), "--peer", peer.address)
    assert "no keys" in run_cli("keys", **environment).stdout
    first = run_cli(*words, **environment)
    again = run_cli(*words, **environment)
    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    assert "new site" in first.stderr
    assert "new site" not in again.stderr

    (key,) = json.loads(run_cli("keys", "--json", **environment).stdout)
    assert stat.S_IMODE(os.stat(key["file"]).st_mode) == 0o600
    assert key["site"] in first.stdout
    assert key["directory"] == str(SAMPLE.resolve())
    assert key["site"] in run_cli("keys", **environment).stdout


def test_publish_names_the_version_the_changes_the_copies_and_what_was_left_out(
    tmp_path: Path, peer: PeerProcess
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text("hello")
    (site / ".secret").write_text("hidden")
    (site / "out").symlink_to("/etc/hostname")
    words = ("publish", str(site), "--peer", peer.address, "--key", str(tmp_path / "key"))

    planned = run_cli(*words, "--dry-run")
    assert "would publish version 1: 1 added" in planned.stdout
    assert peer.get("/").status == 404

    done = run_cli(*words)
    assert done.returncode == 0
    assert "version 1 of" in done.stdout
    assert "1 added, 0 changed, 0 removed, 0 unchanged" in done.stdout
    assert "copies: 1 of 1 wanted" in done.stdout
    assert f"http://{peer.address}/" in done.stdout
    assert "/.secret: it is hidden" in done.stderr
    assert "/out: it is a symbolic link that leaves the directory" in done.stderr
    assert peer.get("/out").status == 404


class other_server:  # noqa: N801 - it reads as a context
    """An HTTP server that is no peer."""

    def __enter__(self) -> int:
        self._server = http.server.HTTPServer(("127.0.0.1", 0), _Quiet)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self._server.server_address[1]

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Quiet(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Nothing to the test's output."""


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True
