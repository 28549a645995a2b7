"""Compares headrace's conversions of random tensors with TensorFlow's; prints counts and differences as JSON."""

import json
import math
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from headrace_protos import DataType, TensorProto, TensorShapeProto
from headrace_protos.dtype import codec_of
from headrace_protos.tensor import TensorError, dtype_of, enum_of, to_array, to_proto

RANDOM = random.Random(2024)
MESSAGES, ARRAYS = 2500, 500
NUMBERS = [number for number in range(1, 34) if number not in {DataType.DT_RESOURCE, DataType.DT_VARIANT}]
BOUNDS = {
    "half_val": (0, 2**16 - 1),
    "int_val": (-(2**31), 2**31 - 1),
    "int64_val": (-(2**63), 2**63 - 1),
    "uint32_val": (0, 2**32 - 1),
    "uint64_val": (0, 2**64 - 1),
}
# These have no elements: for others, TensorFlow would allocate memory.
IMPOSSIBLE_SHAPES = [[-1], [0, -1], [2, -1, 3], [2**62, 2], [2**62, 2, 0]]
# Types that neither tf.make_ndarray nor tf.make_tensor_proto supports.
UNMADE = {DataType.DT_FLOAT8_E4M3FNUZ, DataType.DT_FLOAT8_E4M3B11FNUZ, DataType.DT_FLOAT8_E5M2FNUZ}
FLOATS = [0.0, -0.0, math.inf, math.nan]


def random_value(field: str) -> Any:
    if field == "string_val":
        return RANDOM.randbytes(RANDOM.choice([0, 1, 3, 130]))
    if field == "bool_val":
        return RANDOM.random() < 0.5
    if field in BOUNDS:
        return RANDOM.choice([RANDOM.randint(*BOUNDS[field]), *BOUNDS[field], RANDOM.randrange(300)])
    return RANDOM.choice([*FLOATS, RANDOM.gauss(0, 10)])


def random_message() -> TensorProto:
    """A tensor that may lack values, have them in the wrong field, or have no shape."""
    number = RANDOM.choice(NUMBERS)
    shape = [RANDOM.choice([0, 1, 2, 3]) for _ in range(RANDOM.choice([0, 1, 1, 2, 3]))]
    if RANDOM.random() < 0.05:
        shape = RANDOM.choice(IMPOSSIBLE_SHAPES)
    proto = TensorProto.FromString(bytes([TensorProto.DTYPE_FIELD_NUMBER << 3, number]))
    proto.tensor_shape.dim.extend(TensorShapeProto.Dim(size=size) for size in shape)
    proto.tensor_shape.unknown_rank = RANDOM.random() < 0.1
    if RANDOM.random() < 0.4:
        proto.tensor_content = random_content(number, min(math.prod(map(abs, shape)), 64))
    add_values(proto, codec_of(number if RANDOM.random() < 0.9 else RANDOM.choice(NUMBERS)).field)
    return proto


def random_content(number: int, count: int) -> bytes:
    count = RANDOM.choice([count, count, count, count + 1, 1])
    if number == DataType.DT_STRING:
        items = [random_value("string_val") for _ in range(count)]
        return bytes(to_proto(items, as_content=True).tensor_content) + RANDOM.choice([b"", b"", b"x"])
    if number == DataType.DT_BOOL:
        return bytes(RANDOM.choices([0, 1, 2], [10, 10, 1], k=count))
    return RANDOM.randbytes(count * dtype_of(number).itemsize)


def add_values(proto: TensorProto, field: str) -> None:
    count = RANDOM.choice([0, 1, 2, 3, 4, 6, 18, 200])
    if field == "float8_val":
        proto.float8_val = RANDOM.randbytes(count)
    else:
        getattr(proto, field).extend([random_value(field) for _ in range(count)])


def random_array() -> npt.NDArray[Any]:
    dtype = dtype_of(RANDOM.choice(NUMBERS))
    shape = [RANDOM.choice([0, 1, 2, 7]) for _ in range(RANDOM.randrange(4))]
    count = math.prod(shape)
    if dtype.hasobject:
        array = np.empty(count, object)
        array[:] = [random_value("string_val") for _ in range(count)]
        return array.reshape(shape)
    drawn = [RANDOM.randrange(2) if dtype.kind == "b" else RANDOM.gauss(0, 50) for _ in range(count)]
    return np.array(drawn, np.float64).astype(np.int64).astype(dtype).reshape(shape)


def details(array: npt.NDArray[Any]) -> tuple[Any, ...]:
    """The compared form of an array: its bits, except for the unused bits of elements narrower than a byte."""
    if array.dtype.name in {"int2", "uint2", "int4", "uint4", "float4_e2m1fn"}:
        array = array.astype(np.float32)
    return str(array.dtype), array.shape, array.tolist() if array.dtype.hasobject else array.tobytes().hex()


def our_outcome(proto: TensorProto) -> tuple[Any, ...]:
    try:
        return details(to_array(proto))
    except TensorError:
        return ("refused",)


def their_outcome(proto: TensorProto) -> tuple[Any, ...]:
    """The array that TensorFlow's runtime decodes from a message; TF Serving decodes requests with the same code."""
    try:
        return details(
            np.asarray(tf.io.parse_tensor(proto.SerializeToString(), proto.dtype).numpy(), dtype_of(proto.dtype))
        )
    except tf.errors.InvalidArgumentError:
        return ("refused",)


def comparisons() -> Iterator[tuple[str, tuple[Any, ...], tuple[Any, ...], object]]:
    """Yields a kind of comparison, our result, their result, and the input."""
    for _ in range(MESSAGES):
        message = random_message()
        yield "decoded", our_outcome(message), their_outcome(message), message
    for _ in range(ARRAYS):
        array = random_array()
        for as_content in (False, True):
            ours = to_proto(array, as_content=as_content)
            yield "encoded", details(array), their_outcome(ours), ours
            if enum_of(array.dtype) not in UNMADE and not (array.dtype.hasobject and as_content):
                theirs = tensor_pb2.TensorProto.FromString(ours.SerializeToString())
                yield "made into an array", details(array), details(tf.make_ndarray(theirs)), ours
        if enum_of(array.dtype) not in UNMADE:
            made = TensorProto.FromString(tf.make_tensor_proto(array).SerializeToString())
            yield "made into a message", our_outcome(made), details(array), made


if __name__ == "__main__":
    counts: Counter[str] = Counter()
    differences = []
    for kind, ours, theirs, subject in comparisons():
        counts[f"{kind}, refused" if ours == ("refused",) else kind] += 1
        if ours != theirs:
            differences.append([kind, repr(ours)[:200], repr(theirs)[:200], str(subject)[:500]])
    print(json.dumps({"counts": counts, "differences": differences}))
