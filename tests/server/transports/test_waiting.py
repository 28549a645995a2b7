"""Requests that wait behind a slow one: their deadlines, cancellations, order, and number."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import Message
from grpc import FutureCancelledError, StatusCode

from headrace_batching import Options
from tests.conftest import Run, Stop
from tests.support import models
from tests.support.calls import Refusal, arrays, predict_request, refusal_of, status_request
from tests.support.running import RunningServer, eventually

SLOW = 300_000  # steps of the loop: they take some tenths of a second
QUICK = 1

# A server in which at most three requests wait, and run one by one.
ONE_BY_ONE = Options(num_batch_threads=1, max_batch_size=1, max_enqueued_batches=3)
FULL = Refusal(
    StatusCode.UNAVAILABLE,
    "The batch scheduling queue to which this task was submitted is full; "
    "currently 3 batches enqueued and max_enqueued_batches is 3",
)


@pytest.fixture
def server(running: Run) -> Iterator[RunningServer]:
    server = running(models.counting, batching=ONE_BY_ONE)
    yield server
    server.close()


def count_to(steps: int) -> Message:
    return predict_request({"steps": np.array([steps])})


def send(server: RunningServer, request: Message, **how: Any) -> Any:
    """Sends a request; returns once it has arrived, which the answer to a later call on the same connection shows."""
    future = server.caller.begin(request, **how)
    server.caller.call(status_request())
    return future


def fill(server: RunningServer) -> list[Any]:
    """Sends fast requests until the queue is full, so that earlier requests are sure to be in it."""
    futures = [send(server, count_to(QUICK)) for _ in range(4)]
    refused = eventually(lambda: [future for future in futures if future.done()])
    assert refusal_of(refused[0].exception()) == FULL
    return futures


def outcome(future: Any) -> int | Refusal:
    error = future.exception()
    return arrays(future.result())["y"].item() if error is None else refusal_of(error)


def test_full_queue_refuses_at_once_and_keeps_its_tasks(server: RunningServer, served: Stop) -> None:
    slow = send(server, count_to(SLOW))
    others = fill(server)
    assert not slow.done()
    outcomes = [outcome(future) for future in (slow, *others)]
    assert set(outcomes) == {SLOW, QUICK, FULL}
    assert served(server).requests == 5 - outcomes.count(FULL)


def test_deadline_that_passes_in_the_queue(server: RunningServer, served: Stop) -> None:
    slow = send(server, count_to(SLOW))
    late = send(server, count_to(SLOW), timeout=0.02)
    assert refusal_of(late.exception()).code is StatusCode.DEADLINE_EXCEEDED
    assert not slow.done()
    assert outcome(slow) == SLOW
    assert served(server).requests == 1


def test_cancelled_call_is_not_run(server: RunningServer, served: Stop) -> None:
    slow = send(server, count_to(SLOW))
    left = send(server, count_to(SLOW))
    others = fill(server)
    left.cancel()
    with pytest.raises(FutureCancelledError):
        left.result()
    assert not slow.done()
    outcomes = [outcome(future) for future in (slow, *others)]
    assert set(outcomes) == {SLOW, QUICK, FULL}
    assert served(server).requests == 5 - outcomes.count(FULL)


@pytest.mark.parametrize(
    ("header", "first"), [(("headrace-priority", "low"), "normal"), (("headrace-priority", "high"), "low")]
)
def test_low_priority_waits_for_the_others(server: RunningServer, header: tuple[str, str], first: str) -> None:
    ended: list[str] = []
    every = {
        "slow": send(server, count_to(SLOW)),
        "low": send(server, count_to(SLOW // 10), metadata=[header]),
        "normal": send(server, count_to(SLOW // 10)),
    }
    for name, future in every.items():
        future.add_done_callback(lambda _, name=name: ended.append(name))
    fill(server)
    assert not ended
    eventually(lambda: len(ended) == len(every))
    assert ended[:2] == ["slow", first]
