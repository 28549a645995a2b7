"""A serialized ONNX model without its declared shapes: what goes, what stays."""

from collections.abc import Callable, Iterable
from pathlib import Path

import onnx
import pytest
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, ValueInfoProto
from onnx.shape_inference import infer_shapes

from headrace_server.backends.onnx.shapes import without_shapes
from tests import models


def relaxed(model: ModelProto) -> ModelProto:
    return ModelProto.FromString(without_shapes(model.SerializeToString()))


def graphs(graph: GraphProto) -> Iterable[GraphProto]:
    """A graph and all those within it."""
    yield graph
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        if attribute.HasField("g"):
            yield from graphs(attribute.g)


def sizes(values: Iterable[ValueInfoProto]) -> list[int]:
    return [len(value.type.tensor_type.shape.dim) for value in values]


@pytest.mark.parametrize("make", [models.linear, models.counting, lambda folder: models.slow(folder, steps=2)])
def test_no_dimension_is_left_and_nothing_else_is_lost(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    model = infer_shapes(onnx.load(make(tmp_path)))
    assert any(sizes(model.graph.input))
    without = relaxed(model)
    for before, after in zip(graphs(model.graph), graphs(without.graph), strict=True):
        assert sizes([*after.input, *after.output, *after.value_info]) == [0] * (len(after.input) + len(after.output))
        assert [value.name for value in after.input] == [value.name for value in before.input]
        assert [value.type.tensor_type.elem_type for value in after.input] == [
            value.type.tensor_type.elem_type for value in before.input
        ]
        assert list(after.initializer) == list(before.initializer)
        assert [node.op_type for node in after.node] == [node.op_type for node in before.node]


def test_scalars_stay_scalars(tmp_path: Path) -> None:
    """ONNX Runtime runs no loop whose counter is not declared to be one."""
    model = onnx.load(models.counting(tmp_path))
    (before,), (after,) = (list(graphs(m.graph))[1:] for m in (model, relaxed(model)))
    assert all(value.type.tensor_type.HasField("shape") for value in [*before.input, *after.input])


def test_a_sequence_keeps_its_type(tmp_path: Path) -> None:
    model = onnx.load(models.sequence_output(tmp_path))
    assert relaxed(model).graph.output == model.graph.output


def test_what_is_no_model() -> None:
    with pytest.raises(DecodeError):
        without_shapes(b"\xff\xff\xff")
