"""Digits and models of them, made once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from headrace_toolkit import Data, load
from headrace_toolkit.pipeline import optimize
from headrace_toolkit.recipe import Recipe
from headrace_toolkit.result import Result
from tests.support.once import filled_once
from tests.toolkit import models


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with mlp.onnx, cnn.onnx, and the digits in the shape of each: mlp/test.npz, cnn/train.npz and so on."""

    def fill(folder: Path) -> None:
        for name, shape in (("mlp", (64,)), ("cnn", (1, 8, 8))):
            (folder / name).mkdir()
            models.digits().save(folder / name, "x", shape)
        models.mlp(folder / "mlp.onnx", width=128)
        models.cnn(folder / "cnn.onnx")

    return filled_once(tmp_path_factory, "made", fill)


@pytest.fixture(scope="session")
def searched(optimized: Callable[..., Result]) -> Result:
    """The result of the default search for the convolutional network."""
    return optimized("cnn")


@pytest.fixture(scope="session")
def optimized(made: Path) -> Callable[..., Result]:
    """Optimises a model with a recipe of these tables: `optimized("cnn", step=[...])`."""

    def run(name: str, **tables: object) -> Result:
        data = {"labels": "y", "calibration": str(made / name / "train.npz")}
        recipe = Recipe.of({"data": data, "timing_seconds": 0.2, **tables}, made)
        return optimize(load(made / f"{name}.onnx"), Data.read(made / name / "test.npz", "y"), recipe)

    return run
