"""How a request's tensor is decoded, rule by rule."""

import contextlib
import tracemalloc
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from headrace_protos import DataType, TensorProto, TensorShapeProto
from headrace_protos.tensor import MAX_FILLED_BYTES, TensorError, to_array


def tensor(dtype: str, shape: list[int] | None = None, **fields: Any) -> TensorProto:
    proto = TensorProto(dtype=dtype, **fields)
    proto.tensor_shape.dim.extend(TensorShapeProto.Dim(size=size) for size in shape or [])
    return proto


@pytest.mark.parametrize(
    ("dtype", "field", "values", "expected"),
    [
        ("DT_FLOAT", "float_val", [1.5, -0.0], np.array([1.5, -0.0], np.float32)),
        ("DT_DOUBLE", "double_val", [0.1, 1e300], np.array([0.1, 1e300])),
        ("DT_INT32", "int_val", [-(2**31), 2**31 - 1], np.array([-(2**31), 2**31 - 1], np.int32)),
        ("DT_UINT8", "int_val", [255, 256], np.array([255, 0], np.uint8)),
        ("DT_INT8", "int_val", [300, -1], np.array([44, -1], np.int8)),
        ("DT_UINT16", "int_val", [-1, 65536], np.array([65535, 0], np.uint16)),
        ("DT_INT16", "int_val", [32768, -1], np.array([-32768, -1], np.int16)),
        ("DT_QINT8", "int_val", [300, -1], np.array([44, -1], np.int8)),
        ("DT_QUINT8", "int_val", [300, -1], np.array([44, 255], np.uint8)),
        ("DT_QINT16", "int_val", [300, -1], np.array([300, -1], np.int16)),
        ("DT_QUINT16", "int_val", [300, -1], np.array([300, 65535], np.uint16)),
        ("DT_QINT32", "int_val", [300, -1], np.array([300, -1], np.int32)),
        ("DT_INT4", "int_val", [-8, 8], np.array([-8, -8], ml_dtypes.int4)),
        ("DT_UINT4", "int_val", [-1, 7], np.array([15, 7], ml_dtypes.uint4)),
        ("DT_STRING", "string_val", [b"a\0", b"\xff"], np.array([b"a\0", b"\xff"], object)),
        ("DT_COMPLEX64", "scomplex_val", [1, 2, 3, 4], np.array([1 + 2j, 3 + 4j], np.complex64)),
        ("DT_COMPLEX128", "dcomplex_val", [1, 2, 3, 4], np.array([1 + 2j, 3 + 4j])),
        ("DT_INT64", "int64_val", [-(2**63), 2**63 - 1], np.array([-(2**63), 2**63 - 1])),
        ("DT_BOOL", "bool_val", [True, False], np.array([True, False])),
        ("DT_HALF", "half_val", [0x3C00, 0xC000], np.array([1, -2], np.float16)),
        ("DT_BFLOAT16", "half_val", [0x3F80, 0xC000], np.array([1, -2], ml_dtypes.bfloat16)),
        ("DT_UINT32", "uint32_val", [0, 2**32 - 1], np.array([0, 2**32 - 1], np.uint32)),
        ("DT_UINT64", "uint64_val", [0, 2**64 - 1], np.array([0, 2**64 - 1], np.uint64)),
        ("DT_FLOAT8_E5M2", "float8_val", b"\x3c\xc0", np.array([1, -2], ml_dtypes.float8_e5m2)),
        ("DT_FLOAT8_E4M3FN", "float8_val", b"\x38\xc0", np.array([1, -2], ml_dtypes.float8_e4m3fn)),
    ],
)
def test_values_come_from_the_field_of_the_dtype(dtype: str, field: str, values: Any, expected: Any) -> None:
    array = to_array(tensor(dtype, [2], **{field: values}))
    assert array.dtype == expected.dtype
    assert array.tolist() == expected.tolist()


def test_the_last_value_fills_the_rest() -> None:
    assert to_array(tensor("DT_INT32", [2, 2], int_val=[1, 2])).tolist() == [[1, 2], [2, 2]]
    assert to_array(tensor("DT_STRING", [3], string_val=[b"a", b"b\0"])).tolist() == [b"a", b"b\0", b"b\0"]


def test_one_value_fills_all_without_being_repeated_in_memory() -> None:
    array = to_array(tensor("DT_FLOAT", [2, 3], float_val=[7]))
    assert array.tolist() == [[7, 7, 7], [7, 7, 7]]
    assert array.strides == (0, 0)


@pytest.mark.parametrize(("dtype", "zero"), [("DT_FLOAT", 0.0), ("DT_BOOL", False), ("DT_STRING", b"")])
def test_no_value_is_all_zeros(dtype: str, zero: object) -> None:
    assert to_array(tensor(dtype, [2])).tolist() == [zero, zero]
    assert to_array(tensor(dtype)).tolist() == zero


def test_surplus_values_are_ignored() -> None:
    assert to_array(tensor("DT_FLOAT", [2], float_val=[1, 2, 3])).tolist() == [1, 2]
    assert to_array(tensor("DT_COMPLEX64", [1], scomplex_val=[1, 2, 3])).tolist() == [1 + 2j]


def test_half_a_complex_number_is_ignored() -> None:
    assert to_array(tensor("DT_COMPLEX64", [2], scomplex_val=[1])).tolist() == [0, 0]


@pytest.mark.parametrize("dtype", ["DT_FLOAT", "DT_UINT32", "DT_INT64", "DT_HALF"])
def test_values_in_another_field_are_not_read(dtype: str) -> None:
    assert to_array(tensor(dtype, [2], int_val=[1, 2])).tolist() == [0, 0]


@pytest.mark.parametrize("count", [1, 127, 128, 150_000])
@pytest.mark.parametrize(
    ("dtype", "field"),
    [("DT_FLOAT", "float_val"), ("DT_DOUBLE", "double_val"), ("DT_BOOL", "bool_val"), ("DT_COMPLEX64", "scomplex_val")],
)
def test_many_values_are_read_like_few(dtype: str, field: str, count: int) -> None:
    sent = (np.random.default_rng(0).random(count * 2) > 0.5).tolist()
    parts = 2 if "COMPLEX" in dtype else 1
    array = to_array(tensor(dtype, [count], **{field: sent[: count * parts]}))
    expected = np.array(sent[: count * parts], np.float32).view(np.complex64 if parts == 2 else np.float32)
    np.testing.assert_array_equal(array, expected.astype(array.dtype))


@pytest.mark.parametrize(("dtype", "field"), [("DT_FLOAT", "float_val"), ("DT_DOUBLE", "double_val")])
def test_many_values_are_aligned(dtype: str, field: str) -> None:
    # A dimension's name shifts the offset of the values in the message byte by byte.
    values: Any = {field: [1.5] * 1000}
    for length in range(16):
        proto = tensor(dtype, **values)
        proto.tensor_shape.dim.add(size=1000, name="n" * length)
        array = to_array(proto)
        assert array.flags.aligned
        assert (array == 1.5).all()


def test_many_values_are_found_among_other_fields() -> None:
    values = np.arange(500, dtype=np.float32)
    proto = tensor("DT_FLOAT", [500], float_val=values, int_val=[1, 2], string_val=[b"x"] * 100, version_number=9)
    np.testing.assert_array_equal(to_array(proto), values)
    unknown = TensorProto.FromString(b"\xcb\x3e\x2a\x04\0\0\0\0\xcc\x3e" + proto.SerializeToString())
    np.testing.assert_array_equal(to_array(unknown), values)


def test_content_wins_over_values() -> None:
    proto = tensor("DT_INT16", [2], tensor_content=b"\x01\x00\xff\xff", int_val=[5, 6])
    assert to_array(proto).tolist() == [1, -1]


def test_content_is_not_copied() -> None:
    array = to_array(tensor("DT_FLOAT", [2, 2], tensor_content=np.arange(4, dtype="<f4").tobytes()))
    assert array.tolist() == [[0, 1], [2, 3]]
    assert not array.flags.owndata
    assert not array.flags.writeable


@pytest.mark.parametrize("size", [1, 7, 9])
def test_content_of_another_length_is_an_error(size: int) -> None:
    with pytest.raises(TensorError, match=f"{size} bytes of content for 2 elements of 4 bytes"):
        to_array(tensor("DT_FLOAT", [2], tensor_content=b"x" * size))


def test_content_of_bools_is_zeros_and_ones() -> None:
    assert to_array(tensor("DT_BOOL", [3], tensor_content=b"\0\1\0")).tolist() == [False, True, False]
    with pytest.raises(TensorError, match="neither 0 nor 1"):
        to_array(tensor("DT_BOOL", [3], tensor_content=b"\0\1\2"))


def test_content_of_strings_is_lengths_and_then_bytes() -> None:
    content = b"\x01\x80\x01\x00a" + b"b" * 128
    assert to_array(tensor("DT_STRING", [3], tensor_content=content)).tolist() == [b"a", b"b" * 128, b""]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\x01", id="few lengths"),
        pytest.param(b"\x01\x01a", id="few bytes"),
        pytest.param(b"\x01\x01abc", id="many bytes"),
        pytest.param(b"ab", id="no lengths"),
        pytest.param(b"\x80\x80", id="unended length"),
        pytest.param(b"\x80\x80\x80\x80\x80\x00\x00", id="length of six bytes"),
        pytest.param(b"\xff\xff\xff\xff\x0f\0", id="length of 4 GiB"),
    ],
)
def test_content_of_strings_in_another_layout_is_an_error(content: bytes) -> None:
    with pytest.raises(TensorError, match=r"bytes of content for|within the lengths"):
        to_array(tensor("DT_STRING", [2], tensor_content=content))


def test_a_length_of_a_string_is_cut_to_32_bits() -> None:
    assert to_array(tensor("DT_STRING", [1], tensor_content=b"\x81\x80\x80\x80\x10a")).tolist() == [b"a"]


def test_no_shape_is_a_scalar() -> None:
    assert to_array(TensorProto(dtype="DT_FLOAT", float_val=[3])).shape == ()
    assert to_array(tensor("DT_FLOAT", [], float_val=[3, 4])).tolist() == 3


def test_an_unknown_rank_is_ignored() -> None:
    proto = tensor("DT_INT32", [2], int_val=[1, 2])
    proto.tensor_shape.unknown_rank = True
    assert to_array(proto).tolist() == [1, 2]
    del proto.tensor_shape.dim[:]
    assert to_array(proto).tolist() == 1


@pytest.mark.parametrize("dtype", ["DT_FLOAT", "DT_STRING", "DT_BOOL"])
def test_a_dimension_of_0_makes_the_array_empty_whatever_was_sent(dtype: str) -> None:
    array = to_array(tensor(dtype, [2, 0, 3], tensor_content=b"xyz", float_val=[1]))
    assert (array.shape, array.size) == ((2, 0, 3), 0)


@pytest.mark.parametrize("shape", [[-1], [0, -1], [2**32, 2**32], [2**32, 2**32, 0], [2**63 - 1, 2]])
def test_an_invalid_shape_is_an_error(shape: list[int]) -> None:
    with pytest.raises(TensorError, match="negative dimension, or too many elements"):
        to_array(tensor("DT_FLOAT", shape, float_val=[1]))


@pytest.mark.parametrize("shape", [[0, 2**62], [0, 2**40, 2**40], [1] * 65, [0] * 255, [1] * 10_000])
def test_a_shape_that_numpy_cannot_hold_is_an_error(shape: list[int]) -> None:
    with pytest.raises(TensorError, match=r"numpy cannot hold|rank \d+ is over"):
        to_array(tensor("DT_FLOAT", shape, float_val=[1]))


@pytest.mark.parametrize("dtype", [0, 20, 21, 99, 101, 107, 121])
def test_a_dtype_without_data_is_an_error(dtype: int) -> None:
    with pytest.raises(TensorError, match="holds no data"):
        to_array(TensorProto.FromString(bytes([TensorProto.DTYPE_FIELD_NUMBER << 3, dtype])))


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize(
    ("dtype", "field", "value"), [("DT_FLOAT", "float_val", 1), ("DT_STRING", "string_val", b"ab")]
)
def test_a_shape_beyond_the_bound_allocates_nothing(dtype: str, field: str, value: Any, count: int) -> None:
    proto = tensor(dtype, [2**20, 2**20], **{field: [value] * count})
    tracemalloc.start()
    try:
        with pytest.raises(TensorError, match="would fill over"):
            to_array(proto)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_the_bound_is_on_bytes() -> None:
    assert to_array(tensor("DT_FLOAT", [MAX_FILLED_BYTES // 4], float_val=[1])).nbytes == MAX_FILLED_BYTES
    for dtype, elements in (("DT_FLOAT", MAX_FILLED_BYTES // 4 + 1), ("DT_DOUBLE", MAX_FILLED_BYTES // 8 + 1)):
        with pytest.raises(TensorError, match="would fill over"):
            to_array(tensor(dtype, [elements]))
    with pytest.raises(TensorError, match="would fill over"):
        to_array(tensor("DT_STRING", [65], string_val=[b"x" * (1 << 20)]))


def test_a_shape_with_long_names_is_read_like_any_other() -> None:
    proto = tensor("DT_INT32", [2], int_val=[1, 2])
    proto.tensor_shape.dim[0].name = "n" * 1000
    assert to_array(proto).tolist() == [1, 2]


def test_every_data_type_is_decoded_or_refused() -> None:
    decoded = set()
    for name, number in DataType.items():
        with contextlib.suppress(TensorError):
            to_array(tensor(name))
            decoded.add(number)
    assert decoded == set(range(1, 34)) - {DataType.DT_RESOURCE, DataType.DT_VARIANT}
