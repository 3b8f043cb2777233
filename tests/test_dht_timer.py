"""The one timer of the shell, on either event loop."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest
import uvloop

from p2pweb.dht.contact import Address
from p2pweb.dht.overlay import Overlay
from p2pweb.dht.serving import Held


class Nothing:
    def find(self, key: bytes) -> Held | None:
        return None

    def store(self, key: bytes, value: bytes, sender: Address) -> bool:
        return False


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_timer_that_is_due_already_may_be_armed_again(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """uvloop makes a handle without a time of whatever is due within half a millisecond."""

    async def scenario() -> None:
        rng = random.Random(1)
        one = Overlay(node_id=rng.randbytes(20), records=Nothing(), rng=rng, entropy=rng.randbytes)
        await one.listen([("127.0.0.1", 0)])
        try:
            peer = one._peer
            assert peer is not None
            loop = asyncio.get_running_loop()
            peer._probe_at = loop.time()
            for _ in range(2):
                one._arm()
            later = loop.create_future()
            loop.call_later(0.002, later.set_result, None)
            await later
            # It fired, and is set for the next time.
            assert peer._probe_at > loop.time()
            assert one._timer is not None
        finally:
            await one.close()
        assert one._timer is None

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(scenario())
