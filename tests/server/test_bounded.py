"""A model whose rows mix only for infinite, NaN or huge values: only such requests run alone."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace_batching import Options
from headrace_batching.task import Array
from headrace_protos import DataType
from headrace_server.backends.signature import Signature, TensorSpec
from tests.conftest import Rest, Run, Stop
from tests.support.calls import arrays, predict_request
from tests.support.layers import WIDTH, leaky_sum, relu, stack

# With one thread that waits for more requests, concurrent requests share a few batches.
TOGETHER = Options(num_batch_threads=1, batch_timeout_micros=20_000)

ODD = [np.nan, np.inf, -np.inf, 1.1e30, -3e38]


def leaky(folder: Path) -> None:
    stack([relu, leaky_sum], 1).write(folder)


def rows(value: float, count: int = 1) -> Array:
    return np.full((count, WIDTH), value, np.float32)


def answer_to(value: float) -> float:
    """The value of each element in the answer of a model that serves no other request."""
    return float(value if value >= 0 else np.float32(0.1) * np.float32(value)) if np.isfinite(value) else np.nan


def test_odd_numbers_affect_only_their_sender(running: Run, served: Stop) -> None:
    server = running(leaky, batching=TOGETHER)
    sent = [float(number) for number in range(60)]
    for place, value in enumerate(ODD):
        sent.insert(place * 12, value)

    futures = [
        server.caller.begin(predict_request({"x": rows(value, 1 + number % 2)})) for number, value in enumerate(sent)
    ]
    answers = [arrays(future.result())["y"] for future in futures]

    for value, answer in zip(sent, answers, strict=True):
        np.testing.assert_allclose(answer, answer_to(value), rtol=1e-6)
    requests, _, batches = served(server)
    assert requests == 65
    assert 6 <= batches < 40


def test_odd_numbers_affect_only_their_sender_over_rest(resting: Rest) -> None:
    caller = resting(leaky, batching=TOGETHER)
    for value in (1.0, 1e31, 2.0):
        assert caller.predict({"instances": rows(value).tolist()}) == {"predictions": [pytest.approx([value] * WIDTH)]}
    assert caller.post("predict", '{"instances": [[NaN, 1, 1, 1, 1, 1]]}').text.count("NaN") == WIDTH

    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, WIDTH], "data": rows(1e32).tolist()[0]}]}
    answer = caller.send("POST", "/v2/models/model/infer", body)
    assert answer.value["outputs"][0]["data"] == pytest.approx([1e32] * WIDTH)


def test_one_log_line_says_so(running: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "headrace_server")
    running(leaky)

    (line,) = [line for line in caplog.messages if "share batches" in line]
    said = (
        "requests share batches if all their floats are finite and from -1e+30 to 1e+30; other requests run one by one"
    )
    assert f"{said}: output 'y' becomes NaN when the other rows hold NaN" in line


class TestSignature:
    """Which requests are within a bound, decided in Python; Rust has its own tests."""

    @pytest.fixture(params=[DataType.DT_FLOAT, DataType.DT_DOUBLE, DataType.DT_HALF, DataType.DT_BFLOAT16])
    def spec(self, request: pytest.FixtureRequest) -> TensorSpec:
        return TensorSpec("x", request.param, (None, 3))

    def holds(self, spec: TensorSpec, *values: Any) -> bool:
        signature = Signature({"x": spec}, {}, bound=1000.0)
        return signature.is_bounded({"x": np.array([[1, 2, 3], values]).astype(spec.array_dtype)})

    def test_numbers_up_to_the_bound_are_within(self, spec: TensorSpec) -> None:
        assert self.holds(spec, 1000, -1000, -0.0)

    @pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 1024, -1024])
    def test_other_numbers_are_not_within(self, spec: TensorSpec, odd: float) -> None:
        assert not self.holds(spec, 0, odd, 1)

    def test_all_numbers_are_within_no_bound(self, spec: TensorSpec) -> None:
        assert Signature({"x": spec}, {}).is_bounded({"x": np.full((1, 3), np.nan).astype(spec.array_dtype)})

    def test_whole_numbers_and_empty_arrays_are_within(self) -> None:
        signature = Signature({}, {}, bound=1.0)

        assert signature.is_bounded({"i": np.array([1 << 40]), "x": np.empty((0, 3), np.float32)})

    def test_a_broadcast_value_is_checked_once(self) -> None:
        signature = Signature({}, {}, bound=1.0)

        assert signature.is_bounded({"x": np.broadcast_to(np.float32(1), (1 << 20, 1 << 20))})
        assert not signature.is_bounded({"x": np.broadcast_to(np.float32(2), (1 << 20, 1 << 20))})
