"""`mlflow models serve` itself: run by MLflow's own Python, it makes two models and serves one of them.

python reference.py FOLDER            writes the models into FOLDER
python reference.py FOLDER NAME       serves one of them on a free port, which it prints
"""

import os
import socket
import sys
from pathlib import Path

import mlflow.onnx
import numpy as np
import onnx
import uvicorn
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

COLUMNS = {"one": (("x",), ("y",), (4, 1)), "two": (("a", "b"), ("sum", "difference"), (2, 2))}
"""The inputs and outputs of each model, and their number of columns."""


def signature(inputs: tuple[str, ...], outputs: tuple[str, ...], columns: tuple[int, int]) -> ModelSignature:
    """An MLflow signature of tensors."""
    schemas = [
        Schema([TensorSpec(np.dtype("float32"), (-1, size), name) for name in names])
        for names, size in zip((inputs, outputs), columns, strict=True)
    ]
    return ModelSignature(inputs=schemas[0], outputs=schemas[1])


def write(folder: Path) -> None:
    """Writes MLflow's folders next to the existing ONNX files; `bare` is `one` without a signature."""
    for name, columns in COLUMNS.items():
        model = onnx.load(folder / f"{name}.onnx")
        mlflow.onnx.save_model(model, str(folder / name), signature=signature(*columns), pip_requirements=[])
        if name == "one":
            mlflow.onnx.save_model(model, str(folder / "bare"), pip_requirements=[])


def serve(folder: Path) -> None:
    """Runs the application that the command starts, by uvicorn."""
    os.environ["__pyfunc_model_path__"] = str(folder)  # noqa: SIM112  # MLflow's name
    from mlflow.pyfunc.scoring_server.app import app

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        print(listening.getsockname()[1], flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listening])


if __name__ == "__main__":
    root = Path(sys.argv[1])
    if len(sys.argv) > 2:
        serve(root / sys.argv[2])
    else:
        write(root)
