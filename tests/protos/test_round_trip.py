"""Arrays of every data type and shape survive a round trip."""

from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from headrace_protos import DataType, TensorProto
from headrace_protos.tensor import TensorError, dtype_of, enum_of, to_array, to_proto

NUMERIC = [number for number in range(1, 34) if number not in {DataType.DT_STRING, 20, 21}]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=6)
FOUR_BITS = {DataType.DT_INT4, DataType.DT_UINT4, DataType.DT_FLOAT4_E2M1FN}
TWO_BITS = {DataType.DT_INT2, DataType.DT_UINT2}


@st.composite
def numeric_arrays(draw: st.DrawFn) -> npt.NDArray[Any]:
    """An array of arbitrary bits, including every kind of NaN, with any strides."""
    number = draw(st.sampled_from(NUMERIC))
    dtype, shape = dtype_of(number), draw(SHAPES)
    size = int(np.prod(shape, dtype=int)) * dtype.itemsize
    mask = 0x0F if number in FOUR_BITS else 3 if number in TWO_BITS else 1 if number == DataType.DT_BOOL else 0xFF
    raw = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), np.uint8) & np.uint8(mask)
    array = raw.view(dtype).reshape(shape)
    return array.T if draw(st.booleans()) else array


@st.composite
def string_arrays(draw: st.DrawFn) -> npt.NDArray[Any]:
    shape = draw(SHAPES)
    array = np.empty(int(np.prod(shape, dtype=int)), object)
    array[:] = draw(st.lists(st.binary(max_size=200), min_size=array.size, max_size=array.size))
    return array.reshape(shape)


@given(numeric_arrays(), st.booleans())
@settings(max_examples=500)
def test_numbers_come_back_bit_by_bit(array: npt.NDArray[Any], as_content: bool) -> None:
    proto = to_proto(array, as_content=as_content)
    back = to_array(TensorProto.FromString(proto.SerializeToString()))
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert proto.dtype == enum_of(array.dtype)
    if as_content or array.dtype.kind in "iub":
        assert back.tobytes() == array.tobytes()
    else:
        np.testing.assert_array_equal(quiet(back), quiet(array))


def quiet(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same numbers in a dtype that numpy compares without a warning about signalling NaNs."""
    with np.errstate(invalid="ignore"):
        return array.astype(np.complex128)


@given(string_arrays(), st.booleans())
@settings(max_examples=100)
def test_strings_come_back(array: npt.NDArray[Any], as_content: bool) -> None:
    back = to_array(to_proto(array, as_content=as_content))
    assert (back.dtype, back.shape) == (np.dtype(object), array.shape)
    assert back.tolist() == array.tolist()


@given(st.binary(max_size=200))
@settings(max_examples=500)
def test_any_message_is_decoded_or_refused(message: bytes) -> None:
    proto = TensorProto(dtype="DT_FLOAT")
    try:
        proto.MergeFromString(message)
    except Exception:
        return
    try:
        array = to_array(proto)
    except TensorError:
        return
    assert array.shape == tuple(dim.size for dim in proto.tensor_shape.dim)
