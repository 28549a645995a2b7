"""Bodies of numbers, read at once: the same arrays as from a document, or none."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_protos import DataType
from headrace_server.errors import ServingError
from headrace_server.services.json.reader import parse
from headrace_server.services.tf_serving.rest.inputs import PredictBody, read_numbers, read_predict

pytest.importorskip("headrace_native")

FLOAT, DOUBLE = DataType.DT_FLOAT, DataType.DT_DOUBLE
SIGNATURES = {"serving_default": {"x": FLOAT}, "wide": {"x": DOUBLE}, "two": {"x": FLOAT, "y": FLOAT}}


def same(first: PredictBody, second: PredictBody) -> bool:
    arrays = zip(first.inputs.values(), second.inputs.values(), strict=True)
    names = (first.signature_name, first.by_row, *first.inputs) == (
        second.signature_name,
        second.by_row,
        *second.inputs,
    )
    return names and all(
        a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b, equal_nan=True) for a, b in arrays
    )


@pytest.mark.parametrize("signature", ["", "wide"])
@pytest.mark.parametrize("key", ["instances", "inputs"])
@pytest.mark.parametrize("value", [[1], [1.5, -2e-7], [[[0.1], [1e30]], [[3e38], [-4e38]]], [123456789012345678]])
def test_numbers(key: str, value: Any, signature: str) -> None:
    text = json.dumps({"signature_name": signature, key: value} if signature else {key: value}).encode()
    read = read_numbers(text, SIGNATURES)
    assert read is not None
    assert same(read, read_predict(parse(text), SIGNATURES))


@pytest.mark.parametrize(
    "text",
    [
        '{"instances": []}',
        '{"instances": [1, true]}',
        '{"instances": [1]} trailing',
        '{"signature_name": "two", "instances": [1]}',
    ],
)
def test_what_is_for_the_careful(text: str) -> None:
    assert read_numbers(text.encode(), SIGNATURES) is None


def test_without_signatures_nothing_is_read() -> None:
    assert read_numbers(b'{"instances": [1]}', None) is None


NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.from_regex(r"-?[0-9]{1,20}(\.[0-9]{0,20})?([eE][+-]?[0-9]{1,3})?", fullmatch=True),
    st.sampled_from(["-0", "0", "-0.0", "1e400", "true", "null", '"a"', "{}", "01", "NaN"]),
)
LISTS = st.recursive(
    NUMBERS, lambda items: st.lists(items, max_size=3).map(lambda parts: f"[{', '.join(parts)}]"), max_leaves=8
)


@given(
    LISTS,
    st.sampled_from(["", " ", "x", "}"]),
    st.sampled_from(
        [
            '"signature_name": "", "signature_name": "wide", "inputs"',
            '"instances"',
            '"inputs"',
            '"signature_name": "wide", "inputs"',
        ]
    ),
)
def test_whatever_is_read_at_once_is_read_alike(value: str, after: str, key: str) -> None:
    text = f"{{{key}: {value}}}{after}".encode()
    read = read_numbers(text, SIGNATURES)
    if read is not None:
        assert same(read, read_predict(parse(text), SIGNATURES))


@given(st.binary(max_size=40))
def test_bytes_of_all_kinds(data: bytes) -> None:
    try:
        expected = read_predict(parse(data), SIGNATURES)
    except ServingError:
        assert read_numbers(data, SIGNATURES) is None
        return
    read = read_numbers(data, SIGNATURES)
    assert read is None or same(read, expected)
