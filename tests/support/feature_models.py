"""Small ONNX models on features of tf.Examples: as numbers, as strings, or whole and serialized."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto
from onnx.helper import make_node
from onnx.numpy_helper import from_array

from tests.support.models import FLOAT, INT64, Dims, _value, _write, identity

Signatures = Mapping[str, Mapping[str, Any]]

STRING = TensorProto.STRING
METADATA_KEY = "headrace.signatures"


def tariff(folder: Path, signatures: Signatures | None = None) -> Path:
    """Of `age` int64 [N] and `weights` float [N, 2]: `scores` = weights + age, and `price` [N, 1] = their sums."""
    nodes = [
        make_node("Cast", ["age"], ["years"], to=FLOAT),
        make_node("Unsqueeze", ["years", "one"], ["column"]),
        make_node("Add", ["weights", "column"], ["scores"]),
        make_node("ReduceSum", ["scores", "one"], ["price"], keepdims=1),
    ]
    inputs = [_value("age", INT64, ["N"]), _value("weights", FLOAT, ["N", 2])]
    outputs = [_value("scores", FLOAT, ["N", 2]), _value("price", FLOAT, ["N", 1])]
    file = _write(folder, nodes, inputs, outputs, from_array(np.array([1], np.int64), "one"))
    return _described(file, signatures)


def words(folder: Path) -> Path:
    """`classes` = `words` string [N, 2], and `scores` = `numbers` float [N, 2]."""
    nodes = [make_node("Identity", ["words"], ["classes"]), make_node("Identity", ["numbers"], ["scores"])]
    inputs = [_value("words", STRING, ["N", 2]), _value("numbers", FLOAT, ["N", 2])]
    outputs = [_value("classes", STRING, ["N", 2]), _value("scores", FLOAT, ["N", 2])]
    return _write(folder, nodes, inputs, outputs)


def serialized(folder: Path) -> Path:
    """`classes` [N, 1] = `inputs` string [N]: the serialized Examples."""
    nodes = [make_node("Unsqueeze", ["inputs", "one"], ["classes"])]
    one = from_array(np.array([1], np.int64), "one")
    return _write(folder, nodes, [_value("inputs", STRING, ["N"])], [_value("classes", STRING, ["N", 1])], one)


def passed_on(folder: Path, dtype: int = FLOAT, dims: Dims = ("N", 2), signatures: Signatures | None = None) -> Path:
    """`y` = `x`, both of an ONNX element type."""
    return _described(identity(folder, dtype, dims), signatures)


def forest(folder: Path) -> Path:
    """`label` int64 [N] and `probabilities` float [N, 2], as converters of classifiers name them; `x` float [N, 2]."""
    nodes = [
        make_node("ArgMax", ["x"], ["label"], axis=1, keepdims=0),
        make_node("Softmax", ["x"], ["probabilities"], axis=1),
    ]
    outputs = [_value("label", INT64, ["N"]), _value("probabilities", FLOAT, ["N", 2])]
    return _write(folder, nodes, [_value("x", FLOAT, ["N", 2])], outputs)


def _described(file: Path, signatures: Signatures | None) -> Path:
    """The model with signatures in its metadata."""
    if signatures:
        model = onnx.load(file)
        onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(signatures)})
        onnx.save(model, file)
    return file
