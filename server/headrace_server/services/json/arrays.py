"""Converts nested JSON lists to arrays of a declared dtype; refuses what does not fit, in TF Serving's words."""

import re
from binascii import a2b_base64
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NoReturn

import numpy as np

from headrace_batching.task import Array
from headrace_protos import Code, DataType
from headrace_protos.tensor import dtype_name, dtype_of
from headrace_server.errors import ServingError, invalid
from headrace_server.services.json.text import show, type_name

MAX_RANK = 64
BASE64_KEY = "b64"

_BASE64 = re.compile(r"[A-Za-z0-9+/]*")
_SPACES = str.maketrans("", "", " \t\n\v\f\r")
_INT32 = (-(2**31), 2**31 - 1)

# The range of a literal for each dtype of integers, to which the value is then cast and may wrap. In TF Serving, all
# narrow integers pass through an int32.
_RANGES = {
    DataType.DT_INT32: _INT32,
    DataType.DT_INT16: _INT32,
    DataType.DT_INT8: _INT32,
    DataType.DT_UINT8: _INT32,
    DataType.DT_INT64: (-(2**63), 2**63 - 1),
    DataType.DT_UINT32: (0, 2**32 - 1),
    DataType.DT_UINT64: (0, 2**64 - 1),
}
_FLOATS = (DataType.DT_FLOAT, DataType.DT_DOUBLE)

PLAIN = frozenset((*_FLOATS, *_RANGES, DataType.DT_BOOL))
"""The dtypes whose values are numbers or booleans."""


def to_array(value: Any, dtype: DataType) -> Array:
    """Converts a JSON value to an array: its shape is the nesting of lists, and a scalar has none.

    Args:
        value: Numbers, strings and `{"b64": …}` objects, in nested lists or, for a scalar, without a list.
        dtype: The dtype of the result. A float accepts any number and may become infinite. An integer must be written
            without a fraction or an exponent. It must fit DT_INT64, DT_UINT32 or DT_UINT64 if that is the dtype; for
            any other dtype of integers, it must fit DT_INT32, and is reduced to as many bits as the dtype has.

    Raises:
        ServingError: INVALID_ARGUMENT if the lists differ in length or depth, or a value is not of the dtype;
            UNIMPLEMENTED if JSON has no values of the dtype, as in TF Serving's json_tensor.cc.
    """
    array = regular_array(value, dtype)
    if array is None:
        _refuse(value, dtype)
    return array


def too_deep() -> ServingError:
    """The error for a value that would have more than MAX_RANK dimensions."""
    return invalid(f"lists are nested more than {MAX_RANK} deep")


def is_base64(value: Any) -> bool:
    """Whether a value is an object that represents arbitrary bytes."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get(BASE64_KEY), str)


def decode_base64(value: dict[str, Any]) -> bytes:
    """Decodes a `{"b64": …}` object. White space is ignored; padding may be missing entirely, but not in part.

    Raises:
        ServingError: INVALID_ARGUMENT if it is not base64.
    """
    text = value[BASE64_KEY].translate(_SPACES)
    bare = text.rstrip("=")
    missing = -len(bare) % 4
    if not _BASE64.fullmatch(bare) or missing == 3 or len(text) - len(bare) not in (0, missing):
        raise invalid("Unable to base64 decode")
    return a2b_base64(bare + "=" * missing)


def regular_array(value: Any, dtype: DataType) -> Array | None:
    """Like `to_array`, but returns None where `to_array` raises an error."""
    shape: list[int] = []
    level = [value]
    types = {type(value)}
    while types == {list}:
        sizes = set(map(len, level))
        if len(sizes) > 1 or len(shape) == MAX_RANK:
            return None
        shape.append(sizes.pop())
        level = list(chain.from_iterable(level))
        types = set(map(type, level))
    flat = _flat(level, types, dtype)
    return None if flat is None else flat.reshape(shape)


def _flat(values: Sequence[Any], types: set[type], dtype: DataType) -> Array | None:
    """Values as an array of one dimension; None if one does not fit the dtype."""
    if not values:
        return np.empty(0, dtype_of(dtype))
    if dtype in _FLOATS:
        return _floats(values, dtype) if types <= {int, float} else None
    if dtype in _RANGES:
        return _integers(values, dtype) if types == {int} else None
    if dtype == DataType.DT_BOOL:
        return np.array(values, np.bool_) if types == {bool} else None
    if dtype == DataType.DT_STRING:
        return _strings(values) if types <= {str, dict} else None
    return None


def _floats(values: Sequence[int | float], dtype: DataType) -> Array:
    with np.errstate(over="ignore"):  # numbers too large for a float become infinite
        return np.array(values, np.float64).astype(dtype_of(dtype), copy=False)


def _integers(values: Sequence[int], dtype: DataType) -> Array | None:
    lowest, highest = _RANGES[dtype]
    if min(values) < lowest or max(values) > highest:
        return None
    wide = np.uint64 if highest > _RANGES[DataType.DT_INT64][1] else np.int64
    return np.array(values, wide).astype(dtype_of(dtype), copy=False)


def _strings(values: Sequence[Any]) -> Array | None:
    array = np.empty(len(values), np.object_)
    try:
        array[:] = [item.encode(errors="surrogateescape") if type(item) is str else _bytes(item) for item in values]
    except ServingError:
        return None
    return array


def _bytes(value: dict[str, Any]) -> bytes:
    if not is_base64(value):
        raise invalid(f"JSON Value: {show(value)} not formatted correctly for base64 data")
    return decode_base64(value)


def _refuse(value: Any, dtype: DataType) -> NoReturn:
    """Finds the first error in a value, depth first as TF Serving does."""
    shape: list[int] = []
    first = value
    while isinstance(first, list) and len(shape) <= MAX_RANK:
        shape.append(len(first))
        first = first[0] if first else None
    if len(shape) > MAX_RANK:
        raise too_deep()
    _walk(value, 0, shape, dtype)
    raise ServingError(Code.INTERNAL, f"no array of {dtype_name(dtype)} can be made from the JSON value {show(value)}")


def _walk(value: Any, level: int, shape: Sequence[int], dtype: DataType) -> None:
    """Raises the error for the first wrong part of a value; skips right parts as a whole, since they may be large."""
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid(
                f"JSON Value: {show(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        _check(value, dtype)
        return
    if level >= len(shape):
        raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    inner = tuple(shape[level + 1 :])

    def is_wrong(start: int, stop: int) -> bool:
        array = regular_array(value[start:stop], dtype)
        return array is None or array.shape[1:] != inner

    wrong = first_wrong(0, len(value), is_wrong)
    if wrong < len(value):
        _walk(value[wrong], level + 1, shape, dtype)


def first_wrong(start: int, stop: int, is_wrong: Callable[[int, int], bool]) -> int:
    """The index of the first wrong value among many, found by bisection; `stop` if there is none.

    Args:
        start: The index of the first value.
        stop: The index after the last one.
        is_wrong: Whether a range of values contains a wrong one.
    """
    if start == stop or not is_wrong(start, stop):
        return stop
    while stop - start > 1:
        middle = (start + stop) // 2
        if is_wrong(start, middle):
            stop = middle
        else:
            start = middle
    return start


def _check(value: Any, dtype: DataType) -> None:
    """Raises for a value, not a list, that does not fit the dtype."""
    if isinstance(value, dict) and dtype == DataType.DT_STRING:
        _bytes(value)
    elif dtype not in (*_FLOATS, *_RANGES, DataType.DT_BOOL, DataType.DT_STRING) and not isinstance(value, dict):
        text = f"Conversion of JSON Value: {show(value)} to type: {dtype_name(dtype)}"
        raise ServingError(Code.UNIMPLEMENTED, text)
    elif _flat([value], {type(value)}, dtype) is None:
        raise invalid(
            f"JSON Value: {show(value)} Type: {type_name(value)} is not of expected type: {dtype_name(dtype)}"
        )
