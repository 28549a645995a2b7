"""Files that the server's user is not allowed to read are PERMISSION_DENIED, and named."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headrace_batching import BatchThreads
from headrace_protos import Code
from headrace_server.backends.base import BackendOptions
from headrace_server.config.isolation import IsolationOptions
from headrace_server.errors import ServingError
from headrace_server.metrics.catalogue import Metrics
from headrace_server.models.loader import Loader
from headrace_server.models.manager import Manager
from tests.support import models

from .shelf import settled

NOBODY = 65534


@contextmanager
def without_privileges() -> Iterator[None]:
    """Runs as a user who may read only what everybody may read."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def base_path() -> Iterator[Path]:
    """The folder of a model, in a folder that everybody may enter."""
    root = Path(tempfile.mkdtemp())
    root.chmod(0o755)
    yield root / "m"
    shutil.rmtree(root)


def onnx(folder: Path) -> Path:
    return models.linear(folder)


def python(folder: Path) -> Path:
    folder.mkdir(parents=True)
    file = folder / "model.py"
    file.write_text('INPUTS = OUTPUTS = {"x": ("float32", [None])}\ndef predict(inputs):\n    return inputs\n')
    return file


def weights(folder: Path) -> Path:
    return models.external_data(folder).with_name(models.WEIGHTS_FILE)


def saved_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").touch()
    return folder / "saved_model.pb"


def settings(folder: Path) -> Path:
    models.linear(folder)
    (folder.parent / "model.toml").touch()
    return folder.parent / "model.toml"


@pytest.mark.parametrize("make", [onnx, python, weights, saved_model, settings])
def test_a_file_that_may_not_be_read_is_named(base_path: Path, make: Callable[[Path], Path]) -> None:
    file = make(base_path / "1")
    file.chmod(0)
    error = load(base_path)

    assert error.code == Code.PERMISSION_DENIED
    assert f"{file}: Permission denied" in error.message


def test_a_folder_that_may_not_be_entered_is_named_instead_of_a_file_in_it(base_path: Path) -> None:
    models.linear(base_path / "1")
    (base_path / "1").chmod(0o600)
    error = load(base_path)

    assert (error.code, error.message) == (Code.PERMISSION_DENIED, f"{base_path / '1'}: Permission denied")


def load(base_path: Path) -> ServingError:
    """The error with which version 1 fails to load."""
    threads = BatchThreads(1)
    loader = Loader(BackendOptions(), threads, None, Metrics(), isolation=IsolationOptions(), per_model_batching=False)
    manager = Manager(loader.load)
    manager.start()
    try:
        with without_privileges():
            manager.aspire("m", {1: base_path / "1"})
            error = settled(manager, "m")["m"].error
    finally:
        manager.stop()
    assert isinstance(error, ServingError)
    return error
