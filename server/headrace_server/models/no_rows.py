"""Answers to requests without rows, which runtimes never see: some abort the whole process on them."""

from collections.abc import Awaitable, Callable
from itertools import islice

import numpy as np

from headrace_batching.batch import rows_of
from headrace_batching.task import Array, Arrays
from headrace_server.backends.signature import Signature
from headrace_server.errors import ServingError, invalid

MAX_SHAPES = 64
"""Shapes of answers that one version remembers."""

MAX_ROW_BYTES = 64 << 10
"""The largest row that is run where the caller chooses its shape: a request without rows costs its caller nothing."""

Run = Callable[[Arrays], Awaitable[Arrays]]


def has_no_rows(signature: Signature, inputs: Arrays) -> bool:
    """Whether a request that fits its signature asks for nothing.

    Raises:
        InvalidTask: Some inputs have rows and others have none.
    """
    if not signature.batched or all(array.ndim == 0 or len(array) for array in inputs.values()):
        return False
    return rows_of(inputs) == 0


class NoRows:
    """What one version answers where there are no rows: the shapes and dtypes of a run of one row of zeros.

    Any number of callers in one event loop. Shapes are remembered, so that a caller who repeats himself costs no runs.
    """

    def __init__(self) -> None:
        self._answers: dict[object, Arrays] = {}

    async def answer(
        self, name: str, signature: Signature, inputs: Arrays, outputs: tuple[str, ...], run: Run
    ) -> Arrays:
        """The outputs, of no rows.

        Args:
            name: The signature's.
            signature: What the inputs fit.
            inputs: Of no rows, by alias.
            outputs: The aliases that are asked for.
            run: Computes them for one row.

        Raises:
            ServingError: INVALID_ARGUMENT, a row would be too large to find out; or the run's own.
        """
        shapes = tuple(sorted((alias, array.shape[1:]) for alias, array in inputs.items()))
        key = (name, outputs, shapes)
        if key not in self._answers:
            answer = await _learn(signature, inputs, outputs, run)
            for oldest in list(islice(self._answers, max(0, len(self._answers) - MAX_SHAPES + 1))):
                del self._answers[oldest]
            self._answers[key] = answer
        return dict(self._answers[key])


async def _learn(signature: Signature, inputs: Arrays, outputs: tuple[str, ...], run: Run) -> Arrays:
    size = sum(int(np.prod(array.shape[1:], dtype=object)) * array.itemsize for array in inputs.values())
    if size > MAX_ROW_BYTES and not signature.one_shape:
        raise invalid(f"the request has no rows, and a row of its shape, of {size} bytes, is not run to answer it")
    try:
        results = await run({alias: _one_row(array) for alias, array in inputs.items()})
    except ServingError:
        declared = _as_declared(signature, outputs)
        if declared is None:
            raise
        return declared
    # Copies: a view would keep the whole answer's memory.
    return {alias: array[:0].copy() for alias, array in results.items()}


def _one_row(array: Array) -> Array:
    shape = (1, *array.shape[1:])
    return np.full(shape, b"", object) if array.dtype.hasobject else np.zeros(shape, array.dtype)


def _as_declared(signature: Signature, outputs: tuple[str, ...]) -> Arrays | None:
    """For a model that does not run on zeros; None where the declaration leaves a dimension open."""
    specs = {alias: signature.outputs[alias] for alias in outputs}
    if any(spec.fixed is None for spec in specs.values()):
        return None
    return {alias: np.empty((0, *(spec.fixed or ())), spec.array_dtype) for alias, spec in specs.items()}
