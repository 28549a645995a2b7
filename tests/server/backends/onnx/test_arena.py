"""ONNX Runtime's arena returns the memory that it took for large answers."""

from pathlib import Path
from typing import cast

import numpy as np
import onnxruntime as ort
import pytest

from headrace_batching.task import Array, Arrays
from headrace_server.backends.base import BackendOptions
from headrace_server.backends.onnx.arena import LARGE_OUTPUT, SECONDS, Arena, arena_of
from headrace_server.backends.onnx.loading import load_onnx
from headrace_server.config.onnxruntime import OnnxruntimeOptions
from headrace_server.metrics.heap import read_memory
from tests.support import models
from tests.support.clock import Clock

DEFAULT = "serving_default"
X: Arrays = {"x": np.zeros(1)}
SMALL, LARGE = [np.zeros(LARGE_OUTPUT - 1, np.int8)], [np.zeros(1, np.int8), np.zeros(LARGE_OUTPUT, np.int8)]


class Session:
    """Counts the runs that an arena starts; each fails like a terminated run of ONNX Runtime."""

    def __init__(self) -> None:
        self.runs: list[ort.RunOptions] = []

    def run(self, _: None, inputs: Arrays, options: ort.RunOptions) -> None:
        self.inputs = inputs
        self.runs.append(options)
        raise RuntimeError("Exiting due to terminate flag being set to true.")


def arena_for(session: Session, clock: Clock) -> Arena:
    return Arena(cast("ort.InferenceSession", session), clock)


def test_runs_with_small_outputs_change_nothing() -> None:
    arena = arena_for(session := Session(), Clock())
    arena.before_run(X)
    arena.ran(X, SMALL)
    arena.before_run(X)

    assert session.runs == []


def test_before_the_run_after_a_large_output_memory_is_freed() -> None:
    arena = arena_for(session := Session(), Clock())
    for _ in range(3):
        arena.ran(X, LARGE)
        arena.before_run(X)

    (options,) = session.runs
    assert options.terminate
    assert options.get_run_config_entry("memory.enable_memory_arena_shrinkage") == "cpu:0"


def test_memory_is_freed_at_intervals() -> None:
    arena = arena_for(session := Session(), clock := Clock())
    freed: list[int] = []
    for at in range(40):
        arena.ran(X, LARGE)
        arena.before_run(X)
        if len(session.runs) > len(freed):
            freed.append(at)
        clock.now += SECONDS / 8  # exact in floating point

    assert freed == [0, 8, 16, 24, 32]


@pytest.mark.parametrize("rows", [1, 100])
def test_memory_of_answers_that_waited_is_returned_to_the_system(tmp_path: Path, rows: int) -> None:
    backend = load_onnx(models.identity(tmp_path, dims=("N", "W")), BackendOptions())
    assert backend._arena is not None
    backend._arena._clock = clock = Clock()

    def answer(rows: int, columns: int) -> Array:
        return backend.run(DEFAULT, {"x": np.ones((rows, columns), np.float32)}, ["y"])["y"]

    answer(1, 250_000)
    before = read_memory()
    waiting = [answer(rows, 250_000) for _ in range(200 // rows)]
    most = read_memory()
    del waiting
    clock.now += SECONDS
    answer(1, 1)

    assert taken(most) - taken(before) > 180 << 20
    assert taken(read_memory()) - taken(before) < 20 << 20


@pytest.mark.parametrize("rows", [1, 50])
def test_memory_of_such_answers_is_returned_even_if_no_run_follows(tmp_path: Path, rows: int) -> None:
    backend = load_onnx(models.identity(tmp_path, dims=("N", "W")), BackendOptions())
    assert backend._arena is not None
    backend._arena._clock = clock = Clock()
    backend.run(DEFAULT, {"x": np.ones((1, 1), np.float32)}, ["y"])  # ONNX Runtime never frees the first region
    before = read_memory()
    waiting = [backend.run(DEFAULT, {"x": np.ones((rows, 250_000), np.float32)}, ["y"]) for _ in range(100 // rows)]
    del waiting
    backend.free_unused()  # too early: another run is likely
    most = read_memory()
    clock.now += SECONDS
    backend.free_unused()

    assert taken(most) - taken(before) > 90 << 20
    assert taken(read_memory()) - taken(before) < 10 << 20


@pytest.mark.parametrize("array", [np.ones((3, 2), np.int32), np.ones((), np.bool_), np.array([b"a"], object)])
def test_an_idle_arena_is_freed_by_a_run_on_inputs_like_the_last_ones(array: Array) -> None:
    arena = arena_for(session := Session(), clock := Clock())
    arena.ran({"x": array}, LARGE)
    clock.now += SECONDS
    for _ in range(2):
        arena.free_if_idle()

    assert len(session.runs) == 1
    assert session.inputs["x"].shape == array.shape
    assert session.inputs["x"].dtype == array.dtype


def taken(memory: dict[str, int]) -> int:
    """The number of bytes that C's allocator has taken from the system for large blocks."""
    return memory["heap_mapped"]


def test_a_session_without_an_arena_is_not_asked_to_free_it(tmp_path: Path) -> None:
    options = BackendOptions(onnxruntime=OnnxruntimeOptions(cpu_memory_arena=False))
    backend = load_onnx(models.repeated(tmp_path, columns=250_000), options)

    assert backend._arena is None
    for _ in range(2):  # ONNX Runtime refuses to free a missing arena
        assert backend.run(DEFAULT, {"x": np.ones((2, 1), np.float32)}, ["y"])["y"].shape == (2, 250_000)


def test_a_session_on_the_cpu_has_an_arena(tmp_path: Path) -> None:
    session = ort.InferenceSession(models.linear(tmp_path))

    assert isinstance(arena_of(session), Arena)
