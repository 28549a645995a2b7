"""Requests that share a server, and could share a batch, do not affect each other."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import Message
from grpc import StatusCode

from headrace_batching import Options
from tests.conftest import Run, Stop
from tests.support import models
from tests.support.calls import Caller, Refusal, arrays, predict_request, refusal_of

# With one thread that waits for more requests, concurrent requests share a few batches.
TOGETHER = Options(num_batch_threads=1, batch_timeout_micros=20_000)

Answer = list[float] | Refusal


def send_all(caller: Caller, requests: Sequence[Message]) -> list[Answer]:
    """Sends requests without waiting in between; returns the answer to each."""
    return [_answer(future) for future in [caller.begin(request) for request in requests]]


def _answer(future: Any) -> Answer:
    error = future.exception()
    if error is not None:
        return refusal_of(error)
    answer: list[float] = arrays(future.result())["y"].ravel().tolist()
    return answer


def mixed(good: int, bad: int, make: Callable[[int, bool], Message]) -> tuple[list[Message], list[bool]]:
    """Requests, with bad ones among the good, and which of them are good."""
    every = (good + bad) // bad
    is_good = [number % every != every // 2 for number in range(good + bad)]
    assert is_good.count(False) == bad
    return [make(number, fine) for number, fine in enumerate(is_good)], is_good


def test_wrong_widths_fail_alone(running: Run, served: Stop) -> None:
    def make(number: int, fine: bool) -> Message:
        return predict_request({"x": np.full((1, 4 if fine else 5), number, np.float32)})

    requests, is_good = mixed(195, 5, make)
    server = running(models.linear, batching=TOGETHER)
    answers = send_all(server.caller, requests)
    refused = [answer for answer in answers if isinstance(answer, Refusal)]
    assert [answer for answer in answers if not isinstance(answer, Refusal)] == [
        [4.0 * number] for number, fine in enumerate(is_good) if fine
    ]
    assert {code for code, _ in refused} == {StatusCode.INVALID_ARGUMENT}
    assert {text.endswith("index: 1 Got: 5 Expected: 4") for _, text in refused} == {True}
    _, rows, batches = served(server)
    assert rows == 195
    assert batches < 100


def test_wrong_dtypes_and_names_fail_alone(running: Run) -> None:
    def make(number: int, fine: bool) -> Message:
        x = np.full((1, 4), number, np.float32 if fine or number % 2 else np.int32)
        return predict_request({"x" if fine or number % 2 == 0 else "z": x})

    requests, is_good = mixed(190, 10, make)
    answers = send_all(running(models.linear, batching=TOGETHER).caller, requests)
    for number, (fine, answer) in enumerate(zip(is_good, answers, strict=True)):
        if fine:
            assert answer == [4.0 * number]
        else:
            assert isinstance(answer, Refusal)
            assert answer.code is StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("pad", [False, True])
def test_inputs_of_other_shapes_are_never_mixed(running: Run, pad: bool) -> None:
    """Shapes with the same number of bytes, and with fewer and more: every caller gets the sums of its own rows."""
    shapes = [(1, 8), (2, 4), (4, 2), (1, 8), (8, 1), (1, 8), (1, 16), (1, 8), (1, 4)] * 25
    sent = [np.arange(first, first + rows * width).reshape(rows, width) for first, (rows, width) in enumerate(shapes)]
    batching = Options(num_batch_threads=1, batch_timeout_micros=20_000, pad_variable_length_inputs=pad)
    make = models.row_maxima if pad else models.row_sums
    answers = send_all(
        running(make, batching=batching, pad_unproved=True).caller,
        [predict_request({"x": x.astype("f4")}) for x in sent],
    )
    # The padding, a copy of a tensor's first element, is its smallest here, so it cannot change a maximum.
    expected = [(x.max(axis=1) if pad else x.sum(axis=1)).tolist() for x in sent]
    assert answers == expected


def test_requests_that_make_the_runtime_fail_fail_alone(running: Run) -> None:
    def make(number: int, fine: bool) -> Message:
        return predict_request({"index": np.array([number % 10 if fine else 10])})

    requests, is_good = mixed(195, 5, make)
    answers = send_all(running(models.lookup, batching=TOGETHER).caller, requests)
    for number, (fine, answer) in enumerate(zip(is_good, answers, strict=True)):
        if fine:
            assert answer == [10.0 * (number % 10)]
        else:
            assert isinstance(answer, Refusal)
            assert answer.code is StatusCode.INVALID_ARGUMENT
            assert "idx=10" in answer.text
