"""The batching decision, on a virtual clock."""

from dataclasses import dataclass
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_batching import Priority
from headrace_batching.policy import choose

NORMAL, LOW = Priority.NORMAL, Priority.LOW


@dataclass
class Waiting:
    """A group of waiting tasks, as the batching decision sees it."""

    due: float
    full: bool = False
    priority: Priority = NORMAL


@pytest.mark.parametrize(
    ("groups", "chosen", "wake"),
    [
        pytest.param([], None, inf, id="nothing waits"),
        pytest.param([Waiting(9)], 0, 10, id="due"),
        pytest.param([Waiting(10)], 0, 10, id="due now"),
        pytest.param([Waiting(11)], None, 11, id="not yet due"),
        pytest.param([Waiting(11, full=True)], 0, 10, id="a full batch never waits"),
        pytest.param([Waiting(13), Waiting(11), Waiting(12)], None, 11, id="wakes for the earliest"),
        pytest.param([Waiting(9), Waiting(1)], 0, 10, id="groups take turns, whatever their age"),
        pytest.param([Waiting(11), Waiting(9)], 1, 10, id="a group that is not due is skipped"),
        pytest.param([Waiting(9, priority=LOW), Waiting(9)], 1, 10, id="normal first"),
        pytest.param(
            [Waiting(9, full=True, priority=LOW), Waiting(9)], 1, 10, id="normal before a full low-priority batch"
        ),
        pytest.param([Waiting(9, priority=LOW), Waiting(11)], 0, 10, id="low priority while normal is not due"),
        pytest.param([Waiting(9, priority=LOW), Waiting(9, priority=LOW)], 0, 10, id="low-priority groups take turns"),
    ],
)
def test_choose(groups: list[Waiting], chosen: int | None, wake: float) -> None:
    expected = None if chosen is None else groups[chosen]

    got = choose(groups, 10)

    assert got[0] is expected
    assert got[1] == wake


def modelled(groups: list[Waiting], now: float) -> tuple[Waiting | None, float]:
    """A second, simpler implementation of the decision."""
    ready = [group for group in groups if group.full or group.due <= now]
    for priority in (NORMAL, LOW):
        for group in ready:
            if group.priority is priority:
                return group, now
    return None, min((group.due for group in groups), default=inf)


waiting = st.builds(Waiting, due=st.integers(0, 20), full=st.booleans(), priority=st.sampled_from(Priority))


# The first examples are slow to draw on a busy machine or with coverage.
@given(groups=st.lists(waiting, max_size=6), now=st.integers(0, 20))
def test_choose_agrees_with_its_model(groups: list[Waiting], now: int) -> None:
    expected, wake = modelled(groups, now)

    got = choose(groups, now)

    assert got[0] is expected
    assert got[1] == wake
