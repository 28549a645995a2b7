"""Converting an ONNX model's floats to half floats: a strict reader accepts and runs the result."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from headrace_server.backends.tensorrt.half import half

FLOAT = TensorProto.FLOAT


def rows(name: str, kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, ["N", 4])


def model(nodes: Sequence[onnx.NodeProto], *more: onnx.ValueInfoProto) -> onnx.ModelProto:
    """Nodes with an input `x` and an output `y`, [N, 4], and a constant `k` of four ones."""
    graph = helper.make_graph(nodes, "g", [rows("x"), *more], [rows("y")])
    graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "k"))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def with_a_cast() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Greater", ["x", "k"], ["b"]),
        helper.make_node("Cast", ["b"], ["m"], to=FLOAT),
        helper.make_node("Mul", ["x", "m"], ["y"]),
    ]
    return model(nodes)


def with_branches_that_take_from_around_them() -> onnx.ModelProto:
    then = helper.make_graph([helper.make_node("Add", ["x", "a"], ["t"])], "then", [], [rows("t")])
    otherwise = helper.make_graph([helper.make_node("Identity", ["a"], ["e"])], "else", [], [rows("e")])
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("ReduceMax", ["k"], ["one"], keepdims=0),
        helper.make_node("Greater", ["s", "one"], ["c"]),
        helper.make_node("Add", ["x", "k"], ["a"]),
        helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=otherwise),
    ]
    return model(nodes)


@pytest.mark.parametrize("made", [with_a_cast, with_branches_that_take_from_around_them])
def test_nodes_come_after_the_nodes_that_they_need(tmp_path: Path, made: Callable[[], onnx.ModelProto]) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "half").mkdir()
    file = tmp_path / "1" / "model.onnx"
    onnx.save_model(made(), str(file))
    x = np.linspace(-2, 3, 12, dtype=np.float32).reshape(3, 4)

    converted = half(file, tmp_path / "half")

    onnx.checker.check_model(str(converted), full_check=True)
    got, wanted = (
        ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(["y"], {"x": x})[0]
        for path in (converted, file)
    )
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, atol=0.01)
