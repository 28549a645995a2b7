"""ONNX inputs with defaults: sent or left out, in the same batch, over gRPC and REST; compared with a bare session."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from grpc import StatusCode
from onnx import TensorProto
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from onnx.numpy_helper import from_array

from headrace_batching import Options
from headrace_batching.task import Array, Arrays
from tests.conftest import Rest, Run
from tests.support.calls import ANSWER_WITHIN, arrays, floats, predict_request
from tests.support.models import FILE

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
X = floats([1, 2, 3, 4])


def save(folder: Path, nodes: list[onnx.NodeProto], defaults: dict[str, Array], *inputs: onnx.ValueInfoProto) -> Path:
    """Writes a model of `y` float [N, 4] from `x` float [N, 4] and inputs that have defaults."""
    x, y = (make_tensor_value_info(name, FLOAT, ["N", 4]) for name in "xy")
    graph = make_graph(nodes, "g", [x, *inputs], [y], [from_array(array, name) for name, array in defaults.items()])
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save_model(make_model(graph, opset_imports=[make_opsetid("", 18)], ir_version=8), str(folder / FILE))
    return folder / FILE


def scaled(folder: Path) -> Path:
    """`y` = `x` times `k` float [1], which is 2."""
    nodes = [make_node("Mul", ["x", "k"], ["y"])]
    return save(folder, nodes, {"k": np.array([2], np.float32)}, make_tensor_value_info("k", FLOAT, [1]))


def shifted(folder: Path) -> Path:
    """`y` = `x` plus `by` float [], which is 1, in a model whose `factor` float [4], all 3, may be sent, too."""
    nodes = [make_node("Mul", ["x", "factor"], ["product"]), make_node("Add", ["product", "by"], ["y"])]
    defaults = {"by": np.array(1, np.float32), "factor": np.full(4, 3, np.float32)}
    values = [make_tensor_value_info("by", FLOAT, []), make_tensor_value_info("factor", FLOAT, [4])]
    return save(folder, nodes, defaults, *values)


def all_weights(folder: Path) -> Path:
    """A model as older exporters write it: every weight is also an input. `y` = `x` times `w` float [4, 4]."""
    nodes = [make_node("MatMul", ["x", "w"], ["y"])]
    return save(folder, nodes, {"w": np.eye(4, dtype=np.float32)}, make_tensor_value_info("w", FLOAT, [4, 4]))


CASES: list[tuple[Callable[[Path], Path], Arrays]] = [
    (scaled, {"k": np.array([5], np.float32)}),
    (shifted, {"by": np.array(7, np.float32)}),
    (shifted, {"by": np.array(7, np.float32), "factor": np.arange(4, dtype=np.float32)}),
    (all_weights, {"w": np.full((4, 4), 2, np.float32)}),
]


def bare(file: Path, inputs: Arrays) -> Array:
    return np.asarray(ort.InferenceSession(str(file)).run(["y"], inputs)[0])


@pytest.mark.parametrize(("make", "sent"), CASES)
def test_optional_inputs_may_be_sent_or_left_out(
    running: Run, tmp_path: Path, make: Callable[[Path], Path], sent: Arrays
) -> None:
    file = make(tmp_path)
    caller = running(make).caller
    for inputs in ({"x": X}, {"x": X, **sent}, {"x": X}):
        answer = arrays(caller.call(predict_request(inputs)))["y"]
        assert answer.tolist() == bare(file, inputs).tolist()


@pytest.mark.parametrize(("make", "sent"), CASES)
def test_optional_inputs_over_rest(resting: Rest, tmp_path: Path, make: Callable[[Path], Path], sent: Arrays) -> None:
    file = make(tmp_path)
    caller = resting(make)
    for inputs in ({"x": X}, {"x": X, **sent}):
        body = {"inputs": {alias: array.tolist() for alias, array in inputs.items()}}
        assert caller.predict(body)["outputs"] == bare(file, inputs).tolist()


def test_a_request_that_sends_one_runs_alone(running: Run, tmp_path: Path) -> None:
    file = scaled(tmp_path)
    caller = running(scaled, batching=Options(max_batch_size=64, batch_timeout_micros=20_000)).caller
    inputs = [{"x": X * n, **({"k": np.array([n], np.float32)} if n % 3 == 0 else {})} for n in range(1, 40)]
    waiting = [caller.begin(predict_request(each)) for each in inputs]
    for each, answer in zip(inputs, waiting, strict=True):
        assert arrays(answer.result(timeout=ANSWER_WITHIN))["y"].tolist() == bare(file, each).tolist()


def test_other_requests_are_batched_as_usual(running: Run) -> None:
    server = running(all_weights, batching=Options(max_batch_size=8, allowed_batch_sizes=(8,)))
    server.caller.predict({"x": X})
    (servable,) = server._server._models.manager._served["model"].ready.values()
    assert servable.signatures["serving_default"].batched


@pytest.mark.parametrize(
    ("inputs", "code"),
    [
        ({"k": np.array([5], np.float32)}, StatusCode.INVALID_ARGUMENT),
        ({"x": X, "k": np.array([5], np.int64)}, StatusCode.INVALID_ARGUMENT),
        ({"x": X, "k": np.array([5, 6], np.float32)}, StatusCode.INVALID_ARGUMENT),
        ({"x": X, "other": np.array([5], np.float32)}, StatusCode.INVALID_ARGUMENT),
    ],
)
def test_inputs_that_do_not_fit_are_refused(running: Run, inputs: Arrays, code: StatusCode) -> None:
    assert running(scaled).caller.refusal(predict_request(inputs)).code is code
