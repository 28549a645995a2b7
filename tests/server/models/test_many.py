"""The cost of a model does not depend on the number of models; the tests count operations instead of measuring time."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Condition, Event, Thread, current_thread
from typing import Any

import pytest

from headrace_batching import BatchThreads
from headrace_server.models import version_actions
from headrace_server.models.loader import Asked
from headrace_server.models.manager import Manager
from headrace_server.models.manager_options import ManagerOptions
from headrace_server.models.preparing import TOGETHER, Prepare
from headrace_server.models.servable import Servable
from headrace_server.models.version_policy import Load, State, Unload, preserve_availability
from headrace_server.models.versions import Clock, Model, VersionStatus

from .backend import PATIENCE, Adder

FEW, MANY = 20, 400


class Counting(Clock):
    """Counts how often each thread waits."""

    def __init__(self) -> None:
        self.waits: Counter[Thread] = Counter()

    def wait(self, changed: Condition, seconds: float | None) -> None:
        self.waits[current_thread()] += 1
        super().wait(changed, seconds)


class Town:
    """A manager of many models, and how often it checks each of them and reports."""

    def __init__(self, threads: BatchThreads, count: int, prepare: Prepare | None = None, **options: Any) -> None:
        self.names = [f"m{number}" for number in range(count)]
        self.asked = 0
        self.published: list[tuple[str, list[int]]] = []
        self.loaded_by: set[Thread] = set()
        self.clock = Counting()
        self._threads = threads
        manager_options = ManagerOptions(policy=self._policy, **options)
        self.manager = Manager(self._load, manager_options, self.clock, publish=self._publish, prepare=prepare)

    def begin(self) -> None:
        for name in self.names:
            self.manager.aspire(name, {1: Path(f"/{name}/1")})
        self.manager.start()

    def start(self) -> None:
        self.begin()
        self.manager.wait_settled(self.names)

    def _policy(self, aspired: Collection[int], states: Mapping[int, State]) -> Load | Unload | None:
        self.asked += 1
        return preserve_availability(aspired, states)

    def _publish(self, name: str, versions: Mapping[int, Servable], latest: int) -> None:
        del latest
        self.published.append((name, list(versions)))

    def _load(self, name: str, version: int, path: Path) -> Servable:
        del path
        self.loaded_by.add(current_thread())
        return Servable(name, version, Adder(), self._threads, None)


@pytest.fixture
def threads() -> Iterator[BatchThreads]:
    threads = BatchThreads(1)
    threads.start()
    yield threads
    threads.close()


@pytest.mark.parametrize("options", [{}, {"num_initial_load_threads": 4}])
def test_a_load_checks_only_its_model(threads: BatchThreads, options: dict[str, Any]) -> None:
    for count in (FEW, MANY):
        town = Town(threads, count, **options)
        town.start()
        assert town.asked <= 4 * count
        assert sorted(town.published) == sorted((name, [1]) for name in town.names)
        town.manager.stop()


def test_an_unload_checks_only_its_model(threads: BatchThreads) -> None:
    town = Town(threads, MANY)
    town.start()
    town.asked, town.published = 0, []
    town.manager.aspire("m7", {})
    town.manager.wait_withdrawn("m7", ended=True)

    assert town.asked <= 4
    assert town.published == [("m7", [])]
    town.manager.stop()


def test_a_new_version_checks_only_its_model(threads: BatchThreads) -> None:
    town = Town(threads, MANY)
    town.start()
    town.asked, town.published = 0, []
    since = town.manager.mark()
    town.manager.aspire("m7", {2: Path("/m7/2")})
    town.manager.wait_settled(["m7"], since)
    town.manager.stop()

    assert [one for one in town.published if one[0] == "m7"] == [("m7", [1, 2]), ("m7", [2]), ("m7", [])]


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that grows with each check whether a model has settled."""
    looks: list[str] = []
    settled = Model.settled

    def counted(model: Model, since: int) -> VersionStatus | None:
        looks.append("")
        return settled(model, since)

    monkeypatch.setattr(Model, "settled", counted)
    return looks


def test_waiting_for_all_models_checks_each_a_few_times(threads: BatchThreads, looks: list[str]) -> None:
    town = Town(threads, MANY, num_initial_load_threads=4)
    town.start()
    town.manager.stop()

    # A check for each change that wakes the manager (a model has a few), and a few per model at the end.
    assert len(looks) <= 12 * MANY


def test_waiting_for_one_model_is_not_woken_by_the_others(threads: BatchThreads) -> None:
    town = Town(threads, MANY, num_initial_load_threads=4)
    town.begin()
    town.manager.wait_settled(town.names[-1:])
    town.manager.stop()

    assert town.clock.waits[current_thread()] <= 4  # one at the beginning, and one when the model is available


def test_a_thread_that_has_loaded_a_model_continues_with_the_next(threads: BatchThreads) -> None:
    town = Town(threads, MANY, num_initial_load_threads=4)
    town.start()
    town.manager.stop()

    assert len(town.loaded_by) <= MANY / 10


def test_waiting_that_can_give_up_checks_each_a_few_times_too(threads: BatchThreads, looks: list[str]) -> None:
    town = Town(threads, MANY, num_initial_load_threads=4)
    town.begin()
    town.manager.wait_settled(town.names, given_up=lambda: True)
    town.manager.stop()

    assert len(looks) <= 16 * MANY


def test_at_the_end_memory_is_not_returned_model_by_model(
    threads: BatchThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[int] = []
    monkeypatch.setattr(version_actions, "release", lambda: released.append(1))
    town = Town(threads, FEW)
    town.start()
    town.manager.aspire("m7", {})
    town.manager.wait_withdrawn("m7", ended=True)
    assert released == [1]
    town.manager.stop()

    assert released == [1]


class TestPreparing:
    def test_each_version_is_prepared_once_together_with_the_next_ones(self, threads: BatchThreads) -> None:
        prepared: list[list[Asked]] = []
        town = Town(threads, MANY, prepare=lambda versions: prepared.append(list(versions)), num_initial_load_threads=4)
        town.start()
        town.manager.initial_load_done()
        town.manager.aspire("late", {1: Path("/late/1")})
        town.manager.aspire("later", {1: Path("/later/1")})
        town.manager.wait_settled(["late", "later"])
        town.manager.stop()

        *batches, last = prepared
        assert [asked for batch in batches for asked in batch] == [
            Asked(name, 1, Path(f"/{name}/1")) for name in town.names
        ]
        assert max(map(len, batches)) == TOGETHER
        assert last == []

    def test_loads_succeed_even_if_preparing_them_fails(
        self, threads: BatchThreads, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(_: object) -> None:
            raise OSError("no memory")

        town = Town(threads, FEW, prepare=fail, num_initial_load_threads=1)
        town.start()
        assert len(town.published) == FEW
        assert "the next loads could not be prepared" in caplog.messages
        town.manager.stop()

    def test_a_preparation_at_the_end_of_the_initial_load_is_dropped(self, threads: BatchThreads) -> None:
        prepared, begun, go_on = list[int](), Event(), Event()

        def prepare(versions: Sequence[Asked]) -> None:
            if versions:
                begun.set()
                assert go_on.wait(PATIENCE)
            prepared.append(len(versions))

        town = Town(threads, FEW, prepare=prepare, num_initial_load_threads=2)
        town.begin()
        assert begun.wait(PATIENCE)
        town.manager.initial_load_done()
        go_on.set()
        town.manager.wait_settled(town.names)
        town.manager.stop()
        assert prepared == [0, FEW, 0]

    def test_a_preparation_is_dropped_when_the_server_stops_before_it_serves(self, threads: BatchThreads) -> None:
        prepared: list[int] = []
        town = Town(threads, FEW, prepare=lambda versions: prepared.append(len(versions)))
        town.start()
        town.manager.stop()
        assert prepared == [FEW, 0]
