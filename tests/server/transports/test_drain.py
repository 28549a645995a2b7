"""The shutdown of a server: calls in flight are answered, but later ones are not."""

import asyncio
import re
import signal
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from headrace_server import Config, Server
from tests.conftest import Run, Serve
from tests.support import models
from tests.support.calls import ANSWER_WITHIN, Caller, arrays, predict_request, refusal_of, status_request
from tests.support.ports import free_port
from tests.support.running import eventually, read_served

SLOW = 300_000  # steps of the loop: they take some tenths of a second

# gRPC's own codes: CANCELLED if the call and the GOAWAY cross on an open connection.
REFUSED = (StatusCode.UNAVAILABLE, StatusCode.CANCELLED)

_DRAINING = re.compile("the server drains")
_WAITING = re.compile("Could not find base path|No versions of servable model")


def send(caller: Caller, steps: int) -> Any:
    """Sends a request; returns once it has arrived, which the answer to a later call on the same connection shows."""
    future = caller.begin(predict_request({"steps": np.array([steps])}))
    caller.call(status_request())
    return future


def refuses(port: int) -> bool:
    """Whether nothing listens on a port."""
    try:
        with socket.create_connection(("127.0.0.1", port)):
            return False
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # the socket was closed while this connection waited to be accepted
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_lets_calls_in_flight_end(serving: Serve, tmp_path: Path, number: signal.Signals) -> None:
    models.counting(tmp_path / "1")
    process = serving(tmp_path)
    caller = process.started()
    calls = [send(caller, SLOW + more) for more in range(3)]
    process.process.send_signal(number)
    process.wait_for(_DRAINING)
    eventually(lambda: refuses(caller.port))
    assert not any(call.done() for call in calls)
    assert caller.refusal(status_request()).code in REFUSED
    assert [arrays(call.result())["y"].item() for call in calls] == [SLOW, SLOW + 1, SLOW + 2]
    assert process.ended() == 0
    assert read_served(process.log).requests == 3
    assert not any("Traceback" in line for line in process.log)
    caller.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_cuts_the_drain_short(serving: Serve, tmp_path: Path, number: signal.Signals) -> None:
    models.counting(tmp_path / "1")
    process = serving(tmp_path)
    caller = process.started()
    call = send(caller, 1 << 40)
    process.terminate()
    process.wait_for(_DRAINING)
    process.process.send_signal(number)
    assert process.ended() == 0
    assert refusal_of(call.exception()).code in REFUSED
    caller.close()


def test_third_signal_ends_it_at_once(serving: Serve, tmp_path: Path) -> None:
    models.counting(tmp_path / "1")
    process = serving(tmp_path)
    caller = process.started()
    call = send(caller, 1 << 40)
    process.terminate()
    process.wait_for(_DRAINING)

    def told_again() -> bool:
        process.terminate()
        return process.process.poll() is not None

    eventually(told_again)
    assert process.ended() == -signal.SIGTERM
    assert refusal_of(call.exception()).code in REFUSED
    caller.close()


def test_calls_that_outlast_the_drain_are_ended(running: Run) -> None:
    server = running(models.counting, drain_seconds=0.01)
    call = send(server.caller, SLOW)
    server.stop()
    assert refusal_of(call.exception()).code in REFUSED


@pytest.mark.parametrize("folder", ["missing", "."])
def test_signal_while_it_waits_for_a_model(serving: Serve, tmp_path: Path, folder: str) -> None:
    process = serving(tmp_path / folder)
    process.wait_for(_WAITING)
    process.terminate()
    assert process.ended() == 0
    assert not any("Traceback" in line for line in process.log)


def test_idle_server_says_that_it_ran_nothing(serving: Serve, tmp_path: Path) -> None:
    models.linear(tmp_path / "1")
    process = serving(tmp_path)
    process.started().close()
    process.terminate()
    assert process.ended() == 0
    assert read_served(process.log) == (0, 0, 0)


POST = b"POST /v1/models/default:predict HTTP/1.1\r\nHost: a\r\n"


@pytest.mark.parametrize(
    "begun",
    [
        pytest.param(POST, id="half a head"),
        pytest.param(POST + b"Content-Length: 99\r\n\r\n", id="a head"),
        pytest.param(POST + b"Content-Length: 99\r\n\r\n{", id="half a small body"),
        pytest.param(POST + b"Content-Length: 99999999\r\n\r\n{", id="half a large body"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{", id="half a chunk"),
        pytest.param(b"GET /v1/models/default HTTP/1.1\r\nHost: a\r\n\r\n" + POST, id="half a head after a request"),
    ],
)
def test_a_rest_request_that_never_becomes_complete_does_not_delay_the_end(
    serving: Serve, tmp_path: Path, begun: bytes
) -> None:
    models.linear(tmp_path / "1")
    port = free_port()
    process = serving(tmp_path, f"--rest_api_port={port}", "--drain_seconds=3600")
    process.started().close()
    process.wait_for(re.compile("Exporting HTTP"))
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(begun)
        process.terminate()
        assert process.ended() == 0


def test_a_lame_duck_says_that_it_is_not_ready_and_still_answers(serving: Serve, tmp_path: Path) -> None:
    models.linear(tmp_path / "1")
    process = serving(tmp_path, "--lame_duck_seconds=60", "--drain_seconds=5")
    caller = process.started()
    ask = caller.channel.unary_unary(
        "/grpc.health.v1.Health/Check", HealthCheckRequest.SerializeToString, HealthCheckResponse.FromString
    )
    assert ask(HealthCheckRequest()).status == HealthCheckResponse.SERVING
    process.terminate()
    process.wait_for(re.compile("no longer ready"))
    eventually(lambda: ask(HealthCheckRequest()).status == HealthCheckResponse.NOT_SERVING)
    assert caller.predict({"x": np.array([[1, 2, 3, 4]], np.float32)})["y"].tolist() == [[10]]
    process.terminate()  # a second stop does not wait
    assert process.ended() == 0
    caller.close()


def test_a_server_that_stops_as_soon_as_it_has_started_drains(tmp_path: Path, transport: str) -> None:
    models.linear(tmp_path / "m" / "1")

    async def start_and_stop() -> None:
        config = Config(
            port=0, rest_api_port=free_port(), transport=transport, model_name="m", model_base_path=str(tmp_path / "m")
        )
        server = Server(config)
        await server.start()
        await asyncio.wait_for(server.stop(), ANSWER_WITHIN)

    for _ in range(10):
        asyncio.run(start_and_stop())
