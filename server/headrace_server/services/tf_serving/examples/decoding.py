"""The tf.Examples of a request: serialized, for a graph that parses them, or converted to one array per feature."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from threading import Event
from typing import Any

import numpy as np

from headrace_batching.task import Array, Arrays
from headrace_protos import Code, DataType, Example, Feature, Input
from headrace_protos.tensor import dtype_name
from headrace_server.backends.signature import Signature, TensorSpec
from headrace_server.errors import ServingError, invalid

INPUTS = "inputs"
"""The alias that TF Serving gives the one input that takes serialized Examples."""

AT_ONCE = 256
"""The maximum number of Examples that are decoded in the event loop, in a few milliseconds."""

# A feature's list, and TensorFlow's name for the type of its values.
_TYPES = {"float_list": "float", "int64_list": "int64", "bytes_list": "string"}

_LISTS = {"b": "int64_list", "i": "int64_list", "u": "int64_list", "O": "bytes_list"}


@dataclass(frozen=True, slots=True)
class Examples:
    """The Examples of one request, at least one, and the context: an Example whose features all of them share."""

    examples: Sequence[Example]
    context: Example

    def __len__(self) -> int:
        return len(self.examples)

    async def decoded(self, signature: Signature) -> Arrays:
        """Like `arrays`, but many Examples are decoded on another thread, which stops once nothing waits for them."""
        if len(self) <= AT_ONCE:
            return self.arrays(signature)
        abandoned = Event()
        try:
            return await asyncio.to_thread(self.arrays, signature, abandoned.is_set)
        finally:
            abandoned.set()

    def arrays(self, signature: Signature, abandoned: Callable[[], bool] = lambda: False) -> Arrays:
        """The inputs of a signature: one row for each Example.

        Args:
            signature: The signature that the features are inputs of.
            abandoned: Returns whether nothing waits for the inputs; called at intervals.

        Raises:
            ServingError: INVALID_ARGUMENT if a feature is missing or does not fit its input, in the words of
                TensorFlow's ParseExample; CANCELLED if the decoding was abandoned.
        """
        if not signature.features:
            return {INPUTS: self._serialized()}
        return self._features(signature, abandoned)

    def _serialized(self) -> Array:
        """The Examples as strings [n]. As in TF Serving, each is the context and the Example, which a parser merges."""
        shared = self.context.SerializeToString()
        array = np.empty(len(self), np.object_)
        array[:] = [shared + example.SerializeToString() for example in self.examples]
        return array

    def _features(self, signature: Signature, abandoned: Callable[[], bool]) -> Arrays:
        shared = self.context.features.feature
        columns = [_Column(alias, spec) for alias, spec in signature.inputs.items()]
        for index, example in enumerate(self.examples):
            if index % AT_ONCE == 0 and abandoned():
                raise ServingError(Code.CANCELLED, "the call ended before its Examples were decoded")
            features = example.features.feature
            for column in columns:
                column.add(index, features.get(column.name, shared.get(column.name)))
        return {column.name: column.array() for column in columns}


def read_examples(message: Input) -> Examples:
    """Reads the Examples in a request.

    Raises:
        ServingError: INVALID_ARGUMENT if there are none.
    """
    with_context = message.example_list_with_context
    examples = message.example_list.examples or with_context.examples
    if not examples:
        raise invalid("Input is empty.")
    return Examples(examples, with_context.context)


def shape_text(shape: Iterable[int]) -> str:
    """A shape as TensorFlow writes it."""
    return "[" + ",".join(map(str, shape)) + "]"


class _Column:
    """The values of one feature, Example by Example: the first one that does not fit is refused, whatever follows.

    Args:
        name: The feature's name, which is the input's alias.
        spec: The declaration of the input.
    """

    def __init__(self, name: str, spec: TensorSpec) -> None:
        self.name = name
        self._spec = spec
        self._kind = _LISTS.get(spec.array_dtype.kind, "float_list")
        self._shape: tuple[int, ...] = ()
        self._size = 0
        self._rows: list[Sequence[Any]] = []

    def add(self, index: int, feature: Feature | None) -> None:
        """Adds an Example's feature with this name, None for an Example without it."""
        row = _values(self.name, self._kind, index, feature)
        if not self._rows:
            self._shape = _row_shape(self.name, self._spec, row)
            self._size = prod(self._shape)
        if len(row) != self._size:
            text = f"Number of {_TYPES[self._kind]} values != expected.  Values size: {len(row)} but output shape: "
            raise _wrong(self.name, index, text + shape_text(self._shape))
        self._rows.append(row)

    def array(self) -> Array:
        """An array of the input's dtype and inner shape, one row for each Example."""
        return _converted(self.name, self._spec, self._rows).reshape(len(self._rows), *self._shape)


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
    """The shape of one Example's values; one varying dimension is as long as in the first Example."""
    inner = spec.shape[1:]
    known = prod(size for size in inner if size is not None)
    if inner.count(None) > 1:
        text = f"Feature: {name} has values for more than one varying dimension: {spec.shape}"
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
        raise invalid(f"Feature: {name} has a value that {dtype_name(spec.dtype)} cannot hold: {error}") from error
