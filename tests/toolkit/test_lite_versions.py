"""`headrace report` and `explain` read published TFLite versions as the server does."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.server.backends.conftest import HEADRACE, tensorflow_models, tensorflow_server_python

__all__ = ["tensorflow_models", "tensorflow_server_python"]


@pytest.fixture(scope="module")
def python(tensorflow_server_python: Path) -> Path:
    if subprocess.run([tensorflow_server_python, "-c", "import onnx"], capture_output=True, check=False).returncode:
        pytest.skip(f"{tensorflow_server_python} lacks headrace[keras]: run scripts/install-tensorflow")
    return tensorflow_server_python


@pytest.fixture
def base(tensorflow_models: Path, tmp_path: Path) -> Path:
    """Three versions and a file of rows: m/1 and m/2 differ in tensor names only, and the file of m/3 is truncated."""
    content = (tensorflow_models / "tflite" / "1" / "model.tflite").read_bytes()
    for number, part in enumerate((content, content, content[:300]), start=1):
        folder = tmp_path / "m" / str(number)
        folder.mkdir(parents=True)
        (folder / "model.tflite").write_bytes(part)
    (tmp_path / "m" / "2" / "card.json").write_text(json.dumps({"files": {"model.tflite": {"sha256": "0"}}}))
    x = np.random.default_rng(0).random((40, 2)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", x=x, text=np.array([b"abc", b"other"] * 20))
    return tmp_path


def headrace(python: Path, folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [str(python), "-c", HEADRACE, *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_versions_side_by_side(python: Path, base: Path) -> None:
    words = ["--data=rows.npz", "--timing_seconds=0.05", "--json=r.json"]
    done = headrace(python, base, "report", "m/1", "m/2", *words)
    assert done.returncode == 1, done.stderr  # the card of m/2 names another file
    assert "m/2/model.tflite is no longer the file that its card names" in done.stdout
    report = json.loads((base / "r.json").read_text())
    first, second = report["steps"]
    assert (first["name"], second["name"]) == ("m/1", "m/2")
    assert report["source"]["kind"] == "tflite"
    assert first["bytes"] == second["bytes"] == (base / "m" / "1" / "model.tflite").stat().st_size
    assert second["largest_difference"] == 0
    assert set(second["time"]) == {"1", "32"}


def test_a_version_that_cannot_be_loaded_is_one_line(python: Path, base: Path) -> None:
    done = headrace(python, base, "report", "m/3", "--data=rows.npz")
    assert done.returncode == 1
    assert "m/3/model.tflite" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_without_its_runtime_the_extra_is_named(base: Path) -> None:
    from headrace_toolkit.errors import ToolkitError
    from headrace_toolkit.published import open_version

    with pytest.raises(ToolkitError, match=r"TFLite files needs ai_edge_litert.* pip install 'headrace\[tflite\]'"):
        open_version(str(base / "m" / "1"))
