"""How a response's tensor is encoded, and which data type each numpy dtype maps to."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from headrace_protos import DataType, PredictResponse, TensorProto
from headrace_protos.tensor import TensorError, dtype_name, dtype_of, enum_of, to_proto


def test_all_values_go_into_the_field_of_the_dtype() -> None:
    proto = to_proto(np.array([[1.5, 2.5, 2.5, 2.5]], np.float32))
    assert list(proto.float_val) == [1.5, 2.5, 2.5, 2.5]
    assert [dim.size for dim in proto.tensor_shape.dim] == [1, 4]
    assert {field.name for field, _ in proto.ListFields()} == {"dtype", "tensor_shape", "float_val"}


@pytest.mark.parametrize(
    ("array", "field", "values"),
    [
        (np.array([1, -1], np.float64), "double_val", [1, -1]),
        (np.array([1, -1], np.int8), "int_val", [1, -1]),
        (np.array([1, 255], np.uint8), "int_val", [1, 255]),
        (np.array([1, 65535], np.uint16), "int_val", [1, 65535]),
        (np.array([1, -1], np.int64), "int64_val", [1, -1]),
        (np.array([1, 2**32 - 1], np.uint32), "uint32_val", [1, 2**32 - 1]),
        (np.array([1, 2**64 - 1], np.uint64), "uint64_val", [1, 2**64 - 1]),
        (np.array([True, False]), "bool_val", [True, False]),
        (np.array([1 + 2j], np.complex64), "scomplex_val", [1, 2]),
        (np.array([1 + 2j]), "dcomplex_val", [1, 2]),
        (np.array([1, -2], np.float16), "half_val", [0x3C00, 0xC000]),
        (np.array([1, -2], ml_dtypes.bfloat16), "half_val", [0x3F80, 0xC000]),
        (np.array([1, -2], ml_dtypes.float8_e5m2), "float8_val", list(b"\x3c\xc0")),
        (np.array([-8, 7], ml_dtypes.int4), "int_val", [-8, 7]),
        (np.array([b"a\0", "é"], object), "string_val", [b"a\0", "é".encode()]),
        (np.array([b"ab", b"c"]), "string_val", [b"ab", b"c"]),
        (np.array(["ab", "é"]), "string_val", [b"ab", "é".encode()]),
        (np.arange(200) % 128, "int64_val", [*range(128), *range(72)]),
        (np.arange(200) % 129, "int64_val", [*range(129), *range(71)]),
        (np.arange(200) % 128 - 1, "int64_val", [*range(-1, 127), *range(-1, 71)]),
    ],
)
def test_each_dtype_has_its_field(array: Any, field: str, values: list[object]) -> None:
    proto = to_proto(array)
    assert list(getattr(proto, field)) == values
    assert proto.dtype == enum_of(array.dtype)
    assert not proto.tensor_content


def test_content_is_little_endian_elements() -> None:
    proto = to_proto(np.array([1, 256], np.int16), as_content=True)
    assert {field.name for field, _ in proto.ListFields()} == {"dtype", "tensor_shape", "tensor_content"}
    assert proto.tensor_content == b"\x01\x00\x00\x01"


def test_content_of_strings_is_lengths_and_then_bytes() -> None:
    proto = to_proto(np.array([b"a", b"b" * 300, b""], object), as_content=True)
    assert proto.tensor_content == b"\x01\xac\x02\x00a" + b"b" * 300


@pytest.mark.parametrize("as_content", [False, True])
def test_an_array_without_elements_is_its_dtype_and_shape(as_content: bool) -> None:
    for array in (np.zeros((2, 0), np.float32), np.zeros((0,), object), np.zeros((0, 1), np.int64)):
        proto = to_proto(array, as_content=as_content)
        assert {field.name for field, _ in proto.ListFields()} == {"dtype", "tensor_shape"}
        assert tuple(dim.size for dim in proto.tensor_shape.dim) == array.shape


@pytest.mark.parametrize("scalar", [np.float32(3), np.array(3, np.int64), 3.0, b"a\0", "text"])
def test_a_scalar_has_a_shape_without_dimensions(scalar: Any) -> None:
    for proto in (to_proto(scalar), to_proto(scalar, as_content=True)):
        assert proto.HasField("tensor_shape")
        assert not proto.tensor_shape.dim


def test_an_entry_of_a_response_is_filled_in_place() -> None:
    response = PredictResponse()
    entry = response.outputs["y"]
    assert to_proto(np.array([1, 2], np.float32), entry) is entry
    to_proto(np.array([b"x"], object), response.outputs["z"])
    read = PredictResponse.FromString(response.SerializeToString())
    assert list(read.outputs["y"].float_val) == [1, 2]
    assert list(read.outputs["z"].string_val) == [b"x"]


@pytest.mark.parametrize("as_content", [False, True])
def test_strides_and_byte_order_do_not_matter(as_content: bool) -> None:
    plain = np.arange(12, dtype=np.float32).reshape(3, 4)
    for array in (plain.astype(">f4"), np.asfortranarray(plain), np.repeat(plain, 2, axis=1)[:, ::2]):
        assert to_proto(array, as_content=as_content) == to_proto(plain, as_content=as_content)
    wide = plain.astype(">i8")
    assert to_proto(wide, as_content=as_content) == to_proto(plain.astype(np.int64), as_content=as_content)
    halves = plain.astype(np.float16)
    assert to_proto(halves.T[:, ::-1], as_content=as_content) == to_proto(
        np.ascontiguousarray(halves.T[:, ::-1]), as_content=as_content
    )


def test_lists_become_arrays_as_numpy_has_them() -> None:
    assert to_proto([[1, 2], [3, 4]]) == to_proto(np.array([[1, 2], [3, 4]]))
    assert list(to_proto([b"a\0", b"b"]).string_val) == [b"a\0", b"b"]
    assert [dim.size for dim in to_proto([["a"], ["b"]]).tensor_shape.dim] == [2, 1]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.array(["2020-01-01"], "datetime64[D]"), r"datetime64\[D\]"),
        (np.zeros(1, np.longdouble), "float128|longdouble"),
        (np.zeros(1, [("a", "i4")]), "'a'"),
        (np.array([b"a", 1], object), "a int among strings"),
        (np.array([None], object), "a NoneType among strings"),
        ([[1], [1, 2]], "numpy makes no array"),
        ([2**70], "a int among strings"),
    ],
)
def test_a_dtype_without_a_data_type_is_refused_by_name(values: Any, reason: str) -> None:
    with pytest.raises(TensorError, match=reason):
        to_proto(values)


@pytest.mark.parametrize(
    ("data_type", "name", "dtype"),
    [
        ("DT_FLOAT", "float", "float32"),
        ("DT_DOUBLE", "double", "float64"),
        ("DT_HALF", "half", "float16"),
        ("DT_INT32", "int32", "int32"),
        ("DT_BOOL", "bool", "bool"),
        ("DT_STRING", "string", "object"),
        ("DT_QUINT8", "quint8", "uint8"),
        ("DT_COMPLEX128", "complex128", "complex128"),
        ("DT_BFLOAT16", "bfloat16", ml_dtypes.bfloat16),
        ("DT_FLOAT8_E4M3FN", "float8_e4m3fn", ml_dtypes.float8_e4m3fn),
        ("DT_INT4", "int4", ml_dtypes.int4),
    ],
)
def test_data_types_have_names_and_dtypes(data_type: str, name: str, dtype: Any) -> None:
    number = DataType.Value(data_type)
    assert dtype_name(number) == name
    assert dtype_of(number) == np.dtype(dtype)
    if not name.startswith("q"):
        assert enum_of(np.dtype(dtype)) == number


def test_a_quantised_integer_is_sent_back_as_a_plain_one() -> None:
    assert enum_of(dtype_of(DataType.DT_QUINT8)) == DataType.DT_UINT8


@pytest.mark.parametrize(
    ("number", "name"), [(0, "INVALID"), (20, "resource"), (101, "float_ref"), (99, "unknown dtype enum (99)")]
)
def test_a_data_type_without_data_has_a_name_and_no_dtype(number: int, name: str) -> None:
    assert dtype_name(number) == name
    with pytest.raises(TensorError, match="holds no data"):
        dtype_of(number)


def test_equal_dtypes_from_different_constructors_are_one_data_type() -> None:
    assert enum_of(np.dtype(np.longlong)) == enum_of(np.dtype(np.int64)) == DataType.DT_INT64
    assert enum_of(np.dtype(">f4")) == DataType.DT_FLOAT
    assert enum_of(np.dtype("U7")) == enum_of(np.dtype("S7")) == DataType.DT_STRING
    assert to_proto(np.array([1], np.longlong)) == TensorProto.FromString(to_proto([1]).SerializeToString())
