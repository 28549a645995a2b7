"""grpc.health.v1, as a load balancer uses it."""

import asyncio
from typing import Any

import pytest
from grpc import RpcError, StatusCode
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from headrace_server.services.health import HealthService
from tests.conftest import Run
from tests.support import models
from tests.support.calls import ANSWER_WITHIN, Caller, refusal_of

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def caller(running: Run) -> Caller:
    return running(models.linear).caller


@pytest.mark.parametrize(
    "service",
    [
        "",
        "ModelService",
        "PredictionService",
        "tensorflow.serving.ModelService",
        "tensorflow.serving.PredictionService",
    ],
)
def test_serving(caller: Caller, service: str) -> None:
    answer = HealthStub(caller.channel).Check(HealthCheckRequest(service=service), timeout=ANSWER_WITHIN)
    assert answer.status == SERVING


def test_unknown_service(caller: Caller) -> None:
    with pytest.raises(RpcError) as raised:
        HealthStub(caller.channel).Check(HealthCheckRequest(service="nobody"), timeout=ANSWER_WITHIN)
    assert refusal_of(raised.value).code is StatusCode.NOT_FOUND


def test_unknown_service_may_be_watched(caller: Caller) -> None:
    watch = HealthStub(caller.channel).Watch(HealthCheckRequest(service="nobody"))
    assert next(watch).status == HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


def test_watchers_get_the_drain_and_do_not_delay_it(running: Run) -> None:
    server = running(models.linear, drain_seconds=60.0)
    stub = HealthStub(server.caller.channel)
    gone, *watches = [stub.Watch(HealthCheckRequest()) for _ in range(3)]
    assert [next(watch).status for watch in (gone, *watches)] == [SERVING] * 3
    gone.cancel()
    server.stop()  # does not wait for those 60 seconds
    assert [[answer.status for answer in watch] for watch in watches] == [[NOT_SERVING]] * 2


def test_a_drain_during_the_first_answer_is_reported() -> None:
    context: Any = None  # a watch does not use its context

    async def watch() -> list[int]:
        health = HealthService()
        health.serving()
        answers = health.Watch(HealthCheckRequest(), context)
        first = await anext(answers)
        health.draining()
        return [first.status, *[answer.status async for answer in answers]]

    assert asyncio.run(watch()) == [SERVING, NOT_SERVING]
