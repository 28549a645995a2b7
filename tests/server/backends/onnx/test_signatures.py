"""Signatures of an ONNX model with names other than the graph's, set by an operator or in the model's metadata."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from headrace_protos import Code
from headrace_server.backends.base import BackendOptions
from headrace_server.backends.onnx.backend import OnnxBackend
from headrace_server.backends.onnx.loading import load_onnx
from headrace_server.backends.onnx.names import METADATA_KEY
from headrace_server.backends.signature import CLASSIFY_METHOD, PREDICT_METHOD
from headrace_server.config.model_toml import SignatureOptions
from headrace_server.errors import LoadError
from tests.support import models

CLASSIFY = SignatureOptions(
    method="classify", inputs={"left": "a", "b": "b"}, outputs={"scores": "sum"}, labels=("p", "q")
)


def load(file: Path, **signatures: SignatureOptions) -> OnnxBackend:
    return load_onnx(file, BackendOptions(signatures=signatures))


def described(file: Path, signatures: Any) -> Path:
    """A model with signatures in its metadata."""
    model = onnx.load(file)
    text = signatures if isinstance(signatures, str) else json.dumps(signatures)
    onnx.helper.set_model_props(model, {METADATA_KEY: text})
    onnx.save(model, file)
    return file


def row(*values: float) -> Any:
    return np.array([values], np.float32)


def test_aliases_of_an_operator(tmp_path: Path) -> None:
    backend = load(models.two_inputs(tmp_path), scored=CLASSIFY)
    signature = backend.signatures["scored"]
    assert (signature.method_name, signature.labels) == (CLASSIFY_METHOD, ("p", "q"))
    assert {alias: spec.name for alias, spec in signature.inputs.items()} == {"left": "a", "b": "b"}
    assert {alias: spec.name for alias, spec in signature.outputs.items()} == {"scores": "sum"}
    outputs = backend.run("scored", {"left": row(1, 2), "b": row(3, 5)}, ["scores"])
    assert {alias: array.tolist() for alias, array in outputs.items()} == {"scores": [[4, 7]]}


def test_the_whole_graph_stays_the_default(tmp_path: Path) -> None:
    signatures = load(models.two_inputs(tmp_path), scored=CLASSIFY).signatures
    assert list(signatures) == ["serving_default", "scored"]
    default = signatures["serving_default"]
    assert (default.method_name, [*default.inputs], [*default.outputs]) == (
        PREDICT_METHOD,
        ["a", "b"],
        ["sum", "difference"],
    )
    assert default.batched
    assert signatures["scored"].batched


def test_unless_another_takes_its_name(tmp_path: Path) -> None:
    signatures = load(models.two_inputs(tmp_path), serving_default=CLASSIFY).signatures
    assert list(signatures) == ["serving_default"]
    assert list(signatures["serving_default"].outputs) == ["scores"]


def test_one_tensor_under_two_aliases(tmp_path: Path) -> None:
    twice = SignatureOptions(outputs={"one": "y", "two": "y"})
    outputs = load(models.linear(tmp_path), twice=twice).run("twice", {"x": row(1, 2, 3, 4)}, ["one", "two"])
    assert {alias: array.tolist() for alias, array in outputs.items()} == {"one": [[10]], "two": [[10]]}


def test_metadata_of_the_model(tmp_path: Path) -> None:
    table = {"method": "classify", "outputs": {"scores": "sum"}, "labels": ["p", "q"]}
    signature = load(described(models.two_inputs(tmp_path), {"scored": table})).signatures["scored"]
    assert (signature.method_name, signature.labels) == (CLASSIFY_METHOD, ("p", "q"))
    assert (list(signature.inputs), list(signature.outputs)) == (["a", "b"], ["scores"])


def test_an_operator_goes_before_the_metadata(tmp_path: Path) -> None:
    file = described(models.two_inputs(tmp_path), {"other": {}})
    assert list(load(file, scored=CLASSIFY).signatures) == ["serving_default", "scored"]
    assert list(load(file).signatures) == ["serving_default", "other"]


WRONG_METADATA = {
    "not JSON": ("{", "Expecting property name"),
    "not a table": ("[]", "items"),
    "not a table of tables": ('{"s": 1}', "mapping"),
    "unknown key": ({"s": {"labls": []}}, "labls"),
    "unknown method": ({"s": {"method": "guess"}}, "method must be one of predict, classify, regress; was 'guess'"),
    "labels of another kind": ({"s": {"labels": "cat"}}, "labels must be a list of strings; was 'cat'"),
    "names of another kind": (
        {"s": {"inputs": {"x": 1}}},
        "must be tables that map aliases to names of tensors; was {'x': 1}",
    ),
    "unknown input": (
        {"s": {"inputs": {"x": "z"}}},
        "signature s: the model has no input 'z' for 'x'; it has ['a', 'b']",
    ),
    "unknown output": ({"s": {"outputs": {"y": "z"}}}, "signature s: the model has no output 'z' for 'y'"),
    "an input left out": ({"s": {"inputs": {"x": "b"}}}, "signature s leaves out the model's input a"),
}


@pytest.mark.parametrize("name", WRONG_METADATA)
def test_wrong_metadata_names_file_and_culprit(tmp_path: Path, name: str) -> None:
    signatures, text = WRONG_METADATA[name]
    file = described(models.two_inputs(tmp_path), signatures)
    with pytest.raises(LoadError) as raised:
        load(file)
    assert raised.value.code == Code.INVALID_ARGUMENT
    assert str(file) in raised.value.message
    assert text in raised.value.message
