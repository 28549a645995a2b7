"""Arrays, converted to the bodies of answers, byte for byte."""

import json
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from headrace_protos import Class, ClassificationResult, Classifications, Code, Regression, RegressionResult
from headrace_server.errors import ServingError
from headrace_server.services.tf_serving.rest.outputs import (
    write_classifications,
    write_error,
    write_predict,
    write_regressions,
)

STRINGS = np.array([b"a", "é".encode()], object)

FLOATS = [
    (0.1, "0.1"),
    (1 / 3, "0.333333343"),
    (9000000, "9e+06"),
    (3e-5, "3e-05"),
    (2, "2.0"),
    (-0.0, "-0.0"),
    (123456, "123456.0"),
    (1234567, "1234567.0"),
    (16777216, "16777216.0"),
    (3.4028235e38, "3.40282347e+38"),
    (1e-45, "1.4013e-45"),
    (math.nan, "NaN"),
    (math.inf, "Infinity"),
    (-math.inf, "-Infinity"),
]


@pytest.mark.parametrize(("value", "text"), FLOATS)
def test_float(value: float, text: str) -> None:
    assert write_predict({"y": np.array(value, np.float32)}, by_row=False).decode() == f'{{\n    "outputs": {text}\n}}'


@pytest.mark.parametrize(("value", "text"), [(0.1, "0.1"), (1 / 3, "0.33333333333333331"), (1e300, "1e+300")])
def test_double(value: float, text: str) -> None:
    assert f'"outputs": {text}\n' in write_predict({"y": np.array(value)}, by_row=False).decode()


def test_rows_of_one_output() -> None:
    assert write_predict({"y": np.array([2.5, 3, 4.5], np.float32)}, by_row=True) == (
        b'{\n    "predictions": [2.5, 3.0, 4.5\n    ]\n}'
    )
    assert write_predict({"y": np.array([[[1, 2]], [[3, 4]]])}, by_row=True) == (
        b'{\n    "predictions": [[[1, 2]], [[3, 4]]\n    ]\n}'
    )


def test_rows_of_several_outputs() -> None:
    body = write_predict({"a": np.array([[1], [2]], np.int8), "b_bytes": STRINGS}, by_row=True).decode()
    assert (
        body
        == """{
    "predictions": [
        {
            "a": [1],
            "b_bytes": {
                "b64": "YQ=="
            }
        },
        {
            "a": [2],
            "b_bytes": {
                "b64": "w6k="
            }
        }
    ]
}"""
    )


def test_columns() -> None:
    body = write_predict({"a": np.array([[True], [False]]), "s": STRINGS}, by_row=False).decode()
    assert (
        body
        == """{
    "outputs": {
        "a": [
            [
                true
            ],
            [
                false
            ]
        ],
        "s": [
            "a",
            "é"
        ]
    }
}"""
    )


def test_no_rows() -> None:
    assert write_predict({"y": np.zeros((0, 3))}, by_row=True) == b'{\n    "predictions": []\n}'
    assert write_predict({"y": np.zeros((2, 0))}, by_row=True) == b'{\n    "predictions": [[], []\n    ]\n}'
    assert write_predict({"y": np.zeros((0, 3))}, by_row=False) == b'{\n    "outputs": []\n}'


def test_strings() -> None:
    values = np.array([b'"\\/\n\x1f\x7f', b"\xff"], object)
    assert write_predict({"y": values}, by_row=True) == (
        b'{\n    "predictions": ["\\"\\\\/\\n\\u001F\x7f", "\xff"\n    ]\n}'
    )


REFUSED: list[tuple[dict[str, Any], bool, str]] = [
    ({"y": np.array(1.0)}, True, "Tensor name: y has no shape information "),
    (
        {"a": np.zeros(2), "b": np.zeros(3)},
        True,
        "Tensor name: b has inconsistent batch size: 3 expecting: 2",
    ),
    ({"y": np.zeros(1, np.float16)}, True, "Failed to write JSON value for tensor type: half"),
    ({"y": np.zeros(1, ml_dtypes.bfloat16)}, False, "Failed to write JSON value for tensor type: bfloat16"),
    ({"y": np.zeros(1, np.uint16)}, False, "Failed to write JSON value for tensor type: uint16"),
    ({"y": np.zeros(1, np.complex64)}, False, "Failed to write JSON value for tensor type: complex64"),
    ({}, True, "Cannot convert empty tensor map to JSON"),
]


@pytest.mark.parametrize(("outputs", "by_row", "text"), REFUSED)
def test_refused(outputs: dict[str, Any], by_row: bool, text: str) -> None:
    with pytest.raises(ServingError) as refused:
        write_predict(outputs, by_row=by_row)
    assert (refused.value.code, refused.value.message) == (Code.INVALID_ARGUMENT, text)


def test_classifications() -> None:
    classes = [Class(label="a", score=0.5), Class(label="b", score=2)]
    result = ClassificationResult(
        classifications=[Classifications(classes=classes), Classifications(classes=classes[:1])]
    )
    assert write_classifications(result.SerializeToString()) == (
        b'{\n    "results": [[["a", 0.5], ["b", 2.0]], [["a", 0.5]]\n    ]\n}'
    )


def test_regressions() -> None:
    result = RegressionResult(regressions=[Regression(value=0.1), Regression(value=2)])
    assert write_regressions(result.SerializeToString()) == b'{\n    "results": [0.1, 2.0]\n}'


def test_error() -> None:
    assert write_error('a "b"') == b'{\n    "error": "a \\"b\\""\n}'


@settings(max_examples=60)
@given(
    arrays_of.arrays(
        st.sampled_from([np.float32, np.float64, np.int64, np.bool_]),
        arrays_of.array_shapes(min_dims=1, min_side=0, max_side=4),
    ),
    st.booleans(),
)
def test_any_array_reads_back_as_it_was(array: Any, by_row: bool) -> None:
    (value,) = json.loads(write_predict({"y": array}, by_row=by_row)).values()
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(np.array(value).astype(array.dtype).reshape(array.shape), array)
