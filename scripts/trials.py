"""Loads real models, and prints the verdict on their rows and what it costs: python -m scripts.trials [NAME=FOLDER]."""

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
import onnx

from headrace_batching import Options
from headrace_server.backends.auto import load
from headrace_server.backends.base import BackendOptions
from headrace_server.backends.independence import Verdict
from headrace_server.models.rows import Loaded, decide
from scripts.bench.gpu_models import resnet50_model
from scripts.bench.machine import description

TIMES = 3
DIGITS = Path(__file__).parents[1] / "models" / "digits" / "1"
HEAD = """| model | load | of which trial | share | runs | verdict |
| --- | ---: | ---: | ---: | ---: | --- |"""


def main() -> int:
    """Loads each model some times; the figures are the medians of the CPU time of all threads."""
    print("\n\n".join(description()))
    print(f"\n{HEAD}")
    with tempfile.TemporaryDirectory(prefix="headrace-trials-") as folder:
        for name, version in _models(Path(folder)):
            print(_row(name, version), flush=True)
    return 0


def _models(folder: Path) -> Iterator[tuple[str, Path]]:
    """The names of the models, and the folders that hold a `model.onnx`."""
    if (DIGITS / "model.onnx").exists():
        yield "the demo's digits", DIGITS
    yield "LightGBM's classifier of 100 trees, by onnxmltools", _saved(folder / "trees", _trees())
    for argument in sys.argv[1:]:
        name, _, path = argument.partition("=")
        yield name, Path(path)
    yield "ResNet-50 with random weights", _saved(folder / "resnet", resnet50_model())


def _saved(folder: Path, model: onnx.ModelProto) -> Path:
    folder.mkdir()
    onnx.save_model(model, str(folder / "model.onnx"))
    return folder


def _trees() -> onnx.ModelProto:
    from lightgbm import LGBMClassifier
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    random = np.random.default_rng(0)
    features = random.standard_normal((1000, 20), np.float32)
    classifier = LGBMClassifier(n_estimators=100, verbose=-1).fit(
        features, (features[:, 0] * features[:, 1] > 0).astype(int)
    )
    types = [("x", FloatTensorType([None, 20]))]
    converted: onnx.ModelProto = convert_lightgbm(classifier, initial_types=types, zipmap=False)
    return converted


def _row(name: str, version: Path) -> str:
    loads, trials, verdict = [], [], None
    for _ in range(TIMES):
        loaded, tried, verdict = _load(version)
        loads.append(loaded)
        trials.append(tried)
    assert verdict is not None
    load_ms, trial_ms = median(loads) * 1e3, median(trials) * 1e3
    part = trial_ms / (load_ms + trial_ms)
    found = f"`{verdict.finding}`" + (", padded" if verdict.padding else "")
    return f"| {name} | {load_ms + trial_ms:.3g} ms | {trial_ms:.2g} ms | {part:.1%} | {verdict.runs} | {found} |"


def _load(version: Path) -> tuple[float, float, Verdict]:
    """The seconds of CPU time of a load without the trial, those of the trial, and its verdict."""
    began, cpu = time.monotonic(), time.process_time()
    backend = load(version, BackendOptions(batching=Options()))
    seconds, loaded = time.monotonic() - began, time.process_time() - cpu
    (verdict,) = decide(Loaded(version.name, version, backend, seconds)).values()
    tried = time.process_time() - cpu - loaded
    backend.close()
    return loaded, tried, verdict


if __name__ == "__main__":
    sys.exit(main())
