"""Models that differ only in the data of their weights share the analysis of their graph; no others do."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper
from onnx.numpy_helper import from_array

from headrace_server.backends.onnx import structure
from headrace_server.backends.onnx.graph import Graph, read_graph
from headrace_server.backends.shared import Shared
from tests.support import models
from tests.support.similar_models import mean_of_product

Change = Callable[[ModelProto], object]


def model(seed: int = 0) -> ModelProto:
    """Models whose weights, names and descriptions differ."""
    return mean_of_product(seed, label=f"seed {seed}")


def read(folder: Path, proto: ModelProto, shared: Shared) -> Graph:
    folder.mkdir(exist_ok=True)
    onnx.save_model(proto, folder / models.FILE)
    graph = read_graph(folder / models.FILE, shared=shared)
    assert graph is not None
    return graph


def test_other_weights_share_what_is_known(tmp_path: Path) -> None:
    shared = Shared()
    first, second = (read(tmp_path, model(seed), shared) for seed in (0, 1))
    assert first is second
    assert "y" in first.rows_apart


def over_the_batch(proto: ModelProto) -> None:
    proto.graph.initializer[1].CopyFrom(from_array(np.array([0], np.int64), "axes"))


def of_more_dimensions(proto: ModelProto) -> None:
    proto.graph.initializer[0].CopyFrom(from_array(np.zeros((3, 4, 2), np.float32), "w"))


def of_integers(proto: ModelProto) -> None:
    proto.graph.initializer[0].CopyFrom(from_array(np.zeros((4, 2), np.int32), "w"))


def by_another_operator(proto: ModelProto) -> None:
    proto.graph.node[1].op_type = "ReduceSum"


def with_an_attribute(proto: ModelProto) -> None:
    proto.graph.node[1].attribute[0].i = 1


def of_another_domain(proto: ModelProto) -> None:
    proto.graph.node[0].domain = "of.somebody"


def with_an_input_of_no_rank(proto: ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.ClearField("shape")


def with_a_function(proto: ModelProto) -> None:
    body = [helper.make_node("Identity", ["a"], ["b"])]
    proto.functions.add().CopyFrom(helper.make_function("of.somebody", "F", ["a"], ["b"], body, [], []))


@pytest.mark.parametrize(
    "change",
    [
        over_the_batch,
        of_more_dimensions,
        of_integers,
        by_another_operator,
        with_an_attribute,
        of_another_domain,
        with_an_input_of_no_rank,
        with_a_function,
    ],
)
def test_another_structure_has_its_own(tmp_path: Path, change: Change) -> None:
    shared, other = Shared(), model()
    change(other)
    first, second = read(tmp_path, model(), shared), read(tmp_path, other, shared)
    assert first is not second
    assert second == read(tmp_path, other, Shared())


def test_a_function_is_not_mistaken_for_a_node() -> None:
    """A function's fields have the same numbers as a graph's, so a name with the bytes of a node could pass for one."""
    with_node, with_function = ModelProto(), ModelProto()
    for proto in (with_node, with_function):
        proto.graph.node.add(op_type="Identity")
    with_node.graph.node.add(op_type="Relu")
    with_function.functions.add(name=with_node.graph.node[1].SerializeToString().decode())
    first, second = (structure.read_structure(each.SerializeToString()) for each in (with_node, with_function))
    assert first is not None
    assert second is not None
    assert first.key != second.key


def test_a_graph_is_the_same_whether_its_weights_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = Shared()
    for number, make in enumerate((models.recurrent, models.row_sums, models.lookup)):
        file = make(tmp_path / str(number))
        decoded = read_graph(file, shared=shared)
        with monkeypatch.context() as patched:
            patched.setattr(structure, "_AT_ONCE", 0)
            assert decoded is not None
            assert read_graph(file) == decoded
    with_function = model()
    with_a_function(with_function)
    small = read(tmp_path, with_function, shared)
    monkeypatch.setattr(structure, "_AT_ONCE", 0)
    assert read(tmp_path, with_function, Shared()) == small


def test_a_field_that_protobuf_ignores_is_no_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight named like the input would hide that requests decide its values."""
    proto = model()
    proto.graph.MergeFromString(b"\x29\x42\x01x\x08\x01\x08\x81\x00")  # field 5 with 8 bytes instead of a length
    small = read(tmp_path, proto, Shared())
    assert small == read(tmp_path, model(), Shared())
    monkeypatch.setattr(structure, "_AT_ONCE", 0)
    assert read(tmp_path, proto, Shared()) == small


def test_a_weight_may_also_be_an_input(tmp_path: Path) -> None:
    proto = model()
    proto.graph.input.add().CopyFrom(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 2]))
    assert "y" in read(tmp_path, proto, Shared()).rows_apart
