"""Trials of models with loops whose number of steps depends on an input's values: the trials end."""

from contextlib import closing
from pathlib import Path
from threading import Timer

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto
from onnx.helper import make_node

from headrace_batching import BatchThreads, Options
from headrace_server.backends.base import BackendOptions
from headrace_server.backends.onnx import patience
from headrace_server.backends.onnx.patience import Patience
from headrace_server.metrics.catalogue import Metrics
from headrace_server.models.loader import Loader
from tests.support.graphs import FLOAT, INT64, Graph

BODY = Graph(
    [make_node("Identity", ["going"], ["go_on"]), make_node("Identity", ["before"], ["after"])],
    {"step": (INT64, ()), "going": (TensorProto.BOOL, ()), "before": (FLOAT, (None, 4))},
    {"go_on": (TensorProto.BOOL, ()), "after": (FLOAT, (None, 4))},
)
AS_OFTEN_AS_THE_LARGEST = Graph(
    [
        make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        make_node("Cast", ["largest"], ["times"], to=INT64),
        make_node("Loop", ["times", "", "x"], ["y"], body=BODY.model().graph),
    ],
    {"x": (FLOAT, ("N", 4))},
    {"y": (FLOAT, ("N", 4))},
)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loop_that_huge_values_would_keep_going_is_served(tmp_path: Path, workers: int) -> None:
    AS_OFTEN_AS_THE_LARGEST.write(tmp_path / "1")
    (tmp_path / "model.toml").write_text(f"[isolation]\nworkers = {workers}\n")
    loader = Loader(BackendOptions(), BatchThreads(1), Options(), Metrics(), per_model_batching=False)
    x = np.ones((1, 4), np.float32)
    with closing(loader.load("m", 1, tmp_path / "1")) as servable:
        assert servable.backend.run("serving_default", {"x": x}, ("y",))["y"].tolist() == x.tolist()


def test_a_run_may_take_much_longer_than_those_before_it() -> None:
    limits = []

    def timer(seconds: float, *_: object) -> Timer:
        limits.append(seconds)
        return Timer(0.0, lambda: None)

    times = iter([0.0, 0.01, 1.0, 4.0, 5.0, 5.5, 6.0, 6.0])
    patient = Patience(lambda: next(times), timer)
    for _ in range(4):
        with patient.ends(ort.RunOptions()):
            pass
    assert limits == [patience.FIRST, patience.LEAST, 3 * patience.TIMES, 3 * patience.TIMES]
