"""Requests that headrace_native runs one by one without Python: they get the same answers, errors and counts."""

import threading
from collections.abc import Mapping
from functools import partial

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from onnx import TensorProto as Onnx

from headrace_batching import Options
from headrace_batching.task import Array
from headrace_protos import PredictResponse
from headrace_server.backends.onnx.arena import Arena
from headrace_server.backends.onnx.backend import OnnxBackend
from headrace_server.config.isolation import IsolationOptions
from tests.conftest import Make, Run, Stop
from tests.support import feature_models, models
from tests.support.calls import ANSWER_WITHIN, PREDICT, SEEN, Refusal, arrays, floats, predict_request, refusal_of
from tests.support.examples import classify_request, example
from tests.support.running import LoopThread, RunningServer, eventually

pytest.importorskip("headrace_native")
SLOW = Options(num_batch_threads=1)


@pytest.fixture(scope="module")
def transport() -> str:
    return "native"


@pytest.fixture(params=[False, True], ids=["without batching", "with batching"])
def batching(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def both(server: RunningServer, inputs: Mapping[str, Array], runs: list[int]) -> Mapping[str, Array] | Refusal:
    """The answer to a plain request, which must be the same as that to a request through Python."""
    runs.clear()
    data = predict_request(inputs).SerializeToString()
    plain = server.caller.send_bytes(PREDICT, data)
    own = len(runs)
    seen = server.caller.send_bytes(PREDICT, data + SEEN)
    if isinstance(plain, Refusal) or isinstance(seen, Refusal):
        assert (plain, own, len(runs)) == (seen, 1, 2)
        assert isinstance(plain, Refusal)
        return plain
    assert (PredictResponse.FromString(plain), own, len(runs)) == (PredictResponse.FromString(seen), 0, 1)
    return arrays(PredictResponse.FromString(plain))


ALONE: dict[str, tuple[Make, list[dict[str, Array]]]] = {
    "a vector": (partial(models.identity, dtype=Onnx.FLOAT, dims=(4,)), [{"x": np.arange(4, dtype=np.float32)}]),
    "a scalar output": (models.scalar_output, [{"x": np.full((rows, 2), rows, np.float32)} for rows in (1, 3)]),
    "an output without rows": (
        models.kept,
        [{"x": np.array(x, np.float32)} for x in ([[-1, 1]], [[1, 1]], [[-1, 0], [2, 3]])],
    ),
    "a shape that depends on values": (
        models.positions,
        [{"x": np.array(x, np.float32)} for x in ([[0, 0, 0]], [[1, 0, 2], [0, 3, 0]])],
    ),
    "a scalar": (models.doubled_scalar, [{"x": np.array(x, np.float32)} for x in (0, 3)]),
    "rows that mix": (models.column_totals, [{"x": np.ones((rows, 2), np.float32)} for rows in (1, 2, 5)]),
    "inputs of different rows": (
        partial(models.two_inputs, left=(3, 2), right=(2,)),
        [{"a": np.ones((3, 2), np.float32), "b": np.arange(2, dtype=np.float32)}],
    ),
    "double precision": (
        partial(models.identity, dtype=Onnx.DOUBLE, dims=("A", "B", "C")),
        [{"x": np.arange(24, dtype=np.float64).reshape(shape)} for shape in ((2, 3, 4), (24, 1, 1), (1, 1, 24))],
    ),
}


@pytest.mark.parametrize("name", ALONE)
def test_requests_that_run_alone_need_no_python(running: Run, runs: list[int], name: str) -> None:
    make, requests = ALONE[name]
    server = running(make, enable_batching=False)
    for inputs in requests:
        assert not isinstance(both(server, inputs, runs), Refusal)


@pytest.mark.parametrize("name", ["a vector", "a scalar output", "rows that mix"])
def test_batching_does_not_change_them(running: Run, runs: list[int], name: str) -> None:
    make, requests = ALONE[name]
    server = running(make)
    for inputs in requests:
        assert not isinstance(both(server, inputs, runs), Refusal)


def test_many_requests_at_once_are_counted_as_one_run_each(running: Run, served: Stop, runs: list[int]) -> None:
    server = running(models.scalar_output, batching=SLOW)
    runs.clear()
    calls = [server.caller.begin(predict_request({"x": np.full((2, 2), each, np.float32)})) for each in range(600)]
    assert [arrays(call.result())["total"].item() for call in calls] == [4.0 * each for each in range(600)]
    page = server._server._metrics.page().decode()
    assert ':tensorflow:serving:request_count{model_name="model",status="OK"} 600\n' in page
    assert runs == []
    assert served(server) == (600, 600, 600)


def test_a_request_that_fails_has_the_error_of_python_and_fails_alone(
    running: Run, served: Stop, runs: list[int]
) -> None:
    server = running(models.lookup, enable_batching=False)
    refusal = both(server, {"index": np.array([99])}, runs)
    assert isinstance(refusal, Refusal)
    assert "indices element out of data bounds, idx=99" in refusal.text
    runs.clear()
    calls = [server.caller.begin(predict_request({"index": np.array([each % 20])})) for each in range(100)]
    for each, call in enumerate(calls):
        if each % 20 < 10:
            assert call.result(ANSWER_WITHIN).outputs["y"].float_val == [each % 20 * 10]
        else:
            error = call.exception(ANSWER_WITHIN)
            assert isinstance(error, grpc.RpcError)
            assert f"out of data bounds, idx={each % 20}" in refusal_of(error).text
    assert len(runs) == 50  # only those that fail
    assert served(server) == (50, 50, 50)


def test_an_answer_that_cannot_be_made_has_the_error_of_python(running: Run, runs: list[int]) -> None:
    signatures = {"short": {"method": "classify", "labels": ["lo"], "outputs": {"scores": "scores"}}}
    server = running(partial(feature_models.tariff, signatures=signatures), enable_batching=False)
    one = example(age=[1], weights=[0.5, 1.5])
    data = classify_request(one, signature_name="short").SerializeToString()
    runs.clear()
    plain = server.caller.send_bytes("/tensorflow.serving.PredictionService/Classify", data)
    assert runs == [1]
    assert isinstance(plain, Refusal)
    assert "1 labels for 2 scores" in plain.text
    assert plain == server.caller.send_bytes("/tensorflow.serving.PredictionService/Classify", data + SEEN)


@pytest.mark.parametrize("wanted", [["doubled"], ["total"]])
def test_only_the_wanted_outputs_are_computed(running: Run, runs: list[int], wanted: list[str]) -> None:
    server = running(models.scalar_output)
    request = predict_request({"x": np.ones((2, 2), np.float32)})
    request.output_filter.extend(wanted)
    data = request.SerializeToString()
    runs.clear()
    plain = server.caller.send_bytes(PREDICT, data)
    assert runs == []
    assert plain == server.caller.send_bytes(PREDICT, data + SEEN)
    assert isinstance(plain, bytes)
    assert list(PredictResponse.FromString(plain).outputs) == wanted


def test_python_frees_the_memory_of_large_outputs(
    running: Run, runs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    grown = list[object]()
    monkeypatch.setattr(Arena, "grew", lambda _, inputs: grown.append(inputs))
    server = running(partial(models.repeated, columns=100_000), enable_batching=False)
    x = np.ones((2, 1), np.float32)
    runs.clear()
    grown.clear()
    assert server.caller.predict({"x": x})["y"].shape == (2, 100_000)
    assert eventually(lambda: grown) == [{"x": ((2, 1), np.dtype(np.float32))}]
    assert runs == []
    assert server.caller.predict({"x": x})["y"].shape == (2, 100_000)
    assert runs == [2]
    for _ in range(2):  # Python runs every second batch with a large output
        assert server.caller.predict({"x": x})["y"].shape == (2, 100_000)
    assert runs == [2, 2]


SCALARS: dict[str, tuple[Make, npt.ArrayLike, object]] = {
    "a number": (models.doubled_scalar, np.float32(3), 6),
    "a string": (partial(models.identity, dtype=Onnx.STRING, dims=()), b"a word", b"a word"),
}


@pytest.mark.parametrize("limit", [0.0, 60.0])
@pytest.mark.parametrize("name", SCALARS)
def test_scalars_for_python_need_no_event_loop(
    running: Run, monkeypatch: pytest.MonkeyPatch, loop_thread: LoopThread, name: str, limit: float
) -> None:
    monkeypatch.setattr(OnnxBackend, "native_run", lambda *_: None)
    make, x, y = SCALARS[name]
    server = running(make, isolation=IsolationOptions(run_timeout=limit))
    go_on = threading.Event()
    loop_thread.loop.call_soon_threadsafe(go_on.wait)
    try:
        assert server.caller.predict({"x": np.array(x)})["y"].item() == y
    finally:
        go_on.set()


def test_python_runs_requests_with_a_time_limit(running: Run, runs: list[int], batching: bool) -> None:
    limit = IsolationOptions(run_timeout=60.0)
    server = running(models.scalar_output, enable_batching=batching, isolation=limit)
    runs.clear()
    assert server.caller.predict({"x": floats([1, 2])})["total"] == 3
    assert runs == [1]


def test_an_unload_runs_the_waiting_requests(running: Run) -> None:
    server = running(models.scalar_output, batching=SLOW, file_system_poll_wait_seconds=0.05)
    calls = [server.caller.begin(predict_request({"x": np.full((2, 2), each, np.float32)})) for each in range(300)]
    models.scalar_output(server.base_path / "2")
    calls += [server.caller.begin(predict_request({"x": np.full((2, 2), each, np.float32)})) for each in range(300)]
    assert [arrays(call.result())["total"].item() for call in calls] == [4.0 * each for each in range(300)] * 2
