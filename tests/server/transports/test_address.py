"""Ports: free ones, taken ones, and when one is opened."""

import re
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from headrace_protos import Code, PredictResponse
from headrace_server.errors import ServingError
from headrace_server.transports.grpc.addresses import channel_arguments
from tests.conftest import Run, Serve
from tests.support import models
from tests.support.calls import ANSWER_WITHIN, PREDICT, arrays, floats, predict_request

X = floats([1, 2, 3, 4])


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which another socket listens that allows others to share it."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("0.0.0.0", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.fixture
def free() -> int:
    """A port on which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_log_names_the_free_port_that_was_taken(serving: Serve, tmp_path: Path) -> None:
    models.linear(tmp_path / "1")
    caller = serving(tmp_path).started()
    assert caller.predict({"x": X})["y"].tolist() == [[10]]
    caller.close()


def test_taken_port_is_an_error_that_names_it(serving: Serve, tmp_path: Path, taken: int) -> None:
    models.linear(tmp_path / "1")
    process = serving(tmp_path, f"--port={taken}")
    assert process.ended() == 1
    assert process.log[-1] == (
        f"headrace: cannot start: UNAVAILABLE: port {taken} is in use: choose another with --port"
    )
    assert not any("Traceback" in line for line in process.log)


def test_two_servers_never_share_a_port(running: Run) -> None:
    first = running(models.linear)
    with pytest.raises(ServingError, match=f"0.0.0.0:{first.port}") as raised:
        running(models.linear, port=first.port)
    assert raised.value.code == Code.INVALID_ARGUMENT
    assert first.caller.predict({"x": X})["y"].tolist() == [[10]]


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_callers_can_use_both_address_families(running: Run) -> None:
    port = running(models.linear).port

    for address in (f"ipv4:127.0.0.1:{port}", f"ipv6:[::1]:{port}"):
        with grpc.insecure_channel(address) as channel:
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(PREDICT)
            answer = call(predict_request({"x": X}).SerializeToString(), timeout=ANSWER_WITHIN)
        assert arrays(PredictResponse.FromString(answer))["y"].tolist() == [[10]]


@pytest.mark.parametrize(
    ("host", "others"),
    [
        ("127.0.0.1", "127.0.0.2"),
        pytest.param("::1", "127.0.0.1", marks=pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6")),
    ],
)
def test_the_server_listens_only_on_the_configured_address(running: Run, host: str, others: str, free: int) -> None:
    port = running(models.linear, host=host, rest_api_host=host, rest_api_port=free).port

    for listening in (port, free):
        socket.create_connection((host, listening), ANSWER_WITHIN).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((others, listening), ANSWER_WITHIN)


def test_port_opens_once_a_model_is_ready(serving: Serve, tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    process = serving(tmp_path, f"--port={port}")
    process.wait_for(re.compile("No versions of servable model found under base path"))
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        pass
    models.linear(tmp_path / "unfinished").parent.rename(tmp_path / "1")
    caller = process.started()
    assert caller.predict({"x": X})["y"].tolist() == [[10]]
    caller.close()


def test_broken_model_is_an_error_that_names_its_file(serving: Serve, tmp_path: Path) -> None:
    models.linear(tmp_path / "1").write_bytes(b"garbage")
    process = serving(tmp_path, "--max_num_load_retries=0")
    assert process.ended() == 1
    assert process.log[-1].startswith("headrace: cannot start: UNKNOWN: 1 servable(s) did not become available: ")
    assert str(tmp_path / "1" / models.FILE) in process.log[-1]


def test_unix_socket_replaces_an_existing_one(running: Run, tmp_path: Path) -> None:
    path = str(tmp_path / "server.sock")
    first = running(models.linear, grpc_socket_path=path)
    assert first.port == 0
    assert over(path) == [[10]]
    running(partial(models.linear, bias=5), grpc_socket_path=path)
    assert over(path) == [[15]]


def test_unix_socket_is_removed_with_its_server(running: Run, tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    server = running(models.linear, grpc_socket_path=str(path))
    assert path.is_socket()
    server.stop()
    assert not path.exists()


def test_an_existing_file_is_not_replaced_by_a_unix_socket(running: Run, tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(ServingError, match=f"Failed to BuildAndStart gRPC server: unix:{path}: "):
        running(models.linear, grpc_socket_path=str(path))
    assert path.read_text() == "data"


def test_unix_socket_next_to_a_port(running: Run, tmp_path: Path, free: int) -> None:
    server = running(models.linear, grpc_socket_path=str(tmp_path / "server.sock"), port=free)
    assert server.port == free
    assert server.caller.predict({"x": X})["y"].tolist() == over(str(tmp_path / "server.sock")) == [[10]]


def test_a_client_with_a_list_of_addresses(running: Run) -> None:
    server = running(models.linear)
    target = f"ipv4:127.0.0.1:{server.port},127.0.0.1:{server.port}"
    assert answered(target, ("grpc.lb_policy_name", "round_robin")) == [[10]]


@pytest.mark.parametrize(
    "name", ["localhost:8500", "[::1]:8500", "a:1,b:2", "a b", "%2Ftmp%2Fs", "{model}", "a/b", "é"]
)
def test_any_authority_is_accepted(running: Run, name: str) -> None:
    server = running(models.linear)
    for _ in range(2):
        assert answered(f"127.0.0.1:{server.port}", ("grpc.default_authority", name)) == [[10]]


def test_unix_socket_in_a_missing_folder(running: Run, tmp_path: Path) -> None:
    path = tmp_path / "missing" / "server.sock"
    with pytest.raises(ServingError, match=f"Failed to BuildAndStart gRPC server: unix:{path}: ") as raised:
        running(models.linear, grpc_socket_path=str(path))
    assert raised.value.code == Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("", []),
        ("a=1,b=-2,c=+3", [("a", 1), ("b", -2), ("c", 3)]),
        ("a=2147483647,b=2147483648", [("a", 2147483647), ("b", "2147483648")]),
        ("a=,b=x=y,c=1.5,d=--1,e=\u0661", [("a", ""), ("b", "x=y"), ("c", "1.5"), ("d", "--1"), ("e", "\u0661")]),
        ("a=1,,a=2,", [("a", 1), ("a", 2)]),
    ],
)
def test_channel_arguments(text: str, arguments: list[tuple[str, int | str]]) -> None:
    assert channel_arguments(text) == arguments


def over(path: str) -> Any:
    """The answer of the listener on a UNIX socket."""
    return answered(f"unix:{path}")


def answered(target: str, *options: tuple[str, str]) -> Any:
    """The last of three answers to a new client."""
    with grpc.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1), *options]) as channel:
        send: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(PREDICT)
        for _ in range(3):
            data = send(predict_request({"x": X}).SerializeToString(), timeout=ANSWER_WITHIN)
    return arrays(PredictResponse.FromString(data))["y"].tolist()
