"""Whom the census asks, who counts, when it counts and what it logs: on a virtual clock."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast

import pytest
from lint_site import KEY, publish
from peer_processes import PATIENCE_S, SAMPLE, PeerProcess, network, run_cli
from peer_processes import publish as publish_site

from p2pweb import census as subject
from p2pweb.address import Address
from p2pweb.census import FRESH_S, GRACE_S, PERIOD_S, WAIT_S, Census
from p2pweb.dht.contact import Contact, NodeId, distance
from p2pweb.dht.events import ContactDown, ContactUp, Why
from p2pweb.dht.neighbourhood import NEIGHBOURS
from p2pweb.dht.overlay import ContactState, Overlay
from p2pweb.errors import RemoteError
from p2pweb.exchange.client import PeerClient
from p2pweb.exchange.wire import PREFIX, PROTOCOL, CopiesStatus, PeerInfo, SiteStatus
from p2pweb.keys import SiteId, SiteKey
from p2pweb.manifest import Manifest
from p2pweb.pages import Pages
from p2pweb.records import COPIES_DEFAULT, SiteRecord, dht_key, file_name, sign
from p2pweb.sim.loop import SimLoop
from p2pweb.sites import SiteVersion
from p2pweb.store.opening import memory_store
from p2pweb.store.store import Store

T = TypeVar("T")

# At least one of the files is due to this peer, however many others there are.
OWN = NodeId(dht_key(file_name(KEY.site, "/0.txt")))
FILES = {f"/{number}.txt": b"text %d" % number for number in range(20)}
HELD = PREFIX + "held/"
WHOLE = b"\xff\xff\x0f"
ALL_BUT_THE_FIRST = b"\xfe\xff\x0f"


def peer(number: int) -> Contact:
    return Contact(NodeId(number.to_bytes(20)), ("192.0.2.1", number))


@dataclass
class World:
    """The others: what each of them answers, and what is known of them."""

    answers: dict[Contact, bytes | None] = field(default_factory=dict)
    """What it holds; None where that is another version. Whoever is not here is silent."""
    known: list[Contact] = field(default_factory=list)
    strikes: dict[Contact, int] = field(default_factory=dict)
    left: list[Contact] = field(default_factory=list)
    home: SiteId = KEY.site
    few: bool = True
    asked: list[Address] = field(default_factory=list)
    slow_s: float = 0.0

    # The overlay

    def contacts(self) -> list[ContactState]:
        return [
            ContactState(one.id, one.address, 0.1, 0.0, self.strikes.get(one, 0), proved=True)
            for one in self.known
        ]

    def knows_few(self) -> bool:
        return self.few

    # Repair

    def keepers(self, contacts: Sequence[Contact]) -> list[Contact]:
        return list(contacts)

    def spared(self) -> list[NodeId]:
        return [one.id for one in self.left]

    def note(self, contact: Contact, *, keeps: bool) -> None:
        assert keeps

    # The client

    async def held(self, address: Address, site: SiteId, seq: int) -> bytes | None:
        assert (site, seq) == (KEY.site, 1)
        self.asked.append(address)
        await asyncio.sleep(self.slow_s)
        return self._answer(address)

    async def peer_info(self, address: Address) -> PeerInfo:
        self._answer(address)
        (one,) = [one for one in self.known if one.address == address]
        return PeerInfo(p2pweb=PROTOCOL, id=one.id.hex(), home=self.home, version="1")

    def _answer(self, address: Address) -> bytes | None:
        for one, data in self.answers.items():
            if one.address == address:
                return data
        raise RemoteError("it is silent")

    def everybody(self, count: int, data: bytes = WHOLE) -> None:
        self.known = [peer(number) for number in range(1, count + 1)]
        self.answers = dict.fromkeys(self.known, data)


def version(store: Store, copies: int = COPIES_DEFAULT) -> SiteVersion:
    signed = publish(store, FILES)
    assert isinstance(signed.record, SiteRecord)
    record = SiteRecord(**{**_fields(signed.record), "copies": copies})  # type: ignore[arg-type]
    blob = signed.record.manifest
    data = b"".join(store.read_block(blob, n) or b"" for n in range(blob.block_count))
    manifest = Manifest.decode(data)
    return SiteVersion(sign(record, KEY), record, manifest, Pages(manifest))


def _fields(record: SiteRecord) -> dict[str, object]:
    return {name: getattr(record, name) for name in record.__struct_fields__}


def census_of(world: World, test: Callable[[Census], Awaitable[None]], copies: int = 8) -> None:
    """Run a test of a census on a virtual clock."""
    loop = SimLoop()
    store = memory_store()
    live = version(store, copies)

    async def run(call: Callable[[], T]) -> T:
        return call()

    async def known() -> SiteVersion | None:
        return live

    async def main() -> None:
        census = Census(
            OWN,
            store,
            cast(PeerClient, world),
            cast(Overlay, world),
            world,
            known,
            run=run,
            rng=random.Random(1),
        )
        try:
            await test(census)
        finally:
            await census.close()

    try:
        loop.run_until_complete(main())
        assert loop.faults == []
    finally:
        store.close()
        loop.close()


async def status(census: Census) -> SiteStatus:
    (site,) = await census.statuses()
    return site


async def copies_of(census: Census) -> CopiesStatus:
    found = (await status(census)).copies
    assert found is not None
    return found


# What is here


def test_what_is_held_is_told_of_the_live_version_alone() -> None:
    async def test(census: Census) -> None:
        assert await census.held(KEY.site, 1) == WHOLE
        assert await census.held(KEY.site, 2) is None
        assert await census.held(SiteKey(b"o" * 32).site, 1) is None

    census_of(World(), test)


def test_what_is_held_is_looked_up_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0
    holds_whole = Store.holds_whole

    def counted(self: Store, wanted: Sequence[tuple[bytes, object]]) -> list[bool]:
        nonlocal looked
        looked += 1
        return holds_whole(self, wanted)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "holds_whole", counted)

    async def test(census: Census) -> None:
        for _ in range(10):
            await asyncio.gather(*(census.held(KEY.site, 1) for _ in range(10)))
        assert looked == 1
        await asyncio.sleep(subject.HELD_FOR_S)
        await census.held(KEY.site, 1)
        assert looked == 2

    census_of(World(), test)


# Who counts


def test_alone_its_own_copies_are_all() -> None:
    async def test(census: Census) -> None:
        site = await status(census)
        assert (site.site, site.seq, site.files, site.copies_asked) == (KEY.site, 1, 20, 8)
        found = await copies_of(census)
        assert (found.peers, found.wanted, found.copies, found.short) == (1, 1, 1, 0)
        assert (found.files, found.holders, found.lacking_bytes) == (20, (), 0)

    census_of(World(), test)


def test_all_that_answer_are_counted_and_named() -> None:
    world = World()
    world.everybody(2)

    async def test(census: Census) -> None:
        found = await copies_of(census)
        assert (found.peers, found.wanted, found.copies, found.worst) == (3, 3, 3, None)
        assert found.holders == ("192.0.2.1:1", "192.0.2.1:2")

    census_of(world, test)


def test_who_lacks_a_file_makes_it_the_worst_off() -> None:
    world = World()
    world.everybody(9)
    world.answers[peer(1)] = world.answers[peer(2)] = world.answers[peer(3)] = ALL_BUT_THE_FIRST

    async def test(census: Census) -> None:
        found = await copies_of(census)
        assert (found.wanted, found.copies, found.short, found.worst) == (8, 7, 1, "/0.txt")

    census_of(world, test)


def test_who_is_silent_holds_nothing_and_is_wanted_until_it_has_left_for_good() -> None:
    world = World()
    world.everybody(2)
    away = peer(2)

    async def counted(census: Census) -> tuple[int, int, int]:
        await asyncio.sleep(FRESH_S + 1.0)
        found = await copies_of(census)
        return found.copies, found.wanted, found.peers

    async def test(census: Census) -> None:
        assert await counted(census) == (3, 3, 3)
        del world.answers[away]
        assert await counted(census) == (2, 3, 3)
        # With strikes it is not even asked.
        world.strikes[away] = 2
        world.asked.clear()
        assert await counted(census) == (2, 3, 3)
        assert away.address not in world.asked
        world.known.remove(away)
        world.left.append(away)
        assert await counted(census) == (2, 3, 3)
        world.left.clear()
        assert await counted(census) == (2, 2, 2)

    census_of(world, test)


def test_who_was_never_heard_is_not_wanted() -> None:
    world = World()
    world.everybody(2)
    del world.answers[peer(2)]

    async def test(census: Census) -> None:
        assert (await copies_of(census)).wanted == 2

    census_of(world, test)


@pytest.mark.parametrize(("home", "wanted"), [(KEY.site, 3), (SiteKey(b"o" * 32).site, 2)])
def test_who_keeps_the_site_and_lacks_the_version_is_wanted(home: SiteId, wanted: int) -> None:
    world = World(home=home)
    world.everybody(2)
    world.answers[peer(2)] = None

    async def test(census: Census) -> None:
        found = await copies_of(census)
        assert (found.copies, found.wanted, found.peers) == (2, wanted, wanted)

    census_of(world, test)


def test_who_takes_another_home_is_wanted_no_more() -> None:
    world = World(home=SiteKey(b"o" * 32).site)
    world.everybody(2)

    async def test(census: Census) -> None:
        assert (await copies_of(census)).wanted == 3
        world.answers[peer(2)] = None
        await asyncio.sleep(FRESH_S + 1.0)
        found = await copies_of(census)
        assert (found.copies, found.wanted) == (2, 2)

    census_of(world, test)


def test_a_bitmap_of_another_length_is_no_copy() -> None:
    world = World()
    world.everybody(1, WHOLE + b"\0")

    async def test(census: Census) -> None:
        found = await copies_of(census)
        assert (found.copies, found.wanted) == (1, 2)

    census_of(world, test)


def test_among_many_peers_the_nearest_are_asked_for_what_is_due_here() -> None:
    world = World(few=False)
    rng = random.Random(5)
    world.known = [Contact(NodeId(rng.randbytes(20)), ("192.0.2.1", n + 1)) for n in range(100)]
    keys = [dht_key(file_name(KEY.site, path)) for path in FILES]
    due = sum(
        sum(distance(one.id, key) < distance(OWN, key) for one in world.known) < 8 for key in keys
    )
    world.answers = dict.fromkeys(world.known, WHOLE)

    async def test(census: Census) -> None:
        found = await copies_of(census)
        nearest = sorted(world.known, key=lambda one: distance(one.id, OWN))[:NEIGHBOURS]
        assert sorted(world.asked) == sorted(one.address for one in nearest)
        assert found.files == due > 0
        assert found.copies == found.wanted == 8

    census_of(world, test)


# When it counts


def test_a_count_is_told_for_a_while_and_then_made_anew() -> None:
    world = World()
    world.everybody(1)

    async def test(census: Census) -> None:
        await asyncio.gather(*(status(census) for _ in range(5)))
        await asyncio.sleep(FRESH_S - 1.0)
        assert (await copies_of(census)).ago_s == FRESH_S - 1.0
        assert len(world.asked) == 1
        await asyncio.sleep(2.0)
        assert (await copies_of(census)).ago_s == 0.0
        assert len(world.asked) == 2

    census_of(world, test)


def test_nobody_waits_long_for_one_that_is_slow() -> None:
    world = World(slow_s=2.5 * WAIT_S)
    world.everybody(1)

    async def test(census: Census) -> None:
        loop = asyncio.get_running_loop()
        assert (await status(census)).copies is None
        assert loop.time() == WAIT_S
        assert (await status(census)).copies is None
        assert (await copies_of(census)).wanted == 2
        assert loop.time() == world.slow_s and len(world.asked) == 1

    census_of(world, test)


def test_by_itself_it_counts_every_now_and_then_and_within_its_bytes() -> None:
    world = World()
    world.everybody(40)

    async def test(census: Census) -> None:
        census.start()
        await asyncio.sleep(86_400.0)
        rounds = len(world.asked) / 40
        assert 0.75 * 86_400 / PERIOD_S <= rounds <= 1.25 * 86_400 / PERIOD_S
        per_s = len(world.asked) * (subject.ASK_BYTES + len(WHOLE)) / 86_400
        assert per_s <= subject.BYTES_PER_S
        # However often peers leave, there are no more bytes.
        world.asked.clear()
        for _ in range(86_400 // 60):
            census.met(ContactDown(peer(41), Why.SILENT))
            await asyncio.sleep(60.0)
        per_s = len(world.asked) * (subject.ASK_BYTES + len(WHOLE)) / 86_400
        assert 0.9 * subject.BYTES_PER_S <= per_s <= subject.BYTES_PER_S * 1.01

    census_of(world, test)


def test_a_peer_that_has_just_begun_saves_up_for_a_count() -> None:
    world = World()
    world.everybody(40)

    async def test(census: Census) -> None:
        census.start()
        by_itself = census._at
        census.met(ContactDown(peer(41), Why.SILENT))
        saved_up = 40 * subject.ASK_BYTES / subject.BYTES_PER_S
        assert census._at == min(by_itself, saved_up)

    census_of(world, test)


def test_it_counts_soon_after_a_peer_has_left_and_not_because_one_came() -> None:
    world = World()
    world.everybody(1)

    async def test(census: Census) -> None:
        census.start()
        census.met(ContactUp(peer(2)))
        await asyncio.sleep(1.2 * subject.AFTER_GONE_S)
        assert world.asked == []
        census.met(ContactDown(peer(2), Why.SILENT))
        await asyncio.sleep(0.9 * subject.AFTER_GONE_S)
        assert world.asked == []
        await asyncio.sleep(0.4 * subject.AFTER_GONE_S)
        assert len(world.asked) == 1

    census_of(world, test)


# What it logs


def test_a_lasting_shortage_is_a_line_and_its_end_another(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    world.everybody(3)
    caplog.set_level(logging.INFO, "p2pweb.census")

    def lines() -> list[tuple[int, str]]:
        told = [(one.levelno, one.getMessage()) for one in caplog.records]
        caplog.clear()
        return told

    async def test(census: Census) -> None:
        census.start()
        await copies_of(census)
        world.answers[peer(1)] = ALL_BUT_THE_FIRST
        await asyncio.sleep(FRESH_S + 1.0)
        assert (await copies_of(census)).short == 1
        await asyncio.sleep(GRACE_S - 1.0)
        assert lines() == []
        await asyncio.sleep(2 * PERIOD_S)
        short = f"site {KEY.site} is short of copies: 1 of 20 files have fewer than 4; /0.txt has 3"
        assert lines() == [(logging.WARNING, short)]
        world.answers[peer(1)] = WHOLE
        await asyncio.sleep(2 * subject.SHORT_PERIOD_S)
        again = f"site {KEY.site} has its copies again: 4 of each file"
        assert lines() == [(logging.INFO, again)]

    census_of(world, test)


def test_a_short_absence_is_no_alarm(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.everybody(3)
    caplog.set_level(logging.INFO, "p2pweb.census")

    async def test(census: Census) -> None:
        census.start()
        await copies_of(census)
        del world.answers[peer(1)]
        await asyncio.sleep(FRESH_S + 1.0)
        assert (await copies_of(census)).short == 20
        await asyncio.sleep(subject.SHORT_PERIOD_S / 2)
        world.answers[peer(1)] = WHOLE
        await asyncio.sleep(2 * PERIOD_S)
        assert caplog.records == []

    census_of(world, test)


# With real processes


def told_site(peer: PeerProcess) -> str:
    return str(json.loads(peer.get(f"{PREFIX}peer").body)["home"])


def test_a_death_and_a_return_are_seen_in_the_copies(tmp_path: Path) -> None:
    with network(tmp_path / "peers", 3) as (watcher, other, mortal):
        publish_site(SAMPLE, watcher, tmp_path / "key")

        def told() -> tuple[int, int, int]:
            """Exit code, copies, copies wanted."""
            done = run_cli("status", "--peer", watcher.address, "--json")
            copies = json.loads(done.stdout)["sites"][0]["copies"]
            return (done.returncode, copies["copies"], copies["wanted"])

        def until(wanted: tuple[int, int, int]) -> None:
            deadline = time.monotonic() + PATIENCE_S
            while (found := told()) != wanted:
                assert time.monotonic() < deadline, f"it still says {found}"

        until((0, 3, 3))
        held = f"{HELD}{told_site(watcher)}"
        assert other.get(f"{held}/1").status == 200
        assert [other.get(f"{held}/1", method).status for method in ("HEAD", "POST")] == [200, 405]
        assert other.get(f"{held}/2").status == other.get(f"{HELD}{KEY.site}/1").status == 404
        shown = run_cli("status", "--peer", other.address).stdout
        assert "copies     3 of 3 wanted" in shown
        assert "kept by    3 peers, fewer than the 8 copies asked for: this one, " in shown
        mortal.kill_9()
        until((2, 2, 3))
        assert "/404.html" in run_cli("status", "--peer", watcher.address).stdout
        mortal.start()
        until((0, 3, 3))
        assert "is short of copies" not in watcher.log.read_text()
