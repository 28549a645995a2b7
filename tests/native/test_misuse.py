"""Python code that misuses the native batch gets an exception, not a deadlock or a panic."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest

from headrace_batching import Options, Target
from headrace_batching.contract import TaskBatch
from headrace_server.transports.grpc.endpoint import CallerBounds
from tests.support.calls import MODEL, PREDICT, Caller, arrays, floats, predict_request, refusal_of
from tests.support.running import eventually

native = pytest.importorskip("headrace_native")
native_impl = pytest.importorskip("headrace_server.transports.grpc.native_impl")

FLOAT = 1


class Liar(np.ndarray):
    """Claims to have one row."""

    shape = property(lambda _: (1, 1))


class LiarOfTwo(np.ndarray):
    """Claims to have two rows."""

    shape = property(lambda _: (2, 1))


def failed(error: Exception, *_: Any) -> tuple[int, str]:
    return 13, str(error)


@pytest.fixture
def queue() -> Any:
    return native.Queue()


@pytest.fixture
def lane(queue: Any) -> Any:
    return queue.lane(Options(max_batch_size=4), print)


@pytest.fixture
def caller(queue: Any, lane: Any) -> Iterator[Caller]:
    """The queue of a server from which the test takes the Predicts."""
    given: dict[str, Any] = {
        "model": MODEL,
        "version": 1,
        "signature": "serving_default",
        "inputs": INPUTS,
        "batched": True,
        "max_rows": 4,
        "larger_alone": False,
        "max_send": 1 << 30,
        "as_content": False,
        "full": (14, "{}"),
        "bounds": [1.0],
        "answered": [].append,
        "failed": failed,
        "rest": None,
        "outputs": ["y"],
        "infer": None,
        "examples": None,
        "bound": None,
        "padding": None,
    }
    routes = native.Routes("serving_default")
    routes.publish(MODEL, 1, {1: {"serving_default": native.Route(lane, given)}})
    others = ("infer", "classify", "regress", "multi_inference", "classify_name", "regress_name")
    plain: dict[str, Any] = {
        "predict": PREDICT,
        **dict.fromkeys(others, ""),
        "low_priority": ("headrace-priority", "low"),
    }
    plain |= {"regions": native.Regions(), "verdicts": None}
    server = native.Server(
        [(PREDICT, False)], {**native_impl.limits([]), **native_impl._bounds(CallerBounds())}, queue, routes, plain
    )
    port = server.listen("127.0.0.1:0")
    server.start(1)
    caller = Caller(port)
    yield caller
    caller.close()
    server.stop(0)
    server.join()


INPUTS = [("x", FLOAT, [4])]


@pytest.fixture
def call(caller: Caller) -> Any:
    return caller.begin(predict_request({"x": floats([1, 2, 3, 4])}))


@pytest.fixture
def batch(call: Any, queue: Any) -> TaskBatch:
    del call
    formed = queue.take()
    assert formed is not None
    return formed.batch  # type: ignore[no-any-return]


def test_an_output_that_lies_about_its_rows(call: Any, batch: TaskBatch, queue: Any) -> None:
    """A task that runs alone may get an output of any shape. It gets the shape of the array's real memory."""
    liar: npt.NDArray[Any] = np.empty((0, 1), np.float32).view(Liar)
    answers: list[Any] = batch.split({"y": liar}, queue.lock)
    for answer in answers:
        answer.deliver(answers)
    assert arrays(call.result())["y"].shape == (0, 1)


def test_an_output_that_lies_about_the_rows_of_two(caller: Caller, queue: Any, lane: Any) -> None:
    calls = [caller.begin(predict_request({"x": floats([1, 2, 3, 4])})) for _ in range(2)]
    eventually(lambda: lane.rows == 2)
    batch = queue.take().batch
    liar: npt.NDArray[Any] = np.empty((0, 1), np.float32).view(LiarOfTwo)
    with pytest.raises(TypeError, match=r"output y has Some\(0\) rows, expected Some\(2\)"):
        batch.split({"y": liar}, queue.lock)
    batch.fail(ValueError("it lied"), queue.lock)
    assert [refusal_of(call.exception()).text for call in calls] == ["it lied"] * 2


def test_a_join_within_a_join(batch: TaskBatch) -> None:
    inner: list[type[BaseException]] = []

    def empty(shape: Any, dtype: Any) -> npt.NDArray[Any]:
        with pytest.raises(TypeError, match="split already") as raised:
            batch.join(empty)
        inner.append(raised.type)
        return np.empty(shape, dtype)

    assert batch.join(empty)["x"].tolist() == [[1, 2, 3, 4]]
    assert inner == [TypeError]


@pytest.mark.parametrize("made", [np.empty((1, 3), np.float32), np.empty((0, 4), np.float32), np.empty((1, 4), int)])
def test_an_array_to_join_in_of_another_kind(batch: TaskBatch, made: npt.NDArray[Any]) -> None:
    with pytest.raises(BufferError, match=r"the input.s dtype and the batch.s shape"):
        batch.join(lambda *_: made)


def test_a_batch_that_is_dropped(call: Any, queue: Any) -> None:
    formed = queue.take()
    del formed
    assert refusal_of(call.exception()).code in {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN}


def lane_options(**values: Any) -> SimpleNamespace:
    usual = {"execution_limit": 1, "enqueued_limit": 1, "timeout": 0.0, "enable_large_batch_splitting": False}
    settings = {"max_running_batches": None, "num_batch_threads": 1, "latency_objective": "", "allowed_batch_sizes": ()}
    return SimpleNamespace(**{**usual, **settings, **values})


@pytest.mark.parametrize("target", [Target(0.0, 0), Target(float("nan"), 1), Target(0.0, 1, start_within=-1.0)])
def test_an_invalid_target(queue: Any, target: Target) -> None:
    lane = queue.lane(lane_options(), print)
    with pytest.raises(ValueError, match="is not a target"):
        lane.steer(target)


def test_a_lane_of_batches_without_rows(queue: Any) -> None:
    with pytest.raises(ValueError, match="a batch must be allowed at least one row"):
        queue.lane(lane_options(execution_limit=0), print)


def test_a_lane_that_may_run_no_batch(queue: Any) -> None:
    with pytest.raises(ValueError, match="a lane must be allowed at least one running batch"):
        queue.lane(lane_options(max_running_batches=0), print)
