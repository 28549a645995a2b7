"""ModelStreamInfer: many requests and their answers in one call."""

from functools import partial
from queue import Queue
from typing import Any

import grpc
import numpy as np
import pytest

from headrace_protos.inference.grpc_service_pb2 import ModelInferRequest
from tests.server.services.open_inference.calls import (
    ROW,
    UNKNOWN_ID,
    InferenceCaller,
    array,
    infer_request,
    tensor,
)
from tests.server.services.open_inference.conftest import Infer
from tests.support import models
from tests.support.calls import ANSWER_WITHIN


@pytest.fixture(scope="module")
def linear(inferring: Infer) -> InferenceCaller:
    return inferring(models.linear)


def numbered(count: int) -> list[ModelInferRequest]:
    return [infer_request(raw=[(ROW * number).tobytes()], id=str(number)) for number in range(count)]


def test_answers_keep_the_order_of_their_requests(linear: InferenceCaller) -> None:
    answers = [each.infer_response for each in linear.stream(numbered(200))]
    assert [answer.id for answer in answers] == [str(number) for number in range(200)]
    assert [array(answer).item() for answer in answers] == [10 * number for number in range(200)]
    assert all(answer.parameters["triton_final_response"].bool_param for answer in answers)


def test_a_slow_request_keeps_its_place(inferring: Infer) -> None:
    caller = inferring(partial(models.slow, steps=30_000))
    slow = infer_request([tensor(shape=(1, 1))], [b"\0" * 4], id="slow")
    refused = infer_request(id="refused", model_name="nope")  # the server refuses it at once
    answers = list(caller.stream([slow, refused]))
    assert [answer.infer_response.id for answer in answers] == ["slow", "refused"]


def test_an_answer_comes_before_the_next_request(linear: InferenceCaller) -> None:
    """Reading and writing happen at the same time."""
    requests: Queue[Any] = Queue()
    answers = linear.stream(iter(requests.get, None))
    for number in range(5):
        requests.put(infer_request(id=str(number)))
        assert next(answers).infer_response.id == str(number)
    requests.put(None)
    assert list(answers) == []


def test_a_failure_does_not_end_the_stream(linear: InferenceCaller) -> None:
    requests = [infer_request(id="0"), infer_request(id="1", raw=[b""]), infer_request(id="2", model_name="nope")]
    answers = list(linear.stream([*requests, infer_request(id="3")]))
    size = f"{UNKNOWN_ID.replace('<id_unknown>', '1')}input byte size mismatch for input 'x' for model 'model'. "
    texts = ["", f"{size}Expected 16, got 0", "Request for unknown model: 'nope' is not found", ""]
    assert [answer.error_message for answer in answers] == texts
    assert [answer.infer_response.id for answer in answers] == ["0", "1", "2", "3"]
    assert not answers[1].infer_response.outputs


def test_no_requests_and_no_answers(linear: InferenceCaller) -> None:
    assert list(linear.stream([])) == []


def test_a_failed_run_ends_the_stream_on_request(inferring: Infer) -> None:
    caller = inferring(models.lookup)
    good = infer_request([tensor("index", "INT64", (1,))], [np.array([1]).tobytes()])
    bad = infer_request([tensor("index", "INT64", (1,))], [np.array([99]).tobytes()], id="bad")
    assert [bool(answer.error_message) for answer in caller.stream([good, bad, good])] == [False, True, False]
    with pytest.raises(grpc.RpcError) as failure:
        list(caller.stream([good, bad, good], metadata=[("triton_grpc_error", "true")]))
    assert failure.value.code() != grpc.StatusCode.OK


def test_a_caller_who_leaves(linear: InferenceCaller) -> None:
    requests: Queue[Any] = Queue()
    stream = linear.stream(iter(requests.get, None))
    requests.put(infer_request())
    next(stream)
    stream.cancel()
    requests.put(None)
    assert len(list(linear.stream(numbered(3)))) == 3


def test_a_message_that_cannot_be_read(linear: InferenceCaller) -> None:
    stub: Any = linear._channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
    with pytest.raises(grpc.RpcError) as failure:
        list(stub(iter([b"\xff\xff"]), timeout=ANSWER_WITHIN))
    assert failure.value.code() == grpc.StatusCode.INTERNAL
    assert "Failed to parse inference.ModelInferRequest" in str(failure.value.details())
