"""Versions that are added and removed: when each is loaded, which one serves a request, and the reported states."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest

from headrace_protos import Code
from headrace_server.backends import auto
from headrace_server.backends.base import BackendOptions
from headrace_server.errors import LoadError, ServingError
from headrace_server.models import version_actions
from headrace_server.models.manager import Manager
from headrace_server.models.servable import Servable
from headrace_server.models.version_policy import State
from headrace_server.models.versions import VersionStatus
from tests.support.models import linear
from tests.support.running import eventually

from .backend import PATIENCE
from .shelf import Models, Shelf, settled

START, LOADING, AVAILABLE, UNLOADING, END, _AT_REST = State

BROKEN = LoadError(Code.INVALID_ARGUMENT, "its file is broken")


@contextmanager
def quick_switches() -> Iterator[None]:
    """Makes threads switch a hundred times as often, so that more races happen."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(interval / 100)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


class Leaving(Servable):
    """A version that is unloaded between the lookup by a request and its lease."""

    asked = Event()

    def lease(self) -> bool:
        self.asked.set()
        eventually(lambda: self._leases.retired)
        return super().lease()


class TestServing:
    def test_aspired_versions_are_loaded_and_served(self, models: Models) -> None:
        models.aspire(3)
        models.reach({3: AVAILABLE})

        assert (models.asked(), models.asked(3)) == (3, 3)
        assert models.shelf.loads == [("m", 3)]

    def test_the_highest_ready_version_is_served_and_any_other_by_its_number(self, models: Models) -> None:
        models.aspire(-1, 0, 10, 9)
        models.reach({10: AVAILABLE, 9: AVAILABLE, 0: AVAILABLE, -1: AVAILABLE})

        assert models.asked() == 10
        assert [models.asked(version) for version in (-1, 0, 9)] == [-1, 0, 9]
        assert models.shelf.loads == [("m", version) for version in (10, 9, 0, -1)]

    def test_versions_below_zero_are_served_too(self, models: Models) -> None:
        models.aspire(-5, -2)
        models.reach({-2: AVAILABLE, -5: AVAILABLE})

        assert models.asked() == -2

    def test_models_are_independent(self, models: Models) -> None:
        models.aspire(1)
        models.aspire(2, name="other")
        models.reach({1: AVAILABLE})
        models.reach({2: AVAILABLE}, name="other")

        assert (models.asked(), models.asked(name="other")) == (1, 2)

    def test_missing_versions_are_not_found(self, models: Models) -> None:
        models.aspire(1)
        models.reach({1: AVAILABLE})

        assert models.missing(2) == "Servable not found for request: Specific(m, 2)"
        assert models.missing(0) == "Servable not found for request: Specific(m, 0)"
        assert models.missing(name="no such") == "Servable not found for request: Latest(no such)"
        assert models.missing(1, name="no such") == "Servable not found for request: Specific(no such, 1)"

    def test_a_loading_version_is_not_found(self, models: Models, shelf: Shelf) -> None:
        shelf.held[1] = Event()
        models.aspire(1)
        models.reach({1: LOADING})

        assert models.missing() == "Servable not found for request: Latest(m)"
        assert models.missing(1) == "Servable not found for request: Specific(m, 1)"

    def test_a_scan_with_the_same_result_changes_nothing(self, models: Models) -> None:
        models.aspire(1)
        models.reach({1: AVAILABLE})
        models.aspire(1)
        models.aspire(2, name="later")
        models.reach({2: AVAILABLE}, name="later")

        assert models.shelf.loads == [("m", 1), ("later", 2)]

    def test_a_real_model_is_loaded_from_its_folder(self, tmp_path: Path, shelf: Shelf) -> None:
        linear(tmp_path / "7")

        def load(name: str, version: int, path: Path) -> Servable:
            return Servable(name, version, auto.load(path, BackendOptions()), shelf.threads, None)

        manager = Manager(load)
        manager.start()
        manager.aspire("m", {7: tmp_path / "7", 8: tmp_path / "8"})
        eventually(lambda: [status.state for status in manager.statuses("m")] == [END, AVAILABLE])
        with manager.servable("m") as servable:
            assert servable.signatures["serving_default"].inputs["x"].shape == (None, 4)
        manager.stop()

        assert [status.state for status in manager.statuses("m")] == [END, END]


class TestSwap:
    def test_the_new_version_serves_before_the_old_one_is_unloaded(self, models: Models, shelf: Shelf) -> None:
        models.aspire(1)
        models.reach({1: AVAILABLE})
        shelf.held[2] = Event()
        models.aspire(2)
        models.reach({2: LOADING, 1: AVAILABLE})
        assert models.asked() == 1

        shelf.held[2].set()
        models.reach({2: AVAILABLE, 1: END})
        assert models.asked() == 2
        assert models.missing(1) == "Servable not found for request: Specific(m, 1)"

    def test_a_version_in_use_stays_until_it_is_released(self, models: Models, shelf: Shelf) -> None:
        models.aspire(1)
        models.reach({1: AVAILABLE})
        with models.manager.servable("m") as old:
            models.aspire(2)
            models.reach({2: AVAILABLE, 1: UNLOADING})

            assert old.version == 1
            assert models.asked() == 2
            assert models.missing(1) == "Servable not found for request: Specific(m, 1)"
            assert not shelf.backends["m", 1].closed
        models.reach({2: AVAILABLE, 1: END})

        assert shelf.backends["m", 1].closed

    def test_a_version_that_fails_to_load_leaves_the_old_one_serving(self, models: Models, shelf: Shelf) -> None:
        models.aspire(1)
        models.reach({1: AVAILABLE})
        shelf.broken[2] = BROKEN
        models.aspire(2)
        models.reach({2: END, 1: AVAILABLE})

        assert models.asked() == 1
        assert status_of(models, 2) == (Code.INVALID_ARGUMENT, "its file is broken")
        assert status_of(models, 1) is None

    def test_any_failure_to_load_is_reported(self, models: Models, shelf: Shelf) -> None:
        shelf.broken[1] = RuntimeError("no room")
        models.aspire(1)
        models.reach({1: END})

        assert status_of(models, 1) == (Code.INTERNAL, "RuntimeError: no room")

    def test_a_failed_version_is_retried_only_when_it_is_aspired_again(self, models: Models, shelf: Shelf) -> None:
        shelf.broken[2] = BROKEN
        models.aspire(2)
        models.reach({2: END})
        shelf.broken.clear()
        models.aspire(2, 1)
        models.reach({2: END, 1: AVAILABLE})
        assert shelf.loads == [("m", 2), ("m", 1)]

        models.aspire(1)
        models.aspire(1, 2)
        models.reach({2: AVAILABLE, 1: AVAILABLE})
        assert status_of(models, 2) is None

    def test_a_request_that_comes_too_late_for_the_old_version_gets_the_new_one(
        self, models: Models, shelf: Shelf
    ) -> None:
        shelf.kinds[1] = Leaving
        models.aspire(1)
        models.reach({1: AVAILABLE})
        with ThreadPoolExecutor(2) as threads:
            any_version, that_version = threads.submit(models.asked), threads.submit(models.missing, 1)
            assert Leaving.asked.wait(PATIENCE)
            models.aspire(2)

            assert any_version.result() == 2
            assert that_version.result() == "Servable not found for request: Specific(m, 1)"

    def test_no_request_fails_while_versions_swap(self, models: Models) -> None:
        """Eight threads send requests all the time, while two hundred versions replace each other."""
        models.aspire(1)
        models.reach({1: AVAILABLE})
        done = Event()

        def ask() -> list[int]:
            versions = [0]
            while not done.is_set():
                with models.manager.servable("m") as servable:
                    backend = models.shelf.backends["m", servable.version]
                    assert not backend.closed
                    done.wait(0.0002)  # lets other threads run
                    assert not backend.closed
                    versions.append(servable.version)
            return versions

        with ThreadPoolExecutor(8) as threads, quick_switches():
            asking = [threads.submit(ask) for _ in range(8)]
            try:
                for version in range(2, 202):
                    models.aspire(version)
                    eventually(lambda version=version: models.states()[version] is AVAILABLE)  # type: ignore[misc]
            finally:
                done.set()
            for answer in asking:
                versions = answer.result()
                assert versions == sorted(versions)
                assert len(set(versions)) > 5


class TestRemoval:
    def test_a_version_that_is_no_longer_aspired_is_unloaded(self, models: Models, shelf: Shelf) -> None:
        models.aspire(1)
        models.reach({1: AVAILABLE})
        models.aspire()
        models.reach({1: END})

        assert shelf.backends["m", 1].closed
        assert status_of(models, 1) is None
        assert models.missing() == "Servable not found for request: Latest(m)"

    def test_the_version_that_is_aspired_instead_is_loaded(self, models: Models) -> None:
        models.aspire(2)
        models.reach({2: AVAILABLE})
        models.aspire(1)
        models.reach({2: END, 1: AVAILABLE})

        assert models.asked() == 1

    def test_a_version_that_was_never_loaded_just_ends(self, models: Models, shelf: Shelf) -> None:
        shelf.held[2] = Event()
        models.aspire(1, 2)
        models.reach({2: LOADING, 1: START})
        models.aspire(2)
        models.reach({2: LOADING, 1: END})
        shelf.held[2].set()
        models.reach({2: AVAILABLE, 1: END})

        assert shelf.loads == [("m", 2)]

    def test_a_version_that_is_no_longer_aspired_after_its_load_is_unloaded(self, models: Models, shelf: Shelf) -> None:
        shelf.held[1] = Event()
        models.aspire(1)
        models.reach({1: LOADING})
        models.aspire()
        shelf.held[1].set()
        models.reach({1: END})

        assert shelf.backends["m", 1].closed

    def test_a_version_that_is_aspired_again_starts_over(self, models: Models, shelf: Shelf) -> None:
        models.aspire(1)
        models.reach({1: AVAILABLE})
        models.aspire()
        models.reach({1: END})
        models.aspire(1)
        models.reach({1: AVAILABLE})

        assert models.asked() == 1
        assert shelf.loads == [("m", 1), ("m", 1)]

    def test_a_version_aspired_again_during_its_unload_starts_over_afterwards(self, models: Models) -> None:
        models.aspire(1)
        models.reach({1: AVAILABLE})
        with models.manager.servable("m"):
            models.aspire()
            models.reach({1: UNLOADING})
            models.aspire(1)
            assert models.states() == {1: UNLOADING}
        models.reach({1: AVAILABLE})

        assert models.asked() == 1


class TestStatuses:
    def test_the_highest_version_comes_first_and_none_is_forgotten(self, models: Models) -> None:
        for version in (5, 10, -1):
            models.aspire(version)
            eventually(lambda version=version: models.states()[version] is AVAILABLE)  # type: ignore[misc]
        models.reach({10: END, 5: END, -1: AVAILABLE})

        assert models.manager.statuses("m") == [
            VersionStatus(10, END),
            VersionStatus(5, END),
            VersionStatus(-1, AVAILABLE),
        ]

    def test_an_unknown_model_has_no_status(self, models: Models) -> None:
        assert models.manager.statuses("no such") == []

    def test_a_model_settles_when_a_version_is_available(self, models: Models, shelf: Shelf) -> None:
        shelf.held[1] = Event()
        models.aspire(1, 2)

        assert settled(models.manager, "m") == {"m": VersionStatus(2, AVAILABLE)}

    def test_a_model_settles_when_a_version_has_failed(self, models: Models, shelf: Shelf) -> None:
        """TF Serving: only the highest version that is loading or available counts, whatever happens to lower ones."""
        shelf.broken[2] = BROKEN
        shelf.held[1] = Event()
        models.aspire(1, 2)
        status = settled(models.manager, "m")["m"]

        assert (status.version, status.state) == (2, END)

    def test_a_failed_load_is_logged_before_the_model_settles(
        self, models: Models, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[State] = []
        monkeypatch.setattr(version_actions.log, "error", lambda *_: seen.append(models.states()[1]))
        shelf.broken[1] = BROKEN
        models.aspire(1)
        models.reach({1: END})

        assert seen == [State.LOADING]

    def test_all_models_have_to_settle(self, models: Models, shelf: Shelf) -> None:
        shelf.held[7] = Event()
        models.aspire(1)
        models.aspire(7, name="other")
        models.reach({1: AVAILABLE})
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(models.manager.wait_settled, ["m", "other"])
            shelf.held[7].set()

            assert waiting.result(PATIENCE) == {"m": VersionStatus(1, AVAILABLE), "other": VersionStatus(7, AVAILABLE)}

    def test_an_old_failure_settles_nothing(self, models: Models, shelf: Shelf) -> None:
        shelf.broken[1] = BROKEN
        models.aspire(1)
        models.reach({1: END})
        now = models.manager.mark()
        assert settled(models.manager, "m")
        assert models.manager.wait_settled(["m"], now, lambda: True) == {"m": None}

    def test_a_version_that_is_about_to_be_unloaded_settles_nothing(self, models: Models) -> None:
        models.aspire(1)
        models.reach({1: AVAILABLE})
        with models.manager.servable("m"):
            models.aspire()
            models.reach({1: UNLOADING})
            assert models.manager.wait_settled(["m"], given_up=lambda: True) == {"m": None}

    def test_a_model_without_versions_does_not_settle(self, models: Models) -> None:
        models.aspire()
        assert models.manager.wait_settled(["m"], given_up=lambda: True) == {"m": None}

    def test_a_waiting_thread_checks_whether_to_give_up_only_when_it_wakes(self, models: Models) -> None:
        asked: list[bool] = []
        giving_up = Event()

        def given_up() -> bool:
            asked.append(giving_up.is_set())
            return giving_up.is_set()

        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(models.manager.wait_settled, ["m"], 0, given_up)
            eventually(lambda: asked == [False])
            giving_up.set()
            models.manager.wake()

            assert waiting.result(PATIENCE) == {"m": None}
        assert asked == [False, True]


class TestStop:
    def test_a_stop_waits_for_the_last_request_and_frees_everything(self, shelf: Shelf) -> None:
        models = Models(shelf)
        models.manager.start()
        models.aspire(1, 2)
        models.aspire(7, name="other")
        models.reach({2: AVAILABLE, 1: AVAILABLE})
        models.reach({7: AVAILABLE}, name="other")
        with models.manager.servable("m", 1):
            stopping = Thread(target=models.manager.stop)
            stopping.start()
            eventually(lambda: models.states()[1] is UNLOADING)
            assert stopping.is_alive()
            assert not shelf.backends["m", 1].closed
        stopping.join(PATIENCE)

        assert not stopping.is_alive()
        assert all(backend.closed for backend in shelf.backends.values())
        assert models.states() == {2: END, 1: END}
        assert models.missing(name="other") == "Servable not found for request: Latest(other)"

    def test_threads_that_wait_for_a_model_are_released(self, shelf: Shelf) -> None:
        models = Models(shelf)
        models.manager.start()
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(models.manager.wait_settled, ["m"])
            models.manager.let_go()
            error = waiting.exception(PATIENCE)
            models.manager.stop()

        assert isinstance(error, ServingError)
        assert (error.code, error.message) == (Code.UNAVAILABLE, "the server is stopping")

    def test_nothing_is_loaded_after_the_stop(self, shelf: Shelf) -> None:
        models = Models(shelf)
        models.manager.start()
        models.manager.stop()
        models.aspire(1)

        assert models.states() == {}


def status_of(models: Models, version: int) -> tuple[Code, str] | None:
    """The error with which a version ended."""
    error = next(status for status in models.manager.statuses("m") if status.version == version).error
    if error is None:
        return None
    assert isinstance(error, ServingError)
    return error.code, error.message
