"""The virtual clock: what is due comes in order, at once, and nothing waits for real."""

import asyncio

import pytest

from p2pweb.sim.loop import SimLoop, StuckError


def test_an_hour_passes_at_once_and_timers_come_in_order() -> None:
    loop = SimLoop()
    seen: list[tuple[str, float]] = []

    async def wait(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        seen.append((name, loop.time()))

    async def main() -> None:
        await asyncio.gather(wait("late", 3_600.0), wait("early", 0.5), wait("also early", 0.5))

    loop.run_until_complete(main())
    loop.close()
    assert [name for name, _ in seen] == ["early", "also early", "late"]
    assert seen[-1][1] == pytest.approx(3_600.0)


def test_what_nobody_will_ever_wake_is_an_error() -> None:
    loop = SimLoop()
    with pytest.raises(StuckError):
        loop.run_until_complete(loop.create_future())
    loop.close()


def test_what_runs_in_an_executor_is_done_at_once_errors_too() -> None:
    loop = SimLoop()

    def fail() -> None:
        raise ValueError("of the call")

    async def main() -> None:
        assert await loop.run_in_executor(None, len, "four") == 4
        with pytest.raises(ValueError, match="of the call"):
            await loop.run_in_executor(None, fail)
        assert loop.time() == 0.0

    loop.run_until_complete(main())
    loop.close()


def test_an_exception_that_nobody_handles_is_kept() -> None:
    loop = SimLoop()

    def fail() -> None:
        raise ValueError("in a callback")

    async def main() -> None:
        loop.call_soon(fail)
        await asyncio.sleep(1.0)

    loop.run_until_complete(main())
    loop.close()
    assert len(loop.faults) == 1
    assert "in a callback" in loop.faults[0]


def test_sockets_without_an_explicit_address_are_refused() -> None:
    loop = SimLoop()
    with pytest.raises(NotImplementedError, match="explicit address"):
        loop.run_until_complete(loop.create_datagram_endpoint(asyncio.DatagramProtocol))
    loop.close()
