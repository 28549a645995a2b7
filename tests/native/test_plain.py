"""Predict calls that the native transport answers itself, exactly as the service would answer them."""

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from functools import partial
from http.client import HTTPConnection
from os import cpu_count
from pathlib import Path
from threading import Event, current_thread
from typing import Any

import grpc
import numpy as np
import pytest
from onnx import TensorProto as Onnx

from headrace_batching import Options, bridge
from headrace_batching.task import Arrays
from headrace_protos import DataType, PredictRequest, PredictResponse, TensorProto, TensorShapeProto
from headrace_server.backends.onnx.backend import OnnxBackend
from headrace_server.config.run import MANY_BATCHES
from tests.conftest import Run, Stop
from tests.support import models
from tests.support.calls import (
    ANSWER_WITHIN,
    MODEL,
    PREDICT,
    SEEN,
    Caller,
    Refusal,
    arrays,
    floats,
    predict_request,
    refusal_of,
    status_request,
)
from tests.support.ports import free_port
from tests.support.running import RunningServer, Served, eventually

native = pytest.importorskip("headrace_native")

X = floats([1, 2, 3, 4])
SECOND = 1_000_000  # in microseconds

ELEMENTS = {
    "float": (Onnx.FLOAT, np.float32),
    "double": (Onnx.DOUBLE, np.float64),
    "half": (Onnx.FLOAT16, np.float16),
    "int8": (Onnx.INT8, np.int8),
    "int16": (Onnx.INT16, np.int16),
    "int32": (Onnx.INT32, np.int32),
    "int64": (Onnx.INT64, np.int64),
    "uint8": (Onnx.UINT8, np.uint8),
    "uint16": (Onnx.UINT16, np.uint16),
    "uint32": (Onnx.UINT32, np.uint32),
    "uint64": (Onnx.UINT64, np.uint64),
    "bool": (Onnx.BOOL, np.bool_),
}


@pytest.fixture(scope="module")
def transport() -> str:
    return "native"


@pytest.fixture(scope="module")
def linear(running: Run) -> RunningServer:
    return running(models.linear)


def both_ways(caller: Caller, data: bytes) -> tuple[Any, Any]:
    """The answers to a request, and to the same request with a change that sends it through the service."""
    return answer(caller.send_bytes(PREDICT, data)), answer(caller.send_bytes(PREDICT, data + SEEN))


def answer(data: bytes | Refusal) -> PredictResponse | Refusal:
    return data if isinstance(data, Refusal) else PredictResponse.FromString(data)


@pytest.mark.parametrize("as_content", [False, True])
@pytest.mark.usefixtures("blocked")
def test_needs_no_event_loop(linear: RunningServer, as_content: bool) -> None:
    assert linear.caller.predict({"x": X}, as_content=as_content)["y"].tolist() == [[10]]


@pytest.mark.usefixtures("blocked")
def test_other_requests_wait_for_the_event_loop(linear: RunningServer) -> None:
    send: grpc.UnaryUnaryMultiCallable[bytes, bytes] = linear.caller.channel.unary_unary(PREDICT)
    with pytest.raises(grpc.RpcError) as raised:
        send(predict_request({"x": X}).SerializeToString() + SEEN, timeout=0.1)
    assert refusal_of(raised.value).code is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("answers_as_content", [False, True])
@pytest.mark.parametrize("as_content", [False, True])
@pytest.mark.parametrize("element", ELEMENTS)
def test_every_element_type(running: Run, element: str, as_content: bool, answers_as_content: bool) -> None:
    onnx_type, dtype = ELEMENTS[element]
    server = running(
        partial(models.identity, dtype=onnx_type), enable_serialization_as_tensor_content=answers_as_content
    )
    x = extremes(np.dtype(dtype)).reshape(-1, 2)
    request = predict_request({"x": x}, as_content=as_content).SerializeToString()
    plain, seen = both_ways(server.caller, request)
    assert plain == seen
    assert bool(plain.outputs["y"].tensor_content) is answers_as_content
    server.close()


def extremes(dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    if dtype == np.bool_:
        return np.array([True, False, False, True])
    if dtype.kind == "f":
        return np.array([0.1, -np.inf, np.finfo(dtype).tiny, np.nan], dtype)
    info = np.iinfo(dtype)
    return np.array([info.min, info.max, 0, 1], dtype)


@pytest.mark.parametrize("version", [None, 1, 2, 0, -1])
@pytest.mark.parametrize("name", ["model", "another", ""])
@pytest.mark.parametrize("signature", ["", "serving_default", "another"])
def test_every_model_spec(running: Run, version: int | None, name: str, signature: str) -> None:
    caller = running(models.linear).caller
    request = predict_request({"x": X}, name=name, version=version, signature_name=signature)
    plain, seen = both_ways(caller, request.SerializeToString())
    assert plain == seen


def test_a_request_without_a_model_spec(linear: RunningServer) -> None:
    request = predict_request({"x": X})
    request.ClearField("model_spec")
    plain, seen = both_ways(linear.caller, request.SerializeToString())
    assert plain == seen


def shaped(*sizes: int, **values: Any) -> TensorProto:
    return TensorProto(
        dtype=DataType.DT_FLOAT, tensor_shape=TensorShapeProto(dim=[{"size": size} for size in sizes]), **values
    )


@pytest.mark.parametrize(
    "tensor",
    [
        shaped(1, 4),
        shaped(1, 4, float_val=[1]),
        shaped(1, 4, float_val=[1, 2, 3, 4, 5]),
        shaped(1, 4, float_val=[1, 2, 3, 4], tensor_content=b"\0" * 16),
        shaped(1, 4, tensor_content=b"\0" * 12),
        shaped(1, 4, int_val=[1, 2, 3, 4]),
        shaped(0, 4),
        shaped(4, float_val=[1, 2, 3, 4]),
        shaped(1, 1, 4, float_val=[1, 2, 3, 4]),
        shaped(1, 5, float_val=[1, 2, 3, 4, 5]),
        shaped(-1, 4, float_val=[1, 2, 3, 4]),
        shaped(1 << 62, 1 << 62, tensor_content=b"\0" * 16),
        shaped(1001, 4, tensor_content=b"\0" * 16016),
        TensorProto(dtype=DataType.DT_FLOAT, float_val=[1]),
        TensorProto(
            dtype=DataType.DT_INT32, tensor_shape={"dim": [{"size": 1}, {"size": 4}]}, tensor_content=b"\0" * 16
        ),
        TensorProto(
            dtype=DataType.DT_DOUBLE, tensor_shape={"dim": [{"size": 1}, {"size": 4}]}, double_val=[1, 2, 3, 4]
        ),
        TensorProto(),
    ],
)
def test_every_odd_tensor(linear: RunningServer, tensor: TensorProto) -> None:
    plain, seen = both_ways(linear.caller, predict_request({"x": tensor}).SerializeToString())
    assert plain == seen


def test_an_invalid_boolean(running: Run) -> None:
    caller = running(partial(models.identity, dtype=Onnx.BOOL)).caller
    tensor = TensorProto(
        dtype=DataType.DT_BOOL, tensor_shape={"dim": [{"size": 1}, {"size": 2}]}, tensor_content=b"\1\2"
    )
    plain, seen = both_ways(caller, predict_request({"x": tensor}).SerializeToString())
    assert plain == seen == Refusal(grpc.StatusCode.INVALID_ARGUMENT, "tensor parsing error: x")


@pytest.mark.parametrize("inputs", [{}, {"y": X}, {"x": X, "y": X}])
def test_every_set_of_names(linear: RunningServer, inputs: Any) -> None:
    plain, seen = both_ways(linear.caller, predict_request(inputs).SerializeToString())
    assert plain == seen


def test_fields_that_come_twice_are_merged(linear: RunningServer) -> None:
    first, second = predict_request({"x": X}), PredictRequest(model_spec={"signature_name": "another"})
    plain, seen = both_ways(linear.caller, first.SerializeToString() + second.SerializeToString())
    assert plain == seen
    entry = predict_request({"x": 2 * X}).SerializeToString()
    plain, seen = both_ways(linear.caller, first.SerializeToString() + entry)
    assert plain == seen
    assert plain.outputs["y"].float_val == [20]


def test_damaged_requests_get_the_same_verdict_from_both(running: Run) -> None:
    caller = running(models.two_inputs).caller
    values = {"a": np.ones((3, 2), np.float32), "b": np.ones((3, 2), np.float32)}
    whole = [predict_request(values, as_content=as_content).SerializeToString() for as_content in (False, True)]
    outcomes = set()
    for seed in range(600):
        chance = random.Random(seed)
        data = bytearray(chance.choice(whole))
        for _ in range(chance.randrange(3)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        plain, seen = both_ways(caller, bytes(data))
        # An extra field moves the offset at which parsing fails.
        if not (isinstance(plain, Refusal) and plain.text.startswith("Failed to parse")):
            assert plain == seen
        outcomes.add(plain.code if isinstance(plain, Refusal) else None)
    assert len(outcomes) > 3


def test_a_request_in_many_frames(running: Run) -> None:
    caller = running(partial(models.identity, dims=("N", "W"))).caller
    x = np.arange(3_000_000, dtype=np.float32).reshape(3, -1)
    plain, seen = both_ways(caller, predict_request({"x": x}).SerializeToString())
    assert plain == seen


def together(caller: Caller, requests: list[bytes]) -> list[PredictResponse | Refusal]:
    """Sends requests at once; returns their answers in order."""
    send: grpc.UnaryUnaryMultiCallable[bytes, bytes] = caller.channel.unary_unary(PREDICT)
    futures: list[Any] = [send.future(request, timeout=ANSWER_WITHIN) for request in requests]
    return [answer(refusal_of(f.exception()) if f.exception() else f.result()) for f in futures]


@pytest.mark.parametrize("allowed", [(), (3, 16)])
def test_both_kinds_of_tasks_share_a_batch(running: Run, served: Stop, allowed: tuple[int, ...]) -> None:
    options = Options(max_batch_size=16, batch_timeout_micros=SECOND // 5, allowed_batch_sizes=allowed)
    server = running(models.two_inputs, batching=options)
    rows = [np.full((1 + number % 2, 2), number, np.float32) for number in range(8)]
    requests = [predict_request({"a": x, "b": -x}).SerializeToString() for x in rows]
    mixed = [data + SEEN if number % 3 == 0 else data for number, data in enumerate(requests)]
    for x, response in zip(rows, together(server.caller, mixed), strict=True):
        assert isinstance(response, PredictResponse)
        assert response.outputs["difference"].float_val == (2 * x).ravel().tolist()
        assert response.outputs["sum"].tensor_shape.dim[0].size == len(x)
    assert served(server) == (8, 12, 1)


LARGER = Options(
    max_batch_size=8, batch_timeout_micros=SECOND // 5, larger_alone=True, max_enqueued_batches=MANY_BATCHES
)


@pytest.fixture(scope="module")
def larger(running: Run) -> tuple[RunningServer, int]:
    """A server that takes requests with more rows than a batch, and its REST port."""
    port = free_port()
    return running(models.row_sums, batching=LARGER, rest_api_port=port), port


@pytest.mark.parametrize("rows", [9, 1_000, 90_000])
@pytest.mark.usefixtures("blocked")
def test_a_request_with_more_rows_than_a_batch_is_a_batch_of_its_own(
    larger: tuple[RunningServer, int], rows: int
) -> None:
    server, port = larger
    large, small = np.arange(2.0 * rows, dtype=np.float32).reshape(rows, 2), floats([1, 2])
    sums = large.sum(axis=1).tolist()
    requests = [predict_request({"x": x}).SerializeToString() for x in (small, large, small)]

    answers = together(server.caller, requests)
    assert [arrays(each)["y"].tolist() for each in answers if isinstance(each, PredictResponse)] == [[3], sums, [3]]
    with closing(HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("POST", f"/v1/models/{MODEL}:predict", json.dumps({"instances": large.tolist()}))
        assert json.load(connection.getresponse()) == {"predictions": sums}


@pytest.mark.parametrize(
    "options",
    [
        replace(LARGER, larger_alone=False),
        replace(LARGER, max_enqueued_batches=100),
        replace(LARGER, latency_objective="p99 20s"),
        replace(LARGER, enable_large_batch_splitting=True, max_execution_batch_size=4),
    ],
)
def test_python_decides_about_such_a_request_if_batches_have_limits(running: Run, options: Options) -> None:
    server = running(models.row_sums, batching=options)
    plain, seen = both_ways(server.caller, predict_request({"x": np.ones((9, 2), np.float32)}).SerializeToString())
    assert plain == seen


def test_a_failing_task_fails_alone(running: Run) -> None:
    options = Options(max_batch_size=16, batch_timeout_micros=SECOND // 5)
    server = running(models.lookup, batching=options)
    indices = [3, 99, 5, 98, 7, 1, 97, 2]
    requests = [predict_request({"index": np.array([index])}).SerializeToString() for index in indices]
    mixed = [data + SEEN if number in (2, 3) else data for number, data in enumerate(requests)]
    for index, response in zip(indices, together(server.caller, mixed), strict=True):
        if index < 10:
            assert isinstance(response, PredictResponse)
            assert response.outputs["y"].float_val == [10 * index]
        else:
            assert isinstance(response, Refusal)
            assert response.code is grpc.StatusCode.INVALID_ARGUMENT
            assert f"idx={index} must be within" in response.text


def test_widths_do_not_mix(running: Run) -> None:
    server = running(models.row_sums, batching=Options(max_batch_size=16, batch_timeout_micros=SECOND // 10))
    widths = [1, 2, 3, 2, 1, 3]
    requests = [predict_request({"x": np.ones((1, width), np.float32)}).SerializeToString() for width in widths]
    responses = together(server.caller, [data + SEEN if n % 2 else data for n, data in enumerate(requests)])
    assert [response.outputs["y"].float_val for response in responses if isinstance(response, PredictResponse)] == [
        [width] for width in widths
    ]


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_requests(linear: RunningServer, compression: grpc.Compression) -> None:
    data = predict_request({"x": np.tile(X, (1000, 1))}).SerializeToString()
    send: grpc.UnaryUnaryMultiCallable[bytes, bytes] = linear.caller.channel.unary_unary(PREDICT)
    response = PredictResponse.FromString(send(data, compression=compression))
    assert response.outputs["y"].float_val == [10] * 1000


@pytest.mark.parametrize("algorithm", [1, 2])
def test_compressed_answers(running: Run, algorithm: int) -> None:
    server = running(models.linear, grpc_channel_arguments=f"grpc.default_compression_algorithm={algorithm}")
    assert server.caller.predict({"x": np.tile(X, (1000, 1))})["y"].sum() == 10_000
    server.close()


def test_a_batch_outlives_the_callers_of_its_tasks(running: Run, served: Stop) -> None:
    options = Options(max_batch_size=3, batch_timeout_micros=int(ANSWER_WITHIN * SECOND))
    server = running(models.row_sums, batching=options)
    stay, leave, last = (predict_request({"x": floats([number, 1])}) for number in (4, 6, 8))
    stays, leaves = (server.caller.begin(request) for request in (stay, leave))
    server.caller.call(status_request())  # the connection has brought the calls to the server before this one
    leaves.cancel()
    server.caller.call(status_request())
    assert arrays(server.caller.call(last))["y"] == [9]  # it fills the batch
    assert arrays(stays.result())["y"] == [5]
    assert leaves.cancelled()
    assert served(server) == Served(requests=2, rows=2, batches=1)


def test_a_single_caller_of_a_fast_model_waits_for_no_batch_thread(
    running: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran_on, run = [], OnnxBackend.run

    def seen(backend: OnnxBackend, signature: str, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        ran_on.append(current_thread().name)
        return run(backend, signature, inputs, outputs)

    monkeypatch.setattr(OnnxBackend, "native_run", lambda *_: None)  # native runs do not call Python code
    monkeypatch.setattr(OnnxBackend, "run", seen)
    monkeypatch.setattr(
        bridge, "SHARED", replace(bridge.SHARED, pace=replace(bridge.SHARED.pace, quick=1.0, slow=10.0))
    )  # also on a busy machine
    server = running(models.linear)
    x = np.ones((1, 4), np.float32)

    def called() -> bool:
        assert server.caller.predict({"x": x})["y"].tolist() == [[4]]
        return not ran_on[-1].startswith("batch-")

    assert eventually(called)
    assert any(name.startswith("batch-") for name in ran_on)  # these calls ran before the model was known to be fast


def test_several_rest_calls_of_a_quick_model_run_together_on_the_thread_that_read_them(
    running: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[tuple[str, int]] = []
    run, begun, all_sent = OnnxBackend.run, Event(), Event()
    all_sent.set()

    def seen(backend: OnnxBackend, signature: str, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        runs.append((current_thread().name, len(inputs["x"])))
        begun.set()
        assert all_sent.wait(ANSWER_WITHIN)
        return run(backend, signature, inputs, outputs)

    monkeypatch.setattr(OnnxBackend, "native_run", lambda *_: None)  # native runs do not call Python code
    monkeypatch.setattr(OnnxBackend, "run", seen)
    pace = replace(bridge.SHARED.pace, quick=100.0, slow=100.0)  # also on a busy machine
    monkeypatch.setattr(bridge, "SHARED", replace(bridge.SHARED, pace=pace))
    port, threads = free_port(), ((cpu_count() or 1) + 1) // 2  # no thread has more than two cores for itself
    running(models.linear, rest_api_port=port, transport_threads=threads)
    with ExitStack() as stack:
        callers = [stack.enter_context(closing(HTTPConnection("127.0.0.1", port))) for _ in range(8)]

        def send(caller: HTTPConnection) -> None:
            caller.request("POST", f"/v1/models/{MODEL}:predict", json.dumps({"instances": X.tolist()}))

        def called() -> bool:
            begun.clear()
            all_sent.clear()
            send(callers[0])
            assert begun.wait(ANSWER_WITHIN)
            for caller in callers[1:]:  # they wait in the sockets if a connection thread runs the first call
                send(caller)
            all_sent.set()
            answers = [json.load(caller.getresponse()) for caller in callers]
            assert answers == [{"predictions": [[10]]}] * len(callers)
            return any(not thread.startswith(("batch-", "load-")) and rows > 1 for thread, rows in runs)

        assert eventually(called)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="asks Linux for the states of threads")
def test_polling_for_the_next_single_call_stops_if_none_comes(running: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        bridge, "SHARED", replace(bridge.SHARED, pace=replace(bridge.SHARED.pace, quick=1.0, slow=10.0))
    )
    server = running(models.linear)
    for _ in range(50):
        server.caller.predict({"x": np.ones((1, 4), np.float32)})

    assert eventually(lambda: set(transport_states()) == {"S"})


def transport_states() -> Iterator[str]:
    """The state of each connection thread, in Linux's letters: S is asleep."""
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread of another server that has just stopped
            name, _, rest = (task / "stat").read_text().partition("(")[2].rpartition(")")
            if name.startswith("transport-"):
                yield rest.split()[0]
