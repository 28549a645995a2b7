"""The models, rows and commands that the checks share."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tests.toolkit import models

COMMAND = str(Path(sys.executable).with_name("headrace"))

ROOT = Path(__file__).parents[2]

OWN = ""
"""The environment variables of the checks."""

SHAPES: Mapping[str, tuple[tuple[int, ...], int]] = {
    "mlp": ((64,), 1),
    "cnn": ((1, 8, 8), 1),
    "resnet": ((1, 8, 8), 2),
    "mobile": ((1, 8, 8), 2),
}
"""The shape of a row of digits for each model, and how much each pixel is enlarged."""


class Skipped(Exception):
    """Something that a check needs is missing; the text says what."""


@dataclass(frozen=True)
class Run:
    """A finished command.

    Attributes:
        status: The exit status.
        out: The standard output.
        error: The standard error.
        report: The JSON that it wrote with --json; empty if it wrote none.
    """

    status: int
    out: str
    error: str
    report: Mapping[str, Any]

    def step(self, beginning: str) -> Mapping[str, Any]:
        """The line of the report whose name has this prefix."""
        return next(step for step in self.report["steps"] if step["name"].startswith(beginning))


@dataclass
class Scene:
    """The working folder of the checks.

    Attributes:
        folder: The folder for their files.
        given: The user's folder with models/*.onnx, data/digits.npz and bad_inputs.py; None for generated models.
        encoder: A folder with model.onnx and rows.npz of a sentence encoder; None if there is none.
    """

    folder: Path
    given: Path | None = None
    encoder: Path | None = None

    @cached_property
    def models(self) -> Mapping[str, Path]:
        """For each of mlp, cnn, resnet and mobile, a folder with model.onnx, train.npz and test.npz."""
        return {name: self._model(name) for name in SHAPES}

    @property
    def environment(self) -> Mapping[str, str]:
        """One thread for each process, since threads that wait for each other are slow on a busy machine."""
        return {**os.environ, "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}

    def python(self, name: str) -> str:
        """The Python of an environment: `torch` or `tensorflow`.

        Raises:
            Skipped: The environment is missing.
        """
        python = ROOT / f".venv-{name}" / "bin" / "python"
        if not python.exists():
            raise Skipped(f"needs .venv-{name}: scripts/install-{name} sets it up")
        return str(python)

    def headrace(self, *arguments: str | Path, within: str = OWN) -> Run:
        """Runs an environment's command in the scene's folder, with --json."""
        file = self.folder / "report.json"
        file.unlink(missing_ok=True)
        command = str(Path(self.python(within)).with_name("headrace")) if within else COMMAND
        words = [command, *map(str, arguments), f"--json={file}"]
        done = subprocess.run(words, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        return Run(done.returncode, done.stdout, done.stderr, json.loads(file.read_text()) if file.exists() else {})

    def optimize(self, name: str, *flags: str, calibration: Path | None = None) -> Run:
        """Optimises a model with the default steps, without publishing it."""
        folder = self.models[name]
        rows = [f"--data={folder / 'test.npz'}", "--labels=y", f"--calibration={calibration or folder / 'train.npz'}"]
        run = self.headrace("optimize", folder / "model.onnx", "base", "--dry_run", *rows, *flags)
        assert run.status == 0, run.error or run.out
        return run

    def steps(self, name: str, steps: str, *, max_drop: float = 100.0, target: str = "x86") -> Run:
        """Applies the steps of a recipe to a model, without publishing it."""
        folder, recipe = self.models[name], self.folder / "recipe.toml"
        recipe.write_text(
            f'[model]\nsource = "{folder / "model.onnx"}"\n[data]\nrows = "{folder / "test.npz"}"\nlabels = "y"\n'
            f'calibration = "{folder / "train.npz"}"\n[limits]\nmax_drop = {max_drop}\n[output]\nbatch = false\n'
            f'target = "{target}"\n{steps}'
        )
        run = self.headrace("optimize", recipe, "--dry_run")
        assert run.status == 0, run.error or run.out
        return run

    def _model(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir()
        if self.given is not None:
            self._copy(name, folder)
            return folder
        shape, zoom = SHAPES[name]
        models.digits().save(folder, "x", shape, zoom)
        {"mlp": models.mlp, "cnn": models.cnn, "resnet": models.residual, "mobile": models.mobile}[name](
            folder / "model.onnx"
        )
        return folder

    def _copy(self, name: str, folder: Path) -> None:
        assert self.given is not None
        model = onnx.load(self.given / "models" / f"{name}.onnx")
        (folder / "model.onnx").write_bytes((self.given / "models" / f"{name}.onnx").read_bytes())
        dims = [dimension.dim_value for dimension in model.graph.input[0].type.tensor_type.shape.dim[1:]]
        zoom = dims[-1] // 8 if len(dims) == 3 else 1
        held = np.load(self.given / "data" / "digits.npz")
        for part in ("train", "test"):
            pixels = held[f"{part}_x"].astype(np.float32) / 16
            shape = (64,) if len(dims) == 1 else (1, 8, 8)
            rows: dict[str, Any] = {model.graph.input[0].name: models.pictures(pixels, shape, zoom)}
            np.savez(folder / f"{part}.npz", **rows, y=held[f"{part}_y"].astype(np.int64))


def drop(run: Run, step: Mapping[str, Any]) -> float:
    """The percentage points of accuracy that a step loses."""
    return 100 * float(run.step("source")["metric"] - step["metric"])


def share(run: Run, step: Mapping[str, Any]) -> float:
    """The size of a step's model, relative to the converted model's."""
    return float(step["bytes"] / run.step("convert")["bytes"])


def at_most(value: float, bound: float, what: str) -> None:
    """Fails if a value is above its bound."""
    assert value <= bound, f"{what} is {value:.4g}, more than {bound:g}"
