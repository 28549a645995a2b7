"""Batches that headrace_native runs without the interpreter are answered and counted like those that Python runs."""

import logging
import re
import sys
import threading
import time
from collections.abc import Mapping
from functools import partial

import grpc
import numpy as np
import pytest

from headrace_batching import Options
from headrace_batching.scheduler import Scheduler
from headrace_protos import PredictResponse
from headrace_server.backends.onnx.arena import Arena
from headrace_server.config.isolation import IsolationOptions
from headrace_server.metrics.versions import Runs
from headrace_server.models.servable import Servable
from tests.conftest import Run, Stop
from tests.support import models
from tests.support.calls import ANSWER_WITHIN, PREDICT, SEEN, Refusal, floats, predict_request, status_request
from tests.support.running import RunningServer, eventually

pytest.importorskip("headrace_native")

X = floats([1, 2, 3, 4])
VALUES = {"sum": [6, 8], "difference": [4, 4]}
Shapes = Mapping[str, tuple[tuple[int, ...], np.dtype]]


@pytest.fixture(scope="module")
def transport() -> str:
    return "native"


def began(server: RunningServer, runs: list[int]) -> RunningServer:
    """The server, after the runs of its load have been forgotten."""
    runs.clear()
    return server


def padding(server: RunningServer) -> list[int]:
    """How many rows have been added as padding, and how many batches have run."""
    page = server._server._metrics.page().decode()
    names = ("padding_rows", "wrapped_run_count")
    return [sum(int(count) for count in re.findall(rf"^:\S*{name}\S* (\d+)$", page, re.MULTILINE)) for name in names]


def test_plain_requests_need_no_python(running: Run, served: Stop, runs: list[int]) -> None:
    server = began(running(models.linear), runs)
    answers = [server.caller.predict({"x": np.full((rows, 4), rows, np.float32)})["y"] for rows in (1, 2, 3)]
    assert [answer.tolist() for answer in answers] == [[[4]], [[8]] * 2, [[12]] * 3]
    assert runs == []
    assert served(server) == (3, 6, 3)


def test_requests_share_a_batch(running: Run, served: Stop, runs: list[int]) -> None:
    second = 1_000_000
    options = Options(max_batch_size=4, batch_timeout_micros=60 * second, num_batch_threads=1)
    server = began(running(models.linear, batching=options), runs)
    calls = [server.caller.begin(predict_request({"x": np.full((1, 4), row, np.float32)})) for row in range(4)]
    assert [call.result(ANSWER_WITHIN).outputs["y"].float_val[:] for call in calls] == [[0], [4], [8], [12]]
    assert runs == []
    assert served(server) == (4, 4, 1)


def test_both_outputs_have_their_values(running: Run, runs: list[int]) -> None:
    server = began(running(models.two_inputs), runs)
    answer = server.caller.predict({"a": floats([5, 6]), "b": floats([1, 2])})
    assert {alias: array.tolist() for alias, array in answer.items()} == {"sum": [[6, 8]], "difference": [[4, 4]]}
    assert runs == []


@pytest.mark.parametrize("wanted", ["sum", "difference"])
def test_only_the_wanted_outputs_are_computed(running: Run, runs: list[int], wanted: str) -> None:
    server = began(running(models.two_inputs), runs)
    request = predict_request({"a": floats([5, 6]), "b": floats([1, 2])})
    request.output_filter.append(wanted)
    answer = server.caller.send_bytes(PREDICT, request.SerializeToString())
    assert isinstance(answer, bytes)
    outputs = PredictResponse.FromString(answer).outputs
    assert {alias: output.float_val[:] for alias, output in outputs.items()} == {wanted: VALUES[wanted]}
    assert runs == []


def test_a_request_that_has_expired_does_not_send_the_others_to_python(running: Run, runs: list[int]) -> None:
    options = Options(max_batch_size=3, batch_timeout_micros=60_000_000, num_batch_threads=1)
    server = began(running(models.linear, batching=options), runs)
    with pytest.raises(grpc.RpcError, match="DEADLINE_EXCEEDED"):
        server.caller.begin(predict_request({"x": X}), timeout=0.05).result()
    calls = [server.caller.begin(predict_request({"x": X})) for _ in range(2)]
    assert [call.result(ANSWER_WITHIN).outputs["y"].float_val[:] for call in calls] == [[10]] * 2
    assert runs == []


def test_only_the_task_that_cannot_succeed_fails(running: Run, runs: list[int]) -> None:
    options = Options(max_batch_size=3, batch_timeout_micros=60_000_000, num_batch_threads=1)
    server = began(running(models.lookup, batching=options), runs)
    calls = [server.caller.begin(predict_request({"index": np.array([index])})) for index in (1, 99, 2)]
    assert calls[0].result(ANSWER_WITHIN).outputs["y"].float_val == [10]
    assert calls[2].result(ANSWER_WITHIN).outputs["y"].float_val == [20]
    with pytest.raises(grpc.RpcError, match="out of data bounds"):
        calls[1].result(ANSWER_WITHIN)
    assert runs[0] == 3  # Python has run the whole batch again, and then its halves


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_a_padded_batch_has_the_answer_and_the_counts_of_python(running: Run, runs: list[int], rows: int) -> None:
    options = Options(allowed_batch_sizes=(2, 4), max_batch_size=4)
    server = began(running(models.believed(models.column_totals), batching=options), runs)
    request = predict_request({"x": np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)}).SerializeToString()
    pages = list[list[int]]()
    answers = list[bytes | Refusal]()
    for more in (b"", SEEN):
        before = padding(server)
        answers.append(server.caller.send_bytes(PREDICT, request + more))
        pages.append([after - earlier for after, earlier in zip(padding(server), before, strict=True)])
    assert answers[0] == answers[1]
    assert isinstance(answers[0], bytes)
    assert pages[0] == pages[1] == [rows % 2, 1]
    assert runs == [rows + rows % 2]


def test_padding_repeats_the_first_row_of_the_last_request(running: Run, runs: list[int]) -> None:
    options = Options(
        allowed_batch_sizes=(4, 8), max_batch_size=8, batch_timeout_micros=60_000_000, num_batch_threads=1
    )
    model = models.believed(models.column_totals)
    server = began(running(model, batching=options, file_system_poll_wait_seconds=0.05), runs)
    calls = []
    for rows in ([[1, 2]], [[10, 20], [30, 40]]):
        calls.append(server.caller.begin(predict_request({"x": floats(*rows)})))
        server.caller.call(status_request())  # once this is answered, the call before it has arrived
    models.column_totals(server.base_path / "2")
    assert [call.result(ANSWER_WITHIN).outputs["y"].float_val[:] for call in calls] == [[51, 82], [51, 82] * 2]


def test_python_keeps_objectives(running: Run, runs: list[int]) -> None:
    server = began(running(models.linear, batching=Options(latency_objective="p99 1s")), runs)
    assert server.caller.predict({"x": X})["y"].tolist() == [[10]]
    assert len(runs) == 1


def test_python_runs_requests_with_a_time_limit(running: Run, runs: list[int]) -> None:
    server = began(running(models.linear, isolation=IsolationOptions(run_timeout=60.0)), runs)
    assert server.caller.predict({"x": X})["y"].tolist() == [[10]]
    assert runs == [1]


def test_plain_and_other_requests_at_the_same_time(running: Run, served: Stop) -> None:
    """A batch may have tasks of both kinds, and no thread waits for another one's lock."""
    server = running(models.linear, batching=Options(max_batch_size=8, num_batch_threads=2))
    request = predict_request({"x": X}).SerializeToString()
    failures = list[object]()

    def call(more: bytes) -> None:
        for _ in range(200):
            answer = server.caller.send_bytes(PREDICT, request + more)
            if not isinstance(answer, bytes):
                failures.append(answer)

    callers = [threading.Thread(target=call, args=(more,)) for more in (b"", SEEN) * 4]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(ANSWER_WITHIN)
    assert failures == []
    assert served(server).requests == 1600


def test_an_unload_runs_and_counts_the_waiting_requests(running: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "headrace_server")
    options = Options(max_batch_size=64, batch_timeout_micros=60_000_000, num_batch_threads=1)
    server = running(models.linear, batching=options, file_system_poll_wait_seconds=0.05)
    calls = [server.caller.begin(predict_request({"x": X})) for _ in range(5)]
    server.caller.call(status_request())  # once this is answered, the calls before it have arrived
    models.linear(server.base_path / "2")
    assert [call.result(ANSWER_WITHIN).outputs["y"].float_val[:] for call in calls] == [[10]] * 5
    counted = "served model:1 serving_default: 5 requests, 5 rows in 1 batches"
    assert eventually(lambda: any(counted in message for message in caplog.messages))


def test_python_frees_the_memory_of_large_outputs(
    running: Run, runs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    grown, grew = list[Shapes](), Arena.grew

    def seen(arena: Arena, inputs: Shapes) -> None:
        grown.append(inputs)
        grew(arena, inputs)

    monkeypatch.setattr(Arena, "grew", seen)
    server = began(running(partial(models.repeated, columns=100_000)), runs)
    grown.clear()
    x = np.ones((1, 1), np.float32)

    assert server.caller.predict({"x": x})["y"].shape == (1, 100_000)
    assert eventually(lambda: grown) == [{"x": ((1, 1), np.dtype(np.float32))}]
    assert runs == []
    assert server.caller.predict({"x": x})["y"].shape == (1, 100_000)
    assert runs == [1]
    for _ in range(2):  # Python runs every second batch with a large output
        assert server.caller.predict({"x": x})["y"].shape == (1, 100_000)
    assert runs == [1, 1]


def test_a_run_counts_as_use(running: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    servables, init = list[Servable](), Servable.__init__

    def seen(self: Servable, *args: object, **named: object) -> None:
        init(self, *args, **{**named, "marks_use": True})  # type: ignore[arg-type]
        servables.append(self)

    monkeypatch.setattr(Servable, "__init__", seen)
    server = running(models.linear)
    before = time.monotonic()
    server.caller.predict({"x": X})
    assert servables[-1].used >= before


def test_a_count_waits_for_another_thread_that_is_counting(running: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    tell, may_go, order = Runs.add_native, threading.Event(), list[str]()
    telling = list[Runs]()

    def tell_later(runs: Runs, *columns: bytes) -> None:
        telling.append(runs)
        assert may_go.wait(ANSWER_WITHIN)
        tell(runs, *columns)
        order.append("told")

    made = list[Scheduler]()
    run_natively = Scheduler.run_natively

    def seen(scheduler: Scheduler, model: Mapping[str, object]) -> None:
        made.append(scheduler)
        run_natively(scheduler, model)

    monkeypatch.setattr(Runs, "add_native", tell_later)
    monkeypatch.setattr(Scheduler, "run_natively", seen)
    server = running(models.linear)
    assert server.caller.predict({"x": X})["y"].tolist() == [[10]]
    first = threading.Thread(target=made[-1].count_native_runs)
    first.start()
    eventually(lambda: telling)
    may_go.set()  # this thread has the interpreter lock, so `first` cannot go on yet
    made[-1].count_native_runs()
    order.append("asked")
    first.join()
    assert order == ["told", "asked"]


def test_runs_whose_count_fails_are_reported_and_the_next_ones_are_counted(
    running: Run, served: Stop, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell, fails, reported = Runs.add_native, [True], list[str]()

    def tell_or_fail(runs: Runs, *columns: bytes) -> None:
        if fails and fails.pop():
            raise ValueError("cannot count")
        tell(runs, *columns)

    monkeypatch.setattr(Runs, "add_native", tell_or_fail)
    monkeypatch.setattr(sys, "unraisablehook", lambda failure: reported.append(str(failure.exc_value)))
    server = running(models.linear)
    server.caller.predict({"x": X})
    answered = ':tensorflow:serving:request_count{model_name="model",status="OK"}'
    assert f"{answered} 1\n" in server._server._metrics.page().decode()
    assert reported == ["cannot count"]
    server.caller.predict({"x": X})
    assert f"{answered} 2\n" in server._server._metrics.page().decode()
    assert served(server) == (1, 1, 1)
