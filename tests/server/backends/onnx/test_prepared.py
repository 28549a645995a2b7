"""Sessions that are opened ahead of several loads are used by these loads, unless something has changed."""

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from headrace_server.backends import auto
from headrace_server.backends.base import BackendOptions
from headrace_server.backends.onnx import loading, prepared, providers
from headrace_server.errors import LoadError
from tests.support import models

pytest.importorskip("headrace_native")

PATIENCE = 10.0
"""Seconds after which something counts as stuck."""

X = {"x": np.ones((1, 4), np.float32)}


@pytest.fixture(autouse=True)
def _enough_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets all sessions be opened ahead on a busy machine, too."""
    monkeypatch.setattr(prepared, "SECONDS", PATIENCE)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files for which a load opened a session itself, in order."""
    opened: list[str] = []
    open_session = providers.open_session

    def counted(model: str | bytes, *rest: object) -> object:
        opened.append(str(model))
        return open_session(model, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(loading, "open_session", counted)
    return opened


def shelf(root: Path, count: int = 5) -> list[Path]:
    """Folders of versions whose models add their number."""
    folders = [root / str(number) for number in range(count)]
    for number, folder in enumerate(folders):
        models.linear(folder, bias=float(number))
    return folders


def prepared_count(folders: list[Path]) -> int:
    """How many of these models have a session after they have been prepared."""
    options = BackendOptions()
    ahead = auto.prepare(folders, options)
    assert isinstance(ahead, prepared.Prepared)
    return sum(ahead.take(folder / models.FILE, options) is not None for folder in folders)


def answer(folder: Path, options: BackendOptions) -> float:
    return float(auto.load(folder, options).run("serving_default", X, ["y"])["y"][0, 0])


def test_each_load_uses_the_session_of_its_own_model(tmp_path: Path, opened: list[str]) -> None:
    options, folders = BackendOptions(), shelf(tmp_path)
    kept = auto.prepare(folders, options)
    assert [answer(folder, options) for folder in folders] == [4, 5, 6, 7, 8]
    assert opened == []
    assert answer(folders[0], options) == 4  # a second load of a version has a session of its own
    assert opened == [str(folders[0] / models.FILE)]
    del kept


def test_sessions_are_dropped_with_the_returned_object(tmp_path: Path, opened: list[str]) -> None:
    options, folders = BackendOptions(), shelf(tmp_path, 2)
    auto.prepare(folders, options)
    assert answer(folders[1], options) == 5
    assert opened == [str(folders[1] / models.FILE)]


def test_a_file_that_has_changed_since_is_read_again(tmp_path: Path) -> None:
    options, folders = BackendOptions(), shelf(tmp_path, 2)
    kept = auto.prepare(folders, options)
    shutil.copy(models.linear(tmp_path / "other", bias=30.0), folders[1] / models.FILE)
    assert [answer(folder, options) for folder in folders] == [4, 34]
    del kept


def test_a_load_with_other_options_has_a_session_of_its_own(tmp_path: Path, opened: list[str]) -> None:
    options, folders = BackendOptions(), shelf(tmp_path, 4)
    kept = auto.prepare(folders, options)
    others = (
        replace(options, inter_op_threads=2),
        replace(options, intra_op_threads=2),
        replace(options, onnxruntime=replace(options.onnxruntime, cpu_memory_arena=False)),
    )
    for number, (folder, other) in enumerate(zip(folders, others, strict=False)):
        assert answer(folder, other) == 4 + number
    assert len(opened) == len(others)
    assert answer(folders[3], replace(options, signatures={})) == 7
    assert len(opened) == len(others)
    del kept


def test_a_broken_model_leaves_the_others_alone_and_its_load_reports_it(tmp_path: Path) -> None:
    options, folders = BackendOptions(), shelf(tmp_path, 3)
    (folders[1] / models.FILE).write_bytes(b"no model")
    (folders[2] / models.FILE).unlink()
    kept = auto.prepare([*folders, tmp_path / "missing"], options)
    assert answer(folders[0], options) == 4
    for folder in folders[1:]:
        with pytest.raises(LoadError, match=str(folder)):
            auto.load(folder, options)
    del kept


@pytest.mark.parametrize("found", [None, object()])
def test_without_headrace_native_each_load_opens_its_session(
    tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch, found: object
) -> None:
    """It may not be installed, or it may be impossible to import."""
    options, folders = BackendOptions(), shelf(tmp_path, 2)
    monkeypatch.setattr(loading, "find_spec", lambda _: found)
    monkeypatch.setitem(sys.modules, "headrace_native", None)
    kept = auto.prepare(folders, options)
    assert [answer(folder, options) for folder in folders] == [4, 5]
    assert opened == [str(folder / models.FILE) for folder in folders]
    del kept


def test_a_missing_provider_is_reported_by_the_loads(tmp_path: Path, opened: list[str]) -> None:
    options, folders = BackendOptions(), shelf(tmp_path, 2)
    wrong = replace(options, onnxruntime=replace(options.onnxruntime, providers=("NoneExecutionProvider",)))
    kept = auto.prepare(folders, wrong)
    assert opened == []
    with pytest.raises(LoadError, match="this ONNX Runtime has no NoneExecutionProvider"):
        auto.load(folders[0], wrong)
    assert answer(folders[1], options) == 5
    del kept


def test_the_providers_are_chosen_once_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[object] = []
    choose = providers.choose

    def counted(*rest: Any, **named: Any) -> providers.Choice:
        chosen.append(rest)
        return choose(*rest, **named)

    monkeypatch.setattr(loading, "choose", counted)
    options, folders = BackendOptions(), shelf(tmp_path)
    kept = auto.prepare(folders, options)
    assert [answer(folder, options) for folder in folders] == [4, 5, 6, 7, 8]
    assert len(chosen) == 1
    del kept


def test_a_pipe_is_left_to_its_load(tmp_path: Path) -> None:
    """The load refuses a pipe without opening it. Opening would wait for a writer, and all loads would wait, too."""
    options, folders = BackendOptions(), shelf(tmp_path, 2)
    (folders[0] / models.FILE).unlink()
    os.mkfifo(folders[0] / models.FILE)
    preparing = Thread(target=auto.prepare, args=(folders, options), daemon=True)
    preparing.start()
    preparing.join(PATIENCE)
    assert not preparing.is_alive()
    with pytest.raises(LoadError, match=str(folders[0])):
        auto.load(folders[0], options)


def test_models_that_would_take_long_are_left_to_their_loads(
    tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options, folders = BackendOptions(), shelf(tmp_path, 4)
    listed: list[Path] = []

    def slowly() -> Iterator[Path]:
        for folder in folders:
            listed.append(folder)
            yield folder

    now = count()  # each look at the clock takes a second
    monkeypatch.setattr(prepared, "time", SimpleNamespace(monotonic=lambda: next(now)))
    monkeypatch.setattr(prepared, "SECONDS", 2.5)
    kept = auto.prepare(slowly(), options)
    assert len(listed) == 3
    assert [answer(folder, options) for folder in folders] == [4, 5, 6, 7]
    assert opened == [str(folder / models.FILE) for folder in folders]
    del kept


@pytest.mark.parametrize("other", ["model.py", "model.plan", "saved_model.pb"])
def test_a_folder_with_another_model_is_left_to_its_load(tmp_path: Path, other: str) -> None:
    (folder,) = shelf(tmp_path, 1)
    (folder / other).touch()
    assert prepared_count([folder]) == 0


def test_a_large_model_is_left_to_its_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = shelf(tmp_path, 2)
    monkeypatch.setattr(loading, "SMALL", (folders[0] / models.FILE).stat().st_size)
    assert prepared_count(folders) == 0


def test_a_model_with_external_data_is_left_to_its_load(tmp_path: Path) -> None:
    (folder,) = shelf(tmp_path, 1)
    file = folder / models.FILE
    onnx.save_model(onnx.load(file), file, save_as_external_data=True, location="weights", size_threshold=0)
    assert (folder / "weights").exists()
    assert prepared_count([folder]) == 0
