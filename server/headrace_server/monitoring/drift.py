"""Drift: compares sampled rows of a model's inputs and outputs with the profile beside the model.

A batch thread only copies the first row of a sampled batch; rows are compared when the metrics or the live page ask for
it.
"""

import logging
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace_batching.task import Array, Arrays
from headrace_server.metrics.exposition import Metric
from headrace_server.metrics.own import gauge
from headrace_server.metrics.series import Labels
from headrace_server.models.acting import LoadVersion
from headrace_server.models.servable import Servable
from headrace_server.models.watched import Take
from headrace_server.monitoring.profiles import PROFILE_FILE, Bins, read_profile

log = logging.getLogger(__name__)

LEAST_ROWS = 200
"""Rows before anything is reported: with fewer, the index is large by chance alone."""

MEMORY_ROWS = 5000.0
"""After this many rows all counts are halved, so that recent rows weigh more."""

WAITING_ROWS = 1000
WAITING_BYTES = 16 << 20

CLASSES = 32
"""Different values up to which an output of integers or strings is treated as classes."""


class _Column:
    """Counts one column of an input."""

    def __init__(self, bins: Bins | None) -> None:
        self.bins = bins
        self.counts = np.zeros(0 if bins is None else len(bins.shares))
        self.values = self.missing = self.outside = 0.0

    def add(self, values: Array) -> None:
        numbers = values.dtype.kind in "fiub"
        finite = values[np.isfinite(values)] if numbers else values
        self.values += values.size
        self.missing += values.size - finite.size
        if self.bins is None:
            return
        counts = self.bins.count(values)
        self.counts += counts
        if self.bins.categories:
            self.outside += float(counts[-1])
        elif numbers:
            self.outside += int(np.count_nonzero((finite < self.bins.low) | (finite > self.bins.high)))

    def halve(self) -> None:
        self.counts /= 2
        self.values, self.missing, self.outside = self.values / 2, self.missing / 2, self.outside / 2

    @property
    def index(self) -> float:
        return 0.0 if self.bins is None else self.bins.index(self.counts)


class Watch:
    """Compares the rows of one version. Any thread.

    Args:
        profile: The bins of the columns of each input.
        ratio: The share of batches from which a row is taken.
        chance: Uniform random numbers from 0 to 1, excluding 1.
    """

    def __init__(
        self, profile: Mapping[str, list[Bins | None]], ratio: float, chance: Callable[[], float] = random.random
    ) -> None:
        self._ratio = ratio
        self._chance = chance
        self._columns = {alias: [_Column(bins) for bins in columns] for alias, columns in profile.items()}
        self._classes: dict[str, Counter[str]] = {}
        self._taken: deque[tuple[Arrays, Arrays]] = deque(maxlen=WAITING_ROWS)
        self._lock = Lock()
        self._rows = 0.0
        self._told: dict[str, Any] | None = None

    def take(self, inputs: Arrays, outputs: Arrays) -> None:
        """Takes the first row of a batch that has run, if the batch is sampled. On the batch thread."""
        if self._chance() < self._ratio:
            row = _first(inputs)
            self._taken.append((row, _first(outputs)))
            self._keep_within(sum(array.nbytes for array in row.values()))

    def told(self) -> dict[str, Any] | None:
        """The number of rows, the index and shares of each input, and the shares of each output of classes.

        None for too few rows.
        """
        with self._lock:
            if self._compare() and self._rows >= LEAST_ROWS:
                # Kept until there are further rows, since a scrape asks once for each of the metrics.
                self._told = {
                    "rows": round(self._rows),
                    "inputs": {alias: _input(columns) for alias, columns in self._columns.items()},
                    "classes": {alias: _shares(counts) for alias, counts in self._classes.items() if counts},
                }
            return self._told

    def _keep_within(self, row_bytes: int) -> None:
        with suppress(IndexError):  # another thread may take them out at the same time
            while len(self._taken) > 1 and len(self._taken) * row_bytes > WAITING_BYTES:
                self._taken.popleft()

    def _compare(self) -> bool:
        """Counts the rows that have been taken; returns whether there were any."""
        taken: list[tuple[Arrays, Arrays]] = []
        with suppress(IndexError):
            while True:
                taken.append(self._taken.popleft())
        if not taken:
            return False
        self._rows += len(taken)
        for alias, columns in self._columns.items():
            rows = [inputs[alias] for inputs, _ in taken if alias in inputs]
            if not rows:
                continue
            if len(columns) == 1:
                columns[0].add(np.concatenate([row.reshape(-1) for row in rows]))
            else:
                flat = np.stack([row.reshape(-1) for row in rows if row.size == len(columns)])
                for column, values in zip(columns, flat.T, strict=True):
                    column.add(values)
        for _, outputs in taken:
            self._count_classes(outputs)
        if self._rows > MEMORY_ROWS:
            self._halve()
        return True

    def _count_classes(self, outputs: Arrays) -> None:
        for alias, row in outputs.items():
            if row.size == 1 and row.dtype.kind in "iubOUS":
                counts = self._classes.setdefault(alias, Counter())
                counts[_name(row.reshape(-1)[0])] += 1
                if len(counts) > CLASSES:
                    self._classes[alias] = Counter()  # it is not an output of classes

    def _halve(self) -> None:
        self._rows /= 2
        for column in (column for columns in self._columns.values() for column in columns):
            column.halve()
        for alias, counts in self._classes.items():
            self._classes[alias] = Counter({name: count // 2 for name, count in counts.items() if count > 1})


class Drift:
    """Watches every version that has a profile beside it. Any thread.

    Args:
        ratio: The share of batches from which a row is taken; 0 watches nothing.
    """

    def __init__(self, ratio: float) -> None:
        self._ratio = ratio
        self._watches: dict[Labels, Watch] = {}

    def watch(self, name: str, version: int, folder: Path) -> Take | None:
        """Returns what takes rows of a loaded version; None if it has no profile."""
        self._watches.pop((name, str(version)), None)
        try:
            profile = read_profile(folder) if self._ratio else {}
        except (OSError, ValueError) as error:
            log.warning("model %s version %d is not watched for drift: %s", name, version, error)
            return None
        if not profile:
            return None
        log.info("model %s version %d is watched for drift from its %s", name, version, PROFILE_FILE)
        watch = self._watches[(name, str(version))] = Watch(profile, self._ratio)
        return watch.take

    def after(self, load: LoadVersion) -> LoadVersion:
        """Loads versions in the same way, and watches them from then on."""

        def load_and_watch(name: str, version: int, path: Path) -> Servable:
            servable = load(name, version, path)
            servable.watch(self.watch(name, version, path))
            return servable

        return load_and_watch

    def told(self, name: str, version: int) -> dict[str, Any] | None:
        """What is known of one version, for the live page."""
        watch = self._watches.get((name, str(version)))
        return None if watch is None else watch.told()

    def metrics(self, loaded: Callable[[], Iterable[Labels]]) -> tuple[Metric, ...]:
        """The metrics of all versions.

        Args:
            loaded: Returns the model and the version of each loaded version.
        """

        def every() -> Iterator[tuple[Labels, dict[str, Any]]]:
            versions = set(loaded())
            for gone in self._watches.keys() - versions:
                self._watches.pop(gone, None)
            for labels in sorted(versions):
                told = self.told(labels[0], int(labels[1])) if labels in self._watches else None
                if told is not None:
                    yield labels, told

        def of_inputs(key: str) -> Callable[[], list[tuple[Labels, float]]]:
            return lambda: [
                ((*labels, alias), each[key]) for labels, told in every() for alias, each in told["inputs"].items()
            ]

        def of_classes() -> list[tuple[Labels, float]]:
            return [
                ((*labels, output, name), share)
                for labels, told in every()
                for output, shares in told["classes"].items()
                for name, share in shares.items()
            ]

        explained = {
            "index": ("stability_index", "Population stability index of the input's column that has changed the most"),
            "missing": ("missing_ratio", "Share of an input's values that are NaN or infinite"),
            "outside": ("out_of_range_ratio", "Share of an input's values outside of the profile's range"),
        }
        return (
            *(
                gauge(f"headrace_drift_{name}", text, of_inputs(key), ("model", "version", "input"))
                for key, (name, text) in explained.items()
            ),
            gauge(
                "headrace_drift_class_ratio",
                "Share of each class in an output's values",
                of_classes,
                ("model", "version", "output", "class"),
            ),
            gauge(
                "headrace_drift_rows",
                "Rows that are compared with the profile",
                lambda: [(labels, told["rows"]) for labels, told in every()],
                ("model", "version"),
            ),
        )


def _first(arrays: Arrays) -> dict[str, npt.NDArray[Any]]:
    return {alias: array[:1].copy() for alias, array in arrays.items() if array.ndim}


def _input(columns: list[_Column]) -> dict[str, float | int]:
    moved = max(range(len(columns)), key=lambda number: columns[number].index)
    values = sum(column.values for column in columns) or 1.0
    return {
        "index": columns[moved].index,
        "column": moved,
        "missing": sum(column.missing for column in columns) / values,
        "outside": sum(column.outside for column in columns) / values,
    }


def _shares(counts: "Counter[str]") -> dict[str, float]:
    return {name: count / counts.total() for name, count in counts.most_common()}


def _name(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
