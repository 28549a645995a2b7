"""Unusual requests that fit a signature's declaration, for testing whether a runtime survives them."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from headrace_batching.task import Array, Arrays
from headrace_server.backends.signature import Signature, TensorSpec
from headrace_server.errors import ServingError

USUAL_SIZE = 4
"""The usual size of a dimension that varies."""

LONG = 200
"""The length of a very long dimension, as a multiple of its usual length, in an array of at most LONG_BYTES."""

LONG_BYTES = 16 << 20

_ANY_RANK = (2, 3)  # the ranks to try for an input that declares none

_WHOLE = (0, 1, -1, 2, -2, 5, 100, -100, 2**31 - 1, -(2**31), 2**31, 2**40, -(2**40), 2**63 - 1, -(2**63))
_REAL = (0.0, -0.0, -1.0, 1e-40, 1e9, 2.0**31, 2.0**63, 1e30, 3e38, -3e38, np.nan, np.inf, -np.inf)
_TEXT = (b"", b"\0", b"-1", b"nan", b"\xff\xfe", b"9" * 5000, b"x" * 100_000)


def odd_requests(signature: Signature, usual: Arrays | None = None) -> Iterator[tuple[str, Arrays]]:
    """Requests that pass the signature's checks, each odd in one input, and what is odd about each.

    Args:
        signature: The signature that the requests must fit.
        usual: A normal request; generated if there is none.
    """
    request = usual_request(signature) if usual is None else usual
    for alias, array in request.items():
        for what, odd in odd_arrays(array):
            changed = {**request, alias: odd}
            if fits(signature, changed):
                yield f"{alias}, {what}", changed


def fits(signature: Signature, request: Arrays) -> bool:
    """Whether a request would reach the runtime."""
    try:
        return not signature.check_arrays(request)
    except ServingError:
        return False


def usual_request(signature: Signature) -> Arrays:
    """A request of small numbers or words; all varying dimensions have one size."""
    return {alias: _usual(spec) for alias, spec in signature.inputs.items()}


def odd_arrays(array: Array) -> Iterator[tuple[str, Array]]:
    """The array in other shapes, and other arrays of its shape, each with a text that says what is odd about it."""
    yield from _other_shapes(array)
    for value in _values(array.dtype):
        name = f"{value!r:.20}"
        yield f"all {name}", _with(array, value, slice(None))
        if array.size > 1:
            yield f"{name} first", _with(array, value, slice(1))


def _other_shapes(array: Array) -> Iterator[tuple[str, Array]]:
    for axis, size in enumerate(array.shape):
        yield f"axis {axis} emptied", array.take([], axis)
        yield f"axis {axis} doubled", np.concatenate([array, array], axis)
        if size > 1:
            yield f"axis {axis} cut", array.take(range(size - 1), axis)
            yield f"axis {axis} of one", array.take([0], axis)
    if array.ndim > 1:
        yield "transposed", np.ascontiguousarray(array.T)
        yield "every axis emptied", np.zeros([0] * array.ndim, array.dtype)
    yield "one more axis in front", array[np.newaxis]
    yield "one more axis at the end", array[..., np.newaxis]
    if array.ndim and len(array):
        yield "one axis less", array[0:1].reshape(array.shape[1:])
    if array.ndim and array.size:
        yield "a scalar", array.reshape(-1)[:1].reshape(())
    times = max(2, min(LONG, LONG_BYTES // max(1, array.nbytes)))
    for axis in range(array.ndim):
        # Just beyond an array there may be other memory of the process, so only an access far beyond it crashes.
        yield f"axis {axis} very long", np.concatenate([array] * times, axis)


def _values(dtype: np.dtype[Any]) -> Iterator[Any]:
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        yield from (value for value in _WHOLE if limits.min <= value <= limits.max)
    elif dtype.kind in "fV":
        yield from _REAL
    elif dtype.kind == "b":
        yield from (True, False)
    elif dtype.kind == "O":
        yield from _TEXT


def _with(array: Array, value: Any, where: slice) -> Array:
    changed = array.copy()
    with np.errstate(all="ignore"):  # for a number that the dtype cannot hold
        changed.reshape(-1)[where] = value
    return changed


def _usual(spec: TensorSpec) -> Array:
    shape = _ANY_RANK if spec.any_rank else tuple(USUAL_SIZE if size is None else size for size in spec.shape)
    if spec.array_dtype.hasobject:
        return np.full(shape, b"word", object)
    return np.ones(shape).astype(spec.array_dtype)
