"""A version packaged for other people: its contents, and the arguments that are refused before anything is written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from headrace_toolkit import Data, convert, load
from tests.support.running import COMMAND, ServerProcess
from tests.toolkit import models


@pytest.fixture
def base(made: Path, tmp_path: Path) -> Path:
    """digits/1, with a model.toml next to it."""
    rows = Data("rows", "", {"x": models.digits().test_x[:40]})
    convert(load(made / "mlp.onnx"), rows).publish(tmp_path / "digits")
    (tmp_path / "digits" / "model.toml").write_text("[batching]\nmax_batch_size = 32\n")
    return tmp_path / "digits"


def package(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, "package", *arguments], cwd=folder, capture_output=True, text=True, check=False)


def test_for_docker(base: Path) -> None:
    done = package(base.parent, "digits/1", "image", "--as=docker")
    assert done.returncode == 0, done.stderr
    wanted = ["Dockerfile", "models/digits/1/card.json", "models/digits/1/model.onnx",
              "models/digits/1/profile.json", "models/digits/model.toml"]  # fmt: skip
    assert done.stdout.splitlines() == [f"image/{name}" for name in wanted]
    image = base.parent / "image"
    assert (image / "models/digits/1/model.onnx").read_bytes() == (base / "1" / "model.onnx").read_bytes()
    text = (image / "Dockerfile").read_text()
    assert "\nENV MODEL_NAME=digits\n" in text
    assert "\nFROM ${HEADRACE}\n" in text
    hadolint = Path(sys.executable).with_name("hadolint")
    if hadolint.exists():
        # The rules DL3006 and DL3007 require a version of the base image, which only the user can choose.
        checked = subprocess.run([hadolint, "--ignore=DL3006", "--ignore=DL3007", image / "Dockerfile"], check=False)
        assert checked.returncode == 0
    assert sorted(path.name for path in base.parent.iterdir()) == ["digits", "image"]


def test_the_folder_is_served_as_the_image_serves_it(base: Path) -> None:
    assert package(base.parent, "digits/1", "image", "--as=docker").returncode == 0
    shutil.rmtree(base)
    server = ServerProcess(base.parent / "image/models/digits", "--enable_batching=true")
    try:
        caller = server.started()
        x = models.digits().test_x[:3]
        session = ort.InferenceSession(str(base.parent / "image/models/digits/1/model.onnx"))
        answers = caller.predict({"x": x})["logits"]
        np.testing.assert_allclose(answers, session.run(None, {"x": x})[0], atol=1e-4)
        caller.close()
    finally:
        server.close()


@pytest.mark.filterwarnings("ignore")  # MLflow's own warning, about type hints
def test_for_mlflow(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "mlflow-skinny is not installed: make test-torch runs this test"
    pytest.importorskip("mlflow.onnx", reason=reason)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    done = package(base.parent, "digits/1", "kept", "--as=mlflow")
    assert done.returncode == 0, done.stderr
    assert {"kept/MLmodel", "kept/model.onnx", "kept/card.json", "kept/requirements.txt"} <= set(done.stdout.split())
    import mlflow.pyfunc

    model = mlflow.pyfunc.load_model(str(base.parent / "kept"))
    x = models.digits().test_x[:3]
    answers = model.predict({"x": x})
    assert answers["logits"].shape == (3, 10)
    assert str(base.parent) not in (base.parent / "kept" / "MLmodel").read_text()


def test_a_missing_mlflow_is_named(base: Path) -> None:
    try:
        import mlflow  # noqa: F401
    except ImportError:
        done = package(base.parent, "digits/1", "kept", "--as=mlflow")
        assert done.returncode == 1
        assert (
            done.stderr == "headrace: an MLflow folder needs mlflow, which is not installed: "
            "pip install 'headrace[mlflow]'\n"
        )
        assert os.listdir(base.parent) == ["digits"]
    else:
        pytest.skip("MLflow is here")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("digits/2", "image", "--as=docker"), "digits/2 is not a version's folder: name one, as in models/digits/1"),
        (("digits", "image", "--as=docker"), "digits is not a version's folder"),
        (("digits/1", "digits", "--as=docker"), "digits exists and is not empty: name another folder"),
        (("digits/1", "file/image", "--as=docker"), "file/image cannot be written: "),
    ],
)
def test_refused_arguments(base: Path, arguments: tuple[str, ...], text: str) -> None:
    (base.parent / "file").write_text("")
    before = sorted(base.parent.rglob("*"))
    done = package(base.parent, *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(f"headrace: {text}")
    assert len(done.stderr.splitlines()) == 1
    assert sorted(base.parent.rglob("*")) == before


def test_a_file_that_differs_from_the_card(base: Path) -> None:
    with (base / "1" / "model.onnx").open("ab") as file:
        file.write(b"\x72\x00")
    done = package(base.parent, "digits/1", "image", "--as=docker")
    assert (done.returncode, "is no longer the file that its card names" in done.stderr) == (1, True)


def test_the_kind_must_be_named(base: Path) -> None:
    done = package(base.parent, "digits/1", "image")
    assert done.returncode == 2
    assert "--as" in done.stderr
