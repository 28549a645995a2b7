"""Converts the body of an /invocations call to arrays, as `mlflow models serve` does.

As in numpy's conversion of lists, a string that contains a number becomes that number, and null becomes NaN.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import orjson

from headrace_batching.task import Array, Arrays
from headrace_protos import DataType
from headrace_server.backends.signature import TensorSpec
from headrace_server.errors import invalid
from headrace_server.services.json.arrays import to_array
from headrace_server.services.mlflow.frames import Frame, read_csv, read_records, read_split

Specs = Mapping[str, TensorSpec]


@dataclass(frozen=True, slots=True)
class Declared:
    """The inputs that a model takes.

    Attributes:
        inputs: The inputs that the model needs, by alias.
        extra: The inputs that the model has values of its own for, and that `params` may set.
    """

    inputs: Specs
    extra: Specs

    @property
    def every(self) -> Specs:
        """All inputs that a request may set, by alias."""
        return {**self.extra, **self.inputs} if self.extra else self.inputs


FORMATS = ("instances", "dataframe_records", "dataframe_split", "inputs")
REQUIRED = f"The input must be a JSON dictionary with exactly one of the input fields {{{str(FORMATS)[1:-1]}}}"
PARAMS = "params"

_WORDS = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Scoring:
    """The content of a body.

    Attributes:
        inputs: Arrays by alias, only for inputs that the model has.
        names: Every name that the body gives a value for.
        by_record: Whether the body is a table of plain values, so that the answer is a table, too.
    """

    inputs: Arrays
    names: tuple[str, ...]
    by_record: bool = False


def read_json_scoring(data: bytes, declared: Declared) -> Scoring:
    """Reads a body of JSON.

    Args:
        data: The body.
        declared: The inputs that the model takes.

    Raises:
        ServingError: INVALID_ARGUMENT. MLflow's scoring_server and proto_json_utils.py have the texts.
    """
    document = _document(data)
    formats = [name for name in document if name in FORMATS]
    if len(formats) != 1:
        raise invalid(f"{REQUIRED}. Received dictionary with input fields: {formats}")
    (name,) = formats
    scoring = _READERS[name](document[name], declared)
    params = document.get(PARAMS)
    if not isinstance(params, dict):
        return scoring
    values = {key: _of_params(params[key], spec) for key, spec in declared.extra.items() if key in params}
    return Scoring({**values, **scoring.inputs}, (*values, *scoring.names), scoring.by_record)


def read_csv_scoring(data: bytes, declared: Declared) -> Scoring:
    """Reads a body of CSV; see `read_json_scoring`."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise invalid(
            f"Invalid input. Ensure that input is a valid UTF-8 encoded string. Error: '{error!r}'"
        ) from error
    return _of_frame(read_csv(text), declared)


def _document(data: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        document = _tolerantly(data)  # Python's own parser accepts NaN
    if isinstance(document, dict):
        return document
    if isinstance(document, list):
        raise invalid(f"Invalid input. {REQUIRED}. Received a list.")
    raise invalid(f"Invalid input. {REQUIRED}. Received unexpected input type '{type(document)}.")


def _tolerantly(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise invalid(
            f"Invalid input. Ensure that input is a valid JSON formatted string. Error: '{_shown(error)}'"
        ) from error


def _shown(error: Exception) -> str:
    """The error as MLflow shows it, but without the body, which MLflow repeats if it is not UTF-8."""
    return f"{type(error).__name__}({str(error)!r})"


def _of_instances(value: Any, declared: Declared) -> Scoring:
    """The inputs from rows: a list of rows, or of objects with a value for each input."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        if not all(isinstance(row, dict) and row.keys() == value[0].keys() for row in value):
            raise invalid("Invalid input. The length of values for each input/column name are not the same")
        value = {name: [row[name] for row in value] for name in value[0]}
    scoring = _of_inputs(value, declared)
    if len({len(array) if array.ndim else 0 for array in scoring.inputs.values()}) > 1:
        raise invalid("Invalid input. The length of values for each input/column name are not the same")
    return scoring


def _of_inputs(value: Any, declared: Declared) -> Scoring:
    """The inputs as a whole: an object with an array for each, or the array of the only input."""
    if isinstance(value, dict):
        every = declared.every.items()
        return Scoring({name: _array(value[name], spec) for name, spec in every if name in value}, (*value,))
    if len(declared.inputs) != 1:
        return Scoring({}, ())
    ((name, spec),) = declared.inputs.items()
    return Scoring({name: _array(value, spec)}, (name,))


def _of_frame(frame: Frame, declared: Declared) -> Scoring:
    """The inputs from a table: columns with the names of inputs; otherwise all columns together are the only input."""
    flat, specs = frame.is_flat, declared.every
    if len(declared.inputs) != 1 or not specs.keys().isdisjoint(frame.columns):
        columns = {name: frame.column(name) for name in specs if name in frame.columns}
        arrays = {name: _shaped(_array(cells, specs[name]), specs[name]) for name, cells in columns.items()}
        return Scoring(arrays, (*frame.columns,), flat)
    ((name, spec),) = declared.inputs.items()
    if len(frame.columns) == 1 and not flat:
        return Scoring({name: _shaped(_array(frame.column(frame.columns[0]), spec), spec)}, (name,))
    return Scoring({name: _array(list(map(list, frame.rows)), spec)}, (name,), flat)


def _of_params(value: Any, spec: TensorSpec) -> Array:
    """A parameter as an array: a single number fills an input of any rank."""
    array = _array(value, spec)
    return array if array.ndim or spec.any_rank else array.reshape((1,) * len(spec.shape))


def _shaped(array: Array, spec: TensorSpec) -> Array:
    """The cells of a column, which the client may have flattened, in the shape that the model declares."""
    if spec.any_rank or not array.ndim:
        return array
    inner = spec.fixed
    if inner is None and array.ndim == 1:
        inner = tuple(size or 1 for size in spec.shape[1:])
    fits = inner is not None and array.size == len(array) * prod(inner)
    return array.reshape(len(array), *inner) if inner is not None and fits else array


def _array(value: Any, spec: TensorSpec) -> Array:
    if spec.dtype == DataType.DT_STRING:
        return to_array(value, spec.dtype)
    if spec.dtype == DataType.DT_BOOL:
        value = _truths(value)
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            return np.array(value, spec.array_dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise invalid(f"Invalid input. {error}") from error


def _truths(value: Any) -> Any:
    """The words of a CSV as the booleans that they stand for; numpy takes every non-empty text for true."""
    if isinstance(value, list):
        return [_truths(item) for item in value]
    return _WORDS.get(value.lower(), value) if isinstance(value, str) else value


_READERS: Mapping[str, Callable[[Any, Declared], Scoring]] = {
    "instances": _of_instances,
    "inputs": _of_inputs,
    "dataframe_split": lambda value, declared: _of_frame(read_split(value), declared),
    "dataframe_records": lambda value, declared: _of_frame(read_records(value), declared),
}
