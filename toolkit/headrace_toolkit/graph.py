"""Reads, walks and writes ONNX files, for sources, steps and checks."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from headrace_toolkit.errors import ToolkitError, first_line, require

MODEL_FILE = "model.onnx"
DATA_FILE = "model.onnx.data"

_EMBEDDED = 1_900_000_000
"""The largest size in bytes of weights that are stored in a single file; protobuf's limit is 2 GiB."""

_QUANTIZED = ("QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "MatMulInteger", "ConvInteger",
              "MatMulNBits")  # fmt: skip


def read(file: Path) -> Any:
    """The model in a file, as an `onnx.ModelProto` whose external data have been checked but not read.

    Raises:
        ToolkitError: The file is not an ONNX file, or its external data lie in a forbidden place.
    """
    onnx = require("onnx", "ONNX models", "toolkit")
    try:
        model = onnx.load(str(file), load_external_data=False)
    except OSError as error:
        raise ToolkitError(f"{file}: {error.strerror}") from error
    except Exception as error:  # protobuf's DecodeError, by one of two implementations
        raise ToolkitError(f"{file}: not an ONNX model, or cut short: {first_line(error)}") from error
    if not model.graph.node and not model.graph.output:
        raise ToolkitError(f"{file}: an ONNX model without a graph")
    for tensor in tensors_of(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _check_external(file, tensor)
    return model


def save(model: Any, folder: Path) -> Path:
    """Writes a model with its weights in memory as `model.onnx`, and a data file if they exceed protobuf's limit."""
    onnx = require("onnx", "ONNX models", "toolkit")
    file = folder / MODEL_FILE
    if model.ByteSize() > _EMBEDDED:
        onnx.save(model, str(file), save_as_external_data=True, location=DATA_FILE)
    else:
        onnx.save(model, str(file))
    return file


def tensors_of(graph: Any) -> Iterator[Any]:
    """All initializers and constants, including those of inner branches and bodies."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from tensors_of(inner)


def nodes_of(graph: Any) -> Iterator[Any]:
    """All nodes, including those of inner branches and bodies."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from nodes_of(inner)


def not_finite(model: Any, folder: Path) -> Iterator[tuple[str, int]]:
    """Each float weight with values that are not finite, and the number of them."""
    numpy_helper = require("onnx.numpy_helper", "ONNX models", "toolkit")
    kinds = require("onnx", "ONNX models", "toolkit").TensorProto
    for tensor in tensors_of(model.graph):
        if tensor.data_type in (kinds.FLOAT, kinds.DOUBLE, kinds.FLOAT16):
            count = int((~np.isfinite(numpy_helper.to_array(tensor, str(folder)))).sum())
            if count:
                yield tensor.name, count


def strip(model: Any) -> None:
    """Removes the notes on nodes, values and functions, since exporters write paths of their machine into them.

    Changes `model`.
    """
    del model.metadata_props[:]
    model.doc_string = ""
    for function in model.functions:
        _strip_graph(function)
    _strip_graph(model.graph)


def _strip_graph(graph: Any) -> None:
    for value in (graph, *graph.value_info, *graph.node, *getattr(graph, "input", ()), *getattr(graph, "output", ()),
                  *getattr(graph, "initializer", ())):  # fmt: skip
        if not isinstance(value, str):  # a function's inputs are names
            value.doc_string = ""
            del value.metadata_props[:]
    for node in graph.node:
        for attribute in node.attribute:
            attribute.doc_string = ""
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                _strip_graph(inner)


def _check_external(file: Path, tensor: Any) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    held = file.parent / location
    what = f"{file}: the weight {tensor.name} lies in {location!r}"
    folder = os.path.realpath(file.parent)
    if not location or os.path.isabs(location) or os.path.commonpath([folder, os.path.realpath(held)]) != folder:
        raise ToolkitError(f"{what}, which is outside of the model's folder")
    if not held.is_file():
        raise ToolkitError(f"{what}, and there is no such file")
    end = int(entries.get("offset", 0)) + int(entries.get("length", 0))
    if end > held.stat().st_size:
        raise ToolkitError(f"{what}, which is cut short: {held.stat().st_size} bytes of at least {end}")


@dataclass(frozen=True)
class Facts:
    """The facts about a model that steps and the search use.

    Attributes:
        operators: The number of nodes of each operator.
        sizes: The number of values of each float weight.
    """

    operators: Counter[str]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, file: Path) -> "Facts":
        """The facts about an ONNX file."""
        onnx = require("onnx", "ONNX models", "toolkit")
        model = read(file)
        sizes = [int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
        return cls(Counter(node.op_type for node in nodes_of(model.graph)), tuple(sizes))

    @cached_property
    def quantized(self) -> bool:
        """Whether the model already has quantized operators."""
        return any(self.operators[name] for name in _QUANTIZED)

    @property
    def convolutions(self) -> int:
        """The number of convolutions."""
        return self.operators["Conv"] + self.operators["ConvTranspose"]

    @property
    def products(self) -> int:
        """The number of matrix products."""
        return self.operators["MatMul"] + self.operators["Gemm"]

    @property
    def transformer(self) -> bool:
        """Whether this looks like a transformer: matrix products with a softmax between them, and no convolution."""
        return self.products > 0 and self.operators["Softmax"] > 1 and self.convolutions == 0

    @property
    def trees(self) -> int:
        """The number of tree ensembles."""
        return sum(count for name, count in self.operators.items() if name.startswith("TreeEnsemble"))


def rename(model: Any, names: Mapping[str, str]) -> None:
    """Renames tensors of a model wherever they are used. Changes `model`.

    Args:
        model: An `onnx.ModelProto`.
        names: The new name for each old one.
    """
    _rename(model.graph, {old: new for old, new in names.items() if old != new})


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                _rename(inner, names)
