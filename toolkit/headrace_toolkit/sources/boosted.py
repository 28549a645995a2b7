"""XGBoost and LightGBM boosters: from their own files, which are not pickles, or from a function."""

from pathlib import Path
from typing import Any

import numpy as np

from headrace_batching.task import Array, Arrays
from headrace_toolkit.errors import require
from headrace_toolkit.sources.apart import check_apart
from headrace_toolkit.sources.base import Origin, Source, SourceOptions
from headrace_toolkit.sources.converted import both_classes, converted, one_table, table_of
from headrace_toolkit.sources.files import sha256_of
from headrace_toolkit.steps.quiet import loading, quietly, stderr_aside

OPSET = 15
"""The opset that onnxmltools converts to."""


def read_xgboost(file: Path, options: SourceOptions) -> Source:
    """A .json or .ubj file that `Booster.save_model` wrote.

    Raises:
        ToolkitError: XGBoost does not load it.
    """
    xgboost = require("xgboost", "XGBoost models", "sklearn")
    check_apart(file, "xgboost")
    booster = xgboost.Booster()
    with stderr_aside(), loading(file, "a model that XGBoost loads"):
        booster.load_model(str(file))
    return of_xgboost(booster, Origin(name=file.name, kind="", framework="", sha256=sha256_of(file)), options)


def read_lightgbm(file: Path, options: SourceOptions) -> Source:
    """A .txt file that `Booster.save_model` wrote.

    Raises:
        ToolkitError: LightGBM does not load it.
    """
    lightgbm = require("lightgbm", "LightGBM models", "sklearn")
    check_apart(file, "lightgbm")
    with stderr_aside(), loading(file, "a model that LightGBM loads"):
        booster = lightgbm.Booster(model_file=str(file))
    return of_lightgbm(booster, Origin(name=file.name, kind="", framework="", sha256=sha256_of(file)), options)


def of_xgboost(model: Any, origin: Origin, options: SourceOptions) -> Source:
    """A Booster, or an estimator with one inside.

    Raises:
        ToolkitError: onnxmltools does not support its objective.
    """
    xgboost = require("xgboost", "XGBoost models", "sklearn")
    booster = (model.get_booster() if hasattr(model, "get_booster") else model).copy()
    booster.feature_names = None  # onnxmltools accepts only the names f0, f1 and so on
    spec = one_table(origin, options, booster.num_features())
    origin = _origin(origin, "xgboost", f"XGBoost {xgboost.__version__}")
    convert = require("onnxmltools.convert", "XGBoost models", "sklearn").convert_xgboost
    with quietly(f"{origin.name}: the conversion of a booster"):
        graph = convert(booster, initial_types=[(spec.name, _floats(spec.shape[1]))], target_opset=OPSET)

    def answer(inputs: Arrays) -> list[Array]:
        return _outputs(booster.predict(xgboost.DMatrix(table_of(inputs))), classifies=len(graph.graph.output) == 2)

    return converted(origin, graph, answer, options)


def of_lightgbm(model: Any, origin: Origin, options: SourceOptions) -> Source:
    """A Booster, or an estimator with one inside.

    Raises:
        ToolkitError: onnxmltools does not support its objective.
    """
    lightgbm = require("lightgbm", "LightGBM models", "sklearn")
    booster = getattr(model, "booster_", model)
    spec = one_table(origin, options, booster.num_feature())
    origin = _origin(origin, "lightgbm", f"LightGBM {lightgbm.__version__}")
    convert = require("onnxmltools.convert", "LightGBM models", "sklearn").convert_lightgbm
    with quietly(f"{origin.name}: the conversion of a booster"):
        types = [(spec.name, _floats(spec.shape[1]))]
        graph = convert(booster, initial_types=types, zipmap=False, target_opset=OPSET)

    def answer(inputs: Arrays) -> list[Array]:
        return _outputs(booster.predict(table_of(inputs)), classifies=len(graph.graph.output) == 2)

    return converted(origin, graph, answer, options)


def _origin(origin: Origin, kind: str, framework: str) -> Origin:
    return Origin(name=origin.name, kind=kind, framework=framework, sha256=origin.sha256)


def _floats(columns: int | None) -> Any:
    return require("onnxmltools.convert.common.data_types", "boosters", "sklearn").FloatTensorType([None, columns])


def _outputs(predicted: Any, *, classifies: bool) -> list[Array]:
    """A label and probabilities for a classifier; one column of values for anything else."""
    values = np.asarray(predicted)
    if not classifies:
        return [values.reshape(len(values), -1).astype(np.float32)]
    if values.ndim == 1:
        values = both_classes(values)
    return [values.argmax(1).astype(np.int64), values.astype(np.float32)]
