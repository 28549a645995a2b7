"""Calls of the Open Inference Protocol that the native transport answers itself, exactly as the service would."""

import random
from contextlib import suppress
from functools import partial
from typing import Any

import grpc
import numpy as np
import pytest

from headrace_batching import Options
from headrace_protos.inference.grpc_service_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelStatisticsRequest,
)
from tests.conftest import Run
from tests.native.test_plain import ELEMENTS, extremes
from tests.server.services.open_inference.calls import (
    ROW,
    SERVICE,
    TEN,
    InferenceCaller,
    array,
    infer_request,
    tensor,
    wanted,
)
from tests.support import models
from tests.support.calls import ANSWER_WITHIN, MODEL, Refusal, predict_request, refusal_of
from tests.support.running import RunningServer, eventually

native = pytest.importorskip("headrace_native")

DATATYPES = {"float": "FP32", "double": "FP64", "half": "FP16", "bool": "BOOL"}


@pytest.fixture(scope="module")
def transport() -> str:
    return "native"


@pytest.fixture(scope="module")
def linear(running: Run) -> RunningServer:
    return running(models.linear)


def infer_of(server: RunningServer) -> Any:
    call: Any = server.caller.channel.unary_unary(
        f"{SERVICE}ModelInfer", response_deserializer=ModelInferResponse.FromString
    )
    return call


def send(server: RunningServer, data: bytes, **options: Any) -> ModelInferResponse | Refusal:
    call = infer_of(server)
    try:
        response: ModelInferResponse = call(data, **{"timeout": ANSWER_WITHIN, **options})
        return response
    except grpc.RpcError as error:
        return refusal_of(error)


def both_ways(server: RunningServer, request: ModelInferRequest) -> tuple[Any, Any]:
    """The answers to a request, and to the same request with a parameter, which sends it through the service."""
    seen = ModelInferRequest()
    seen.CopyFrom(request)
    seen.parameters["mine"].bool_param = True
    return send(server, request.SerializeToString()), send(server, seen.SerializeToString())


@pytest.mark.parametrize(
    "request_",
    [
        infer_request(),
        infer_request(id="seven"),
        infer_request(model_version="1"),
        infer_request(outputs=[wanted()]),
        infer_request([tensor(shape=(3, 4))], [ROW.tobytes() * 3]),
    ],
)
@pytest.mark.usefixtures("blocked")
def test_needs_no_event_loop(linear: RunningServer, request_: ModelInferRequest) -> None:
    response = send(linear, request_.SerializeToString())
    assert isinstance(response, ModelInferResponse)
    assert array(response).tolist()[0] == TEN[0]


@pytest.mark.parametrize(
    "request_",
    [
        infer_request(parameters={"priority": 2}),
        infer_request([tensor(contents={"fp32_contents": [1, 2, 3, 4]})], []),
        infer_request([tensor(hint=1)]),
        infer_request(outputs=[wanted(classification=1)]),
        infer_request(model_version=" 1"),
    ],
)
@pytest.mark.usefixtures("blocked")
def test_other_requests_wait_for_the_event_loop(linear: RunningServer, request_: ModelInferRequest) -> None:
    refusal = send(linear, request_.SerializeToString(), timeout=0.1)
    assert isinstance(refusal, Refusal)
    assert refusal.code is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("element", ELEMENTS)
def test_every_element_type(running: Run, element: str) -> None:
    onnx_type, dtype = ELEMENTS[element]
    server = running(partial(models.identity, dtype=onnx_type))
    values: Any = extremes(np.dtype(dtype)).astype(dtype).reshape(-1, 2)
    sent = tensor("x", DATATYPES.get(element, element.upper()), values.shape)
    plain, seen = both_ways(server, infer_request([sent], [values.tobytes()]))
    assert plain == seen
    assert plain.raw_output_contents[0] == values.tobytes()
    server.close()


def test_several_inputs_and_outputs(running: Run) -> None:
    server = running(models.two_inputs)
    pair = [tensor(name, shape=(2, 2)) for name in ("b", "a")]
    raw = [np.arange(4, dtype=np.float32).tobytes(), np.ones(4, np.float32).tobytes()]
    request = infer_request(pair, raw)
    plain, seen = both_ways(server, request)
    assert plain == seen
    names = [output.name for output in plain.outputs]
    request.outputs.extend([wanted(name) for name in reversed(names)])
    plain, seen = both_ways(server, request)
    assert plain == seen
    assert len(plain.outputs) == len(names)


@pytest.mark.parametrize(
    "request_",
    [
        infer_request(model_name="nope"),
        infer_request(model_name=""),
        infer_request(model_version="7"),
        infer_request(model_version="9" * 30),
        infer_request([tensor(datatype="INT32")]),
        infer_request([tensor(datatype="")]),
        infer_request([tensor(shape=(4,))]),
        infer_request([tensor(shape=(2, 4))]),
        infer_request([tensor(shape=(1, -4))]),
        infer_request([tensor(shape=(0, 4))], [b""]),
        infer_request([tensor(shape=(1001, 4))], [ROW.tobytes() * 1001]),
        infer_request([tensor("z")]),
        infer_request([tensor(), tensor()], [ROW.tobytes()] * 2),
        infer_request([]),
        infer_request(raw=[]),
        infer_request(raw=[ROW.tobytes()] * 2),
        infer_request(raw=[ROW.tobytes()[:-1]]),
        infer_request(outputs=[wanted("q")]),
        infer_request(outputs=[wanted(), wanted()]),
    ],
)
def test_refused_requests(linear: RunningServer, request_: ModelInferRequest) -> None:
    plain, seen = both_ways(linear, request_)
    assert plain == seen


def test_random_bytes(linear: RunningServer) -> None:
    """Rust and Python refuse the same requests."""
    chance = random.Random(7)
    good = infer_request(id="a", outputs=[wanted()], model_version="1").SerializeToString()
    for _ in range(300):
        data = bytearray(good)
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        expected: Any = None
        with suppress(Exception):
            expected = both_ways(linear, ModelInferRequest.FromString(bytes(data)))[1]
        answer = send(linear, bytes(data))
        if expected is not None:
            assert answer == expected, bytes(data)
        else:
            assert isinstance(answer, Refusal), bytes(data)


def test_the_error_for_a_full_queue_has_the_requests_id(running: Run) -> None:
    options = Options(max_batch_size=1, max_enqueued_batches=1, batch_timeout_micros=0, num_batch_threads=1)
    server = running(partial(models.slow, steps=100_000), batching=options, enable_model_warmup=False)
    send_one: Any = server.caller.channel.unary_unary(f"{SERVICE}ModelInfer")
    request = infer_request([tensor(shape=(1, 1))], [b"\0" * 4], id="mine").SerializeToString()
    calls = [send_one.future(request, timeout=ANSWER_WITHIN) for _ in range(20)]
    texts = {refusal_of(error).text for call in calls if (error := call.exception()) is not None}
    assert texts == {"[request id: mine] Exceeds maximum queue size"}


def test_both_apis_share_batches_and_are_counted_apart(running: Run) -> None:
    server = running(models.linear, batching=Options(batch_timeout_micros=200_000, max_batch_size=6))
    caller = InferenceCaller(server.port)
    infer = infer_of(server)
    predict: Any = server.caller.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    calls = [infer.future(infer_request(id=str(n)).SerializeToString(), timeout=ANSWER_WITHIN) for n in range(3)]
    calls += [predict.future(predict_request({"x": ROW}).SerializeToString(), timeout=ANSWER_WITHIN) for _ in range(3)]
    answers = [call.result() for call in calls]
    assert [answer.id for answer in answers[:3]] == ["0", "1", "2"]
    stats = eventually(
        lambda: (
            s if (s := caller.call(ModelStatisticsRequest(name=MODEL)).model_stats[0]).inference_count == 6 else None
        )
    )
    assert stats is not None
    assert stats.execution_count == 1
    caller.close()


def test_a_deadline_and_a_cancellation(running: Run) -> None:
    server = running(models.linear, batching=Options(batch_timeout_micros=1_000_000))
    refusal = send(server, infer_request().SerializeToString(), timeout=0.05)
    assert isinstance(refusal, Refusal)
    assert refusal.code is grpc.StatusCode.DEADLINE_EXCEEDED
    call = infer_of(server).future(infer_request().SerializeToString())
    call.cancel()
    rows = infer_request([tensor(shape=(3, 4))], [ROW.tobytes() * 3])
    response = send(server, rows.SerializeToString())
    assert isinstance(response, ModelInferResponse)
    assert array(response).shape == (3, 1)
