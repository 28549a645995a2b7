"""Bodies of :predict, converted to arrays: both formats, every dtype, and every error."""

import json
import time
from base64 import b64encode
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from headrace_protos import Code, DataType
from headrace_protos.tensor import dtype_of
from headrace_server.errors import ServingError
from headrace_server.services.json.reader import parse
from headrace_server.services.tf_serving.rest.inputs import PredictBody, read_predict

FLOAT, DOUBLE, STRING, BOOL = DataType.DT_FLOAT, DataType.DT_DOUBLE, DataType.DT_STRING, DataType.DT_BOOL
INT32, INT64, UINT8, INT8 = DataType.DT_INT32, DataType.DT_INT64, DataType.DT_UINT8, DataType.DT_INT8
UINT32, UINT64, HALF = DataType.DT_UINT32, DataType.DT_UINT64, DataType.DT_HALF


def read(body: Any, **dtypes: DataType) -> PredictBody:
    text = body if isinstance(body, str) else json.dumps(body)
    return read_predict(parse(text.encode(errors="surrogateescape")), {"serving_default": dtypes})


def refusal(body: Any, **dtypes: DataType) -> tuple[Code, str]:
    with pytest.raises(ServingError) as refused:
        read(body, **dtypes)
    return refused.value.code, refused.value.message


def row(body: Any, dtype: DataType) -> npt.NDArray[Any]:
    array = read(body, x=dtype).inputs["x"]
    assert array.dtype == dtype_of(dtype)
    return array


SHAPES = {
    "[1.0, 2.0, 3.0]": (3,),
    "[[1, 2], [3, 4], [5, 6]]": (3, 2),
    '[{"x": 1}, {"x": 2}]': (2,),
    '[{"x": [[1], [2]]}]': (1, 2, 1),
    "[[]]": (1, 0),
    "[[[]], [[]]]": (2, 1, 0),
}


@pytest.mark.parametrize("instances", SHAPES)
def test_shape_of_rows(instances: str) -> None:
    body = read(f'{{"instances": {instances}}}', x=FLOAT)
    assert body.by_row
    assert body.inputs["x"].shape == SHAPES[instances]


COLUMNS = {"5": (), "[]": (0,), "[[1, 2]]": (1, 2), '{"x": [1, 2, 3]}': (3,), '{"x": 7, "more": "ignored"}': ()}


@pytest.mark.parametrize("inputs", COLUMNS)
def test_shape_of_columns(inputs: str) -> None:
    body = read(f'{{"inputs": {inputs}}}', x=INT64)
    assert not body.by_row
    assert body.inputs["x"].shape == COLUMNS[inputs]


def test_several_inputs_each_with_a_shape() -> None:
    columns = read({"inputs": {"a": [[1, 2]], "b": True}}, a=INT32, b=BOOL)
    assert {alias: array.tolist() for alias, array in columns.inputs.items()} == {"a": [[1, 2]], "b": True}
    rows = read({"instances": [{"a": 1, "b": ["x"]}, {"b": ["y"], "a": 2}]}, a=INT32, b=STRING)
    assert {alias: array.tolist() for alias, array in rows.inputs.items()} == {"a": [1, 2], "b": [[b"x"], [b"y"]]}


def test_signature() -> None:
    body = parse(b'{"signature_name": "other", "instances": [1]}')
    assert read_predict(body, {"serving_default": {}, "other": {"x": FLOAT}}).signature_name == "other"
    assert read_predict(body, None) == PredictBody("other", {}, by_row=False)
    with pytest.raises(ServingError, match=r'^Serving signature name: "other" not found in signature def$'):
        read_predict(body, {"serving_default": {"x": FLOAT}})


VALUES = [
    (FLOAT, "[1e300, -1e300, 1e-300, 3, 1435774380, NaN]", [np.inf, -np.inf, 0.0, 3.0, 1435774380.0, np.nan]),
    (DOUBLE, "[18446744073709551615, -Infinity, 0.1]", [2.0**64, -np.inf, 0.1]),
    (INT32, "[-2147483648, 2147483647]", [-(2**31), 2**31 - 1]),
    (UINT8, "[300, -1]", [44, 255]),
    (INT8, "[128]", [-128]),
    (INT64, "[-9223372036854775808]", [-(2**63)]),
    (UINT32, "[4294967295]", [2**32 - 1]),
    (UINT64, "[18446744073709551615, 0]", [2**64 - 1, 0]),
    (BOOL, "[true, false]", [True, False]),
    (
        STRING,
        '["\u00e9", {"b64": "/+8="}, {"b64": "YQ"}, {"b64": " Y\\nQ=="}]',
        ["é".encode(), b"\xff\xef", b"a", b"a"],
    ),
    (STRING, '["\udcff"]', [b"\xff"]),
]


@pytest.mark.parametrize(("dtype", "instances", "expected"), VALUES)
def test_values(dtype: DataType, instances: str, expected: list[Any]) -> None:
    np.testing.assert_array_equal(row(f'{{"instances": {instances}}}', dtype), np.array(expected, dtype_of(dtype)))


def of_type(value: str, kind: str, dtype: str) -> str:
    return f"JSON Value: {value} Type: {kind} is not of expected type: {dtype}"


WRONG = [
    (FLOAT, '"a"', of_type('"a"', "String", "float")),
    (FLOAT, "true", of_type("true", "True", "float")),
    (FLOAT, "null", of_type("null", "Null", "float")),
    (FLOAT, '{"b64": "YQ=="}', of_type('{\n    "b64": "YQ=="\n}', "Object", "float")),
    (INT32, "1.0", of_type("1.0", "Number", "int32")),
    (INT32, "1e2", of_type("100.0", "Number", "int32")),
    (INT32, "2147483648", of_type("2147483648", "Number", "int32")),
    (INT32, "false", of_type("false", "False", "int32")),
    (INT64, "9223372036854775808", of_type("9223372036854775808", "Number", "int64")),
    (UINT32, "-1", of_type("-1", "Number", "uint32")),
    (UINT64, "18446744073709551616", of_type("18446744073709552000.0", "Number", "uint64")),
    (BOOL, "1", of_type("1", "Number", "bool")),
    (STRING, "1", of_type("1", "Number", "string")),
    (STRING, '{"b64": "YQ=="}, {"b64": "!"}', "Unable to base64 decode"),
    (STRING, '{"b64": "YQ="}', "Unable to base64 decode"),
    (STRING, '{"b64": "Y"}', "Unable to base64 decode"),
]


@pytest.mark.parametrize(("dtype", "values", "reason"), WRONG)
def test_wrong_value(dtype: DataType, values: str, reason: str) -> None:
    at = values.count("}, {")
    text = f"Failed to process element: {at} of 'instances' list. Error: INVALID_ARGUMENT: {reason}"
    assert refusal(f'{{"instances": [{values}]}}', x=dtype) == (Code.INVALID_ARGUMENT, text)
    if not at:
        assert refusal(f'{{"inputs": [{values}]}}', x=dtype) == (Code.INVALID_ARGUMENT, reason)


def test_dtypes_without_json_values() -> None:
    assert refusal({"inputs": [1.5]}, x=HALF) == (Code.UNIMPLEMENTED, "Conversion of JSON Value: 1.5 to type: half")


ONE_INPUT = {
    '{"instances": 5}': "JSON Value: {\n    \"instances\": 5\n} Expecting 'instances' to be an list/array",
    '{"instances": []}': "JSON Value: {\n    \"instances\": []\n} No values in 'instances' array",
    '{"instances": [1], "inputs": [1]}': 'JSON Value: {\n    "instances": [1],\n    "inputs": [1]\n} Not formatted '
    "correctly expecting only one of 'inputs' or 'instances' keys to exist ",
    "{}": "Missing 'inputs' or 'instances' key",
    '{"signature_name": 5}': 'JSON Value: {\n    "signature_name": 5\n} not formatted correctly. '
    "'signature_name' key must be a string value.",
    '{"instances": [{"x": 1}, [2]]}': "Expecting object but got list at item 1 of input list",
    '{"instances": [1, {"x": 2}]}': "Expecting value/list but got object at item 1 of input list",
    '{"instances": [{"x": 1}, {"y": 2}]}': "Failed to process element: 1 key: y of 'instances' list. "
    "Error: INVALID_ARGUMENT: JSON object: does not have named input: y",
    '{"instances": [{"x": 1}, {}]}': "Failed to process element: 1 of 'instances' list. JSON object: {} "
    "keys must be equal to: x",
    '{"instances": [[1, 2], [3]]}': "Failed to process element: 1 of 'instances' list. "
    "Error: INVALID_ARGUMENT: Expecting tensor size: 2 but got: 1",
    '{"instances": [[[1], [2]], [[1, 2]]]}': "Failed to process element: 1 of 'instances' list. "
    "Error: INVALID_ARGUMENT: Expecting shape [2,1] but got: [1,2]",
    '{"inputs": {"y": 1}}': "Missing named input: x in 'inputs' object.",
    '{"inputs": [[1, 2], [3]]}': "Encountered list at unexpected size: 1 at level: 1 expected size: 2",
    '{"inputs": [1, [2]]}': "Encountered list at unexpected level: 1 expected < 1",
    '{"inputs": [[1], 2]}': "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2",
    '{"inputs": ' + "[" * 65 + "]" * 65 + "}": "lists are nested more than 64 deep",
}


def test_the_first_of_many_wrong_rows_is_named_soon() -> None:
    began = time.process_time()
    for key, where in (
        ("instances", "Failed to process element: 29999 of"),
        ("inputs", 'JSON Value: "a" Type: String'),
    ):
        assert refusal({key: [1] * 29_999 + ["a"] * 1000}, x=FLOAT)[1].startswith(where)
    assert time.process_time() - began < 1


def test_rows_one_dimension_too_deep() -> None:
    body = '{"instances": [' + "[" * 64 + "]" * 64 + "]}"
    assert refusal(body, x=FLOAT) == (Code.INVALID_ARGUMENT, "lists are nested more than 64 deep")


@pytest.mark.parametrize("body", ONE_INPUT)
def test_malformed(body: str) -> None:
    assert refusal(body, x=FLOAT) == (Code.INVALID_ARGUMENT, ONE_INPUT[body])


TWO_INPUTS = {
    '{"instances": [1]}': "instances is a plain list, but expecting list of objects as multiple input tensors required "
    "as per tensorinfo_map",
    '{"inputs": [1]}': "inputs is a plain value/list, but expecting an object as multiple input tensors required "
    "as per tensorinfo_map",
    '{"instances": [{"a": 1}]}': "Failed to process element: 0 of 'instances' list. JSON object: {\n    \"a\": 1\n} "
    "keys must be equal to: a,b",
    '{"inputs": {"a": 1}}': "Missing named input: b in 'inputs' object.",
}


@pytest.mark.parametrize("body", TWO_INPUTS)
def test_malformed_for_two_inputs(body: str) -> None:
    assert refusal(body, a=FLOAT, b=FLOAT) == (Code.INVALID_ARGUMENT, TWO_INPUTS[body])


def test_no_inputs() -> None:
    assert refusal({"instances": [1]}) == (Code.INVALID_ARGUMENT, "Failed to get input map for signature: DEFAULT")


def test_base64_object_of_a_wrong_kind() -> None:
    text = 'JSON Value: {\n    "b64": 5\n} not formatted correctly for base64 data'
    assert refusal({"inputs": ["a", {"b64": 5}]}, x=STRING) == (Code.INVALID_ARGUMENT, text)


def test_an_excerpt_ends_after_some_256_bytes() -> None:
    _, text = refusal({"instances": "é" * 200, "more": 1}, x=FLOAT)
    assert text == 'JSON Value: {\n    "instances": "' + "é" * 200 + "\" Expecting 'instances' to be an list/array"


dtypes = st.sampled_from([FLOAT, DOUBLE, INT32, INT64, UINT8, UINT32, UINT64, BOOL])
shapes = arrays_of.array_shapes(min_dims=1, max_dims=4, max_side=4)


@settings(max_examples=60)
@given(st.data(), dtypes, shapes)
def test_any_array_comes_back(data: st.DataObject, dtype: DataType, shape: tuple[int, ...]) -> None:
    array = data.draw(arrays_of.arrays(dtype_of(dtype), shape))
    for key in ("instances", "inputs"):
        np.testing.assert_array_equal(row({key: array.tolist()}, dtype), array)


@settings(max_examples=60)
@given(st.lists(st.binary(), min_size=1))
def test_any_bytes_are_read_back(values: list[bytes]) -> None:
    body = {"instances": [{"b64": b64encode(value).decode()} for value in values]}
    assert row(body, STRING).tolist() == values


nested: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=3)
)


@settings(max_examples=100)
@given(nested, dtypes | st.just(STRING))
def test_values_that_form_no_array_get_an_error(value: Any, dtype: DataType) -> None:
    for key in ("instances", "inputs"):
        assert outcome({key: value}, dtype) in (Code.OK, Code.INVALID_ARGUMENT)


def outcome(body: Any, dtype: DataType) -> Code:
    try:
        read(body, x=dtype)
    except ServingError as refused:
        return refused.code
    return Code.OK
