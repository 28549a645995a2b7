"""Which transport a client uses, and how headrace-native's transport differs from grpcio's."""

import _thread
import asyncio
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from headrace_client import AsyncClient, Client, Retry, ServerError
from headrace_client.channels.grpcio_impl import GrpcioChannel
from tests.support.running import eventually

from .conftest import Connect
from .service import Service, start

X = {"x": np.ones(1, np.float32)}
ONCE = Retry(attempts=1)
TRUSTED = grpc.ssl_channel_credentials()


def is_grpcio(**arguments: Any) -> bool:
    with Client(**{"target": "localhost:1", **arguments}) as client:
        return isinstance(client._channel, GrpcioChannel)


@pytest.fixture
def native() -> None:
    pytest.importorskip("headrace_native")


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://localhost:1")
    monkeypatch.setenv("no_proxy", "example.com, internal")


@pytest.mark.usefixtures("native")
def test_native_carries_calls_where_it_is_installed() -> None:
    assert not is_grpcio()
    assert not is_grpcio(credentials=TRUSTED)


@pytest.mark.usefixtures("native")
def test_the_thread_that_first_uses_a_client_may_end() -> None:
    """The allocator kept memory of the thread that had loaded it, and crashed in the next thread at that address."""
    code = """
import threading
from headrace_client import Client
for _ in range(50):
    thread = threading.Thread(target=lambda: Client("localhost:1").close())
    thread.start()
    thread.join()
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_grpcio_carries_calls_where_native_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "headrace_native", None)
    monkeypatch.setattr("headrace_client.channels.auto.find_spec", lambda _: None)

    assert is_grpcio()
    with pytest.raises(ValueError, match="headrace-native is not installed"):
        Client("localhost:1", transport="native")


def test_another_version_of_the_native_module_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "headrace_native.py").write_text("CLIENT_INTERFACE = 0")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "headrace_native", sys)
    monkeypatch.delitem(sys.modules, "headrace_native")

    assert is_grpcio()
    with pytest.raises(ValueError, match="has client interface 0"):
        Client("localhost:1", transport="native")


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            {"credentials": grpc.composite_channel_credentials(TRUSTED, grpc.access_token_call_credentials("x"))},
            "it supports only the credentials of grpc.ssl_channel_credentials",
        ),
        (
            {"credentials": TRUSTED, "options": [("grpc.ssl_target_name_override", "a b")]},
            "it cannot check a certificate for the name a b",
        ),
        ({"options": [("grpc.ssl_target_name_override", "a")]}, "it does not support the option grpc.ssl_target"),
        ({"options": [("grpc.keepalive_time_ms", 1000)]}, "it does not support the option grpc.keepalive_time_ms"),
        ({"target": "ipv4:127.0.0.1:1,127.0.0.2:1"}, "it sends every call to one address"),
        ({"target": "xds:///iris"}, "it cannot reach xds:"),
    ],
    ids=["tokens", "name", "name without TLS", "option", "several", "target"],
)
def test_grpcio_is_used_for_what_native_does_not_support(arguments: dict[str, Any], reason: str) -> None:
    assert is_grpcio(**arguments)
    with pytest.raises(ValueError, match=f"transport='native' cannot be used: {reason}"):
        is_grpcio(transport="native", **arguments)


@pytest.mark.usefixtures("native", "proxied")
@pytest.mark.parametrize(
    ("target", "through_proxy"),
    [("h.example.com:1", False), ("h.internal:1", False), ("h:1", True), ("unix:/s", False)],
)
def test_grpcio_is_used_for_targets_behind_a_proxy(target: str, through_proxy: bool) -> None:
    assert is_grpcio(target=target) is through_proxy


def test_an_unknown_transport_is_refused() -> None:
    with pytest.raises(ValueError, match="transport must be one of auto, native, grpcio; was 'rust'"):
        Client("localhost:1", transport="rust")


def test_metadata_goes_with_every_call(connect: Connect, target: str, service: Service) -> None:
    client = connect(target, metadata=[("authorization", "Bearer x"), ("trace-bin", b"\0\xff")])
    client.predict("half_plus_two", X)

    assert service.metadata_sent["authorization"] == "Bearer x"
    assert service.metadata_sent["trace-bin"] == b"\0\xff"


def test_a_failure_has_the_metadata_of_the_server(connect: Connect, target: str, service: Service) -> None:
    service.refusals = 1
    with pytest.raises(ServerError) as caught:
        connect(target, retry=ONCE).predict("half_plus_two", X)

    metadata = dict(caught.value.__cause__.trailing_metadata())  # type: ignore[union-attr]
    assert metadata["why"] == "full"
    assert metadata["why-bin"] == b"\0\xff"


def test_a_unix_socket_is_reached(connect: Connect, service: Service, tmp_path: Path) -> None:
    server, _ = start(service, address=f"unix:{tmp_path}/s")
    assert connect(f"unix:{tmp_path}/s").predict("half_plus_two", X)["y"] == [2.5]
    server.stop(None).wait()


@pytest.mark.parametrize("gone", ["none", "all"])
def test_a_server_that_comes_back_is_reached_again(
    connect: Connect, service: Service, tmp_path: Path, gone: str
) -> None:
    address = f"unix:{tmp_path}/s"
    server, _ = start(service, address=address)
    client = connect(address, retry=Retry(attempts=5, backoff=0.2))
    client.predict("half_plus_two", X)
    server.stop(None).wait()
    if gone == "all":
        with pytest.raises(ServerError):
            client.predict("half_plus_two", X, timeout=0.1)
    server, _ = start(service, address=address)
    assert eventually(lambda: answered(client))
    server.stop(None).wait()


def answered(client: Client) -> bool:
    try:
        return bool(client.predict("half_plus_two", X)["y"] == [2.5])
    except ServerError:
        return False


def test_connections_that_the_server_ends_between_calls_are_replaced(connect: Connect, service: Service) -> None:
    # On a busy machine a call can take longer than its connection has left: the server lets it end.
    server, target = start(service, ("grpc.max_connection_age_ms", 100), ("grpc.max_connection_age_grace_ms", 60_000))
    client = connect(target, retry=ONCE)
    for _ in range(6):
        client.predict("half_plus_two", X)
        threading.Event().wait(0.06)  # this waits on the server's clock, which a test cannot set
    server.stop(None).wait()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Makes Ctrl-C raise KeyboardInterrupt, even if an earlier test has left another handler."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, signal.default_int_handler if before is None else before)


@pytest.mark.usefixtures("interruptible")
def test_a_call_that_waits_can_be_interrupted(target: str, carrier: str) -> None:
    with Client(target, transport=carrier) as client:
        threading.Timer(0.2, _thread.interrupt_main).start()
        with pytest.raises(KeyboardInterrupt):
            client.predict("stuck", X, timeout=20)


def test_a_call_that_nobody_waits_for_is_cancelled(target: str, carrier: str, service: Service) -> None:
    async def leave() -> None:
        async with AsyncClient(target, transport=carrier) as client:
            waiting = asyncio.ensure_future(client.predict("stuck", X))
            await asyncio.to_thread(eventually, lambda: service.requests)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert (await client.predict("half_plus_two", X))["y"] == [2.5]

    asyncio.run(leave())


def test_an_async_client_belongs_to_the_event_loop_of_its_first_call(target: str, carrier: str) -> None:
    async def connected() -> AsyncClient:
        client = AsyncClient(target, transport=carrier)
        assert (await client.predict("half_plus_two", X))["y"] == [2.5]
        return client

    client = asyncio.run(connected())
    with pytest.raises(RuntimeError, match="this AsyncClient belongs to another event loop"):
        asyncio.run(client.predict("half_plus_two", X))
    with pytest.raises(RuntimeError, match="this AsyncClient belongs to another event loop"):
        asyncio.run(client.predict_many("half_plus_two", [X]))
    asyncio.run(client.close())


FORKED = """
import os, sys
import numpy as np
from headrace_client import Client

client = Client(sys.argv[1], transport="native")
ask = lambda: client.predict("half_plus_two", {"x": np.ones(1, np.float32)})["y"][0]
assert ask() == 2.5
for uses in (True, False):
    child = os.fork()
    if child == 0:
        if uses:
            assert ask() == 2.5
            client.close()
        del client
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert ask() == 2.5
"""


@pytest.mark.usefixtures("native")
def test_a_forked_process_opens_its_own_connection(target: str) -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORKED, target], check=True, timeout=60)


def test_closing_ends_the_calls_under_way(target: str, carrier: str, service: Service) -> None:
    client = Client(target, transport=carrier)
    failures: list[ServerError] = []

    def call() -> None:
        try:
            client.predict("stuck", X)
        except ServerError as error:
            failures.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    eventually(lambda: service.requests)
    client.close()
    thread.join()
    assert [failure.code for failure in failures] == [grpc.StatusCode.CANCELLED]


@contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """The target of a listener on loopback that answers each connection in a given way."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    answer(connection)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def http1(connection: socket.socket) -> None:
    connection.recv(1 << 16)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")


def noise(connection: socket.socket) -> None:
    connection.recv(1 << 16)
    connection.sendall(bytes(range(256)) * 16)


@pytest.mark.parametrize(
    "answer", [http1, noise, lambda connection: connection.close()], ids=["HTTP/1", "noise", "end"]
)
def test_a_server_without_grpc_is_unavailable(connect: Connect, answer: Callable[[socket.socket], None]) -> None:
    with answering(answer) as target, pytest.raises(ServerError, match="UNAVAILABLE"):
        connect(target, retry=ONCE).predict("half_plus_two", X, timeout=5)
