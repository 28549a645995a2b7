"""What a graph proves about the rows of a batch: never more than a trial finds, and enough for common models."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import NodeProto
from onnx.helper import make_node

from headrace_batching import Options
from headrace_batching.task import Arrays
from headrace_server.backends.base import BackendOptions
from headrace_server.backends.independence import Finding, Subject, try_rows
from headrace_server.backends.onnx.backend import OnnxBackend
from headrace_server.backends.onnx.loading import load_onnx
from tests.support.graphs import FLOAT, INT64, MIXING, Graph, Value, weights
from tests.support.layers import APART, LEAKS, LEAKS_OF_ORDINARY, MIXES, Layer, dense, stack

SIGNATURE = "serving_default"
N = ("N", 4)


def loaded(graph: Graph, folder: Path) -> OnnxBackend:
    return load_onnx(graph.write(folder), BackendOptions(batching=Options()))


def proved(graph: Graph, folder: Path) -> bool:
    backend = loaded(graph, folder)
    apart = backend.rows_are_apart(SIGNATURE)
    backend.close()
    return apart


def tried(backend: OnnxBackend) -> Finding:
    signature = backend.signatures[SIGNATURE]

    def run(inputs: Arrays) -> Arrays:
        return backend.try_run(SIGNATURE, inputs, signature.every_output)

    return try_rows(Subject(run=run, inputs=signature.inputs, outputs=signature.outputs), 10.0).finding


stacks = st.lists(st.sampled_from([*APART, *MIXES, *LEAKS, *LEAKS_OF_ORDINARY]), min_size=1, max_size=5)


@given(layers=stacks, seed=st.integers(0, 1000))
@settings(max_examples=60)
def test_a_trial_finds_what_is_proved(
    tmp_path_factory: pytest.TempPathFactory, layers: Sequence[Layer], seed: int
) -> None:
    backend = loaded(stack(layers, seed), tmp_path_factory.mktemp("graph"))
    if backend.rows_are_apart(SIGNATURE):
        assert tried(backend) is Finding.INDEPENDENT
        assert not set(layers) & {*MIXES, *LEAKS, *LEAKS_OF_ORDINARY}
    backend.close()


@pytest.mark.parametrize("mixes", [*MIXES, *LEAKS, *LEAKS_OF_ORDINARY])
def test_nothing_is_proved_of_rows_that_mix(mixes: Layer, tmp_path: Path) -> None:
    assert not proved(stack([dense, mixes, dense], 1), tmp_path)


@pytest.mark.parametrize("graph", [graph for members in MIXING.values() for graph in members.values()])
def test_nothing_is_proved_of_other_graphs_whose_rows_mix(graph: Graph, tmp_path: Path) -> None:
    assert not proved(graph, tmp_path)


def one(operator: str, *others: str, inner: Sequence[int] = (4,), out: int = 2, **attributes: Any) -> Graph:
    """One operator from `x` [N, inner] to `y` of a rank."""
    node = make_node(operator, ["x", *others], ["y"], **attributes)
    constants: dict[str, npt.ArrayLike] = {
        "w": weights(4, 4),
        "b": weights(4),
        "b1": weights(1, 4),
        "k": weights(2, 3, 3, 3),
        "one": np.float32(0.5),
        "i": np.array([1]),
        "i0": np.array([0]),
        "ii": np.array([0, 2]),
        "shape": np.array([0, 2, 2]),
        "axis": np.int64(1),
        "axis0": np.int64(0),
        "pick": np.array([0, 3]),
        "b3": weights(3, 4),
        "b113": weights(3, 1, 4),
    }
    used = {name: constants[name] for name in others if name in constants}
    return Graph([node], {"x": (FLOAT, ["N", *inner])}, {"y": (FLOAT, [None] * out)}, used)


APART_BY_THEMSELVES = {
    "unary": one("Tanh"),
    "clipped": one("Clip", "one"),
    "dense": one("MatMul", "w"),
    "with bias": one("Gemm", "w", "b"),
    "transposed weights": one("Gemm", "w", transB=1),
    "added vector": one("Add", "b"),
    "added row": one("Mul", "b1"),
    "added scalar": one("Sub", "one"),
    "itself": one("Add", "x"),
    "softmax": one("Softmax", axis=-1),
    "softmax along 1": one("Softmax", axis=1),
    "norm": one("LayerNormalization", "b", axis=-1),
    "mean": one("ReduceMean", "i", keepdims=1),
    "sum": one("ReduceSum", "i", keepdims=0, out=1),
    "convolution": one("Conv", "k", inner=(3, 8, 8), out=4),
    "pool": one("MaxPool", inner=(3, 8, 8), kernel_shape=[2, 2], out=4),
    "global pool": one("GlobalAveragePool", inner=(3, 8, 8), out=4),
    "flatten": one("Flatten", inner=(3, 8, 8)),
    "reshape": one("Reshape", "shape", out=3),
    "transpose": one("Transpose", inner=(3, 8), perm=[0, 2, 1], out=3),
    "attention": one("MatMul", "x", inner=(4, 4), out=3),
    "concatenation": one("Concat", "x", axis=1),
    "chosen columns": one("Gather", "pick", axis=1),
    "squeezed": one("Squeeze", "i", inner=(1, 4)),
    "unsqueezed": one("Unsqueeze", "i", out=3),
    "running sum": one("CumSum", "axis"),
    "two columns": one("Slice", "i0", "i", "i"),
}

MIXED_OR_UNKNOWN = {
    "softmax": one("Softmax", axis=0),
    "softmax from behind": one("Softmax", axis=-2),
    "norm": one("LayerNormalization", "b", axis=0),
    "mean": one("ReduceMean", "i0"),
    "mean of all": one("ReduceMean", keepdims=1),
    "both axes": one("ReduceSum", "ii", inner=(4, 4), out=3),
    "transposed": one("Transpose", perm=[1, 0]),
    "reversed": one("Transpose"),
    "transposed rows": one("Gemm", "x", transA=1),
    "all pairs": one("Gemm", "x", transB=1),
    "stacked": one("Concat", "x", axis=0),
    "flat": one("Flatten", axis=0),
    "running sum": one("CumSum", "axis0"),
    "chosen rows": one("Gather", "pick", axis=0),
    "added rows": one("Add", "b3"),
    "another rank": one("Add", "b113", out=3),
    "first rows": one("Slice", "i0", "i", "i0"),
}


@pytest.mark.parametrize("name", APART_BY_THEMSELVES)
def test_operators_that_keep_rows_independent(name: str, tmp_path: Path) -> None:
    backend = loaded(APART_BY_THEMSELVES[name], tmp_path)

    assert backend.rows_are_apart(SIGNATURE)
    assert tried(backend) is Finding.INDEPENDENT
    backend.close()


@pytest.mark.parametrize("name", MIXED_OR_UNKNOWN)
def test_operators_that_may_mix_rows(name: str, tmp_path: Path) -> None:
    assert not proved(MIXED_OR_UNKNOWN[name], tmp_path)


@pytest.mark.parametrize(
    "removes",
    [
        make_node("ReduceSum", ["x", "twice"], ["one each"], keepdims=0),
        make_node("Squeeze", ["x", "twice"], ["one each"]),
    ],
)
def test_an_axis_may_be_given_twice(removes: onnx.NodeProto, tmp_path: Path) -> None:
    """The rest of `x` [N, 1, 1] is added to a vector. If two axes remain, the sum is broadcast to [N, N]."""
    nodes = [
        removes,
        make_node("ReduceSum", ["x", "both"], ["vector"], keepdims=0),
        make_node("Add", ["one each", "vector"], ["y"]),
    ]
    constants = {"twice": np.array([2, -1]), "both": np.array([1, 2])}

    assert not proved(Graph(nodes, {"x": (FLOAT, ["N", 1, 1])}, {"y": (FLOAT, ["N", None])}, constants), tmp_path)


def test_inputs_of_different_ranks_are_not_proved(tmp_path: Path) -> None:
    node = make_node("Add", ["x", "z"], ["y"])
    inputs: dict[str, Value] = {"x": (FLOAT, ["N", 4]), "z": (FLOAT, ["M"])}

    assert not proved(Graph([node], inputs, {"y": (FLOAT, [None, None])}), tmp_path)


def test_a_table_that_is_a_weight_is_looked_up_row_by_row(tmp_path: Path) -> None:
    node = make_node("Gather", ["table", "ids"], ["y"])

    assert proved(
        Graph([node], {"ids": (INT64, ["N", 3])}, {"y": (FLOAT, ["N", 3, 2])}, {"table": weights(9, 2)}), tmp_path
    )


def cut_to(axis: int, *, ends: str = "size", rank: int = 2, **attributes: Any) -> Graph:
    """Rows plus a table of positions that is cut to one size of the input."""
    nodes = [
        make_node("Shape", ["x"], ["shape"], **attributes),
        make_node("Gather", ["shape", "axis"], ["size"], axis=0),
        make_node("Slice", ["table", "zero", ends, "zero"], ["positions"]),
        make_node("Add", ["x", "positions"], ["y"]),
    ]
    if ends == "wide":
        nodes[1:2] = [
            make_node("Gather", ["shape", "first"], ["only"]),
            make_node("Unsqueeze", ["only", "zero"], ["wide"]),
        ]
    dims: list[int | str | None] = ["N", "L", *[3] * (rank - 2)]
    constants = {
        "axis": np.array([axis]),
        "first": np.array(axis),
        "zero": np.array([0]),
        "table": weights(*[60, 3][: rank - 1]),
    }
    return Graph(nodes, {"x": (FLOAT, dims)}, {"y": (FLOAT, dims)}, constants)


CUT: dict[str, Graph] = {
    "to the length": cut_to(1),
    "to the length, by a negative axis": cut_to(-1),
    "to the length of vectors": cut_to(1, rank=3),
    "to the length of vectors, by a negative axis": cut_to(-2, rank=3),
    "to the length, a scalar": cut_to(1, ends="wide"),
}

CUT_BY_THE_BATCH: dict[str, Graph] = {
    "to the rows": cut_to(0),
    "to the rows, by a negative axis": cut_to(-2),
    "to the rows, a scalar": cut_to(0, ends="wide"),
    "to the rows of vectors": cut_to(-3, rank=3),
    "to a size whose axis has another start": cut_to(0, start=1),
    "to the rows, the last of one size": cut_to(-1, end=1),
    "to the rows, the first of two sizes": cut_to(-2, rank=3, end=2),
    "to the rows, the only size before the last": cut_to(-1, end=-1),
}


@pytest.mark.parametrize("name", CUT)
def test_a_table_of_positions_may_be_cut_to_the_length(name: str, tmp_path: Path) -> None:
    backend = loaded(CUT[name], tmp_path)

    assert backend.rows_are_apart(SIGNATURE)
    assert tried(backend) is Finding.INDEPENDENT
    backend.close()


@pytest.mark.parametrize("name", CUT_BY_THE_BATCH)
def test_a_table_of_positions_may_not_be_cut_to_the_number_of_rows(name: str, tmp_path: Path) -> None:
    assert not proved(CUT_BY_THE_BATCH[name], tmp_path)


def looked_up(axis: int) -> Graph:
    """Rows of vectors plus the embeddings of as many positions as one size of the input."""
    nodes = [
        make_node("Shape", ["x"], ["shape"]),
        make_node("Gather", ["shape", "axis"], ["size"], axis=0),
        make_node("Unsqueeze", ["size", "zero"], ["end"]),
        make_node("Slice", ["numbers", "zero", "end", "one"], ["positions"]),
        make_node("Gather", ["table", "positions"], ["embeddings"]),
        make_node("Add", ["x", "embeddings"], ["y"]),
    ]
    constants = {
        "axis": np.array(axis),
        "zero": np.array([0]),
        "one": np.array([1]),
        "numbers": np.arange(80).reshape(1, 80),
        "table": weights(80, 3),
    }
    return Graph(nodes, {"x": (FLOAT, ["N", "L", 3])}, {"y": (FLOAT, ["N", "L", 3])}, constants)


def test_embeddings_of_positions_may_be_looked_up_in_a_table(tmp_path: Path) -> None:
    backend = loaded(looked_up(1), tmp_path)

    assert backend.rows_are_apart(SIGNATURE)
    assert tried(backend) is Finding.INDEPENDENT
    backend.close()


@pytest.mark.parametrize("axis", [0, -3])
def test_positions_of_rows_prove_nothing(axis: int, tmp_path: Path) -> None:
    assert not proved(looked_up(axis), tmp_path)


def reshaped(*sizes: str | int) -> Graph:
    """Rows of vectors of 6 numbers, in a shape of these sizes: constants, or sizes of the input by axis."""
    nodes, constants = [make_node("Shape", ["x"], ["shape"])], {"zero": np.array([0])}
    for number, size in enumerate(sizes):
        if isinstance(size, int):
            constants[f"size{number}"] = np.array([size])
            continue
        constants[f"axis{number}"] = np.array(int(size))
        nodes += [
            make_node("Gather", ["shape", f"axis{number}"], [f"only{number}"]),
            make_node("Unsqueeze", [f"only{number}", "zero"], [f"size{number}"]),
        ]
    nodes += [
        make_node("Concat", [f"size{number}" for number in range(len(sizes))], ["wanted"], axis=0),
        make_node("Reshape", ["x", "wanted"], ["y"]),
    ]
    dims: list[int | str | None] = ["A", "B", "C", "D"]
    return Graph(nodes, {"x": (FLOAT, ["N", "L", 6])}, {"y": (FLOAT, dims[: len(sizes)])}, constants)


@pytest.mark.parametrize(
    "sizes", [("0", "1", 2, 3), ("-3", "-2", 2, 3), ("0", "1", 3, -1), ("0", -1), ("0", 0, 2, 3), ("0", "2", "1")]
)
def test_each_row_may_be_reshaped(sizes: tuple[str | int, ...], tmp_path: Path) -> None:
    backend = loaded(reshaped(*sizes), tmp_path)

    assert backend.rows_are_apart(SIGNATURE)
    assert tried(backend) is Finding.INDEPENDENT
    backend.close()


@pytest.mark.parametrize("sizes", [("1", "0", 2, 3), (2, "0", "1", 3), (-1, 6), ("1", -1), ("0", "0", -1)])
def test_other_shapes_prove_nothing(sizes: tuple[str | int, ...], tmp_path: Path) -> None:
    assert not proved(reshaped(*sizes), tmp_path)


def test_a_table_that_is_sent_proves_nothing(tmp_path: Path) -> None:
    node = make_node("Gather", ["table", "ids"], ["y"])
    inputs: dict[str, Value] = {"ids": (INT64, ["N"]), "table": (FLOAT, ["M", 2])}

    assert not proved(Graph([node], inputs, {"y": (FLOAT, ["N", 2])}), tmp_path)


def test_all_outputs_must_be_proved(tmp_path: Path) -> None:
    nodes = [make_node("Relu", ["x"], ["y"]), make_node("ReduceSum", ["x"], ["s"], keepdims=1)]

    assert not proved(Graph(nodes, {"x": (FLOAT, N)}, {"y": (FLOAT, N), "s": (FLOAT, [1, 1])}), tmp_path)


def test_constants_may_be_nodes_and_be_quantized(tmp_path: Path) -> None:
    axes = onnx.numpy_helper.from_array(np.array([1]))
    nodes = [
        make_node("Constant", [], ["axes"], value=axes),
        make_node("DequantizeLinear", ["q", "scale"], ["w"]),
        make_node("Transpose", ["w"], ["wt"]),
        make_node("MatMul", ["x", "wt"], ["h"]),
        make_node("ReduceSum", ["h", "axes"], ["y"], keepdims=1),
    ]
    constants = {"q": np.ones((3, 4), np.int8), "scale": np.float32(0.1)}

    assert proved(Graph(nodes, {"x": (FLOAT, N)}, {"y": (FLOAT, ["N", 1])}, constants), tmp_path)


def test_inner_graphs_and_functions_prove_nothing(tmp_path: Path) -> None:
    made = onnx.helper.make_tensor_value_info("b", FLOAT, None)
    branch = onnx.helper.make_graph([make_node("Relu", ["x"], ["b"])], "b", [], [made])
    node = make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)

    assert not proved(Graph([node], {"x": (FLOAT, N)}, {"y": (FLOAT, N)}, {"yes": np.bool_(True)}), tmp_path)


def test_random_numbers_prove_nothing(tmp_path: Path) -> None:
    nodes: list[NodeProto] = [make_node("RandomNormal", [], ["r"], shape=[4]), make_node("Add", ["x", "r"], ["y"])]

    assert not proved(Graph(nodes, {"x": (FLOAT, N)}, {"y": (FLOAT, N)}), tmp_path)
