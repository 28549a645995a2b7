"""Writes a BERT encoder as an ONNX model, from the weights of a safetensors file or from random ones."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Weights = Mapping[str, npt.NDArray[np.float32]]

_SIZES = {"hidden": 384, "inner": 1536, "heads": 12, "layers": 6, "words": 30522, "positions": 512, "types": 2}
_LOWEST = float(np.finfo(np.float32).min)


def read_weights(path: Path) -> Weights:
    """The float32 tensors of a safetensors file, by name: a length, a JSON header of offsets, and the values."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    places = json.loads(content[8 : 8 + length])
    weights = {}
    for name, place in places.items():
        if isinstance(place, dict) and place.get("dtype") == "F32":
            start, stop = (8 + length + at for at in place["data_offsets"])
            weights[name] = np.frombuffer(content[start:stop], np.float32).reshape(place["shape"])
    return weights


def random_weights(layers: int = _SIZES["layers"]) -> Weights:
    """Random weights of the same shapes."""
    random = np.random.default_rng(0)
    hidden, inner = _SIZES["hidden"], _SIZES["inner"]

    def normal(*shape: int) -> npt.NDArray[np.float32]:
        return random.normal(0, 0.05, shape).astype(np.float32)

    kinds = {"word": _SIZES["words"], "position": _SIZES["positions"], "token_type": _SIZES["types"]}
    weights = {f"embeddings.{kind}_embeddings.weight": normal(count, hidden) for kind, count in kinds.items()}
    shapes = {f"attention.self.{part}": (hidden, hidden) for part in ("query", "key", "value")}
    shapes |= {"attention.output.dense": (hidden, hidden), "intermediate.dense": (inner, hidden)}
    shapes |= {"output.dense": (hidden, inner)}
    norms = ["embeddings.LayerNorm"]
    for layer in range(layers):
        prefix = f"encoder.layer.{layer}"
        norms += [f"{prefix}.attention.output.LayerNorm", f"{prefix}.output.LayerNorm"]
        for name, shape in shapes.items():
            weights[f"{prefix}.{name}.weight"] = normal(*shape)
            weights[f"{prefix}.{name}.bias"] = normal(shape[0])
    for norm in norms:
        weights[f"{norm}.weight"] = 1 + normal(hidden)
        weights[f"{norm}.bias"] = normal(hidden)
    return weights


@dataclass
class _Graph:
    """A graph that is being built."""

    weights: Weights
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def constant(self, name: str, value: npt.ArrayLike, dtype: type = np.float32) -> str:
        """Adds a constant; returns its name."""
        array: npt.NDArray[Any] = np.ascontiguousarray(np.asarray(value, dtype))
        self.constants.setdefault(name, numpy_helper.from_array(array, name))
        return name

    def apply(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Adds an operator; returns the name of its output."""
        output = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], output, **attributes))
        return output

    def dense(self, name: str, x: str) -> str:
        """A linear layer."""
        weight = self.constant(f"{name}.weight", self.weights[f"{name}.weight"].T)
        return self.apply(
            "Add", self.apply("MatMul", x, weight), self.constant(f"{name}.bias", self.weights[f"{name}.bias"])
        )

    def norm(self, name: str, x: str) -> str:
        """A layer normalization."""
        scale = self.constant(f"{name}.weight", self.weights[f"{name}.weight"])
        bias = self.constant(f"{name}.bias", self.weights[f"{name}.bias"])
        return self.apply("LayerNormalization", x, scale, bias, axis=-1, epsilon=1e-12)


def write_model(path: Path, weights: Weights) -> None:
    """Writes the encoder: `input_ids`, `attention_mask` and `token_type_ids` to token and sentence embeddings.

    Args:
        path: The ONNX file.
        weights: The weights, by their names in BERT's own checkpoints.
    """
    graph = _Graph(weights)
    mask = graph.apply("Cast", "attention_mask", to=TensorProto.FLOAT)
    hidden = _embeddings(graph)
    bias = _attention_bias(graph, mask)
    layer = 0
    while f"encoder.layer.{layer}.output.dense.weight" in weights:
        hidden = _layer(graph, f"encoder.layer.{layer}", hidden, bias)
        layer += 1
    graph.nodes.append(helper.make_node("Identity", [hidden], ["last_hidden_state"]))
    _pool(graph, hidden, mask)
    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in names]
    outputs = [
        helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "tokens", 384]),
        helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", 384]),
    ]
    proto = helper.make_graph(graph.nodes, "encoder", inputs, outputs, list(graph.constants.values()))
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


def _embeddings(graph: _Graph) -> str:
    def table(kind: str) -> str:
        name = f"embeddings.{kind}_embeddings.weight"
        return graph.constant(name, graph.weights[name])

    words = graph.apply("Gather", table("word"), "input_ids")
    types = graph.apply("Gather", table("token_type"), "token_type_ids")
    shape = graph.apply("Shape", "input_ids")
    length = graph.apply("Gather", shape, graph.constant("one", [1], np.int64))
    zero = graph.constant("zero", [0], np.int64)
    positions = graph.apply("Slice", table("position"), zero, length)
    return graph.norm("embeddings.LayerNorm", graph.apply("Add", graph.apply("Add", words, types), positions))


def _attention_bias(graph: _Graph, mask: str) -> str:
    wide = graph.apply("Unsqueeze", mask, graph.constant("axes", [1, 2], np.int64))
    absent = graph.apply("Sub", graph.constant("1", 1.0), wide)
    return graph.apply("Mul", absent, graph.constant("lowest", _LOWEST))


def _layer(graph: _Graph, name: str, hidden: str, bias: str) -> str:
    heads, size = _SIZES["heads"], _SIZES["hidden"] // _SIZES["heads"]
    split = graph.constant("split", [0, 0, heads, size], np.int64)
    join = graph.constant("join", [0, 0, heads * size], np.int64)

    def head(part: str, *axes: int) -> str:
        projected = graph.dense(f"{name}.attention.self.{part}", hidden)
        return graph.apply("Transpose", graph.apply("Reshape", projected, split), perm=list(axes))

    scores = graph.apply("MatMul", head("query", 0, 2, 1, 3), head("key", 0, 2, 3, 1))
    scores = graph.apply("Div", scores, graph.constant("root", float(np.sqrt(size))))
    shares = graph.apply("Softmax", graph.apply("Add", scores, bias), axis=-1)
    mixed = graph.apply("Transpose", graph.apply("MatMul", shares, head("value", 0, 2, 1, 3)), perm=[0, 2, 1, 3])
    attended = graph.dense(f"{name}.attention.output.dense", graph.apply("Reshape", mixed, join))
    hidden = graph.norm(f"{name}.attention.output.LayerNorm", graph.apply("Add", attended, hidden))
    inner = graph.dense(f"{name}.intermediate.dense", hidden)
    root = graph.apply("Erf", graph.apply("Div", inner, graph.constant("root 2", float(np.sqrt(2)))))
    inner = graph.apply("Mul", inner, graph.apply("Add", root, graph.constant("1", 1.0)))
    inner = graph.apply("Mul", inner, graph.constant("half", 0.5))
    return graph.norm(
        f"{name}.output.LayerNorm", graph.apply("Add", graph.dense(f"{name}.output.dense", inner), hidden)
    )


def _pool(graph: _Graph, hidden: str, mask: str) -> None:
    """Adds the mean over a text's tokens, normalized to length 1."""
    last = graph.constant("last", [-1], np.int64)
    weights = graph.apply("Unsqueeze", mask, last)
    axis = graph.constant("one", [1], np.int64)
    total = graph.apply("ReduceSum", graph.apply("Mul", hidden, weights), axis, keepdims=0)
    count = graph.apply("Max", graph.apply("ReduceSum", weights, axis, keepdims=0), graph.constant("least", 1e-9))
    mean = graph.apply("Div", total, count)
    norm = graph.apply("Max", graph.apply("ReduceL2", mean, axes=[1], keepdims=1), graph.constant("tiny", 1e-12))
    graph.nodes.append(helper.make_node("Div", [mean, norm], ["sentence_embedding"]))
