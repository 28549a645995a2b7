"""`predict_many`: the order of its results, its concurrency limit, and its failures."""

from typing import Any

import grpc
import numpy as np
import pytest

from headrace_client import Client, Retry, ServerError

from .conftest import Connect
from .service import Service


def inputs(count: int) -> list[dict[str, Any]]:
    return [{"x": np.array([value], np.float32)} for value in range(count)]


def test_answers_are_in_order(client: Client) -> None:
    answers = client.predict_many("half_plus_two", inputs(200), in_flight=7)

    assert [float(answer["y"][0]) for answer in answers] == [0.5 * value + 2 for value in range(200)]


def test_no_requests_give_no_answers(client: Client, service: Service) -> None:
    assert client.predict_many("half_plus_two", []) == []
    assert service.requests == []


def test_arguments_apply_to_every_call(client: Client, service: Service) -> None:
    answers = client.predict_many("half_plus_two", inputs(2), label="stable", signature="echo", outputs=["x"])

    assert [answer.keys() for answer in answers] == [{"x"}, {"x"}]
    assert [request.model_spec.version_label for request in service.requests] == ["stable", "stable"]


@pytest.mark.parametrize("in_flight", [1, 3])
def test_no_more_calls_are_in_flight_than_allowed(client: Client, service: Service, in_flight: int) -> None:
    client.predict_many("half_plus_two", inputs(20), in_flight=in_flight)

    assert 1 <= service.most <= in_flight


@pytest.mark.parametrize("in_flight", [0, -1])
def test_in_flight_must_be_at_least_one(client: Client, in_flight: int) -> None:
    with pytest.raises(ValueError, match=f"in_flight must be a whole number of at least 1; was {in_flight}"):
        client.predict_many("half_plus_two", inputs(1), in_flight=in_flight)


def test_the_first_failure_is_raised_after_all_were_made(connect: Connect, target: str, service: Service) -> None:
    service.refusals = 2
    with pytest.raises(ServerError, match="UNAVAILABLE: the queue is full"):
        connect(target, retry=Retry(attempts=1)).predict_many("half_plus_two", inputs(5), in_flight=1)

    assert len(service.requests) == 5


def test_failures_are_returned_among_the_answers_on_request(connect: Connect, target: str, service: Service) -> None:
    service.refusals = 2
    client = connect(target, retry=Retry(attempts=1))
    answers = client.predict_many("half_plus_two", inputs(4), in_flight=1, return_exceptions=True)

    assert [answer.code for answer in answers[:2]] == [grpc.StatusCode.UNAVAILABLE] * 2
    assert [float(answer["y"][0]) for answer in answers[2:]] == [3.0, 3.5]


def test_refused_calls_are_tried_again(connect: Connect, target: str, service: Service) -> None:
    service.refusals = 2
    answers = connect(target, retry=Retry(backoff=0.01)).predict_many("half_plus_two", inputs(4), in_flight=1)

    assert len(answers) == 4
    assert len(service.requests) == 6


def test_each_call_has_its_own_timeout(client: Client) -> None:
    answers = client.predict_many("stuck", inputs(3), timeout=0.05, return_exceptions=True)

    assert [answer.code for answer in answers] == [grpc.StatusCode.DEADLINE_EXCEEDED] * 3


def test_a_wrong_argument_is_named_and_nothing_sent(client: Client, service: Service) -> None:
    with pytest.raises(ValueError, match=r"inputs\['x'\]: "):
        client.predict_many("half_plus_two", [*inputs(2), {"x": [slice(None)]}])  # type: ignore[dict-item]

    assert service.requests == []


def test_a_closed_client_says_so(client: Client) -> None:
    client.close()
    with pytest.raises(ValueError, match="the client is closed"):
        client.predict_many("half_plus_two", inputs(2))
