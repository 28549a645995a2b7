"""A source whose framework's converter builds the ONNX graph in memory: scikit-learn, XGBoost, LightGBM."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headrace_batching.task import Array, Arrays
from headrace_server.backends.signature import Signature, TensorSpec
from headrace_toolkit.errors import ToolkitError, first_line, require
from headrace_toolkit.graph import rename, save, strip
from headrace_toolkit.running import signature_of
from headrace_toolkit.sources.base import Exported, Origin, SourceOptions
from headrace_toolkit.specs import read_spec

DEFAULT_INPUT = "x"

_NO_NAME = re.compile(r"keras_tensor(_\d+)?|serving_default_.*|input(_layer)?(_\d+)?|inputs|args_0")
"""Names that exporters give to an input without a name."""

Answer = Callable[[Arrays], Sequence[Array]]
"""The framework's own outputs, in the order of the graph's."""


@dataclass(frozen=True, slots=True)
class SavedModel:
    """A model in TensorFlow's format.

    Attributes:
        folder: The folder with `saved_model.pb`.
        signature: The name of the signature that is converted.
    """

    folder: Path
    signature: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """A model and its graph.

    Attributes:
        origin: The origin of the model.
        model: The graph, an `onnx.ModelProto`.
        answer: Computes the framework's own answers.
        signature: The graph's inputs and outputs.
        notes: Messages about the conversion for the user.
        labels: The classes by index, if they are known.
        saved_model: Writes the model as a SavedModel for TensorFlow's own converter; None for other frameworks.
    """

    origin: Origin
    model: Any
    answer: Answer
    signature: Signature
    notes: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    saved_model: "Callable[[Path], SavedModel] | None" = None

    def run(self, inputs: Arrays) -> Arrays:
        """The framework's own answers."""
        try:
            answers = self.answer(inputs)
        except Exception as error:
            raise ToolkitError(f"{self.origin} refuses the rows: {first_line(error)}") from error
        return dict(zip(self.signature.outputs, answers, strict=True))

    def export(self, folder: Path) -> Exported:
        """The graph as a file."""
        return Exported(model=save(self.model, folder), notes=self.notes, labels=self.labels)


def converted(origin: Origin, model: Any, answer: Answer, options: SourceOptions, **more: Any) -> Converted:
    """The source for a graph, with its outputs named as the user wants.

    Args:
        origin: The origin of the model.
        model: The graph; it is changed.
        answer: Computes the framework's own answers.
        options: The user's names.
        more: `notes`, `labels` and `saved_model`.
    """
    _rename_outputs(origin, model, options.outputs)
    answer = _users_name(model, answer, options)
    strip(model)
    signature = signature_of(model.SerializeToString(), origin.name)
    return Converted(origin=origin, model=model, answer=answer, signature=signature, **more)


def one_table(origin: Origin, options: SourceOptions, columns: int) -> TensorSpec:
    """The only input of a tabular model: the one that the user described, or `x`, float32[N,columns].

    Raises:
        ToolkitError: The user describes several inputs, or one of another width.
    """
    if not options.inputs:
        return read_spec(DEFAULT_INPUT, f"float32[N,{columns}]")
    if len(options.inputs) > 1:
        raise ToolkitError(
            f"{origin.name} takes one table of {columns} columns, but {len(options.inputs)} inputs were named"
        )
    (spec,) = options.inputs.values()
    if len(spec.shape) != 2 or spec.shape[1] != columns:
        raise ToolkitError(f"{origin.name} takes {columns} columns, as in {spec.name}=float32[N,{columns}]")
    return spec


def table_of(inputs: Arrays) -> Array:
    """The only input."""
    (table,) = inputs.values()
    return table


def both_classes(positive: Array) -> Array:
    """Probabilities [N, 2] of both classes from those of the second class, [N]."""
    return np.stack([1 - positive, positive], axis=1)


def _users_name(model: Any, answer: Answer, options: SourceOptions) -> Answer:
    """Renames a single input that only an exporter has named to the user's name for it."""
    (first, *others), rows = model.graph.input, list(options.example or ())
    made = first.name
    if others or len(rows) != 1 or not rows[0] or rows[0] == made or not _NO_NAME.fullmatch(made):
        return answer
    rename(model, {made: rows[0]})
    return lambda inputs: answer({made: inputs[rows[0]]})


def _rename_outputs(origin: Origin, model: Any, names: Sequence[str]) -> None:
    if not names:
        return
    outputs = [value.name for value in model.graph.output]
    if len(names) != len(outputs):
        raise ToolkitError(
            f"{origin.name} has {len(outputs)} outputs ({', '.join(outputs)}), but {len(names)} were named"
        )
    helper = require("onnx.helper", "naming outputs", "toolkit")
    for value, name in zip(model.graph.output, names, strict=True):
        if value.name != name:
            model.graph.node.append(helper.make_node("Identity", [value.name], [name], name=f"{name}.named"))
            value.name = name
