"""Round trips and timeouts."""

import pytest

from p2pweb.dht.rtt import Rtt, within
from p2pweb.dht.settings import DEFAULTS, Settings


def test_nothing_measured_means_no_timeout() -> None:
    assert Rtt(DEFAULTS).timeout_s() is None
    assert Rtt(DEFAULTS).brisk_timeout_s() is None


def test_first_sample_allows_two_round_trips_and_one_and_a_half_where_others_stand_in() -> None:
    rtt = Rtt(DEFAULTS)
    rtt.sample(0.1)
    assert rtt.smoothed_s == 0.1
    assert rtt.timeout_s() == pytest.approx(0.2)
    assert rtt.brisk_timeout_s() == pytest.approx(0.15)


def test_steady_round_trips_bring_the_timeout_near_the_mean() -> None:
    rtt = Rtt(DEFAULTS)
    for _ in range(100):
        rtt.sample(0.1)
    assert rtt.timeout_s() == pytest.approx(0.1 + DEFAULTS.rtt_margin_s)


def test_variation_widens_the_timeout_as_rfc_6298_says() -> None:
    rtt = Rtt(DEFAULTS)
    rtt.sample(0.1)
    rtt.sample(0.2)
    variation = 3 / 4 * 0.025 + 1 / 4 * 0.1
    assert rtt.timeout_s() == pytest.approx(0.1125 + 4 * variation)
    assert rtt.brisk_timeout_s() == pytest.approx(0.1125 + 2 * variation)


def test_floor_ceiling_and_doubling() -> None:
    settings = Settings(rtt_floor_s=0.02, rtt_ceiling_s=5.0)
    rtt = Rtt(settings)
    rtt.sample(0.0001)
    assert rtt.timeout_s() == 0.02
    assert rtt.timeout_s(tries=2) == 0.04
    rtt = Rtt(settings)
    rtt.sample(100.0)
    assert rtt.timeout_s() == 5.0
    assert within(0.5, settings, tries=3) == 2.0
    assert within(0.5, settings, tries=40) == 5.0
