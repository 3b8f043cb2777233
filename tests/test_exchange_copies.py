"""Many copies in one answer: what a peer gives out at some keys, and odd questions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest
from peer_duties import duties

from p2pweb.blobs import SegmentData, segments_of
from p2pweb.exchange import wire
from p2pweb.exchange.service import PeerService
from p2pweb.http.messages import Refusal, Request, Response
from p2pweb.http.service import RequestBody
from p2pweb.keys import SiteKey
from p2pweb.records import Encoding, FileRecord, record_key, sign
from p2pweb.store.items import Item
from p2pweb.store.opening import memory_store
from p2pweb.store.store import Store

T = TypeVar("T")

KEY = SiteKey(b"k" * 32)
PATH = wire.PREFIX + "copies"


async def run(call: Callable[[], T]) -> T:
    return call()


def file(data: bytes, path: str) -> tuple[Item, list[SegmentData]]:
    segments = segments_of(data)
    blob = segments[0].blob
    record = FileRecord(
        public_key=KEY.public_key,
        path=path,
        seq=1,
        media_type="text/plain",
        encodings=(Encoding("identity", blob.size_bytes, blob.root),),
    )
    return Item(sign(record, KEY)), segments


def key_of(item: Item) -> bytes:
    return record_key(item.signed.record, item.segment)


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Store, PeerService]]:
    store = memory_store()
    try:
        yield store, PeerService(store, duties(lambda _: True), run, run)
    finally:
        store.close()


async def ask(
    service: PeerService,
    data: bytes,
    *,
    method: str = "POST",
    media_type: str = wire.KEYS_MEDIA_TYPE,
) -> Response:
    pieces = [data, b""]

    async def next_data() -> bytes:
        return pieces.pop(0)

    request = Request(
        method=method,
        target=PATH.encode(),
        version=(1, 1),
        fields=((b"content-type", media_type.encode()),),
        host="",
        host_port=None,
        content_length=len(data),
        keep_alive=True,
        expects_continue=False,
    )
    return await service.handle(request, PATH, None, RequestBody(len(data), next_data))


async def copies(service: PeerService, *wanted: tuple[bytes, bool]) -> wire.Bundle:
    response = await ask(service, wire.encode_wanted(wanted))
    assert response.status == 200 and isinstance(response.body, bytes)
    return wire.decode_bundle(response.body)


async def test_records_and_bytes_come_in_one_answer_and_the_unknown_is_left_out() -> None:
    async with serving() as (store, service):
        (one, [segment]), (other, [other_segment]) = file(b"one", "/1"), file(b"other", "/2")
        store.commit([one, other], [segment, other_segment])
        answer = await copies(
            service, (key_of(one), True), (bytes(20), True), (key_of(other), False)
        )
        assert [item.value for item in answer.items] == [one.signed.value, other.signed.value]
        assert answer.segments() == [segment]


async def test_an_answer_says_whose_bytes_are_not_here() -> None:
    async with serving() as (store, service):
        item, _ = file(b"one", "/1")
        store.commit([Item(item.signed, with_bytes=False)])
        answer = await copies(service, (key_of(item), True))
        assert [one.with_bytes for one in answer.items] == [False]
        assert answer.segments() == []


async def test_bytes_that_two_files_share_come_once() -> None:
    async with serving() as (store, service):
        (one, [segment]), (other, _) = file(b"same", "/1"), file(b"same", "/2")
        store.commit([one, other], [segment])
        answer = await copies(service, (key_of(one), True), (key_of(other), True))
        assert (len(answer.items), answer.segments()) == (2, [segment])


async def test_bytes_beyond_the_room_of_an_answer_wait_for_the_next_one() -> None:
    async with serving() as (store, service):
        third = wire.BUNDLE_DATA_BYTES // 3
        files = [file(bytes([number]) * third, f"/{number}") for number in range(4)]
        for item, segments in files:
            store.commit([item], segments)
        answer = await copies(service, *((key_of(item), True) for item, _ in files))
        assert [one.with_bytes for one in answer.items] == [True] * 4
        assert answer.segments() == [segment for _, segments in files[:3] for segment in segments]
        rest = await copies(service, (key_of(files[3][0]), True))
        assert rest.segments() == files[3][1]


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x91\x92\xc4\x01x\xc3"])
async def test_what_are_no_keys_is_refused(data: bytes) -> None:
    async with serving() as (_, service):
        response = await ask(service, data)
        assert response.status == 400


async def test_keys_are_posted_as_keys_and_not_without_end() -> None:
    async with serving() as (_, service):
        assert (await ask(service, b"\x90", method="GET")).status == 405
        with pytest.raises(Refusal) as refusal:
            await ask(service, b"\x90", media_type="text/plain")
        assert refusal.value.status == 415
        with pytest.raises(Refusal) as refusal:
            await ask(service, bytes(wire.KEYS_BYTES_MAX + 1))
        assert refusal.value.status == 413
