"""Counts the values of an input's columns, and compares them with the input's profile: all columns together."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace_batching.task import Array
from headrace_server.monitoring.profiles import LEAST_SHARE, Bins

Counts = npt.NDArray[np.float64]


class Columns:
    """The columns of one input: one column for each element of a row, or a single column for all elements.

    Args:
        bins: The bins of each column; None for a column that the profile does not describe.
    """

    def __init__(self, bins: Sequence[Bins | None]) -> None:
        self._number = len(bins)
        self._named = {place: own for place, own in enumerate(bins) if own is not None and own.categories}
        self._named_counts = {place: np.zeros(len(own.shares)) for place, own in self._named.items()}
        self._numeric = [place for place in range(len(bins)) if place not in self._named]
        self._numbers = _Numbers([bins[place] for place in self._numeric])
        self._values = self._missing = self._outside = 0.0

    def add(self, rows: Sequence[Array]) -> None:
        """Counts rows of any shapes; those without a value for each column are left out."""
        if self._number > 1:
            rows = [row for row in rows if row.size == self._number]
        if not rows:
            return
        values = np.concatenate([row.reshape(-1) for row in rows]).reshape(-1, self._number)
        self._values += values.size
        if values.dtype.kind in "fiub":
            self._missing += values.size - int(np.count_nonzero(np.isfinite(values)))
            if self._numeric:
                self._outside += self._numbers.add(values[:, self._numeric])
        for place, bins in self._named.items():
            counts = bins.count(values[:, place])
            self._named_counts[place] += counts
            self._outside += float(counts[-1])

    def halve(self) -> None:
        """Halves all counts, so that later rows weigh more."""
        self._numbers.counts /= 2
        for counts in self._named_counts.values():
            counts /= 2
        self._values, self._missing, self._outside = self._values / 2, self._missing / 2, self._outside / 2

    def summary(self) -> dict[str, float | int]:
        """The largest index, its column, and the shares of values that are missing and out of range."""
        indices = np.zeros(self._number)
        indices[self._numeric] = self._numbers.indices()
        for place, bins in self._named.items():
            indices[place] = bins.index(self._named_counts[place])
        moved, values = int(np.argmax(indices)), self._values or 1.0
        return {
            "index": float(indices[moved]),
            "column": moved,
            "missing": self._missing / values,
            "outside": self._outside / values,
        }


class _Numbers:
    """Columns of numbers. A row of each table is a column; columns with fewer bins than others end with empty ones."""

    def __init__(self, bins: Sequence[Bins | None]) -> None:
        most = max((len(own.shares) for own in bins if own is not None), default=1)
        self._edges = np.full((len(bins), most - 1), np.inf)
        self._shares = np.zeros((len(bins), most))
        self._low, self._high = np.full(len(bins), -np.inf), np.full(len(bins), np.inf)
        self.counts = np.zeros((len(bins), most))
        for column, own in enumerate(bins):
            if own is not None:
                self._edges[column, : len(own.edges)] = own.edges
                self._shares[column, : len(own.shares)] = own.shares
                self._low[column], self._high[column] = own.low, own.high

    def add(self, values: Array) -> float:
        """Counts values of shape [rows, columns]; returns how many are out of range."""
        numbers = values.astype(np.float64)
        numbers[~np.isfinite(numbers)] = np.nan  # so that they are in no bin: every comparison with NaN is false
        # A value's bin is the number of edges below it.
        above = [np.count_nonzero(numbers > edges, axis=0) for edges in self._edges.T]
        known = np.count_nonzero(~np.isnan(numbers), axis=0)
        none = np.zeros(len(known), np.int64)
        self.counts -= np.diff(np.stack([known, *above, none], axis=1), axis=1)
        return float(np.count_nonzero((numbers < self._low) | (numbers > self._high)))

    def indices(self) -> Counts:
        """The population stability index of each column, as for `Bins.index`.

        0 for a column without values, and for one that the profile does not describe.
        """
        totals = self.counts.sum(axis=1)
        found = self.counts / np.maximum(totals, 1)[:, None]
        found = np.where(self._shares > 0, np.maximum(found, LEAST_SHARE), 0)
        found /= np.maximum(found.sum(axis=1, keepdims=True), LEAST_SHARE)
        logs: Any = np.log(np.divide(found, self._shares, out=np.ones_like(found), where=self._shares > 0))
        indices: Counts = ((found - self._shares) * logs).sum(axis=1) * (totals > 0)
        return indices
