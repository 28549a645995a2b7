"""Shapes that a signature does not declare: the model's operators judge them, as TensorFlow Serving's do."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from grpc import StatusCode
from onnx.helper import make_node
from onnx.numpy_helper import from_array

from headrace_batching import Options
from tests import models
from tests.calls import Caller, floats, predict_request
from tests.conftest import Run

# One thread, and company is waited for: whatever may share a batch does.
TOGETHER = Options(num_batch_threads=1, batch_timeout_micros=20_000)


def half_plus_two(folder: Path) -> Path:
    """`y` = `x` / 2 + 2, element by element, both float and declared as [N, 1]."""
    constants = [from_array(np.array(number, np.float32), name) for name, number in (("h", 0.5), ("c", 2))]
    nodes = [make_node("Mul", ["x", "h"], ["half"]), make_node("Add", ["half", "c"], ["y"])]
    value = models._value
    return models._write(
        folder, nodes, [value("x", models.FLOAT, ["N", 1])], [value("y", models.FLOAT, ["N", 1])], *constants
    )


def softmax(folder: Path) -> Path:
    """`y` = the softmax of `x` float [N, 2] over its last axis: rows must not be joined along that one."""
    node = make_node("Softmax", ["x"], ["y"], axis=-1)
    value = models._value
    return models._write(folder, [node], [value("x", models.FLOAT, ["N", 2])], [value("y", models.FLOAT, ["N", 2])])


@pytest.fixture(scope="module")
def half(running: Run) -> Caller:
    return running(half_plus_two, batching=TOGETHER).caller


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 2), (1, 2), (2, 1, 3), (0,), (3, 0)])
def test_operators_that_take_any_shape(half: Caller, shape: tuple[int, ...]) -> None:
    x = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    y = half.predict({"x": x})["y"]
    assert (y.shape, y.tolist()) == (x.shape, (x / 2 + 2).tolist())


@pytest.mark.parametrize("make", [models.external_data, models.linear], ids=lambda make: str(make.__name__))
def test_a_vector_for_a_matrix(running: Run, make: Callable[..., Path]) -> None:
    caller = running(lambda folder: make(folder, columns=512)).caller
    assert caller.predict({"x": np.ones(512, np.float32)})["y"].tolist() == [512]


def test_a_model_with_inner_graphs(running: Run) -> None:
    caller = running(lambda folder: models.slow(folder, steps=3)).caller
    assert caller.predict({"x": np.zeros((2, 3, 2), np.float32)})["y"].tolist() == np.full((2, 3, 2), 3.0).tolist()


def test_what_the_operators_refuse(running: Run) -> None:
    refusal = running(models.linear).caller.refusal(predict_request({"x": floats([1, 2, 3])}))
    assert refusal.code is StatusCode.INVALID_ARGUMENT
    assert refusal.text.startswith(
        "Got invalid dimensions for input: x for the following indices index: 1 Got: 3 Expected: 4, "
        "and the model does not take it: "
    )
    assert refusal.text.endswith("MatMul dimension mismatch")


def test_wrong_dtypes_are_refused_in_any_shape(half: Caller) -> None:
    refusal = half.refusal(predict_request({"x": np.zeros(3)}))
    assert refusal == (StatusCode.INVALID_ARGUMENT, "Expects arg[0] to be float but double is provided")


def test_requests_of_other_shapes_run_alone_beside_those_that_fit(running: Run) -> None:
    """Joined, two vectors would be one vector, whose softmax is another."""
    caller = running(softmax, batching=TOGETHER).caller
    shapes: list[tuple[int, ...]] = [(1, 2), (2,), (2, 2), (2,), (4,), (1, 2), (3,)]
    sent = [
        np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + number % 5
        for number, shape in enumerate(shapes * 12)
    ]
    futures = [caller.begin(predict_request({"x": x})) for x in sent]
    for x, future in zip(sent, futures, strict=True):
        np.testing.assert_allclose(array_of(future), softmax_of(x), rtol=1e-5)


def array_of(future: Any) -> npt.NDArray[Any]:
    tensor = future.result().outputs["y"]
    return np.array(tensor.float_val).reshape([dim.size for dim in tensor.tensor_shape.dim])


def softmax_of(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def test_a_model_over_the_limit_takes_its_declared_shapes_alone(running: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "headrace_server")
    caller = running(half_plus_two, relaxed_shapes_limit_mb=0).caller
    refusal = (StatusCode.INVALID_ARGUMENT, "Invalid rank for input: x Got: 1 Expected: 2")
    assert caller.refusal(predict_request({"x": np.ones(3, np.float32)})) == refusal
    assert caller.refusal(predict_request({"x": np.ones(3, np.float32)})) == refusal
    assert caller.predict({"x": floats([2])})["y"].tolist() == [[3]]
    assert [text for text in caplog.messages if "is not loaded once more" in text] == caplog.messages[-1:]


def test_files_that_have_changed_are_not_mixed_with_what_is_served(running: Run) -> None:
    server = running(half_plus_two)
    os.utime(models_file(server.base_path), (0, 0))
    refusal = (StatusCode.INVALID_ARGUMENT, "Invalid rank for input: x Got: 1 Expected: 2")
    assert server.caller.refusal(predict_request({"x": np.ones(3, np.float32)})) == refusal


def models_file(base_path: Path) -> Path:
    return base_path / "1" / models.FILE
