"""What a peer says of a site of which it knows no version: real processes, one of which is mute."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
from peer_processes import PATIENCE_S, SAMPLE, Answer, PeerProcess, network, publish

from p2pweb.keys import SiteKey
from p2pweb.peer_state import read_peer_state, write_peer_state


@contextlib.contextmanager
def muted(peer: PeerProcess) -> Iterator[None]:
    """It has its sockets and answers nothing, as a machine that is very busy."""
    os.kill(peer.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(peer.pid, signal.SIGCONT)


def ask(peer: PeerProcess, letter: bytes) -> Answer:
    """Ask for a site that nobody has."""
    return peer.get("/", Host=f"{SiteKey(letter * 32).site}.localhost")


def assert_in_doubt(answer: Answer) -> None:
    assert answer.status == 503, answer.body
    assert answer.fields["Retry-After"]
    assert b"This site cannot be had just now" in answer.body


def wait_for_status(peer: PeerProcess, wanted: int, letter: bytes | None = None) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while (peer.get("/") if letter is None else ask(peer, letter)).status != wanted:
        assert time.monotonic() < deadline, f"it never answers {wanted}"


def test_that_there_is_no_such_site_is_said_only_when_others_say_so(tmp_path: Path) -> None:
    with network(tmp_path / "peers", 2) as (first, second):
        assert ask(second, b"u").status == 404
        with muted(first):
            assert_in_doubt(ask(second, b"v"))
        wait_for_status(second, 404, b"v")


def test_a_peer_that_knows_of_its_site_and_has_nothing_of_it_is_in_doubt(tmp_path: Path) -> None:
    with network(tmp_path / "peers", 2) as (first, second):
        publish(SAMPLE, first, tmp_path / "key")
        second.wait_for("/index.html", (SAMPLE / "index.html").read_bytes())
        second.stop()
        forget(second)
        with muted(first):
            second.start()
            assert_in_doubt(second.get("/"))
        wait_for_status(second, 200)


def test_a_peer_that_has_not_heard_which_site_is_its_home_is_in_doubt(tmp_path: Path) -> None:
    with network(tmp_path / "peers", 2) as (first, second):
        wait_for_status(second, 404)
        second.stop()
        with muted(first):
            second.start()
            assert_in_doubt(second.get("/"))
        # It has none.
        wait_for_status(second, 404)


def test_the_first_peer_whose_companions_are_gone_is_ready_for_a_site(tmp_path: Path) -> None:
    with network(tmp_path / "peers", 2) as (first, second):
        wait_for_status(second, 404)
        second.kill_9()
        first.stop()
        first.start()
        wait_for_status(first, 404)
        assert b"p2pweb publish" in first.get("/").body


def forget(peer: PeerProcess) -> None:
    """Have it know its id, its home and the others, and that it has served anything no more."""
    path = peer.data / "peer.json"
    state = read_peer_state(path)
    assert state is not None and state.home and state.contacts
    shutil.rmtree(peer.data)
    peer.data.mkdir()
    write_peer_state(path, msgspec.structs.replace(state, served=0))
