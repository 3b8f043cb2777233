"""Neighbours that leave are noticed soon, and at next to no cost while nobody does."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import cast

import pytest
from msgspec import structs

from p2pweb import watch as watch_module
from p2pweb.address import Address
from p2pweb.dht.contact import NodeId
from p2pweb.dht.neighbourhood import NEIGHBOURS
from p2pweb.dht.overlay import ContactState, Overlay, OverlayClosedError
from p2pweb.watch import MORE, MORE_MAX, Watch


def contact(number: int, *, last_answer: float = -1e6, strikes: int = 0) -> ContactState:
    known = NodeId(number.to_bytes(20))
    return ContactState(known, ("192.0.2.1", number), None, last_answer, strikes, proved=True)


@dataclass
class Around:
    """The overlay of id 0, with these contacts; asking the silent gives them a strike."""

    known: list[ContactState]
    silent: set[int] = field(default_factory=set)
    asked: list[int] = field(default_factory=list)
    is_closed: bool = False

    def contacts(self) -> list[ContactState]:
        return self.known

    def neighbours(self, count: int) -> list[ContactState]:
        sound = [one for one in self.known if not one.strikes]
        return sorted(sound, key=lambda one: one.id)[:count]

    async def ping(self, address: Address, *, tries: int) -> float | None:
        assert tries == 1
        if self.is_closed:
            raise OverlayClosedError("closed")
        number = address[1]
        self.asked.append(number)
        index = next(n for n, one in enumerate(self.known) if one.address == address)
        if number in self.silent:
            self.known[index] = structs.replace(self.known[index], strikes=1)
            return None
        now = asyncio.get_running_loop().time()
        self.known[index] = structs.replace(self.known[index], last_answer=now)
        return 0.1


async def looks(around: Around, times: int = 1) -> list[int]:
    """Whom a peer asks in so many looks."""
    watch = Watch(cast(Overlay, around))
    for _ in range(times):
        await watch._look()
    return around.asked


async def test_one_neighbour_at_a_time_is_asked_the_stalest_first() -> None:
    around = Around([contact(1, last_answer=-5e5), contact(2), contact(3, last_answer=-6e5)])
    assert await looks(around, 5) == [2, 3, 1]


async def test_where_one_is_silent_more_are_asked_at_once() -> None:
    around = Around([contact(number) for number in range(1, 31)], silent={1})
    assert await looks(around) == list(range(1, 2 + MORE))


async def test_where_many_left_all_neighbours_are_asked_and_those_next_in_line() -> None:
    everybody = range(1, 3 * NEIGHBOURS)
    around = Around([contact(number) for number in everybody], silent=set(everybody[::2]))
    # For each who is silent one more farther off is a neighbour, who may have left with it.
    assert sorted(await looks(around)) == list(everybody)
    few = Around([contact(number) for number in everybody], silent=set(everybody[::4]))
    asked = await looks(few)
    answered = [number for number in asked if number not in few.silent]
    assert len(asked) == len(set(asked))
    assert 0 <= NEIGHBOURS + len(few.silent & set(asked)) - len(answered) <= MORE


async def test_looks_that_nobody_was_there_for_stay_saved_up() -> None:
    first = [contact(number) for number in range(1, 31)]
    around = Around(first, silent=set(range(1, 31)))
    watch = Watch(cast(Overlay, around))
    await watch._look()
    assert len(around.asked) == 30
    later = [contact(number) for number in range(31, 31 + MORE_MAX)]
    around.known += later
    around.silent.update(range(31, 31 + MORE_MAX))
    await watch._look()
    # The first look of each time costs nothing.
    assert len(around.asked) == MORE_MAX + 2


async def test_where_peers_leave_all_the_time_no_more_are_asked_than_was_saved_up_for() -> None:
    around = Around([contact(number) for number in range(1, 400)], silent=set(range(1, 400)))
    watch = Watch(cast(Overlay, around))
    looks_each = list[int]()
    for _ in range(9):
        before = len(around.asked)
        await watch._look()
        looks_each.append(len(around.asked) - before)
    # What was saved up is used up, and then there is one at a time.
    assert sum(looks_each) <= MORE_MAX + 9
    assert looks_each[0] > NEIGHBOURS
    assert looks_each[-1] == 1


async def test_who_comes_back_has_saved_up_for_nothing_yet() -> None:
    for proved, count in ((True, 1 + MORE), (False, 1)):
        known = [structs.replace(contact(number), proved=proved) for number in range(1, 31)]
        around = Around(known, silent={1})
        watch = Watch(cast(Overlay, around))
        watch.start()
        await watch._look()
        await watch.close()
        assert len(around.asked) == count


async def test_nobody_farther_off_is_asked_while_all_answer() -> None:
    around = Around([contact(number) for number in range(1, 2 * NEIGHBOURS)])
    assert set(await looks(around, 3 * NEIGHBOURS)) == set(range(1, NEIGHBOURS + 1))


async def test_watching_ends_with_the_overlay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "EVERY_S", 0.0)
    around = Around([contact(1)], is_closed=True)
    watch = Watch(cast(Overlay, around))
    await watch.start()
    await watch.close()
