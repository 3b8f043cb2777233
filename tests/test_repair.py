"""Copies that keep themselves, with whole peers on a virtual clock and with real processes."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from peer_processes import PATIENCE_S, PeerProcess, free_ports, network, publish

from p2pweb.address import Address
from p2pweb.blobs import SegmentData
from p2pweb.exchange.client import PeerClient
from p2pweb.exchange.wire import Bundle
from p2pweb.sim.run import Run, run
from p2pweb.sim.scenario import Fault, Scenario, Site, Workload
from p2pweb.store.items import Item, Outcome
from p2pweb.store.store import Store

FILES = 40


def scenario(faults: Sequence[Fault], *, peers: int = 30, seconds: float = 60.0) -> Scenario:
    return Scenario(
        about="peers that keep a site",
        peers_are="whole",
        peers=peers,
        hours=seconds / 3_600.0,
        joins_per_s=10.0,
        settle_s=40.0,
        faults=list(faults),
        workload=Workload(gets_per_s=1.0, misses=0.0),
        # No small ones: the bytes of those are wherever their records are.
        site=Site(files=FILES, file_bytes=10_000, surveys=round(seconds / 2)),
    )


def run_quietly(wanted: Scenario) -> Run:
    done = run(wanted, 1, lambda what, share: None)
    assert done.faults == [] and done.ledger.violations == []
    return done


def test_newcomers_fetch_what_is_due_to_them_once_and_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    received = 0
    copies = PeerClient.copies

    async def counted(
        self: PeerClient, address: Address, wanted: Sequence[tuple[bytes, bool]]
    ) -> Bundle | None:
        nonlocal received
        answer = await copies(self, address, wanted)
        received += len(answer.items) if answer else 0
        return answer

    monkeypatch.setattr(PeerClient, "copies", counted)
    joining = Fault(at_s=20.0, kind="join", share=0.2)
    done = run_quietly(scenario([joining], seconds=40.0))
    last = done.surveys[-1]
    assert (last.records_lacking, last.bodies_lacking, last.lost) == (0, 0, 0)
    assert done.samples[-1].live == 36
    # 30 peers fetch the records that nobody counted, 6 newcomers what is due to them: each record
    # once, but for what newcomers have too much who do not know one another yet.
    before, newcomers = FILES * (20 - 8), 6 * FILES * 20 / 36
    assert received <= before + 1.5 * newcomers
    assert len(done.arrivals) == 6
    for one in done.arrivals:
        # Thirteen median round trips; it was thirty before joining, asking for the version and
        # meeting those who decide what is due went on side by side.
        assert one.took_s is not None and one.took_s < 2.0
        assert one.sent >= one.due > 0 and one.repeated <= 0.1 * one.due


def test_copies_are_whole_again_after_a_third_of_all_peers_vanished() -> None:
    crash = Fault(at_s=4.0, kind="crash", share=0.33)
    done = run_quietly(scenario([crash], seconds=150.0))
    by_time = {round(one.at_s - done.began_s): one for one in done.surveys}
    assert by_time[10].bodies_lacking > 0
    last = done.surveys[-1]
    assert (last.records_lacking, last.bodies_lacking, last.lost) == (0, 0, 0)


def test_a_short_absence_moves_nothing() -> None:
    faults = [
        Fault(at_s=4.0, kind="crash", share=0.2),
        Fault(at_s=24.0, kind="return", share=1.0),
    ]
    done = run_quietly(scenario(faults, seconds=90.0))
    away = [one for one in done.surveys if 6.0 < one.at_s - done.began_s < 24.0]
    assert away and {one.bodies_lacking for one in away} == {away[0].bodies_lacking}
    assert done.surveys[-1].bodies_lacking == done.surveys[-1].records_lacking == 0


def test_bytes_that_are_wrong_are_not_kept_and_come_from_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    liars: set[Address] = set()
    copies = PeerClient.copies

    async def lying(
        self: PeerClient, address: Address, wanted: Sequence[tuple[bytes, bool]]
    ) -> Bundle | None:
        answer = await copies(self, address, wanted)
        # The first ten that have bytes to give lie from then on.
        if address in liars or (answer and answer.parts and len(liars) < 10):
            liars.add(address)
            assert answer is not None
            forged = [msgspec.structs.replace(part, data=b"x") for part in answer.parts]
            return msgspec.structs.replace(answer, parts=tuple(forged))
        return answer

    monkeypatch.setattr(PeerClient, "copies", lying)
    done = run_quietly(scenario([Fault(at_s=5.0, kind="join", share=0.2)], seconds=120.0))
    last = done.surveys[-1]
    assert len(liars) == 10
    assert (last.records_lacking, last.bodies_lacking, last.lost) == (0, 0, 0)


def test_a_disk_that_is_full_for_a_while_ends_no_repair(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = 0
    commit = Store.commit

    def full(
        self: Store, items: Sequence[Item], segments: Sequence[SegmentData] = ()
    ) -> list[Outcome]:
        nonlocal refused
        # The first hundred, after those of the publish.
        if len(self.sites()) and self.live.seq(self.sites()[0]) and items and refused < 100:
            refused += 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return commit(self, items, segments)

    monkeypatch.setattr(Store, "commit", full)
    done = run_quietly(scenario([Fault(at_s=5.0, kind="join", share=0.2)], seconds=240.0))
    last = done.surveys[-1]
    assert refused == 100
    assert (last.records_lacking, last.bodies_lacking, last.lost) == (0, 0, 0)


# Real processes


def test_a_newcomer_alone_has_the_whole_site_once_the_others_are_gone(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    pages = {f"page {number}.txt": b"text %d\n" % number * 40 for number in range(30)}
    # Longer than what one answer takes along, and with several segments.
    pages["long.bin"] = bytes(range(256)) * 4 * 9 * 1_024
    for name, data in pages.items():
        (site / name).write_bytes(data)
    with network(tmp_path / "peers", 3) as peers:
        publish(site, peers[0], tmp_path / "key")
        (port,) = free_ports(1)
        newcomer = PeerProcess(port, tmp_path / "peers" / "newcomer", [peers[1].port]).start()
        try:
            until_fetched(newcomer, len(pages) + 2)
            for peer in peers:
                peer.kill_9()
            for name, data in pages.items():
                answer = newcomer.get("/" + name.replace(" ", "%20"))
                assert (answer.status, answer.body) == (200, data)
        finally:
            newcomer.stop()


def until_fetched(peer: PeerProcess, copies: int) -> None:
    """Wait until a peer has fetched so many copies, in one round or several."""
    end = time.monotonic() + PATIENCE_S
    while sum(map(int, re.findall(r"fetched (\d+) copies", log := peer.log.read_text()))) < copies:
        assert time.monotonic() < end, log
        time.sleep(0.05)
