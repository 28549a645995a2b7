"""The basis for judging every variant of a model: the rows, the source's answers to them, and the metric."""

from dataclasses import dataclass, field, replace

import numpy as np

from headrace_batching.task import Array, Arrays
from headrace_toolkit.data import Data
from headrace_toolkit.metric import Asked, Metric, choose
from headrace_toolkit.progress import Progress
from headrace_toolkit.recipe import DataOptions
from headrace_toolkit.running import in_parts, random_inputs, rows_at_once
from headrace_toolkit.sources.base import Source

RANDOM_ROWS = 64

FEW_ROWS = 300
"""With fewer labelled rows than this, a drop of half a point means little."""


@dataclass(slots=True)
class Messages:
    """Messages for the user that come up during the work.

    Attributes:
        warnings: Messages that should not be missed.
        notes: Other messages.
    """

    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grounds:
    """The basis for judging every variant.

    Attributes:
        measured: The rows, adapted to the source.
        calibration: Other rows; None if there are none, or they are not needed.
        training: Rows to train on, with their labels; None if there are none.
        expected: The source's own answers on `measured`.
        metric: The metric of answers.
        random: Whether the rows are random because there were no data.
    """

    measured: Data
    calibration: Data | None
    training: Data | None
    expected: Arrays
    metric: Metric
    random: bool

    def drop(self, metric: float | None) -> float:
        """How much lower a variant's metric is than the source's: in points of a share, otherwise in percent."""
        return self.metric.drop(self.metric.score(self.expected), metric or 0.0)

    def rows(self, count: int) -> dict[str, Array]:
        """Returns this many measured rows, starting again at the first row after the last one."""
        which = np.arange(count) % len(self.measured)
        return {name: array[which] for name, array in self.measured.inputs.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The settings that determine how the rows are split.

    Attributes:
        calibrates: Whether some step needs rows to calibrate on.
        classes: The names of the classes by index, if the source knows them.
        seed: The seed of the draw.
    """

    calibrates: bool
    classes: tuple[str, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class _Division:
    """The settings that determine how the rows are divided, in addition to the plan."""

    source: Source
    options: DataOptions
    training: Data | None
    messages: Messages


def settle(
    source: Source, data: Data | None, options: DataOptions, plan: Plan, messages: Messages, progress: Progress
) -> Grounds:
    """Adapts the rows to the source, keeps some for calibration, and asks the source for its answers.

    Raises:
        ToolkitError: The rows do not fit the source, are not finite where they must be, or the labels are not classes.
    """
    if data is None:
        inputs = random_inputs(source.signature, RANDOM_ROWS, plan.seed)
        data = Data("", "", inputs)
        measured, calibration, training = data, None, None
        messages.notes.append(f"compared on {RANDOM_ROWS} random rows: give some of yours with --data")
    else:
        _note_unused(data, source, messages)
        training = Data.read(options.train, options.labels).fitted(source.signature) if options.train else None
        measured, calibration = _divide(
            data.fitted(source.signature), plan, _Division(source, options, training, messages)
        )
    measured = _whole_batches(measured, source)
    with progress.step(f"answers of {source.origin.name}") as advance:
        expected = in_parts(source.run, source.signature, measured.inputs, advance)
    asked = Asked(
        name=options.metric,
        output=options.output,
        labels=measured.labels,
        expected=expected,
        classes=plan.classes,
    )
    metric = choose(asked)
    if metric.rows and metric.rows < FEW_ROWS:
        messages.warnings.append(f"only {metric.rows} rows have labels, so the interval of the accuracy is wide")
    return Grounds(
        measured=measured,
        calibration=calibration,
        training=training,
        expected=expected,
        metric=metric,
        random=not data.name,
    )


def _note_unused(data: Data, source: Source, messages: Messages) -> None:
    """If labels are missing, notes the arrays that are not inputs: one of them may be the labels."""
    unused = [name for name in data.inputs if name and name not in source.signature.inputs]
    if data.labels is None and unused and set(source.signature.inputs) <= set(data.inputs):
        what = "is no input" if len(unused) == 1 else "are no inputs"
        messages.notes.append(f"{data.name}: {', '.join(unused)} {what}: if it has the labels, name them with --labels")


def warn_of_shared(measured: Data, seen: Data, what: str, messages: Messages) -> None:
    """Warns if rows to measure on were also calibrated or trained on."""
    if shared := measured.shared_with(seen):
        messages.warnings.append(
            f"{shared} of the {len(measured)} measured rows are {what} on, too: their results say little about new rows"
        )


def _divide(data: Data, plan: Plan, division: _Division) -> tuple[Data, Data | None]:
    """The rows to measure on, and others to calibrate on: some of the training rows if there are any."""
    options, messages = division.options, division.messages
    if not plan.calibrates:
        return data, None
    if not isinstance(options.calibration, int):
        measured, calibration = data, Data.read(options.calibration).fitted(division.source.signature)
        warn_of_shared(measured, calibration, "calibrated", messages)
    elif division.training is not None:
        measured, calibration = data, division.training.some(options.calibration, plan.seed)
        warn_of_shared(measured, calibration, "calibrated", messages)
    else:
        measured, calibration = data.split(options.calibration, plan.seed)
        if len(calibration) < options.calibration and options.calibration != DataOptions().calibration:
            messages.warnings.append(
                f"{data.name} has {len(data)} rows: {len(calibration)} of them are for calibration"
            )
    if not len(calibration):
        return data, None
    return measured, replace(calibration, labels=None)


def _whole_batches(data: Data, source: Source) -> Data:
    """Drops the rows at the end that do not fill a batch of a fixed size; repeats rows if they do not fill one."""
    size = rows_at_once(source.signature)
    if not size:
        return data
    return data.take(np.arange(max(len(data) // size, 1) * size) % len(data))
