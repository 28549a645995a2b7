"""More models than fit into memory: versions are loaded when called, and the least recently used are unloaded."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from headrace_batching import BatchThreads
from headrace_protos import Code
from headrace_server.errors import NotInMemory, ServingError
from headrace_server.models import room
from headrace_server.models.manager import Manager, Tallies
from headrace_server.models.manager_options import ManagerOptions
from headrace_server.models.room import Bounds, least_recently_used, memory_of
from headrace_server.models.servable import Servable
from headrace_server.models.version_policy import State
from tests.support.caches import simulated_misses, zipf
from tests.support.running import eventually

from .backend import PATIENCE, Adder
from .shelf import settled
from .still_clock import StillClock

RETRY_SECONDS = 60.0

MB = 1 << 20


class Town:
    """A manager of models whose versions are files of a given size, and a record of what it does."""

    def __init__(self, root: Path, threads: BatchThreads, *, retries: int, **bounds: int) -> None:
        self.root = root
        self.loads: list[tuple[str, int]] = []
        self.waits: list[tuple[str, int]] = []
        self.evictions: list[tuple[str, int]] = []
        self.broken: dict[str, Exception] = {}
        self.kinds: dict[str, type[Servable]] = {}
        self.clock = StillClock()
        self._threads = threads
        tallies = Tallies(lambda *waited: self.waits.append(waited[:2]), lambda *gone: self.evictions.append(gone))
        options = ManagerOptions(
            bounds=Bounds(**bounds), max_num_load_retries=retries, load_retry_interval=RETRY_SECONDS
        )
        self.manager = Manager(self._load, options, self.clock, tallies=tallies)
        self.manager.start()

    def aspire(self, name: str, *versions: int, mb: float = 1) -> None:
        for version in versions:
            folder = self.root / name / str(version)
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / "model").open("wb") as file:
                file.truncate(int(mb * MB))
        self.manager.aspire(name, {version: self.root / name / str(version) for version in versions})

    def call(self, name: str, version: int | None = None) -> int:
        """Calls a model, waiting for a load if needed; returns the version that answered."""

        async def lease() -> int:
            loop = asyncio.get_running_loop()
            with await self.manager.lease(name, version, loop.time() + PATIENCE) as servable:
                return servable.version

        return asyncio.run(lease())

    def states(self, name: str) -> dict[int, State]:
        return {status.version: status.state for status in self.manager.statuses(name)}

    def in_memory(self) -> set[tuple[str, int]]:
        return {item for item, _ in self.manager.sizes()}

    def _load(self, name: str, version: int, path: Path) -> Servable:
        assert (path / "model").exists()
        self.loads.append((name, version))
        if name in self.broken:
            raise self.broken[name]
        return self.kinds.get(name, Servable)(name, version, Adder(), self._threads, None, marks_use=True)


class KeepsState(Servable):
    """A version that may not leave the memory, because sequences of requests are under way."""

    keeps_state = True


class Sizes:
    """Measures versions, and records which ones. Meanwhile, nobody may hold the models' lock.

    Args:
        town: Its manager is asked on another thread, which needs the lock.
    """

    def __init__(self, town: Town) -> None:
        self.measured: list[str] = []
        self._town = town

    def memory_of(self, path: Path) -> int:
        with ThreadPoolExecutor() as threads:
            threads.submit(self._town.manager.statuses, "").result(PATIENCE)
        self.measured.append(path.parent.name)
        return memory_of(path)


Build = Callable[..., Town]


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    threads = BatchThreads(1)
    threads.start()
    towns: list[Town] = []

    def make(retries: int = 0, **bounds: int) -> Town:
        towns.append(Town(tmp_path, threads, retries=retries, **bounds))
        return towns[-1]

    yield make
    for town in towns:
        town.manager.stop()
    threads.close()


def test_nothing_is_loaded_before_it_is_called(build: Build) -> None:
    town = build(versions=2)
    for name in "abc":
        town.aspire(name, 1)
    assert settled(town.manager, "a", "b", "c")["a"].state is State.AT_REST
    assert town.loads == []

    with pytest.raises(NotInMemory, match=r"model a version 1 is not in memory"):
        town.manager.servable("a")
    assert town.call("a") == 1
    assert town.states("a") == {1: State.AVAILABLE}
    assert (town.loads, town.waits) == ([("a", 1)], [("a", 1)])

    assert town.call("a") == 1
    assert town.waits == [("a", 1)]  # the second call did not wait


def test_the_least_recently_used_version_is_unloaded_and_stays_listed(build: Build) -> None:
    town = build(versions=2)
    for name in "abc":
        town.aspire(name, 1)
    for name in ("a", "b", "a", "c"):
        town.call(name)

    assert town.evictions == [("b", 1)]
    assert town.in_memory() == {("a", 1), ("c", 1)}
    assert town.states("b") == {1: State.AT_REST}
    assert town.call("b") == 1
    assert town.evictions == [("b", 1), ("a", 1)]


def test_memory_is_counted_by_files(build: Build) -> None:
    town = build(memory=10 * MB)
    for name, mb in (("a", 3), ("b", 3), ("c", 3), ("d", 6)):
        town.aspire(name, 1, mb=mb)
    for name in "abd":  # 3.6, 3.6 and 7.2 MB
        town.call(name)
    assert town.in_memory() == {("d", 1)}
    assert town.evictions == [("a", 1), ("b", 1)]


def test_a_version_that_can_never_fit_is_refused(build: Build) -> None:
    town = build(memory=10 * MB)
    town.aspire("large", 1, mb=20)
    town.aspire("small", 1)
    town.call("small")
    with pytest.raises(ServingError, match=r"model large version 1 needs 24 MB.*--model_memory_mb.*\(10\)") as raised:
        town.call("large")
    assert raised.value.code == Code.RESOURCE_EXHAUSTED
    assert town.in_memory() == {("small", 1)}


def test_calls_do_not_wait_while_the_files_of_a_version_are_measured(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    town = build(memory=3 * MB)
    sizes = Sizes(town)
    monkeypatch.setattr(room, "memory_of", sizes.memory_of)
    for name in ("a", "b"):
        town.aspire(name, 1, mb=2)
        town.call(name)
    assert town.evictions == [("a", 1)]
    assert sizes.measured == ["a", "b"]  # once each, although another version had to leave before the second load


def test_a_version_that_was_too_large_is_measured_again_when_its_files_change(build: Build) -> None:
    town = build(memory=10 * MB)
    town.aspire("m", 1, mb=20)
    with pytest.raises(ServingError, match="needs 24 MB"):
        town.call("m")
    town.aspire("m", 1, mb=5)
    for _ in range(2):  # the first scan finds the change, the second that it is complete
        town.clock.advance(RETRY_SECONDS)
        town.manager.looked()
    assert town.call("m") == 1


def test_a_version_for_which_nothing_may_leave_is_refused_until_something_may(
    build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    town = build(versions=1)
    town.kinds["a"] = KeepsState
    for name in "ab":
        town.aspire(name, 1)
    town.call("a")
    refusal = r"model b version 1 does not fit in memory: none of the 1 versions"
    with caplog.at_level(logging.ERROR), pytest.raises(ServingError, match=refusal) as raised:
        town.call("b")
    assert raised.value.code == Code.RESOURCE_EXHAUSTED
    assert "model b version 1 does not fit in memory" in caplog.text
    assert town.states("b") == {1: State.AT_REST}

    town.manager.aspire("a", {})
    assert town.call("b") == 1


def test_a_retry_for_which_nothing_may_leave_is_refused(build: Build) -> None:
    town = build(versions=1, retries=1)
    town.kinds["a"] = KeepsState
    town.broken["b"] = ServingError(Code.UNAVAILABLE, "the disk is slow")
    for name in "ab":
        town.aspire(name, 1)
    with ThreadPoolExecutor() as threads:
        call = threads.submit(town.call, "b")
        eventually(lambda: town.loads == [("b", 1)] and not town.in_memory())
        town.call("a")
        town.clock.advance(RETRY_SECONDS)
        with pytest.raises(ServingError, match=r"model b version 1 does not fit in memory"):
            call.result(PATIENCE)
    town.manager.aspire("a", {})
    town.broken.clear()
    assert town.call("b") == 1


def test_a_version_that_cannot_be_loaded_says_why(build: Build) -> None:
    town = build(versions=1)
    town.broken["a"] = ServingError(Code.INVALID_ARGUMENT, "no graph in it")
    town.aspire("a", 1)
    with pytest.raises(ServingError, match=r"Specific\(a, 1\): it cannot be loaded: no graph in it") as raised:
        town.call("a")
    assert raised.value.code == Code.NOT_FOUND
    assert town.states("a") == {1: State.END}
    with pytest.raises(ServingError, match=r"Servable not found for request: Latest\(a\)"):
        town.call("a")


def test_a_new_version_of_a_model_in_use_replaces_the_old_one(build: Build) -> None:
    town = build(versions=5)
    town.aspire("a", 1)
    town.call("a")
    town.aspire("a", 2)
    eventually(lambda: town.states("a") == {1: State.END, 2: State.AVAILABLE})
    assert town.waits == [("a", 1)]


def test_a_new_version_of_a_model_at_rest_waits_for_its_call(build: Build) -> None:
    town = build(versions=5)
    town.aspire("a", 1)
    town.aspire("a", 2)
    assert town.states("a") == {1: State.END, 2: State.AT_REST}
    assert town.call("a") == 2
    assert town.loads == [("a", 2)]


def test_if_only_one_fits_the_old_version_is_unloaded_first(build: Build) -> None:
    town = build(versions=1)
    town.aspire("a", 1)
    town.call("a")
    town.aspire("a", 2)
    eventually(lambda: town.states("a") == {1: State.END, 2: State.AVAILABLE})
    assert town.call("a") == 2


def test_without_a_version_the_highest_is_called_even_if_a_lower_one_is_in_memory(build: Build) -> None:
    town = build(versions=2)
    town.aspire("a", 1, 2)
    assert town.call("a", 1) == 1
    assert town.call("a") == 2
    assert town.states("a") == {1: State.AVAILABLE, 2: State.AVAILABLE}


def test_idle_versions_are_unloaded_first_and_used_ones_after_their_calls(build: Build) -> None:
    town = build(versions=2)
    for name in "abc":
        town.aspire(name, 1)
    town.call("a")
    town.call("b")
    with town.manager.servable("a"):  # a will be the least recently used, but is in use
        town.call("b")
        town.call("c")
        assert town.evictions == [("b", 1)]


def test_two_models_that_fit_one_at_a_time_are_both_served(build: Build) -> None:
    town = build(versions=1)
    town.aspire("a", 1)
    town.aspire("b", 1)

    async def call(name: str) -> int:
        answered = 0
        for _ in range(20):
            with await town.manager.lease(name, None, asyncio.get_running_loop().time() + PATIENCE) as servable:
                answered += servable.version
        return answered

    async def call_all() -> list[int]:
        return await asyncio.gather(*(call(name) for name in "abab"))

    assert asyncio.run(call_all()) == [20, 20, 20, 20]
    assert len(town.in_memory()) == 1


def test_a_call_gives_up_at_its_deadline(build: Build) -> None:
    town = build(versions=1)
    town.aspire("a", 1)

    async def late() -> None:
        with await town.manager.lease("a", None, asyncio.get_running_loop().time() - 1):
            pass

    with pytest.raises(ServingError, match=r"model a version 1 was not loaded in time") as raised:
        asyncio.run(late())
    assert raised.value.code == Code.DEADLINE_EXCEEDED
    assert town.call("a") == 1


def test_a_model_that_is_withdrawn_while_calls_wait_is_not_found(build: Build) -> None:
    town = build(versions=1)
    town.aspire("a", 1)
    town.manager.aspire("a", {})
    with pytest.raises(ServingError, match=r"Servable not found"):
        town.call("a")
    assert town.states("a") == {1: State.END}


def test_a_version_at_rest_may_have_a_label(build: Build) -> None:
    town = build(versions=1)
    town.aspire("a", 1, 2)
    town.manager.assign_labels({"a": {"stable": 1}}, to_unavailable=False)

    async def lease() -> int:
        with await town.manager.lease("a", "stable") as servable:
            return servable.version

    assert asyncio.run(lease()) == 1


@pytest.mark.parametrize("capacity", [3, 8])
def test_the_hit_rate_is_that_of_a_simulated_cache(build: Build, capacity: int) -> None:
    town = build(versions=capacity)
    names = [f"m{number}" for number in range(20)]
    for name in names:
        town.aspire(name, 1)
    sequence = zipf(names, 400, seed=7)
    for name in sequence:
        town.call(name)
    assert len(town.waits) == simulated_misses(sequence, capacity)
    assert len(town.evictions) == len(town.loads) - capacity


def test_the_order_in_which_versions_are_unloaded() -> None:
    examined: list[str] = []

    class Seen:
        def __init__(self, used: float, in_use: bool = False, may_leave: bool = True) -> None:
            self.used, self.in_use, self.may_leave = used, in_use, may_leave

    def chosen(**seen: Seen) -> object:
        examined.clear()
        versions: Any = [((name, 1), version) for name, version in seen.items()]
        return least_recently_used(versions, may_leave)

    def may_leave(item: tuple[str, int], version: Any) -> bool:
        examined.append(item[0])
        return bool(version.may_leave)

    assert chosen() is None
    assert chosen(a=Seen(2), b=Seen(1)) == ("b", 1)
    assert examined == ["b"]
    assert chosen(a=Seen(2), b=Seen(1, in_use=True)) == ("a", 1)
    assert chosen(a=Seen(2, in_use=True), b=Seen(1, in_use=True)) == ("b", 1)
    assert chosen(a=Seen(2), b=Seen(1, may_leave=False)) == ("a", 1)
    assert chosen(a=Seen(1, may_leave=False)) is None


def test_memory_of_a_file_of_a_folder_and_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "v" / "deeper").mkdir(parents=True)
    (tmp_path / "v" / "one").write_bytes(b"x" * 100)
    (tmp_path / "v" / "deeper" / "two").write_bytes(b"x" * 50)
    assert memory_of(tmp_path / "v") == 180
    assert memory_of(tmp_path / "v" / "one") == 120
    assert memory_of(tmp_path / "none") == 0
