"""Converts arrays to the body of an answer, with TF Serving's numbers, lists and white space."""

from binascii import b2a_base64
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from math import prod

import numpy as np

from headrace_batching.task import Array, Arrays
from headrace_protos import ClassificationResult, DataType, RegressionResult
from headrace_protos.tensor import dtype_name, enum_of
from headrace_server.errors import invalid
from headrace_server.services.json.arrays import BASE64_KEY
from headrace_server.services.json.text import newline, quote

BYTES_SUFFIX = "_bytes"
"""As in TF Serving, a string output whose alias has this ending is answered in base64."""

FLOAT_DIGITS = 9
"""The number of digits that distinguish any two floats."""

SCALAR = "Tensor name: {} has no shape information "
"""The error for an output without rows in a row-by-row answer; `{}` stands for its alias."""

OTHER_ROWS = "Tensor name: {} has inconsistent batch size: {} expecting: {}"
"""The error for an output with another number of rows than those before it.

Each `{}` stands for a value: the output's alias, its number of rows, and the number of rows of the others.
"""

_DIGITS = {DataType.DT_FLOAT: FLOAT_DIGITS, DataType.DT_DOUBLE: 17}
_INTEGERS = (
    DataType.DT_INT32,
    DataType.DT_INT16,
    DataType.DT_INT8,
    DataType.DT_UINT8,
    DataType.DT_INT64,
    DataType.DT_UINT32,
    DataType.DT_UINT64,
)
_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def write_predict(outputs: Arrays, *, by_row: bool) -> bytes:
    """The body that answers a :predict: `predictions`, row by row, or `outputs`, each as a whole.

    Raises:
        ServingError: INVALID_ARGUMENT if JSON cannot express a dtype; by row, also if outputs have no rows or different
            numbers of rows, or if there are no outputs, as in TF Serving's json_tensor.cc.
    """
    if not outputs:
        raise invalid("Cannot convert empty tensor map to JSON")
    return _encoded(_by_row(outputs) if by_row else _by_column(outputs))


def write_classifications(serialized: bytes) -> bytes:
    """The body that answers a :classify: for each example its classes, as pairs of label and score.

    Args:
        serialized: A serialized ClassificationResult.
    """
    examples = [example.classes for example in ClassificationResult.FromString(serialized).classifications]
    classes = list(chain.from_iterable(examples))
    scores = _decimals(np.array([each.score for each in classes], np.float32), FLOAT_DIGITS)
    pairs = iter([f"[{quote(each.label)}, {score}]" for each, score in zip(classes, scores, strict=True)])
    rows = [f"[{', '.join(islice(pairs, len(example)))}]" for example in examples]
    return _encoded(_object("results", f"[{', '.join(rows)}{newline(1)}]"))


def write_regressions(serialized: bytes) -> bytes:
    """The body that answers a :regress: one value for each example.

    Args:
        serialized: A serialized RegressionResult.
    """
    regressions = RegressionResult.FromString(serialized).regressions
    values = np.array([each.value for each in regressions], np.float32)
    return _encoded(_object("results", f"[{', '.join(_decimals(values, FLOAT_DIGITS))}]"))


def write_error(message: str) -> bytes:
    """The body of an error."""
    return _encoded(_object("error", quote(message)))


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogateescape")  # strings that are not UTF-8 are sent unchanged


def _by_row(outputs: Arrays) -> str:
    count = _rows(outputs)
    several = len(outputs) > 1
    columns = []
    for alias, array in outputs.items():
        items = _lists(_elements(alias, array, array.ndim + 1 + several), array.shape, first=1, level=None)
        columns.append([f"{newline(3)}{quote(alias)}: {item}" for item in items] if several else items)
    if several:
        rows = [f"{newline(2)}{{{','.join(members)}{newline(2)}}}" for members in zip(*columns, strict=True)]
    else:
        (rows,) = columns
    between = "," if several else ", "
    return _object("predictions", f"[{between.join(rows)}{newline(1) if count else ''}]")


def _rows(outputs: Arrays) -> int:
    """The length of axis 0 of all outputs."""
    count = None
    for alias, array in outputs.items():
        if not array.ndim:
            raise invalid(SCALAR.format(alias))
        if count not in (None, len(array)):
            raise invalid(OTHER_ROWS.format(alias, len(array), count))
        count = len(array)
    return count or 0


def _by_column(outputs: Arrays) -> str:
    if len(outputs) == 1:
        ((alias, array),) = outputs.items()
        return _object("outputs", _whole(alias, array, 1))
    members = [f"{newline(2)}{quote(alias)}: {_whole(alias, array, 2)}" for alias, array in outputs.items()]
    return _object("outputs", f"{{{','.join(members)}{newline(1)}}}")


def _whole(alias: str, array: Array, level: int) -> str:
    """An output as one value, at a depth of nesting; each number on a line of its own."""
    (item,) = _lists(_elements(alias, array, array.ndim + level), array.shape, first=0, level=level)
    return item


def _object(name: str, value: str) -> str:
    return f"{{{newline(1)}{quote(name)}: {value}\n}}"


def _lists(items: list[str], shape: Sequence[int], *, first: int, level: int | None) -> list[str]:
    """Elements combined to lists, from the last axis to `first`; on one line unless `level` gives the depth."""
    for axis in reversed(range(first, len(shape))):
        size = shape[axis]
        between, start, end = ", ", "", ""
        if level is not None:
            inner = newline(level + axis - first + 1)
            between, start, end = f",{inner}", inner, newline(level + axis - first)
        if not size:
            items = ["[]"] * prod(shape[:axis])
        else:
            items = [f"[{start}{between.join(items[at : at + size])}{end}]" for at in range(0, len(items), size)]
    return items


def _elements(alias: str, array: Array, level: int) -> list[str]:
    """The elements of an output, at a depth of objects and lists."""
    dtype, flat = enum_of(array.dtype), array.ravel()
    if dtype in _DIGITS:
        return _decimals(flat, _DIGITS[dtype])
    if dtype in _INTEGERS:
        return [str(value) for value in flat.tolist()]
    if dtype == DataType.DT_BOOL:
        return ["true" if value else "false" for value in flat.tolist()]
    if dtype == DataType.DT_STRING:
        return _strings(flat.tolist(), as_base64=alias.endswith(BYTES_SUFFIX), level=level)
    if not flat.size:
        return []
    raise invalid(f"Failed to write JSON value for tensor type: {dtype_name(dtype)}")


def _strings(values: Iterable[str | bytes], *, as_base64: bool, level: int) -> list[str]:
    if not as_base64:
        return [quote(value if isinstance(value, str) else value.decode(errors="surrogateescape")) for value in values]
    start, end = f'{{{newline(level + 1)}"{BASE64_KEY}": "', f'"{newline(level)}}}'
    raw = (value.encode() if isinstance(value, str) else value for value in values)
    return [f"{start}{b2a_base64(value, newline=False).decode()}{end}" for value in raw]


def _decimals(values: Array, digits: int) -> list[str]:
    """Six digits if they read back the same, otherwise as many as needed; always with a point or an exponent."""
    numbers = values.astype(np.float64).tolist()
    texts = [f"{number:.6g}" for number in numbers]
    with np.errstate(over="ignore"):
        short = np.array([float(text) for text in texts]).astype(values.dtype) == values
    for position in np.flatnonzero(~short).tolist():
        texts[position] = f"{numbers[position]:.{digits}g}"
    return [text if "." in text or "e" in text else _NOT_FINITE.get(text, f"{text}.0") for text in texts]
