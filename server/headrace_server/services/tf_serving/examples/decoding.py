"""The tf.Examples of a request: serialized, as a graph parses them, or taken apart into one array per feature."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from headrace_batching.task import Array, Arrays
from headrace_protos import DataType, Example, Feature, Input
from headrace_protos.tensor import dtype_name
from headrace_server.backends.signature import Signature, TensorSpec
from headrace_server.errors import invalid

INPUTS = "inputs"
"""TF Serving: the alias of the one input that takes Examples as they are."""

# A feature's list, and what TensorFlow calls the type of its values.
_TYPES = {"float_list": "float", "int64_list": "int64", "bytes_list": "string"}

_LISTS = {"b": "int64_list", "i": "int64_list", "u": "int64_list", "O": "bytes_list"}


@dataclass(frozen=True, slots=True)
class Examples:
    """The Examples of one request, and the one whose features they share; never empty."""

    examples: Sequence[Example]
    context: Example

    def __len__(self) -> int:
        return len(self.examples)

    def arrays(self, signature: Signature) -> Arrays:
        """The inputs of a signature: one row for each Example.

        Raises:
            ServingError: INVALID_ARGUMENT, a feature is missing or not what its input takes. TF Serving: the texts are
                those of TensorFlow's ParseExample.
        """
        if not signature.features:
            return {INPUTS: self._serialized()}
        return self._features(signature)

    def _serialized(self) -> Array:
        """Strings [n]. TF Serving: the context's bytes, then the Example's; a parser merges the two."""
        shared = self.context.SerializeToString()
        array = np.empty(len(self), np.object_)
        array[:] = [shared + example.SerializeToString() for example in self.examples]
        return array

    def _features(self, signature: Signature) -> Arrays:
        shared = self.context.features.feature
        own = [example.features.feature for example in self.examples]
        return {
            alias: _array(alias, spec, [features.get(alias, shared.get(alias)) for features in own])
            for alias, spec in signature.inputs.items()
        }


def read_examples(message: Input) -> Examples:
    """The Examples in a request.

    Raises:
        ServingError: INVALID_ARGUMENT, there are none.
    """
    with_context = message.example_list_with_context
    examples = message.example_list.examples or with_context.examples
    if not examples:
        raise invalid("Input is empty.")
    return Examples(examples, with_context.context)


def shape_text(shape: Iterable[int]) -> str:
    """A shape as TensorFlow writes it."""
    return "[" + ",".join(map(str, shape)) + "]"


def _array(name: str, spec: TensorSpec, features: Sequence[Feature | None]) -> Array:
    """An array of an input's dtype and inner shape, one row for each Example's feature of its name."""
    kind = _LISTS.get(spec.array_dtype.kind, "float_list")
    rows = [_values(name, kind, index, feature) for index, feature in enumerate(features)]
    shape = _row_shape(name, spec, rows[0])
    size = prod(shape)
    for index, row in enumerate(rows):
        if len(row) != size:
            text = f"Number of {_TYPES[kind]} values != expected.  Values size: {len(row)} but output shape: "
            raise _wrong(name, index, text + shape_text(shape))
    return _converted(name, spec, rows).reshape(len(rows), *shape)


def _values(name: str, kind: str, index: int, feature: Feature | None) -> Sequence[Any]:
    values: Sequence[Any] = getattr(feature, kind).value[:] if feature is not None else ()
    if values:
        return values
    found = feature.WhichOneof("kind") if feature is not None else None
    if found is None:
        missing = f"Feature: {name} (data type: {_TYPES[kind]}) is required but could not be found."
        raise invalid(f"Name: <unknown>, {missing}")
    if found != kind:
        text = f"Data types don't match. Data type: {_TYPES[found]} but expected type: {_TYPES[kind]}"
        raise _wrong(name, index, text)
    return values


def _wrong(name: str, index: int, text: str) -> Exception:
    return invalid(f"Name: <unknown>, Key: {name}, Index: {index}.  {text}")


def _row_shape(name: str, spec: TensorSpec, row: Sequence[Any]) -> tuple[int, ...]:
    """The shape of one Example's values; one dimension that varies is as long as the first Example makes it."""
    inner = spec.shape[1:]
    known = prod(size for size in inner if size is not None)
    if inner.count(None) > 1:
        text = f"Feature: {name} has values for more than one dimension that varies: {spec.shape}"
        raise invalid(text)
    varying = len(row) // known if known else 0
    return tuple(varying if size is None else size for size in inner)


def _converted(name: str, spec: TensorSpec, rows: Sequence[Sequence[Any]]) -> Array:
    if spec.dtype == DataType.DT_STRING:
        array = np.empty(sum(map(len, rows)), np.object_)
        array[:] = [value for row in rows for value in row]
        return array
    if spec.array_dtype.kind == "b":
        return np.array(rows, np.int64).astype(np.bool_)
    try:
        return np.array(rows, spec.array_dtype)
    except OverflowError as error:
        raise invalid(f"Feature: {name} has a value that no {dtype_name(spec.dtype)} holds: {error}") from error
