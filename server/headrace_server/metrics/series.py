"""All series of one name, by their labels, and the text in which Prometheus reads them."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Generic, Protocol, TypeVar

from headrace_server.metrics.counting import Counter, Histogram, as_text

Labels = tuple[str, ...]


class Series(Protocol):
    """The lines of a metric for one combination of labels."""

    def samples(self, scale: float = 1.0) -> Iterator[tuple[str, str, str]]:
        """Each line's suffix to the name, its additional label, and its value times the scale."""


@dataclass(frozen=True, slots=True)
class Form:
    """How the series of one name are written.

    Attributes:
        name: The metric's name.
        labels: The names of the labels that each series has.
        fixed: Further labels, as text, that all series have.
        scale: The factor of values and of bucket bounds.
    """

    name: str
    labels: Labels
    fixed: Sequence[str] = ()
    scale: float = 1.0

    def head(self, values: Labels) -> list[str]:
        """The labels of a series."""
        return [*self.fixed, *_labels(self.labels, values)]


S = TypeVar("S", bound=Series)


class Family(Generic[S]):
    """All series of one name.

    Args:
        name: The name as TF Serving writes it, `/tensorflow/serving/request_count`.
        kind: Prometheus's word: counter, gauge or histogram.
        labels: The names of the labels.
        make: Creates an empty series.
        limit: The maximum number of series: the oldest is dropped for a new one. None if the labels can have
            only a few values anyway.
        group: The label by whose value series are found and dropped together, without a search through all series;
            empty if there is none.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        labels: Labels,
        make: Callable[[], S],
        limit: int | None = None,
        *,
        group: str = "",
    ) -> None:
        self.path = name
        self.name = _prometheus(name)
        self._kind = kind
        self._labels = labels
        self._make = make
        self._limit = limit
        self._group = labels.index(group) if group else None
        self._lock = Lock()
        self._series: dict[Labels, S] = {}
        self._groups: dict[str, dict[Labels, None]] = {}

    def of(self, *values: str) -> S:
        """The series with these labels, created at its first use. Any thread."""
        series = self._series.get(values)
        if series is None:
            with self._lock:
                series = self._add(values, self._make())
                if self._limit is not None and len(self._series) > self._limit:
                    self._drop(next(iter(self._series)))
        return series

    def first(self) -> S | None:
        """The series whose labels are the first in order; None if there are no series. Any thread."""
        with self._lock:
            return self._series[min(self._series)] if self._series else None

    def share(self, series: S, *values: str) -> None:
        """Also shows a series of another family as one of its own. Any thread."""
        with self._lock:
            self._add(values, series)

    def forget(self, group: str, labels: Mapping[str, str]) -> None:
        """Drops the series of a group that have these labels, whatever their other labels are. Any thread."""
        wanted = labels.items()
        with self._lock:
            for values in list(self._groups.get(group, ())):
                if wanted <= dict(zip(self._labels, values, strict=True)).items():
                    self._drop(values)

    def keep(self, groups: Collection[str]) -> None:
        """Drops every series of all other groups; none if there are no groups. Any thread."""
        with self._lock:
            for group in [group for group in self._groups if group not in groups]:
                for values in list(self._groups[group]):
                    self._drop(values)

    def _add(self, values: Labels, series: S) -> S:
        kept = self._series.setdefault(values, series)
        if self._group is not None:
            self._groups.setdefault(values[self._group], {})[values] = None
        return kept

    def _drop(self, values: Labels) -> None:
        del self._series[values]
        if self._group is not None:
            group = self._groups[values[self._group]]
            del group[values]
            if not group:
                del self._groups[values[self._group]]

    def find(self, *values: str) -> S | None:
        """The series with these labels; None if it has never been used. Any thread."""
        return self._series.get(values)

    def of_group(self, group: str) -> list[tuple[Labels, S]]:
        """All series of a group with their labels' values. Any thread."""
        with self._lock:
            return [(values, self._series[values]) for values in self._groups.get(group, ())]

    def every(self) -> list[tuple[Labels, S]]:
        """All series with their labels' values, sorted by these values. Any thread."""
        with self._lock:
            return sorted(self._series.items(), key=lambda item: item[0])

    def lines(self) -> Iterator[str]:
        """The lines for the type and for every series; nothing if there are none."""
        samples = self.samples(Form(self.name, self._labels))
        first = next(samples, None)
        if first is not None:
            yield f"# TYPE {self.name} {self._kind}"
            yield first
            yield from samples

    def samples(self, form: Form) -> Iterator[str]:
        """The lines for every series, without the type."""
        for values, series in self.every():
            labels = form.head(values)
            for suffix, further, value in series.samples(form.scale):
                yield f"{form.name}{suffix}{{{','.join([*labels, further] if further else labels)}}} {value}"


class Gauges:
    """Numbers of one name that are read when they are scraped.

    Args:
        name: The name as TF Serving writes it.
        labels: The names of the labels.
        read: Returns every series' labels and number. Any thread.
    """

    def __init__(self, name: str, labels: Labels, read: Callable[[], Iterable[tuple[Labels, float]]]) -> None:
        self.path = name
        self.name = _prometheus(name)
        self._labels = labels
        self._read = read

    def read(self) -> Iterable[tuple[Labels, float]]:
        """The labels and the current number of every series; nothing if the system refuses to tell.

        Without descriptors, for example, /proc cannot be read, but the other metrics are needed all the more.
        """
        try:
            return list(self._read())
        except OSError:
            return ()

    def lines(self) -> Iterator[str]:
        """A line for the type and one for every series; nothing if there are none."""
        lines = list(self.samples(Form(self.name, self._labels)))
        if lines:
            yield f"# TYPE {self.name} gauge"
        yield from lines

    def samples(self, form: Form) -> Iterator[str]:
        """A line for every series, without the type."""
        lines = (
            f"{form.name}{{{','.join(form.head(values))}}} {as_text(number, form.scale)}"
            for values, number in self.read()
        )
        yield from sorted(lines)


def counters(name: str, *labels: str, limit: int | None = None, group: str = "") -> Family[Counter]:
    """Counters of one name; the arguments are those of `Family`."""
    return Family(name, "counter", labels, Counter, limit, group=group)


def histograms(
    name: str, bounds: Sequence[float], *labels: str, limit: int | None = None, group: str = ""
) -> Family[Histogram]:
    """Histograms of one name; the arguments are those of `Family`, and the bounds those of `Histogram`."""
    return Family(name, "histogram", labels, lambda: Histogram(bounds), limit, group=group)


def _prometheus(name: str) -> str:
    """The name under which Prometheus reads a metric, as in TF Serving's prometheus_exporter.cc."""
    return re.sub(r"[^a-zA-Z0-9_]", ":", name)


def _labels(names: Labels, values: Labels) -> list[str]:
    return [f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True)]


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
