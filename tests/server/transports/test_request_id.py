"""The ID of each call in the access log."""

import logging

import pytest

from headrace_server.transports.request_id import request_id
from tests.conftest import Run
from tests.support import models
from tests.support.calls import PREDICT, floats, predict_request
from tests.support.ports import free_port
from tests.support.rest_calls import ROW, RestCaller

X = floats([1, 2, 3, 4])


@pytest.mark.parametrize("sent", ["7", "01HZ-abc_=/+", "x" * 128])
def test_the_callers_own_id(sent: str) -> None:
    assert request_id(sent) == sent


@pytest.mark.parametrize("sent", ["", "two words", "a\nline", "x" * 129, "caf\u00e9"])
def test_an_id_that_does_not_fit_into_a_line(sent: str) -> None:
    made = request_id(sent)
    assert len(made) == 16
    assert made != request_id(sent)


def test_an_id_on_every_api(running: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "headrace_server.metrics.access_log")
    port = free_port()
    server = running(models.linear, rest_api_port=port, access_log=True)
    rest = RestCaller(port)
    request = predict_request({"x": X}).SerializeToString()
    server.caller.send_bytes(PREDICT, request, metadata=(("x-request-id", "over-grpc"),))
    rest.post("predict", ROW, x_request_id="over-rest")
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
    rest.send("POST", "/v2/models/model/infer", {"inputs": [tensor]}, {"x-request-id": "over-v2"})
    rest.post("predict", ROW)
    rest.close()
    ids = [message.rpartition(" id=")[2] for message in caplog.messages]
    assert ids[:3] == ["over-grpc", "over-rest", "over-v2"]
    assert len(ids[3]) == 16
