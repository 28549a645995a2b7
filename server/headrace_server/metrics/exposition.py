"""Writes metrics as text for Prometheus: in TF Serving's form, or with units and explanations."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from headrace_server.metrics.series import Form

T = TypeVar("T")

_AT_ONCE = 100  # the number of lines, or versions, that a scrape handles without a pause, in about 0.1 ms


class Lines(Protocol):
    """All series of one name, as lines."""

    @property
    def name(self) -> str:
        """The name of the metric."""

    def lines(self) -> Iterator[str]:
        """The line with the metric's type, and the lines of every series."""


class Samples(Protocol):
    """Series that can be written under any name."""

    def samples(self, form: Form) -> Iterator[str]:
        """The lines of every series, without the line with the type."""


@dataclass(frozen=True, slots=True)
class Source:
    """Series of a metric, and how their labels and values are written.

    Attributes:
        series: The series to write.
        labels: The names of the series' labels.
        fixed: Labels that all series have as well, each as `name="value"`.
        scale: The factor by which the values are multiplied, such as 1e-6 to write microseconds as seconds.
    """

    series: Samples
    labels: Sequence[str] = ()
    fixed: Sequence[str] = ()
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric with its type and its explanation, by the rules that `promtool check metrics` checks.

    Attributes:
        name: The name, which ends with the unit, and with `_total` if the metric is a counter.
        kind: `counter`, `gauge` or `histogram`.
        explanation: A sentence without a full stop.
        sources: The sources of the metric's series.
    """

    name: str
    kind: str
    explanation: str
    sources: Sequence[Source]

    def lines(self) -> Iterator[str]:
        """The explanation, the type and a line for every sample; nothing if there are no samples."""
        begun = False
        for source in self.sources:
            for line in source.series.samples(Form(self.name, tuple(source.labels), source.fixed, source.scale)):
                if not begun:
                    begun = True
                    yield f"# HELP {self.name} {self.explanation}"
                    yield f"# TYPE {self.name} {self.kind}"
                yield line


def page(families: Iterable[Lines]) -> bytes:
    """The page that Prometheus scrapes, sorted by name, in the format of TF Serving's prometheus_exporter.cc."""
    ordered = sorted(families, key=lambda family: family.name)
    return "".join(f"{line}\n" for line in unhurried(line for family in ordered for line in family.lines())).encode()


def unhurried(items: Iterable[T]) -> Iterator[T]:
    """Yields the items, with pauses for other threads: a scrape takes long, and calls must not wait for it."""
    for number, item in enumerate(items):
        if number % _AT_ONCE == 0:
            time.sleep(0)  # releases the interpreter lock; a waiting thread would otherwise get it after 5 ms
        yield item
