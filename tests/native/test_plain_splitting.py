"""Requests for a model whose large requests are split: the native transport answers those that fit into one batch."""

import grpc
import numpy as np
import pytest

from headrace_batching import Options
from headrace_batching.task import Arrays
from tests.conftest import Run, Stop
from tests.support import models
from tests.support.calls import arrays, predict_request, refusal_of
from tests.support.running import RunningServer

pytest.importorskip("headrace_native")

SPLITTING = Options(max_batch_size=100, max_execution_batch_size=8, enable_large_batch_splitting=True)


@pytest.fixture(scope="module")
def transport() -> str:
    return "native"


@pytest.fixture(scope="module")
def splitting(running: Run) -> RunningServer:
    return running(models.linear, batching=SPLITTING)


def rows(count: int) -> Arrays:
    return {"x": np.arange(4 * count, dtype=np.float32).reshape(count, 4)}


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.usefixtures("blocked")
def test_requests_that_fit_into_a_batch_need_no_event_loop(splitting: RunningServer, count: int) -> None:
    answer = splitting.caller.predict(rows(count))["y"]
    assert answer.tolist() == rows(count)["x"].sum(axis=1, keepdims=True).tolist()


@pytest.mark.usefixtures("blocked")
def test_requests_that_must_be_split_wait_for_the_event_loop(splitting: RunningServer) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        splitting.caller.call(predict_request(rows(9)), timeout=0.1)
    assert refusal_of(raised.value).code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_both_are_answered_side_by_side(running: Run, served: Stop) -> None:
    options = Options(
        max_batch_size=100,
        max_execution_batch_size=8,
        enable_large_batch_splitting=True,
        batch_timeout_micros=100_000,
        num_batch_threads=1,
    )
    server = running(models.linear, batching=options)
    counts = [3, 20, 5, 1, 9, 8]
    futures = [server.caller.begin(predict_request(rows(count))) for count in counts]
    for count, future in zip(counts, futures, strict=True):
        assert arrays(future.result())["y"].tolist() == rows(count)["x"].sum(axis=1, keepdims=True).tolist()
    _, ran, _ = served(server)
    assert ran == sum(counts)
