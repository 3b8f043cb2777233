"""A new version reaches all peers, and those that were away, at once."""

from __future__ import annotations

from pathlib import Path

from peer_processes import network, publish

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
