"""Proof that requests and answers come from peers of one closed network."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest
from http_request import head_of, request_of
from http_site import PATIENCE_S, Site, serve
from peer_duties import duties

from p2pweb.blobs import BLOCK_BYTES, segments_of
from p2pweb.errors import NotAPeerError, RemoteError
from p2pweb.exchange import wire
from p2pweb.exchange.authorization import (
    ANSWER_FIELD,
    CLOCK_WARNING_S,
    DATE_WINDOW_S,
    Gate,
    Proof,
    Prover,
)
from p2pweb.exchange.client import PeerClient, tcp_connector
from p2pweb.exchange.service import PeerService
from p2pweb.http.messages import HangUp, Request, Response
from p2pweb.http.service import RequestBody
from p2pweb.keys import SiteKey
from p2pweb.records import Encoding, FileRecord, record_key, sign
from p2pweb.secret import Secret
from p2pweb.store.items import Item
from p2pweb.store.opening import memory_store
from p2pweb.store.store import Store

T = TypeVar("T")

SECRET = Secret(b"sixteen bytes ok")
OTHER = Secret(b"another sixteen.")
NOW = 1_700_000_000.0
KEY = SiteKey(b"k" * 32)
TARGET = wire.PREFIX + "bundle"
# A body comes in pieces of up to 64 KiB.
BODIES = [b"", b"x", bytes(64 * 1024), bytes(64 * 1024 + 1), bytes(BLOCK_BYTES)]


def now() -> float:
    return NOW


async def run(call: Callable[[], T]) -> T:
    return call()


def proof_of(
    body: bytes | None = b"body", *, secret: Secret = SECRET, at: float = NOW, target: str = TARGET
) -> Proof:
    return Prover(secret, lambda: at).prove("POST", target, body)


def request_with(fields: dict[str, str], method: str = "POST", target: str = TARGET) -> Request:
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return request_of(head_of(target, lines, method))


def body_of(data: bytes) -> RequestBody:
    pieces = [data[at : at + 65_536] for at in range(0, len(data), 65_536)]

    async def next_data() -> bytes:
        return pieces.pop(0) if pieces else b""

    return RequestBody(len(data), next_data, "192.0.2.7")


def admitted(request: Request, *, at: float = NOW, gate: Gate | None = None) -> bool:
    try:
        (gate or Gate(SECRET, lambda: at)).admit(request, body_of(b""))
    except HangUp:
        return False
    return True


# Both sides, without sockets


@pytest.mark.parametrize("data", BODIES)
async def test_a_proved_request_is_admitted_with_its_body_and_no_other(data: bytes) -> None:
    proof = proof_of(data)
    request = request_with(proof.fields)
    body, answer = Gate(SECRET, now).admit(request, body_of(data))
    assert await body.read(len(data)) == data
    assert body.sender == "192.0.2.7"
    assert answer[0] == ANSWER_FIELD
    assert proof.is_shown_by(answer[1])
    others = [data + b"\0", data[:-1], b"y" + data[1:]]
    for other in others:
        if other != data:
            body, _ = Gate(SECRET, now).admit(request, body_of(other))
            with pytest.raises(HangUp):
                await body.read(len(data) + 1)


async def test_the_digest_of_a_body_is_that_of_rfc_9530_and_may_not_be_left_out() -> None:
    fields = proof_of(b"body").fields
    expected = base64.b64encode(hashlib.sha256(b"body").digest()).decode()
    assert fields["Content-Digest"] == f"sha-256=:{expected}:"
    assert not admitted(request_with({"Authorization": fields["Authorization"]}))
    # A request that was proved without a body is worth nothing with one.
    body, _ = Gate(SECRET, now).admit(request_with(proof_of(None).fields), body_of(b"body"))
    with pytest.raises(HangUp):
        await body.read(100)


def test_every_bit_of_a_proof_counts() -> None:
    fields = proof_of().fields
    assert admitted(request_with(fields))
    scheme, _, credentials = fields["Authorization"].partition(" ")
    date, _, mac = credentials.partition(".")
    for at in range(len(mac) // 2):
        for bit in range(8):
            flipped = bytearray.fromhex(mac)
            flipped[at] ^= 1 << bit
            assert not admitted(
                request_with({**fields, "Authorization": f"{scheme} {date}.{flipped.hex()}"})
            )
    digest = fields["Content-Digest"]
    for text, field in ((date, "Authorization"), (digest, "Content-Digest")):
        for at, char in enumerate(text):
            for bit in range(7):
                other = chr(ord(char) ^ 1 << bit)
                changed = fields[field].replace(text, text[:at] + other + text[at + 1 :])
                # What is no field value does not get as far as here; blanks are put in nowhere.
                if other.isprintable() and other != " ":
                    assert not admitted(request_with({**fields, field: changed})), changed


def test_method_and_target_are_covered_as_they_stand() -> None:
    fields = proof_of().fields
    assert not admitted(request_with(fields, method="PUT"))
    for target in (TARGET + "/", TARGET + "?", TARGET + "?fresh", wire.PREFIX + "%62undle", "/"):
        assert not admitted(request_with(fields, target=target)), target
        assert admitted(request_with(proof_of(target=target).fields, target=target))


def test_what_is_no_proof_is_refused() -> None:
    fields = proof_of().fields
    credentials = fields["Authorization"].removeprefix("P2PWeb ")
    for wrong in (
        *("", "P2PWeb", "P2PWeb ", credentials, f"Basic {credentials}", f"P2PWeb {credentials}0"),
        *(f"P2PWeb {credentials[:-1]}", f"P2PWeb {credentials}, P2PWeb {credentials}"),
        *(f"P2PWeb {credentials.upper()}", f"P2PWeb 0{credentials}", f"P2PWeb -{credentials}"),
        *(f"P2PWeb {'9' * 13}.{'0' * 64}", f"P2PWeb {'0' * 64}", "P2PWeb \u0661.\u00e9"),
        fields["Authorization"].encode("utf-16").decode("latin-1").replace("\0", "\x80"),
    ):
        request = request_with({**fields, "Authorization": "x"})
        altered = tuple(
            (name, wrong.encode("utf-8") if name == b"authorization" else value)
            for name, value in request.fields
        )
        swapped = Request(
            **{
                name: getattr(request, name)
                for name in request.__struct_fields__
                if name != "fields"
            },
            fields=altered,
        )
        assert not admitted(swapped), wrong
    assert not admitted(request_with({}))
    # RFC 9110 §11.1: the scheme's name is case-insensitive.
    assert admitted(request_with({**fields, "Authorization": f"p2pWEB  {credentials}"}))


def test_another_secret_admits_nothing() -> None:
    assert not admitted(request_with(proof_of(secret=OTHER).fields))


@pytest.mark.parametrize("sign", [-1, 1])
def test_clocks_may_be_apart_as_far_as_the_window(sign: int) -> None:
    request = request_with(proof_of().fields)
    assert admitted(request, at=NOW + sign * DATE_WINDOW_S)
    assert not admitted(request, at=NOW + sign * (DATE_WINDOW_S + 1))


def test_a_wrong_clock_is_told_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    clock = [NOW]
    gate = Gate(SECRET, lambda: clock[0])
    assert not admitted(request_with(proof_of(secret=OTHER, at=0).fields), gate=gate)
    assert not caplog.records
    late = request_with(proof_of(at=NOW - 3_600).fields)
    for _ in range(3):
        assert not admitted(late, gate=gate)
    clock[0] += CLOCK_WARNING_S - 1
    assert not admitted(late, gate=gate)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "192.0.2.7" in record.getMessage()
    assert "its clock is 3600 s behind this one" in record.getMessage()
    clock[0] += 1
    assert not admitted(request_with(proof_of(at=clock[0] + 400).fields), gate=gate)
    assert "its clock is 400 s ahead of this one" in caplog.records[1].getMessage()
    assert admitted(request_with(proof_of(at=clock[0]).fields), gate=gate)


def test_an_answer_shows_the_secret_for_its_own_request_alone() -> None:
    proof = proof_of()
    _, (_, shown) = Gate(SECRET, now).admit(request_with(proof.fields), body_of(b""))
    assert proof.is_shown_by(shown)
    assert not proof_of(at=NOW + 1).is_shown_by(shown)
    assert not proof_of(b"other").is_shown_by(shown)
    assert not proof.is_shown_by(None)
    assert not proof.is_shown_by("")
    assert not proof.is_shown_by("mac=\u00e9")
    # The request's own MAC is no answer to it.
    assert not proof.is_shown_by("mac=" + proof.fields["Authorization"].partition(".")[2])


# The service and the client, over sockets


def file(data: bytes, path: str = "/a.txt") -> Item:
    blob = segments_of(data)[0].blob
    record = FileRecord(
        public_key=KEY.public_key,
        path=path,
        seq=1,
        media_type="text/plain",
        encodings=(Encoding("identity", blob.size_bytes, blob.root),),
    )
    return Item(sign(record, KEY))


@asynccontextmanager
async def service(secret: Secret | None = SECRET) -> AsyncIterator[tuple[Site, Store]]:
    """A peer's service behind a front end; what is not below its prefix is a page."""
    store = memory_store()
    gate = Gate(secret, now) if secret else None
    behind = PeerService(store, duties(lambda _: True), run, run, gate=gate)

    def handle(request: Request, body: RequestBody) -> Response | Awaitable[Response]:
        path, _, query = request.target.decode().partition("?")
        if path.startswith(wire.PREFIX):
            return behind.handle(request, path, query, body)
        return Response(status=200, body=b"page")

    try:
        async with serve(handle) as site:  # type: ignore[arg-type]
            yield site, store
    finally:
        store.close()


@asynccontextmanager
async def client(secret: Secret | None = SECRET) -> AsyncIterator[PeerClient]:
    made = PeerClient(tcp_connector, Prover(secret, now) if secret else None)
    try:
        yield made
    finally:
        await made.close()


async def said_to(site: Site, stream: bytes) -> bytes:
    """What comes back until the connection ends; a reset ends it too."""
    got = b""
    async with site.open() as (reader, writer):
        writer.write(stream)
        try:
            async with asyncio.timeout(PATIENCE_S):
                while data := await reader.read(65_536):
                    got += data
        except ConnectionResetError:
            pass
    return got


def stream_of(
    proof: Proof | None, body: bytes, length: int, more: str = "", kind: str = "bundle"
) -> bytes:
    lines = "".join(
        f"{name}: {value}\r\n" for name, value in (proof.fields if proof else {}).items()
    )
    lines += f"Content-Type: {wire.BUNDLE_MEDIA_TYPE}\r\nContent-Length: {length}\r\n{more}"
    return head_of(wire.PREFIX + kind, lines, "POST") + body


async def test_peers_with_one_secret_deal_with_one_another() -> None:
    async with service() as (site, store), client() as asker:
        where = ("127.0.0.1", site.port)
        assert (await asker.peer_info(where)).p2pweb == wire.PROTOCOL
        item = file(b"hello")
        (answer,) = await asker.send(where, [item], segments_of(b"hello"))
        assert answer.is_whole
        kept = store.find(record_key(item.signed.record))
        assert kept is not None and kept.has_bytes
        blob = segments_of(b"hello")[0].blob
        assert await asker.blocks(where, blob, b"", range(1)) == [b"hello"]
        # Absent is an answer too.
        assert await asker.blocks(where, segments_of(b"absent")[0].blob, b"", range(1)) is None
        assert await asker.live_site(where, KEY.site, fresh=True) is None


@pytest.mark.parametrize(
    ("secret", "why"), [(None, r"closed.*\(--secret FILE\)"), (OTHER, "another secret")]
)
async def test_without_the_secret_nothing_is_answered(secret: Secret | None, why: str) -> None:
    async with service() as (site, store), client(secret) as asker:
        item = file(b"hello")
        for call in (
            lambda: asker.peer_info(("127.0.0.1", site.port)),
            lambda: asker.peers(("127.0.0.1", site.port)),
            lambda: asker.send(("127.0.0.1", site.port), [item], segments_of(b"hello")),
        ):
            with pytest.raises(
                RemoteError, match=f"closed the connection without an answer: .*{why}"
            ):
                await call()
        assert store.find(record_key(item.signed.record)) is None
        assert all(entry.status == 0 for entry in site.entries)


@pytest.mark.parametrize("secret", [None, OTHER])
async def test_an_answer_of_a_peer_without_the_secret_is_not_believed(
    secret: Secret | None,
) -> None:
    # The service has no gate, or none that this proof passes: a gate that lets all pass lies too.
    async with service(None) as (site, _), client(secret or SECRET) as asker:
        where = ("127.0.0.1", site.port)
        with pytest.raises(NotAPeerError, match="does not have the secret of this network"):
            await asker.peer_info(where)
        with pytest.raises(NotAPeerError, match="does not have the secret"):
            await asker.live_site(where, KEY.site, fresh=False)
        # A page is a page, whoever asks.
        assert await asker.page(where, KEY.site, "/", 100) == segments_of(b"page")[0].blob


async def test_a_body_that_was_not_proved_commits_nothing_and_gets_nothing() -> None:
    item, other = file(b"hello"), file(b"other", "/other.txt")
    body = wire.encode_bundle([item], segments_of(b"hello"))
    swapped = wire.encode_bundle([other], segments_of(b"other"))
    async with service() as (site, store):
        for sent in (swapped, bytes(len(body)), b""):
            assert await said_to(site, stream_of(proof_of(body), sent, len(sent))) == b""
        for one in (item, other):
            assert store.find(record_key(one.signed.record)) is None
        assert b" 200 OK" in await said_to(
            site, stream_of(proof_of(body), body, len(body), "Connection: close\r\n")
        )
        assert store.find(record_key(item.signed.record)) is not None


async def test_no_body_is_read_without_proof() -> None:
    async with service() as (site, _):
        for proof in (None, proof_of(b"x" * 9, secret=OTHER), proof_of(b"x" * 9, at=0)):
            for more in ("", "Expect: 100-continue\r\n"):
                for kind in ("bundle", "publish", "copies", "nothing"):
                    # Nothing of the body comes: whoever waited for it would time out here.
                    assert await said_to(site, stream_of(proof, b"", 9, more, kind)) == b""
        stream = stream_of(proof_of(b"x" * 9), b"", 9, "Expect: 100-continue\r\n")
        async with site.open() as (reader, writer):
            writer.write(stream)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
            assert head == b"HTTP/1.1 100 Continue\r\n\r\n"


async def test_visitors_see_pages_as_ever() -> None:
    async with service() as (site, _):
        assert b"page" in await said_to(site, head_of("/", "Connection: close\r\n"))
        assert await said_to(site, head_of(wire.PREFIX + "peer")) == b""


async def test_the_status_needs_no_secret_on_the_machine_itself_and_only_there() -> None:
    option = f"Connection: {wire.STATUS_OPTION}, close\r\n"
    async with service() as (site, _):
        # The duties of this test have no status: a fault of ours is an answer.
        got = await said_to(site, head_of(wire.PREFIX + "status", option))
        assert got.startswith(b"HTTP/1.1 500 ")
        for kind, fields in (
            ("status", ""),
            ("statu", option),
            ("status/x", option),
            ("peer", option),
        ):
            assert await said_to(site, head_of(wire.PREFIX + kind, fields)) == b""
