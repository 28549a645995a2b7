"""Hedged calls: a second server answers the calls of a slow one, within a budget."""

import asyncio
import gc
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from headrace_client import Client, Hedge, ServerError
from headrace_client.channels.base import Settings
from headrace_client.channels.grpcio_impl import AsyncGrpcioChannel
from headrace_client.channels.hedging import BURST, AsyncHedgedChannel, Budget
from tests.client.conftest import Connect
from tests.client.service import Service, start
from tests.support.running import eventually

X = {"x": np.ones(1, np.float32)}
SOON = Hedge(delay=0.05)

Pair = tuple[Service, Service, str]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two services, and a target that names both."""
    services = [Service(), Service()]
    servers = [start(service) for service in services]
    ports = [target.rpartition(":")[2] for _, target in servers]
    yield services[0], services[1], f"ipv4:{','.join(f'127.0.0.1:{port}' for port in ports)}"
    for service, (server, _) in zip(services, servers, strict=True):
        service.release.set()
        server.stop(None).wait()


@pytest.fixture
def hedged(connect: Connect, pair: Pair, request: pytest.FixtureRequest) -> Any:
    """A client that is connected to both services."""
    client = connect(pair[2], hedge=getattr(request, "param", SOON), transport="grpcio", timeout=60)
    eventually(lambda: client.predict("half_plus_two", X) and all(service.requests for service in pair[:2]))
    for service in pair[:2]:
        service.requests.clear()
        service.time_left.clear()
    return client


def test_a_server_that_hangs_delays_no_call(pair: Pair, hedged: Any) -> None:
    pair[0].holds = True
    for _ in range(6):
        assert hedged.predict("half_plus_two", X)["y"].tolist() == [2.5]
    assert len(pair[0].requests) >= 2, "round robin sends some of the first attempts there"
    assert len(pair[1].requests) == 6


def test_a_refusal_is_followed_by_the_next_attempt(pair: Pair, hedged: Any) -> None:
    pair[0].refusals = pair[1].refusals = 1
    with pytest.raises(ServerError, match="UNAVAILABLE"):
        hedged.predict("half_plus_two", X)
    pair[0].refusals = 1
    for _ in range(2):
        assert hedged.predict("half_plus_two", X)["y"].tolist() == [2.5]
    assert pair[0].refusals == 0


def test_another_failure_is_final(pair: Pair, hedged: Any) -> None:
    with pytest.raises(ServerError, match="NOT_FOUND"):
        hedged.predict("missing", X)
    assert len(pair[0].requests) + len(pair[1].requests) == 1


@pytest.mark.parametrize("hedged", [Hedge(delay=0.3)], indirect=True)
def test_the_timeout_is_that_of_the_whole_call(pair: Pair, hedged: Any) -> None:
    pair[0].holds = pair[1].holds = True
    with pytest.raises(ServerError, match="DEADLINE_EXCEEDED"):
        hedged.predict("half_plus_two", X, timeout=0.5)
    left = [seconds for service in pair[:2] for seconds in service.time_left]
    assert len(left) == 2
    first, second = sorted(seconds for seconds in left if seconds is not None)
    assert first <= 0.21
    assert second <= 0.51


def test_predict_many_hedges_each_call(pair: Pair, hedged: Any) -> None:
    pair[0].holds = True
    answers = hedged.predict_many("half_plus_two", [X] * 8, in_flight=1)
    assert [answer["y"].tolist() for answer in answers] == [[2.5]] * 8


def test_a_share_of_the_calls_is_sent_again() -> None:
    budget = Budget(0.25)
    assert [budget.spend() for _ in range(int(BURST) + 1)] == [True] * int(BURST) + [False]
    for _ in range(8):
        budget.earn()
    assert [budget.spend() for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("hedged", [Hedge(delay=0.01, share=0.001)], indirect=True)
def test_full_servers_are_not_flooded(pair: Pair, hedged: Any) -> None:
    pair[0].refusals = pair[1].refusals = 10_000
    for _ in range(40):
        with pytest.raises(ServerError, match="UNAVAILABLE"):
            hedged.predict("half_plus_two", X)
    assert 40 < len(pair[0].requests) + len(pair[1].requests) <= 40 + BURST


@pytest.mark.parametrize(
    "arguments",
    [{"delay": 0.0}, {"delay": float("inf")}, {"attempts": 1, "delay": 1}, {"share": 0, "delay": 1}],
    ids=str,
)
def test_a_hedge_out_of_range_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must be"):
        Hedge(**arguments)


def test_the_native_transport_does_not_hedge() -> None:
    pytest.importorskip("headrace_native")
    with pytest.raises(ValueError, match="does not hedge"):
        Client("localhost:1", hedge=SOON, transport="native")


def test_failures_of_hedged_calls_have_grpcs_error_as_their_cause(pair: Pair, hedged: Any) -> None:
    del pair
    with pytest.raises(ServerError) as raised:
        hedged.predict("missing", X)
    assert isinstance(raised.value.__cause__, grpc.RpcError)


def test_the_error_of_an_attempt_that_is_not_needed_is_not_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def talk() -> None:
        begun, both_run = Counter[str](), asyncio.Event()

        async def fail(_: AsyncGrpcioChannel, path: str, *__: object) -> bytes:
            begun[path] += 1
            if begun[path] == 2:
                both_run.set()
            await both_run.wait()
            raise ServerError(grpc.StatusCode.DEADLINE_EXCEEDED, "late")

        monkeypatch.setattr(AsyncGrpcioChannel, "_send", fail)
        channel = AsyncHedgedChannel(Settings(target="localhost:1"), Hedge(delay=0.001))
        with pytest.raises(ServerError, match="late"):
            await channel._send("a", b"", None)
        await channel.close()

    gc.collect()  # removes tasks that earlier tests have left
    caplog.clear()
    asyncio.run(talk())
    gc.collect()
    assert not caplog.records
