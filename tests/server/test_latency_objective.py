"""A server with a latency objective, on every transport: what it learns, which calls it refuses, and its messages."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from headrace_server.commands.headrace import main
from tests.conftest import Run
from tests.support.calls import predict_request, refusal_of
from tests.support.ports import free_port
from tests.support.prometheus import samples
from tests.support.rest_calls import RestCaller
from tests.support.running import RunningServer, eventually

OBJECTIVE = "p95 400ms"
TOO_LATE = f"an answer would come too late for the latency objective {OBJECTIVE}"

X = {"x": np.zeros((1, 4), np.float32)}

RUN = 0.1
"""The seconds of a run, whatever its size; most of the time of a call on any machine."""

_CODE = f"""
import time
import numpy as np

INPUTS = {{"x": ("float32", [None, 4])}}
OUTPUTS = {{"y": ("float32", [None, 4])}}


def predict(inputs):
    time.sleep({RUN})
    return {{"y": inputs["x"]}}
"""

_LABELS = 'model="model",version="1",signature="serving_default"'
_SIZE = f"headrace_latency_objective_batch_rows{{{_LABELS}}}"


def slow(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(_CODE)
    return folder


def slow_with_its_own(folder: Path) -> Path:
    (folder.parent / "model.toml").write_text('[batching]\nlatency_objective = "p90 2s"\nenabled = true\n')
    return slow(folder)


def times_of(rest: RestCaller) -> dict[str, float]:
    counted = samples(rest.get("/metrics").text)
    name = f"headrace_latency_objective_seconds{{{_LABELS},kind="
    return {
        kind: counted[f'{name}"{kind}"}}']
        for kind in ("objective", "latency", "wait")
        if f'{name}"{kind}"}}' in counted
    }


@pytest.fixture(scope="module")
def rest_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def server(running: Run, rest_port: int) -> RunningServer:
    made = running(slow, rest_api_port=rest_port, latency_objective=OBJECTIVE)
    for _ in range(3):
        made.caller.predict(X)
    return made


@pytest.fixture
def rest(rest_port: int) -> Iterator[RestCaller]:
    caller = RestCaller(rest_port)
    yield caller
    caller.close()


def crowd(server: RunningServer, size: int = 400) -> list[Any]:
    """Makes far more concurrent calls than can be answered in time; returns how they ended."""
    calls = [server.caller.begin(predict_request(X)) for _ in range(size)]
    return [call.exception() for call in calls]


def test_most_of_a_burst_is_refused_with_the_reason(server: RunningServer, rest: RestCaller) -> None:
    ends = [error for error in crowd(server) if error is not None]
    counted = 'headrace_refusals_total{model="model",version="1",reason="objective_missed"}'

    assert len(ends) > 100
    assert {refusal_of(error).code for error in ends} == {grpc.StatusCode.UNAVAILABLE}
    assert all(refusal_of(error).text.endswith(TOO_LATE) for error in ends)
    assert eventually(lambda: samples(rest.get("/metrics").text).get(counted, 0) >= len(ends))


def test_accepted_requests_are_answered(server: RunningServer) -> None:
    assert sum(error is None for error in crowd(server)) >= 2
    assert server.caller.predict(X)["y"].shape == (1, 4)


def test_the_refusal_over_http(server: RunningServer, rest: RestCaller) -> None:
    others = [server.caller.begin(predict_request(X)) for _ in range(400)]
    body = {"instances": [[0, 0, 0, 0]]}
    answers = [rest.send("POST", "/v1/models/model:predict", body) for _ in range(20)]
    refused = [answer for answer in answers if answer.status != 200]
    for call in others:
        call.exception()

    assert all(answer.status == 503 and answer.error[1].endswith(TOO_LATE) for answer in refused)


@pytest.mark.usefixtures("server")
def test_the_estimates_are_on_the_metrics_page(rest: RestCaller) -> None:
    times = times_of(rest)

    assert times["objective"] == pytest.approx(0.4)
    assert times["latency"] >= RUN
    assert samples(rest.get("/metrics").text)[_SIZE] >= 1


def test_a_model_may_have_its_own_objective(running: Run) -> None:
    port = free_port()
    server = running(slow_with_its_own, rest_api_port=port, latency_objective=OBJECTIVE)
    server.caller.predict(X)

    rest = RestCaller(port)
    assert eventually(lambda: times_of(rest)).get("objective") == pytest.approx(2.0)
    rest.close()


@pytest.mark.parametrize("text", ["20", "p99 -3ms", "p101 2ms", "p99 0ms"])
def test_an_invalid_objective_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str) -> None:
    with pytest.raises(SystemExit):
        main(["serve", f"--model_base_path={tmp_path}", f"--latency_objective={text}"])

    said = capfd.readouterr().err
    assert '--latency_objective must be a percentile from p50 to p99.99 and a time, such as "p99 20ms"' in said
    assert repr(text) in said


def test_an_objective_needs_batching(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    flags = ["--latency_objective=p99 1s", "--enable_batching=false", "--port=0"]

    assert main(["serve", f"--model_base_path={tmp_path}", *flags]) == 1
    assert "--latency_objective needs --enable_batching, since it works through batching" in capfd.readouterr().err
