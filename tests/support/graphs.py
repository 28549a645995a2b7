"""ONNX graphs whose rows are known to be independent, or known to mix, by the kind of mixing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from onnx.numpy_helper import from_array

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64

Dims = Sequence[int | str | None]
Value = tuple[int, Dims | None]

RANDOM = np.random.default_rng(7)


def weights(*shape: int) -> npt.NDArray[np.float32]:
    return RANDOM.standard_normal(shape).astype(np.float32)


@dataclass(frozen=True)
class Graph:
    """The parts of an ONNX model: values by name, each with a type and its dimensions."""

    nodes: Sequence[NodeProto]
    inputs: Mapping[str, Value]
    outputs: Mapping[str, Value]
    constants: Mapping[str, Any] = field(default_factory=dict)
    domains: Sequence[tuple[str, int]] = ()
    opset: int = 20
    functions: Sequence[onnx.FunctionProto] = ()

    def model(self) -> onnx.ModelProto:
        inputs, outputs = (
            [make_tensor_value_info(name, kind, dims and list(dims)) for name, (kind, dims) in values.items()]
            for values in (self.inputs, self.outputs)
        )
        constants = [from_array(np.asarray(value), name) for name, value in self.constants.items()]
        graph = make_graph(list(self.nodes), "graph", inputs, outputs, constants)
        opsets = [make_opsetid("", self.opset), *(make_opsetid(*domain) for domain in self.domains)]
        return make_model(graph, opset_imports=opsets, ir_version=9, functions=list(self.functions))

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        onnx.save_model(self.model(), folder / "model.onnx")
        return folder / "model.onnx"


def rowwise(node: NodeProto, *, inner: Dims = (4,), out: Dims | None = None, **constants: npt.ArrayLike) -> Graph:
    """One node from `x` float [N, inner] to `y`."""
    dims = ("N", *inner)
    return Graph([node], {"x": (FLOAT, dims)}, {"y": (FLOAT, dims if out is None else out)}, constants)


def _lookup(table_dims: Dims = ("M", 3)) -> Graph:
    nodes = [make_node("Gather", ["table", "ids"], ["rows"]), make_node("Concat", ["rows", "x"], ["y"], axis=1)]
    inputs: dict[str, Value] = {"ids": (INT64, ["N"]), "x": (FLOAT, ["N", 2]), "table": (FLOAT, table_dims)}
    return Graph(nodes, inputs, {"y": (FLOAT, ["N", 5])})


def _attention() -> Graph:
    """Every token attends to all others: [tokens, 4] without a batch axis."""
    other = make_node("Transpose", ["x"], ["other"], perm=[1, 0])
    nodes = [other, make_node("MatMul", ["x", "other"], ["scores"]), make_node("Softmax", ["scores"], ["p"], axis=-1)]
    nodes.append(make_node("MatMul", ["p", "x"], ["y"]))
    return Graph(nodes, {"x": (FLOAT, ["tokens", 4])}, {"y": (FLOAT, ["tokens", 4])})


def _recurrent(operator: str, gates: int) -> Graph:
    """A recurrent layer in ONNX's default layout: the first axis is time, but is not named so."""
    node = make_node(operator, ["x", "w", "r"], ["all"], hidden_size=5)
    squeeze = make_node("Squeeze", ["all", "one"], ["y"])
    constants = {"w": weights(1, 5 * gates, 4), "r": weights(1, 5 * gates, 5), "one": np.array([1])}
    return Graph([node, squeeze], {"x": (FLOAT, ["a", "b", 4])}, {"y": (FLOAT, ["a", "b", 5])}, constants)


def _scaled_by(reduction: str) -> Graph:
    nodes = [make_node(reduction, ["x", "axis"], ["r"], keepdims=1), make_node("Sub", ["x", "r"], ["y"])]
    return Graph(nodes, {"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, ["N", 4])}, {"axis": np.array([0])})


def _shifted() -> Graph:
    """Each row becomes the one before it, as after a pad and a slice along the wrong axis."""
    nodes = [make_node("Pad", ["x", "pads"], ["padded"]), make_node("Slice", ["padded", "zero", "last"], ["before"])]
    nodes.append(make_node("Add", ["x", "before"], ["y"]))
    constants = {"pads": np.array([1, 0, 0, 0]), "zero": np.array([0]), "last": np.array([-1])}
    return Graph(nodes, {"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, ["N", 4])}, constants)


def _clipped_mean() -> Graph:
    """A mean over the batch that only large values can change visibly."""
    nodes = [make_node("ReduceMax", ["x", "axis"], ["m"], keepdims=1), make_node("Max", ["m", "floor"], ["bounded"])]
    nodes.append(make_node("Div", ["x", "bounded"], ["y"]))
    constants = {"axis": np.array([0]), "floor": np.float32(1000)}
    return Graph(nodes, {"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, ["N", 4])}, constants)


def _counted() -> Graph:
    """The input divided by the number of rows, as a loss is."""
    nodes = [make_node("Shape", ["x"], ["n"], start=0, end=1), make_node("Cast", ["n"], ["count"], to=FLOAT)]
    nodes.append(make_node("Div", ["x", "count"], ["y"]))
    return Graph(nodes, {"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, ["N", 4])})


def _numbered() -> Graph:
    """Each row's position in the batch is added to it."""
    nodes = [make_node("Shape", ["x"], ["n"], start=0, end=1), make_node("Squeeze", ["n"], ["count"])]
    nodes += [
        make_node("Range", ["zero", "count", "one"], ["places"]),
        make_node("Unsqueeze", ["places", "axis"], ["p"]),
    ]
    nodes += [make_node("Cast", ["p"], ["column"], to=FLOAT), make_node("Add", ["x", "column"], ["y"])]
    constants = {"zero": np.int64(0), "one": np.int64(1), "axis": np.array([1])}
    return Graph(nodes, {"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, ["N", 4])}, constants)


def quantized(*, layers: int = 1) -> Graph:
    """Dense layers as `quantize_dynamic` writes them: scales over the whole batch, integers, and back to floats."""
    nodes, constants, before = [], {}, "x"
    for layer in range(layers):
        q, s, z, i, f, c = (f"{name}{layer}" for name in ("q", "s", "z", "i", "f", "c"))
        nodes += [
            make_node("DynamicQuantizeLinear", [before], [q, s, z]),
            make_node("MatMulInteger", [q, f"w{layer}", z], [i]),
            make_node("Cast", [i], [f], to=FLOAT),
            make_node("Mul", [f, s], [c if layer < layers - 1 else "y"]),
        ]
        constants[f"w{layer}"] = RANDOM.integers(-100, 100, (8, 8)).astype(np.int8)
        before = c
    return Graph(nodes, {"x": (FLOAT, ["N", 8])}, {"y": (FLOAT, ["N", 8])}, constants)


def _quantized_in_a_branch() -> Graph:
    """Dynamic quantization inside an `If`, where an inspection of the graph's own nodes does not find it."""
    quantize = make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "p"])
    restore = make_node("DequantizeLinear", ["q", "s", "p"], ["z"])
    then, other = (
        make_graph(nodes, "branch", [], [make_tensor_value_info("z", FLOAT, None)])
        for nodes in ([quantize, restore], [make_node("Identity", ["x"], ["z"])])
    )
    node = make_node("If", ["yes"], ["y"], then_branch=then, else_branch=other)
    return Graph([node], {"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, ["N", 4])}, {"yes": np.array(True)})


def _trimmed(reduction: str = "ReduceMax") -> Graph:
    """As many columns as the longest (or shortest) row of the batch has."""
    nodes = [make_node(reduction, ["lengths"], ["m"], keepdims=1), make_node("Slice", ["x", "zero", "m", "one"], ["y"])]
    inputs: dict[str, Value] = {"x": (FLOAT, ["N", 8]), "lengths": (INT64, ["N"])}
    return Graph(nodes, inputs, {"y": (FLOAT, ["N", "L"])}, {"zero": np.array([0]), "one": np.array([1])})


def _traced(shape: Sequence[int], *, inner: Dims = (2, 3)) -> Graph:
    """A batch of one, traced into a Reshape."""
    nodes = [make_node("Reshape", ["x", "shape"], ["flat"]), make_node("MatMul", ["flat", "w"], ["y"])]
    constants = {"shape": np.array(shape), "w": weights(6, 4)}
    return Graph(nodes, {"x": (FLOAT, ["N", *inner])}, {"y": (FLOAT, ["N", 4])}, constants)


def _traced_state() -> Graph:
    """The initial state of a recurrent layer, traced for a batch of one."""
    node = make_node("LSTM", ["t", "w", "r", "", "", "h", "c"], ["all"], hidden_size=5)
    nodes = [make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]), node, make_node("Squeeze", ["all", "one"], ["s"])]
    nodes.append(make_node("Transpose", ["s"], ["y"], perm=[1, 0, 2]))
    constants = {"w": weights(1, 20, 4), "r": weights(1, 20, 5), "one": np.array([1])}
    constants |= {"h": weights(1, 1, 5), "c": weights(1, 1, 5)}
    return Graph(nodes, {"x": (FLOAT, ["N", "T", 4])}, {"y": (FLOAT, ["N", "T", 5])}, constants)


def _traced_split() -> Graph:
    """A Concat with one constant row, which fits only one number of rows."""
    nodes = [make_node("Concat", ["x", "row"], ["y"], axis=1)]
    return Graph(nodes, {"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, ["N", 7])}, {"row": weights(1, 3)})


def _flattened() -> Graph:
    """A row for each token, not for each text."""
    nodes = [make_node("Gather", ["e", "ids"], ["h"]), make_node("Reshape", ["h", "flat"], ["y"])]
    constants = {"e": weights(11, 4), "flat": np.array([-1, 4])}
    return Graph(nodes, {"ids": (INT64, ["N", "T"])}, {"y": (FLOAT, ["tokens", 4])}, constants)


def _kept() -> Graph:
    nodes = [make_node("Gather", ["x", "zero"], ["first"], axis=1), make_node("Greater", ["first", "nought"], ["keep"])]
    nodes.append(make_node("Compress", ["x", "keep"], ["y"], axis=0))
    constants = {"zero": np.int64(0), "nought": np.float32(0)}
    return Graph(nodes, {"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, ["M", 4])}, constants)


def _chosen_for_all(kind: int, chosen: Sequence[NodeProto], *, inner: Dims = (9, 9), limit: float = 1.5) -> Graph:
    """Divides `x` by a `scale`, which the chosen nodes compute from `f`, the numbers of `x` as floats."""
    nodes = [make_node("Cast", ["x"], ["f"], to=FLOAT), *chosen, make_node("Div", ["f", "scale"], ["y"])]
    constants = {"limit": np.float32(limit), "one": np.float32(1), "many": np.float32(255)}
    return Graph(nodes, {"x": (kind, ["N", *inner])}, {"y": (FLOAT, ["N", *inner])}, constants)


def _scaled_if(reduction: str, compares: str, kind: int = FLOAT, *, limit: float = 1.5) -> Graph:
    """All numbers are divided by 255 if one of them is on the other side of a limit."""
    chosen = [
        make_node(reduction, ["f"], ["m"], keepdims=0),
        make_node(compares, ["m", "limit"], ["c"]),
        make_node("Where", ["c", "many", "one"], ["scale"]),
    ]
    return _chosen_for_all(kind, chosen, limit=limit)


def _scaled_to_one(kind: int, *, least: str = "one") -> Graph:
    """All numbers are divided by the largest one, or by 1 or `many` if that is larger."""
    return _chosen_for_all(
        kind, [make_node("ReduceMax", ["f"], ["m"], keepdims=0), make_node("Max", ["m", least], ["scale"])]
    )


def _from_least() -> Graph:
    nodes = [make_node("ReduceMin", ["ids"], ["m"], keepdims=0), make_node("Sub", ["ids", "m"], ["y"])]
    return Graph(nodes, {"ids": (INT64, ["N", 60])}, {"y": (INT64, ["N", 60])})


def _masked_if_any() -> Graph:
    """One is added to all rows if nothing in the batch is masked."""
    nodes = [
        make_node("Cast", ["mask"], ["m"], to=FLOAT),
        make_node("ReduceMin", ["m"], ["all"], keepdims=0),
        make_node("Add", ["x", "all"], ["y"]),
    ]
    inputs: dict[str, Value] = {"x": (FLOAT, ["N", 4]), "mask": (TensorProto.BOOL, ["N", 40])}
    return Graph(nodes, inputs, {"y": (FLOAT, ["N", 4])})


def _with_total() -> Graph:
    nodes = [make_node("Relu", ["x"], ["y"]), make_node("ReduceSum", ["x"], ["total"], keepdims=0)]
    return Graph(nodes, {"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, ["N", 4]), "total": (FLOAT, [])})


def _pairs(left: Dims = (None, 4), right: Dims = (None, 4)) -> Graph:
    nodes = [make_node("Transpose", ["b"], ["t"], perm=[1, 0]), make_node("MatMul", ["a", "t"], ["y"])]
    return Graph(nodes, {"a": (FLOAT, left), "b": (FLOAT, right)}, {"y": (FLOAT, [left[0], right[0]])})


def _training(opset: int = 20, outputs: Sequence[str] = ("rm", "rv"), **attributes: Any) -> Graph:
    node = make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y", *outputs], **attributes)
    constants = {"s": weights(3), "b": weights(3), "m": weights(3), "v": np.abs(weights(3))}
    return Graph([node], {"x": (FLOAT, ["N", 3, 4])}, {"y": (FLOAT, ["N", 3, 4])}, constants, opset=opset)


ML = (("ai.onnx.ml", 3),)
"""The domain of operators of classical models, and its version."""


def _encoded(inputs: Mapping[str, Dims], columns: Sequence[tuple[str, NodeProto, Dims]], *, axis: int = -1) -> Graph:
    """Columns of strings, each encoded as a vector, and the softmax of a dense layer over all of them.

    Each column has the name of its input, a node that picks it (or `Identity`), and the names that the model knows; it
    refuses other names.
    """
    nodes = []
    for number, (_, pick, names) in enumerate(columns):
        encode: dict[str, Any] = {"domain": "ai.onnx.ml", "cats_strings": list(names), "zeros": 0}
        nodes += [pick, make_node("OneHotEncoder", pick.output, [f"c{number}"], **encode)]
    width = sum(len(names) for *_, names in columns)
    nodes += [
        make_node("Concat", [f"c{number}" for number in range(len(columns))], ["all"], axis=-1),
        make_node("Reshape", ["all", "flat"], ["f"]),
        make_node("MatMul", ["f", "w"], ["h"]),
        make_node("Softmax", ["h"], ["y"], axis=axis),
    ]
    strings = {name: (TensorProto.STRING, dims) for name, dims in inputs.items()}
    constants = {"flat": np.array([-1, width]), "w": weights(width, 3), "0": np.array([0]), "1": np.array([1])}
    return Graph(nodes, strings, {"y": (FLOAT, ["N", 3])}, constants, ML)


_PORTS, _SEXES = ("Cherbourg", "Queenstown", "Southampton"), ("female", "male")


def one_hot(*, axis: int = -1) -> Graph:
    """Two inputs with a category each, as scikit-learn's encoder has them."""
    picks = [(name, make_node("Identity", [name], [f"{name}s"])) for name in ("sex", "port")]
    columns = [(*pick, names) for pick, names in zip(picks, (_SEXES, _PORTS), strict=True)]
    return _encoded({"sex": ["N", 1], "port": ["N", 1]}, columns, axis=axis)


def one_hot_columns() -> Graph:
    """One input with two columns of categories."""
    picks = [make_node("Gather", ["x", str(column)], [f"x{column}"], axis=1) for column in range(2)]
    return _encoded({"x": ["N", 2]}, [("x", picks[0], _SEXES), ("x", picks[1], _PORTS)])


def word_counts() -> Graph:
    """How often a text has each of the words that the model knows; most texts have none of them."""
    pool: dict[str, Any] = {"mode": "TF", "min_gram_length": 1, "max_gram_length": 1, "max_skip_count": 0}
    pool |= {"ngram_counts": [0], "ngram_indexes": [0, 1, 2], "pool_strings": ["refund", "invoice", "delay"]}
    node = make_node("TfIdfVectorizer", ["x"], ["y"], **pool)
    return Graph([node], {"x": (TensorProto.STRING, ["N", 4])}, {"y": (FLOAT, ["N", 3])})


def months() -> Graph:
    """A one-hot vector for the number of a month; other numbers are refused."""
    encode: dict[str, Any] = {"cats_int64s": list(range(1, 13)), "zeros": 0}
    node = make_node("OneHotEncoder", ["x"], ["y"], domain="ai.onnx.ml", **encode)
    return Graph([node], {"x": (INT64, ["N", 2])}, {"y": (FLOAT, ["N", 2, 12])}, domains=ML)


def numbered() -> Graph:
    """A vector for each product, which has a number of several digits."""
    codes: dict[str, Any] = {"keys_int64s": [10405, 20731, 90210], "values_int64s": [1, 2, 3], "default_int64": 0}
    nodes = [make_node("LabelEncoder", ["x"], ["i"], domain="ai.onnx.ml", **codes)]
    nodes.append(make_node("Gather", ["e", "i"], ["y"]))
    return Graph(nodes, {"x": (INT64, ["N"])}, {"y": (FLOAT, ["N", 4])}, {"e": weights(4, 4)}, ML)


MIXING: Mapping[str, Mapping[str, Graph]] = {
    "the batch is reduced": {
        "softmax over it": rowwise(make_node("Softmax", ["x"], ["y"], axis=0)),
        "its mean is subtracted": _scaled_by("ReduceMean"),
        "its largest value is subtracted": _scaled_by("ReduceMax"),
        "its mean and variance": rowwise(make_node("MeanVarianceNormalization", ["x"], ["y"]), inner=(2, 3, 3)),
        "a bound that only huge values reach": _clipped_mean(),
        "statistics of training": _training(training_mode=1),
        "statistics of training, in opset 9": _training(9, ("rm", "rv", "sm", "sv")),
        "statistics of training, in opset 7": _training(7, ("rm", "rv", "sm", "sv")),
    },
    "one choice for the whole batch": {
        "divided if a float is large": _scaled_if("ReduceMax", "Greater"),
        "divided if a float is small": _scaled_if("ReduceMin", "Less"),
        "divided if a pixel is large": _scaled_if("ReduceMax", "Greater", TensorProto.UINT8),
        "divided by the largest pixel": _scaled_to_one(TensorProto.UINT8),
        "divided by the largest signed byte": _scaled_to_one(TensorProto.INT8),
        "divided if a pixel of two bytes is above 255": _scaled_if(
            "ReduceMax", "Greater", TensorProto.UINT16, limit=255
        ),
        "divided if an integer is above 255": _scaled_if("ReduceMax", "Greater", TensorProto.INT32, limit=255),
        "divided if a time is in milliseconds": _scaled_if("ReduceMax", "Greater", INT64, limit=1e11),
        "divided by the largest integer above 255": _scaled_to_one(INT64, least="many"),
        "the least integer is subtracted": _from_least(),
        "whether nothing is masked": _masked_if_any(),
    },
    "each row depends on earlier rows": {
        "cumulative sum": rowwise(make_node("CumSum", ["x", "zero"], ["y"]), zero=np.int64(0)),
        "the one before": _shifted(),
        "time first in an LSTM": _recurrent("LSTM", 4),
        "time first in a GRU": _recurrent("GRU", 3),
        "time first in an RNN": _recurrent("RNN", 1),
    },
    "every row depends on all others": {
        "attention": _attention(),
        "all pairs": _pairs(),
        "categories, compared over the batch": one_hot(axis=0),
        "a similarity matrix": Graph(
            [make_node("Transpose", ["x"], ["t"], perm=[1, 0]), make_node("MatMul", ["x", "t"], ["y"])],
            {"x": (FLOAT, ["N", 4])},
            {"y": (FLOAT, ["N", "N"])},
        ),
    },
    "an input is a table": {
        "whose rows have a name of their own": _lookup(),
        "whose rows have no name": _lookup((None, 3)),
        "whose rows have the batch's name": _lookup(("N", 3)),
    },
    "the number of rows counts": {
        "divided by it": _counted(),
        "the position of each row is added": _numbered(),
        "as long as the longest": _trimmed(),
        "as short as the shortest": _trimmed("ReduceMin"),
    },
    "quantization scales come from the batch": {
        "one layer": quantized(),
        "three layers": quantized(layers=3),
        "in a branch": _quantized_in_a_branch(),
    },
    "the numbers of input and output rows differ": {
        "one row for each token": _flattened(),
        "rows that pass a filter": _kept(),
        "one output has no rows": _with_total(),
    },
    "traced with a batch of one": {
        "a shape": _traced([1, 6]),
        "an initial state": _traced_state(),
        "a constant row": _traced_split(),
    },
    "chance": {
        "noise": rowwise(make_node("RandomNormalLike", ["x"], ["y"])),
        "uniform": rowwise(make_node("RandomUniformLike", ["x"], ["y"])),
        "coins": Graph(
            [make_node("Sigmoid", ["x"], ["p"]), make_node("Bernoulli", ["p"], ["y"])],
            {"x": (FLOAT, ["N", 4])},
            {"y": (FLOAT, ["N", 4])},
        ),
    },
}


def _dense() -> Graph:
    nodes = [make_node("MatMul", ["x", "w"], ["h"]), make_node("Softmax", ["h"], ["y"], axis=-1)]
    return Graph(nodes, {"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, ["N", 3])}, {"w": weights(4, 3)})


def _convolution() -> Graph:
    nodes = [make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]), make_node("Relu", ["c"], ["r"])]
    nodes += [make_node("GlobalAveragePool", ["r"], ["p"]), make_node("Flatten", ["p"], ["y"])]
    return Graph(nodes, {"x": (FLOAT, ["N", 3, "H", "W"])}, {"y": (FLOAT, ["N", 5])}, {"w": weights(5, 3, 3, 3)})


def _sentences(mask: Dims = ("N", "T")) -> Graph:
    """The mean of a text's word vectors at the positions where its mask is 1."""
    nodes = [
        make_node("Gather", ["e", "ids"], ["h"]),
        make_node("Cast", ["mask"], ["m"], to=FLOAT),
        make_node("Unsqueeze", ["m", "last"], ["m3"]),
        make_node("Mul", ["h", "m3"], ["masked"]),
        make_node("ReduceMean", ["masked", "one"], ["y"], keepdims=0),
    ]
    constants = {"e": weights(30, 6), "last": np.array([-1]), "one": np.array([1])}
    inputs: dict[str, Value] = {"ids": (INT64, ["N", "T"]), "mask": (INT64, mask)}
    return Graph(nodes, inputs, {"y": (FLOAT, ["N", 6])}, constants)


def _batch_second() -> Graph:
    nodes = [
        make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        make_node("LSTM", ["t", "w", "r"], ["", "last"], hidden_size=5),
        make_node("Squeeze", ["last", "zero"], ["y"]),
    ]
    constants = {"w": weights(1, 20, 4), "r": weights(1, 20, 5), "zero": np.array([0])}
    return Graph(nodes, {"x": (FLOAT, ["N", "T", 4])}, {"y": (FLOAT, ["N", 5])}, constants)


def trees(*, label_dims: Dims = ("N",)) -> Graph:
    """A boosted classifier whose splits lie between 100 and 900: `label` and `scores`."""
    split: dict[str, Any] = {
        "nodes_treeids": [0] * 3 + [1] * 3,
        "nodes_nodeids": [0, 1, 2] * 2,
        "nodes_featureids": [0, 0, 0, 1, 0, 0],
    }
    split |= {"nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"] * 2, "nodes_values": [100.0, 0, 0, 900.0, 0, 0]}
    split |= {"nodes_truenodeids": [1, 0, 0] * 2, "nodes_falsenodeids": [2, 0, 0] * 2}
    leaves: dict[str, Any] = {"class_treeids": [0, 0, 1, 1], "class_nodeids": [1, 2, 1, 2], "class_ids": [0, 1, 0, 1]}
    leaves |= {"class_weights": [1.0, 2.0, 0.5, 3.0], "classlabels_int64s": [0, 1]}
    node = make_node("TreeEnsembleClassifier", ["x"], ["label", "scores"], domain="ai.onnx.ml", **split, **leaves)
    outputs: dict[str, Value] = {"label": (INT64, label_dims), "scores": (FLOAT, ["N", 2])}
    return Graph([node], {"x": (FLOAT, ["N", 2])}, outputs, domains=[("ai.onnx.ml", 3)])


def _static() -> Graph:
    nodes = [
        make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        make_node("MatMul", ["d", "w"], ["y"]),
    ]
    constants = {"s": np.float32(0.02), "z": np.uint8(128), "w": weights(4, 4)}
    return Graph(nodes, {"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, ["N", 4])}, constants)


def _logarithm() -> Graph:
    """NaN for half of all numbers."""
    nodes = [make_node("Log", ["x"], ["l"]), make_node("ReduceSum", ["l", "one"], ["y"], keepdims=1)]
    return Graph(nodes, {"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, ["N", 1])}, {"one": np.array([1])})


def _within() -> Graph:
    """Attention between the tokens of each text, and the position of each token in its text."""
    nodes = [
        make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        make_node("MatMul", ["x", "t"], ["s"]),
        make_node("Softmax", ["s"], ["p"], axis=-1),
        make_node("MatMul", ["p", "x"], ["y"]),
    ]
    return Graph(nodes, {"x": (FLOAT, ["N", "T", 4])}, {"y": (FLOAT, ["N", "T", 4])})


def _pixels() -> Graph:
    nodes = [make_node("Cast", ["x"], ["f"], to=FLOAT), make_node("MatMul", ["f", "w"], ["s"])]
    nodes.append(make_node("ArgMax", ["s"], ["y"], axis=1, keepdims=0))
    return Graph(nodes, {"x": (TensorProto.UINT8, ["N", 9])}, {"y": (INT64, ["N"])}, {"w": weights(9, 5)})


def _joined(left: str, right: str, out: str) -> Graph:
    """Two inputs whose first dimensions exporters name differently."""
    node = make_node("Concat", ["a", "b"], ["y"], axis=1)
    inputs: dict[str, Value] = {"a": (FLOAT, [left, 2]), "b": (FLOAT, [right, 3])}
    return Graph([node], inputs, {"y": (FLOAT, [out, 5])})


INDEPENDENT: Mapping[str, Graph] = {
    "categories in inputs of their own": one_hot(),
    "categories in columns": one_hot_columns(),
    "counts of known words": word_counts(),
    "known numbers": numbered(),
    "numbers of months": months(),
    "dense": _dense(),
    "convolution": _convolution(),
    "sentences": _sentences(),
    "a mask of one row that broadcasts": _sentences(("M", "T")),
    "a recurrent layer with the batch first": _batch_second(),
    "trees": trees(),
    "a label declared with one element": trees(label_dims=[1]),
    "static quantization": _static(),
    "logarithms": _logarithm(),
    "attention within a text": _within(),
    "integer pixels to a class": _pixels(),
    "dimension names that an exporter has numbered": _joined("unk__1", "unk__2", "unk__3"),
    "a normalized row": rowwise(
        make_node("LayerNormalization", ["x", "s"], ["y"], axis=-1), s=np.array([1, 2, 3, 4], np.float32)
    ),
    "an instance norm": rowwise(
        make_node("InstanceNormalization", ["x", "s", "b"], ["y"]), inner=(3, 4, 4), s=weights(3), b=weights(3)
    ),
    "the best two": Graph(
        [make_node("TopK", ["x", "two"], ["y", "i"], axis=-1)],
        {"x": (FLOAT, ["N", 6])},
        {"y": (FLOAT, ["N", 2]), "i": (INT64, ["N", 2])},
        {"two": np.array([2])},
    ),
    "text": Graph(
        [
            make_node(
                "LabelEncoder",
                ["x"],
                ["y"],
                domain="ai.onnx.ml",
                keys_strings=["one", "two", "three"],
                values_int64s=[1, 2, 3],
                default_int64=-1,
            )
        ],
        {"x": (TensorProto.STRING, ["N", 2])},
        {"y": (INT64, ["N", 2])},
        domains=[("ai.onnx.ml", 3)],
    ),
    "half floats": Graph(
        [make_node("MatMul", ["x", "w"], ["y"])],
        {"x": (TensorProto.FLOAT16, ["N", 8])},
        {"y": (TensorProto.FLOAT16, ["N", 3])},
        {"w": weights(8, 3).astype(np.float16)},
    ),
}
