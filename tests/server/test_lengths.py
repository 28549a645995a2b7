"""Requests of different lengths share batches, and every caller gets what the model alone would have answered."""

from collections.abc import Sequence

import numpy as np
import onnxruntime as ort
import pytest

from headrace_batching import Options
from headrace_batching.task import Array, Arrays
from tests.conftest import Rest, Run, Stop
from tests.support.calls import arrays, predict_request
from tests.support.graphs import Graph
from tests.support.rest_calls import PREFIX
from tests.support.texts import NOT_PADDED, PADDED, WIDTH, attention

# With one thread that waits for more requests, concurrent requests share a few batches.
TOGETHER = Options(num_batch_threads=1, batch_timeout_micros=200_000, larger_alone=True)
CALLERS = 64


def requests(graph: Graph, lengths: Sequence[int]) -> list[Arrays]:
    """A request for each length, of one to three rows; a few have masks with a row of zeros."""
    random = np.random.default_rng(1)
    made: list[Arrays] = []
    for number, length in enumerate(lengths):
        sizes = {"N": 1 + number % 3, "T": length, "S": 1 + length // 2}
        inputs: dict[str, Array] = {}
        for alias, (_, dims) in graph.inputs.items():
            shape = tuple(sizes[size] if isinstance(size, str) else int(size or 0) for size in dims or ())
            if alias == "mask":
                inputs[alias] = random.integers(0, 2, shape).astype(bool if _is_bool(graph) else np.int64)
                inputs[alias][:, 0] = not _is_bool(graph)
                if number % 16 == 5:
                    inputs[alias][-1] = _is_bool(graph)
            else:
                inputs[alias] = random.normal(0, 1, shape).astype(np.float32)
        made.append(inputs)
    return made


def _is_bool(graph: Graph) -> bool:
    return graph.inputs["mask"][0] == 9


def alone(graph: Graph, sent: Sequence[Arrays]) -> list[Array]:
    session = ort.InferenceSession(graph.model().SerializeToString(), providers=["CPUExecutionProvider"])
    return [session.run(["y"], dict(inputs))[0] for inputs in sent]


LENGTHS = [int(length) for length in np.random.default_rng(0).integers(1, 61, CALLERS)]


@pytest.mark.parametrize("name", PADDED)
def test_answers_are_the_bare_models(running: Run, served: Stop, name: str) -> None:
    graph = PADDED[name]
    sent = requests(graph, LENGTHS)
    server = running(graph.write, batching=TOGETHER)
    futures = [server.caller.begin(predict_request(inputs)) for inputs in sent]
    for future, expected in zip(futures, alone(graph, sent), strict=True):
        np.testing.assert_allclose(arrays(future.result())["y"], expected, rtol=1e-4, atol=1e-5)
    _, rows, batches = served(server)
    assert rows == sum(len(inputs["x"]) for inputs in sent)
    assert batches <= CALLERS / 2


@pytest.mark.parametrize(
    "name", ["a mean", "two convolutions", "the first few elements", "the sum divided by at most four"]
)
def test_models_that_cannot_be_padded_are_not(running: Run, name: str) -> None:
    graph = NOT_PADDED[name]
    sent = requests(graph, LENGTHS)
    server = running(graph.write, batching=TOGETHER)
    futures = [server.caller.begin(predict_request(inputs)) for inputs in sent]
    for future, expected in zip(futures, alone(graph, sent), strict=True):
        np.testing.assert_allclose(arrays(future.result())["y"], expected, rtol=1e-4, atol=1e-5)


def test_callers_over_rest_are_answered_alike(resting: Rest) -> None:
    graph = attention()
    sent = requests(graph, [3, 5, 7, 8])
    rest = resting(graph.write, batching=TOGETHER)
    for inputs, expected in zip(sent, alone(graph, sent), strict=True):
        body = {"inputs": {alias: array.tolist() for alias, array in inputs.items()}}
        answer = rest.send("POST", f"{PREFIX}:predict", body).value
        np.testing.assert_allclose(answer["outputs"], expected, rtol=1e-4, atol=1e-5)


def test_lengths_that_do_not_agree_are_left_to_the_model(running: Run) -> None:
    server = running(attention().write, batching=TOGETHER)
    good = requests(attention(), [4, 6])
    x = np.ones((1, 5, WIDTH), np.float32)
    other: Arrays = {"x": x, "mask": np.ones((1, 1), np.int64)}  # the model broadcasts the mask
    wrong: Arrays = {"x": x, "mask": np.ones((1, 3), np.int64)}
    futures = [server.caller.begin(predict_request(inputs)) for inputs in (good[0], other, wrong, good[1])]
    assert futures[2].exception() is not None
    for number, expected in zip((0, 1, 3), alone(attention(), [good[0], other, good[1]]), strict=True):
        np.testing.assert_allclose(arrays(futures[number].result())["y"], expected, rtol=1e-4, atol=1e-5)


def test_requests_on_other_paths_share_batches(running: Run, served: Stop) -> None:
    """A mask with one value for all its elements is not plain: Python decodes it, and the batch has both kinds."""
    sent = requests(attention(), [3, 5, 6, 7, 8, 4, 2, 8])
    for inputs in sent[::2]:
        inputs["mask"][...] = 1
    server = running(attention().write, batching=TOGETHER)
    messages = [predict_request(inputs) for inputs in sent]
    for message in messages[::2]:
        del message.inputs["mask"].int64_val[1:]
        assert len(message.inputs["mask"].int64_val) == 1
    futures = [server.caller.begin(message) for message in messages]
    for future, expected in zip(futures, alone(attention(), sent), strict=True):
        np.testing.assert_allclose(arrays(future.result())["y"], expected, rtol=1e-4, atol=1e-5)
    _, _, batches = served(server)
    assert batches <= 4
