"""Decodes a request's tensors to arrays; many strings only once it is known that the model takes them."""

import asyncio
from collections.abc import Callable, Mapping

import numpy as np

from headrace_batching.task import Array, Arrays
from headrace_protos import DataType, TensorProto
from headrace_protos.tensor import TensorError, shape_of, to_array
from headrace_server.errors import invalid
from headrace_server.models.servable import Servable

STRINGS_AT_ONCE = 64 << 10
"""The largest tensors of strings, in bytes, that are decoded in the event loop, in a few milliseconds."""

_STRING = DataType.DT_STRING  # `DataType.DT_STRING` is a slow look-up by name
_A_STRING = np.array(b"", object)


async def decoded(tensors: Mapping[str, TensorProto], servable: Servable, signature: str) -> Arrays:
    """Decodes the tensors to arrays, many strings on another thread.

    TF Serving's predict_util.cc parses every tensor before any dtype is compared, so a tensor that does not parse is
    reported as such whatever its dtype. For many strings, dtypes and rows are checked first, since each string costs
    time and memory.

    Args:
        tensors: The tensors by alias; their names have been checked.
        servable: The version that will run.
        signature: The name of the signature to run.

    Raises:
        ServingError: INVALID_ARGUMENT if a tensor does not parse, or if there are many strings and the model does not
        take them.
        TaskTooLarge: There are many strings, and more rows than the model takes.
    """
    if not _are_many_strings(tensors):
        return _decode(tensors, to_array)
    _check(_decode(tensors, _without_strings), servable, signature)
    return await asyncio.to_thread(_decode, tensors, to_array)


def _are_many_strings(tensors: Mapping[str, TensorProto]) -> bool:
    strings = 0
    for alias in tensors:
        tensor = tensors[alias]
        if tensor.dtype == _STRING:
            strings += tensor.ByteSize()
    return strings > STRINGS_AT_ONCE


def _check(arrays: Arrays, servable: Servable, name: str) -> None:
    signature = servable.signatures[name]
    signature.check_arrays(signature.complete(arrays))  # the result is ignored: some undeclared shapes are allowed
    if signature.batched:
        servable.check_rows(name, max((len(array) for array in arrays.values() if array.ndim), default=1))


def _without_strings(tensor: TensorProto) -> Array:
    """Like `to_array`, but with an empty string in place of each string."""
    if tensor.dtype != _STRING:
        return to_array(tensor)
    try:
        return np.broadcast_to(_A_STRING, shape_of(tensor))
    except ValueError as error:  # more elements than numpy can count
        raise TensorError(str(error)) from error


def _decode(tensors: Mapping[str, TensorProto], to_array: Callable[[TensorProto], Array]) -> Arrays:
    arrays = {}
    for alias in tensors:
        try:
            arrays[alias] = to_array(tensors[alias])
        except TensorError as error:
            raise invalid(f"tensor parsing error: {alias}") from error
    return arrays
