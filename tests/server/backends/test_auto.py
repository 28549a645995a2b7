"""Which backend a version's files select, and the error if none can load them."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace_protos import Code
from headrace_server.backends import auto
from headrace_server.backends.base import BackendOptions
from headrace_server.errors import LoadError
from tests.support.models import linear

LOADING = "headrace_server.backends.onnx.loading"
BACKEND = "headrace_server.backends.onnx.backend"


class Absent:
    """Makes a package impossible to import."""

    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(self, name: str, *_: object) -> None:
        if name == self._package:
            raise ModuleNotFoundError(name=name)


def failure_of(version: Path, **options: Any) -> tuple[Code, str]:
    with pytest.raises(LoadError) as raised:
        auto.load(version, BackendOptions(**options))
    return raised.value.code, raised.value.message


def test_a_model_onnx_is_run_by_onnx_runtime(tmp_path: Path) -> None:
    linear(tmp_path / "1", columns=3, bias=0.5)
    backend = auto.load(tmp_path / "1", BackendOptions())

    outputs = backend.run("serving_default", {"x": np.ones((2, 3), np.float32)}, ["y"])

    assert outputs["y"].tolist() == [[3.5], [3.5]]


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").touch()  # used only with --prefer_tflite_model

    assert failure_of(tmp_path) == (
        Code.NOT_FOUND,
        "Specified file path does not appear to contain a SavedModel bundle (should have a file called "
        f"`saved_model.pb`)\nSpecified file path: {tmp_path}\n"
        "It also contains no model.onnx, model.plan, model.engine or model.py, nor, with --prefer_tflite_model, a "
        "model.tflite.",
    )


def test_a_session_bundle(tmp_path: Path) -> None:
    for name in ("export.meta", "saved_model.pb"):
        (tmp_path / name).touch()

    assert failure_of(tmp_path) == (Code.UNIMPLEMENTED, "Session Bundle is deprecated and removed.")


@pytest.mark.parametrize(
    ("file", "module", "runtime", "extra"),
    [
        ("saved_model.pb", "tensorflow", "TensorFlow", "tensorflow"),
        ("saved_model.pbtxt", "tensorflow", "TensorFlow", "tensorflow"),
        ("model.tflite", "ai_edge_litert", "LiteRT", "tflite"),
    ],
)
def test_a_runtime_that_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, module: str, runtime: str, extra: str
) -> None:
    (tmp_path / file).touch()
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Absent(module), *sys.meta_path])

    code, text = failure_of(tmp_path, prefer_tflite_model=True)

    model = tmp_path / file if extra == "tflite" else tmp_path
    assert code == Code.FAILED_PRECONDITION
    assert text == f"{model} needs {runtime}, which is not installed: pip install 'headrace[{extra}]'"


def test_of_several_models_python_is_preferred_and_onnx_to_a_saved_model(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").touch()
    linear(tmp_path)
    assert list(auto.load(tmp_path, BackendOptions()).signatures["serving_default"].outputs) == ["y"]

    (tmp_path / "model.py").write_text(
        'INPUTS = OUTPUTS = {"z": ("int32", [None])}\ndef predict(inputs): return inputs\n'
    )
    assert list(auto.load(tmp_path, BackendOptions()).signatures["serving_default"].outputs) == ["z"]


def test_a_version_that_is_a_file_or_gone(tmp_path: Path) -> None:
    (tmp_path / "1").touch()

    assert failure_of(tmp_path / "1")[0] == Code.NOT_FOUND
    assert failure_of(tmp_path / "2")[0] == Code.NOT_FOUND


def test_a_folder_called_like_a_model(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").mkdir()

    assert failure_of(tmp_path)[0] == Code.NOT_FOUND


def test_without_onnx_runtime_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = linear(tmp_path)
    monkeypatch.delitem(sys.modules, LOADING, raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    assert failure_of(tmp_path) == (
        Code.FAILED_PRECONDITION,
        f"{file} needs ONNX Runtime, which is not installed: pip install 'headrace[cpu]'",
    )


def test_a_broken_installation_is_not_reported_as_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linear(tmp_path)
    for name in (LOADING, BACKEND):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "numpy", None)

    with pytest.raises(ModuleNotFoundError, match="numpy"):
        auto.load(tmp_path, BackendOptions())


def test_no_runtime_is_imported_before_a_model_needs_it() -> None:
    runtimes = "'onnxruntime', 'tensorflow', 'ai_edge_litert'"
    program = f"import sys, headrace_server.backends.auto; print(any(name in sys.modules for name in ({runtimes})))"

    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)

    assert printed.stdout == "False\n"
