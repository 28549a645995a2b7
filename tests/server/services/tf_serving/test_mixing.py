"""Models that mix rows in any way, and others, served with default flags: each answer is that of the model alone."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from headrace_batching.task import Arrays
from headrace_server.backends.independence.values import Maker, Recipe, Rows
from headrace_server.backends.onnx.graph import graph_of
from headrace_server.backends.onnx.signatures import signatures_of
from tests.conftest import Rest, Run
from tests.support.calls import arrays, predict_request
from tests.support.graphs import INDEPENDENT, MIXING, Graph

REPEATED = [
    pytest.param(graph, id=f"{kind}: {name}")
    for kind, members in {**MIXING, "independent": INDEPENDENT}.items()
    for name, graph in members.items()
    if kind != "chance" and name not in ("text", "half floats")
]

CALLERS = 20

KINDS = (Rows.USUAL, Rows.UNIT, Rows.SIGNED, Rows.HUNDREDS, Rows.UNIT)


def session_of(graph: Graph) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(graph.model().SerializeToString(), options, providers=["CPUExecutionProvider"])


def requests(graph: Graph, session: ort.InferenceSession) -> Sequence[Arrays]:
    """Valid inputs of one to three rows, with values of several magnitudes, and categories that the model knows."""
    inputs = signatures_of(session, {})["serving_default"].inputs
    facts = graph_of(graph.model().SerializeToString(), (1, 20), None)
    assert facts is not None
    recipe = Recipe(categories=facts.hints.categories, known=True)
    made: list[Arrays] = []
    for seed in range(10 * CALLERS):
        rows = 1 + seed % 3
        own = replace(recipe, size=5 + seed % 2, most=None if rows > 1 else 1)
        maker = Maker(inputs, own, np.random.default_rng(seed))
        feed = {alias: scaled(array, seed) for alias, array in maker.rows(rows, KINDS[seed % len(KINDS)]).items()}
        try:
            session.run(None, decoded(feed))
        except Exception:
            continue
        made.append(feed)
    return made[:CALLERS]


def decoded(feed: Arrays) -> dict[str, np.ndarray]:
    """The inputs as ONNX Runtime takes them: a string is a str there, and bytes would become the text of their repr."""
    text = np.vectorize(bytes.decode, otypes=[object])
    return {alias: text(array) if array.dtype == object else array for alias, array in feed.items()}


def scaled(array: np.ndarray, seed: int) -> np.ndarray:
    return array * np.float32(1000) if array.dtype == np.float32 and seed % 7 == 3 else array


@pytest.mark.parametrize("graph", REPEATED)
def test_every_answer_is_that_of_the_model_alone(running: Run, graph: Graph) -> None:
    session = session_of(graph)
    names = [output.name for output in session.get_outputs()]
    sent = requests(graph, session)
    assert len(sent) >= CALLERS // 3
    caller = running(graph.write).caller

    futures = [caller.begin(predict_request(feed)) for feed in sent]

    for feed, future in zip(sent, futures, strict=True):
        assert_close(arrays(future.result()), dict(zip(names, session.run(names, decoded(feed)), strict=True)))


def assert_close(answer: Arrays, expected: Mapping[str, np.ndarray]) -> None:
    for name, want in expected.items():
        assert answer[name].shape == want.shape
        np.testing.assert_allclose(
            answer[name], want, rtol=1e-3, atol=1e-4 * float(np.abs(want[np.isfinite(want)]).max(initial=0))
        )


@pytest.mark.parametrize("name", MIXING["traced with a batch of one"])
def test_a_traced_batch_of_one_causes_no_failed_batch(resting: Rest, tmp_path: Path, name: str) -> None:
    monitoring = tmp_path / "monitoring.pbtxt"
    monitoring.write_text('prometheus_config { enable: true path: "/metrics" }')
    graph = MIXING["traced with a batch of one"][name]
    rest = resting(graph.write, monitoring_config_file=str(monitoring))

    lines = rest.get("/metrics").text.splitlines()

    assert any(line.startswith(":headrace:batching_verdict") and 'verdict="dependent"' in line for line in lines)
    assert not any(line.startswith(":headrace:batch_failures{") for line in lines)
