"""Dynamic 8-bit products with a scale for each row, so that no row's answer depends on another row.

ONNX Runtime's own dynamic quantization uses one scale for all rows of a run. In a server that batches the calls of many
clients, one caller's large values would then round another caller's values to 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headrace_batching.task import Array
from headrace_toolkit.errors import ToolkitError, require

_LEAST_OPSET = 13  # the first opset whose QuantizeLinear takes one scale for each row
_AXES_AS_INPUT = 18  # the first opset whose ReduceMax takes its axes as an input

_MIDDLE = 128
"""The byte that stands for 0 if an activation may be negative. If not, byte 0 does, which doubles the resolution.
"""

_NEVER_NEGATIVE = ("Relu", "Sigmoid", "Softmax", "Abs", "Exp", "Softplus", "HardSigmoid")

_SMALLEST_TABLE = 1024
"""An embedding table with at least this many values is worth quantizing."""

_PREFIX = "headrace.int8."


def quantize_per_row(model: Any, *, bits: int, keep: Sequence[str] = (), per_channel: bool = True) -> Any:
    """Quantizes products with constant matrices (MatMul, Gemm) and look-ups in constant tables (Gather).

    An activation [.., K] is quantized by the largest absolute value of each of its rows, and a matrix [K, M] by the
    largest absolute value of each of its columns. The integer product is exact, and is scaled back by both.

    Args:
        model: An `onnx.ModelProto` with all weights in it.
        bits: The number of bits of a weight: 7 never saturate if products are summed in 16 bits.
        keep: Names of nodes that stay as they are.
        per_channel: Whether each column of a matrix has a scale of its own, or all share one.

    Returns:
        A new model.

    Raises:
        ToolkitError: No node can be quantized, or the model's opset is too old and cannot be upgraded.
    """
    model = _lifted(model)
    rewriting = _Rewriting(model.graph, _opset(model), 2 ** (bits - 1) - 1 + (bits < 8), per_channel)
    nodes = [node for old in model.graph.node for node in rewriting.rewritten(old, old.name in keep)]
    if not rewriting.used:
        raise ToolkitError("the model has no MatMul, Gemm or Gather with a constant weight to quantize")
    rewriting.finish(nodes)
    return model


def _opset(model: Any) -> int:
    return int(next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")))


def _lifted(model: Any) -> Any:
    if _opset(model) >= _LEAST_OPSET:
        copy = type(model)()
        copy.CopyFrom(model)
        return copy
    try:
        return require("onnx.version_converter", "quantization", "toolkit").convert_version(model, _LEAST_OPSET)
    except Exception as error:
        raise ToolkitError(f"the model's opset must be at least {_LEAST_OPSET}; it is {_opset(model)}") from error


@dataclass(slots=True)
class _Rewriting:
    """The state of the rewriting of a graph.

    Attributes:
        graph: The graph that is being rewritten.
        opset: The version of its operators.
        most: The largest absolute value of a quantized weight.
        per_channel: Whether each column has a scale of its own.
        used: The weights that were quantized.
    """

    graph: Any
    opset: int
    most: int
    per_channel: bool
    used: set[str] = field(default_factory=set)
    _weights: dict[str, Any] = field(default_factory=dict)
    _tensors: dict[str, Any] = field(default_factory=dict)
    _rows: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    _positive: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        onnx = require("onnx", "quantization", "toolkit")
        float_weights = (t for t in self.graph.initializer if t.data_type == onnx.TensorProto.FLOAT)
        self._weights = {tensor.name: tensor for tensor in float_weights}
        self._positive = {node.output[0] for node in self.graph.node if node.op_type in _NEVER_NEGATIVE}

    def rewritten(self, node: Any, kept: bool) -> list[Any]:
        """The nodes that replace a node: itself, or others."""
        rewrite: dict[str, Callable[[Any], list[Any]]] = {
            "MatMul": self._matmul,
            "Gemm": self._gemm,
            "Gather": self._gather,
        }
        return [node] if kept or node.op_type not in rewrite else rewrite[node.op_type](node)

    def finish(self, nodes: list[Any]) -> None:
        """Inserts the new nodes and weights into the graph, and removes unused weights."""
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        still = {name for node in nodes for name in node.input}
        kept = [t for t in self.graph.initializer if t.name not in self.used or t.name in still]
        del self.graph.initializer[:]
        self.graph.initializer.extend([*kept, *self._tensors.values()])

    def _matmul(self, node: Any) -> list[Any]:
        weight = self._matrix(node.input[1])
        return [node] if weight is None else self._product(node, weight, node.input[1])

    def _gemm(self, node: Any) -> list[Any]:
        attributes = {attribute.name: attribute for attribute in node.attribute}
        plain = all(attributes[name].f == 1 for name in ("alpha", "beta") if name in attributes)
        weight = self._matrix(node.input[1])
        if weight is None or not plain or ("transA" in attributes and attributes["transA"].i):
            return [node]
        if "transB" in attributes and attributes["transB"].i:
            weight = weight.T
        bias = node.input[2] if len(node.input) > 2 else ""
        return self._product(node, weight, node.input[1], bias)

    def _matrix(self, name: str) -> Array | None:
        tensor = self._weights.get(name)
        if tensor is None or len(tensor.dims) != 2:
            return None
        array: Array = require("onnx.numpy_helper", "quantization", "toolkit").to_array(tensor)
        return array

    def _product(self, node: Any, weight: Array, name: str, bias: str = "") -> list[Any]:
        """An activation [.., K] times a matrix [K, M], computed with bytes [rows, K]."""
        self.used.add(name)
        activation, output, flat = node.input[0], node.output[0], node.op_type == "Gemm"
        nodes = self._quantized_rows(activation, weight.shape[0], flat)
        bytes_, zero, scales = self._rows[activation]
        at = f"{_PREFIX}{output}"
        summed = output if flat and not bias else f"{at}.scaled"
        nodes += [
            self._node("MatMulInteger", [bytes_, self._bytes(name, weight), zero], f"{at}.integers"),
            self._node("Cast", [f"{at}.integers"], f"{at}.floats", to=1),
            self._node("Mul", [f"{at}.floats", scales], f"{at}.rows"),
            self._node("Mul", [f"{at}.rows", self._scales(name, weight)], summed if flat else f"{at}.scaled"),
        ]
        if flat:
            return nodes + ([self._node("Add", [f"{at}.scaled", bias], output)] if bias else [])
        return [
            *nodes,
            self._node("Shape", [activation], f"{at}.shape"),
            self._node("Slice", [f"{at}.shape", *(self._constant(n, v) for n, v in _ALL_BUT_LAST)], f"{at}.outer"),
            self._node(
                "Concat", [f"{at}.outer", self._constant(f"columns.{weight.shape[1]}", np.array([weight.shape[1]]))],
                f"{at}.wanted", axis=0,
            ),
            self._node("Reshape", [f"{at}.scaled", f"{at}.wanted"], output),
        ]  # fmt: skip

    def _quantized_rows(self, activation: str, columns: int, flat: bool) -> list[Any]:
        """The nodes that make bytes [rows, K] and scales [rows, 1] of an activation, once for all its products.

        Args:
            activation: The name of the activation, [.., K].
            columns: The number of columns, K.
            flat: Whether the activation is known to be [rows, K] already.
        """
        if activation in self._rows:
            return []
        at = f"{_PREFIX}{activation}"
        positive = activation in self._positive
        rows = activation if flat else f"{at}.flat"
        zero = self._constant("zero", np.uint8(0)) if positive else self._constant("middle", np.uint8(_MIDDLE))
        self._rows[activation] = (f"{at}.bytes", zero, f"{at}.scales")
        nodes = [] if flat else [self._node("Reshape", [activation, self._flat_shape(columns)], rows)]
        nodes += [] if positive else [self._node("Abs", [rows], f"{at}.sizes")]
        step = (
            self._constant("step.255", np.float32(1 / 255))
            if positive
            else self._constant("step.127", np.float32(1 / 127))
        )
        nodes += [
            self._largest(rows if positive else f"{at}.sizes", f"{at}.largest"),
            self._node("Mul", [f"{at}.largest", step], f"{at}.steps"),
            # A row of zeros may have any scale.
            self._node("Max", [f"{at}.steps", self._constant("least", np.float32(1e-30))], f"{at}.scale"),
        ]
        if positive:
            nodes.append(self._node("QuantizeLinear", [rows, f"{at}.scale"], f"{at}.bytes", axis=0))
        else:
            nodes += [
                self._node("Shape", [f"{at}.scale"], f"{at}.count"),
                self._node("Expand", [zero, f"{at}.count"], f"{at}.zeros"),
                self._node("QuantizeLinear", [rows, f"{at}.scale", f"{at}.zeros"], f"{at}.bytes", axis=0),
            ]
        return [*nodes, self._node("Unsqueeze", [f"{at}.scale", self._last()], f"{at}.scales")]

    def _flat_shape(self, columns: int) -> str:
        return self._constant(f"flat.{columns}", np.array([-1, columns]))

    def _last(self) -> str:
        return self._constant("last", np.array([-1]))

    def _largest(self, source: str, output: str) -> Any:
        if self.opset >= _AXES_AS_INPUT:
            return self._node("ReduceMax", [source, self._last()], output, keepdims=0)
        return self._node("ReduceMax", [source], output, axes=[-1], keepdims=0)

    def _gather(self, node: Any) -> list[Any]:
        """A look-up of whole rows of a table, as in an embedding."""
        name, axis = node.input[0], next((a.i for a in node.attribute if a.name == "axis"), 0)
        table = self._matrix(name)
        if table is None or axis != 0 or table.size < _SMALLEST_TABLE:
            return [node]
        self.used.add(name)
        index, output = node.input[1], node.output[0]
        scale = np.maximum(np.abs(table).max(1), 1e-30) / 127  # a look-up multiplies nothing, so it cannot saturate
        rounded = np.rint(table / scale[:, None]).astype(np.int8)
        at = f"{_PREFIX}{output}"
        return [
            self._node("Gather", [self._constant(f"{name}.bytes", rounded), index], f"{at}.bytes", axis=0),
            self._node("Gather", [self._constant(f"{name}.scales", scale.astype(np.float32)), index], f"{at}.steps"),
            self._node("Cast", [f"{at}.bytes"], f"{at}.floats", to=1),
            self._node("Unsqueeze", [f"{at}.steps", self._last()], f"{at}.scales"),
            self._node("Mul", [f"{at}.floats", f"{at}.scales"], output),
        ]

    def _bytes(self, name: str, weight: Array) -> str:
        rounded = np.clip(np.rint(weight / self._steps(weight)), -self.most, self.most).astype(np.int8)
        return self._constant(f"{name}.bytes", rounded)

    def _scales(self, name: str, weight: Array) -> str:
        return self._constant(f"{name}.scales", self._steps(weight).astype(np.float32))

    def _steps(self, weight: Array) -> Array:
        """The scale of each column, [M]."""
        largest = np.abs(weight).max(0) if self.per_channel else np.full(weight.shape[1], np.abs(weight).max())
        steps: Array = np.maximum(largest, 1e-30) / self.most
        return steps

    def _constant(self, name: str, value: Any) -> str:
        full = f"{_PREFIX}{name}"
        if full not in self._tensors:
            from_array = require("onnx.numpy_helper", "quantization", "toolkit").from_array
            self._tensors[full] = from_array(np.asarray(value), full)
        return full

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        make = require("onnx.helper", "quantization", "toolkit").make_node
        return make(kind, inputs, [output], name=output + ".node", **attributes)


_ALL_BUT_LAST = (("from", np.array([0])), ("to", np.array([-1])))
