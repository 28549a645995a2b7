"""When the stores of models are polled: by the clock, and not each time a configuration is read."""

from collections.abc import Collection, Iterator
from pathlib import Path
from threading import Event
from typing import NoReturn

import pytest

from headrace_server.config.model_config import ModelConfig, Specific
from headrace_server.config.model_list import several_models
from headrace_server.config.stores import StoreOptions
from headrace_server.errors import ServingError, invalid
from headrace_server.models.configuration import Configuration
from headrace_server.models.manager import Manager
from headrace_server.models.source import Source
from headrace_server.stores.mirrors import Mirrors, StoreCounts
from tests.support.calls import ANSWER_WITHIN
from tests.support.running import eventually

from .files import Files

URI = "http://127.0.0.1:1/m.onnx"


@pytest.fixture
def failures() -> list[str]:
    return []


@pytest.fixture
def mirrors(tmp_path: Path, failures: list[str]) -> Iterator[Mirrors]:
    """Mirrors of unreachable stores, on a clock that stands still."""
    options, counts = StoreOptions(cache=str(tmp_path)), StoreCounts(failed=failures.append)
    mirrors = Mirrors(options, lambda: None, counts, clock=lambda: 0.0)
    yield mirrors
    mirrors.stop()


def highest(versions: Collection[int]) -> list[int]:
    return [max(versions)]


def due(mirrors: Mirrors) -> float:
    """The time of the next poll after one has failed."""
    watched = mirrors._watched["m"]
    eventually(lambda: watched.failures == 1 and not watched.running)
    return watched.due


def test_a_store_that_is_already_polled_is_not_polled_earlier(mirrors: Mirrors, failures: list[str]) -> None:
    mirrors.watch("m", URI, highest)
    assert due(mirrors) == 1
    mirrors.watch("m", URI, highest)
    assert due(mirrors) == 1
    assert failures == ["m"]


def test_a_store_is_polled_at_once_for_other_versions(mirrors: Mirrors, failures: list[str]) -> None:
    mirrors.watch("m", URI, highest)
    assert due(mirrors) == 1
    mirrors.watch("m", URI, sorted)
    eventually(lambda: failures == ["m", "m"])


def test_a_store_is_polled_again_for_versions_requested_during_a_poll(tmp_path: Path) -> None:
    looks: list[str] = []

    def failed(name: str) -> None:
        looks.append(name)
        own.watch("m", URI, sorted)

    own = Mirrors(StoreOptions(cache=str(tmp_path)), lambda: None, StoreCounts(failed=failed), clock=lambda: 0.0)
    own.watch("m", URI, highest)
    try:
        eventually(lambda: looks == ["m", "m"])
    finally:
        own.stop()


class Chosen:
    """Chooses all versions, and lets a test act while a scan waits for the choice."""

    def __init__(self) -> None:
        self.asked = Event()
        self.go_on = Event()

    def __call__(self, versions: Collection[int]) -> list[int]:
        self.asked.set()
        assert self.go_on.wait(ANSWER_WITHIN)
        return sorted(versions)


@pytest.fixture
def chosen(files: Files) -> Chosen:
    files.content = {f"/{name}/m.onnx": b"x" for name in ("one", "two")}
    return Chosen()


def test_a_model_that_is_removed_during_a_scan_leaves_nothing(mirrors: Mirrors, files: Files, chosen: Chosen) -> None:
    uri = f"{files.url}/one/m.onnx"
    mirrors.watch("m", uri, chosen)
    assert chosen.asked.wait(ANSWER_WITHIN)
    assert mirrors.path("m", uri).is_dir()
    mirrors.keep(())
    chosen.go_on.set()
    eventually(lambda: not mirrors.path("m", uri).exists())


def test_a_model_that_is_removed_and_added_during_a_scan_stays(mirrors: Mirrors, files: Files, chosen: Chosen) -> None:
    uri = f"{files.url}/one/m.onnx"
    mirrors.watch("m", uri, chosen)
    assert chosen.asked.wait(ANSWER_WITHIN)
    mirrors.keep(())
    mirrors.watch("m", uri, sorted)
    chosen.go_on.set()
    eventually(lambda: mirrors._watched["m"].due == StoreOptions().poll_seconds)
    assert (mirrors.path("m", uri) / "1").is_dir()


def test_a_model_that_moves_leaves_nothing_at_its_former_place(mirrors: Mirrors, files: Files, chosen: Chosen) -> None:
    one, two = (f"{files.url}/{name}/m.onnx" for name in ("one", "two"))
    chosen.go_on.set()
    mirrors.watch("m", one, chosen)
    eventually(lambda: (mirrors.path("m", one) / "1").exists())
    mirrors.watch("m", two, chosen)
    mirrors.keep(("m",))
    eventually(lambda: (mirrors.path("m", two) / "1").exists() and not mirrors.path("m", one).exists())


def test_a_refused_configuration_changes_no_store(mirrors: Mirrors) -> None:
    def refuse(models: object) -> NoReturn:
        raise invalid(f"no logging for {models}")

    manager = Manager(lambda name, version, path: pytest.fail(f"{name} {version} {path}"))
    source = Source(0.05, manager.aspire, manager.looked)
    configuration = Configuration(manager, source, refuse, mirrors=mirrors)
    with pytest.raises(ServingError, match="no logging"):
        configuration.apply_at_once(several_models([ModelConfig("m", Path(), Specific((1,)), URI)]))
    assert mirrors._watched == {}


def test_reading_a_configuration_again_does_not_poll_stores(mirrors: Mirrors, failures: list[str]) -> None:
    manager = Manager(lambda name, version, path: pytest.fail(f"{name} {version} {path}"))
    source = Source(0.05, manager.aspire, manager.looked)
    configuration = Configuration(manager, source, lambda _: lambda: None, mirrors=mirrors)
    one, two = (several_models([ModelConfig("m", Path(), Specific((version,)), URI)]) for version in (1, 2))
    manager.start()
    source.start()
    try:
        with pytest.raises(ServingError, match="did not become available"):
            configuration.apply_at_once(one)
        assert due(mirrors) == 1
        configuration.apply_at_once(one)
        assert due(mirrors) == 1
        configuration.apply_at_once(two)
        eventually(lambda: failures == ["m", "m"])
    finally:
        source.stop()
        manager.stop()
