"""Many models: the cost of one does not depend on their number. Counted, not timed."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from headrace_batching import BatchThreads
from headrace_server.models import acting
from headrace_server.models.manager import Manager
from headrace_server.models.manager_options import ManagerOptions
from headrace_server.models.servable import Servable
from headrace_server.models.version_policy import Load, State, Unload, preserve_availability
from headrace_server.models.versions import Model, VersionStatus

from .backend import PATIENCE, Adder

FEW, MANY = 20, 400


class Town:
    """A manager of many models, and how often it looks at each and reports."""

    def __init__(self, threads: BatchThreads, count: int, **options: Any) -> None:
        self.names = [f"m{number}" for number in range(count)]
        self.asked = 0
        self.told: list[tuple[str, list[int]]] = []
        self._threads = threads
        told = ManagerOptions(policy=self._policy, **options)
        self.manager = Manager(self._load, told, publish=self._publish)

    def begin(self) -> None:
        for name in self.names:
            self.manager.aspire(name, {1: Path(f"/{name}/1")})
        self.manager.start()

    def start(self) -> None:
        self.begin()
        self.manager.wait_settled(self.names, timeout=PATIENCE)

    def _policy(self, aspired: Collection[int], states: Mapping[int, State]) -> Load | Unload | None:
        self.asked += 1
        return preserve_availability(aspired, states)

    def _publish(self, name: str, versions: Mapping[int, Servable], latest: int) -> None:
        del latest
        self.told.append((name, list(versions)))

    def _load(self, name: str, version: int, path: Path) -> Servable:
        del path
        return Servable(name, version, Adder(), self._threads, None)


@pytest.fixture
def threads() -> Iterator[BatchThreads]:
    threads = BatchThreads(1)
    threads.start()
    yield threads
    threads.close()


@pytest.mark.parametrize("options", [{}, {"num_initial_load_threads": 4}])
def test_a_load_asks_its_own_model_and_no_other(threads: BatchThreads, options: dict[str, int]) -> None:
    for count in (FEW, MANY):
        town = Town(threads, count, **options)
        town.start()
        assert town.asked <= 4 * count
        assert sorted(town.told) == sorted((name, [1]) for name in town.names)
        town.manager.stop()


def test_an_unload_asks_its_own_model_and_no_other(threads: BatchThreads) -> None:
    town = Town(threads, MANY)
    town.start()
    town.asked, town.told = 0, []
    town.manager.aspire("m7", {})
    town.manager.wait_withdrawn("m7", ended=True)

    assert town.asked <= 4
    assert town.told == [("m7", [])]
    town.manager.stop()


def test_a_new_version_asks_its_own_model_and_no_other(threads: BatchThreads) -> None:
    town = Town(threads, MANY)
    town.start()
    town.asked, town.told = 0, []
    since = town.manager.mark()
    town.manager.aspire("m7", {2: Path("/m7/2")})
    town.manager.wait_settled(["m7"], since, timeout=PATIENCE)
    town.manager.stop()

    assert [told for told in town.told if told[0] == "m7"] == [("m7", [1, 2]), ("m7", [2]), ("m7", [])]


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows with each check whether a model has settled."""
    looks: list[str] = []
    settled = Model.settled

    def counted(model: Model, since: int) -> VersionStatus | None:
        looks.append("")
        return settled(model, since)

    monkeypatch.setattr(Model, "settled", counted)
    return looks


def test_who_waits_for_all_looks_at_each_a_few_times(threads: BatchThreads, looks: list[str]) -> None:
    town = Town(threads, MANY, num_initial_load_threads=4)
    town.start()
    town.manager.stop()

    # A check for each change that wakes the manager (a model has a few), and a few per model at the end.
    assert len(looks) <= 12 * MANY


def test_so_does_who_would_give_up_on_models_without_versions(threads: BatchThreads, looks: list[str]) -> None:
    town = Town(threads, MANY, num_initial_load_threads=4)
    town.begin()
    town.manager.wait_settled_unless(town.names, 0, lambda: True)
    town.manager.stop()

    assert len(looks) <= 16 * MANY


def test_at_the_end_memory_is_not_given_back_model_by_model(
    threads: BatchThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[int] = []
    monkeypatch.setattr(acting, "release_memory", lambda: released.append(1))
    town = Town(threads, FEW)
    town.start()
    town.manager.aspire("m7", {})
    town.manager.wait_withdrawn("m7", ended=True)
    assert released == [1]
    town.manager.stop()

    assert released == [1]
