"""Deadlines by key."""

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from p2pweb.dht.deadlines import STALE_ALLOWED, STALE_FACTOR, Deadlines

operations = st.lists(
    st.tuples(st.sampled_from(["set", "cancel", "pop"]), st.integers(0, 9), st.integers(0, 50))
)


@given(operations)
def test_behaves_like_a_dict_sorted_by_time(steps: list[tuple[str, int, int]]) -> None:
    deadlines: Deadlines[int] = Deadlines()
    model: dict[int, float] = {}
    for kind, key, when in steps:
        if kind == "set":
            deadlines.set(key, when)
            model.pop(key, None)
            model[key] = when
        elif kind == "cancel":
            deadlines.cancel(key)
            model.pop(key, None)
        else:
            due = sorted((k for k in model if model[k] <= when), key=lambda k: model[k])
            assert deadlines.pop_due(when) == due
            for gone in due:
                del model[gone]
        assert deadlines.next() == min(model.values(), default=inf)
        assert len(deadlines) == len(model)


def test_cancelled_deadlines_do_not_pile_up() -> None:
    deadlines: Deadlines[int] = Deadlines()
    deadlines.set(-1, 0.0)
    for key in range(10_000):
        deadlines.set(key, 1.0 + key)
        deadlines.cancel(key)
    assert len(deadlines._heap) <= STALE_FACTOR * 2 + STALE_ALLOWED
    assert deadlines.next() == 0.0
