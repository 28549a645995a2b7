"""Correct answers of Predict: every dtype, in each encoding, as TF Serving writes them."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import pytest

from headrace_protos import DataType, TensorProto, TensorShapeProto
from headrace_protos.tensor import to_array
from tests.conftest import Run
from tests.support import models
from tests.support.calls import Caller, arrays, floats, predict_request

Array = npt.NDArray[Any]
Echo = Callable[[str], Caller]


def ends(dtype: str) -> Array:
    info = np.iinfo(dtype)
    return np.array([[info.min, info.max], [0, 1], [7, 100]], dtype)


# ONNX's name of a dtype, the field of TF Serving's answer, and values that no other dtype can hold exactly.
VALUES: dict[str, tuple[str, Array]] = {
    "FLOAT": ("float_val", np.array([[0.1, -np.inf], [3.4e38, np.nan], [-0.0, 1e-45]], np.float32)),
    "DOUBLE": ("double_val", np.array([[0.1, -np.inf], [1e308, np.nan]], np.float64)),
    "FLOAT16": ("half_val", np.array([[0.1, 65504], [-np.inf, 6e-8]], np.float16)),
    "BFLOAT16": ("half_val", np.array([[0.1, 3e38], [-2.5, 1e-38]], ml_dtypes.bfloat16)),
    "INT8": ("int_val", ends("int8")),
    "INT16": ("int_val", ends("int16")),
    "INT32": ("int_val", ends("int32")),
    "INT64": ("int64_val", ends("int64")),
    "UINT8": ("int_val", ends("uint8")),
    "UINT16": ("int_val", ends("uint16")),
    "UINT32": ("uint32_val", ends("uint32")),
    "UINT64": ("uint64_val", ends("uint64")),
    "BOOL": ("bool_val", np.array([[True, False], [False, False]])),
    "STRING": ("string_val", np.array([[b"plain", b""], ["größer".encode(), b"\n\x01"]], object)),
}


@pytest.fixture(scope="module")
def echo(running: Run) -> Echo:
    """A server whose model answers `y` = `x` with the named dtype."""

    @cache
    def serve(dtype: str) -> Caller:
        return running(partial(models.identity, dtype=onnx.TensorProto.DataType.Value(dtype))).caller

    return serve


@pytest.fixture(scope="module")
def linear(running: Run) -> Caller:
    return running(models.linear).caller


@pytest.fixture(scope="module")
def pair(running: Run) -> Caller:
    return running(models.two_inputs).caller


@pytest.mark.parametrize("as_content", [False, True])
@pytest.mark.parametrize("dtype", VALUES)
def test_dtype_comes_back_as_it_was_sent(echo: Echo, dtype: str, as_content: bool) -> None:
    _, x = VALUES[dtype]
    y = echo(dtype).predict({"x": x}, as_content=as_content)["y"]
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize("dtype", VALUES)
def test_answers_in_the_typed_field(echo: Echo, dtype: str) -> None:
    field, x = VALUES[dtype]
    tensor = echo(dtype).call(predict_request({"x": x})).outputs["y"]
    filled = {f.name for f, _ in tensor.ListFields()}
    assert filled == {"dtype", "tensor_shape", field}
    assert len(getattr(tensor, field)) == x.size
    assert [dim.size for dim in tensor.tensor_shape.dim] == list(x.shape)


@pytest.mark.parametrize("dtype", ["FLOAT", "BFLOAT16", "BOOL", "STRING"])
def test_answers_in_tensor_content_if_configured(running: Run, dtype: str) -> None:
    make = partial(models.identity, dtype=onnx.TensorProto.DataType.Value(dtype))
    caller = running(make, enable_serialization_as_tensor_content=True).caller
    _, x = VALUES[dtype]
    tensor = caller.call(predict_request({"x": x})).outputs["y"]
    assert {f.name for f, _ in tensor.ListFields()} == {"dtype", "tensor_shape", "tensor_content"}
    if dtype == "STRING":
        assert tensor.tensor_content == bytes([5, 0, 8, 2]) + b"plain" + "größer".encode() + b"\n\x01"
    else:
        assert tensor.tensor_content == x.tobytes()


def tensor(*sizes: int, **fields: Any) -> TensorProto:
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in sizes])
    return TensorProto(**{"dtype": DataType.DT_FLOAT, "tensor_shape": shape, **fields})


FOUR = np.array([1, 2, 3, 4], "<f4").tobytes()

# The values that a client may send for `x`, and the four values that the model gets.
ENCODINGS: dict[str, tuple[TensorProto, list[float]]] = {
    "all values": (tensor(2, 2, float_val=[1, 2, 3, 4]), [1, 2, 3, 4]),
    "the last value fills the rest": (tensor(2, 2, float_val=[1, 2]), [1, 2, 2, 2]),
    "one value is broadcast": (tensor(2, 2, float_val=[7]), [7, 7, 7, 7]),
    "no values are zeros": (tensor(2, 2), [0, 0, 0, 0]),
    "surplus values are ignored": (tensor(2, 2, float_val=[1, 2, 3, 4, 5]), [1, 2, 3, 4]),
    "values of the wrong field are zeros": (tensor(2, 2, int_val=[1, 2, 3, 4]), [0, 0, 0, 0]),
    "content": (tensor(2, 2, tensor_content=FOUR), [1, 2, 3, 4]),
    "content takes precedence over values": (tensor(2, 2, tensor_content=FOUR, float_val=[9] * 4), [1, 2, 3, 4]),
    "version_number is ignored": (tensor(2, 2, float_val=[5], version_number=9), [5, 5, 5, 5]),
}


@pytest.mark.parametrize("name", ENCODINGS)
def test_decodes_as_tensorflow_does(echo: Echo, name: str) -> None:
    sent, seen = ENCODINGS[name]
    np.testing.assert_array_equal(echo("FLOAT").predict({"x": sent})["y"], np.reshape(seen, (2, 2)))


def test_ignores_an_unknown_rank(echo: Echo) -> None:
    sent = tensor(1, 2, float_val=[1, 2])
    sent.tensor_shape.unknown_rank = True
    np.testing.assert_array_equal(echo("FLOAT").predict({"x": sent})["y"], [[1, 2]])


def test_integers_wrap_into_narrow_dtypes(echo: Echo) -> None:
    sent = tensor(1, 2, dtype=DataType.DT_INT8, int_val=[300, -1])
    np.testing.assert_array_equal(echo("INT8").predict({"x": sent})["y"], [[44, -1]])


def test_no_rows_give_dtype_and_shape_alone(echo: Echo) -> None:
    answer = echo("FLOAT").call(predict_request({"x": np.empty((0, 2), np.float32)})).outputs["y"]
    assert answer == tensor(0, 2)


def test_scalar_output_has_an_empty_shape(running: Run) -> None:
    answer = running(models.scalar_output).caller.call(predict_request({"x": floats([1, 2], [3, 4])}))
    assert answer.outputs["total"].HasField("tensor_shape")
    assert answer.outputs["total"] == tensor(float_val=[10])
    np.testing.assert_array_equal(to_array(answer.outputs["doubled"]), [[2, 4], [6, 8]])


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ([], {"sum": [[11, 22]], "difference": [[-9, -18]]}),
        (["sum"], {"sum": [[11, 22]]}),
        (["difference"], {"difference": [[-9, -18]]}),
        (["difference", "sum"], {"sum": [[11, 22]], "difference": [[-9, -18]]}),
    ],
)
def test_answers_the_requested_outputs(pair: Caller, outputs: list[str], expected: dict[str, list[Any]]) -> None:
    got = pair.predict({"a": floats([1, 2]), "b": floats([10, 20])}, outputs=outputs)
    assert {alias: array.tolist() for alias, array in got.items()} == expected


@pytest.mark.parametrize("spec", [{}, {"version": 1}, {"signature_name": "serving_default"}])
def test_the_answer_says_which_model_ran(linear: Caller, spec: dict[str, Any]) -> None:
    response = linear.call(predict_request({"x": floats([1, 2, 3, 4])}, **spec))
    assert arrays(response)["y"].tolist() == [[10]]
    assert (response.model_spec.name, response.model_spec.version.value) == ("model", 1)
    assert response.model_spec.signature_name == "serving_default"
    assert response.model_spec.WhichOneof("version_choice") == "version"


def test_fields_for_streamed_calls_are_ignored(linear: Caller) -> None:
    request = predict_request({"x": floats([1, 2, 3, 4])})
    request.client_id = b"somebody"
    request.request_options.SetInParent()
    request.predict_streamed_options.SetInParent()
    assert arrays(linear.call(request))["y"].tolist() == [[10]]


def test_unbatched_model_answers_alike(running: Run) -> None:
    caller = running(models.linear, enable_batching=False).caller
    assert caller.predict({"x": floats([1, 2, 3, 4], [5, 6, 7, 8])})["y"].tolist() == [[10], [26]]
