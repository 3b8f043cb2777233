"""A network closed by a secret: its own peers deal with one another, everybody else hears nothing.

Real processes on loopback, and overlays on real sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import random
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from closed_network import (
    DATAGRAMS_AT_ONCE,
    ID,
    MESSAGE,
    Closed,
    Outsider,
    answer_to,
    closed_network,
    contacts_of,
    questions,
    requests_to,
    rubbish,
    write_secret,
)
from kademlia.network import Server
from peer_processes import (
    PATIENCE_S,
    SAMPLE,
    PeerProcess,
    assert_serves,
    files_of,
    free_ports,
    publish,
    run_cli,
)

from p2pweb.dht import wire as overlay_wire
from p2pweb.dht.contact import Address
from p2pweb.dht.overlay import Overlay
from p2pweb.dht.seal import Seal
from p2pweb.exchange import wire
from p2pweb.secret import load_secret

LAST_MESSAGE = b"l" * 20


def told(done: subprocess.CompletedProcess[str]) -> str:
    """The one sentence in which a command failed."""
    assert done.returncode == 1, done.stdout
    assert done.stderr.startswith("p2pweb: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Closed]:
    with closed_network(tmp_path_factory.mktemp("closed"), ["127.0.0.1"] * 2) as network:
        yield network


def test_peers_with_the_secret_form_a_network_and_a_publish_needs_it(
    closed: Closed, tmp_path: Path
) -> None:
    first, second = closed.peers
    assert contacts_of(first) == {second.address}
    assert contacts_of(second) == {first.address}
    assert second.address in run_cli("status", "--peer", first.address).stdout

    words = ["publish", str(SAMPLE), "--peer", first.address, "--key", str(tmp_path / "key")]
    said = told(run_cli(*words))
    assert f"{first.address} closed the connection without an answer" in said
    assert "--secret FILE" in said
    other = write_secret(tmp_path / "other", "the peers of another test")
    assert "it may have another secret" in told(run_cli(*words, "--secret", str(other)))
    assert not (tmp_path / "key").exists()

    flags = ("--secret", str(closed.secret))
    summary = publish(SAMPLE, first, tmp_path / "key", *flags)
    assert (summary["exit code"], summary["copies"]) == (0, summary["copies_wanted"]), summary
    for peer in closed.peers:
        assert_serves(peer, files_of(SAMPLE))


def test_a_peer_without_the_secret_cannot_join(closed: Closed, tmp_path: Path) -> None:
    before = [contacts_of(peer) for peer in closed.peers]
    words = [
        "up",
        "--host",
        "127.0.0.1",
        "--port",
        str(free_ports(1)[0]),
        "--data",
        str(tmp_path / "d"),
    ]
    words += ["--join", closed.peers[0].address]
    done = run_cli(*words)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"p2pweb: cannot join by {closed.peers[0].address}"), done.stderr
    assert "closed the connection without an answer" in last
    assert "Traceback" not in done.stderr
    assert [contacts_of(peer) for peer in closed.peers] == before


def test_a_peer_with_a_secret_believes_no_peer_without_it(closed: Closed, tmp_path: Path) -> None:
    open_peer = PeerProcess(free_ports(1)[0], tmp_path / "open")
    with contextlib.ExitStack() as stack:
        stack.callback(open_peer.kill_9)
        open_peer.start()
        words = ["--secret", str(closed.secret)]
        key = ["--key", str(tmp_path / "key")]
        said = told(run_cli("publish", str(SAMPLE), "--peer", open_peer.address, *key, *words))
        assert f"{open_peer.address} does not have the secret of this network" in said
        place = [
            "--host",
            "127.0.0.1",
            "--port",
            str(free_ports(1)[0]),
            "--data",
            str(tmp_path / "d"),
        ]
        done = run_cli("up", *place, "--join", open_peer.address, *words)
        assert done.returncode == 1
        assert "does not have the secret" in done.stderr
        assert contacts_of(open_peer) == set()


async def test_a_stock_node_sees_nothing_of_the_network(closed: Closed) -> None:
    stock = Server()
    await stock.listen(0, interface="127.0.0.1")
    try:
        assert await stock.bootstrap([("127.0.0.1", peer.port) for peer in closed.peers]) == []
        # And the other way round: a peer that asks it hears nothing.
        where = stock.transport.get_extra_info("sockname")
        asker = Outsider("127.0.0.1")
        try:
            for datagram in questions(closed.seal):
                asker.socket.sendto(datagram, where)
            asker.socket.sendto(questions(None)[0], where)
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(PATIENCE_S):
                first = await loop.sock_recv(asker.socket, 65_536)
            # The answer to the last one is the first that comes.
            assert first == overlay_wire.encode_answer(MESSAGE, stock.node.id)
        finally:
            asker.close()
    finally:
        stock.stop()
    for peer in closed.peers:
        assert contacts_of(peer) == {one.address for one in closed.peers if one is not peer}


def test_a_scanner_gets_no_datagram(closed: Closed) -> None:
    strangers = Seal(load_secret(write_secret(closed.secret.with_name("strangers"), "x" * 16)))
    outsider = Outsider("127.0.0.1")
    try:
        for peer in closed.peers:
            target = ("127.0.0.1", peer.port)
            sent = rubbish(closed.datagram, strangers)
            outsider.scan(target, sent, closed.datagram, closed.seal, "127.0.0.1")
        assert outsider.heard() == []
    finally:
        outsider.close()


def test_a_scanner_gets_no_byte_of_http(closed: Closed) -> None:
    peer = closed.peers[0]
    target = ("127.0.0.1", peer.port)
    count = 0
    for stream in requests_to(peer.address, closed.proof):
        assert answer_to(target, stream, "127.0.0.1") == b"", stream
        count += 1
    assert count > 400
    # What was recorded can be sent again, for a while; and pages are for everybody.
    again = closed.head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert answer_to(target, again, "127.0.0.1").startswith(b"HTTP/1.1 200 ")
    assert peer.get("/").status in (200, 404)


def test_a_node_file_names_the_secret_beside_it(tmp_path: Path) -> None:
    write_secret(tmp_path / "closing").chmod(0o644)
    (tmp_path / "node.toml").write_text('secret = "closing"')
    peer = PeerProcess(free_ports(1)[0], tmp_path / "peer")
    try:
        peer.start(str(tmp_path / "node.toml"))
        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
            peer.get(wire.PREFIX + "peer")
        assert peer.get("/").status == 404
        assert f"chmod 600 {tmp_path / 'closing'}" in peer.log.read_text()
    finally:
        peer.kill_9()


def test_a_file_without_a_secret_is_told_of(tmp_path: Path) -> None:
    short = write_secret(tmp_path / "short", "fifteen letters\n")
    assert "it has 15 bytes instead of 16 or more" in told(run_cli("up", "--secret", str(short)))
    missing = tmp_path / "missing"
    said = told(run_cli("publish", str(SAMPLE), "--secret", str(missing)))
    assert said == f"p2pweb: there is no secret file {missing}\n"


class _Nothing:
    """Records of a peer that has none."""

    def find(self, key: bytes) -> None:
        return None

    def store(self, key: bytes, value: bytes, sender: Address) -> bool:
        return False


@contextlib.asynccontextmanager
async def overlay(seed: int, seal: Seal | None) -> AsyncIterator[Overlay]:
    rng = random.Random(f"closed {seed}")
    made = Overlay(
        node_id=rng.randbytes(20), records=_Nothing(), rng=rng, entropy=rng.randbytes, seal=seal
    )
    await made.listen([("127.0.0.1", 0)])
    try:
        yield made
    finally:
        await made.close()


async def test_what_has_no_seal_counts_for_no_limit(tmp_path: Path) -> None:
    seal = Seal(load_secret(write_secret(tmp_path / "secret")))
    last = seal.seal(overlay_wire.encode_question(LAST_MESSAGE, overlay_wire.Ping(ID)))
    outsider = Outsider("127.0.0.1")
    loop = asyncio.get_running_loop()
    try:
        async with overlay(1, seal) as here:
            # Ten times what a stranger may ask in a second.
            for _ in range(1_000 // DATAGRAMS_AT_ONCE + 1):
                for _ in range(DATAGRAMS_AT_ONCE):
                    outsider.socket.sendto(questions(None)[0], here.addresses[0])
                # Whatever came before it is read before it.
                outsider.socket.sendto(last, here.addresses[0])
                async with asyncio.timeout(PATIENCE_S):
                    answer = b""
                    while answer[:1] != overlay_wire.ANSWER_TYPE:
                        answer = seal.open(await loop.sock_recv(outsider.socket, 65_536)) or b""
                assert answer == overlay_wire.encode_answer(LAST_MESSAGE, here.id)
            assert here.contacts() == []
    finally:
        outsider.close()


async def test_overlays_meet_by_the_same_seal_alone(tmp_path: Path) -> None:
    seal = Seal(load_secret(write_secret(tmp_path / "secret")))
    other = Seal(load_secret(write_secret(tmp_path / "other", "the peers of another test")))
    async with (
        overlay(1, seal) as one,
        overlay(2, seal) as two,
        overlay(3, other) as three,
        overlay(4, None) as four,
    ):
        assert await one.join([two.addresses[0]]) == 1
        assert [contact.id for contact in one.contacts()] == [two.id]
        pings = ((three, one), (four, one), (one, three), (one, four), (three, four))
        found = await asyncio.gather(*(asker.ping(there.addresses[0]) for asker, there in pings))
        assert found == [None] * len(pings)
        assert await two.ping(one.addresses[0]) is not None
