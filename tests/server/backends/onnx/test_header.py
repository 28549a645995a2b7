"""The header of an ONNX file, read without its weights: the same inputs and outputs as ONNX Runtime reads."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto as Onnx

from headrace_protos import Code, DataType
from headrace_server.backends.base import BackendOptions
from headrace_server.backends.onnx.header import read_header
from headrace_server.backends.onnx.loading import load_onnx
from headrace_server.backends.signature import DEFAULT_SIGNATURE
from headrace_server.errors import ServingError
from tests.support import models


@pytest.mark.parametrize(
    "make",
    [models.linear, models.row_sums, models.two_inputs, models.scalar_output, models.positions, models.external_data],
)
def test_inputs_and_outputs_are_those_of_onnx_runtime(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    model = make(tmp_path / "1")
    header = read_header(model.read_bytes())
    backend = load_onnx(model, BackendOptions())
    signature = backend.signatures[DEFAULT_SIGNATURE]

    assert header.inputs == signature.inputs
    assert header.outputs == signature.outputs
    backend.close()


def test_weights_that_are_inputs_too_are_not_inputs_of_the_model(tmp_path: Path) -> None:
    model = onnx.load(models.linear(tmp_path / "1"))
    weight = model.graph.initializer[0]
    model.graph.input.append(onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))

    assert list(read_header(model.SerializeToString()).inputs) == ["x"]


def test_metadata_operators_and_types(tmp_path: Path) -> None:
    model = onnx.load(models.linear(tmp_path / "1"))
    model.metadata_props.add(key="headrace.signatures", value="{}")
    model.graph.initializer.append(onnx.helper.make_tensor("b", Onnx.BFLOAT16, [1], [1.0]))
    header = read_header(model.SerializeToString())

    assert header.metadata == {"headrace.signatures": "{}"}
    assert header.operators == {"MatMul", "Add"}
    assert header.types == {DataType.DT_FLOAT, DataType.DT_BFLOAT16}


@pytest.mark.parametrize("content", [b"", b"\xff\xff", b"no model at all"])
def test_a_file_that_is_not_a_model(content: bytes) -> None:
    with pytest.raises(ServingError, match="it is not an ONNX model") as raised:
        read_header(content)
    assert raised.value.code == Code.INVALID_ARGUMENT


def test_an_output_that_is_not_a_tensor(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="is not a tensor of a type that a request can contain"):
        read_header(models.sequence_output(tmp_path / "1").read_bytes())
