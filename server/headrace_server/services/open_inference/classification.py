"""The classification extension: the largest values of an output, each with its index and its label.

Source: Triton's classification.cc.
"""

from collections.abc import Sequence

import numpy as np

from headrace_batching.task import Array
from headrace_server.errors import invalid

MAX_ELEMENTS = 1_000_000

_NO_ORDER = frozenset({"BOOL", "FP16", "BF16", "BYTES"})


def check_classes(datatype: str) -> None:
    """Refuses to classify a datatype whose values are not ordered.

    Raises:
        ServingError: INVALID_ARGUMENT.
    """
    if datatype in _NO_ORDER:
        raise invalid(f"class result not available for output due to unsupported type '{datatype}'")


def classify(values: Array, count: int, labels: Sequence[str], *, batched: bool) -> Array:
    """The largest values of each row as `value:index` or `value:index:label`, largest first, equal ones by index.

    Args:
        values: The numbers; without a batch axis they are one row.
        count: How many values of a row are wanted.
        labels: The labels by index; an index beyond them has none.
        batched: Whether axis 0 is the batch axis.

    Returns: An object array of bytes, of shape (rows, count) or (count,), or smaller if a row has fewer elements.

    Raises:
        ServingError: INVALID_ARGUMENT if there are too many values.
    """
    if values.size > MAX_ELEMENTS:
        raise invalid("classification output tensor too large")
    rows = values.reshape(len(values), -1) if batched else values.reshape(1, -1)
    wanted = min(count, rows.shape[1])
    top = [[_written(row, index, labels) for index in _largest(row, wanted)] for row in rows]
    result = np.empty((len(rows), wanted), np.object_)
    for at, row in enumerate(top):
        result[at, :] = row
    return result if batched else result[0]


def _largest(row: Array, count: int) -> list[int]:
    """Indices of the largest values. The reversed row is sorted, so that equal values are ordered by index."""
    ascending = np.argsort(row[::-1], kind="stable")
    indices: list[int] = (len(row) - 1 - ascending[::-1][:count]).tolist()
    return indices


def _written(row: Array, index: int, labels: Sequence[str]) -> bytes:
    value = row[index].item()
    text = f"{value:f}:{index}" if isinstance(value, float) else f"{value}:{index}"
    if index < len(labels) and labels[index]:
        text += f":{labels[index]}"
    return text.encode()
