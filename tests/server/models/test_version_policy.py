"""The next action, by example and for any history: a model is never left without a version that it could have."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_protos import ModelVersionStatus
from headrace_server.config.model_config import All, Latest, Specific, VersionPolicy
from headrace_server.models.version_policy import (
    Load,
    State,
    Unload,
    chosen,
    preserve_availability,
    preserve_resources,
)

START, LOADING, AVAILABLE, UNLOADING, END, AT_REST = State

VERSIONS = st.integers(-3, 8)


@pytest.mark.parametrize(
    ("aspired", "states", "action"),
    [
        (set(), {}, None),
        ({1}, {1: START}, Load(1)),
        ({1, 2}, {1: START, 2: START}, Load(2)),
        ({1, 2}, {1: START, 2: AVAILABLE}, Load(1)),
        ({2}, {1: AVAILABLE, 2: START}, Load(2)),
        ({2}, {1: AVAILABLE, 2: AVAILABLE}, Unload(1)),
        ({2}, {1: AVAILABLE, 2: END}, None),
        ({2}, {1: AVAILABLE, 2: LOADING}, None),
        ({2}, {1: UNLOADING, 2: START}, Load(2)),
        ({1}, {1: AVAILABLE, 2: AVAILABLE}, Unload(2)),
        ({3}, {1: AVAILABLE, 2: AVAILABLE, 3: START}, Unload(1)),
        ({3, 4}, {1: AVAILABLE, 3: AVAILABLE, 4: START}, Unload(1)),
        (set(), {1: AVAILABLE, 2: AVAILABLE}, Unload(1)),
        (set(), {1: AVAILABLE}, Unload(1)),
        (set(), {1: LOADING, 2: UNLOADING, 3: END}, None),
        ({1}, {1: END}, None),
        ({1}, {1: AVAILABLE}, None),
        ({1}, {}, None),
        ({1}, {1: AT_REST}, None),
        ({1, 2}, {1: AT_REST, 2: START}, Load(2)),
        ({2}, {1: AVAILABLE, 2: AT_REST}, Unload(1)),
    ],
)
def test_by_example(aspired: set[int], states: Mapping[int, State], action: Load | Unload | None) -> None:
    assert preserve_availability(aspired, states) == action


def test_the_states_have_the_numbers_of_the_protocol() -> None:
    assert {state.name: state.on_the_wire for state in State if state is not AT_REST} == {
        name: number for name, number in ModelVersionStatus.State.items() if name != "UNKNOWN"
    }
    assert AT_REST.on_the_wire == ModelVersionStatus.AVAILABLE


@pytest.mark.parametrize(
    ("aspired", "states", "action"),
    [
        (set(), {}, None),
        ({1}, {1: START}, Load(1)),
        ({1, 2}, {1: START, 2: START}, Load(2)),
        ({2}, {1: AVAILABLE, 2: START}, Unload(1)),
        ({3}, {1: AVAILABLE, 2: AVAILABLE, 3: START}, Unload(1)),
        ({2}, {1: UNLOADING, 2: START}, None),
        ({2}, {1: LOADING, 2: START}, None),
        ({2}, {1: END, 2: START}, Load(2)),
        ({1, 2}, {1: START, 2: AVAILABLE}, Load(1)),
        ({1}, {1: END}, None),
    ],
)
def test_resource_preserving_unloads_first(
    aspired: set[int], states: Mapping[int, State], action: Load | Unload | None
) -> None:
    assert preserve_resources(aspired, states) == action


@pytest.mark.parametrize(
    ("versions", "policy", "wanted"),
    [
        ((), Latest(), []),
        ((3,), Latest(), [3]),
        ((1, 10, 9), Latest(), [10]),
        ((-5, 0, -1), Latest(2), [0, -1]),
        ((1, 2), Latest(5), [2, 1]),
        ((1, 10, 9), All(), [10, 9, 1]),
        ((1, 10, 9), Specific((9, 1, 7)), [9, 1]),
        ((1, 10, 9), Specific((1, 1)), [1]),
        ((1, 10, 9), Specific(()), []),
    ],
)
def test_the_versions_that_a_policy_chooses(
    versions: tuple[int, ...], policy: VersionPolicy, wanted: list[int]
) -> None:
    assert chosen(versions, policy) == wanted


@dataclass
class History:
    """A model with versions that load or fail; it performs the policy's actions, as a manager does."""

    broken: frozenset[int]
    aspired: set[int] = field(default_factory=set)
    states: dict[int, State] = field(default_factory=dict)

    def aspire(self, versions: set[int]) -> None:
        for version in versions - self.aspired:
            if self.states.get(version) is not AVAILABLE:
                self.states[version] = START
        for version, state in self.states.items():
            if state is START and version not in versions:
                self.states[version] = END
        self.aspired = versions

    def act(self, action: Load | Unload) -> None:
        if isinstance(action, Load):
            assert action.version in self.aspired
            assert self.states[action.version] is START
            self.states[action.version] = END if action.version in self.broken else AVAILABLE
        else:
            assert action.version not in self.aspired
            assert self.states[action.version] is AVAILABLE
            self.states[action.version] = END

    def ready(self) -> set[int]:
        return {version for version, state in self.states.items() if state is AVAILABLE}

    def settle(self) -> None:
        """Acts until nothing is left to do, and checks that a version stays available throughout."""
        for _ in range(2 * len(self.states) + 1):
            action = preserve_availability(self.aspired, self.states)
            if action is None:
                return
            before = self.ready()
            self.act(action)
            assert self.ready() or not before or not self.aspired
        pytest.fail("there is always something left to do")


@given(st.lists(st.sets(VERSIONS), min_size=1, max_size=6), st.frozensets(VERSIONS))
def test_any_history_reaches_the_aspired_versions(wishes: list[set[int]], broken: frozenset[int]) -> None:
    history = History(broken)
    for wish in wishes:
        before = history.ready()
        history.aspire(wish)
        history.settle()
        good = wish - broken

        if good or not wish:
            assert history.ready() == good
        else:
            assert history.ready() <= before
            assert len(history.ready()) == min(len(before), 1)


@given(st.lists(st.tuples(st.sets(VERSIONS), st.integers(0, 4)), max_size=8), st.frozensets(VERSIONS))
def test_a_change_of_the_aspired_versions_costs_no_availability(
    wishes: list[tuple[set[int], int]], broken: frozenset[int]
) -> None:
    history = History(broken)
    for wish, actions in wishes:
        history.aspire(wish)
        for _ in range(actions):
            action = preserve_availability(history.aspired, history.states)
            if action is not None:
                before = history.ready()
                history.act(action)
                assert history.ready() or not before or not wish


@given(st.sets(VERSIONS), st.dictionaries(VERSIONS, st.sampled_from(State)))
def test_unloads_take_the_lowest_and_loads_the_highest(aspired: set[int], states: dict[int, State]) -> None:
    unwanted = [version for version, state in states.items() if state is AVAILABLE and version not in aspired]
    untried = [version for version in aspired if states.get(version) is START]

    match preserve_availability(aspired, states):
        case Unload(version):
            assert version == min(unwanted)
        case Load(version):
            assert version == max(untried)
        case None:
            assert not untried
