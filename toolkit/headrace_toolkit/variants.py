"""Variants of a model as files, and their measurements: answers compared with the source's, size, and run time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from headrace_batching.task import Arrays
from headrace_server.backends.signature import Signature
from headrace_toolkit import check
from headrace_toolkit.errors import ToolkitError
from headrace_toolkit.grounds import Grounds
from headrace_toolkit.measure import Size, seconds_of_runs, size_of
from headrace_toolkit.report import Line
from headrace_toolkit.running import OnnxModel, in_parts, rows_at_once
from headrace_toolkit.sources.base import Source
from headrace_toolkit.steps.base import Advance
from headrace_toolkit.under_load import Load, serve_in_turns, standard

MANY_ROWS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One model file.

    Attributes:
        line: Its line in the report.
        file: The model.
        source: The source that it was exported from; None once a step has changed the file itself.
        model: Its session.
    """

    line: Line
    file: Path
    source: Source | None
    model: OnnxModel

    def time(self) -> float:
        """The time of a run of many rows, relative to the converted model's."""
        return self.line.time[max(self.line.time)]

    def with_line(self, **changes: object) -> "Variant":
        """A copy of the variant with some attributes of its line changed."""
        return replace(self, line=replace(self.line, **changes))  # type: ignore[arg-type]


def examine(name: str, file: Path, source: Source | None, grounds: Grounds, advance: Advance) -> Variant:
    """Opens a model file and compares its answers with the source's; times are measured later, together with others'.

    Raises:
        ToolkitError: ONNX Runtime does not load or run it, or its outputs differ from the source's.
    """
    size = size_of(file)
    model = OnnxModel(file)
    answers = in_parts(model.run, model.signature, grounds.measured.inputs, advance)
    return Variant(line=line_of(name, answers, grounds, size), file=file, source=source, model=model)


def line_of(name: str, answers: Arrays, grounds: Grounds, size: Size) -> Line:
    """A line of the report that compares answers with the source's, without times.

    Raises:
        ToolkitError: The outputs have other names or shapes than the source's.
    """
    try:
        differences = check.compare(grounds.expected, answers)
    except ToolkitError as error:
        raise ToolkitError(f"{name}: {error}") from error
    worst = check.largest(differences)
    metric = grounds.metric.score(answers)
    return Line(
        name=name,
        metric=metric,
        interval=grounds.metric.interval(metric),
        agreement=check.agreement(grounds.expected, answers),
        largest_difference=worst.largest,
        mean_difference=worst.mean,
        differing=max(difference.differing for difference in differences),
        bytes=size.bytes,
        gzip_bytes=size.gzip_bytes,
        load_ms=size.load_ms,
    )


def under_load(variants: Sequence[Variant], grounds: Grounds, calls: int, seconds: float) -> list[Variant]:
    """Variants with their throughput in headrace's batcher, measured in turns.

    Raises:
        ToolkitError: A model takes a fixed number of rows, so that nothing can be batched, or a run failed.
    """
    runs = {str(number): variant.model.run for number, variant in enumerate(variants)}
    served = serve_in_turns(runs, load_of(variants[0], grounds, calls, seconds), standard(calls))
    return [variant.with_line(served=served[name]) for name, variant in zip(served, variants, strict=True)]


def load_of(variant: Variant, grounds: Grounds, calls: int, seconds: float) -> Load:
    """Calls of one measured row each.

    Raises:
        ToolkitError: The model takes a fixed number of rows.
    """
    if rows_at_once(variant.model.signature) is not None:
        raise ToolkitError("--load needs batches, but this model takes a fixed number of rows")
    rows = grounds.rows(min(calls, len(grounds.measured)))
    count = len(next(iter(rows.values())))
    single = [{name: array[row : row + 1] for name, array in rows.items()} for row in range(count)]
    return Load(calls=calls, rows=single, seconds=seconds)


def timed(
    base: Variant, variants: Sequence[Variant], grounds: Grounds, seconds: float
) -> tuple[Variant, list[Variant]]:
    """Measures runs of one row and of many, with all variants taking turns.

    Args:
        base: The converted model, whose times are defined as 1.
        variants: The other models.
        grounds: The rows to run.
        seconds: The CPU seconds for the timing of one number of rows, for all variants together.

    Returns: All variants with their times.
    """
    if not variants:  # the ratio of a model to itself is 1
        return base.with_line(time=dict.fromkeys(_counts(base.model.signature), 1.0)), []
    every = (base, *variants)
    # The bare sessions are timed, so that the additional work of `OnnxModel.run` is not measured.
    runs = [partial(each.model.session.run, list(each.model.signature.outputs)) for each in every]
    ratios = time_ratios(runs, base.model.signature, grounds, seconds)
    first, *others = [v.with_line(time=r) for v, r in zip(every, ratios, strict=True)]
    return first, others


def time_ratios(
    runs: Sequence[Callable[[Arrays], object]], signature: Signature, grounds: Grounds, seconds: float
) -> list[dict[int, float]]:
    """The CPU times of runs relative to the first model's, by the number of rows, for each model; they take turns.

    Args:
        runs: Run each model once with some rows.
        signature: The first model's signature.
        grounds: The rows to run.
        seconds: The CPU seconds for the timing of one number of rows, for all models together.
    """
    ratios: list[dict[int, float]] = [{} for _ in runs]
    for count in _counts(signature):
        rows = grounds.rows(count)
        taken = seconds_of_runs({str(number): partial(run, rows) for number, run in enumerate(runs)}, seconds=seconds)
        for ratio, own in zip(ratios, taken.values(), strict=True):
            ratio[count] = own / max(taken["0"], 1e-9)
    return ratios


def _counts(signature: Signature) -> tuple[int, ...]:
    """The numbers of rows for which runs of a model are timed."""
    fixed = rows_at_once(signature)
    return (fixed,) if fixed else (1, MANY_ROWS)
