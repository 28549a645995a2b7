"""How much rows differ from a profile of a model's inputs: `profile.json`, which the toolkit writes next to a model."""

import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace_batching.task import Array
from headrace_server.errors import misread

PROFILE_FILE = "profile.json"

LEAST_SHARE = 1e-3
"""Smaller shares of a bin are raised to this one: a bin that is empty in the profile would make the index infinite."""


@dataclass(frozen=True, slots=True)
class Bins:
    """The bins of one column's values, each with its share of rows in the profile.

    Attributes:
        edges: Upper ends of the bins of numbers, except the last one; empty for categories.
        categories: The values with bins of their own; the last bin is for all others.
        shares: The share of each bin; their sum is 1.
        low: The smallest value in the profile.
        high: The largest value in the profile.
    """

    edges: npt.NDArray[np.float64]
    categories: Mapping[str, int]
    shares: npt.NDArray[np.float64]
    low: float = -math.inf
    high: float = math.inf

    @classmethod
    def of(cls, column: Mapping[str, Any], levels: Sequence[float]) -> "Bins | None":
        """The bins for a column of a profile; None if the profile says nothing about the column's values."""
        if "categories" in column:
            names = {name: number for number, name in enumerate(column["categories"])}
            return cls(np.empty(0), names, _shares([*column["categories"].values(), 0.0]))
        if "quantiles" not in column:
            return None
        quantiles = np.array(column["quantiles"], np.float64)
        values, times = np.unique(quantiles, return_counts=True)
        # Quantiles do not say how many rows have a very frequent value, so such a value is not an edge unless it is the
        # largest.
        edges = values[(times == 1) | (values == values[-1])]
        below = [max(level for level, value in zip(levels, quantiles, strict=True) if value == edge) for edge in edges]
        shares = np.diff([0.0, *below, 1.0])
        return cls(edges, {}, _shares(shares), float(values[0]), float(values[-1]))

    def count(self, values: Array) -> npt.NDArray[np.float64]:
        """How many values are in each bin; missing values are in none."""
        if self.categories:
            counts = np.zeros(len(self.shares))
            for value, count in Counter(values.tolist()).items():
                counts[self.categories.get(_text(value), len(self.categories))] += count
            return counts
        numbers = np.searchsorted(self.edges, values[np.isfinite(values)])
        return np.bincount(numbers, minlength=len(self.shares)).astype(np.float64)

    def index(self, counts: npt.NDArray[np.float64]) -> float:
        """The population stability index of counted values: 0 for the profile's own shares, above 0.2 for a shift.

        0 if there are no values, which say nothing about a shift.
        """
        if not counts.any():
            return 0.0
        found = _shares(counts / counts.sum())
        return float(np.sum((found - self.shares) * np.log(found / self.shares)))


def read_profile(folder: Path) -> dict[str, list[Bins | None]]:
    """Reads the bins of each input's columns, by the input's alias; empty if the folder has no profile.

    Args:
        folder: The version's folder, or the file of a model that is served from a single file and so has no profile.

    Raises:
        ValueError: The file is not a profile.
    """
    try:
        with open(os.path.join(folder, PROFILE_FILE), "rb") as file:
            content = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    try:
        profile = json.loads(content)
        levels = profile["quantiles"]
        return {
            alias: [Bins.of(column, levels) for column in each["columns"]] for alias, each in profile["inputs"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{PROFILE_FILE} is not a profile of inputs: {misread(error)}") from error


def _shares(shares: npt.ArrayLike) -> npt.NDArray[np.float64]:
    floored = np.maximum(np.asarray(shares, np.float64), LEAST_SHARE)
    normal: npt.NDArray[np.float64] = floored / floored.sum()
    return normal


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
