"""Defines which ONNX operators compute each row of a batch independently, and under which conditions.

The rules are those of ONNX's Operators.md and Broadcasting.md.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Rows:
    """A value of this rank with the batch on axis 0: each row depends only on the same row of the inputs."""

    rank: int


@dataclass(frozen=True, slots=True)
class Constant:
    """A value that depends on no input.

    Attributes:
        dims: The constant's shape.
        values: The constant's elements if they are a few integers; otherwise None.
    """

    dims: tuple[int, ...]
    values: tuple[int, ...] | None = None

    @property
    def size(self) -> int:
        """How many elements the constant has."""
        size = 1
        for dim in self.dims:
            size *= dim
        return size


Value = Rows | Constant | None  # None for an unknown value, or for an input that is left out
Values = Mapping[str, Rows | Constant]


class Node:
    """One node of the graph, as seen by the rules.

    Args:
        node: The node as ONNX's message.
        values: The known properties of values, by name.

    Attributes:
        inputs: The known properties of each input.
        outputs: The number of outputs.
        known: Whether something is known about each input.
    """

    def __init__(self, node: Any, values: Values) -> None:
        self._attributes = {attribute.name: attribute for attribute in node.attribute}
        self.inputs: Sequence[Value] = [values.get(name) for name in node.input]
        self.outputs = len(node.output)
        self.known = all(not name or name in values for name in node.input)

    def input(self, number: int) -> Value:
        """One of the node's inputs."""
        return self.inputs[number] if number < len(self.inputs) else None

    def has(self, *names: str) -> bool:
        """Whether the node has any of these attributes."""
        return not self._attributes.keys().isdisjoint(names)

    def integer(self, name: str, default: int) -> int:
        """The value of an attribute that is an integer."""
        return int(self._attributes[name].i) if name in self._attributes else default

    def integers(self, name: str, number: int | None = None) -> tuple[int, ...] | None:
        """The integers of an attribute, or of the constant input with that number; None if there is neither."""
        if name in self._attributes:
            return tuple(self._attributes[name].ints)
        value = None if number is None else self.input(number)
        return value.values if isinstance(value, Constant) else None

    def tensor(self) -> Any:
        """The attribute `value`, a tensor; None if there is none."""
        return self._attributes["value"].t if "value" in self._attributes else None

    @property
    def rank(self) -> int:
        """The rank of the node's first input; 0 if that has no rows."""
        first = self.input(0)
        return first.rank if isinstance(first, Rows) else 0

    def constants_from(self, number: int) -> bool:
        """Whether this input and all later ones are constants or left out."""
        return not any(isinstance(value, Rows) for value in self.inputs[number:])


Rule = Callable[[Node], tuple[int, ...]]
"""Returns the ranks of a node's outputs if their rows are independent, and no ranks if that is not known."""


def _same(node: Node) -> tuple[int, ...]:
    """The rule for operators on single elements, whose other inputs are constants of one element."""
    return (node.rank,) if all(_is_scalar(value) for value in node.inputs[1:]) else ()


def _is_scalar(value: Value) -> bool:
    return value is None or (isinstance(value, Constant) and value.size == 1)


def _broadcast(node: Node) -> tuple[int, ...]:
    """The rule for operators on several values, which may be broadcast only along axes other than 0."""
    ranks = {value.rank for value in node.inputs if isinstance(value, Rows)}
    if len(ranks) != 1:
        return ()
    (rank,) = ranks
    constants = (value for value in node.inputs if isinstance(value, Constant))
    fits = all(len(own.dims) < rank or (len(own.dims) == rank and own.dims[0] == 1) for own in constants)
    return (rank,) if fits else ()


def _matmul(node: Node) -> tuple[int, ...]:
    other, rank = node.input(1), node.rank
    by_weights = isinstance(other, Constant) and len(other.dims) == 2 and rank >= 2
    by_each_other = isinstance(other, Rows) and other.rank == rank and rank >= 3
    return (rank,) if by_weights or by_each_other else ()


def _gemm(node: Node) -> tuple[int, ...]:
    weights, added = node.input(1), node.input(2)
    alone = node.rank == 2 and not node.integer("transA", 0) and isinstance(weights, Constant)
    flat = added is None or (isinstance(added, Constant) and (len(added.dims) < 2 or added.dims[0] == 1))
    return (2,) if alone and flat else ()


def _images(node: Node) -> tuple[int, ...]:
    """The rule for convolutions, pools and the like, whose other inputs are weights."""
    return (node.rank,) if node.rank >= 3 and node.constants_from(1) else ()


def _normalized(node: Node) -> tuple[int, ...]:
    # Before opset 14, a node with more than one output runs in training mode.
    trains = node.integer("training_mode", 0) or node.outputs > 1 or not node.integer("spatial", 1)
    return (node.rank,) if node.rank >= 2 and node.constants_from(1) and not trains else ()


def _dropped(node: Node) -> tuple[int, ...]:
    return (node.rank,) if node.input(2) is None else ()


def _along(default: int) -> Rule:
    """The rule for operators along one axis, not the batch axis; their other inputs are constants."""

    def rule(node: Node) -> tuple[int, ...]:
        inside = _is_inside(node.integer("axis", default), node.rank) and node.constants_from(1)
        return (node.rank,) * 2 if inside else ()

    return rule


def _is_inside(axis: int, rank: int) -> bool:
    """Whether an axis is not the batch axis."""
    return 0 < (axis + rank if axis < 0 else axis) < rank


def _layer_norm(node: Node) -> tuple[int, ...]:
    flat = all(isinstance(value, Constant) and len(value.dims) < node.rank for value in node.inputs[1:] if value)
    return (node.rank,) if flat and node.constants_from(1) and _is_inside(node.integer("axis", -1), node.rank) else ()


def _reduce(node: Node) -> tuple[int, ...]:
    axes = node.integers("axes", 1)
    if not axes or not all(_is_inside(axis, node.rank) for axis in axes):
        return ()
    return (node.rank if node.integer("keepdims", 1) else _without(axes, node.rank),)


def _without(axes: Sequence[int], rank: int) -> int:
    """The rank without these axes, each of which may be given several times: from the first axis and from the last."""
    return rank - len({axis % rank for axis in axes})


def _best(node: Node) -> tuple[int, ...]:
    if not _is_inside(node.integer("axis", 0), node.rank):
        return ()
    return (node.rank if node.integer("keepdims", 1) else node.rank - 1,)


def _flatten(node: Node) -> tuple[int, ...]:
    return (2,) if node.rank and node.integer("axis", 1) == 1 else ()


def _transpose(node: Node) -> tuple[int, ...]:
    permutation = node.integers("perm")
    return (node.rank,) if permutation and permutation[0] == 0 else ()


def _reshape(node: Node) -> tuple[int, ...]:
    """The rule for reshaping: a shape that begins with 0 keeps axis 0 unchanged."""
    shape = node.integers("shape", 1)
    keeps = bool(shape) and shape is not None and shape[0] == 0 and not node.integer("allowzero", 0)
    return (len(shape),) if node.rank and keeps and shape else ()


def _squeeze(node: Node) -> tuple[int, ...]:
    axes = node.integers("axes", 1)
    return (_without(axes, node.rank),) if axes and all(_is_inside(axis, node.rank) for axis in axes) else ()


def _unsqueeze(node: Node) -> tuple[int, ...]:
    axes = node.integers("axes", 1)
    rank = node.rank + len(axes or ())
    return (rank,) if node.rank and axes and all(_is_inside(axis, rank) for axis in axes) else ()


def _concat(node: Node) -> tuple[int, ...]:
    ranks = {value.rank if isinstance(value, Rows) else 0 for value in node.inputs}
    return tuple(ranks) if len(ranks) == 1 and _is_inside(node.integer("axis", 0), node.rank) else ()


def _gather(node: Node) -> tuple[int, ...]:
    data, indices, axis = node.input(0), node.input(1), node.integer("axis", 0)
    if isinstance(data, Constant) and isinstance(indices, Rows) and axis == 0 and data.dims:
        return (len(data.dims) - 1 + indices.rank,)
    if isinstance(data, Rows) and isinstance(indices, Constant) and _is_inside(axis, data.rank):
        return (data.rank - 1 + len(indices.dims),)
    return ()


def _slice(node: Node) -> tuple[int, ...]:
    axes = node.integers("axes", 3)
    inside = axes and all(_is_inside(axis, node.rank) for axis in axes)
    return (node.rank,) if inside and node.constants_from(1) else ()


def _cumulate(node: Node) -> tuple[int, ...]:
    axis = node.integers("axis", 1)
    return (node.rank,) if axis and _is_inside(axis[0], node.rank) else ()


def _quantized_matmul(node: Node) -> tuple[int, ...]:
    weights = node.input(3)
    fits = node.rank >= 2 and node.constants_from(1) and isinstance(weights, Constant) and len(weights.dims) == 2
    return (node.rank,) if fits and _is_scalar(node.input(1)) and _is_scalar(node.input(2)) else ()


def _table(*ranks: int) -> Rule:
    """The rule for operators of classical models on a matrix of features; they treat a vector as one row."""
    return lambda node: ranks if node.rank == 2 else ()


def _made() -> dict[tuple[str, str], Rule]:
    by_rule: Mapping[Rule, str] = {
        _same: "Abs Acos Asin Atan Cast Ceil Celu Clip Cos DequantizeLinear Elu Erf Exp Floor Gelu HardSigmoid "
        "HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not QuantizeLinear Reciprocal Relu Round Selu Shrink "
        "Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Tan Tanh ThresholdedRelu",
        _broadcast: "Add And Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or PRelu Pow Sub "
        "Sum Where Xor",
        _matmul: "MatMul",
        _gemm: "Gemm",
        _images: "AveragePool Conv ConvTranspose DepthToSpace GlobalAveragePool GlobalLpPool GlobalMaxPool "
        "InstanceNormalization LRN LpPool MaxPool QLinearConv SpaceToDepth",
        _normalized: "BatchNormalization",
        _dropped: "Dropout",
        _along(-1): "Hardmax LogSoftmax LpNormalization Softmax TopK",
        _layer_norm: "LayerNormalization",
        _reduce: "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
        "ReduceSumSquare",
        _best: "ArgMax ArgMin",
        _flatten: "Flatten",
        _transpose: "Transpose",
        _reshape: "Reshape",
        _squeeze: "Squeeze",
        _unsqueeze: "Unsqueeze",
        _concat: "Concat",
        _gather: "Gather",
        _slice: "Slice",
        _cumulate: "CumSum",
        _quantized_matmul: "QLinearMatMul",
    }
    rules = {("", operator): rule for rule, operators in by_rule.items() for operator in operators.split()}
    classical: Mapping[str, tuple[int, ...]] = {
        "LinearClassifier": (1, 2),
        "LinearRegressor": (2,),
        "SVMClassifier": (1, 2),
        "SVMRegressor": (2,),
        "TreeEnsembleClassifier": (1, 2),
        "TreeEnsembleRegressor": (2,),
        "Scaler": (2,),
        "Normalizer": (2,),
        "Imputer": (2,),
        "Binarizer": (2,),
    }
    return rules | {("ai.onnx.ml", operator): _table(*ranks) for operator, ranks in classical.items()}


RULES = _made()
"""The rules by domain and operator."""
