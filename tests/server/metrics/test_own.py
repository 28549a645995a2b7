"""What `/metrics` serves: headrace's own metrics in seconds and bytes, following Prometheus's conventions."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from headrace_batching import Options
from headrace_server.metrics.process import read_process
from tests.conftest import Rest, Run
from tests.support import models
from tests.support.calls import floats, predict_request, status_request
from tests.support.ports import free_port
from tests.support.prometheus import lint, samples
from tests.support.rest_calls import ROW, RestCaller
from tests.support.running import eventually

X = floats([1, 2, 3, 4])
SLOW = 100_000  # steps of the loop: they take a tenth of a second


@pytest.fixture(scope="module")
def page(running: Run) -> str:
    """The page of a server after good and bad calls over both protocols."""
    port = free_port()
    server = running(models.linear, rest_api_port=port, batching=Options(max_batch_size=4, allowed_batch_sizes=(2, 4)))
    rest = RestCaller(port)
    server.caller.predict({"x": X})
    server.caller.refusal(predict_request({"x": X}, name="nobody"))
    rest.predict(ROW)
    rest.refusal("{")
    rest.get("/v1/models/model")
    rest.send("POST", "/v2/models/model/infer", {"inputs": []})
    padded = 'headrace_padding_rows_total{model="model",version="1"} 2'
    page = eventually(lambda: text if padded in (text := rest.get("/metrics").text) else "")
    rest.close()
    return page


def test_promtool_finds_nothing(page: str) -> None:
    assert lint(page) == ""


def test_promtool_would_find_something(page: str) -> None:
    assert "no help text" in lint(page.replace("# HELP headrace_requests_total", "# headrace_requests_total"))


def test_calls_of_both_protocols(page: str, transport: str) -> None:
    counted = samples(page)
    call = 'headrace_requests_total{protocol="%s",method="%s",model="%s",code="%s"}'
    predict = "tensorflow.serving.PredictionService/Predict"
    expected = {
        call % ("grpc", predict, "model", "OK"): 1,
        call % ("grpc", predict, "(other)", "NOT_FOUND"): 1,
        call % ("rest", "predict", "model", "OK"): 1,
        call % ("rest", "predict", "model", "INVALID_ARGUMENT"): 1,
        call % ("rest", "", "model", "OK"): 1,
        call % ("rest", "infer", "model", "INVALID_ARGUMENT"): 1,
    }
    assert {series: counted.get(series) for series in expected} == expected
    assert 'headrace_build_info{version="' in page
    assert f'transport="{transport}"}} 1' in page


def test_latencies_are_in_seconds(page: str) -> None:
    counted = samples(page)
    total = counted['headrace_request_seconds_sum{protocol="rest",method="predict",model="model",code="OK"}']
    assert 0 < total < 60
    assert (
        'headrace_request_seconds_bucket{protocol="rest",method="predict",model="model",code="OK",le="1e-05"}' in page
    )
    parts = {
        part: counted[f'headrace_batch_part_seconds_sum{{model="model",version="1",part="{part}"}}']
        for part in ("join", "run", "split")
    }
    assert sum(parts.values()) == pytest.approx(counted['headrace_batch_seconds_sum{model="model",version="1"}'])
    assert parts["run"] > 0
    assert counted['headrace_queue_seconds_count{model="model",version="1"}'] == 2


def test_the_state_of_versions(running: Run) -> None:
    port = free_port()
    server = running(models.linear, rest_api_port=port, file_system_poll_wait_seconds=0.02)
    models.broken(server.base_path / "unfinished").parent.rename(server.base_path / "2")
    rest = RestCaller(port)

    def states() -> list[str]:
        return [line for line in rest.get("/metrics").text.splitlines() if line.startswith("headrace_model_state{")]

    expected = [
        'headrace_model_state{model="model",version="1",state="available"} 1',
        'headrace_model_state{model="model",version="2",state="end"} 1',
    ]
    eventually(lambda: states() == expected)
    rest.close()


def test_gauges_for_an_autoscaler(running: Run) -> None:
    port = free_port()
    options = Options(num_batch_threads=1, max_batch_size=1, max_enqueued_batches=3)
    server = running(models.counting, rest_api_port=port, batching=options)
    rest = RestCaller(port)
    slow = predict_request({"steps": np.array([SLOW])})
    expected = {
        "headrace_batch_threads{}": 1.0,
        "headrace_batch_threads_busy{}": 1.0,
        "headrace_batch_threads_busy_ratio{}": 1.0,
        "headrace_queue_rows_per_busy_thread{}": 3.0,
    }

    def shown() -> dict[str, float]:
        return samples(rest.get("/metrics").text)

    def one_runs_while_three_wait() -> bool:
        """Whether the page shows it. If the machine is stalled, the calls may have ended before the page is read."""
        calls = [server.caller.begin(slow)]
        server.caller.call(status_request())  # once this is answered, the call before it has arrived
        eventually(lambda: calls[0].done() or shown()["headrace_batch_threads_busy{}"] == 1)
        calls += [server.caller.begin(slow) for _ in range(3)]
        while not (found := expected.items() <= shown().items()) and not calls[-1].done():
            pass
        for call in calls:
            call.result()
        return found

    eventually(one_runs_while_three_wait)
    eventually(lambda: shown()["headrace_batch_threads_busy{}"] == 0)
    rest.close()


def test_off(resting: Rest) -> None:
    rest = resting(models.linear, enable_metrics=False)
    assert rest.get("/metrics").status == 404
    assert rest.get("/monitoring/prometheus/metrics").status == 404


def test_the_process() -> None:
    before = read_process()
    with open(os.devnull, "rb"):
        assert read_process()["process_open_fds"] == before["process_open_fds"] + 1
    assert before["process_cpu_seconds_total"] > 0
    assert before["process_resident_memory_bytes"] < before["process_virtual_memory_bytes"]
    assert time.time() - 24 * 3600 < before["process_start_time_seconds"] <= time.time()


def test_a_system_without_proc(tmp_path: Path) -> None:
    assert set(read_process(tmp_path)) == {"process_cpu_seconds_total", "process_max_fds"}
