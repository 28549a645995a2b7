"""Requests of shapes that a signature does not declare: which of them are served nevertheless, and how."""

from headrace_batching.task import Arrays
from headrace_server.backends.signature import Signature, TensorSpec


def with_last_axis(signature: Signature, inputs: Arrays, outputs: tuple[str, ...]) -> Arrays | None:
    """The inputs of a request that leaves out a last dimension of 1, such as `[3]` for `[-1, 1]`, with that dimension.

    TF Serving's clients send such requests, since TensorFlow's element-wise operators take any shape. It is served
    only where all inputs lack the dimension and all outputs have it, so that the answer can be given without it.

    Args:
        signature: What the request does not fit.
        inputs: By alias; names and dtypes have been checked.
        outputs: The aliases that are asked for.

    Returns:
        Views of the same arrays, of the declared rank; None where the request is another one.
    """
    ends = [signature.inputs[alias] for alias in inputs] + [signature.outputs[alias] for alias in outputs]
    if not signature.batched or not all(_ends_with_one(spec) for spec in ends):
        return None
    if any(array.ndim != len(signature.inputs[alias].shape) - 1 for alias, array in inputs.items()):
        return None
    return {alias: array.reshape(*array.shape, 1) for alias, array in inputs.items()}


def without_last_axis(outputs: Arrays) -> Arrays:
    """The outputs of such a request, without the dimension. One whose length turns out to be another is left as is."""
    return {alias: array.squeeze(-1) if array.shape[-1:] == (1,) else array for alias, array in outputs.items()}


def _ends_with_one(spec: TensorSpec) -> bool:
    return len(spec.shape) > 1 and spec.shape[-1] == 1
