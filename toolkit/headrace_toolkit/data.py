"""Rows and labels from .npz, .npy or .csv files or a function, adapted to a model's inputs, and split."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from headrace_batching.task import Array
from headrace_server.backends.signature import Signature, TensorSpec
from headrace_toolkit import user_code
from headrace_toolkit.data_files import ONE_ARRAY, read_arrays
from headrace_toolkit.errors import ToolkitError
from headrace_toolkit.sources.files import sha256_of
from headrace_toolkit.specs import write_spec

_LABELS = "biufUSO"
"""The kinds of dtypes that labels may have."""

_NAMED = 10
"""The maximum number of row numbers that a message lists."""


@dataclass(frozen=True, slots=True)
class Data:
    """Rows to check a model with, with or without labels.

    Attributes:
        name: The file's name without the path before it, or `file.py:function`.
        sha256: The SHA-256 of the file, in hexadecimal.
        inputs: Arrays by name, all with the same axis 0.
        labels: The correct answer for each row, [rows]; None if there are none.
        columns: Whether `inputs` are the columns of a table, several of which may form one input of a model.
        numbers: The numbers of the rows in the file, [rows]; None means all of them.
    """

    name: str
    sha256: str
    inputs: Mapping[str, Array]
    labels: Array | None = None
    columns: bool = False
    numbers: Array | None = None

    @classmethod
    def read(cls, source: str | Path, labels: str = "") -> "Data":
        """Reads a .npz, .npy or .csv file, or calls `file.py:function`, which returns arrays by name.

        Args:
            source: The file, or the function.
            labels: The name of the array, or of the column, with the labels; empty if there are none.

        Raises:
            ToolkitError: The source cannot be read, or its arrays do not fit each other.
        """
        text = str(source)
        if user_code.names_function(text):
            arrays, path = _called(text), Path(text.rpartition(":")[0])
            name = Path(text).name
        else:
            path, name = Path(source), Path(source).name
            arrays = read_arrays(path)
        arrays, label_array = _without_labels(text, arrays, labels)
        _check_rows(text, arrays, label_array, labels)
        return cls(name, sha256_of(path), arrays, label_array, columns=path.suffix.lower() == ".csv")

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def fitted(self, signature: Signature) -> "Data":
        """The same rows, with exactly the arrays and dtypes that a model takes.

        Raises:
            ToolkitError: An input has no array, or one of another shape or dtype; the text has both sides.
        """
        inputs = self._by_input(signature)
        return replace(
            self,
            inputs={name: _cast(self.name, name, inputs[name], spec) for name, spec in signature.inputs.items()},
            columns=False,
        )

    def take(self, rows: Any) -> "Data":
        """Some of the rows: a slice, or an array of their numbers."""
        labels = None if self.labels is None else self.labels[rows]
        numbers = (np.arange(len(self)) if self.numbers is None else self.numbers)[rows]
        inputs = {name: array[rows] for name, array in self.inputs.items()}
        return replace(self, inputs=inputs, labels=labels, numbers=numbers)

    def split(self, calibration: int, seed: int) -> tuple["Data", "Data"]:
        """The rows to measure on, and other randomly drawn ones that a step may calibrate on.

        Args:
            calibration: The number of calibration rows; at most half of the rows.
            seed: The same seed draws the same rows.
        """
        count = min(calibration, len(self) // 2)
        order = np.random.default_rng(seed).permutation(len(self))
        return self.take(np.sort(order[count:])), self.take(np.sort(order[:count]))

    def some(self, count: int, seed: int) -> "Data":
        """At most this many of the rows, drawn at random; the same seed draws the same rows."""
        order = np.random.default_rng(seed).permutation(len(self))
        return self.take(np.sort(order[:count]))

    def check_finite(self, purpose: str) -> None:
        """Refuses rows with a value that is not finite.

        Args:
            purpose: The purpose of the rows, such as "calibration".

        Raises:
            ToolkitError: Some rows have values that are not finite; the text has the numbers of the rows.
        """
        bad = np.zeros(len(self), bool)
        for array in self.inputs.values():
            if array.dtype.kind == "f":
                bad |= ~np.isfinite(array.reshape(len(array), -1)).all(1)
        if bad.any():
            rows = np.flatnonzero(bad) if self.numbers is None else self.numbers[bad]
            raise ToolkitError(f"{self.name}: {len(rows)} {purpose} rows are not finite: rows {_listed(rows)}")

    def shared_with(self, other: "Data") -> int:
        """The number of these rows that are also in the other data."""
        known = set(other.row_keys())
        return sum(key in known for key in self.row_keys())

    def row_keys(self) -> list[bytes]:
        """The bytes of each row, all inputs together."""
        return [
            b"".join(np.ascontiguousarray(array[row]).tobytes() for array in self.inputs.values())
            for row in range(len(self))
        ]

    def _by_input(self, signature: Signature) -> Mapping[str, Array]:
        names = list(signature.inputs)
        if set(names) <= set(self.inputs):
            return self.inputs
        if len(names) == 1 and list(self.inputs) == [ONE_ARRAY]:
            return {names[0]: self.inputs[ONE_ARRAY]}
        if len(names) == 1 and self.columns:
            return {names[0]: self._joined()}
        missing = ", ".join(name for name in names if name not in self.inputs)
        holds = ", ".join(name or "one array without a name" for name in self.inputs) or "nothing"
        raise ToolkitError(f"{self.name} has no array for the model's input {missing}; it has {holds}")

    def _joined(self) -> Array:
        """All columns combined, [rows, columns]."""
        words = [name for name, array in self.inputs.items() if array.dtype.kind not in "iuf"]
        if words:
            raise ToolkitError(f"{self.name}: column {words[0]} is not numeric")
        return np.stack([array.astype(np.float64) for array in self.inputs.values()], axis=1)


def _called(reference: str) -> dict[str, Array]:
    returned = user_code.call(reference)
    if not isinstance(returned, Mapping):
        raise ToolkitError(
            f"{reference} returned {type(returned).__name__}; it must return a dictionary of arrays by name"
        )
    return {str(name): np.asarray(array) for name, array in returned.items()}


def _without_labels(source: str, arrays: dict[str, Array], labels: str) -> tuple[dict[str, Array], Array | None]:
    if not labels:
        return arrays, None
    if labels not in arrays:
        raise ToolkitError(f"{source} has no labels {labels!r}; it has {', '.join(arrays) or 'nothing'}")
    label_array = arrays.pop(labels)
    if label_array.ndim == 2 and label_array.shape[1] == 1:
        label_array = label_array[:, 0]
    if label_array.dtype.kind not in _LABELS:
        raise ToolkitError(f"{source}: labels {labels!r} are {label_array.dtype}, and must be numbers or text")
    if label_array.ndim != 1:
        raise ToolkitError(f"{source}: labels {labels!r} have the shape {list(label_array.shape)}, and must be [rows]")
    return arrays, label_array


def _check_rows(source: str, arrays: Mapping[str, Array], labels: Array | None, labels_name: str) -> None:
    if not arrays:
        besides = f" besides the labels {labels_name!r}" if labels_name else ""
        raise ToolkitError(f"{source} contains no arrays{besides}")
    for name, array in arrays.items():
        if array.ndim == 0:
            raise ToolkitError(f"{source}: {name} is a single value, and must have a row for each example")
    counts = {name: len(array) for name, array in arrays.items()}
    first, rows = next(iter(counts.items()))
    if labels is not None and len(labels) != rows:
        raise ToolkitError(
            f"{source}: {rows} rows in {first or 'the array'} and {len(labels)} labels in {labels_name}; "
            "there must be one label for each row"
        )
    if not rows:
        raise ToolkitError(f"{source}: {first or 'the array'} has no rows")


def _cast(source: str, name: str, array: Array, spec: TensorSpec) -> Array:
    wanted = spec.array_dtype
    if wanted.kind == "O":  # strings
        if array.dtype.kind not in "USO":
            raise ToolkitError(f"{source}: {name} is {array.dtype}, but the model takes strings")
        fitting = array.astype(object)
    else:
        if array.dtype.kind not in "biufV" or not np.can_cast(array.dtype, wanted, "same_kind"):
            raise ToolkitError(f"{source}: {name} is {_dtype(array)}, but the model takes {write_spec(spec)}")
        fitting = array.astype(wanted, copy=False)
    if spec.shape and not _fits(fitting, spec):
        raise ToolkitError(
            f"{source}: {name} has the shape {list(array.shape)}, but the model takes {write_spec(spec)}"
        )
    return fitting


def _dtype(array: Array) -> str:
    return "text" if array.dtype.kind in "US" else str(array.dtype)


def _fits(array: Array, spec: TensorSpec) -> bool:
    """Whether each row has the declared shape; the number of rows per run is left to the runner."""
    if array.ndim != len(spec.shape):
        return False
    return all(want is None or got == want for got, want in zip(array.shape[1:], spec.shape[1:], strict=True))


def _listed(rows: Array) -> str:
    more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    return ", ".join(map(str, rows[:_NAMED])) + more
