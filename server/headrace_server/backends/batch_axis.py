"""Finds out whether axis 0 of a model's inputs and outputs is one batch: by its name, or by trying."""

import logging
from collections.abc import Callable, Mapping

import numpy as np

from headrace_batching.task import Array, Arrays
from headrace_protos import DataType
from headrace_server.backends.signature import TensorSpec

log = logging.getLogger(__name__)

Run = Callable[[Arrays], Arrays]

_ROWS = 3  # not 1, which broadcasts, nor a number that many models answer with anyway
_OTHER_ROWS = (2, 1)


def has_batch_axis(inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec], run: Run) -> bool:
    """Whether rows of several requests may be joined along axis 0 and their outputs split.

    The first dimension of everything must vary. Where all that name it use one name, that is the batch.
    Where the names differ (some exporters number them one by one, but an output may also be as long as its data say)
    the model is run on zeros, in which one row must answer one row.

    Args:
        inputs: By name.
        outputs: By name.
        run: Runs the model.
    """
    every = [*inputs.values(), *outputs.values()]
    if not inputs or any(not spec.shape or spec.shape[0] is not None for spec in every):
        return False
    return len({spec.dims[0] for spec in every} - {""}) <= 1 or _rows_stay_rows(inputs, run)


def _rows_stay_rows(inputs: Mapping[str, TensorSpec], run: Run) -> bool:
    try:
        results = run({name: _zeros(spec, _ROWS) for name, spec in inputs.items()})
    except Exception as error:
        log.info("the model's batch axis stays unknown, since it does not run on zeros: %s", error)
        return False
    if any(array.ndim == 0 or len(array) != _ROWS for array in results.values()):
        return False
    return len(inputs) == 1 or not any(_runs_on_different_rows(inputs, rows, run) for rows in _OTHER_ROWS)


def _runs_on_different_rows(inputs: Mapping[str, TensorSpec], others: int, run: Run) -> bool:
    """Whether the first input may have more rows than the others: its first dimension is then not theirs."""
    rows = [_ROWS, *[others] * (len(inputs) - 1)]
    try:
        run({name: _zeros(spec, count) for (name, spec), count in zip(inputs.items(), rows, strict=True)})
    except Exception:
        return False
    return True


def _zeros(spec: TensorSpec, rows: int) -> Array:
    shape = (rows, *(1 if size is None else size for size in spec.shape[1:]))
    if spec.dtype == DataType.DT_STRING:
        return np.full(shape, b"", dtype=object)
    return np.zeros(shape, spec.array_dtype)
