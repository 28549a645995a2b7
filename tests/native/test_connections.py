"""Connections of the native transport: the threads that serve them, and behaviour that only this transport has."""

import socket
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from headrace_batching import Options, bridge
from headrace_batching.task import Arrays
from headrace_protos import Code
from headrace_server.backends.onnx.backend import OnnxBackend
from headrace_server.errors import ServingError
from headrace_server.transports.grpc.selection import choose
from tests.conftest import Run
from tests.support import models
from tests.support.calls import ANSWER_WITHIN, Caller, arrays, floats, predict_request
from tests.support.frames import DATA, PING, PREFACE, PRIORITY, RST_STREAM, Connection, call, frame
from tests.support.pem import Authority, write
from tests.support.running import START_WITHIN, eventually

pytest.importorskip("headrace_native")

X = floats([1, 2, 3, 4])


@pytest.fixture(scope="module")
def transport() -> str:
    return "native"


def threads() -> set[str]:
    """The names of this process's connection threads."""
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return {name for name in names if name.startswith("transport-")}


def test_connections_are_spread_over_threads(running: Run) -> None:
    server = running(models.linear, transport_threads=3)
    eventually(lambda: threads() == {"transport-0", "transport-1", "transport-2"})
    callers = [Caller(server.port) for _ in range(6)]
    answers: list[object] = []

    def ask(caller: Caller) -> None:
        answers.extend(caller.predict({"x": X})["y"].tolist() for _ in range(20))

    asking = [threading.Thread(target=ask, args=(caller,)) for caller in callers]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert answers == [[[10]]] * 120
    for caller in callers:
        caller.close()
    server.stop()
    assert not threads()


def test_a_silent_caller_is_disconnected_at_the_stop(running: Run) -> None:
    arguments = "grpc.keepalive_time_ms=100,grpc.keepalive_timeout_ms=100,grpc.keepalive_permit_without_calls=1"
    server = running(models.linear, grpc_channel_arguments=arguments)
    with Connection(server.port, silent=True) as connection:
        assert PING in [heard.kind for heard in connection.hear()]


def test_answers_are_not_compressed_for_clients_that_cannot_read_them(running: Run) -> None:
    arguments = "grpc.default_compression_algorithm=2"
    server = running(partial(models.identity, dims=("N", "W")), grpc_channel_arguments=arguments)
    request = predict_request({"x": np.zeros((1, 1000), np.float32)}).SerializeToString()
    with Connection(server.port) as connection:
        connection.say(call(1, request, grpc_accept_encoding="identity,deflate"))
        assert connection.next(DATA).payload[0] == 0


def test_many_calls_cancelled_at_once_leave_the_others_alone(running: Run) -> None:
    request = predict_request({"x": X}).SerializeToString()
    with Connection(running(models.linear).port) as connection:
        left = [call(stream, request) + frame(RST_STREAM, 0, stream, bytes(4)) for stream in range(1, 301, 2)]
        connection.say(*left, call(301, request))
        assert any(heard.kind == DATA and heard.stream == 301 for heard in connection.hear())


def test_a_request_during_a_single_call_is_left_to_a_batch_thread(
    running: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, held, run = threading.Event(), threading.Event(), OnnxBackend.run
    go_on.set()

    def seen(backend: OnnxBackend, signature: str, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        if not threading.current_thread().name.startswith("batch-"):
            held.set()
            assert go_on.wait(ANSWER_WITHIN)
        return run(backend, signature, inputs, outputs)

    def fit_batching(_: OnnxBackend, options: Options) -> Options:
        return replace(options, max_running_batches=1)

    monkeypatch.setattr(OnnxBackend, "native_run", lambda *_: None)  # native runs do not call Python code
    monkeypatch.setattr(OnnxBackend, "run", seen)
    monkeypatch.setattr(OnnxBackend, "fit_batching", fit_batching, raising=False)
    monkeypatch.setattr(
        bridge, "SHARED", replace(bridge.SHARED, pace=replace(bridge.SHARED.pace, quick=1.0, slow=10.0))
    )  # also on a busy machine
    server = running(models.linear, transport_threads=2)
    held.clear()  # forgets the warm-up run
    eventually(lambda: server.caller.predict({"x": X}) and held.is_set())

    with Connection(server.port) as connection:  # the other thread serves it
        go_on.clear()
        held.clear()
        first = server.caller.begin(predict_request({"x": X}))
        assert held.wait(ANSWER_WITHIN)
        connection.say(call(1, predict_request({"x": X}).SerializeToString()))
        eventually(lambda: b':headrace:queue_rows{model_name="model",version="1"} 1' in server._server._metrics.page())
        go_on.set()
        assert connection.next(DATA).stream == 1
    assert arrays(first.result())["y"].tolist() == [[10]]


def test_a_call_is_answered_while_its_connection_is_flooded(running: Run) -> None:
    request = predict_request({"x": X}).SerializeToString()
    priorities = frame(PRIORITY, 0, 5, bytes(5)) * 50_000
    with Connection(running(models.linear).port) as connection:
        answered = threading.Event()

        def flood() -> bool:
            while not answered.is_set():
                connection.say(priorities)
            return True

        with ThreadPoolExecutor() as pool:
            connection.say(priorities, call(1, request))
            flooding = pool.submit(flood)
            try:
                assert connection.next(DATA).stream == 1
                assert not flooding.done()
            finally:
                answered.set()


@pytest.mark.parametrize("said", [b"", PREFACE[:10]])
def test_a_silent_caller_does_not_delay_the_stop(running: Run, said: bytes) -> None:
    server = running(models.linear, drain_seconds=2 * START_WITHIN)
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(said)
        server.caller.predict({"x": X})
        server.close()


def test_a_key_that_only_grpcio_can_use(running: Run, tmp_path: Path) -> None:
    file = write(tmp_path / "ssl.pbtxt", Authority(tmp_path).sign("server", "P-521"))
    with pytest.raises(ServingError, match="the native transport cannot use its key or certificates") as raised:
        running(models.linear, ssl_config_file=str(file))
    assert raised.value.code == Code.INVALID_ARGUMENT
    assert str(file) in raised.value.message
    assert choose("auto", alts=False, ssl_config_file=str(file)) == "grpcio"
