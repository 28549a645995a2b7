"""TensorProto to numpy and back, without a copy where the bytes allow it."""

from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace_protos.dtype import Codec, TensorError, codec_for, codec_of, dtype_name, dtype_of, enum_of
from headrace_protos.tensorflow.core.framework.tensor_pb2 import TensorProto
from headrace_protos.tensorflow.core.framework.tensor_shape_pb2 import TensorShapeProto
from headrace_protos.tensorflow.core.framework.types_pb2 import DataType
from headrace_protos.wire import find_payload, opening, varint

__all__ = ["MAX_FILLED_BYTES", "TensorError", "dtype_name", "dtype_of", "enum_of", "to_array", "to_proto"]

MAX_FILLED_BYTES = 64 << 20
"""The largest tensor, in bytes, that a message may declare with fewer values than the tensor has elements."""

_MAX_RANK = 64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32
_INT64_MAX = 2**63 - 1
_CONTENT = TensorProto.TENSOR_CONTENT_FIELD_NUMBER
_LONGEST_SIZE = 5  # bytes of a string's length in tensor_content
_SHORT = "content that ends within the lengths of its strings"
# From this many values on, finding a field's bytes in the serialized message is quicker than reading its values.
_MANY = 128
# The size up to which a serialized shape is cached: shapes come from callers, and a dimension's name may have any
# length.
_MAX_CACHED_SHAPE_BYTES = 128


def to_array(proto: TensorProto) -> npt.NDArray[Any]:
    """Decodes a tensor; the result may be read-only, share the message's bytes, or repeat one element (stride 0).

    Strings become an object array of bytes, and quantised integers become plain ones. `tensor_content` is used if it is
    not empty, otherwise the `*_val` field of the dtype: missing elements repeat its last value, or are zeros if the
    field is empty, and surplus values are ignored. TF Serving does the same, but without the limits
    MAX_FILLED_BYTES and, on shapes, numpy's.

    Raises TensorError if the dtype holds no data, the shape is invalid, or the content does not fit the shape.
    """
    codec = codec_of(proto.dtype)
    shape, count = _shape(proto)
    if count == 0:
        return _empty(shape, codec)
    content = proto.tensor_content
    if content:
        return _from_content(content, codec, shape, count)
    return _filled(_values(proto, codec), codec, shape, count)


def to_proto(values: npt.ArrayLike, into: TensorProto | None = None, *, as_content: bool = False) -> TensorProto:
    """Encodes an array, or values that numpy converts to one, in the `*_val` field of its dtype or as `tensor_content`.

    `into` is an empty message to fill, such as an entry of a response's outputs; it is returned, or else a new message.
    Texts are encoded as UTF-8. An array without elements is encoded as its dtype and shape alone. TF Serving does the
    same; `as_content` corresponds to --enable_serialization_as_tensor_content.

    Raises TensorError if numpy cannot convert the values to an array, or no data type corresponds to its dtype.
    """
    array = _as_array(values)
    codec = codec_for(array.dtype)
    if array.dtype is not codec.dtype and not codec.is_string:
        array = array.astype(codec.dtype)
    proto = TensorProto() if into is None else into
    if as_content:
        _put(proto, codec, array.shape, _CONTENT, _content(array, codec))
    elif (payload := _payload(array, codec)) is not None:
        _put(proto, codec, array.shape, codec.number, payload)
    else:
        proto.MergeFromString(_header(codec.data_type, array.shape))
        getattr(proto, codec.field).extend(_listed(array, codec))
    return proto


def shape_of(proto: TensorProto) -> tuple[int, ...]:
    """Returns the shape that a tensor declares, without a look at its content.

    Raises TensorError if the shape is invalid.
    """
    return _shape(proto)[0]


def _shape(proto: TensorProto) -> tuple[tuple[int, ...], int]:
    # Serializing a shape and looking it up takes a third of the time that a loop over its dimensions takes.
    serialized = proto.tensor_shape.SerializeToString()
    if len(serialized) > _MAX_CACHED_SHAPE_BYTES:
        return _parse_shape(serialized)
    return _cached_shape(serialized)


def _parse_shape(serialized: bytes) -> tuple[tuple[int, ...], int]:
    """Returns the dimensions and the number of elements; an unknown rank is accepted, and counts as 0."""
    shape = tuple(dim.size for dim in TensorShapeProto.FromString(serialized).dim)
    if len(shape) > _MAX_RANK:
        reason = f"rank {len(shape)} is over {_MAX_RANK}"
        raise TensorError(reason)
    count = 1
    for size in shape:
        count *= size
        # This is checked in the loop, since an overflow is an error even if a dimension of 0 follows it.
        if size < 0 or count > _INT64_MAX:
            reason = f"a negative dimension, or too many elements: {shape}"
            raise TensorError(reason)
    return shape, count


_cached_shape = lru_cache(maxsize=1024)(_parse_shape)


def _empty(shape: tuple[int, ...], codec: Codec) -> npt.NDArray[Any]:
    try:
        return np.empty(shape, codec.dtype)
    except ValueError as error:
        reason = f"an empty shape that numpy cannot hold: {shape}"
        raise TensorError(reason) from error


def _from_content(content: bytes, codec: Codec, shape: tuple[int, ...], count: int) -> npt.NDArray[Any]:
    if codec.is_string:
        return _objects(_split(content, count)).reshape(shape)
    if len(content) != count * codec.dtype.itemsize:
        reason = f"{len(content)} bytes of content for {count} elements of {codec.dtype.itemsize} bytes"
        raise TensorError(reason)
    if codec.dtype.kind == "b" and content.translate(None, b"\0\1"):
        reason = "a bool that is neither 0 nor 1"
        raise TensorError(reason)
    return np.ndarray(shape, codec.dtype, content)


def _split(content: bytes, count: int) -> list[bytes]:
    """Splits strings that are written as all lengths, followed by all bytes."""
    if count > len(content):
        raise TensorError(_SHORT)
    sizes, at = _read_sizes(np.frombuffer(content, np.uint8), count)
    if at + int(sizes.sum()) != len(content):
        reason = f"{len(content)} bytes of content for strings of {at + int(sizes.sum())}"
        raise TensorError(reason)
    ends = list(accumulate(sizes.tolist(), initial=at))
    return [content[start:end] for start, end in pairwise(ends)]


def _read_sizes(content: npt.NDArray[np.uint8], count: int) -> tuple[npt.NDArray[np.int64], int]:
    """Decodes `count` varints, all at once since callers may send millions; returns them and the offset after the last.

    As in TF Serving, a length has 32 bits; if its fifth byte holds more, the length is truncated, and not refused.
    """
    ends = np.flatnonzero(content[: _LONGEST_SIZE * count] < 0x80)[:count] + 1
    starts = np.concatenate(([0], ends[:-1]))
    if len(ends) < count or (ends - starts > _LONGEST_SIZE).any():
        raise TensorError(_SHORT)
    sizes = np.zeros(count, np.int64)
    for byte in range(_LONGEST_SIZE):
        held = starts + byte < ends
        sizes[held] |= (content[(starts + byte)[held]].astype(np.int64) & 0x7F) << 7 * byte
    return sizes & 0xFFFFFFFF, int(ends[-1])


def _values(proto: TensorProto, codec: Codec) -> npt.NDArray[Any]:
    """Returns the values of the field that is read for a dtype, as a flat array of that dtype."""
    sent = getattr(proto, codec.field)
    if isinstance(sent, bytes):
        return np.frombuffer(sent, codec.dtype)
    if codec.is_string:
        return _objects(sent[:])
    payload = find_payload(proto.SerializeToString(), codec.number) if codec.is_raw and len(sent) >= _MANY else None
    values = np.array(sent[:], codec.sent) if payload is None else _aligned(payload, codec.sent)
    if codec.stored is not codec.sent:
        values = values.astype(codec.stored)
    if codec.dtype is not codec.stored:
        parts = codec.dtype.itemsize // codec.stored.itemsize
        values = values[: values.size - values.size % parts].view(codec.dtype)
    return values


def _aligned(payload: memoryview, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Views bytes as values. Misaligned bytes are copied: numpy supports them, but some native runtimes do not."""
    values = np.frombuffer(payload, dtype)
    return values if values.flags.aligned else values.copy()


def _filled(values: npt.NDArray[Any], codec: Codec, shape: tuple[int, ...], count: int) -> npt.NDArray[Any]:
    """Gives flat values a shape, repeating the last of them, or a zero, if the shape has more elements."""
    if values.size >= count:
        return values[:count].reshape(shape)
    if values.size == 0:
        values = _objects([b""]) if codec.is_string else np.zeros(1, codec.dtype)
    size = len(values[-1]) + codec.dtype.itemsize if codec.is_string else codec.dtype.itemsize
    if count * size > MAX_FILLED_BYTES:
        reason = f"{values.size} values for {count} elements, which would fill over {MAX_FILLED_BYTES} bytes"
        raise TensorError(reason)
    if values.size == 1:
        return np.broadcast_to(values.reshape(()), shape)
    array = np.empty(count, codec.dtype)
    array[: values.size] = values
    array[values.size :] = values[-1:]
    return array.reshape(shape)


def _objects(values: list[bytes]) -> npt.NDArray[Any]:
    # The values are assigned, not converted, since numpy's own byte strings lose the zero bytes at their end.
    array = np.empty(len(values), np.object_)
    array[:] = values
    return array


def _as_array(values: npt.ArrayLike) -> npt.NDArray[Any]:
    if isinstance(values, np.ndarray):
        return values
    try:
        array = np.asarray(values)
        return np.asarray(values, np.object_) if array.dtype.kind in "SU" else array
    except ValueError as error:
        reason = f"numpy makes no array of it: {error}"
        raise TensorError(reason) from error


def _listed(array: npt.NDArray[Any], codec: Codec) -> list[Any]:
    if codec.is_string:
        return [_as_bytes(item) for item in array.ravel().tolist()]
    if codec.dtype is not codec.sent:
        array = array.view(codec.stored).astype(codec.sent)
    return array.ravel().tolist()


def _as_bytes(item: object) -> bytes:
    if isinstance(item, str):
        return item.encode()
    if not isinstance(item, bytes):
        reason = f"a {type(item).__name__} among strings"
        raise TensorError(reason)
    return item


def _content(array: npt.NDArray[Any], codec: Codec) -> bytes:
    if not codec.is_string:
        return array.tobytes()
    items = _listed(array, codec)
    return b"".join([*(varint(len(item)) for item in items), *items])


def _payload(array: npt.NDArray[Any], codec: Codec) -> bytes | None:
    """Returns the bytes of an array's `*_val` field, or None if encoding it takes a loop over the values."""
    if codec.is_raw:
        return array.tobytes()
    if array.size >= _MANY and array.dtype.kind in "iu" and array.min() >= 0 and array.max() < 0x80:
        return array.astype(np.uint8).tobytes()  # varints of one byte each
    return None


def _put(proto: TensorProto, codec: Codec, shape: tuple[int, ...], number: int, payload: bytes) -> None:
    proto.MergeFromString(_opened(codec.data_type, shape, number, len(payload)) + payload)


@lru_cache(maxsize=1024)
def _opened(data_type: DataType, shape: tuple[int, ...], number: int, size: int) -> bytes:
    return _header(data_type, shape) + opening(number, size)


@lru_cache(maxsize=1024)
def _header(data_type: DataType, shape: tuple[int, ...]) -> bytes:
    """Serializes a tensor's dtype and shape; a scalar has a shape without dimensions."""
    dims = [TensorShapeProto.Dim(size=size) for size in shape]
    return TensorProto(dtype=data_type, tensor_shape=TensorShapeProto(dim=dims)).SerializeToString()
