"""Calibration rows in the form for ONNX Runtime's quantizer, and a search for outliers among them."""

from typing import Any

import numpy as np

from headrace_batching.task import Array
from headrace_toolkit.data import Data
from headrace_toolkit.steps.base import Advance

BATCH = 32
"""The number of rows of a calibration run.

Histograms are made one run at a time, so that memory does not grow with the number of rows.
"""

FAR = 5.0
"""A row is an outlier if its largest value is this many times that of the median row."""


class Batches:
    """A `CalibrationDataReader` of ONNX Runtime, which is asked for one range of batches after the other.

    Args:
        data: The rows.
        size: The number of rows of a batch, for a model that fixes it; None means 32.
        advance: Called with the number of finished rows.
    """

    def __init__(self, data: Data, size: int | None, advance: Advance) -> None:
        self._data = data
        self._size = size or BATCH
        self._advance = advance
        self._next = self._end = 0
        self._batches = len(data) // self._size if size else -(-len(data) // self._size)

    def __len__(self) -> int:
        return self._batches

    def set_range(self, start_index: int, end_index: int) -> None:
        """Selects the next batches."""
        self._next, self._end = start_index, min(end_index, self._batches)

    def get_next(self) -> dict[str, Array] | None:
        """The arrays of the next batch by input name; None at the end of the range."""
        if self._next >= self._end:
            return None
        start = self._next * self._size
        self._next += 1
        self._advance(min(start + self._size, len(self._data)), len(self._data))
        return dict(self._data.take(slice(start, start + self._size)).inputs)

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Any:
        batch = self.get_next()
        if batch is None:
            raise StopIteration
        return batch


def outliers(data: Data) -> tuple[str, ...]:
    """A sentence for each input with rows that reach far beyond the others."""
    sentences = []
    for name, array in data.inputs.items():
        if array.dtype.kind != "f":
            continue
        reach = np.abs(array.reshape(len(array), -1)).max(1)
        usual = float(np.median(reach))
        far = np.flatnonzero(reach > FAR * usual)
        if usual and len(far):
            far = far if data.numbers is None else data.numbers[far]
            some = ", ".join(map(str, far[:5])) + (" and others" if len(far) > 5 else "")
            sentences.append(
                f"calibration row{'s' if len(far) > 1 else ''} {some}: {name} reaches {reach.max() / usual:.0f} times "
                "the largest value of a typical row"
            )
    return tuple(sentences)
