"""The measurements, as JSON for scripts and as a table for people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from headrace_toolkit.machine import Machine
from headrace_toolkit.sources.base import Origin
from headrace_toolkit.under_load import Served


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The rows that were used.

    Attributes:
        name: The file, without the path before it; empty for random ones.
        sha256: The file's SHA-256.
        count: The number of rows.
    """

    name: str
    sha256: str
    count: int

    def document(self) -> dict[str, Any]:
        """The data for JSON."""
        return {"name": self.name, "sha256": self.sha256, "rows": self.count}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One model file, which may not have been made.

    Attributes:
        name: The name of the step.
        kept: Whether later steps, or the published version, build on it.
        why: The reason why it was not kept, or not tried; or a remark about it.
        metric: The report's metric; None if nothing was measured.
        interval: The 95% interval of the true share; None if the metric is not a share of rows.
        agreement: The share of rows with the same class as the source's; None if no output decides.
        largest_difference: The largest difference from the source's answers.
        mean_difference: The mean difference from the source's answers.
        differing: The share of rows that differ.
        bytes: The size of the files.
        gzip_bytes: The compressed size of the files.
        load_ms: CPU milliseconds of a load.
        time: The CPU time of a run as a multiple of the converted model's, by the number of rows.
        served: The results in headrace's batcher at the requested load; None without a load.
        notes: Sentences.
    """

    name: str
    kept: bool = False
    why: str = ""
    metric: float | None = None
    interval: tuple[float, float] | None = None
    agreement: float | None = None
    largest_difference: float | None = None
    mean_difference: float | None = None
    differing: float | None = None
    bytes: int | None = None
    gzip_bytes: int | None = None
    load_ms: float | None = None
    time: Mapping[int, float] = field(default_factory=dict)
    served: Served | None = None
    notes: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """The data for JSON."""
        return {
            "name": self.name,
            "kept": self.kept,
            "metric": _rounded(self.metric),
            "interval": None if self.interval is None else [_rounded(end) for end in self.interval],
            "agreement": _rounded(self.agreement),
            "largest_difference": _rounded(self.largest_difference),
            "mean_difference": _rounded(self.mean_difference),
            "differing_rows": _rounded(self.differing),
            "bytes": self.bytes,
            "gzip_bytes": self.gzip_bytes,
            "load_ms": _rounded(self.load_ms),
            "time": {str(rows): _rounded(ratio) for rows, ratio in self.time.items()},
            "served": None if self.served is None else self.served.document(),
            "why": self.why,
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All results of a run.

    Attributes:
        source: The origin of the model.
        machine: The machine on which the models were measured.
        metric: The metric's name.
        share: Whether the metric is a share, shown in percent.
        rows: The rows on which the models were measured.
        calibration: The calibration rows; None if there were none.
        training: The training rows; None if there were none.
        lines: The source, the converted model, and each step, in order.
        warnings: Messages that a user should not miss.
        notes: Other messages.
        suggested: The setting that serves the last model best at the requested load; None without a load.
        verdict: The sentence at the end.
        changed_files: Whether a file differs from the one in its card.
    """

    source: Origin
    machine: Machine
    metric: str
    share: bool
    rows: Rows
    calibration: Rows | None = None
    training: Rows | None = None
    lines: tuple[Line, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    suggested: Served | None = None
    verdict: str = ""
    changed_files: bool = False

    def document(self) -> dict[str, Any]:
        """The data for JSON, as in `report.json`."""
        return {
            "source": {"name": self.source.name, "kind": self.source.kind, "framework": self.source.framework,
                       "sha256": self.source.sha256},
            "machine": self.machine.document(),
            "metric": self.metric,
            "rows": self.rows.count,
            "data": {"name": self.rows.name, "sha256": self.rows.sha256},
            "calibration": None if self.calibration is None else self.calibration.document(),
            "training": None if self.training is None else self.training.document(),
            "steps": [line.document() for line in self.lines],
            "warnings": list(self.warnings),
            "notes": list(self.notes),
            "suggested": None if self.suggested is None else self.suggested.document(),
            "verdict": self.verdict,
        }  # fmt: skip

    def shown_metric(self, value: float | None) -> str:
        """A value of the metric as text; a share is in percent."""
        if value is None:
            return ""
        return f"{value:.2%}" if self.share else f"{value:.4g}"

    def table(self) -> str:
        """The lines for a terminal, the warnings and the verdict."""
        rows = [self._cells(line) for line in self.lines]
        times = [str(count) + (" row" if count == 1 else " rows") for count in self._counts()]
        load = ("CPU/row", "rows/s", "p99") if self._loaded else ()
        body = columns(("step", self.metric, "agree", "differs by", "bytes", "gzip", *times, *load, ""), rows)
        messages = [*(f"warning: {text}" for text in self.warnings), *self.notes]
        spread = self._interval_sentence()
        return "\n".join([*body, *([""] if messages or spread else []), *([spread] if spread else []), *messages,
                          *(["", self.verdict] if self.verdict else [])])  # fmt: skip

    @property
    def converted(self) -> Line | None:
        """The line that the others are relative to: the first one with a file."""
        return next((line for line in self.lines if line.bytes), None)

    @property
    def _loaded(self) -> bool:
        return any(line.served for line in self.lines)

    def _counts(self) -> list[int]:
        return sorted({count for line in self.lines for count in line.time})

    def _cells(self, line: Line) -> tuple[str, ...]:
        base = self.converted
        return (
            line.name,
            self.shown_metric(line.metric),
            "" if line.agreement is None else f"{line.agreement:.1%}",
            "" if line.largest_difference is None else f"{line.largest_difference:.2g}",
            "" if line.bytes is None else size(line.bytes),
            "" if line.gzip_bytes is None or base is None else f"{line.gzip_bytes / (base.gzip_bytes or 1):.2f}x",
            *(f"{line.time[count]:.2f}x" if count in line.time else "" for count in self._counts()),
            *(_served(line) if self._loaded else ()),
            remark(line),
        )

    def _interval_sentence(self) -> str:
        line = next((line for line in self.lines if line.interval), None)
        if line is None or line.interval is None:
            return ""
        low, high = line.interval
        return (
            f"{self.metric} over {self.rows.count} rows: the source's {line.metric:.2%} may be anything from {low:.2%} "
            f"to {high:.2%} (95% confidence)"
        )


def _served(line: Line) -> tuple[str, str, str]:
    if line.served is None:
        return "", "", ""
    return f"{line.served.cpu_us:,.0f} us", f"{line.served.rows:,.0f}", f"{line.served.p99_ms:.3g} ms"


def remark(line: Line) -> str:
    """The text in the last column of a line."""
    return line.why or ("kept" if line.kept and line.bytes is not None else "")


def size(count: int) -> str:
    """A number of bytes as text, such as `1.25 MB`."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:,.3g} {unit}" if count < 100 * scale else f"{count / scale:,.0f} {unit}"
    return f"{count} B"


def columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned lines: the first and the last column to the left, all others to the right."""
    lines = [head, *rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(head))]
    sides = ["<", *">" * (len(head) - 2), "<"]
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(line, sides, widths, strict=True)).rstrip()
        for line in lines
    ]


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
