"""Random stacks of layers: some keep the rows of a batch independent, and some mix them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto
from onnx.helper import make_node

from tests.support.graphs import FLOAT, Graph

WIDTH = 6

Layer = Callable[["Stack"], None]


@dataclass
class Stack:
    """A graph that grows by one layer at a time, each from float [N, WIDTH] to the same.

    Args:
        random: The source of the weights.
    """

    random: np.random.Generator

    def __post_init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, object] = {}
        self.top = "x"

    def add(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """Adds a node, on top of the graph unless it names its inputs; returns the name of its first output."""
        names = [f"t{len(self.nodes)}_{number}" for number in range(outputs)]
        self.nodes.append(make_node(operator, list(inputs) or [self.top], names, **attributes))
        return names[0]

    def put(self, operator: str, *inputs: str, **attributes: Any) -> None:
        """Like `add`, but its output becomes the new top."""
        self.top = self.add(operator, *inputs, **attributes)

    def constant(self, value: object) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = value
        return name

    def weights(self, *shape: int) -> str:
        return self.constant(self.random.standard_normal(shape).astype(np.float32))

    def graph(self) -> Graph:
        nodes = [*self.nodes, make_node("Identity", [self.top], ["y"])]
        return Graph(nodes, {"x": (FLOAT, ["N", WIDTH])}, {"y": (FLOAT, ["N", WIDTH])}, self.constants)


def stack(layers: Sequence[Layer], seed: int) -> Graph:
    """The graph of these layers."""
    made = Stack(np.random.default_rng(seed))
    for layer in layers:
        layer(made)
    return made.graph()


def dense(s: Stack) -> None:
    s.put("Gemm", s.top, s.weights(WIDTH, WIDTH), s.weights(WIDTH))


def relu(s: Stack) -> None:
    s.put("LeakyRelu", alpha=0.1)


def squash(s: Stack) -> None:
    s.put("Tanh")


def softmax(s: Stack) -> None:
    s.put("Softmax", axis=-1)


def normalize(s: Stack) -> None:
    s.put("LayerNormalization", s.top, s.weights(WIDTH), axis=-1)


def residual(s: Stack) -> None:
    s.put("Add", s.top, s.add("Sin"))


def swap(s: Stack) -> None:
    """Reorders the columns by reshaping to [N, 2, 3]."""
    inner = s.add("Reshape", s.top, s.constant(np.array([-1, 2, 3])))
    s.put("Reshape", s.add("Transpose", inner, perm=[0, 2, 1]), s.constant(np.array([-1, WIDTH])))


def sort(s: Stack) -> None:
    s.put("TopK", s.top, s.constant(np.array([WIDTH])), axis=-1, outputs=2)


def running(s: Stack) -> None:
    s.put("CumSum", s.top, s.constant(np.int64(1)))


def centre(s: Stack) -> None:
    s.put("Sub", s.top, s.add("ReduceMean", s.top, s.constant(np.array([1])), keepdims=1))


def attend(s: Stack) -> None:
    """Attention between the three parts of each row."""
    parts = s.add("Reshape", s.top, s.constant(np.array([-1, 3, 2])))
    scores = s.add("MatMul", parts, s.add("Transpose", parts, perm=[0, 2, 1]))
    mixed = s.add("MatMul", s.add("Softmax", scores, axis=-1), parts)
    s.put("Reshape", mixed, s.constant(np.array([-1, WIDTH])))


def look_up(s: Stack) -> None:
    best = s.add("ArgMax", axis=1, keepdims=0)
    s.put("Add", s.top, s.add("Gather", s.weights(WIDTH, WIDTH), best))


def quantize(s: Stack) -> None:
    scale, zero = s.constant(np.float32(0.05)), s.constant(np.uint8(128))
    s.put("DequantizeLinear", s.add("QuantizeLinear", s.top, scale, zero), scale, zero)


APART: Sequence[Layer] = (
    dense,
    relu,
    squash,
    softmax,
    normalize,
    residual,
    swap,
    sort,
    running,
    centre,
    attend,
    look_up,
    quantize,
)


def softmax_of_batch(s: Stack) -> None:
    s.put("Softmax", axis=0)


def mean_of_batch(s: Stack) -> None:
    s.put("Sub", s.top, s.add("ReduceMean", s.top, s.constant(np.array([0])), keepdims=1))


def largest_of_batch(s: Stack) -> None:
    s.put("Add", s.top, s.add("ReduceMax", s.top, s.constant(np.array([0])), keepdims=1))


def running_over_batch(s: Stack) -> None:
    s.put("CumSum", s.top, s.constant(np.int64(0)))


def backwards_over_batch(s: Stack) -> None:
    s.put("CumSum", s.top, s.constant(np.int64(0)), reverse=1, exclusive=1)


def row_before(s: Stack) -> None:
    before = s.add("Pad", s.top, s.constant(np.array([1, 0, -1, 0])))
    s.put("Add", s.top, before)


def fifth_row_after(s: Stack) -> None:
    """Adds to each row the fifth row after it; a batch of fewer than six rows does not show this."""
    after = s.add("Pad", s.top, s.constant(np.array([-5, 0, 5, 0])))
    s.put("Add", s.top, after)


def sort_batch(s: Stack) -> None:
    rows = s.add("Shape", s.top, start=0, end=1)
    s.put("TopK", s.top, rows, axis=0, outputs=2)


def attend_over_batch(s: Stack) -> None:
    scores = s.add("MatMul", s.top, s.add("Transpose", s.top, perm=[1, 0]))
    s.put("MatMul", s.add("Softmax", scores, axis=-1), s.top)


def by_count(s: Stack) -> None:
    count = s.add("Cast", s.add("Shape", s.top, start=0, end=1), to=FLOAT)
    s.put("Div", s.top, count)


def quantize_batch(s: Stack) -> None:
    number = len(s.nodes)
    s.add("DynamicQuantizeLinear", s.top, outputs=3)
    s.put("DequantizeLinear", *[f"t{number}_{place}" for place in range(3)])


def flatten(s: Stack) -> None:
    """Normalizes the whole batch as one row."""
    flat = s.add("Reshape", s.top, s.constant(np.array([1, -1])))
    largest = s.add("ReduceMax", s.add("Abs", flat), keepdims=1)
    s.put("Div", s.top, s.add("Add", largest, s.constant(np.float32(1))))


def first_row(s: Stack) -> None:
    zero = s.constant(np.array([0]))
    s.put("Add", s.top, s.add("Gather", s.top, zero, axis=0))


MIXES: Sequence[Layer] = (
    softmax_of_batch,
    mean_of_batch,
    largest_of_batch,
    running_over_batch,
    backwards_over_batch,
    row_before,
    fifth_row_after,
    sort_batch,
    attend_over_batch,
    by_count,
    quantize_batch,
    flatten,
    first_row,
)


def _leak(s: Stack, of_batch: str) -> None:
    """Adds 0 times a function of all rows: nothing, unless that is NaN or infinite."""
    s.put("Add", s.top, s.add("Mul", of_batch, s.constant(np.float32(0))))


def leaky_sum(s: Stack) -> None:
    _leak(s, s.add("ReduceSum", s.top, keepdims=0))


def leaky_mean(s: Stack) -> None:
    _leak(s, s.add("ReduceMean", s.top, s.constant(np.array([0])), keepdims=1))


def leaky_largest(s: Stack) -> None:
    _leak(s, s.add("ReduceMax", s.top, s.constant(np.array([0])), keepdims=1))


def leaky_least(s: Stack) -> None:
    _leak(s, s.add("ReduceMin", s.top, keepdims=0))


def leaky_square(s: Stack) -> None:
    _leak(s, s.add("ReduceSumSquare", s.top, keepdims=0))


def leaky_cube(s: Stack) -> None:
    cube = s.add("Mul", s.add("Mul", s.top, s.top), s.top)
    _leak(s, s.add("ReduceSum", cube, keepdims=0))


def leaky_product(s: Stack) -> None:
    """Leaks the products of all pairs of columns, over the batch."""
    gram = s.add("MatMul", s.add("Transpose", s.top, perm=[1, 0]), s.top)
    _leak(s, s.add("ReduceSum", gram, keepdims=0))


def leaky_range(s: Stack) -> None:
    spread = s.add("Sub", s.add("ReduceMax", s.top, keepdims=0), s.add("ReduceMin", s.top, keepdims=0))
    _leak(s, spread)


def leaky_exponential(s: Stack) -> None:
    """Infinite for a sum above 88, so these rows are not independent."""
    _leak(s, s.add("Exp", s.add("ReduceSum", s.top, keepdims=0)))


def leaky_reciprocal(s: Stack) -> None:
    """Infinite for a sum of zero."""
    _leak(s, s.add("Reciprocal", s.add("ReduceSum", s.top, keepdims=0)))


def leaky_root(s: Stack) -> None:
    """NaN for a negative sum."""
    _leak(s, s.add("Sqrt", s.add("ReduceSum", s.top, keepdims=0)))


def leaky_logarithm(s: Stack) -> None:
    _leak(s, s.add("Log", s.add("ReduceMean", s.top, s.constant(np.array([0])), keepdims=1)))


LEAKS: Sequence[Layer] = (
    leaky_sum,
    leaky_mean,
    leaky_largest,
    leaky_least,
    leaky_square,
    leaky_cube,
    leaky_product,
    leaky_range,
)
"""With these, rows are independent as long as all numbers are ordinary."""

LEAKS_OF_ORDINARY: Sequence[Layer] = (leaky_exponential, leaky_reciprocal, leaky_root, leaky_logarithm)
"""With these, rows are dependent even if all numbers are ordinary."""
