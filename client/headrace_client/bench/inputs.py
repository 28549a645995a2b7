"""Inputs of requests: from a file of arrays, or random ones for a model's signature."""

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from headrace_client.bench.errors import BenchError
from headrace_client.request import Signature, TensorSpec

OPEN_SIZE = 16
"""The size of random inputs in each dimension that a model leaves open, other than the rows."""

MOST_REQUESTS = 16
_MOST_BYTES = 64 << 20

_NO_ARRAYS = "it is not a .npz file of arrays"
_UNREADABLE = (ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""The exceptions of numpy and zipfile for a file that is cut short, damaged, encrypted, or of another kind."""

Arrays = dict[str, np.ndarray]


def random_inputs(model: str, signature: Signature, rows: int, seed: int) -> list[Arrays]:
    """Random requests with this many rows each, made of normally distributed numbers, small integers and short texts.

    Raises:
        BenchError: An input has a dtype without random values.
    """
    random = np.random.default_rng(seed)

    def make() -> Arrays:
        return {name: _random(random, f"{model}: {name}", spec, rows) for name, spec in signature.inputs.items()}

    first = make()
    size = max(1, sum(array.nbytes for array in first.values()))
    return [first] + [make() for _ in range(min(MOST_REQUESTS, _MOST_BYTES // size + 1) - 1)]


def _random(random: np.random.Generator, what: str, spec: TensorSpec, rows: int) -> np.ndarray:
    declared = (None,) if spec.shape is None else spec.shape
    first = tuple(rows if size is None else size for size in declared[:1])
    shape = first + tuple(OPEN_SIZE if size is None else size for size in declared[1:])
    if spec.dtype is None or spec.dtype.kind not in "fiubO":
        raise BenchError(f"{what} is {spec}, which random inputs do not support: use --inputs")
    if spec.dtype.kind == "f":
        return random.standard_normal(shape).astype(spec.dtype)
    if spec.dtype.kind == "O":
        texts = np.array([f"text {number}".encode() for number in range(100)], object)
        return np.asarray(random.choice(texts, shape), object)
    return random.integers(0, 2 if spec.dtype.kind == "b" else 10, shape).astype(spec.dtype)


def read_inputs(path: Path, model: str, signature: Signature, rows: int) -> list[Arrays]:
    """Makes requests of `rows` rows each from an `.npz` file, whose arrays have the names of the model's inputs.

    Raises:
        BenchError: The file cannot be read, or lacks an input of the model.
    """
    arrays = _load(path)
    for name in signature.inputs.keys() - arrays.keys():
        raise BenchError(f"{path} has no array {name}, which {model} takes: it has {', '.join(arrays) or 'none'}")
    fitted = {name: _fitted(path, name, arrays[name], spec) for name, spec in signature.inputs.items()}
    counts = {len(array) for array in fitted.values() if array.ndim}
    if len(counts) > 1:
        raise BenchError(
            f"the arrays of {path} must have the same number of rows; they have {', '.join(map(str, counts))}"
        )
    count = counts.pop() if counts else 1
    if count < rows:
        raise BenchError(f"{path} has {count} rows, but a request needs {rows} (--rows)")
    return list(_cut(fitted, count, rows))


def _load(path: Path) -> Arrays:
    try:
        # Opened here, because numpy does not close a file that it has opened and cannot read.
        with path.open("rb") as opened:
            file = np.load(opened, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise BenchError(f"{path} is one array: --inputs must be a .npz file with an array for each input")
            members: dict[str, Any] = {name: file[name] for name in file.files}
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror or _NO_ARRAYS}") from error
    except MemoryError as error:
        raise BenchError(f"{path} cannot be read: its arrays do not fit in memory") from error
    except _UNREADABLE as error:
        raise BenchError(f"{path} cannot be read: {_NO_ARRAYS}") from error
    return {name: array for name, array in members.items() if isinstance(array, np.ndarray)}


def _fitted(path: Path, name: str, array: np.ndarray, spec: TensorSpec) -> np.ndarray:
    dtype = array.dtype if spec.dtype is None else spec.dtype
    texts = dtype.kind == "O" and array.dtype.kind in "SUO"
    fits = spec.shape is None or (
        array.ndim == len(spec.shape)
        and all(want is None or want == got for want, got in zip(spec.shape[1:], array.shape[1:], strict=True))
    )
    if not fits or not (texts or np.can_cast(array.dtype, dtype, "same_kind")):
        raise BenchError(f"{name} of {path} is {TensorSpec(array.dtype, array.shape)}, but the model takes {spec}")
    return array.astype(object) if texts else array.astype(dtype)


def _cut(arrays: Arrays, count: int, rows: int) -> Iterator[Arrays]:
    size = max(1, sum(array.nbytes for array in arrays.values()) * rows // count)
    most = max(1, min(256, _MOST_BYTES // size))
    for start in range(0, min(count, most * rows) - rows + 1, rows):
        yield {name: array[start : start + rows] if array.ndim else array for name, array in arrays.items()}
