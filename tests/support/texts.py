"""ONNX graphs with inputs of variable length, some of which can be padded without changing an answer."""

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import NodeProto, TensorProto
from onnx.helper import make_node
from onnx.numpy_helper import from_array

from tests.support.graphs import FLOAT, INT64, Graph, Value, weights

BOOL = TensorProto.BOOL

WIDTH = 4

X: Mapping[str, Value] = {"x": (FLOAT, ["N", "T", WIDTH])}
MASK: Mapping[str, Value] = {"mask": (INT64, ["N", "T"])}
POOLED: Value = (FLOAT, ["N", WIDTH])
TOKENS: Value = (FLOAT, ["N", "T", WIDTH])

node = make_node

_CONSTANTS = {
    "one": np.array([1]),
    "two": np.array([2]),
    "last": np.array([-1]),
    "1.0": np.float32(1),
    "most": np.float32(np.finfo(np.float32).min),
    "w": weights(WIDTH, WIDTH),
}


def graph(nodes: Sequence[NodeProto], inputs: Mapping[str, Value], output: Value = POOLED) -> Graph:
    """A graph of nodes that end in `y`."""
    return Graph(nodes, inputs, {"y": output}, _CONSTANTS)


def attention(*, inverted: bool = False) -> Graph:
    """Each token attends to those in an integer mask, or to all except those in a Boolean mask."""
    nodes = [node("Cast", ["mask"], ["m"], to=FLOAT)]
    nodes += [node("Identity", ["m"], ["absent"])] if inverted else [node("Sub", ["1.0", "m"], ["absent"])]
    nodes += [node("Mul", ["absent", "most"], ["b"]), node("Unsqueeze", ["b", "one"], ["bias"])]
    nodes += [node("MatMul", ["x", "w"], ["q"]), node("Transpose", ["x"], ["k"], perm=[0, 2, 1])]
    nodes += [
        node("MatMul", ["q", "k"], ["s"]),
        node("Add", ["s", "bias"], ["a"]),
        node("Softmax", ["a"], ["p"], axis=-1),
    ]
    nodes.append(node("MatMul", ["p", "x"], ["y"]))
    mask: Mapping[str, Value] = {"mask": (BOOL, ["N", "T"])} if inverted else MASK
    return graph(nodes, {**X, **mask}, TOKENS)


def masked_mean() -> Graph:
    nodes = [node("Cast", ["mask"], ["m"], to=FLOAT), node("Unsqueeze", ["m", "last"], ["wide"])]
    nodes += [node("Mul", ["x", "wide"], ["kept"]), node("ReduceSum", ["kept", "one"], ["sum"], keepdims=0)]
    nodes += [node("ReduceSum", ["m", "one"], ["count"], keepdims=1), node("Div", ["sum", "count"], ["y"])]
    return graph(nodes, {**X, **MASK})


def recurrent(direction: str = "forward", *, last: bool = False) -> Graph:
    """A recurrent layer: its output for each element, or at the end."""
    count = 2 if direction == "bidirectional" else 1
    constants = {"w": weights(count, WIDTH, WIDTH), "r": weights(count, WIDTH, WIDTH), "zero": np.array([0])}
    constants["b"] = weights(count, 2 * WIDTH)
    nodes = [node("Transpose", ["x"], ["time"], perm=[1, 0, 2])]
    nodes.append(node("RNN", ["time", "w", "r", "b"], ["all", "end"], hidden_size=WIDTH, direction=direction))
    if last:
        nodes.append(node("Squeeze", ["end", "zero"], ["y"]))
        return Graph(nodes, X, {"y": POOLED}, constants)
    nodes += [
        node("ReduceSum", ["all", "one"], ["steps"], keepdims=0),
        node("Transpose", ["steps"], ["y"], perm=[1, 0, 2]),
    ]
    return Graph(nodes, X, {"y": TOKENS}, {**constants, "one": np.array([1])})


def reduced(operator: str) -> Graph:
    if operator in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin"):
        return graph([node(operator, ["x", "one"], ["y"], keepdims=0)], X)
    return graph([node("Gather", ["x", "last"], ["end"], axis=1), node("Squeeze", ["end", "one"], ["y"])], X)


def convolution() -> Graph:
    """Two convolutions over the length: only the first one reads zeros beyond the end."""
    nodes = [node("Transpose", ["x"], ["t"], perm=[0, 2, 1])]
    nodes += [node("Conv", ["t", "k", "b"], ["h"], pads=[1, 1]), node("Conv", ["h", "k", "b"], ["g"], pads=[1, 1])]
    nodes.append(node("Transpose", ["g"], ["y"], perm=[0, 2, 1]))
    return Graph(nodes, X, {"y": TOKENS}, {"k": weights(WIDTH, WIDTH, 3), "b": weights(WIDTH)})


def first_few() -> Graph:
    """The mean of the first four elements, or of all if there are fewer."""
    nodes = [node("Slice", ["x", "begin", "four", "one"], ["some"])]
    nodes.append(node("ReduceMean", ["some", "one"], ["y"], keepdims=0))
    return Graph(nodes, X, {"y": POOLED}, {"begin": np.array([0]), "four": np.array([4]), "one": np.array([1])})


def third_largest() -> Graph:
    """Refuses inputs of two elements."""
    nodes = [node("TopK", ["x", "three"], ["largest", "which"], axis=1)]
    nodes.append(node("ReduceMin", ["largest", "one"], ["y"], keepdims=0))
    return Graph(nodes, X, {"y": POOLED}, {"three": np.array([3]), "one": np.array([1])})


def last_fifty() -> Graph:
    """The sum of the last 50 elements, or of all if there are fewer."""
    nodes = [node("Slice", ["x", "begin", "end", "one"], ["some"])]
    nodes.append(node("ReduceSum", ["some", "one"], ["y"], keepdims=0))
    return Graph(nodes, X, {"y": POOLED}, {"begin": np.array([-50]), "end": np.array([2**31]), "one": np.array([1])})


def divided(operator: str = "Min", number: int = 4) -> Graph:
    """The sum of all elements divided by their number, or by another number if that is smaller (or larger)."""
    nodes = [
        node("Shape", ["x"], ["length"], start=1, end=2),
        node(operator, ["length", "number"], ["few"]),
        node("Cast", ["few"], ["by"], to=FLOAT),
        node("ReduceSum", ["x", "one"], ["sum"], keepdims=0),
        node("Div", ["sum", "by"], ["y"]),
    ]
    return Graph(nodes, X, {"y": POOLED}, {"number": np.array([number]), "one": np.array([1])})


def chosen_by_length() -> Graph:
    """The sum of all elements, halved if there are more than 300; the number stands in a node, as PyTorch writes it."""
    nodes = [
        node("Constant", [], ["many"], value=from_array(np.array(300, np.float32))),
        node("Shape", ["x"], ["length"], start=1, end=2),
        node("Cast", ["length"], ["size"], to=FLOAT),
        node("Greater", ["size", "many"], ["long"]),
        node("Where", ["long", "half", "1.0"], ["by"]),
        node("ReduceSum", ["x", "one"], ["sum"], keepdims=0),
        node("Mul", ["sum", "by"], ["y"]),
    ]
    return Graph(nodes, X, {"y": POOLED}, {"half": np.float32(0.5), "1.0": np.float32(1), "one": np.array([1])})


def one_longer() -> Graph:
    """An output that begins with an extra element."""
    nodes = [node("ReduceSum", ["x", "one"], ["first"], keepdims=1), node("Concat", ["first", "x"], ["y"], axis=1)]
    return graph(nodes, X, (FLOAT, ["N", "longer", WIDTH]))


def reversed_steps() -> Graph:
    nodes = [node("Slice", ["x", "last", "least", "one", "last"], ["y"])]
    return Graph(nodes, X, {"y": TOKENS}, {**_CONSTANTS, "least": np.array([-(2**31)])})


def two_lengths() -> Graph:
    """Each element of one sequence attends to all of another, by its mask."""
    inputs: dict[str, Value] = {
        "x": (FLOAT, ["N", "T", WIDTH]),
        "z": (FLOAT, ["N", "S", WIDTH]),
        "mask": (INT64, ["N", "S"]),
    }
    nodes = [node("Cast", ["mask"], ["m"], to=FLOAT), node("Sub", ["1.0", "m"], ["absent"])]
    nodes += [node("Mul", ["absent", "most"], ["b"]), node("Unsqueeze", ["b", "one"], ["bias"])]
    nodes += [node("Transpose", ["z"], ["k"], perm=[0, 2, 1]), node("MatMul", ["x", "k"], ["s"])]
    nodes += [
        node("Add", ["s", "bias"], ["a"]),
        node("Softmax", ["a"], ["p"], axis=-1),
        node("MatMul", ["p", "z"], ["y"]),
    ]
    return graph(nodes, inputs, TOKENS)


PADDED: Mapping[str, Graph] = {
    "attention with a mask": attention(),
    "attention with an inverted mask": attention(inverted=True),
    "a masked mean": masked_mean(),
    "each element by itself": graph([node("Tanh", ["x"], ["y"])], X, TOKENS),
    "a recurrent layer's steps": recurrent(),
    "a sum": reduced("ReduceSum"),
    "a maximum": reduced("ReduceMax"),
    "a minimum": reduced("ReduceMin"),
    "two lengths": two_lengths(),
    "a softmax over the length": graph([node("Softmax", ["x"], ["y"], axis=1)], X, TOKENS),
}
"""Graphs that can be padded."""

NOT_PADDED: Mapping[str, Graph] = {
    "a mean": reduced("ReduceMean"),
    "the last element": reduced("last"),
    "a recurrent layer's end": recurrent(last=True),
    "a reversed recurrent layer": recurrent("reverse"),
    "a bidirectional recurrent layer": recurrent("bidirectional"),
    "two convolutions": convolution(),
    "an output with one more element": one_longer(),
    "the first few elements": first_few(),
    "the third largest element": third_largest(),
    "the sum divided by at most four": divided(),
    "the sum divided by at least a hundred": divided("Max", 100),
    "the last 50 elements": last_fifty(),
    "half of the sum of more than 300 elements": chosen_by_length(),
    "the elements in reverse": reversed_steps(),
    "the sum divided by the last element": graph(
        [*reduced("last").nodes[:1], node("ReduceSum", ["x", "one"], ["sum"]), node("Div", ["sum", "end"], ["y"])],
        X,
        TOKENS,
    ),
}
"""Graphs whose answers change, whatever they are padded with."""
