"""Models of which a request can crash the process run in a worker process, and no other models do."""

import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from onnx.helper import make_node

from headrace_batching import BatchThreads, Options
from headrace_protos import Code
from headrace_server.backends.base import BackendOptions
from headrace_server.backends.independence import Finding
from headrace_server.backends.onnx.loading import load_onnx
from headrace_server.errors import ServingError
from headrace_server.metrics.catalogue import Metrics
from headrace_server.models import containment, loader
from headrace_server.models.loader import Loader
from headrace_server.models.servable import Servable
from headrace_server.processes import isolated
from headrace_server.processes.isolated import IsolatedBackend
from tests.support.fatal_models import FATAL, MICROSOFT, Fatal
from tests.support.graphs import FLOAT, INT64, Graph, Value


@pytest.fixture(scope="module")
def threads() -> Iterator[BatchThreads]:
    threads = BatchThreads(1)
    threads.start()
    yield threads
    threads.close()


def load(graph: Graph, folder: Path, threads: BatchThreads, toml: str = "") -> Servable:
    graph.write(folder / "1")
    (folder / "model.toml").write_text(toml)
    return Loader(BackendOptions(), threads, Options(), Metrics(), per_model_batching=False).load("m", 1, folder / "1")


@pytest.mark.parametrize("fatal", FATAL.values(), ids=FATAL)
def test_a_model_that_a_request_can_crash_runs_in_a_worker_process(
    fatal: Fatal, tmp_path: Path, threads: BatchThreads, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "headrace_server"), closing(load(fatal.graph, tmp_path, threads)) as servable:
        assert isinstance(servable.backend, IsolatedBackend)
    assert any("model m version 1 runs in a worker process: " in message for message in caplog.messages)


def test_an_unknown_operator_is_tested_on_a_slow_machine_too(
    tmp_path: Path, threads: BatchThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containment, "TRIAL_SECONDS", 0.0)
    with closing(load(FATAL["an untested operator"].graph, tmp_path, threads)) as servable:
        assert isinstance(servable.backend, IsolatedBackend)


def test_zero_workers_overrides_the_isolation(tmp_path: Path, threads: BatchThreads) -> None:
    graph = FATAL["frames of length 0"].graph
    with closing(load(graph, tmp_path, threads, "[isolation]\nworkers = 0\n")) as servable:
        assert not isinstance(servable.backend, IsolatedBackend)


OPSETS = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]


def boxes(*, sent: bool = True, sampling_ratio: int = 0) -> Graph:
    """RoiAlign with a box for each image, which is sent with it or the same for all images."""
    box = np.array([[0, 0, 4, 4]], np.float32)
    nodes = [
        make_node("Shape", ["x"], ["n"], start=0, end=1),
        make_node("Squeeze", ["n"], ["count"]),
        make_node("Range", ["zero", "count", "one"], ["numbers"]),
        make_node("Concat", ["n", "four"], ["size"], axis=0),
        make_node("Expand", ["box", "size"], ["same"]),
        make_node("RoiAlign", ["x", "boxes" if sent else "same", "numbers"], ["y"], sampling_ratio=sampling_ratio),
    ]
    inputs: dict[str, Value] = {"x": (FLOAT, ("N", 1, 8, 8)), **({"boxes": (FLOAT, ("N", 4))} if sent else {})}
    constants = {"zero": np.array(0), "one": np.array(1), "four": np.array([4]), "box": box}
    return Graph(nodes, inputs, {"y": (FLOAT, ("N", 1, 1, 1))}, constants)


def kept(*, sent: bool, output: str = "each") -> Graph:
    """A loop with an output of its last value, and one with the values of all iterations."""
    body = Graph(
        [
            make_node("Identity", ["go"], ["on"]),
            make_node("Add", ["state", "state"], ["next"]),
            make_node("Identity", ["state"], ["value"]),
        ][: 3 if output == "each" else 2],
        {"number": (INT64, ()), "go": (9, ()), "state": (FLOAT, (1000,))},
        {"on": (9, ()), "next": (FLOAT, (1000,)), **({"value": (FLOAT, (1000,))} if output == "each" else {})},
    )
    outputs = ["last", "each"] if output == "each" else ["last"]
    node = make_node("Loop", ["times", "", "x"], outputs, body=body.model().graph)
    inputs: dict[str, Value] = {"x": (FLOAT, (1000,)), **({"times": (INT64, ())} if sent else {})}
    constants = {} if sent else {"times": np.array(3)}
    return Graph([node], inputs, {output: (FLOAT, None)}, constants)


def branch(size: str) -> Graph:
    """Zeros in a branch: as many as `x` has rows, as its first number says, or as a constant says."""
    inner = Graph([make_node("ConstantOfShape", [size], ["z"])], {}, {"z": (FLOAT, None)}).model().graph
    nodes = [
        make_node("Cast", ["x"], ["values"], to=INT64),
        make_node("Shape", ["x"], ["shape"]),
        make_node("If", ["yes"], ["y"], then_branch=inner, else_branch=inner),
    ]
    return Graph(nodes, {"x": (FLOAT, (1,))}, {"y": (FLOAT, None)}, {"yes": np.array(True), "constant": np.array([3])})


def stretched(times: str) -> Graph:
    """A loop that tiles its state as often as its number of iterations, or as a request, says."""
    body = Graph(
        [
            make_node("Identity", ["go"], ["on"]),
            make_node("Reshape", ["number", "one"], ["n"]),
            make_node("Tile", ["state", "n" if times == "iterations" else times], ["next"]),
        ],
        {"number": (INT64, ()), "go": (9, ()), "state": (FLOAT, None)},
        {"on": (9, ()), "next": (FLOAT, None)},
        {"one": np.array([1])},
    )
    node = make_node("Loop", ["three", "", "x"], ["y"], body=body.model().graph)
    inputs: dict[str, Value] = {"x": (FLOAT, (1,)), "repeats": (INT64, (1,))}
    return Graph([node], inputs, {"y": (FLOAT, None)}, {"three": np.array(3)})


def inside_a_branch(graph: Graph) -> Graph:
    outputs = [helper.make_tensor_value_info("y", FLOAT, None)]
    inner = helper.make_graph(list(graph.nodes), "branch", [], outputs)
    node = make_node("If", ["yes"], ["z"], then_branch=inner, else_branch=inner)
    return Graph([node], graph.inputs, {"z": (FLOAT, None)}, {**graph.constants, "yes": np.array(True)})


def function(size: str, *, calls: int = 1) -> Graph:
    """A function of the model's own makes zeros, or calls another one that does."""
    name = f"zeros{calls}"
    inner = [make_node("ConstantOfShape", ["size"], ["z"])]
    if calls > 1:
        inner = [make_node(f"zeros{calls - 1}", ["size"], ["z"], domain="own")]
    own = helper.make_function("own", name, ["size"], ["z"], inner, OPSETS)
    nodes = [
        make_node("Cast", ["x"], ["values"], to=INT64),
        make_node("Shape", ["x"], ["shape"]),
        make_node(name, [size], ["y"], domain="own"),
    ]
    others = function(size, calls=calls - 1).functions if calls > 1 else ()
    return Graph(nodes, {"x": (FLOAT, (1,))}, {"y": (FLOAT, None)}, domains=[("own", 1)], functions=(*others, own))


def overloaded() -> Graph:
    """A function with two overloads, of which the first makes zeros."""
    graph = function("values")
    (zeros,), call = graph.functions, graph.nodes[-1]
    zeros.overload = call.overload = "zeros"
    other = helper.make_function("own", zeros.name, ["size"], ["z"], [make_node("Identity", ["size"], ["z"])], OPSETS)
    return replace(graph, functions=(zeros, other))


HARMLESS = {
    "a size in a function that is a shape": function("shape"),
    "a size in a branch that is a shape": branch("shape"),
    "a size in a branch that is a constant": branch("constant"),
    "a size in a loop that is the number of the iteration": stretched("iterations"),
    "boxes with a number of samples": boxes(sampling_ratio=2),
    "boxes that are constants": boxes(sent=False),
    "a number of iterations that is a constant": kept(sent=False),
    "only the last iteration's values": kept(sent=True, output="last"),
    "an operator that survives its tests": Graph(
        [make_node("MurmurHash3", ["x"], ["y"], domain=MICROSOFT, positive=0)],
        {"x": (INT64, ("N",))},
        {"y": (6, ("N",))},
        domains=[(MICROSOFT, 1)],
    ),
    "a number of steps that depends on shapes": Graph(
        [
            make_node("Shape", ["x"], ["shape"], start=0, end=1),
            make_node("Squeeze", ["shape"], ["end"]),
            make_node("Range", ["zero", "end", "one"], ["y"]),
        ],
        {"x": (FLOAT, ("N", 4))},
        {"y": (INT64, ("N",))},
        {"zero": np.array(0), "one": np.array(1)},
    ),
    "a declared rank": Graph(
        [make_node("ReverseSequence", ["x", "lengths"], ["y"])],
        {"x": (FLOAT, ("T", "N")), "lengths": (INT64, ("N",))},
        {"y": (FLOAT, ("T", "N"))},
    ),
}


@pytest.mark.parametrize("graph", HARMLESS.values(), ids=HARMLESS)
def test_other_models_run_in_the_servers_process(graph: Graph, tmp_path: Path, threads: BatchThreads) -> None:
    with closing(load(graph, tmp_path, threads)) as servable:
        assert not isinstance(servable.backend, IsolatedBackend)


RISKY = {
    "a size in a function": function("values"),
    "a size in a function that another one calls": function("values", calls=2),
    "a size in one of a function's overloads": overloaded(),
    "a size in a branch": branch("values"),
    "a size in a loop": stretched("repeats"),
    "a size in a loop in a branch": inside_a_branch(stretched("repeats")),
    "boxes of any size": boxes(),
    "the values of any number of iterations": kept(sent=True),
    "an answer whose size the caller chooses": Graph(
        [make_node("Cast", ["x"], ["size"], to=INT64), make_node("ConstantOfShape", ["size"], ["y"])],
        {"x": (FLOAT, (1,))},
        {"y": (FLOAT, ("N",))},
    ),
    "a number of steps that depends on values": Graph(
        [make_node("Range", ["start", "end", "step"], ["y"])],
        dict.fromkeys(("start", "end", "step"), (FLOAT, ())),
        {"y": (FLOAT, ("N",))},
    ),
    "steps in a loop": Graph(
        [
            make_node(
                "Loop",
                ["times", "", "x"],
                ["y"],
                body=Graph(
                    [
                        make_node("Identity", ["go"], ["on"]),
                        make_node("Range", ["zero", "state", "one"], ["steps"]),
                        make_node("ReduceSum", ["steps"], ["next"], keepdims=0),
                    ],
                    {"number": (INT64, ()), "go": (9, ()), "state": (INT64, ())},
                    {"on": (9, ()), "next": (INT64, ())},
                    {"zero": np.array(0), "one": np.array(1)},
                )
                .model()
                .graph,
            )
        ],
        {"times": (INT64, ()), "x": (INT64, ())},
        {"y": (INT64, ())},
    ),
}


@pytest.mark.parametrize("graph", RISKY.values(), ids=RISKY)
def test_values_are_followed_through_the_graph(graph: Graph, tmp_path: Path, threads: BatchThreads) -> None:
    with closing(load(graph, tmp_path, threads)) as servable:
        assert isinstance(servable.backend, IsolatedBackend)


def test_a_model_that_can_run_for_hours_never_runs_on_a_connection_thread(tmp_path: Path) -> None:
    steady = [
        load_onnx(graph.write(tmp_path / str(number)), BackendOptions()).steady
        for number, graph in enumerate((boxes(), boxes(sampling_ratio=2), boxes(sent=False)))
    ]

    assert steady == [False, True, True]


def test_a_worker_process_may_use_a_part_of_the_memory(
    tmp_path: Path, threads: BatchThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "available_memory", lambda: 1 << 30)
    with closing(load(RISKY["an answer whose size the caller chooses"], tmp_path, threads)) as servable:
        run = partial(servable.backend.run, "serving_default", outputs=("y",))
        assert len(run({"x": np.array([1e6], np.float32)})["y"]) == 10**6
        with pytest.raises(ServingError) as refused:
            run({"x": np.array([1e9], np.float32)})
        assert refused.value.code == Code.RESOURCE_EXHAUSTED


def test_a_python_model_that_generated_values_keep_busy_is_served(
    tmp_path: Path, threads: BatchThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated, "TRY_SECONDS", 0.5)
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.py").write_text(
        'INPUTS = {"x": ("float32", [None, 2])}\nOUTPUTS = {"y": ("float32", [None, 2])}\n'
        'def predict(inputs):\n    while (inputs["x"] > 1e6).any(): pass\n    return {"y": inputs["x"]}\n'
    )
    loader = Loader(BackendOptions(), threads, Options(), Metrics(), per_model_batching=False)
    with closing(loader.load("m", 1, tmp_path / "1")) as servable:
        assert servable.verdicts["serving_default"].finding is Finding.UNDECIDED
        x = np.ones((1, 2), np.float32)
        assert servable.backend.run("serving_default", {"x": x}, ("y",))["y"].tolist() == x.tolist()
