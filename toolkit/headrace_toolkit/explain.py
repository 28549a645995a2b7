"""Permutation importance of a published version: how much worse it answers when one input's values are shuffled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace_batching.task import Array, Arrays
from headrace_toolkit.data import Data
from headrace_toolkit.errors import require
from headrace_toolkit.grounds import Grounds, Messages, Plan, settle
from headrace_toolkit.progress import Progress
from headrace_toolkit.published import Model, open_version
from headrace_toolkit.recipe import Recipe
from headrace_toolkit.report import columns
from headrace_toolkit.running import in_parts
from headrace_toolkit.steps.base import in_silence

WIDE = 1024
"""The largest number of values per row that are shuffled one by one; a wider input is shuffled as a whole."""

_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """How important one feature is.

    Attributes:
        name: The input and the position of the value: `x[3]`.
        mean: How much worse the metric is when the feature is shuffled, in the metric's unit: 0.01 is one percentage
            point of a share.
        deviation: The standard deviation over the repeats.
    """

    name: str
    mean: float
    deviation: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What a version's answers depend on.

    Attributes:
        version: The model and the version.
        metric: The metric's name.
        value: The metric of the unchanged rows.
        rows: The number of rows.
        repeats: How often each feature was shuffled.
        features: All features, the most important first.
        messages: Messages for the user.
    """

    version: str
    metric: str
    value: float
    rows: int
    repeats: int
    features: tuple[Importance, ...]
    messages: tuple[str, ...] = ()

    def table(self) -> str:
        """The most important features for a terminal."""
        shown = self.features[:_SHOWN]
        rows = [(one.name, f"{one.mean:.4f}", f"{one.deviation:.4f}", "") for one in shown]
        left = len(self.features) - len(shown)
        return "\n".join(
            [
                f"{self.version}: {self.metric} {self.value:.4f} over {self.rows} rows; how much is lost when a "
                f"feature is shuffled, {self.repeats} times each",
                "",
                *columns(("feature", "loss", "+-", ""), rows),
                *([f"and {left} others"] if left else []),
                *(["", *self.messages] if self.messages else []),
            ]
        )

    def document(self) -> dict[str, Any]:
        """The data for JSON."""
        return {
            "version": self.version,
            "metric": self.metric,
            "value": self.value,
            "rows": self.rows,
            "repeats": self.repeats,
            "features": [{"name": one.name, "mean": one.mean, "deviation": one.deviation} for one in self.features],
        }


def explain(place: str, data: Data, recipe: Recipe, progress: Progress, repeats: int = 5) -> Explanation:
    """Shuffles one feature at a time, with scikit-learn's `permutation_importance`.

    Args:
        place: A version's folder, or an ONNX or TFLite file.
        data: Rows, with labels unless the metric does without.
        recipe: The metric and the seed; the other fields are not used.
        progress: Called with the progress.
        repeats: How often each feature is shuffled.

    Raises:
        ToolkitError: The version cannot be read, or the rows do not fit it, or scikit-learn is not installed.
    """
    permute = require("sklearn.inspection", "explain", "sklearn").permutation_importance
    version, messages = open_version(place), Messages()
    grounds = settle(
        version.source, data, recipe.data, Plan(calibrates=False, classes=(), seed=recipe.seed), messages, progress
    )
    if recipe.data.labels == "" and recipe.data.metric == "":
        messages.notes.append("without labels: compared with the model's own answers to the unchanged rows")
    layout = _Layout.of(grounds.measured.inputs, data)
    model = _Model(version.model, layout, grounds)
    with progress.step(f"explain {version.name}"):
        found = permute(model, layout.table, np.zeros(len(layout.table)), scoring=_Model.score, n_repeats=repeats,
                        random_state=recipe.seed)  # fmt: skip
    features = [
        Importance(name=name, mean=float(mean), deviation=float(spread))
        for name, mean, spread in zip(layout.names, found.importances_mean, found.importances_std, strict=True)
    ]
    return Explanation(
        version=version.name,
        metric=grounds.metric.name,
        value=grounds.metric.score(model.answers(layout.table)),
        rows=len(layout.table),
        repeats=repeats,
        features=tuple(sorted(features, key=lambda one: -one.mean)),
        messages=(*messages.warnings, *messages.notes),
    )


@dataclass(frozen=True, slots=True)
class _Layout:
    """All inputs as one table, [rows, features]; a wide input, or one of strings, is a column of row numbers."""

    table: Array
    names: tuple[str, ...]
    inputs: Mapping[str, Array]
    whole: frozenset[str]

    @classmethod
    def of(cls, inputs: Arrays, data: Data) -> "_Layout":
        parts: list[Array] = []
        names: list[str] = []
        whole = set()
        for name, array in inputs.items():
            if array.dtype.kind not in "biuf" or array.size > WIDE * len(array):
                parts.append(np.arange(len(array), dtype=np.float64)[:, None])
                names.append(name)
                whole.add(name)
            else:
                parts.append(array.reshape(len(array), -1).astype(np.float64))
                names += _feature_names(name, array, data, alone=len(inputs) == 1)
        return cls(np.concatenate(parts, axis=1), tuple(names), inputs, frozenset(whole))

    def inputs_of(self, table: Array) -> dict[str, Array]:
        """The model's inputs from a table."""
        made, start = {}, 0
        for name, array in self.inputs.items():
            width = 1 if name in self.whole else int(np.prod(array.shape[1:], dtype=int))
            part = table[:, start : start + width]
            start += width
            if name in self.whole:
                made[name] = array[part[:, 0].astype(int)]
            else:
                made[name] = part.astype(array.dtype).reshape(len(table), *array.shape[1:])
        return made


class _Model:
    """An estimator as scikit-learn expects it."""

    def __init__(self, model: Model, layout: _Layout, grounds: Grounds) -> None:
        self._model = model
        self._layout = layout
        self._grounds = grounds

    def fit(self, *_: Any) -> None:
        """Does nothing; scikit-learn checks that this method exists."""

    def answers(self, table: Array) -> Arrays:
        """The outputs for a table of features."""
        return in_parts(self._model.run, self._model.signature, self._layout.inputs_of(table), in_silence)

    def score(self, table: Array, labels: Array) -> float:
        """The metric; higher is better. `labels` is ignored: the metric has labels of its own."""
        del labels
        value = self._grounds.metric.score(self.answers(table))
        return -value if self._grounds.metric.lower_is_better else value


def _feature_names(name: str, array: Array, data: Data, *, alone: bool) -> Sequence[str]:
    """The names of a table's columns, or the positions in an input, as in `x[3]`; `x` if a row is a single value."""
    shape = array.shape[1:]
    if data.columns and alone and shape == (len(data.inputs),):
        return list(data.inputs)
    if not shape:
        return [name]
    return [f"{name}[{','.join(map(str, place))}]" for place in np.ndindex(*shape)]
