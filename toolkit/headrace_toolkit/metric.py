"""Metrics of answers: accuracy, r2, mean squared error, cosine, or a user's function, and how a drop is counted."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from headrace_batching.task import Array, Arrays
from headrace_toolkit import user_code
from headrace_toolkit.check import decisions
from headrace_toolkit.errors import ToolkitError

NAMES = ("accuracy", "r2", "mean_squared_error", "cosine")

_NORMAL_95 = 1.959963984540054
"""The quantile of the normal distribution for a two-sided interval of 95%."""

Score = Callable[[Arrays], float]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of a model.

    Attributes:
        name: The name in reports.
        score: Computes the number from a model's outputs for all measured rows.
        share: Whether it is a share of 1, shown in percent, whose drop is counted in percentage points.
        lower_is_better: Whether lower is better, as for an error.
        rows: The number of measured rows for a metric that counts correct rows; otherwise 0.
    """

    name: str
    score: Score
    share: bool = True
    lower_is_better: bool = False
    rows: int = 0

    def drop(self, before: float, after: float) -> float:
        """How much worse `after` is: in percentage points for a share, otherwise in percent of `before`."""
        worse = after - before if self.lower_is_better else before - after
        if self.share:
            return 100 * worse
        if not before:
            return 0.0 if worse <= 0 else math.inf
        return 100 * worse / abs(before)

    def interval(self, value: float) -> tuple[float, float] | None:
        """The 95% interval of the true share, by Wilson's score interval; None if rows are not counted."""
        return wilson(value, self.rows) if self.rows else None

    def shown(self, value: float) -> str:
        """A value of the metric, formatted for a table."""
        return f"{value:.2%}" if self.share else f"{value:.4g}"


def wilson(share: float, rows: int) -> tuple[float, float]:
    """Wilson's score interval of a share, 95%."""
    z2 = _NORMAL_95**2
    middle = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = _NORMAL_95 / (1 + z2 / rows) * math.sqrt(share * (1 - share) / rows + z2 / (4 * rows * rows))
    return middle - half, middle + half


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The arguments of a metric.

    Attributes:
        name: One of `NAMES`, `file.py:function`, or empty for the one that the labels suggest.
        output: The output to measure; if empty, one is chosen.
        labels: [rows]; None if there are none.
        expected: The source's own answers.
        classes: The names of the classes by index; empty if they are not known.
    """

    name: str = ""
    output: str = ""
    labels: Array | None
    expected: Arrays
    classes: Sequence[str] = ()


def choose(asked: Asked) -> Metric:
    """The requested metric, or the one that fits the labels and outputs.

    Without a name: accuracy for labels that are integers or strings, r2 for floats; without labels, the cosine with the
    source's answers, or r2 if an answer is a single number.

    Raises:
        ToolkitError: There are no labels and the metric needs them, or they do not fit the outputs.
    """
    if asked.output and asked.output not in asked.expected:
        raise ToolkitError(f"the model has no output {asked.output}; it has {', '.join(asked.expected)}")
    name = asked.name or _suggested(asked)
    if user_code.names_function(name):
        return _users(name, asked)
    if name == "cosine":
        return _cosine(asked)
    if name == "accuracy":
        return _accuracy(asked)
    if name in ("r2", "mean_squared_error"):
        return _regression(name, asked)
    raise ToolkitError(f"metric must be one of {', '.join(NAMES)}, or file.py:function; was {name!r}")


def _suggested(asked: Asked) -> str:
    if asked.labels is None:
        return "cosine" if _floats(asked)[1].reshape(len(_floats(asked)[1]), -1).shape[1] > 1 else "r2"
    if asked.labels.dtype.kind not in "iuf":
        return "accuracy"
    whole = bool(np.isfinite(asked.labels).all() and (asked.labels == np.round(asked.labels)).all())
    decides = decisions(asked.expected, asked.output) is not None or not set(np.unique(asked.labels).tolist()) - {0, 1}
    return "accuracy" if whole and decides else "r2"


def _users(name: str, asked: Asked) -> Metric:
    def score(outputs: Arrays) -> float:
        value = user_code.call(name, dict(outputs), asked.labels)
        try:
            return float(value)
        except (TypeError, ValueError):
            raise ToolkitError(f"{name} returned {value!r}; a metric must return a number") from None

    return Metric(name.rpartition("/")[2], score, share=False)


def _cosine(asked: Asked) -> Metric:
    output, expected = _floats(asked)
    wanted = expected.reshape(len(expected), -1).astype(np.float64)

    def score(outputs: Arrays) -> float:
        found = outputs[output].reshape(wanted.shape).astype(np.float64)
        lengths = np.linalg.norm(wanted, axis=1) * np.linalg.norm(found, axis=1)
        products = (wanted * found).sum(1)
        return float(np.where(lengths > 0, products / np.where(lengths > 0, lengths, 1), lengths == 0).mean())

    return Metric("cosine", score)


def _accuracy(asked: Asked) -> Metric:
    if asked.labels is None:
        raise ToolkitError("accuracy needs labels: name their array with --labels, or labels in [data]")
    found = decisions(asked.expected, asked.output)
    if found is None:
        return _accuracy_of_one_score(asked, asked.labels)
    labels = _as_decisions(asked, asked.labels, found)

    def score(outputs: Arrays) -> float:
        decided = decisions(outputs, asked.output)
        return 0.0 if decided is None else float((decided == labels).mean())

    return Metric("accuracy", score, rows=len(labels))


def _accuracy_of_one_score(asked: Asked, labels: Array) -> Metric:
    """The accuracy of an output with one float per row: a probability above 0.5, or a logit above 0, means class 1."""
    output, scores = _floats(asked)
    positive = _binary(labels, output, scores)
    edge = 0.5 if scores.min() >= 0 and scores.max() <= 1 else 0.0

    def score(outputs: Arrays) -> float:
        return float(((outputs[output].reshape(-1) > edge) == positive).mean())

    return Metric("accuracy", score, rows=len(positive))


def _binary(labels: Array, output: str, scores: Array) -> Array:
    if scores.reshape(len(scores), -1).shape[1] != 1 or set(np.unique(labels).tolist()) - {0, 1}:
        raise ToolkitError(
            f"accuracy needs an output with a class or a score for each class; {output} has the shape "
            f"{list(scores.shape)}, and the labels are {_shown(labels)}"
        )
    return labels.astype(bool)


def _as_decisions(asked: Asked, labels: Array, found: Array) -> Array:
    """The labels, in the kind of values that the outputs decide between.

    Raises:
        ToolkitError: A label is not a class of the model.
    """
    if labels.dtype.kind in "US" and found.dtype.kind in "iu":
        index = {name: number for number, name in enumerate(asked.classes)}
        _refuse_unknown(labels, set(index))
        return np.array([index[label] for label in labels.tolist()])
    columns = _columns(asked)
    if labels.dtype.kind in "iuf" and found.dtype.kind in "iu":
        known = {int(name) for name in asked.classes if name.lstrip("-").isdigit()}
        known = known if known else set(range(columns)) if columns else set(np.unique(found).tolist())
        if asked.classes or columns or not set(np.unique(labels).tolist()) & known:
            _refuse_unknown(labels, known)
        return labels.astype(np.int64)
    return labels.astype(str) if found.dtype.kind in "OUS" else labels


def _columns(asked: Asked) -> int:
    """The number of classes that the outputs have scores for; 0 if that is not known."""
    tables = [a for a in asked.expected.values() if a.dtype.kind == "f" and a.ndim == 2 and a.shape[1] > 1]
    return tables[0].shape[1] if len(tables) == 1 else 0


def _refuse_unknown(labels: Array, known: set[int] | set[str]) -> None:
    unknown = sorted(set(np.unique(labels).tolist()) - known)
    if unknown:
        classes = ", ".join(map(str, sorted(known, key=str)[:12])) or "without names"
        raise ToolkitError(
            f"labels must be classes of the model ({classes}); {len(unknown)} are not, the first of them {unknown[0]}"
        )


def _regression(name: str, asked: Asked) -> Metric:
    output, expected = _floats(asked)
    labels = expected.reshape(-1) if asked.labels is None else asked.labels
    if labels.dtype.kind not in "iuf":
        raise ToolkitError(f"{name} needs labels that are numbers; they are {_shown(labels)}")
    if expected.size != len(labels):
        raise ToolkitError(f"{name} needs an output of one number a row; {output} has the shape {list(expected.shape)}")
    wanted = labels.astype(np.float64)
    spread = float(((wanted - wanted.mean()) ** 2).mean())

    def score(outputs: Arrays) -> float:
        error = float(((outputs[output].reshape(-1).astype(np.float64) - wanted) ** 2).mean())
        if name == "mean_squared_error":
            return error
        return 1 - error / spread if spread else float(error == 0)

    return Metric(name, score, share=name == "r2", lower_is_better=name != "r2")


def _floats(asked: Asked) -> tuple[str, Array]:
    """The name and the values of the output to measure, which must be floats."""
    chosen = {asked.output: asked.expected[asked.output]} if asked.output else asked.expected
    for output, array in chosen.items():
        if array.dtype.kind == "f":
            return output, array
    raise ToolkitError(f"no output is a float: {', '.join(f'{k} is {a.dtype}' for k, a in chosen.items())}")


def _shown(labels: Array) -> str:
    values = np.unique(labels)
    return ", ".join(map(str, values[:5].tolist())) + (", ..." if len(values) > 5 else "")
