"""Models that differ only in the data of their weights are recognised by the other bytes of their files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto
from onnx.helper import (
    make_graph,
    make_model,
    make_node,
    make_opsetid,
    make_tensor_sequence_value_info,
    make_tensor_value_info,
)
from onnx.numpy_helper import from_array

from headrace_server.backends.base import BackendOptions
from headrace_server.backends.onnx import loading
from headrace_server.backends.onnx.backend import OnnxBackend
from headrace_server.backends.onnx.graph import Graph, graph_of
from headrace_server.backends.onnx.layouts import Layout, Layouts
from headrace_server.backends.onnx.loading import load_onnx
from headrace_server.backends.onnx.model_files import ModelFiles
from headrace_server.backends.onnx.operators import CHECKS_MORE
from headrace_server.backends.onnx.signatures import Found, find_signatures
from headrace_server.backends.shared import Shared
from headrace_server.config.model_toml import SignatureOptions
from tests.support import models
from tests.support.similar_models import mean_of_product

DEFAULT = "serving_default"


def graph(content: bytes, shared: Shared) -> Graph:
    found = graph_of(content, CHECKS_MORE, shared)
    assert found is not None
    return found


def load(folder: Path, proto: ModelProto, options: BackendOptions) -> OnnxBackend:
    folder.mkdir()
    onnx.save_model(proto, folder / models.FILE)
    return load_onnx(folder / models.FILE, options)


def test_the_third_model_of_a_structure_is_recognised_and_computes_with_its_own_weights(tmp_path: Path) -> None:
    options, protos = BackendOptions(), [mean_of_product(seed) for seed in range(4)]
    loaded = [load(tmp_path / str(seed), proto, options) for seed, proto in enumerate(protos)]
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for seed, (backend, proto) in enumerate(zip(loaded, protos, strict=True)):
        weights = onnx.numpy_helper.to_array(proto.graph.initializer[0])
        assert backend.run(DEFAULT, {"x": x}, ["y"])["y"] == pytest.approx((x @ weights).mean(1), rel=1e-5)
        assert backend.rows_are_apart(DEFAULT)
        assert ModelFiles.of(tmp_path / str(seed) / models.FILE, options.shared).layout is not None


def test_a_layout_is_forgotten_with_the_models(tmp_path: Path) -> None:
    options = BackendOptions()
    loaded = [load(tmp_path / str(seed), mean_of_product(seed), options) for seed in range(3)]
    for backend in loaded:
        backend.close()
    del loaded, backend

    assert ModelFiles.of(tmp_path / "0" / models.FILE, options.shared).layout is None


def test_each_byte_outside_the_data_of_weights_must_be_the_same() -> None:
    shared, content = Shared(), mean_of_product().SerializeToString()
    known = graph(content, shared)
    layout = Layout(content, known)
    data = mean_of_product().graph.initializer[0].raw_data
    start = content.index(data)

    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 0xFF
        assert layout.fits(bytes(changed)) == (start <= at < start + len(data))
    other = mean_of_product(1).SerializeToString()
    assert layout.fits(other)
    assert graph(other, shared) is known


def test_axes_of_the_batch_are_distinguished_from_others() -> None:
    content = mean_of_product().SerializeToString()
    over_the_batch = mean_of_product()
    over_the_batch.graph.initializer[1].CopyFrom(from_array(np.array([0]), "axes"))
    changed = over_the_batch.SerializeToString()

    assert len(changed) == len(content)
    assert not Layout(content, graph(content, Shared())).fits(changed)


def test_a_field_that_protobuf_reads_otherwise_must_be_the_same() -> None:
    """A weight's data are a field with a length. ONNX ignores a number in this field, but it must be compared."""
    proto = mean_of_product()
    proto.graph.initializer[0].ClearField("raw_data")
    proto.graph.initializer[0].MergeFromString(b"\x48\x05")  # field 9, as a varint
    content = proto.SerializeToString()
    at = content.index(b"\x48\x05") + 1

    assert not Layout(content, graph(content, Shared())).fits(content[:at] + b"\x06" + content[at + 1 :])


def test_a_field_that_protobuf_ignores_is_not_a_graph(tmp_path: Path) -> None:
    """The graph's field holds a number of 8 bytes here. Read as a field with a length, they would contain a weight."""
    options, kept = BackendOptions(), []
    for seed in range(3):
        proto = mean_of_product(seed)
        proto.MergeFromString(b"\x39\x2a\x06\x4a\x04abcd")  # fields 7, 5 and 9
        kept.append(load(tmp_path / str(seed), proto, options))
    assert ModelFiles.of(tmp_path / "0" / models.FILE, options.shared).layout is not None


def test_a_model_with_external_data_is_not_recognised(tmp_path: Path) -> None:
    options, kept = BackendOptions(), []
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        file = tmp_path / name / models.FILE
        onnx.save_model(mean_of_product(), str(file), save_as_external_data=True, location="weights", size_threshold=60)
        kept.append(load_onnx(file, options))
        assert ModelFiles.of(file, options.shared).layout is None


def test_a_size_has_one_layout_and_needs_two_files_of_one_graph() -> None:
    shared, content, layouts = Shared(), mean_of_product().SerializeToString(), Layouts()
    known = graph(content, shared)
    assert not layouts.is_second(len(content), known)
    assert layouts.find(content) is None
    assert layouts.is_second(len(content), known)
    layout = layouts.add(content, known)
    assert layouts.find(content) is layout
    assert not layouts.is_second(len(content), known)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The sessions that were asked for their inputs and outputs, in order."""
    asked: list[object] = []
    find = find_signatures

    def counted(session: Any, *rest: Any, **named: Any) -> Found:
        asked.append(session)
        return find(session, *rest, **named)

    monkeypatch.setattr(loading, "find_signatures", counted)
    return asked


def test_a_recognised_model_has_the_signatures_of_the_earlier_ones(tmp_path: Path, asked: list[object]) -> None:
    options = BackendOptions()
    loaded = [load(tmp_path / str(seed), mean_of_product(seed), options) for seed in range(5)]
    assert len(asked) == 2  # the layout is known from the second model on
    assert all(backend.signatures is loaded[0].signatures for backend in loaded)


def test_a_recognised_model_can_have_signatures_of_its_own(tmp_path: Path, asked: list[object]) -> None:
    options = BackendOptions()
    loaded = [load(tmp_path / str(seed), mean_of_product(seed), options) for seed in range(3)]
    named = replace(options, signatures={"named": SignatureOptions(inputs={"a": "x"}, outputs={"b": "y"})})
    backend = load(tmp_path / "named", mean_of_product(3), named)
    assert set(backend.signatures) == {DEFAULT, "named"}
    assert load(tmp_path / "usual", mean_of_product(4), options).signatures is loaded[0].signatures
    assert len(asked) == 3


def test_each_recognised_model_logs_the_outputs_that_are_not_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An output that is a sequence is not served, and each model's log must say so."""
    options = BackendOptions()
    loaded = [load(tmp_path / str(seed), with_a_sequence(seed), options) for seed in range(4)]
    assert ModelFiles.of(tmp_path / "3" / models.FILE, options.shared).layout is not None
    assert len([record for record in caplog.records if "it is not served" in record.message]) == len(loaded)


@pytest.mark.parametrize("declared", [["N", "M"], None])
def test_a_recognised_model_has_its_own_output_shapes(tmp_path: Path, declared: list[str] | None) -> None:
    """ONNX Runtime infers from a weight how many columns these models return."""
    options = BackendOptions()
    loaded = [load(tmp_path / str(size), first_columns(size, declared), options) for size in range(2, 6)]
    assert ModelFiles.of(tmp_path / "5" / models.FILE, options.shared).layout is not None
    shapes = [backend.signatures[DEFAULT].outputs["y"].shape for backend in loaded]
    assert shapes == [(None, columns) for columns in range(2, 6)]


def first_columns(columns: int, declared: list[str] | None) -> ModelProto:
    """A model that returns the first columns of its input, with their number as a weight."""
    x = make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 8])
    y = make_tensor_value_info("y", onnx.TensorProto.FLOAT, declared)
    weights = {"starts": 0, "ends": columns, "axes": 1}
    made = make_graph(
        [make_node("Slice", ["x", *weights], ["y"])],
        "first_columns",
        [x],
        [y],
        [from_array(np.array([value], np.int32), name) for name, value in weights.items()],
    )
    return make_model(made, opset_imports=[make_opsetid("", 17)], ir_version=8)


def with_a_sequence(seed: int) -> ModelProto:
    """A model with another output, a sequence of tensors."""
    proto = mean_of_product(seed)
    proto.graph.node.append(make_node("SequenceConstruct", ["y"], ["several"]))
    proto.graph.output.append(make_tensor_sequence_value_info("several", onnx.TensorProto.FLOAT, None))
    return proto
