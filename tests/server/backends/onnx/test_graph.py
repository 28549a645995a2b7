"""What is derived from an ONNX graph: whether run times depend on values, and which inputs have no rank."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper
from onnx.numpy_helper import from_array

from headrace_server.backends.base import BackendOptions
from headrace_server.backends.independence import Hints
from headrace_server.backends.onnx.graph import RUN_ON_EMPTY, Graph, read_graph
from headrace_server.backends.onnx.loading import load_onnx
from headrace_server.errors import RunLost
from headrace_server.processes.isolated import IsolatedBackend, Isolation
from headrace_server.processes.job import Job
from tests.support import models

Make = Callable[[Path], Path]


def sized(operator: str, *, by_value: bool) -> Make:
    """A graph whose output's size comes from the shape of `x` int64 [N], or from its values."""

    def make(folder: Path) -> Path:
        source = helper.make_node("Identity" if by_value else "Shape", ["x"], ["size"])
        nodes = [source, *_SIZED[operator]]
        constants = [from_array(np.array([1], np.int64), "one"), from_array(np.array(1, np.int64), "step")]
        constants.append(from_array(np.array([0, 1], np.int64), "values"))
        inputs = [helper.make_tensor_value_info("x", TensorProto.INT64, [1])]
        outputs = [helper.make_tensor_value_info("y", TensorProto.INT64, None)]
        graph = helper.make_graph(nodes, "graph", inputs, outputs, constants)
        folder.mkdir(parents=True)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.save_model(model, folder / models.FILE)
        return folder / models.FILE

    return make


_SIZED: dict[str, list[NodeProto]] = {
    "Expand": [helper.make_node("Expand", ["one", "size"], ["y"])],
    "Tile": [helper.make_node("Tile", ["one", "size"], ["y"])],
    "OneHot": [helper.make_node("OneHot", ["one", "size", "values"], ["y"])],
    "ConstantOfShape": [
        helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
        helper.make_node("Cast", ["zeros"], ["y"], to=TensorProto.INT64),
    ],
    "Range": [
        helper.make_node("Squeeze", ["size"], ["limit"]),
        helper.make_node("Range", ["step", "limit", "step"], ["y"]),
    ],
}


@pytest.mark.parametrize("operator", _SIZED)
def test_sizes_that_come_from_values_decide_the_cost(tmp_path: Path, operator: str) -> None:
    by_value = load_onnx(sized(operator, by_value=True)(tmp_path / "1"), BackendOptions())
    by_shape = load_onnx(sized(operator, by_value=False)(tmp_path / "2"), BackendOptions())
    assert (by_value.steady, by_shape.steady) == (False, True)
    assert (by_value.hints.any_integers, by_shape.hints.any_integers) == (False, True)


@pytest.mark.parametrize(
    ("make", "steady"),
    [
        (models.linear, True),
        (models.external_data, True),
        (models.convolution, True),
        (models.recurrent, True),
        (models.column_totals, True),
        (models.counting, False),
        (partial(models.slow, steps=3), False),
        (models.positions, False),
        (models.kept, False),
        (models.filled, False),
    ],
)
def test_models_whose_run_time_does_not_depend_on_values(tmp_path: Path, make: Make, steady: bool) -> None:
    backend = load_onnx(make(tmp_path), BackendOptions())
    assert backend.steady is steady


def test_a_function_of_the_models_own_is_not_trusted(tmp_path: Path) -> None:
    file = models.linear(tmp_path)
    model = onnx.load(file)
    model.functions.append(
        helper.make_function(
            "own", "f", ["a"], ["b"], [helper.make_node("Identity", ["a"], ["b"])], [helper.make_opsetid("", 18)]
        )
    )
    onnx.save_model(model, file)
    assert read_graph(file) == Graph(steady=False, any_rank=frozenset())


def test_inputs_without_a_rank(tmp_path: Path) -> None:
    scalar, unranked = models.doubled_scalar(tmp_path / "1"), models.doubled_scalar(tmp_path / "2", ranked=False)
    expected = Graph(steady=True, runs_on_empty=True, hints=Hints(any_integers=True))
    assert read_graph(scalar) == expected
    assert read_graph(unranked) == replace(expected, any_rank=frozenset({"x"}))


@pytest.mark.parametrize("content", [b"ORTM", b"\0" * 100, b"\x3a\xff\xff\x03", b"\x08\x09"])
def test_a_file_in_another_format(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / models.FILE
    file.write_bytes(content)
    assert read_graph(file) is None


_TWO_INPUTS = ("Add", "Div", "Mul", "Sub")


def single(operator: str) -> Make:
    """A graph of one operator on `x` float32 [N, W]."""
    attributes: dict[str, Any] = {"to": TensorProto.FLOAT} if operator == "Cast" else {}
    names = ["x", "x"] if operator in _TWO_INPUTS else ["x"]

    def make(folder: Path) -> Path:
        shape = ["N", "W"]
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
        if operator == "Constant":
            nodes = [
                helper.make_node("Constant", [], ["zero"], value=from_array(np.zeros(1, np.float32))),
                helper.make_node("Add", ["x", "zero"], ["y"]),
            ]
        else:
            nodes = [helper.make_node(operator, names, ["y"], **attributes)]
        folder.mkdir(parents=True)
        graph = helper.make_graph(nodes, "graph", values[:1], values[1:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.save_model(model, folder / models.FILE)
        return folder / models.FILE

    return make


@pytest.mark.parametrize("operator", [*sorted(RUN_ON_EMPTY), "ReduceSum"])
@pytest.mark.parametrize("shape", [(2, 0), (0, 3), (0, 0)])
def test_operators_that_run_on_arrays_without_elements(tmp_path: Path, operator: str, shape: tuple[int, int]) -> None:
    backend = load_onnx(single(operator)(tmp_path / "1"), BackendOptions())
    assert backend.signatures["serving_default"].empty
    result = backend.run("serving_default", {"x": np.empty(shape, np.float32)}, ("y",))
    assert result["y"].shape == ((1, 1) if operator == "ReduceSum" else shape)


def test_one_other_operator_excludes_them(tmp_path: Path) -> None:
    for position, make in enumerate((models.recurrent, models.row_sums)):
        backend = load_onnx(make(tmp_path / str(position)), BackendOptions())
        assert not backend.signatures["serving_default"].empty


class TestDivisions:
    """The smallest integer divided by -1 ends ONNX Runtime's process; in older ones, so does a divisor of 0."""

    OLD = (1, 20)
    INT32, INT64, FLOAT = TensorProto.INT32, TensorProto.INT64, TensorProto.FLOAT

    @staticmethod
    def fatal(folder: Path, nodes: list[NodeProto], dtype: int, runtime: tuple[int, int] = (1, 32)) -> tuple[str, ...]:
        folder.mkdir(parents=True, exist_ok=True)
        inputs = [helper.make_tensor_value_info(name, dtype, ["N"]) for name in ("a", "b")]
        outputs = [helper.make_tensor_value_info("y", dtype, None)]
        two = from_array(np.array([2], helper.tensor_dtype_to_np_dtype(dtype)), "two")
        model = helper.make_model(helper.make_graph(nodes, "graph", inputs, outputs, [two]))
        onnx.save_model(model, folder / models.FILE)
        graph = read_graph(folder / models.FILE, runtime)
        assert graph is not None
        return graph.risks.fatal

    @pytest.mark.parametrize("dtype", [INT32, INT64])
    def test_by_what_a_request_says(self, tmp_path: Path, dtype: int) -> None:
        assert self.fatal(tmp_path, [helper.make_node("Div", ["a", "b"], ["y"])], dtype) == ("Div",)

    def test_of_floats(self, tmp_path: Path) -> None:
        assert self.fatal(tmp_path, [helper.make_node("Div", ["a", "b"], ["y"])], self.FLOAT) == ()

    def test_by_a_weight(self, tmp_path: Path) -> None:
        assert self.fatal(tmp_path, [helper.make_node("Div", ["a", "two"], ["y"])], self.INT64) == ()

    def test_by_a_size(self, tmp_path: Path) -> None:
        nodes = [helper.make_node("Shape", ["b"], ["size"]), helper.make_node("Div", ["a", "size"], ["y"])]
        assert self.fatal(tmp_path, nodes, self.INT64) == ()

    def test_of_values_that_are_cast_to_integers(self, tmp_path: Path) -> None:
        cast = [helper.make_node("Cast", [name], [f"{name}_whole"], to=self.INT64) for name in ("a", "b")]
        nodes = [*cast, helper.make_node("Abs", ["b_whole"], ["divisor"])]
        nodes += [helper.make_node("Div", ["a_whole", "divisor"], ["whole"])]
        nodes += [helper.make_node("Cast", ["whole"], ["y"], to=self.FLOAT)]
        assert self.fatal(tmp_path, nodes, self.FLOAT) == ("Div",)

    @pytest.mark.parametrize(("dtype", "expected"), [(INT64, ("Div",)), (FLOAT, ())])
    def test_in_a_loop(self, tmp_path: Path, dtype: int, expected: tuple[str, ...]) -> None:
        """The types of a loop body's own inputs are unknown; values from outside the loop have known types."""
        assert self.fatal(tmp_path, self.loop([helper.make_node("Div", ["s", "b"], ["t"])], dtype), dtype) == expected

    def test_of_floats_from_a_loop(self, tmp_path: Path) -> None:
        body = [helper.make_node("Cast", ["s"], ["f"], to=self.FLOAT), helper.make_node("Div", ["f", "b"], ["t"])]
        assert self.fatal(tmp_path, self.loop(body, self.FLOAT), self.FLOAT) == ()

    def test_mod_and_gather_of_an_older_runtime(self, tmp_path: Path) -> None:
        nodes = [helper.make_node("Mod", ["a", "b"], ["m"])]
        nodes += [helper.make_node("GatherND", ["m", "a"], ["y"], batch_dims=1)]
        assert self.fatal(tmp_path, nodes, self.INT64) == ()
        assert self.fatal(tmp_path, nodes, self.INT64, self.OLD) == ("GatherND", "Mod")

    def test_a_division_ends_the_process(self, tmp_path: Path) -> None:
        """The model is isolated: its process ends, and the next one answers."""
        self.fatal(tmp_path / "1", [helper.make_node("Div", ["a", "b"], ["y"])], self.INT64)
        backend = IsolatedBackend(Job(tmp_path / "1", BackendOptions()), Isolation(name="m"))
        smallest = {"a": np.full(1, np.iinfo(np.int64).min), "b": np.full(1, -1)}
        with pytest.raises(RunLost, match="SIGFPE"):
            backend.run("serving_default", smallest, ["y"])
        assert backend.run("serving_default", {"a": np.array([6]), "b": np.array([2])}, ["y"])["y"].tolist() == [3]
        backend.close()

    @staticmethod
    def loop(body: list[NodeProto], dtype: int) -> list[NodeProto]:
        inputs = [("i", TensorProto.INT64, ()), ("c", TensorProto.BOOL, ()), ("s", dtype, None)]
        graph = helper.make_graph(
            [helper.make_node("Identity", ["c"], ["d"]), *body],
            "body",
            [helper.make_tensor_value_info(*value) for value in inputs],
            [helper.make_tensor_value_info(*value) for value in (("d", TensorProto.BOOL, ()), ("t", dtype, None))],
        )
        three = helper.make_tensor("three", TensorProto.INT64, [], [3])
        return [
            helper.make_node("Constant", [], ["three"], value=three),
            helper.make_node("Loop", ["three", "", "a"], ["y"], body=graph),
        ]
