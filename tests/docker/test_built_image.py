"""The CPU image, built from wheels and run as a hardened container: `make test-image`, which needs root and buildah."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.docker.container import Container, Images, make_context
from tests.support import models
from tests.support.running import eventually

PARTS = os.environ.get("HEADRACE_IMAGE_PARTS", "")
TAG = "localhost/headrace:cpu"
WITHIN = 120.0

MOST_ABOVE_BASE = 210_000_000
"""Bytes that the image may have on top of its base: ONNX Runtime 78 MB, NumPy 56, gRPC 19, uvloop 14, headrace 15."""

MODELS = """
model_config_list {
  config { name: "digits" base_path: "/models/digits" model_platform: "tensorflow" }
  config { name: "waits" base_path: "/models/waits" model_platform: "tensorflow" }
}
"""

WAITS = '''
"""Answers once a file exists."""
import time
from pathlib import Path

INPUTS = {"x": ("float32", [None, 4])}
OUTPUTS = {"y": ("float32", [None, 1])}


def predict(inputs):
    if inputs["x"][0, 0] > 0:
        Path("/signals/began").touch()
        while not Path("/signals/go").exists():
            time.sleep(0.01)
    return {"y": inputs["x"].sum(axis=1, keepdims=True)}
'''

PREDICT = """
import numpy as np
from headrace_client import Client

with Client("localhost:8500") as client:
    print(client.predict("{model}", {{"x": np.ones((1, 4), np.float32)}}, timeout=60)["y"].tolist())
"""

REST = """
from urllib.request import urlopen

print(urlopen("http://localhost:8501/v1/models/digits:predict", b'{"instances": [[1, 1, 1, 1]]}').read().decode())
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    for name in ("buildah", "crun", "nsenter"):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")
    if not PARTS:
        pytest.skip("make test-image prepares what this test needs")
    folder = tmp_path_factory.mktemp("images")
    with ExitStack() as stack:
        store = Images(folder)
        stack.callback(store.close)
        store.add_bases(Path(PARTS), folder / "pip.conf")
        make_context(folder / "context", Path(PARTS) / "dist")
        store.build(folder / "context", TAG)
        yield store


@pytest.fixture(scope="module")
def about(images: Images) -> dict[str, Any]:
    return images.about(TAG)


@pytest.fixture
def signals(tmp_path: Path) -> Path:
    folder = tmp_path / "signals"
    folder.mkdir()
    folder.chmod(0o777)
    return folder


@pytest.fixture
def container(images: Images, about: dict[str, Any], signals: Path, tmp_path: Path) -> Iterator[Container]:
    served, bundle = tmp_path / "models", tmp_path / "bundle"
    models.linear(served / "digits" / "1")
    (served / "waits" / "1").mkdir(parents=True)
    (served / "waits" / "1" / "model.py").write_text(WAITS)
    (served / "models.config").write_text(MODELS)
    bundle.mkdir()
    arguments = ["--model_config_file=/models/models.config"]
    own = Container(bundle, images.mounted(TAG), about, arguments, {"/models:ro": served, "/signals": signals})
    try:
        yield own
    finally:
        own.close()


def healthy(container: Container, about: dict[str, Any]) -> bool:
    assert container.is_running, container.log.read_text()
    return container.inside(*about["Healthcheck"]["Test"][1:]) == 0


def test_the_image_serves_and_drains(container: Container, about: dict[str, Any], signals: Path) -> None:
    eventually(lambda: healthy(container, about), WITHIN)
    assert container.call(PREDICT.format(model="digits")).communicate(timeout=WITHIN)[0] == "[[4.0]]\n"
    assert '"predictions": [[4.0' in container.call(REST).communicate(timeout=WITHIN)[0]

    waiting = container.call(PREDICT.format(model="waits"))
    eventually((signals / "began").exists, WITHIN)
    container.terminate()
    eventually(lambda: not healthy(container, about), WITHIN)
    (signals / "go").touch()
    assert waiting.communicate(timeout=WITHIN)[0] == "[[4.0]]\n"
    assert container.ended(WITHIN) == 0


def test_the_image_is_small(images: Images) -> None:
    above = images.layers(TAG)[len(images.layers("localhost/base")) :]
    assert 0 < sum(above) < MOST_ABOVE_BASE


def test_the_image_has_the_native_transport_and_no_build_tools(images: Images) -> None:
    root = images.mounted(TAG)
    packages = next(root.glob("opt/headrace/lib/python3*/site-packages"))
    assert (packages / "headrace_native").is_dir()
    assert not (packages / "pip").exists()
    assert not any((root / name).exists() for name in ("wheels", "source", "wheelhouse"))
    assert not [path for path in packages.rglob("tests") if path.is_dir() and "numpy" in path.parts]
