"""Loads: how many run at once, how often they are retried, when they are cancelled, and the labels of new versions."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from threading import Event, Thread, current_thread
from types import SimpleNamespace

import pytest

from headrace_batching import BatchThreads
from headrace_protos import Code
from headrace_server.errors import LoadError, ServingError
from headrace_server.models import action_threads
from headrace_server.models.action_threads import QUICK_SECONDS
from headrace_server.models.manager import Manager, Publish
from headrace_server.models.manager_options import ManagerOptions
from headrace_server.models.servable import Servable
from headrace_server.models.turns import SECONDS
from headrace_server.models.version_policy import State, preserve_resources
from headrace_server.processes.time_slices import LOAD_NS
from tests.support.running import eventually
from tests.support.slices import needs_slices, slice_of

from .backend import PATIENCE, Adder
from .still_clock import StillClock

START, LOADING, AVAILABLE, UNLOADING, END, _AT_REST = State

HOURS = 36_000.0


class Loads:
    """A loader that can block a version or make it fail several times, and a clock that stands still."""

    def __init__(self) -> None:
        self.threads = BatchThreads(1)
        self.begun: list[int] = []
        self.on: list[tuple[Thread, float]] = []
        self.held: dict[int, Event] = {}
        self.failures: dict[int, int] = {}
        self.code = Code.DATA_LOSS
        self.backends: dict[int, Adder] = {}
        self.clock = StillClock()

    def load(self, name: str, version: int, path: Path) -> Servable:
        del path
        self.begun.append(version)
        self.on.append((current_thread(), sys.getswitchinterval()))
        if version in self.held:
            assert self.held[version].wait(PATIENCE)
        if self.failures.get(version, 0) > 0:
            self.failures[version] -= 1
            raise LoadError(self.code, f"try {self.begun.count(version)} of {version}")
        self.backends[version] = Adder()
        return Servable(name, version, self.backends[version], self.threads, None)


class Managed:
    """A manager of one model, `m`."""

    def __init__(self, loads: Loads, publish: Publish | None = None, **options: object) -> None:
        self.loads = loads
        manager_options = ManagerOptions(**options)  # type: ignore[arg-type]
        self.manager = Manager(loads.load, manager_options, loads.clock, publish=publish)
        self.manager.start()

    def aspire(self, *versions: int, name: str = "m") -> None:
        self.manager.aspire(name, {version: Path(f"/{version}") for version in versions})

    def states(self) -> dict[int, State]:
        return {status.version: status.state for name in "mn" for status in self.manager.statuses(name)}

    def reach(self, states: Mapping[int, State]) -> None:
        eventually(lambda: self.states() == states)

    def error(self, version: int) -> tuple[Code, str] | None:
        error = next(status for status in self.manager.statuses("m") if status.version == version).error
        return (error.code, error.message) if isinstance(error, ServingError) else None

    def assign(self, labels: Mapping[str, int], *, to_unavailable: bool = False) -> None:
        self.manager.assign_labels({"m": labels}, to_unavailable=to_unavailable)

    def labelled(self, label: str) -> int:
        with self.manager.servable("m", label) as servable:
            return servable.version

    def close(self) -> None:
        for event in self.loads.held.values():
            event.set()
        self.manager.stop()
        assert all(backend.closed for backend in self.loads.backends.values())


Manage = Callable[..., Managed]


@pytest.fixture
def loads() -> Iterator[Loads]:
    loads = Loads()
    loads.threads.start()
    yield loads
    loads.threads.close()


@pytest.fixture
def manage(loads: Loads) -> Iterator[Manage]:
    with ExitStack() as stack:

        def start(publish: Publish | None = None, **options: object) -> Managed:
            managed = Managed(loads, publish, **options)
            stack.callback(managed.close)
            return managed

        yield start


def test_without_threads_one_version_is_loaded_at_a_time(loads: Loads, manage: Manage) -> None:
    model = manage()
    loads.held = {2: Event(), 1: Event()}
    model.aspire(1, 2)
    model.reach({1: START, 2: LOADING})
    assert loads.begun == [2]
    loads.held[2].set()
    model.reach({1: LOADING, 2: AVAILABLE})


def test_as_many_versions_are_loaded_at_once_as_there_are_threads(loads: Loads, manage: Manage) -> None:
    model = manage(num_initial_load_threads=2)
    loads.held = {version: Event() for version in (1, 2, 3)}
    model.aspire(1, 2, 3)
    model.reach({1: START, 2: LOADING, 3: LOADING})
    loads.held[2].set()
    model.reach({1: LOADING, 2: AVAILABLE, 3: LOADING})


def test_a_hanging_load_does_not_delay_the_next(loads: Loads, manage: Manage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manager decides twice; between these decisions, the second load stops waiting for the first one."""
    times = count(step=QUICK_SECONDS * 0.75)
    monkeypatch.setattr(action_threads, "time", SimpleNamespace(monotonic=lambda: next(times)))
    model = manage(num_initial_load_threads=2)
    loads.held = {2: Event(), 1: Event()}
    model.aspire(1, 2)
    model.reach({1: LOADING, 2: LOADING})


def test_after_the_initial_load_there_are_fewer_threads(loads: Loads, manage: Manage) -> None:
    model = manage(num_initial_load_threads=3, num_load_threads=1)
    model.manager.initial_load_done()
    loads.held = {2: Event(), 1: Event()}
    model.aspire(1, 2)
    model.reach({1: START, 2: LOADING})


def test_loads_run_on_one_thread_with_a_short_switch_interval(loads: Loads, manage: Manage) -> None:
    model = manage(num_initial_load_threads=1, num_load_threads=1)
    usual = sys.getswitchinterval()
    for version in (1, 2, 3):
        if version == 2:
            model.manager.initial_load_done()
        model.aspire(version)
        model.reach({**dict.fromkeys(range(1, version), END), version: AVAILABLE})
    threads, turns = zip(*loads.on, strict=True)
    assert len(set(threads)) == 1
    assert turns[0] == pytest.approx(usual)
    assert turns[1:] == pytest.approx((SECONDS, SECONDS))


@needs_slices
@pytest.mark.parametrize("threads", [0, 1])
def test_a_load_has_a_long_time_slice(
    loads: Loads, manage: Manage, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    slices, load = [], loads.load

    def record(name: str, version: int, path: Path) -> Servable:
        slices.append(slice_of())
        return load(name, version, path)

    monkeypatch.setattr(loads, "load", record)
    model = manage(num_initial_load_threads=threads)
    model.aspire(1)
    model.reach({1: AVAILABLE})
    assert slices == [LOAD_NS]


@pytest.mark.parametrize(("threads", "other"), [(0, START), (1, AVAILABLE)])
def test_without_threads_an_unload_delays_the_loads(manage: Manage, threads: int, other: State) -> None:
    """TF Serving: with 0, loads and unloads run in the manager's own thread."""
    model = manage(num_unload_threads=threads)
    model.aspire(1)
    model.reach({1: AVAILABLE})
    with model.manager.servable("m"):
        model.aspire()
        model.reach({1: UNLOADING})
        model.aspire(7, name="n")
        model.reach({1: UNLOADING, 7: other})
    model.reach({1: END, 7: AVAILABLE})


def test_a_failed_load_is_tried_again(loads: Loads, manage: Manage) -> None:
    loads.failures[1] = 2
    model = manage(max_num_load_retries=2)
    model.aspire(1)
    model.reach({1: AVAILABLE})
    assert loads.begun == [1, 1, 1]
    assert model.error(1) is None


@pytest.mark.parametrize("code", [Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.DATA_LOSS])
def test_files_at_fault_are_not_tried_again_while_they_stay_the_same(loads: Loads, manage: Manage, code: Code) -> None:
    loads.failures[1], loads.code = 9, code
    model = manage(max_num_load_retries=5, retries_faulty_files=False, load_retry_interval=HOURS)
    model.aspire(1)
    model.reach({1: END})
    assert loads.begun == [1]


def test_a_temporary_failure_is_retried_even_if_files_at_fault_are_not(loads: Loads, manage: Manage) -> None:
    loads.failures[1], loads.code = 2, Code.UNAVAILABLE
    model = manage(max_num_load_retries=2, retries_faulty_files=False)
    model.aspire(1)
    model.reach({1: AVAILABLE})
    assert loads.begun == [1, 1, 1]


def test_the_last_failure_is_reported(loads: Loads, manage: Manage) -> None:
    loads.failures[1] = 9
    model = manage(max_num_load_retries=2)
    model.aspire(1)
    model.reach({1: END})
    assert loads.begun == [1, 1, 1]
    assert model.error(1) == (Code.DATA_LOSS, "try 3 of 1")


def test_between_two_attempts_a_version_stays_loading_and_blocks_nothing(loads: Loads, manage: Manage) -> None:
    loads.failures[2] = 1
    model = manage(max_num_load_retries=1, load_retry_interval=HOURS)
    model.aspire(1, 2)
    model.reach({1: AVAILABLE, 2: LOADING})
    assert loads.begun == [2, 1]
    assert model.error(2) is None

    loads.clock.advance(HOURS)
    model.reach({1: AVAILABLE, 2: AVAILABLE})


def test_retries_end_when_the_version_is_no_longer_aspired(loads: Loads, manage: Manage) -> None:
    loads.failures[1] = 1
    model = manage(max_num_load_retries=5, load_retry_interval=HOURS)
    model.aspire(1)
    eventually_tried(loads, 1)
    model.aspire()
    model.reach({1: END})
    assert model.error(1) == (Code.DATA_LOSS, "try 1 of 1")
    assert loads.begun == [1]

    model.aspire(1)
    model.reach({1: AVAILABLE})


def test_a_failed_attempt_for_an_unaspired_version_is_the_last(loads: Loads, manage: Manage) -> None:
    loads.failures[1] = 9
    loads.held[1] = Event()
    model = manage(max_num_load_retries=5)
    model.aspire(1)
    model.reach({1: LOADING})
    model.aspire()
    loads.held[1].set()
    model.reach({1: END})
    assert model.error(1) == (Code.DATA_LOSS, "try 1 of 1")
    assert loads.begun == [1]


def test_retries_end_when_the_manager_stops(loads: Loads, manage: Manage) -> None:
    loads.failures[1] = 1
    model = manage(max_num_load_retries=5, load_retry_interval=HOURS)
    model.aspire(1)
    eventually_tried(loads, 1)
    model.manager.stop()
    assert model.states() == {1: END}


def test_a_load_of_an_unaspired_version_is_cancelled(loads: Loads, manage: Manage) -> None:
    loads.held[1] = Event()
    model = manage()
    model.aspire(1)
    model.reach({1: LOADING})
    model.aspire()
    loads.held[1].set()
    model.reach({1: END})
    assert model.error(1) == (Code.CANCELLED, "Loading of servable cancelled")
    assert loads.backends[1].closed


def test_a_version_aspired_again_during_a_cancelled_load_starts_over(loads: Loads, manage: Manage) -> None:
    """The files may have been replaced since the first load began."""
    loads.held[1] = Event()
    model = manage()
    model.aspire(1)
    model.reach({1: LOADING})
    model.aspire()
    model.aspire(1)
    loads.held[1].set()
    model.reach({1: AVAILABLE})
    assert loads.begun == [1, 1]


def test_a_model_that_ends_the_process_is_a_failure(loads: Loads, manage: Manage) -> None:
    def leave(name: str, version: int, path: Path) -> Servable:
        del name, path
        raise SystemExit(version)

    loads.load = leave  # type: ignore[method-assign]
    model = manage()
    model.aspire(1)
    model.reach({1: END})
    assert model.error(1) == (Code.INTERNAL, "the model raised SystemExit(1)")


def test_a_model_that_cannot_be_freed_is_still_unloaded(
    loads: Loads, manage: Manage, caplog: pytest.LogCaptureFixture
) -> None:
    model = manage()
    model.aspire(1)
    model.reach({1: AVAILABLE})
    loads.backends.pop(1).closed = True  # its `close` asserts that it is called only once
    model.aspire(2)
    model.reach({1: END, 2: AVAILABLE})
    assert "model m version 1 cannot be freed" in caplog.messages


def test_resources_first_unloads_before_it_loads(manage: Manage) -> None:
    model = manage(policy=preserve_resources, num_unload_threads=1)
    model.aspire(1)
    model.reach({1: AVAILABLE})
    with model.manager.servable("m"):
        model.aspire(2)
        model.reach({1: UNLOADING, 2: START})
    model.reach({1: END, 2: AVAILABLE})


class TestLabels:
    @pytest.fixture
    def model(self, manage: Manage) -> Managed:
        model = manage()
        model.aspire(1, 2)
        model.reach({1: AVAILABLE, 2: AVAILABLE})
        return model

    def test_a_label_selects_its_version(self, model: Managed) -> None:
        model.assign({"stable": 1, "canary": 2, "same": 1})
        assert [model.labelled(label) for label in ("stable", "canary", "same")] == [1, 2, 1]

    def test_an_unknown_label(self, model: Managed) -> None:
        model.assign({"stable": 1})
        for name, label in (("m", "canary"), ("other", "stable"), ("m", "")):
            with pytest.raises(ServingError) as raised:
                model.manager.servable(name, label)
            assert raised.value.code == Code.INVALID_ARGUMENT
            assert raised.value.message == f"Unrecognized servable version label: {label}"

    def test_labels_are_replaced_as_a_whole(self, model: Managed) -> None:
        model.assign({"stable": 1})
        model.assign({"canary": 2})
        with pytest.raises(ServingError, match="Unrecognized servable version label: stable"):
            model.labelled("stable")

    @pytest.mark.parametrize("version", [3, 9])
    def test_a_label_for_an_unavailable_version_refuses_all_labels(self, model: Managed, version: int) -> None:
        model.aspire(1, 2, 3)
        model.reach({1: AVAILABLE, 2: AVAILABLE, 3: AVAILABLE})
        model.aspire(1, 2)
        model.reach({1: AVAILABLE, 2: AVAILABLE, 3: END})
        model.assign({"stable": 1})
        with pytest.raises(ServingError) as raised:
            model.assign({"stable": 2, "canary": version})
        assert raised.value.code == Code.FAILED_PRECONDITION
        assert raised.value.message == (
            f"Request to assign label to version {version} of model m, which is not currently available for inference"
        )
        assert model.labelled("stable") == 1

    def test_if_allowed_a_new_label_may_name_any_version(self, model: Managed) -> None:
        model.assign({"next": 9}, to_unavailable=True)
        with pytest.raises(ServingError, match=r"Servable not found for request: Specific\(m, 9\)"):
            model.labelled("next")
        model.assign({"next": 9}, to_unavailable=True)
        model.assign({"next": 2}, to_unavailable=True)
        assert model.labelled("next") == 2
        with pytest.raises(ServingError, match="Request to assign label to version 9 of model m"):
            model.assign({"next": 9}, to_unavailable=True)

    def test_a_label_outlives_its_version(self, model: Managed) -> None:
        model.assign({"old": 1})
        model.aspire(2)
        model.reach({1: END, 2: AVAILABLE})
        with pytest.raises(ServingError, match=r"Servable not found for request: Specific\(m, 1\)"):
            model.labelled("old")


def eventually_tried(loads: Loads, version: int) -> None:
    """Waits until the first attempt to load a version has failed."""
    eventually(lambda: loads.failures[version] == 0)


def test_a_version_that_cannot_be_published_has_failed_to_load(manage: Manage) -> None:
    def publish(name: str, versions: Mapping[int, Servable], latest: int) -> None:
        del latest
        if name == "m" and 2 in versions:
            raise OverflowError("int too big to convert")

    model = manage(publish, max_num_load_retries=0)
    model.aspire(1)
    model.reach({1: AVAILABLE})
    model.aspire(1, 2)
    model.reach({1: AVAILABLE, 2: END})
    assert model.error(2) == (Code.INTERNAL, "OverflowError: int too big to convert")
    model.aspire(1, 3)
    model.reach({1: AVAILABLE, 2: END, 3: AVAILABLE})


@pytest.mark.parametrize("threads", [0, 1])
def test_an_unload_that_cannot_be_published_blocks_no_other(
    loads: Loads, manage: Manage, caplog: pytest.LogCaptureFixture, threads: int
) -> None:
    def publish(name: str, versions: Mapping[int, Servable], latest: int) -> None:
        del latest
        if name == "m" and not versions:
            raise OverflowError("int too big to convert")

    model = manage(publish, num_unload_threads=threads)
    model.aspire(1)
    model.aspire(7, name="n")
    model.reach({1: AVAILABLE, 7: AVAILABLE})
    model.aspire()
    model.reach({1: UNLOADING, 7: AVAILABLE})
    model.aspire(name="n")
    model.reach({1: UNLOADING, 7: END})
    assert "model m version 1 cannot be loaded or unloaded: it stays as it is" in caplog.text
    loads.backends.pop(1).close()
