"""How calls fail, time out, are retried and end, for every kind of call."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest

from headrace_client import AsyncClient, Client, Retry, ServerError

from .conftest import Connect
from .service import Service, start

X = {"x": [1.0]}
QUICK = Retry(attempts=5, backoff=0.01, max_backoff=0.01)

Method = Callable[..., Any]
METHODS: dict[str, Callable[[Client], Method]] = {
    "predict": lambda client: lambda model, **named: client.predict(model, X, **named),
    "metadata": lambda client: client.metadata,
    "status": lambda client: client.status,
}


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> Callable[[Client], Method]:
    return METHODS[request.param]


def test_an_error_has_the_code_and_the_text_of_the_server(client: Client, method: Callable[[Client], Method]) -> None:
    with pytest.raises(ServerError) as caught:
        method(client)("missing")

    assert caught.value.code is grpc.StatusCode.NOT_FOUND
    assert caught.value.message == "Servable not found for request: Latest(missing)"
    assert str(caught.value) == "NOT_FOUND: Servable not found for request: Latest(missing)"
    assert isinstance(caught.value.__cause__, grpc.RpcError)
    assert caught.value.__cause__.__traceback__ is None  # otherwise a traceback shows grpcio's code first


def test_a_call_ends_at_its_own_timeout(client: Client, method: Callable[[Client], Method]) -> None:
    with pytest.raises(ServerError) as caught:
        method(client)("stuck", timeout=0.05)

    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_the_server_gets_the_timeout_of_the_call_or_else_of_the_client(
    connect: Connect, target: str, service: Service
) -> None:
    client = connect(target, timeout=50)
    client.predict("half_plus_two", X)
    client.predict("half_plus_two", X, timeout=900)
    connect(target).predict("half_plus_two", X)
    of_client, of_call, none = service.time_left

    assert of_client is not None
    assert 40 < of_client < 60
    assert of_call is not None
    assert 800 < of_call < 1000
    assert none is None or none > 1e8


def test_a_refused_call_is_tried_again_until_it_is_answered(
    connect: Connect, target: str, service: Service, method: Callable[[Client], Method]
) -> None:
    service.refusals = 2
    method(connect(target, retry=QUICK))("half_plus_two")

    assert service.refusals == 0


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_a_call_fails_after_the_given_number_of_attempts(
    connect: Connect, target: str, service: Service, attempts: int
) -> None:
    service.refusals = 100
    client = connect(target, retry=replace(QUICK, attempts=attempts))
    with pytest.raises(ServerError, match="UNAVAILABLE: the queue is full"):
        client.predict("half_plus_two", X)

    assert len(service.requests) == attempts


def test_only_unavailable_is_tried_again(connect: Connect, target: str, service: Service) -> None:
    with pytest.raises(ServerError, match="NOT_FOUND"):
        connect(target, retry=QUICK).predict("missing", X)

    assert len(service.requests) == 1


def test_a_client_that_mostly_fails_stops_trying_again(connect: Connect, target: str, service: Service) -> None:
    service.refusals = 10_000
    client = connect(target, retry=QUICK)
    for _ in range(60):
        with pytest.raises(ServerError, match="UNAVAILABLE"):
            client.predict("half_plus_two", X)

    assert 60 < len(service.requests) < 60 + 50


@pytest.mark.parametrize(
    "arguments", [{"attempts": 0}, {"attempts": 6}, {"backoff": 0.001}, {"backoff": 2, "max_backoff": 1}], ids=str
)
def test_a_retry_out_of_range_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must be"):
        Retry(**arguments)


def test_an_absent_server_is_unavailable(connect: Connect, service: Service) -> None:
    server, target = start(service)
    server.stop(None).wait()

    with pytest.raises(ServerError, match="UNAVAILABLE"):
        connect(target, retry=QUICK).status("half_plus_two")


def test_options_of_the_user_go_before_the_defaults(connect: Connect, target: str) -> None:
    client = connect(target, options=[("grpc.max_receive_message_length", 1000)])

    assert client.predict("half_plus_two", X)["rows"] == [1]
    with pytest.raises(ServerError, match="RESOURCE_EXHAUSTED"):
        client.predict("half_plus_two", {"x": np.zeros(1000)})


def test_with_credentials_nothing_is_sent_in_the_clear(connect: Connect, target: str, service: Service) -> None:
    client = connect(target, credentials=grpc.ssl_channel_credentials(), retry=Retry(attempts=1))

    with pytest.raises(ServerError, match="UNAVAILABLE"):
        client.predict("half_plus_two", X)
    assert service.requests == []


def test_a_closed_client_says_so_and_may_be_closed_again(
    client: Client, service: Service, method: Callable[[Client], Method]
) -> None:
    client.close()
    client.close()

    with pytest.raises(ValueError, match="the client is closed"):
        method(client)("half_plus_two")
    assert service.requests == []


def test_leaving_a_context_closes_the_client(target: str) -> None:
    with Client(target) as client:
        client.predict("half_plus_two", X)

    with pytest.raises(ValueError, match="the client is closed"):
        client.predict("half_plus_two", X)


async def leave_and_predict(target: str) -> None:
    async with AsyncClient(target) as client:
        await client.predict("half_plus_two", X)
    await client.predict("half_plus_two", X)


def test_leaving_an_asynchronous_context_closes_the_client(target: str, service: Service) -> None:
    with pytest.raises(ValueError, match="the client is closed"):
        asyncio.run(leave_and_predict(target))

    assert len(service.requests) == 1


def test_each_thread_gets_its_own_answer(target: str) -> None:
    def ask(value: int) -> float:
        return float(client.predict("half_plus_two", {"x": [float(value)]})["y"][0])

    with Client(target) as client, ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, range(64))) == [0.5 * value + 2 for value in range(64)]


def test_each_coroutine_gets_its_own_answer(target: str) -> None:
    async def ask_all() -> list[float]:
        async with AsyncClient(target) as client:
            calls = [client.predict("half_plus_two", {"x": [float(value)]}) for value in range(64)]
            return [float(answer["y"][0]) for answer in await asyncio.gather(*calls)]

    assert asyncio.run(ask_all()) == [0.5 * value + 2 for value in range(64)]


def test_the_client_imports_neither_the_server_nor_a_runtime() -> None:
    code = "import sys, headrace_client; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert {"headrace_client", "headrace_protos", "grpc", "numpy"} <= set(modules)
    assert not {"headrace_server", "headrace_batching", "onnxruntime", "tensorflow"} & set(modules)
