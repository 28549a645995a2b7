"""How much memory callers of a server without headrace_native can occupy: grpcio and uvicorn share one budget."""

import re

import numpy as np
import pytest
from grpc import StatusCode

from tests.conftest import Run
from tests.support import models
from tests.support.budget import TOO_MUCH, held
from tests.support.calls import floats, predict_request
from tests.support.running import RunningServer, eventually

BUDGET_MB = 5
COLUMNS = 200_000
X = floats([1, 2, 3, 4])


@pytest.fixture(scope="module")
def transport() -> str:
    return "grpcio"


@pytest.fixture(scope="module")
def linear(running: Run) -> RunningServer:
    return running(models.linear, request_memory_mb=BUDGET_MB)


def test_a_request_larger_than_a_calls_share_is_not_read(linear: RunningServer) -> None:
    refusal = linear.caller.refusal(predict_request({"x": np.zeros((60_000, 4), np.float64)}))

    assert refusal.code is StatusCode.RESOURCE_EXHAUSTED
    assert refusal.text.endswith(f" vs. {(BUDGET_MB << 20) // 4})")
    assert linear.caller.predict({"x": X})["y"].tolist() == [[10]]
    eventually(lambda: held(linear)["received"] == 0)


def test_the_largest_request_that_is_read_is_answered(linear: RunningServer) -> None:
    rows = ((BUDGET_MB << 20) // 4 - 100) // 16
    refusal = linear.caller.refusal(predict_request({"x": np.zeros((rows, 4), np.float32)}, name="other"))

    assert refusal.code is StatusCode.NOT_FOUND
    eventually(lambda: held(linear)["received"] == 0)


def test_an_answer_larger_than_the_free_budget_is_refused(running: Run) -> None:
    server = running(lambda folder: models.repeated(folder, columns=COLUMNS), request_memory_mb=BUDGET_MB)
    one, many = (predict_request({"x": np.ones((rows, 1), np.float32)}) for rows in (1, 5))

    assert server.caller.call(one).outputs["y"].tensor_shape.dim[1].size == COLUMNS
    refusal = server.caller.refusal(many)
    assert (refusal.code, bool(re.match(TOO_MUCH, refusal.text))) == (StatusCode.RESOURCE_EXHAUSTED, True)
    eventually(lambda: held(server)["received"] == 0)
