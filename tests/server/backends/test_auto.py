"""Which backend a version's files ask for, and what is said where none can take them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from headrace_protos import Code
from headrace_server.backends import auto
from headrace_server.backends.base import BackendOptions
from headrace_server.errors import LoadError
from tests.models import linear

BACKEND = "headrace_server.backends.onnxruntime_impl"


def failure_of(version: Path) -> tuple[Code, str]:
    with pytest.raises(LoadError) as raised:
        auto.load(version, BackendOptions())
    return raised.value.code, raised.value.message


def test_a_model_onnx_is_run_by_onnx_runtime(tmp_path: Path) -> None:
    linear(tmp_path / "1", columns=3, bias=0.5)
    backend = auto.load(tmp_path / "1", BackendOptions())

    outputs = backend.run("serving_default", {"x": np.ones((2, 3), np.float32)}, ["y"])

    assert outputs["y"].tolist() == [[3.5], [3.5]]


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").touch()

    assert failure_of(tmp_path) == (
        Code.NOT_FOUND,
        f"{tmp_path} holds no model: expected a file called model.onnx",
    )


def test_a_version_that_is_a_file_or_gone(tmp_path: Path) -> None:
    (tmp_path / "1").touch()

    assert failure_of(tmp_path / "1")[0] == Code.NOT_FOUND
    assert failure_of(tmp_path / "2")[0] == Code.NOT_FOUND


def test_a_folder_called_like_a_model(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").mkdir()

    assert failure_of(tmp_path)[0] == Code.NOT_FOUND


def test_without_onnx_runtime_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = linear(tmp_path)
    monkeypatch.delitem(sys.modules, BACKEND, raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    assert failure_of(tmp_path) == (
        Code.FAILED_PRECONDITION,
        f"{file} needs ONNX Runtime, which is not installed: pip install 'headrace[cpu]'",
    )


def test_a_broken_installation_is_not_taken_for_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linear(tmp_path)
    monkeypatch.delitem(sys.modules, BACKEND, raising=False)
    monkeypatch.setitem(sys.modules, "numpy", None)

    with pytest.raises(ModuleNotFoundError, match="numpy"):
        auto.load(tmp_path, BackendOptions())


def test_no_runtime_is_imported_before_a_model_wants_it() -> None:
    program = "import sys, headrace_server.backends.auto; print('onnxruntime' in sys.modules)"

    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)

    assert printed.stdout == "False\n"
