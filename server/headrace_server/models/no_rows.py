"""Answers requests without rows, which never reach a runtime because some runtimes crash on them."""

from collections.abc import Awaitable, Callable
from itertools import islice

import numpy as np

from headrace_batching.batch import rows_of
from headrace_batching.task import Array, Arrays
from headrace_server.backends.signature import Signature
from headrace_server.errors import ServingError, invalid

MAX_SHAPES = 64
"""The maximum number of answer shapes that one version remembers."""

MAX_ROW_BYTES = 64 << 10
"""The largest row of zeros, in bytes, that is run to learn the shape of an answer without rows.

It limits only rows whose shape the caller chooses: a request without rows is small, however large its rows would be.
"""

Run = Callable[[Arrays], Awaitable[Arrays]]


def has_no_rows(signature: Signature, inputs: Arrays) -> bool:
    """Whether a request that fits its signature has no rows.

    Raises:
        InvalidTask: Some inputs have rows and others have none.
    """
    if not signature.batched or all(array.ndim == 0 or len(array) for array in inputs.values()):
        return False
    return rows_of(inputs) == 0


class NoRows:
    """The answers of one version to requests without rows: shapes and dtypes come from a run with one row of zeros.

    Requests are answered concurrently, in one event loop. A shape is remembered, so a repeated request costs no run.
    """

    def __init__(self) -> None:
        self._answers: dict[object, Arrays] = {}

    async def answer(
        self, name: str, signature: Signature, inputs: Arrays, outputs: tuple[str, ...], run: Run
    ) -> Arrays:
        """Returns the outputs for a request without rows; they have no rows either.

        Args:
            name: The signature's name.
            signature: The signature that the inputs fit.
            inputs: Arrays without rows, by alias.
            outputs: The aliases of the wanted outputs.
            run: Computes outputs for one row.

        Raises:
            ServingError: INVALID_ARGUMENT if a row would be too large to run; or the error of the run.
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
        raise invalid(
            f"the request has no rows, and a row of its shape, which would be run to answer it, has {size} bytes: at "
            f"most {MAX_ROW_BYTES} are allowed"
        )
    try:
        results = await run({alias: _one_row(array) for alias, array in inputs.items()})
    except ServingError:
        declared = _as_declared(signature, outputs)
        if declared is None:
            raise
        return declared
    # copies, since a view would keep the whole answer in memory
    return {alias: array[:0].copy() for alias, array in results.items()}


def _one_row(array: Array) -> Array:
    shape = (1, *array.shape[1:])
    return np.full(shape, b"", object) if array.dtype.hasobject else np.zeros(shape, array.dtype)


def _as_declared(signature: Signature, outputs: tuple[str, ...]) -> Arrays | None:
    """The shapes for a model that does not run on zeros; None if the declaration leaves a dimension open."""
    specs = {alias: signature.outputs[alias] for alias in outputs}
    if any(spec.fixed is None for spec in specs.values()):
        return None
    return {alias: np.empty((0, *(spec.fixed or ())), spec.array_dtype) for alias, spec in specs.items()}
