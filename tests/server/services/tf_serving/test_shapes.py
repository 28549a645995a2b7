"""Shapes that a signature does not declare, and requests without rows: which are answered, and which are refused."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from grpc import StatusCode
from onnx.helper import make_node

from headrace_batching import Options
from tests.conftest import Run, Serve, Stop
from tests.support import models
from tests.support.calls import Caller, Refusal, floats, predict_request
from tests.support.graphs import INT64, rowwise
from tests.support.models import believed

# With one thread that waits for more requests, everything that may share a batch does.
TOGETHER = Options(num_batch_threads=1, batch_timeout_micros=20_000)

Make = Callable[[Path], Path]


def refused(text: str) -> Refusal:
    return Refusal(StatusCode.INVALID_ARGUMENT, text)


def refusal(caller: Caller, *shape: int) -> Refusal:
    return caller.refusal(predict_request({"x": np.ones(shape, np.float32)}))


class TestWithoutTheLastDimension:
    """TF Serving's clients send `[3]` where the signature says `[-1, 1]`, which TensorFlow's operators accept."""

    @pytest.mark.parametrize("values", [[4], [1, 2, 3], []])
    def test_a_vector_for_a_column(self, running: Run, values: list[float]) -> None:
        caller = running(models.half_plus_two).caller
        y = caller.predict({"x": np.array(values, np.float32)})["y"]
        assert (y.shape, y.tolist()) == ((len(values),), [x / 2 + 2 for x in values])

    def test_such_requests_share_batches(self, running: Run, served: Stop) -> None:
        server = running(models.half_plus_two, batching=TOGETHER)
        sent = [floats([number]) if number % 2 else np.array([number], np.float32) for number in range(20)]
        futures = [server.caller.begin(predict_request({"x": x})) for x in sent]
        for x, future in zip(sent, futures, strict=True):
            assert np.array_equal(array_of(future), x / 2 + 2)
        assert served(server).batches < 20

    def test_without_batching(self, running: Run) -> None:
        caller = running(models.half_plus_two, enable_batching=False).caller
        assert caller.predict({"x": np.array([2, 4], np.float32)})["y"].tolist() == [3, 4]

    def test_all_inputs_must_lack_the_dimension(self, running: Run) -> None:
        """TensorFlow would broadcast `[3]` against `[3, 1]` to `[3, 3]`."""
        caller = running(partial(models.two_inputs, left=("N", 1), right=("N", 1))).caller
        both = {"a": np.array([1, 2], np.float32), "b": np.array([3, 4], np.float32)}
        assert caller.predict(both)["sum"].tolist() == [4, 6]
        one = {"a": np.array([1, 2], np.float32), "b": floats([3], [4])}
        assert caller.refusal(predict_request(one)) == refused("Invalid rank for input: a Got: 1 Expected: 2")

    def test_all_outputs_must_have_the_dimension(self, running: Run) -> None:
        """TensorFlow's MatMul refuses a vector."""
        caller = running(partial(models.repeated, columns=3)).caller
        assert refusal(caller, 2) == refused("Invalid rank for input: x Got: 1 Expected: 2")


class TestWithAnExtraLastDimension:
    """TF Serving's clients send `[3, 1]` where the signature says `[-1]`, which TensorFlow's operators also accept."""

    @pytest.mark.parametrize("batching", [True, False])
    @pytest.mark.parametrize("values", [[4.0], [1.0, 2.0, 3.0]])
    def test_a_column_for_a_vector(self, running: Run, values: list[float], batching: bool) -> None:
        caller = running(rowwise(make_node("Sqrt", ["x"], ["y"]), inner=()).write, enable_batching=batching).caller
        y = caller.predict({"x": np.array([values], np.float32).T})["y"]
        np.testing.assert_allclose(y, np.sqrt([values]).T, rtol=1e-6)

    def test_such_requests_share_batches(self, running: Run, served: Stop) -> None:
        server = running(rowwise(make_node("Sqrt", ["x"], ["y"]), inner=()).write, batching=TOGETHER)
        sent = [np.full((1, 1) if number % 2 else (1,), number, np.float32) for number in range(20)]
        futures = [server.caller.begin(predict_request({"x": x})) for x in sent]
        for x, future in zip(sent, futures, strict=True):
            np.testing.assert_allclose(array_of(future), np.sqrt(x), rtol=1e-6)
        assert served(server).batches < 20

    def test_requests_for_an_undecided_model_run_alone(self, running: Run) -> None:
        """The output never changes, so the trial cannot decide."""
        same = rowwise(make_node("Gather", ["table", "x"], ["y"]), inner=(), table=np.full(9, 7, np.float32))
        caller = running(replace(same, inputs={"x": (INT64, ("N",))}).write).caller
        assert caller.predict({"x": np.array([[3], [4]])})["y"].tolist() == [[7], [7]]

    @pytest.mark.parametrize("shape", [(2, 2), (2, 1, 1), (2, 0), ()])
    def test_no_other_dimension_is_taken_away(self, running: Run, shape: tuple[int, ...]) -> None:
        caller = running(rowwise(make_node("Sqrt", ["x"], ["y"]), inner=()).write).caller
        assert refusal(caller, *shape).code is StatusCode.INVALID_ARGUMENT

    def test_all_outputs_must_have_one_value_a_row(self, running: Run) -> None:
        pair = rowwise(make_node("Unsqueeze", ["x", "last"], ["y"]), inner=(), out=("N", 1), last=np.array([1]))
        assert refusal(running(pair.write).caller, 2, 1) == refused("Invalid rank for input: x Got: 2 Expected: 1")


@pytest.mark.parametrize("shape", [(), (2, 2), (2, 1, 3), (3, 0), (1, 1, 1)])
def test_no_other_shape_reaches_the_runtime(running: Run, shape: tuple[int, ...]) -> None:
    caller = running(models.half_plus_two).caller
    assert refusal(caller, *shape).code is StatusCode.INVALID_ARGUMENT
    assert caller.predict({"x": floats([2])})["y"].tolist() == [[3]]


def test_a_vector_for_a_matrix(running: Run) -> None:
    caller = running(partial(models.linear, columns=512)).caller
    assert refusal(caller, 512) == refused("Invalid rank for input: x Got: 1 Expected: 2")


def test_a_scalar_is_a_declared_shape(running: Run) -> None:
    caller = running(models.doubled_scalar).caller
    assert caller.predict({"x": np.array(2, np.float32)})["y"].tolist() == 4
    assert refusal(caller, 2) == refused("Invalid rank for input: x Got: 1 Expected: 0")


def test_an_undeclared_rank_accepts_any(running: Run) -> None:
    caller = running(partial(models.doubled_scalar, ranked=False)).caller
    assert caller.predict({"x": np.ones((2, 1), np.float32)})["y"].tolist() == [[2], [2]]


def test_wrong_dtypes_are_refused_in_any_shape(running: Run) -> None:
    found = running(models.half_plus_two).caller.refusal(predict_request({"x": np.zeros(3)}))
    assert found == refused("Expects arg[0] to be float but double is provided")


RECURRENT: dict[str, Make] = {
    "LSTM": models.recurrent,
    "GRU": partial(models.recurrent, operator="GRU", gates=3),
    "RNN": partial(models.recurrent, operator="RNN", gates=1),
}


class TestWithoutRows:
    """ONNX Runtime crashes on some of these, so each server is a process of its own."""

    @pytest.mark.parametrize("operator", RECURRENT)
    def test_recurrent_operators(self, serving: Serve, tmp_path: Path, operator: str) -> None:
        RECURRENT[operator](tmp_path / "1")
        server = serving(tmp_path)
        caller = server.started()
        one = caller.predict({"x": np.ones((1, 2, 3), np.float32)})["y"]
        for _ in range(2):
            y = caller.predict({"x": np.zeros((0, 2, 3), np.float32)})["y"]
            assert (y.shape, y.dtype) == ((0, *one.shape[1:]), one.dtype)
        where = "Got invalid dimensions for input: x for the following indices index: 1 Got: 0 Expected: at least 1"
        assert refusal(caller, 2, 0, 3) == refused(where)
        assert refusal(caller, 0, 0, 3) == refused(where)
        assert np.array_equal(caller.predict({"x": np.ones((1, 2, 3), np.float32)})["y"], one)
        assert server.process.poll() is None

    @pytest.mark.parametrize(
        ("make", "inputs", "shape"),
        [
            (models.running_sum, {"x": np.zeros((0, 3), np.float32)}, (0, 3)),
            (models.convolution, {"x": np.zeros((0, 1, 2, 2), np.float32)}, (0, 1, 2, 2)),
            (
                models.reversed_rows,
                {"x": np.zeros((0, 3), np.float32), "length": np.zeros(0, np.int64)},
                (0, 3),
            ),
            (models.row_sums, {"x": np.zeros((0, 7), np.float32)}, (0,)),
        ],
        ids=lambda value: getattr(value, "__name__", None),
    )
    @pytest.mark.parametrize("batched", [True, False])
    def test_the_answers_shape_is_that_of_a_run_of_one_row(
        self, running: Run, make: Make, inputs: dict[str, Any], shape: tuple[int, ...], batched: bool
    ) -> None:
        y = running(make, enable_batching=batched).caller.predict(inputs)["y"]
        assert y.shape == shape
        assert y.dtype == np.float32

    def test_a_model_that_does_not_run_on_zeros_answers_as_it_declares(self, running: Run) -> None:
        """An index into an empty table: any index fails, so no trial can find out whether the rows are independent."""
        caller = running(believed(partial(models.lookup, size=0))).caller
        y = caller.predict({"index": np.zeros(0, np.int64)})["y"]
        assert y.shape == (0,)
        assert y.dtype == np.float32

    def test_a_row_that_is_too_large_is_not_run(self, running: Run) -> None:
        caller = running(models.row_sums).caller
        text = "the request has no rows, and a row of its shape, which would be run to answer it, has"
        text = f"{text} {4 << 20} bytes: at most {64 << 10} are allowed"
        assert refusal(caller, 0, 1 << 20) == refused(text)

    def test_rows_for_one_input_and_none_for_another(self, running: Run) -> None:
        caller = running(models.two_inputs).caller
        mixed = {"a": np.zeros((0, 2), np.float32), "b": np.zeros((2, 2), np.float32)}
        text = "Batching Run() input tensors must have equal 0th-dimension size"
        assert caller.refusal(predict_request(mixed)) == refused(text)

    def test_a_model_without_a_batch_axis_refuses_requests_without_rows(self, running: Run) -> None:
        caller = running(models.kept).caller
        where = "Got invalid dimensions for input: x for the following indices index: 0 Got: 0 Expected: at least 1"
        assert refusal(caller, 0, 2) == refused(where)


def array_of(future: Any) -> npt.NDArray[Any]:
    tensor = future.result().outputs["y"]
    return np.array(tensor.float_val).reshape([dim.size for dim in tensor.tensor_shape.dim])
