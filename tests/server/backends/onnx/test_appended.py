"""Inputs to which a graph only appends values may have no elements, such as the keys of the tokens before the first."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import onnxruntime as ort
import pytest
from onnx import NodeProto
from onnx.helper import make_node

from headrace_server.backends.onnx.appended import appended_axes
from tests.conftest import Run
from tests.support.calls import arrays, predict_request
from tests.support.graphs import FLOAT, Graph, Value, weights

node = make_node
key = partial(node, "MatMul", ["x", "w"], ["key"])
SIZE = [node("Shape", ["past"], ["sizes"]), node("Gather", ["sizes", "one"], ["count"])]
CONCAT = node("Concat", ["past", "key"], ["y"], axis=1)


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([key(), CONCAT], {"past": 1}),
        ([key(), node("Concat", ["past", "key"], ["y"], axis=-2)], {"past": 1}),
        ([key(), CONCAT, *SIZE, node("Add", ["count", "one"], ["all"])], {"past": 1}),
        ([key(), CONCAT, *SIZE, node("Range", ["count", "all", "one"], ["places"])], {"past": 1}),
        ([key(), CONCAT, *SIZE, node("Range", ["zero", "count", "one"], ["places"])], {}),
        ([key(), CONCAT, *SIZE, node("ConstantOfShape", ["count"], ["zeros"])], {}),
        ([key(), CONCAT, node("Relu", ["past"], ["z"])], {}),
        ([key(), CONCAT, node("Concat", ["past", "key"], ["z"], axis=2)], {}),
        ([node("Concat", ["past", "x"], ["y"], axis=1)], {}),
        ([key(), node("Concat", ["past", "key"], ["y"], axis=0)], {}),
    ],
)
def test_the_axis_is_found(nodes: Sequence[NodeProto], expected: dict[str, int]) -> None:
    assert appended_axes(nodes, [], {"x": 3, "past": 3}) == expected


def test_an_inner_graph_may_do_anything() -> None:
    assert appended_axes([key(), CONCAT], [node("Relu", ["past"], ["z"])], {"x": 3, "past": 3}) == {}


def attention(axis: int, *, placed: bool) -> Graph:
    """The attention of new tokens to themselves and to earlier ones, whose number may be added to the new ones."""
    nodes = [key(), node("Concat", ["past", "key"], ["all"], axis=axis)]
    nodes += [node("Transpose", ["all"], ["t"], perm=[0, 2, 1]), node("MatMul", ["x", "t"], ["s"])]
    nodes += [node("Softmax", ["s"], ["p"], axis=-1), node("MatMul", ["p", "all"], ["a"])]
    nodes += (
        [*SIZE, node("Cast", ["count"], ["number"], to=FLOAT), node("Add", ["a", "number"], ["y"])] if placed else []
    )
    constants = {"w": weights(4, 4), "one": np.array([1])}
    token: Value = (FLOAT, ["N", "T", 4])
    inputs: dict[str, Value] = {"x": token, "past": (FLOAT, ["N", "P", 4])}
    return Graph(nodes, inputs, {"y" if placed else "a": token, "all": (FLOAT, ["N", "P + T", 4])}, constants)


@pytest.mark.parametrize("graph", [attention(1, placed=False), attention(-2, placed=False), attention(1, placed=True)])
def test_the_first_token_has_no_past(running: Run, graph: Graph) -> None:
    random = np.random.default_rng(1)
    sent = [
        {alias: random.standard_normal((1 + i % 3, size, 4)).astype(np.float32) for alias, size in sizes.items()}
        for i, sizes in enumerate([{"x": 2, "past": 0}, {"x": 1, "past": 3}, {"x": 2, "past": 0}] * 4)
    ]
    session = ort.InferenceSession(graph.model().SerializeToString(), providers=["CPUExecutionProvider"])

    server = running(graph.write)
    futures = [server.caller.begin(predict_request(inputs)) for inputs in sent]

    for future, inputs in zip(futures, sent, strict=True):
        answer = arrays(future.result())
        for alias, expected in zip(graph.outputs, session.run(list(graph.outputs), inputs), strict=True):
            np.testing.assert_allclose(answer[alias], expected, rtol=1e-4, atol=1e-5)


def test_the_past_may_have_no_other_size_of_0(running: Run) -> None:
    server = running(attention(1, placed=False).write)
    inputs = {"x": np.ones((1, 0, 4), np.float32), "past": np.ones((1, 0, 4), np.float32)}

    error = server.caller.begin(predict_request(inputs)).exception()

    assert "index: 1 Got: 0 Expected: at least 1" in str(error)
