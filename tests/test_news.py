"""A new version reaches all peers, and those that were away, at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from peer_processes import network, publish

from p2pweb.dht import wire
from p2pweb.dht.contact import Contact, NodeId
from p2pweb.dht.overlay import ContactState, Overlay
from p2pweb.keys import SiteKey
from p2pweb.news import NEAR, News
from p2pweb.records import Signed, SiteRecord, sign
from p2pweb.sim.report import report
from p2pweb.sim.run import run
from p2pweb.sim.scenario import Expected, Scenario, Site, Workload


def test_a_version_is_everywhere_within_seconds_of_a_publish() -> None:
    wanted = Scenario(
        about="peers that keep a site",
        peers_are="whole",
        peers=30,
        hours=120.0 / 3_600.0,
        settle_s=40.0,
        workload=Workload(gets_per_s=1.0, misses=0.0),
        site=Site(files=10, publishes_per_hour=120.0),
        expected=Expected(news_s=3.0),
    )
    done = run(wanted, 1, lambda what, share: None)
    assert done.faults == [] and done.ledger.violations == []
    assert len(done.ledger.news_s) >= 2
    assert report(done).missed == []


def test_a_peer_that_was_away_serves_the_newest_version_from_the_first_answer_on(
    tmp_path: Path,
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    page = site / "index.html"
    with network(tmp_path / "peers", 3) as peers:
        for text in ("first", "second"):
            page.write_text(text)
            publish(site, peers[1], tmp_path / "key")
            peers[2].wait_for("/", text.encode())
        for text in ("third", "fourth", "fifth"):
            peers[2].kill_9()
            page.write_text(text)
            publish(site, peers[1], tmp_path / "key")
            assert peers[2].start().get("/").body == text.encode()


class Around:
    """An overlay of contacts of which each answers a STORE in its own way."""

    id = NodeId(bytes(20))

    def __init__(self, answers: Sequence[wire.StoreAnswer | None]) -> None:
        self.known = [
            Contact(NodeId(bytes([n]) * 20), ("192.0.2.1", n)) for n in range(1, 1 + len(answers))
        ]
        self._answers = dict(zip(self.known, answers, strict=True))
        self.told: list[Contact] = []
        self.unproved: set[Contact] = set()
        self.struck: set[Contact] = set()

    def contacts(self) -> list[ContactState]:
        return [
            ContactState(
                one.id, one.address, None, 0.0, int(one in self.struck), one not in self.unproved
            )
            for one in self.known
        ]

    async def store(self, contact: Contact, key: bytes, value: bytes) -> wire.StoreAnswer | None:
        self.told.append(contact)
        return self._answers[contact]


def record(seq: int) -> Signed:
    key = SiteKey(b"k" * 32)
    return sign(
        SiteRecord(
            public_key=key.public_key,
            seq=seq,
            published_s=seq,
            copies=8,
            manifest_size_bytes=1,
            manifest_root=bytes(32),
        ),
        key,
    )


async def told(news: News) -> None:
    await asyncio.gather(*news._tellings)


async def test_who_has_what_it_is_told_of_or_wants_it_keeps_the_site() -> None:
    answers: list[wire.StoreAnswer | None] = [
        *({"want": "root"}, {"stale": 2}, {"stale": 5}),
        *(True, {"refused": "this peer does not store the site"}, None),
    ]
    around, behind, keepers = Around(answers), list[str](), list[Contact]()
    news = News(
        cast(Overlay, around),
        random.Random(1),
        behind.append,
        lambda site, contact: keepers.append(contact),
    )
    assert news.spread(record(2))
    await told(news)
    assert set(around.told) == set(around.known)
    # A stock node says True to whatever it is told.
    assert keepers == around.known[:3]
    assert behind == [record(5).record.site]


async def test_who_may_be_dead_is_told_only_where_there_are_too_few_others() -> None:
    around = Around([True] * 20)
    around.unproved, around.struck = set(around.known[:5]), set(around.known[5:10])
    news = News(
        cast(Overlay, around), random.Random(1), lambda site: None, lambda site, contact: None
    )
    assert news.spread(record(1))
    await told(news)
    assert set(around.told) <= set(around.known[10:])
    assert set(around.told) >= set(around.known[10 : 10 + NEAR])

    around.told.clear()
    around.unproved = set(around.known[:18])
    assert news.spread(record(2))
    await told(news)
    assert set(around.told) == {*around.known[18:], *around.known[: NEAR - 2]}


async def test_what_is_known_is_told_only_to_whoever_is_behind() -> None:
    around = Around([True, True])
    one, other = around.known
    news = News(
        cast(Overlay, around), random.Random(1), lambda site: None, lambda site, contact: None
    )
    news.compare(one, record(1))
    assert news.know(record(2))
    assert not news.know(record(1))
    assert not news.spread(record(2))
    news.compare(one, record(2))
    news.compare(one, record(3))
    await told(news)
    assert around.told == []
    news.compare(one, record(1))
    # One now and then.
    news.compare(other, record(1))
    await told(news)
    assert around.told == [one]
