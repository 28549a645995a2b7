"""Parses the body of an infer call to tensors: JSON, and bytes after it. Source: Triton's http_server.cc.

All of this can be done in another process: it needs only the model's name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from headrace_batching.task import Array
from headrace_protos import DataType
from headrace_protos.tensor import dtype_of
from headrace_server.errors import invalid
from headrace_server.services.open_inference.datatypes import BY_NAME, HALVES
from headrace_server.services.open_inference.parameters import CLASSIFICATION, REGION, REGION_OFFSET, REGION_SIZE
from headrace_server.services.open_inference.request import tag
from headrace_server.services.open_inference.rest.json_values import (
    boolean,
    checked_unsigned,
    items,
    member,
    parameters_of,
    read_document,
    text,
    unreadable,
    unsigned,
)

BINARY_SIZE, BINARY, BINARY_OUTPUT = "binary_data_size", "binary_data", "binary_data_output"
MAX_DEPTH = 100

_INT64 = (-(2**63), 2**63 - 1)
_UINT64 = (0, 2**64 - 1)


@dataclass(frozen=True, slots=True)
class RegionUse:
    """A part of a shared memory region, as a tensor names it."""

    name: str
    size: int
    offset: int


@dataclass(frozen=True, slots=True)
class BodyInput:
    """An input in a body: its values are in `array`, or its bytes in `raw` or in shared memory."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    array: Array | None = None
    raw: Array | None = None
    region: RegionUse | None = None


MAX_TENSORS = 4096
"""The maximum number of inputs, and of outputs, of a request: each costs the server microseconds, and its caller only a
few bytes.
"""

MAX_RANK = 254
"""The maximum number of dimensions of an input, as in a TensorProto."""


@dataclass(frozen=True, slots=True)
class BodyOutput:
    """An output that a body requests."""

    name: str
    binary: bool = False
    classes: int = 0
    region: RegionUse | None = None


@dataclass(frozen=True, slots=True)
class InferBody:
    """The content of a request's body.

    Attributes:
        id: The ID; empty if there is none.
        parameters: The parameters as sent; their types have been checked.
        inputs: The inputs, in the order of the request.
        outputs: The requested outputs, in the order of the request; empty means all.
    """

    id: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    inputs: Sequence[BodyInput] = ()
    outputs: Sequence[BodyOutput] = ()

    @property
    def binary_output(self) -> bool:
        """Whether outputs that are not named are returned as bytes."""
        return bool(self.parameters.get(BINARY_OUTPUT, False))


def read_infer(data: bytes | memoryview, json_size: int, model: str, document: Any = None) -> InferBody:
    """Reads a body.

    Args:
        data: The whole body.
        json_size: The number of bytes of JSON at the beginning of the body; the inputs' bytes follow.
        model: The model's name, for errors.
        document: The JSON, if it has been parsed already.

    Raises:
        ServingError: INVALID_ARGUMENT if the body is not valid.
    """
    if document is None:
        document = read_document(bytes(data[:json_size]))
    identity = text(document, "id") if "id" in document else ""
    parameters = parameters_of(document)
    _check_parameters(parameters)
    reader = _Inputs(model, identity, data, json_size)
    inputs = [reader.read(each) for each in _few(document, "inputs")]
    if reader.at != len(data):
        raise invalid(f"unexpected additional input data for model '{model}'")
    outputs = [_output(each) for each in _few(document, "outputs")] if "outputs" in document else []
    _check_twice([output.name for output in outputs], "output", identity)
    return InferBody(identity, parameters, inputs, outputs)


class _Inputs:
    """Parses inputs one after the other.

    Attributes:
        at: Where in the body the next input's bytes begin.
    """

    def __init__(self, model: str, identity: str, data: bytes | memoryview, json_size: int) -> None:
        self._model = model
        self._tag = tag(identity)
        self._bytes = np.frombuffer(data, np.uint8)
        self._seen: set[str] = set()
        self.at = min(json_size, len(data))

    def read(self, tensor: Any) -> BodyInput:
        parameters = parameters_of(tensor)
        kind = _kind_of_data(tensor, parameters)
        name = text(tensor, "name")
        datatype = text(tensor, "datatype")
        if datatype not in BY_NAME:
            raise invalid(f"invalid datatype for input {name}")
        sizes = items(tensor, "shape")
        if len(sizes) > MAX_RANK:
            raise invalid(f"input '{name}' must have at most {MAX_RANK} dimensions; has {len(sizes)}")
        shape = tuple(checked_unsigned(size, "shape") for size in sizes)
        if name in self._seen:
            raise invalid(f"{self._tag}input '{name}' already exists in request")
        self._seen.add(name)
        if kind == REGION:
            return BodyInput(name, datatype, shape, region=_region(parameters))
        if kind == BINARY_SIZE:
            return self._binary(name, datatype, shape, unsigned(parameters, BINARY_SIZE))
        return BodyInput(name, datatype, shape, array=_array(member(tensor, "data"), name, datatype, shape))

    def _binary(self, name: str, datatype: str, shape: tuple[int, ...], size: int) -> BodyInput:
        start, self.at = self.at, self.at + size
        if self.at > len(self._bytes):
            missing = self.at - len(self._bytes)
            raise invalid(
                f"unexpected size for input '{name}', expecting {missing} additional bytes for model '{self._model}'"
            )
        return BodyInput(name, datatype, shape, raw=self._bytes[start : self.at])


def _kind_of_data(tensor: Any, parameters: Mapping[str, Any]) -> str:
    """The field that has an input's data, or says where they are; exactly one of three must be set."""
    found = ["data"] if isinstance(tensor, dict) and "data" in tensor else []
    found += [name for name in (BINARY_SIZE, REGION) if name in parameters]
    if len(found) == 1:
        return found[0]
    fields = f"'data', '{BINARY_SIZE}' in 'parameters', '{REGION}' in 'parameters'"
    what = f"set {' '.join(repr(name) for name in found)}" if found else "no field is set"
    raise invalid(f"Input must set only one of the following fields: {fields}. But {what}")


def _region(parameters: Mapping[str, Any]) -> RegionUse:
    size = unsigned(parameters, REGION_SIZE) if REGION_SIZE in parameters else 0
    offset = unsigned(parameters, REGION_OFFSET) if REGION_OFFSET in parameters else 0
    return RegionUse(text(parameters, REGION), size, offset)


def _output(output: Any) -> BodyOutput:
    name = text(output, "name")
    parameters = parameters_of(output)
    classes = unsigned(parameters, CLASSIFICATION, "Unable to set") if CLASSIFICATION in parameters else 0
    binary = boolean(parameters, BINARY) if BINARY in parameters else False
    if REGION not in parameters:
        return BodyOutput(name, binary, classes)
    for other, given in ((CLASSIFICATION, classes), (BINARY, binary)):
        if given:
            raise invalid(f"Output can't set both '{REGION}' and '{other}'")
    return BodyOutput(name, region=_region(parameters))


def _check_parameters(parameters: Mapping[str, Any]) -> None:
    for name, value in parameters.items():
        if name in ("priority", "timeout"):
            checked_unsigned(value, name)
        elif name in ("sequence_start", "sequence_end", BINARY_OUTPUT):
            boolean(parameters, name)
        elif name.startswith("triton_"):
            raise invalid(
                "parameter keys starting with 'triton_' are reserved for Triton usage and should not be specified."
            )
        elif name == "sequence_id" and not isinstance(value, str):
            checked_unsigned(value, name)
        elif not isinstance(value, bool | int | str | float):
            raise invalid(f"parameter '{name}' has invalid type. It should be either 'int', 'bool', or 'string'.")


def _few(document: Any, what: str) -> Sequence[Any]:
    """The inputs or outputs of a request; refuses more than any model has."""
    every = items(document, what)
    if len(every) > MAX_TENSORS:
        raise invalid(f"a request must have at most {MAX_TENSORS} {what}; has {len(every)}")
    return every


def _check_twice(names: Sequence[str], what: str, identity: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise invalid(f"{tag(identity)}{what} '{name}' already exists in request")
        seen.add(name)


def _array(data: Any, name: str, datatype: str, shape: tuple[int, ...]) -> Array:
    """The values of an input, in an array of one dimension; their nesting does not matter."""
    if datatype in HALVES:
        raise invalid(
            f"receiving {datatype} data via JSON is not supported. Please use the binary data format for input {name}"
        )
    dtype = BY_NAME[datatype].data_type
    count = prod(shape)
    if not count:
        return np.empty(0, dtype_of(dtype))  # Triton does not look at the data of a tensor without elements
    if not isinstance(data, list):
        if shape:
            raise unreadable("data", "attempt to access JSON non-array as array")
        data = [data]
    array = values_of(data, dtype)
    if len(array) != count:
        raise invalid("Unable to parse 'data': Shape does not match true shape of 'data' field")
    return array


def values_of(data: list[Any], dtype: DataType) -> Array:
    """The values in nested lists, in an array of one dimension.

    Raises:
        ServingError: INVALID_ARGUMENT if a value does not fit the dtype, or the lists are nested too deeply.
    """
    return _converted(_flat(data), dtype)


def _flat(data: list[Any]) -> list[Any]:
    """The values in nested lists, in order.

    Raises:
        ServingError: INVALID_ARGUMENT if the lists are nested too deeply.
    """
    flat, nested = [], [iter(data)]
    while nested:
        for value in nested[-1]:
            if type(value) is list:
                if len(nested) == MAX_DEPTH:
                    raise invalid(
                        f"Unable to parse 'data': JSON nesting depth exceeds maximum allowed limit ({MAX_DEPTH})"
                    )
                nested.append(iter(value))
                break
            flat.append(value)
        else:
            nested.pop()
    return flat


def _converted(values: list[Any], dtype: DataType) -> Array:
    types = set(map(type, values))
    numpy = dtype_of(dtype)
    if dtype == DataType.DT_STRING:
        return _strings(values, types)
    if dtype == DataType.DT_BOOL:
        _require(types <= {bool}, "attempt to access JSON non-boolean as boolean")
        return np.array(values, numpy)
    if dtype in (DataType.DT_FLOAT, DataType.DT_DOUBLE):
        _require(types <= {int, float}, "attempt to access JSON non-number as double")
        with np.errstate(over="ignore"):  # a number that is too large for a float becomes infinite
            return np.array(values, np.float64).astype(numpy, copy=False)
    unsigned_type = numpy.kind == "u"
    lowest, highest = _UINT64 if unsigned_type else _INT64
    kind = "unsigned-integer" if unsigned_type else "signed-integer"
    whole = types <= {int} and (not values or (lowest <= min(values) and max(values) <= highest))
    _require(whole, f"attempt to access JSON non-{kind} as {kind}")
    return np.array(values, np.uint64 if unsigned_type else np.int64).astype(numpy)  # wraps around, as in Triton


def _strings(values: list[Any], types: set[type]) -> Array:
    if not types <= {str}:
        raise invalid("Unable to parse JSON bytes array: attempt to access JSON non-string as string")
    array = np.empty(len(values), np.object_)
    array[:] = [value.encode(errors="surrogateescape") for value in values]
    return array


def _require(holds: bool, why: str) -> None:
    if not holds:
        raise unreadable("data", why)
