"""Requests with shapes that a signature does not declare: which of them are served nevertheless, and how."""

from collections.abc import Callable, Iterable

from headrace_batching.task import Array, Arrays
from headrace_server.backends.signature import Signature, TensorSpec

Restore = Callable[[Arrays], Arrays]


def as_declared(signature: Signature, inputs: Arrays, outputs: tuple[str, ...]) -> tuple[Arrays, Restore] | None:
    """Adds or removes a last dimension of 1 if that gives all inputs the declared rank.

    TF Serving's clients send `[3]` for `[-1, 1]`, and `[3, 1]` for `[-1]`, since TensorFlow's element-wise operators
    accept any shape. Such requests are served only if all inputs and outputs allow it, so that the answer can have the
    shape that the request implies.

    Args:
        signature: The signature that the request does not fit.
        inputs: Arrays by alias; names and dtypes have been checked.
        outputs: The aliases of the wanted outputs.

    Returns: Views of the same arrays, with the declared rank, and a function that reshapes the model's outputs; None if
        the request is of another kind.
    """
    ends = [signature.inputs[alias] for alias in inputs] + [signature.outputs[alias] for alias in outputs]
    ranks = {array.ndim - len(signature.inputs[alias].shape) for alias, array in inputs.items()}
    if ranks == {-1} and signature.batched and _all_end_with_one(ends):
        return {alias: array.reshape(*array.shape, 1) for alias, array in inputs.items()}, _without_last_axis
    if ranks == {1} and _all_are_lists(ends) and all(array.shape[-1] == 1 for array in inputs.values()):
        return {alias: array.reshape(array.shape[:-1]) for alias, array in inputs.items()}, _with_last_axis
    return None


def _without_last_axis(outputs: Arrays) -> Arrays:
    """The outputs without a last dimension of 1; outputs whose last dimension has another size are unchanged."""
    return {alias: _squeezed(array) for alias, array in outputs.items()}


def _squeezed(array: Array) -> Array:
    return array.squeeze(-1) if array.shape[-1:] == (1,) else array


def _with_last_axis(outputs: Arrays) -> Arrays:
    return {alias: array.reshape(*array.shape, 1) for alias, array in outputs.items()}


def _all_end_with_one(specs: Iterable[TensorSpec]) -> bool:
    return all(len(spec.shape) > 1 and spec.shape[-1] == 1 for spec in specs)


def _all_are_lists(specs: Iterable[TensorSpec]) -> bool:
    """Whether each input or output has one value per row: a further dimension of 1 then changes no values."""
    return all(spec.shape == (None,) for spec in specs)
