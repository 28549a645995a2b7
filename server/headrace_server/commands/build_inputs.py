"""The inputs that a built engine is tested with: arrays from a file, or random ones."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from headrace_batching.task import Array
from headrace_protos import DataType
from headrace_protos.tensor import dtype_name, dtype_of
from headrace_server.backends.signature import Signature, TensorSpec
from headrace_server.backends.tensorrt.profiles import dimension_names
from headrace_server.config.tensorrt import TensorrtOptions
from headrace_server.errors import invalid, not_found


def read_inputs(file: Path, signature: Signature) -> dict[str, Array]:
    """The arrays in an .npz file, by alias, or the one in an .npy file, for a model with one input.

    Raises:
        ServingError: NOT_FOUND if there is no such file; INVALID_ARGUMENT if its arrays are not what the model takes.
    """
    try:
        loaded = np.load(file, allow_pickle=False)
    except FileNotFoundError as error:
        raise not_found(f"{file}: {error.strerror}") from error
    except (OSError, ValueError) as error:
        raise invalid(f"{file} is neither an .npz nor an .npy file: {error}") from error
    if isinstance(loaded, np.ndarray):
        if len(signature.inputs) != 1:
            raise invalid(f"{file} holds one array, but the model has the inputs {', '.join(signature.inputs)}")
        return {alias: _fitting(file, alias, spec, loaded) for alias, spec in signature.inputs.items()}
    with loaded:
        arrays = {name: loaded[name] for name in loaded.files}
    if missing := set(signature.inputs) - set(arrays):
        raise invalid(f"{file} has no {', '.join(sorted(missing))}; it has {', '.join(sorted(arrays)) or 'nothing'}")
    inputs = {alias: _fitting(file, alias, spec, arrays[alias]) for alias, spec in signature.inputs.items()}
    if signature.batched and len({len(array) for array in inputs.values()}) > 1:
        raise invalid(f"{file}: the arrays have different numbers of rows")
    return inputs


def random_inputs(signature: Signature, rows: int, options: TensorrtOptions, seed: int = 0) -> dict[str, Array]:
    """Random arrays with the usual size of each dimension: normally distributed floats, and 0 and 1 for other types."""
    random = np.random.default_rng(seed)
    return {
        alias: _random(spec.dtype, _shape(spec, rows if signature.batched else None, options), random)
        for alias, spec in signature.inputs.items()
    }


def rows_between(inputs: Mapping[str, Array], start: int, stop: int) -> dict[str, Array]:
    """Rows `start` to `stop` of each array, starting again at the first row where an array ends."""
    return {alias: array[np.arange(start, stop) % len(array)] for alias, array in inputs.items()}


def _fitting(file: Path, alias: str, spec: TensorSpec, array: Array) -> Array:
    if array.dtype.kind not in "biufV" or (array.dtype.kind == "f") != (np.dtype(spec.array_dtype).kind in "fV"):
        raise invalid(f"{file}: {alias} has dtype {array.dtype}, but the model takes {dtype_name(spec.dtype)}")
    converted = array.astype(spec.array_dtype, copy=False)
    if misfit := spec.misfit(converted):
        raise invalid(f"{file}: {misfit}")
    if not converted.size:
        raise invalid(f"{file}: {alias} is empty")
    return converted


def _shape(spec: TensorSpec, rows: int | None, options: TensorrtOptions) -> tuple[int, ...]:
    return tuple(_size(spec, axis, options) if axis or rows is None else rows for axis in range(len(spec.shape)))


def _size(spec: TensorSpec, axis: int, options: TensorrtOptions) -> int:
    size = spec.shape[axis]
    if size is not None:
        return size
    sizes = (options.dimensions[name][1] for name in dimension_names(spec, axis) if name in options.dimensions)
    return next(sizes, 1)


def _random(dtype: DataType, shape: tuple[int, ...], random: np.random.Generator) -> Array:
    array_dtype = dtype_of(dtype)
    if np.issubdtype(array_dtype, np.floating) or dtype == DataType.DT_BFLOAT16:
        return random.standard_normal(shape).astype(array_dtype)
    return random.integers(0, 2, shape).astype(array_dtype)
