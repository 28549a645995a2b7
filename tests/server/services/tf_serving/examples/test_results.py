"""Results for Examples: the bytes equal those of message objects, and large ones are made outside the event loop."""

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from headrace_batching.task import Array
from headrace_protos import (
    Class,
    ClassificationResult,
    Classifications,
    Code,
    Regression,
    RegressionResult,
)
from headrace_server.backends.signature import CLASSIFY_METHOD, REGRESS_METHOD
from headrace_server.errors import ServingError
from headrace_server.processes.pool import JsonProcesses
from headrace_server.services.json.writing import WRITTEN_BYTES, written_from
from headrace_server.services.tf_serving.examples.results import AT_ONCE, classifications, made, regressions
from tests.conftest import Run
from tests.support import feature_models
from tests.support.calls import Caller
from tests.support.examples import (
    classify_request,
    example,
    examples,
    labelled,
    multi_request,
    regress_request,
    task,
    values,
)
from tests.support.ports import free_port
from tests.support.rest_calls import RestCaller

FLOATS = arrays(np.float32, array_shapes(min_dims=1, max_dims=1, min_side=0), elements=st.floats(width=32))
LABELS = st.text(max_size=4) | st.text().map(str.encode) | st.just("x" * 200)
MANY = 6000
VERBS = (("regress", "prices"), ("classify", "scores"))


def equal(one: Any, other: Any) -> bool:
    """Whether two messages have the same bytes; a NaN is not equal to itself."""
    return bool(one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True))


@given(FLOATS)
@settings(max_examples=30)
def test_regressions_are_those_made_of_objects(numbers: Array) -> None:
    expected = RegressionResult(regressions=[Regression(value=number) for number in numbers.tolist()])
    assert equal(regressions(numbers), expected)


@given(st.data())
@settings(max_examples=30)
def test_classifications_are_those_made_of_objects(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(0, 4), st.integers(0, 4)))
    scores = data.draw(arrays(np.float32, shape, elements=st.floats(width=32)))
    row = st.lists(LABELS, min_size=shape[1], max_size=shape[1])
    rows = data.draw(st.lists(row, min_size=shape[0], max_size=shape[0]))
    expected = [
        Classifications(
            classes=[
                Class(label=name if isinstance(name, str) else name.decode(), score=score)
                for name, score in zip(row, numbers, strict=True)
            ]
        )
        for row, numbers in zip(rows, scores.tolist(), strict=True)
    ]

    assert equal(classifications(rows, scores), ClassificationResult(classifications=expected))


def test_the_same_labels_for_each_example() -> None:
    result = classifications(repeat(("a", "")), np.array([[1, 0], [0, 2]], np.float32))
    assert [[(each.label, each.score) for each in row.classes] for row in result.classifications] == [
        [("a", 1), ("", 0)],
        [("a", 0), ("", 2)],
    ]


def test_a_long_label() -> None:
    (example,) = classifications([["x" * 20_000]], np.ones((1, 1), np.float32)).classifications
    assert example.classes[0].label == "x" * 20_000


def test_a_label_that_is_not_utf8() -> None:
    with pytest.raises(ServingError) as refused:
        classifications([[b"\xff"]], np.ones((1, 1), np.float32))
    assert refused.value.code == Code.INVALID_ARGUMENT
    assert refused.value.message.startswith("A class is not UTF-8: ")


@pytest.mark.parametrize(("count", "elsewhere"), [(AT_ONCE, False), (AT_ONCE + 1, True)])
def test_large_results_are_made_on_another_thread(count: int, elsewhere: bool) -> None:
    thread = asyncio.run(made({"y": np.zeros(count, np.float32)}, threading.get_ident))
    assert (thread != threading.get_ident()) == elsewhere


def process(_: bytes) -> bytes:
    return str(os.getpid()).encode()


@pytest.mark.parametrize(("size", "elsewhere"), [(WRITTEN_BYTES, False), (WRITTEN_BYTES + 1, True)])
def test_large_messages_are_written_in_another_process(
    size: int, elsewhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[5]))  # for the process to import this module

    async def written() -> bytes:
        processes = JsonProcesses(1)
        try:
            return bytes(await written_from(processes, process, bytes(size)))
        finally:
            await processes.close()

    assert (int(asyncio.run(written())) != os.getpid()) == elsewhere


@pytest.fixture(scope="module")
def tariff(running: Run) -> Iterator[tuple[Caller, RestCaller]]:
    signatures: feature_models.Signatures = {
        "prices": {"method": "regress", "outputs": {"outputs": "price"}},
        "scores": {"method": "classify", "outputs": {"scores": "scores"}},
    }
    port = free_port()
    server = running(partial(feature_models.tariff, signatures=signatures), rest_api_port=port, enable_batching=False)
    with closing(RestCaller(port)) as rest:
        yield server.caller, rest


def test_many_examples(tariff: tuple[Caller, RestCaller]) -> None:
    every = [example(age=[number], weights=[0.0, 1.0]) for number in range(MANY)]
    regressed = tariff[0].call(regress_request(*every, signature_name="prices"))
    classified = tariff[0].call(classify_request(*every, signature_name="scores"))
    tasks = (task(REGRESS_METHOD, signature_name="prices"), task(CLASSIFY_METHOD, signature_name="scores"))
    both = tariff[0].call(multi_request(*tasks, input=examples(*every))).results

    assert values(regressed) == [2.0 * number + 1 for number in range(MANY)]
    assert labelled(classified) == [[("", float(number)), ("", number + 1.0)] for number in range(MANY)]
    assert (both[0].regression_result, both[1].classification_result) == (regressed.result, classified.result)


def test_many_examples_over_rest(tariff: tuple[Caller, RestCaller]) -> None:
    body = {"examples": [{"age": [number], "weights": [0.0, 1.0]} for number in range(MANY)]}

    answers = [tariff[1].post(verb, {**body, "signature_name": name}) for verb, name in VERBS]
    regressed, classified = (json.loads(answer.text)["results"] for answer in answers)

    assert regressed == [2.0 * number + 1 for number in range(MANY)]
    assert classified == [[["", float(number)], ["", number + 1.0]] for number in range(MANY)]
