"""A small profile of inputs (quantiles, missing values, categories) for comparison with later traffic."""

from typing import Any

import numpy as np

from headrace_batching.task import Array
from headrace_toolkit.data import Data

QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)

_COLUMNS = 256
"""The maximum number of columns of an input that are profiled one by one; a wider input is profiled as a whole."""

_CATEGORIES = 32
"""The number of different integers or strings up to which they are counted one by one."""


def profile_of(data: Data) -> dict[str, Any]:
    """The profile of the rows on which a model was measured.

    Returns: For JSON: `rows`, `quantiles` (the fractions), and for each input its dtype, the shape of a row, and its
        columns: one for each element of a row, or one for all of them if a row has more than 256. A column of numbers
        has its `quantiles` over finite values and the share that is `missing` (NaN or infinite); one of few different
        whole numbers or strings has `categories`, each with its share.
    """
    return {
        "rows": len(data),
        "quantiles": list(QUANTILES),
        "inputs": {name: _input(array) for name, array in data.inputs.items()},
    }


def _input(array: Array) -> dict[str, Any]:
    flat = array.reshape(len(array), -1)
    wide = flat.shape[1] > _COLUMNS
    columns = [flat.reshape(-1)] if wide else list(flat.T)
    return {
        "dtype": "string" if array.dtype.kind in "OUS" else str(array.dtype),
        "row_shape": list(array.shape[1:]),
        "columns": [_column(column) for column in columns],
    }


def _column(values: Array) -> dict[str, Any]:
    if values.dtype.kind in "OUS":
        return _categories(values.astype(str))
    numbers = values.astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    column: dict[str, Any] = {"missing": _rounded(1 - len(finite) / max(len(numbers), 1))}
    if len(finite):
        column["quantiles"] = [_rounded(value) for value in np.quantile(finite, QUANTILES)]
    if values.dtype.kind in "iub":
        column.update(_categories(values))
    return column


def _categories(values: Array) -> dict[str, Any]:
    """Each different value with its share, most frequent first; only the number of values if there are many."""
    found, counts = np.unique(values, return_counts=True)
    if len(found) > _CATEGORIES:
        return {"different": len(found)}
    order = np.argsort(-counts, kind="stable")
    return {"categories": {str(found[i]): _rounded(counts[i] / len(values)) for i in order}}


def _rounded(value: Any) -> float:
    return float(f"{float(value):.6g}")
