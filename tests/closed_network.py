"""A network closed by a secret, and what somebody outside of it may send to its peers."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from peer_processes import PATIENCE_S, SAMPLE, PeerProcess, free_ports

from p2pweb.dht import wire as overlay_wire
from p2pweb.dht.contact import Address, NodeId
from p2pweb.dht.seal import MAC_BYTES, Seal
from p2pweb.exchange import wire
from p2pweb.keys import SiteKey
from p2pweb.secret import load_secret

SITE = SiteKey(b"k" * 32).site
ID = NodeId(b"\x55" * 20)
MESSAGE = b"m" * 20
# So few wait in a peer's socket at one time that none is lost there.
DATAGRAMS_AT_ONCE = 32


def write_secret(path: Path, text: str = "the peers of this test\n") -> Path:
    path.touch(0o600)
    path.write_text(text)
    return path


def contacts_of(peer: PeerProcess) -> set[str]:
    """As `p2pweb status` asks for them; on the machine itself it needs no secret."""
    answer = peer.get(wire.PREFIX + "status", Connection=wire.STATUS_OPTION)
    assert answer.status == 200, answer
    return {contact["address"] for contact in json.loads(answer.body)["contacts"]}


def questions(seal: Seal | None) -> list[bytes]:
    """One of each kind; without a seal, as stock nodes and open peers ask."""
    asked: list[overlay_wire.Question] = [
        overlay_wire.Ping(ID),
        overlay_wire.FindNode(ID, b"k" * 20),
        overlay_wire.FindValue(ID, b"k" * 20),
        overlay_wire.Store(ID, b"k" * 20, b"value"),
        overlay_wire.Stun(),
    ]
    plain = [
        overlay_wire.encode_question(MESSAGE, question, padded=padded)
        for question in asked
        for padded in (False, True)
    ]
    return [seal.seal(datagram) for datagram in plain] if seal else plain


def rubbish(recorded: bytes, strangers: Seal) -> list[bytes]:
    """What a scanner may send, given one datagram of the network."""
    rng = random.Random("rubbish")
    flipped = [bytearray(recorded) for _ in range(8 * len(recorded))]
    for bit, datagram in enumerate(flipped):
        datagram[bit // 8] ^= 1 << bit % 8
    return [
        *questions(None),
        *questions(strangers),
        *(rng.randbytes(size) for size in (0, 1, 15, 16, 17, 37, 63, 400, 1_200, 8_213, 8_229)),
        *(recorded[:size] for size in range(len(recorded))),
        *(recorded[size:] for size in range(1, len(recorded))),
        *(bytes(datagram) for datagram in flipped),
        recorded + b"\0",
        recorded + recorded,
        recorded[:MAC_BYTES] + recorded,
    ]


class Outsider:
    """A socket that sends what it likes, and counts what comes."""

    def __init__(self, host: str, port: int = 0) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((host, port))
        self.socket.setblocking(False)
        self.address: Address = self.socket.getsockname()

    def close(self) -> None:
        self.socket.close()

    def heard(self) -> list[tuple[bytes, Address]]:
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self.socket.recvfrom(65_536))
        return found

    def wait(self, kind: bytes, seal: Seal, repeat: tuple[bytes, Address] | None = None) -> bytes:
        """The next sealed datagram of a kind, sending one again and again meanwhile."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if repeat is not None:
                self.socket.sendto(*repeat)
            self.socket.settimeout(1.0)
            with contextlib.suppress(TimeoutError):
                data = self.socket.recv(65_536)
                if (seal.open(data) or b"").startswith(kind):
                    self.socket.setblocking(False)
                    return data
        raise AssertionError("nothing came")

    def scan(
        self, target: Address, datagrams: list[bytes], recorded: bytes, seal: Seal, host: str
    ) -> None:
        """Send these, and wait until the target has read them: when it answers what was recorded,
        which can be sent again, and is sent from `host` behind them."""
        again = Outsider(host)
        try:
            for first in range(0, len(datagrams), DATAGRAMS_AT_ONCE):
                for datagram in datagrams[first : first + DATAGRAMS_AT_ONCE]:
                    self.socket.sendto(datagram, target)
                again.wait(overlay_wire.ANSWER_TYPE, seal, (recorded, target))
        finally:
            again.close()


def requests_to(host: str, proof: str) -> Iterator[bytes]:
    """Requests below the prefix, none of which has a valid proof of itself. `proof` is the
    Authorization field of a GET of `peer`."""
    blob = "00" * 32
    names = ["", "peer?", "peers", "status", f"site/{SITE}", f"site/{SITE}?fresh", "bundle"]
    names += [
        "publish",
        "copies",
        f"blob/{blob}-5-0",
        f"hashes/{blob}-5",
        "x",
        "%70eer",
        "%00",
        "%zz",
        "%00",
    ]
    option = f"Connection: {wire.STATUS_OPTION}\r\n"
    altered = proof[:-1] + ("0" if proof[-1] != "0" else "1")
    fields = ["", option, f"Authorization: {altered}\r\n", f"Authorization: {proof}\r\n"]
    for name in names:
        for method, body in (("GET", ""), ("HEAD", ""), ("OPTIONS", ""), ("POST", "x" * 9)):
            for more in fields:
                # The machine itself may ask for the status, and is asked elsewhere.
                if name == "status" and more == option:
                    continue
                for spelled in (host, f"{SITE}.localhost"):
                    head = f"{method} {wire.PREFIX}{name} HTTP/1.1\r\nHost: {spelled}\r\n{more}"
                    yield f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()
    for head in (
        f"GET {wire.PREFIX}peer HTTP/1.0\r\n",
        f"GET http://{host}{wire.PREFIX}peer HTTP/1.1\r\nHost: {host}\r\n",
        f"GET /x/..{wire.PREFIX}peer HTTP/1.1\r\nHost: {host}\r\n",
        f"GET {wire.PREFIX}peer HTTP/1.1\r\nHost: {host}\r\nAuthorization: {altered}\r\n",
        f"POST {wire.PREFIX}bundle HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n",
        f"PUT {wire.PREFIX}x HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue\r\n",
    ):
        yield f"{head}\r\n".encode()


def answer_to(target: Address, stream: bytes, source: str) -> bytes:
    """All that comes back until the peer closes; a reset ends it too."""
    got = b""
    with socket.create_connection(target, PATIENCE_S, (source, 0)) as connection:
        try:
            connection.sendall(stream)
            while data := connection.recv(65_536):
                got += data
        except (ConnectionResetError, BrokenPipeError):
            pass
    return got


def record_request(host: str, secret: Path, folder: Path) -> bytes:
    """The head of a publisher's request, as somebody on its way sees it."""
    with socket.create_server((host, 0)) as listener, contextlib.ExitStack() as stack:
        listener.settimeout(PATIENCE_S)
        where = f"{host}:{listener.getsockname()[1]}"
        words = ["publish", str(SAMPLE), "--peer", where, "--key", str(folder / "unused")]
        publisher = subprocess.Popen(
            [sys.executable, "-m", "p2pweb", *words, "--secret", str(secret)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        stack.callback(publisher.wait)
        stack.callback(publisher.kill)
        with listener.accept()[0] as connection:
            connection.settimeout(PATIENCE_S)
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += connection.recv(65_536)
    assert head.startswith(f"GET {wire.PREFIX}peer HTTP/1.1\r\n".encode())
    return head


@dataclass
class Closed:
    """Two peers with a secret, and what somebody on the way has recorded of it."""

    peers: list[PeerProcess]
    secret: Path
    seal: Seal
    # A question by UDP, and the head of a GET of `peer`.
    datagram: bytes
    head: bytes

    @property
    def proof(self) -> str:
        lines = self.head.decode().split("\r\n")
        (found,) = (line for line in lines if line.startswith("Authorization: "))
        return found.removeprefix("Authorization: ")


@contextlib.contextmanager
def closed_network(folder: Path, hosts: list[str]) -> Iterator[Closed]:
    """A peer with the secret on each of these addresses."""
    secret = write_secret(folder / "secret")
    seal = Seal(load_secret(secret))
    ports = free_ports(len(hosts))
    peers = [
        PeerProcess(port, folder / str(number), host=host)
        for number, (host, port) in enumerate(zip(hosts, ports, strict=True))
    ]
    with contextlib.ExitStack() as stack:
        recorder = Outsider(hosts[0])
        stack.callback(recorder.close)
        for peer in peers:
            stack.callback(peer.kill_9)
            flags = ["--join", peers[0].address] if peer is not peers[0] else []
            if peer is peers[1]:
                flags += ["--join", f"{hosts[0]}:{recorder.address[1]}"]
            peer.start("--secret", str(secret), *flags)
        datagram = recorder.wait(overlay_wire.QUESTION_TYPE, seal)
        yield Closed(peers, secret, seal, datagram, record_request(hosts[0], secret, folder))
