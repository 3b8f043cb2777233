"""Where a server listens, and for how many visitors this process has descriptors."""

from __future__ import annotations

import resource

import pytest

from p2pweb.http.service import ServerLimits
from p2pweb.listening import OTHER_DESCRIPTORS, server_limits

USUAL = ServerLimits().connections_max


@pytest.mark.parametrize(
    ("granted", "connections"),
    [
        (resource.RLIM_INFINITY, USUAL),
        (1 << 20, USUAL),
        # Two for each visitor, besides the others.
        (OTHER_DESCRIPTORS + 2 * USUAL, USUAL),
        (OTHER_DESCRIPTORS + 2 * USUAL - 2, USUAL - 1),
        (1024, 384),
        (OTHER_DESCRIPTORS, 1),
        (16, 1),
    ],
)
def test_server_takes_no_more_visitors_than_it_has_descriptors_for(
    granted: int, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (granted, resource.RLIM_INFINITY))
    assert server_limits() == ServerLimits(connections_max=connections)
