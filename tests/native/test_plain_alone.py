"""Requests that run alone, and requests that name outputs, answered by the native transport itself."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import grpc
import numpy as np
import pytest
from onnx import TensorProto as Onnx
from onnx import helper
from onnx.numpy_helper import from_array

from headrace_batching import Options
from headrace_batching.task import Array
from headrace_protos import PredictRequest, PredictResponse
from headrace_protos.tensor import to_array
from tests.conftest import Run, Stop
from tests.support import feature_models, models
from tests.support.calls import ANSWER_WITHIN, PREDICT, SEEN, Caller, Refusal, floats, predict_request, refusal_of
from tests.support.examples import classify_request, example, examples, labelled, multi_request, regress_request, task
from tests.support.running import LoopThread, RunningServer

pytest.importorskip("headrace_native")
X = floats([1, 2, 3, 4])


@pytest.fixture(scope="module")
def transport() -> str:
    return "native"


@pytest.fixture
def blocked(loop_thread: LoopThread) -> Iterator[None]:
    """Blocks the event loop of the servers, so that no Python handler runs."""
    go_on = Event()
    loop_thread.loop.call_soon_threadsafe(go_on.wait)
    yield
    go_on.set()


def same(caller: Caller, request: PredictRequest) -> PredictResponse | Refusal:
    """The answer to a request, which must be the same if the request has to go through the service."""
    data = request.SerializeToString()
    plain, seen = (caller.send_bytes(PREDICT, data + more) for more in (b"", SEEN))
    if isinstance(plain, Refusal) or isinstance(seen, Refusal):
        assert plain == seen
        assert isinstance(plain, Refusal)
        return plain
    assert PredictResponse.FromString(plain) == PredictResponse.FromString(seen)
    assert len(plain) == len(seen)
    return PredictResponse.FromString(plain)


def outputs(answer: PredictResponse | Refusal) -> Mapping[str, Array]:
    assert isinstance(answer, PredictResponse)
    return {alias: to_array(proto) for alias, proto in answer.outputs.items()}


def is_plain(server: RunningServer, request: PredictRequest) -> bool:
    """Whether a request is answered while no handler runs."""
    send: grpc.UnaryUnaryMultiCallable[bytes, bytes] = server.caller.channel.unary_unary(PREDICT)
    try:
        send(request.SerializeToString(), timeout=ANSWER_WITHIN)
    except grpc.RpcError:
        return False
    return True


def mixed(folder: Path) -> Path:
    """`doubled` = `x` + `x`, `same` = `x`, and `greatest` [N, 1]."""
    nodes = [
        helper.make_node("Add", ["x", "x"], ["doubled"]),
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("ReduceMax", ["x", "one"], ["greatest"], keepdims=1),
    ]
    given = [models._value(name, Onnx.FLOAT, ["N", 4]) for name in ("doubled", "same")]
    given.append(models._value("greatest", Onnx.FLOAT, ["N", 1]))
    one = from_array(np.array([1], np.int64), "one")
    return models._write(folder, nodes, [models._value("x", Onnx.FLOAT, ["N", 4])], given, one)


FILTERS = {
    "one": ["same"],
    "another": ["doubled"],
    "two": ["greatest", "same"],
    "all": ["same", "greatest", "doubled"],
    "one twice": ["same", "same"],
    "an unknown one": ["same", "another"],
    "an empty name": [""],
    "many": ["same"] * 70,
}


@pytest.fixture(scope="module", params=["batched", "alone"])
def filtering(request: pytest.FixtureRequest, running: Run) -> RunningServer:
    return running(mixed, enable_batching=request.param == "batched")


@pytest.mark.parametrize("name", FILTERS)
def test_outputs_that_are_named(filtering: RunningServer, name: str) -> None:
    request = predict_request({"x": X})
    request.output_filter.extend(FILTERS[name])
    answer = same(filtering.caller, request)
    if not isinstance(answer, Refusal):
        assert set(answer.outputs) == set(FILTERS[name])


@pytest.mark.usefixtures("blocked")
def test_outputs_that_are_named_need_no_event_loop(filtering: RunningServer) -> None:
    request = predict_request({"x": X})
    request.output_filter.append("same")
    assert is_plain(filtering, request)


def test_requests_for_the_same_outputs_share_a_batch(running: Run, served: Stop) -> None:
    server = running(mixed, batching=Options(num_batch_threads=1, batch_timeout_micros=50_000))
    data = []
    for number in range(60):
        request = predict_request({"x": np.full((1, 4), number, np.float32)})
        request.output_filter.extend([["same"], ["doubled"], []][number % 3])
        data.append(request.SerializeToString())
    send: grpc.UnaryUnaryMultiCallable[bytes, bytes] = server.caller.channel.unary_unary(PREDICT)
    futures = [send.future(each, timeout=ANSWER_WITHIN) for each in data]
    for number, future in enumerate(futures):
        got = outputs(PredictResponse.FromString(future.result()))
        assert sorted(got) == [["same"], ["doubled"], ["doubled", "greatest", "same"]][number % 3]
        assert all(array.ravel()[0] in (number, 2 * number) for array in got.values())
    counts = served(server)
    assert counts.requests == 60
    assert 3 <= counts.batches < 45


ALONE: dict[str, tuple[models.Dims, list[tuple[int, ...]]]] = {
    "a vector": ((4,), [(4,), (5,), (1, 4), ()]),
    "a matrix of fixed size": ((2, 4), [(2, 4), (1, 4), (8,)]),
    "sizes that vary": ((None, 4), [(1, 4), (3, 4), (0, 4), (3, 5)]),
    "no dimensions": ((), [(), (1,)]),
}


@pytest.mark.parametrize("name", ALONE)
def test_a_model_without_a_batch_axis(running: Run, name: str) -> None:
    dims, shapes = ALONE[name]
    server = running(partial(models.identity, dtype=Onnx.FLOAT, dims=dims), enable_batching=False)
    for shape in shapes:
        for as_content in (False, True):
            x = np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)
            same(server.caller, predict_request({"x": x}, as_content=as_content))


@pytest.mark.parametrize("batching", [False, True])
def test_a_vector_needs_no_event_loop(running: Run, batching: bool, loop_thread: LoopThread) -> None:
    server = running(partial(models.identity, dtype=Onnx.FLOAT, dims=(4,)), enable_batching=batching)
    request = predict_request({"x": np.arange(4, dtype=np.float32)})
    assert outputs(same(server.caller, request))["y"].tolist() == [0, 1, 2, 3]
    go_on = Event()
    loop_thread.loop.call_soon_threadsafe(go_on.wait)
    try:
        assert is_plain(server, request)
    finally:
        go_on.set()


def test_many_callers_of_a_model_without_a_batch_axis(running: Run, served: Stop) -> None:
    server = running(partial(models.identity, dtype=Onnx.FLOAT, dims=(4,)), batching=Options(num_batch_threads=2))
    send: grpc.UnaryUnaryMultiCallable[bytes, bytes] = server.caller.channel.unary_unary(PREDICT)
    data = [predict_request({"x": np.full(4, number, np.float32)}).SerializeToString() for number in range(100)]
    for number, future in enumerate([send.future(each, timeout=ANSWER_WITHIN) for each in data]):
        assert outputs(PredictResponse.FromString(future.result()))["y"].tolist() == [number] * 4
    assert served(server).batches == 100


def test_requests_that_run_one_by_one_fail_alone(running: Run) -> None:
    """A request that fails or goes through Python does not change the answers to the requests that follow it."""
    server = running(models.lookup, enable_batching=False)
    send: grpc.UnaryUnaryMultiCallable[bytes, bytes] = server.caller.channel.unary_unary(PREDICT)

    def data(number: int) -> bytes:
        index = 99 if number % 5 == 0 else number % 10
        more = SEEN if number % 7 == 0 else b""
        return predict_request({"index": np.array([index], np.int64)}).SerializeToString() + more

    futures = [send.future(data(number), timeout=ANSWER_WITHIN) for number in range(300)]
    for number, future in enumerate(futures):
        if number % 5 == 0:
            error = future.exception()
            assert error is not None
            assert "indices element out of data bounds, idx=99" in refusal_of(error).text
        else:
            assert outputs(PredictResponse.FromString(future.result()))["y"].tolist() == [number % 10 * 10]


ONE = example(age=[1], weights=[0.5, 1.5])
SIGNATURES = {"regress": {"method": "regress", "outputs": {"outputs": "price"}}}


def test_examples_without_batching(running: Run) -> None:
    server = running(partial(feature_models.tariff, signatures=SIGNATURES), enable_batching=False)
    tasks = [task("tensorflow/serving/classify"), task("tensorflow/serving/regress", signature_name="regress")]
    requests: list[Any] = [
        classify_request(ONE),
        classify_request(ONE, ONE, example(age=[7], weights=[0.0, 1.0])),
        regress_request(ONE, ONE, signature_name="regress"),
        classify_request(ONE, example(age=[1])),
        multi_request(*tasks, input=examples(ONE, ONE)),
    ]
    names = {"ClassificationRequest": "Classify", "RegressionRequest": "Regress"}
    for request in requests:
        path = f"/tensorflow.serving.PredictionService/{names.get(request.DESCRIPTOR.name, 'MultiInference')}"
        plain, seen = (server.caller.send_bytes(path, request.SerializeToString() + more) for more in (b"", SEEN))
        assert plain == seen
    assert labelled(server.caller.call(requests[1]))[2] == [("", 7), ("", 8)]
