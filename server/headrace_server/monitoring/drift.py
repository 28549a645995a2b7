"""Drift: compares sampled rows of a model's inputs and outputs with the profile next to the model.

A batch thread only copies the first row of a sampled batch, and spends at most a millisecond of CPU time per second on
this. All rows that were copied are compared together when the metrics or the live page ask for it.
"""

import logging
import math
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

import numpy.typing as npt

from headrace_batching.task import Array, Arrays
from headrace_server.metrics.exposition import Metric
from headrace_server.metrics.own import gauge
from headrace_server.metrics.series import Labels
from headrace_server.models.loader import LoadVersion
from headrace_server.models.servable import Servable
from headrace_server.models.watched import Take
from headrace_server.monitoring.columns import Columns
from headrace_server.monitoring.profiles import PROFILE_FILE, Bins, read_profile

log = logging.getLogger(__name__)

LEAST_ROWS = 200
"""The number of rows before anything is reported: with fewer, the index is large by chance alone."""

MEMORY_ROWS = 5000.0
"""After this many rows all counts are halved, so that recent rows weigh more."""

WAITING_ROWS = 1000
WAITING_BYTES = 16 << 20

SECOND = 5_000
"""The number of values taken per second, in about a millisecond of CPU time; each row counts as ROW further values."""

ROW = 100

AT_ONCE = 20 * SECOND
"""The maximum number of values taken in one go if few were taken before."""

MOST_STRETCHED = 1024
"""The largest factor by which sampling becomes less frequent while the limit is reached."""

CLASSES = 32
"""The number of different values up to which an output of integers or strings is treated as classes."""


class Watch:
    """Compares sampled rows of one version with the version's profile. Any thread.

    Args:
        profile: The bins of the columns of each input.
        ratio: The share of rows that are taken.
        chance: Returns a uniformly distributed random number from 0 to 1, excluding 1.
        clock: Returns the time, in seconds.
    """

    def __init__(
        self,
        profile: Mapping[str, list[Bins | None]],
        ratio: float,
        chance: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ratio = ratio
        self._chance = chance
        self._clock = clock
        self._room, self._since = float(AT_ONCE), clock()
        self._stretch = 1
        self._columns = {alias: Columns(bins) for alias, bins in profile.items()}
        self._classes: dict[str, Counter[str]] = {}
        self._taken: deque[tuple[Arrays, Arrays]] = deque(maxlen=WAITING_ROWS)
        self._lock = Lock()
        self._rows = 0.0
        self._summary: dict[str, Any] | None = None

    def take(self, inputs: Arrays, outputs: Arrays) -> int:
        """Copies the first row of a batch that has run, for later comparison, unless the limit of SECOND is reached.

        Returns the number of batches after which the batch thread is to call this again.

        This runs on the batch thread, where even a few instructions take long: they are no longer in the CPU's caches.
        """
        if self._has_room():
            self._stretch = max(1, self._stretch // 2)
            row = _first(inputs)
            self._taken.append((row, _first(outputs)))
            self._room -= ROW + sum(array.size for array in row.values())
            self._keep_within(sum(array.nbytes for array in row.values()))
        else:
            self._stretch = min(MOST_STRETCHED, self._stretch * 2)
        rows = max((len(array) for array in inputs.values() if array.ndim), default=1)
        return max(1, self._stretch * self._gap() // max(1, rows))

    def summary(self) -> dict[str, Any] | None:
        """The number of rows, the index and shares of each input, and the shares of each output of classes.

        None if there are too few rows.
        """
        with self._lock:
            if self._compare() and self._rows >= LEAST_ROWS:
                # Kept until there are further rows: during a scrape, each of the metrics asks for it.
                self._summary = {
                    "rows": round(self._rows),
                    "inputs": {alias: columns.summary() for alias, columns in self._columns.items()},
                    "classes": {alias: _shares(counts) for alias, counts in self._classes.items() if counts},
                }
            return self._summary

    def _gap(self) -> int:
        """The distance in rows to the next sampled row, if each row is sampled by chance."""
        if self._ratio >= 1:
            return 1
        return 1 + int(math.log(1 - self._chance()) / math.log1p(-self._ratio))

    def _has_room(self) -> bool:
        """Whether more values may be taken now. Batch threads that call this together may take a few rows too many."""
        now = self._clock()
        self._room = min(float(AT_ONCE), self._room + (now - self._since) * SECOND)
        self._since = now
        return self._room > 0

    def _keep_within(self, row_bytes: int) -> None:
        with suppress(IndexError):  # another thread may take rows out at the same time
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
            columns.add([inputs[alias] for inputs, _ in taken if alias in inputs])
        for alias in taken[-1][1]:
            self._count_classes(alias, [outputs[alias] for _, outputs in taken if alias in outputs])
        if self._rows > MEMORY_ROWS:
            self._halve()
        return True

    def _count_classes(self, alias: str, rows: Sequence[Array]) -> None:
        found = Counter(row.item() for row in rows if row.size == 1 and row.dtype.kind in "iubOUS")
        counts = self._classes.setdefault(alias, Counter())
        for value, count in found.items():
            counts[_name(value)] += count
        if len(counts) > CLASSES:
            counts.clear()  # with so many different values, the output does not hold classes

    def _halve(self) -> None:
        self._rows /= 2
        for columns in self._columns.values():
            columns.halve()
        for alias, counts in self._classes.items():
            self._classes[alias] = Counter({name: count // 2 for name, count in counts.items() if count > 1})


class Drift:
    """Watches every version that has a profile next to it. Any thread.

    Args:
        ratio: The share of rows that are taken; 0 watches nothing.
    """

    def __init__(self, ratio: float) -> None:
        self._ratio = ratio
        self._watches: dict[Labels, Watch] = {}

    def watch(self, name: str, version: int, folder: Path) -> Take | None:
        """Returns the function that takes rows of a loaded version; None if the version has no profile."""
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
        """Wraps a function that loads versions, so that each version is watched from then on."""

        def load_and_watch(name: str, version: int, path: Path) -> Servable:
            servable = load(name, version, path)
            servable.watch(self.watch(name, version, path))
            return servable

        return load_and_watch

    def summary(self, name: str, version: int) -> dict[str, Any] | None:
        """The number of rows, the indices and the shares of one version, for the live page."""
        watch = self._watches.get((name, str(version)))
        return None if watch is None else watch.summary()

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
                summary = self.summary(labels[0], int(labels[1])) if labels in self._watches else None
                if summary is not None:
                    yield labels, summary

        def of_inputs(key: str) -> Callable[[], list[tuple[Labels, float]]]:
            return lambda: [
                ((*labels, alias), each[key])
                for labels, summary in every()
                for alias, each in summary["inputs"].items()
            ]

        def of_classes() -> list[tuple[Labels, float]]:
            return [
                ((*labels, output, name), share)
                for labels, summary in every()
                for output, shares in summary["classes"].items()
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
                "The number of rows that are compared with the profile",
                lambda: [(labels, summary["rows"]) for labels, summary in every()],
                ("model", "version"),
            ),
        )


def _first(arrays: Arrays) -> dict[str, npt.NDArray[Any]]:
    return {alias: array[:1].copy() for alias, array in arrays.items() if array.ndim}


def _shares(counts: "Counter[str]") -> dict[str, float]:
    return {name: count / counts.total() for name, count in counts.most_common()}


def _name(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
