"""SIGTERM on real processes: nobody new is let in, and who is being served is served."""

from __future__ import annotations

import random
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from peer_processes import PATIENCE_S, PeerProcess, network, preview, publish

# More than the kernels hold between a server and a reader with such a window.
FILM_BYTES = 16 * 1024 * 1024
RECEIVE_BYTES = 64 * 1024
SEGMENT_BYTES = 1400
GET = b"GET /film.mp4 HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def film() -> bytes:
    return random.Random(2).randbytes(FILM_BYTES)


@pytest.fixture
def site(tmp_path: Path, film: bytes) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "film.mp4").write_bytes(film)
    return folder


@pytest.fixture(params=["preview", "peer"])
def server(request: pytest.FixtureRequest, site: Path, tmp_path: Path) -> Iterator[PeerProcess]:
    if request.param == "preview":
        with preview(site) as process:
            yield process
        return
    with network(tmp_path / "peers", 1) as peers:
        publish(site, peers[0], tmp_path / "key")
        yield peers[0]


@contextmanager
def download_under_way(server: PeerProcess) -> Iterator[socket.socket]:
    """A reader who has got the head of the answer and takes no more for now."""
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        reader.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
        reader.settimeout(PATIENCE_S)
        reader.connect(("127.0.0.1", server.port))
        reader.sendall(GET)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = reader.recv(1)
            assert byte, "the server has closed"
            head += byte
        assert head.startswith(b"HTTP/1.1 200 ")
        yield reader


def tell_to_stop(server: PeerProcess) -> None:
    """SIGTERM, and wait until nobody is let in any more."""
    assert server.process is not None
    server.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with socket.socket() as late:
            if late.connect_ex(("127.0.0.1", server.port)):
                return
        assert time.monotonic() < deadline, "new visitors are still let in"


def exit_code(server: PeerProcess) -> int:
    assert server.process is not None
    return server.process.wait(PATIENCE_S)


def read_all(reader: socket.socket) -> bytes:
    """Everything up to the end; an aborted connection ends with an error."""
    pieces: list[bytes] = []
    try:
        while piece := reader.recv(1024 * 1024):
            pieces.append(piece)
    except ConnectionResetError:
        pass
    return b"".join(pieces)


def test_a_slow_download_finishes_after_new_visitors_are_refused(
    server: PeerProcess, film: bytes
) -> None:
    with download_under_way(server) as reader:
        tell_to_stop(server)
        assert server.process is not None
        assert server.process.poll() is None, "it has not waited for the answer in flight"
        assert read_all(reader) == film
        assert exit_code(server) == 0


def test_a_download_that_does_not_end_is_cut_off_in_the_end(
    server: PeerProcess, film: bytes
) -> None:
    with download_under_way(server) as reader:
        tell_to_stop(server)
        assert exit_code(server) == 0
        assert len(read_all(reader)) < len(film), "what was cut off must not look whole"
