"""The metrics that a server counts for calls."""

from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from grpc import StatusCode

from headrace_batching import Options
from headrace_batching.task import Arrays
from headrace_protos import Code
from headrace_server import Config, Server
from headrace_server.backends.onnx.backend import OnnxBackend
from headrace_server.errors import ServingError
from tests.conftest import Run
from tests.support import models
from tests.support.calls import ANSWER_WITHIN, PREDICT, floats, predict_request, status_request
from tests.support.running import RunningServer, eventually

X = floats([1, 2, 3, 4])
SLOW = 500_000  # steps of the loop: they take some tenths of a second

M1 = 'model_name="model",version="1"'
CALL = 'method="tensorflow.serving.PredictionService/Predict",model_name="{}",code="{}"'


def lines(server: RunningServer) -> set[str]:
    """The page's lines."""
    return set(server._server._metrics.page().decode().splitlines())


def holds(server: RunningServer, line: str) -> Callable[[], bool]:
    return lambda: line in lines(server)


def nothing_waits(server: RunningServer) -> Callable[[], bool]:
    """Whether no rows wait; a version that has not run anything yet is not on the page."""
    return lambda: all(line.endswith(" 0") for line in lines(server) if line.startswith(":headrace:queue_rows"))


def test_calls_by_their_outcome(running: Run) -> None:
    server = running(models.linear)
    for _ in range(3):
        server.caller.predict({"x": X})
    server.caller.refusal(predict_request({"x": X}, name="nobody"))
    server.caller.refusal(predict_request({"y": X}))
    server.caller.send_bytes(PREDICT, b"\xff")
    server.caller.call(status_request())
    page = lines(server)

    assert {
        ':tensorflow:serving:request_count{model_name="model",status="OK"} 3',
        ':tensorflow:serving:request_count{model_name="(other)",status="NOT_FOUND"} 1',
        ':tensorflow:serving:request_count{model_name="model",status="INVALID_ARGUMENT"} 1',
        ':tensorflow:serving:request_count{model_name="",status="INTERNAL"} 1',
        ':tensorflow:serving:request_latency_count{model_name="model",API="Predict",entrypoint="GRPC"} 3',
        ':tensorflow:serving:runtime_latency_count{model_name="model",API="Predict",runtime="TF1"} 3',
        f":headrace:grpc_calls{{{CALL.format('model', 'OK')}}} 3",
        ':headrace:grpc_calls{method="tensorflow.serving.ModelService/GetModelStatus",model_name="model",code="OK"} 1',
        f":headrace:queue_rows{{{M1}}} 0",
    } <= page
    assert f":headrace:batch_rows_sum{{{M1}}} 3" in page


def test_padding_of_batches(running: Run) -> None:
    server = running(models.linear, batching=Options(max_batch_size=8, allowed_batch_sizes=(4, 8)))
    server.caller.predict({"x": floats([1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12])})

    wanted = {
        f":headrace:padding_rows{{{M1}}} 1",
        ":tensorflow:serving:batching_session:wrapped_run_count{} 1",
        ":tensorflow:serving:batching_session:input_batch_size_sum{} 3",
        ":tensorflow:serving:batching_session:processed_batch_size_sum{} 4",
        ':tensorflow:serving:batching_session:padding_size_sum{execution_batch_size="4"} 1',
        ':tensorflow:serving:batching_session:queuing_latency_count{thread_pool_name=""} 1',
    }
    eventually(lambda: wanted <= lines(server))  # counting may finish after the answer is sent


def test_without_batching_there_are_no_batching_session_metrics(running: Run) -> None:
    server = running(models.linear, enable_batching=False)
    server.caller.predict({"x": X})

    assert not [line for line in lines(server) if "batching_session" in line]
    assert f":headrace:batch_rows_sum{{{M1}}} 1" in lines(server)


def test_waiting_requests_are_refused_or_cancelled(running: Run) -> None:
    server = running(models.counting, batching=Options(num_batch_threads=1, max_batch_size=1, max_enqueued_batches=3))
    slow, quick = (predict_request({"steps": np.array([steps])}) for steps in (SLOW, 1))
    running_one = server.caller.begin(slow)
    server.caller.call(status_request())  # once this is answered, the call before it has arrived
    eventually(nothing_waits(server))
    assert server.caller.refusal(slow, timeout=0.05).code is StatusCode.DEADLINE_EXCEEDED
    # The client's deadline passes first, so the server may learn of the cancellation before its own deadline passes.
    late, left = (
        f":headrace:grpc_calls{{{CALL.format('model', code)}}} 1" for code in ("DEADLINE_EXCEEDED", "CANCELLED")
    )
    (ended,) = eventually(lambda: {late, left} & set(lines(server)))
    waiting = [server.caller.begin(slow), server.caller.begin(slow)]
    eventually(holds(server, f":headrace:queue_rows{{{M1}}} 3"))
    assert server.caller.refusal(quick).code is StatusCode.UNAVAILABLE
    for call in waiting:
        call.cancel()
    cancelled = len(waiting) + (ended == left)
    eventually(holds(server, f":headrace:grpc_calls{{{CALL.format('model', 'CANCELLED')}}} {cancelled}"))
    running_one.result()
    eventually(holds(server, f':headrace:refusals{{{M1},reason="queue_full"}} 1'))

    assert {
        f":headrace:grpc_calls{{{CALL.format('model', 'UNAVAILABLE')}}} 1",
        ':tensorflow:serving:request_count{model_name="model",status="UNAVAILABLE"} 1',
    } <= lines(server)


def test_refusals_are_counted_though_nothing_is_answered(running: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, run = Event(), OnnxBackend.run

    def held(backend: OnnxBackend, signature: str, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        assert go_on.wait(ANSWER_WITHIN)
        return run(backend, signature, inputs, outputs)

    monkeypatch.setattr(OnnxBackend, "native_run", lambda *_: None)  # native runs do not call Python code
    monkeypatch.setattr(OnnxBackend, "run", held)
    go_on.set()  # lets the warm-up run
    server = running(models.linear, batching=Options(num_batch_threads=1, max_batch_size=1, max_enqueued_batches=1))
    go_on.clear()
    calls = [server.caller.begin(predict_request({"x": X}))]
    server.caller.call(status_request())  # once this is answered, the call before it has arrived
    eventually(nothing_waits(server))
    calls.append(server.caller.begin(predict_request({"x": X})))
    eventually(holds(server, f":headrace:queue_rows{{{M1}}} 1"))

    for _ in range(3):
        assert server.caller.refusal(predict_request({"x": X})).code is StatusCode.UNAVAILABLE
    eventually(holds(server, f':headrace:refusals{{{M1},reason="queue_full"}} 3'))
    go_on.set()
    for call in calls:
        call.result()


def test_a_batch_that_fails(running: Run) -> None:
    server = running(models.lookup)
    server.caller.refusal(predict_request({"index": np.array([99])}))

    assert f":headrace:batch_failures{{{M1}}} 1" in lines(server)


def test_an_unloaded_version_is_counted_no_more(running: Run) -> None:
    server = running(models.linear, file_system_poll_wait_seconds=0.02)
    server.caller.predict({"x": X})
    eventually(lambda: any(M1 in line for line in lines(server)))  # the page learns of a version just after the routes
    models.linear(server.base_path / "unfinished").parent.rename(server.base_path / "2")
    eventually(lambda: not any(M1 in line for line in lines(server)))
    server.caller.predict({"x": X})

    eventually(holds(server, ':headrace:queue_rows{model_name="model",version="2"} 0'))


def config_file(tmp_path: Path, text: str) -> str:
    file = tmp_path / "monitoring.pbtxt"
    file.write_text(text)
    return str(file)


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("prometheus_config { enable: true path: '/metrics' }", ["/metrics"]),
        ("prometheus_config { enable: true path: '/scrape' }", ["/scrape"]),
        ("prometheus_config { enable: true }", ["/monitoring/prometheus/metrics"]),
        ("prometheus_config { path: '/metrics' }", []),
        ("", []),
    ],
)
def test_the_path_of_the_page(tmp_path: Path, text: str, paths: list[str]) -> None:
    assert list(server_with(tmp_path, text, enable_metrics=False)._pages) == paths
    assert set(server_with(tmp_path, text)._pages) == {"/metrics", *paths}


def test_a_path_that_no_request_can_have_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server_with(tmp_path, "prometheus_config { enable: true path: 'metrics' }")
    file = tmp_path / "monitoring.pbtxt"
    assert caplog.messages == [
        f"{file}: no request can reach the metrics: prometheus_config.path must begin with /; was 'metrics'"
    ]


def test_without_a_monitoring_file_both_pages_are_there(tmp_path: Path) -> None:
    made = Server(Config(model_base_path=str(tmp_path), rest_api_port=1))
    assert list(made._pages) == ["/metrics", "/monitoring/prometheus/metrics"]


def test_one_page_if_the_file_names_the_other(tmp_path: Path) -> None:
    made = server_with(tmp_path, "prometheus_config { enable: true path: '/metrics' }")
    made._metrics.grpc_method("tensorflow.serving.PredictionService", "Predict")("", "OK", 0.1)
    text = made._pages["/metrics"]().decode()
    assert ":tensorflow:serving:request_count" in text
    assert "headrace_requests_total" in text


def test_a_monitoring_file_that_does_not_parse(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="Invalid protobuf file: ") as raised:
        server_with(tmp_path, "prometheus_config { enable: maybe }")
    assert raised.value.code == Code.INVALID_ARGUMENT


def test_without_rest_there_is_no_page(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server = server_with(tmp_path, "not even read", rest_api_port=0)

    assert server._pages == {}
    assert caplog.messages == ["--monitoring_config_file is ignored: metrics are served on the REST port, which is off"]


def server_with(tmp_path: Path, text: str, rest_api_port: int = 1, *, enable_metrics: bool = True) -> Server:
    """A server that has not been started."""
    return Server(
        Config(
            model_base_path=str(tmp_path),
            rest_api_port=rest_api_port,
            enable_metrics=enable_metrics,
            monitoring_config_file=config_file(tmp_path, text),
        )
    )
