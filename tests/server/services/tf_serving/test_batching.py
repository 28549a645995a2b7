"""Batches form from concurrent requests, and change no answer."""

import asyncio
from functools import partial

import grpc
import numpy as np
import onnxruntime

from headrace_batching import Options
from headrace_batching.task import Array
from headrace_protos import PredictRequest, PredictResponse
from tests.conftest import Run, Stop
from tests.support import models
from tests.support.calls import PREDICT, arrays, predict_request
from tests.support.models import believed
from tests.support.running import LoopThread

CALLERS = 64
CALLS = 6


def test_concurrent_callers_share_batches(running: Run, served: Stop, loop_thread: LoopThread) -> None:
    server = running(partial(models.slow, steps=16_000), batching=Options(num_batch_threads=1))
    x = np.random.default_rng(1).normal(size=(CALLERS * CALLS, 1, 1)).astype(np.float32)
    answers = loop_thread.run(_call_all(server.port, x))
    model = onnxruntime.InferenceSession(server.base_path / "1" / models.FILE)
    np.testing.assert_array_equal(np.concatenate(answers), model.run(["y"], {"x": x[:, 0]})[0])
    requests, rows, batches = served(server)
    assert (requests, rows) == (len(x), len(x))
    assert rows / batches > 8


async def _call_all(port: int, x: Array) -> list[Array]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(PREDICT, PredictRequest.SerializeToString, PredictResponse.FromString)

        async def caller(rows: Array) -> list[Array]:
            return [arrays(await call(predict_request({"x": row})))["y"] for row in rows]

        each = await asyncio.gather(*(caller(rows) for rows in np.split(x, CALLERS)))
    return [answer for answers in each for answer in answers]


def test_batches_are_padded_to_an_allowed_size(running: Run, served: Stop) -> None:
    """The model's answers show its batch: each is the sum of a column over all rows, with those of the padding."""
    options = Options(max_batch_size=8, allowed_batch_sizes=(4, 8))
    server = running(believed(models.column_totals), batching=options)
    x = np.array([[1, 10], [2, 20], [3, 30]], np.float32)
    # TF Serving pads with the first row of the last task.
    assert server.caller.predict({"x": x})["y"].tolist() == [[7, 70]] * 3
    assert served(server) == (1, 3, 1)


def test_large_requests_are_split(running: Run, served: Stop) -> None:
    options = Options(max_batch_size=100, max_execution_batch_size=8, enable_large_batch_splitting=True)
    server = running(models.linear, batching=options)
    x = np.arange(80, dtype=np.float32).reshape(20, 4)
    assert server.caller.predict({"x": x})["y"].tolist() == x.sum(axis=1, keepdims=True).tolist()
    assert served(server) == (3, 20, 3)


def test_model_without_a_batch_axis_runs_one_by_one(running: Run, served: Stop) -> None:
    server = running(models.scalar_output, batching=Options(num_batch_threads=1, batch_timeout_micros=20_000))
    sent = [np.full((2, 2), number, np.float32) for number in range(10)]
    futures = [server.caller.begin(predict_request({"x": x})) for x in sent]
    totals = [arrays(future.result())["total"].item() for future in futures]
    assert totals == [4.0 * number for number in range(10)]
    assert served(server) == (10, 10, 10)
