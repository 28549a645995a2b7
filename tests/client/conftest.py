"""Both clients on both transports, each connected to a model server in this process, as one fixture."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from typing import Any, cast

import pytest

from headrace_client import AsyncClient, Client

from .service import Service, start

Connect = Callable[..., Client]


class Awaited:
    """An AsyncClient on an event loop of its own, with blocking methods like those of Client."""

    def __init__(self, target: str, **arguments: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = self._runner.run(self._connect(target, arguments))

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return lambda *positional, **named: self._runner.run(method(*positional, **named))

    async def _connect(self, target: str, arguments: dict[str, Any]) -> AsyncClient:
        return AsyncClient(target, **arguments)

    def end(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.release.set()


@pytest.fixture
def target(service: Service) -> Iterator[str]:
    server, target = start(service)
    yield target
    service.release.set()
    server.stop(None).wait()


@pytest.fixture(params=["grpcio", *(["native"] if find_spec("headrace_native") else [])])
def carrier(request: pytest.FixtureRequest) -> str:
    """Each transport of the client in turn."""
    return str(request.param)


@pytest.fixture(params=["blocking", "asyncio"])
def connect(request: pytest.FixtureRequest, carrier: str) -> Iterator[Connect]:
    with ExitStack() as stack:

        def blocking(target: str, **arguments: Any) -> Client:
            return stack.enter_context(Client(target, **{"transport": carrier, **arguments}))

        def awaited(target: str, **arguments: Any) -> Client:
            client = Awaited(target, **{"transport": carrier, **arguments})
            stack.callback(client.end)
            return cast("Client", client)

        yield blocking if request.param == "blocking" else awaited


@pytest.fixture
def client(connect: Connect, target: str) -> Client:
    return connect(target)
