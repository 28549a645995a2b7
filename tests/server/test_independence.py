"""Any model under any load: every answer is what the model alone would have given, and batching still happens.

Serves random stacks of layers, some of which mix rows, with default flags to many concurrent callers.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headrace_batching import BatchThreads, Options
from headrace_batching.task import Array
from headrace_server import Config
from headrace_server.backends.base import BackendOptions
from headrace_server.backends.independence import Finding
from headrace_server.metrics.catalogue import Metrics
from headrace_server.models.loader import Loader
from tests.support.calls import MODEL, arrays, predict_request
from tests.support.graphs import Graph
from tests.support.layers import (
    APART,
    LEAKS,
    LEAKS_OF_ORDINARY,
    MIXES,
    WIDTH,
    Layer,
    backwards_over_batch,
    centre,
    quantize,
    running,
    stack,
)
from tests.support.rounding import Rounding
from tests.support.running import LoopThread, RunningServer

CALLERS = 24
SEVERAL = 150

GRAPHS = int(os.environ.get("HEADRACE_GRAPHS", "25"))
"""The number of random graphs per test."""

stacks = st.lists(st.sampled_from([*APART, *MIXES]), min_size=1, max_size=6)
leaks = st.lists(st.sampled_from(APART), max_size=3)
serves = settings(max_examples=GRAPHS)


@given(layers=stacks, seed=st.integers(0, 1000))
@example(layers=[backwards_over_batch] * 4, seed=289)
@serves
def test_no_answer_depends_on_other_callers(
    transport: str, loop_thread: LoopThread, layers: Sequence[Layer], seed: int
) -> None:
    assert_answers_are_the_models(transport, loop_thread, layers, seed)


@given(before=leaks, leak=st.sampled_from(LEAKS), after=leaks, seed=st.integers(0, 1000))
@serves
def test_no_answer_depends_on_callers_with_non_finite_numbers(
    transport: str, loop_thread: LoopThread, before: Sequence[Layer], leak: Layer, after: Sequence[Layer], seed: int
) -> None:
    assert_answers_are_the_models(transport, loop_thread, [*before, leak, *after], seed)


def assert_answers_are_the_models(transport: str, loop_thread: LoopThread, layers: Sequence[Layer], seed: int) -> None:
    """Serves the layers to many callers at once."""
    graph, random = stack(layers, seed), np.random.default_rng(seed)
    sent = [requested(random, number) for number in range(CALLERS)]
    with tempfile.TemporaryDirectory() as folder:
        graph.write(Path(folder) / "1")
        server = RunningServer(
            loop_thread, Config(port=0, model_name=MODEL, model_base_path=folder, transport=transport)
        )
        try:
            futures = [server.caller.begin(predict_request({"x": x})) for x in sent]
            answers = [arrays(future.result())["y"] for future in futures]
        finally:
            server.close()
    for x, answer, expected in zip(sent, answers, alone(graph, sent), strict=True):
        if answer.shape != expected.shape or not np.allclose(answer, expected, 1e-3, 1e-4, equal_nan=True):
            Rounding(graph).assert_explains(answer, expected, x)


def requested(random: np.random.Generator, number: int) -> Array:
    """Up to three rows; some callers send zeros, large, huge, or non-finite values."""
    x: Array = random.standard_normal((1 + number % 3, WIDTH)).astype(np.float32)
    zeros, one_nan = np.zeros_like(x), x.copy()
    one_nan[-1, -1] = np.nan
    odd = {2: x * 1e32, 5: x * 1000, 8: zeros, 9: x * 1e14, 11: zeros + np.nan, 14: one_nan, 17: zeros + np.inf}
    return odd.get(number, x).astype(np.float32)


def alone(graph: Graph, requests: Sequence[Array]) -> list[Array]:
    session = ort.InferenceSession(graph.model().SerializeToString(), providers=["CPUExecutionProvider"])
    return [session.run(["y"], {"x": x})[0] for x in requests]


@pytest.mark.parametrize("layers", [[centre, running], [quantize, centre, quantize]])
def test_rounding_explains_another_kernel_but_not_the_rows_of_another_caller(layers: Sequence[Layer]) -> None:
    graph, random = stack(layers, 1), np.random.default_rng(1)
    sent = [requested(random, number) * np.float32(1000) for number in range(2)]
    joined = ort.InferenceSession(graph.model().SerializeToString()).run(["y"], {"x": np.concatenate(sent)})[0]
    own = alone(graph, sent)

    Rounding(graph).assert_explains(joined[1:], own[1], sent[1])
    with pytest.raises(AssertionError):
        Rounding(graph).assert_explains(joined[:2], own[1], sent[1])


@pytest.fixture(scope="module")
def loader() -> Loader:
    return Loader(BackendOptions(), BatchThreads(1), Options(), Metrics(), per_model_batching=False)


def is_batched(loader: Loader, folder: Path, graph: Graph) -> bool:
    graph.write(folder / "1")
    servable = loader.load("m", 1, folder / "1")
    servable.close()
    return servable.verdicts["serving_default"].batched


def random_layers(random: np.random.Generator, layers: Sequence[Layer]) -> list[Layer]:
    return [layers[index] for index in random.integers(len(layers), size=random.integers(1, 7))]


def test_independent_rows_are_batched(loader: Loader, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    graphs = [stack(random_layers(random, APART), seed) for seed in range(SEVERAL)]

    batched = sum(is_batched(loader, tmp_path, graph) for graph in graphs)

    assert batched >= 0.95 * SEVERAL


@pytest.mark.parametrize("leak", LEAKS)
def test_models_that_mix_only_odd_numbers_are_bounded(loader: Loader, tmp_path: Path, leak: Layer) -> None:
    for seed, after in enumerate(APART):
        stack([leak, after], seed).write(tmp_path / "1")
        servable = loader.load("m", 1, tmp_path / "1")
        servable.close()

        assert servable.verdicts["serving_default"].finding is Finding.BOUNDED, after


@pytest.mark.parametrize("leak", LEAKS_OF_ORDINARY)
def test_models_that_mix_ordinary_numbers_are_not_batched(loader: Loader, tmp_path: Path, leak: Layer) -> None:
    assert not is_batched(loader, tmp_path, stack([leak], 1))


def test_rows_that_mix_are_never_batched(loader: Loader, tmp_path: Path) -> None:
    """The exception: later layers can undo the mixing, as a normalization undoes a division by the number of rows."""
    random = np.random.default_rng(2)
    undone = 0
    for seed in range(SEVERAL):
        layers = random_layers(random, APART)
        layers.insert(int(random.integers(len(layers) + 1)), MIXES[seed % len(MIXES)])
        graph = stack(layers, seed)
        if is_batched(loader, tmp_path, graph):
            undone += 1
            assert_apart(graph, [layer.__name__ for layer in layers])

    assert undone < 0.05 * SEVERAL


def assert_apart(graph: Graph, layers: Sequence[str]) -> None:
    session, random = ort.InferenceSession(graph.model().SerializeToString()), np.random.default_rng(3)
    for scale in (0.01, 1, 1, 1, 30, 1000, 1e6, np.inf, np.nan):
        x = random.standard_normal((8, WIDTH)).astype(np.float32)
        x[::2] *= np.float32(scale)
        own = np.concatenate([session.run(["y"], {"x": row[np.newaxis]})[0] for row in x])
        np.testing.assert_allclose(session.run(["y"], {"x": x})[0], own, rtol=1e-3, atol=1e-4, err_msg=str(layers))
