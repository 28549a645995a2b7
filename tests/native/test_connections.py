"""Connections of the native transport: the threads that they live on, and what only it does with their callers."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from headrace_protos import Code
from headrace_server.errors import ServingError
from tests import models
from tests.calls import Caller, floats, predict_request
from tests.conftest import Run
from tests.frames import DATA, PING, PREFACE, PRIORITY, RST_STREAM, Connection, call, frame
from tests.pem import Authority, write
from tests.running import START_WITHIN, eventually

pytest.importorskip("headrace_native")

X = floats([1, 2, 3, 4])


@pytest.fixture(scope="module")
def transport() -> str:
    return "native"


def threads() -> set[str]:
    """The names of this process's threads that carry connections."""
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


def test_silent_caller_is_left(running: Run) -> None:
    arguments = "grpc.keepalive_time_ms=100,grpc.keepalive_timeout_ms=100,grpc.keepalive_permit_without_calls=1"
    server = running(models.linear, grpc_channel_arguments=arguments)
    with Connection(server.port, silent=True) as connection:
        assert PING in [heard.kind for heard in connection.hear()]


def test_answers_are_not_compressed_for_who_cannot_read_them(running: Run) -> None:
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


def test_a_call_is_run_while_its_thread_has_no_rest(running: Run) -> None:
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
def test_a_caller_that_has_said_nothing_is_not_waited_for(running: Run, said: bytes) -> None:
    server = running(models.linear, drain_seconds=2 * START_WITHIN)
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(said)
        server.caller.predict({"x": X})
        server.close()


def test_key_that_only_grpcio_can_use(running: Run, tmp_path: Path) -> None:
    file = write(tmp_path / "ssl.pbtxt", Authority(tmp_path).sign("server", "P-521"))
    with pytest.raises(ServingError, match="the native transport cannot use its key or certificates") as raised:
        running(models.linear, ssl_config_file=str(file))
    assert raised.value.code == Code.INVALID_ARGUMENT
    assert str(file) in raised.value.message
