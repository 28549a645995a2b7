"""The tensors of an ONNX model that are stored in separate files: the location and the values of each."""

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headrace_batching.task import Array
from headrace_protos.tensor import dtype_of
from headrace_server.backends.onnx.schema import BYTES, DTYPES, INT, MANY, ONE, TEXT, Field, message_class
from headrace_server.errors import invalid, unreadable

_MESSAGES: dict[str, tuple[Field, ...]] = {
    "ModelProto": (("graph", 7, "GraphProto", ONE), ("functions", 25, "FunctionProto", MANY)),
    "FunctionProto": (("node", 7, "NodeProto", MANY),),
    "GraphProto": (
        ("node", 1, "NodeProto", MANY),
        ("initializer", 5, "TensorProto", MANY),
        ("output", 12, "ValueInfoProto", MANY),
        ("sparse_initializer", 15, "SparseTensorProto", MANY),
    ),
    "ValueInfoProto": (("name", 1, TEXT, ONE),),
    "NodeProto": (
        ("input", 1, TEXT, MANY),
        ("op_type", 4, TEXT, ONE),
        ("attribute", 5, "AttributeProto", MANY),
        ("domain", 7, TEXT, ONE),
    ),
    "AttributeProto": (
        ("t", 5, "TensorProto", ONE),
        ("g", 6, "GraphProto", ONE),
        ("tensors", 10, "TensorProto", MANY),
        ("graphs", 11, "GraphProto", MANY),
        ("sparse_tensor", 22, "SparseTensorProto", ONE),
        ("sparse_tensors", 23, "SparseTensorProto", MANY),
    ),
    "SparseTensorProto": (("values", 1, "TensorProto", ONE), ("indices", 2, "TensorProto", ONE)),
    "TensorProto": (
        ("dims", 1, INT, MANY),
        ("data_type", 2, INT, ONE),
        ("name", 8, TEXT, ONE),
        ("raw_data", 9, BYTES, ONE),
        ("external_data", 13, "Entry", MANY),
        ("data_location", 14, INT, ONE),
    ),
    "Entry": (("key", 1, TEXT, ONE), ("value", 2, TEXT, ONE)),
}

KEY = b"location"
"""The key of an entry that every external tensor has."""

_EXTERNAL = 1  # onnx.TensorProto.DataLocation

_BITS = {14: 64, 15: 128, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2}
"""The element types for which numpy has no dtype: complex, 8-bit floats, 4 and 2 bits. ONNX: onnx.proto."""

_OTHERS = {0: "UNDEFINED", 8: "STRING"}
"""The names of the element types without a fixed size, whose data cannot be external."""

_DTYPES = {number: dtype for number, dtype in DTYPES.items() if number not in _OTHERS}


@dataclass(frozen=True, slots=True)
class ExternalTensor:
    """A tensor whose data are in a file outside the model.

    Attributes:
        name: The tensor's name in the graph.
        file: The tensor's file; links are followed.
        offset: The offset of the tensor's first byte.
        dtype: The tensor's element type.
        shape: The tensor's shape.
        only_gathered: Whether only Gather nodes use the tensor, as their table. Gather reads it unchanged, so sessions
            may share it. Operators that multiply keep reordered copies instead.
    """

    name: str
    file: Path
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    only_gathered: bool

    @property
    def size(self) -> int:
        """The number of bytes of the tensor."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> Array:
        """Reads the tensor's values into memory of its own.

        Raises:
            ServingError: The file cannot be read, or is too short.
        """
        array: Array = np.empty(self.shape, self.dtype)
        _read_into(array.reshape(-1).view(np.uint8).data, self.file, self.offset, self.name)
        return array


@dataclass(frozen=True, slots=True)
class ExternalData:
    """The data of a model that are stored outside its own file.

    Attributes:
        model: The serialized model, to be loaded together with `tensors`; tensors in subgraphs, and those without a
            dtype, are part of it.
        tensors: The other tensors.
        files: All files that hold the tensors.
    """

    model: bytes
    tensors: tuple[ExternalTensor, ...]
    files: tuple[Path, ...]


def external_data_of(folder: Path, content: bytes) -> ExternalData | None:
    """The external data of an ONNX model; None if it has none.

    Args:
        folder: The folder of the external data.
        content: The serialized model. If its bytes do not contain KEY, it has no external data.

    Raises:
        ServingError: INVALID_ARGUMENT if a tensor's file lies outside the model's folder, or its entry is invalid;
            another code if a file cannot be read.
        google.protobuf.message.DecodeError: It is not an ONNX model.
    """
    message = message_class("headrace.onnx_external", _MESSAGES).FromString(content)
    external = [tensor for tensor in _tensors(message) if tensor.data_location == _EXTERNAL]
    if not external:
        return None
    files = dict.fromkeys(_file(folder, tensor) for tensor in external)
    gathered = _only_gathered(message.graph)
    tensors = [
        _external(folder, tensor, only_gathered=tensor.name in gathered)
        for tensor in message.graph.initializer
        if tensor.data_location == _EXTERNAL and tensor.data_type in _DTYPES
    ]
    given = {tensor.name for tensor in tensors}
    inner = [tensor for tensor in _tensors(message) if tensor.data_location == _EXTERNAL and tensor.name not in given]
    for tensor in inner:
        _put_in(folder, tensor)
    return ExternalData(message.SerializeToString() if inner else content, tuple(tensors), tuple(files))


def _tensors(message: Any) -> Iterator[Any]:
    """Every tensor of a model, including those of subgraphs and functions."""
    yield from _in_graph(message.graph)
    for function in message.functions:
        yield from _in_nodes(function.node)


def _in_graph(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    yield from _in_sparse(graph.sparse_initializer)
    yield from _in_nodes(graph.node)


def _in_nodes(nodes: Any) -> Iterator[Any]:
    for node in nodes:
        for attribute in node.attribute:
            yield from attribute.tensors
            yield from _in_sparse(attribute.sparse_tensors)
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("sparse_tensor"):
                yield from _in_sparse([attribute.sparse_tensor])
            for graph in _graphs(attribute):
                yield from _in_graph(graph)


def _in_sparse(tensors: Any) -> Iterator[Any]:
    for tensor in tensors:
        yield from (tensor.values, tensor.indices)


def _graphs(attribute: Any) -> list[Any]:
    return [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]


def _only_gathered(graph: Any) -> set[str]:
    """The names that a graph's nodes use as Gather's table, and for nothing else."""
    gathered: Counter[str] = Counter()
    for node in graph.node:
        if node.op_type == "Gather" and not node.domain and node.input:
            gathered[node.input[0]] += 1
    used = Counter(_uses(graph))
    return {name for name, count in gathered.items() if used[name] == count}


def _uses(graph: Any) -> Iterator[str]:
    for value in graph.output:
        yield value.name
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in _graphs(attribute):
                yield from _uses(inner)


def _external(folder: Path, tensor: Any, *, only_gathered: bool) -> ExternalTensor:
    dtype = dtype_of(_DTYPES[tensor.data_type])
    shape = tuple(tensor.dims)
    where = ExternalTensor(tensor.name, _file(folder, tensor), _offset(tensor), dtype, shape, only_gathered)
    _check_length(tensor, where.size)
    return where


def _put_in(folder: Path, tensor: Any) -> None:
    """Converts an external tensor into an ordinary one."""
    bits = _BITS[tensor.data_type] if tensor.data_type in _BITS else _bits(tensor)
    size = -(-math.prod(tensor.dims) * bits // 8)
    _check_length(tensor, size)
    content = bytearray(size)
    _read_into(memoryview(content), _file(folder, tensor), _offset(tensor), tensor.name)
    tensor.raw_data = bytes(content)
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")


def _bits(tensor: Any) -> int:
    if tensor.data_type not in _DTYPES:
        text = f"tensor {tensor.name!r} has the ONNX data type {_OTHERS.get(tensor.data_type, tensor.data_type)}"
        raise invalid(f"{text}, which cannot be stored as external data")
    return 8 * dtype_of(_DTYPES[tensor.data_type]).itemsize


def _entries(tensor: Any) -> Mapping[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _file(folder: Path, tensor: Any) -> Path:
    """The file that a tensor names: it may be a link to another folder, but must not name another folder."""
    location = _entries(tensor).get(KEY.decode(), "")
    normal = os.path.normpath(location)
    if not location or os.path.isabs(location) or normal.split(os.sep)[0] == os.pardir:
        raise invalid(f"tensor {tensor.name!r} says that its data are in {location!r}, outside the model's folder")
    return folder / normal


def _offset(tensor: Any) -> int:
    return _number(tensor, "offset") or 0


def _check_length(tensor: Any, size: int) -> None:
    length = _number(tensor, "length")
    if length not in (None, size):
        raise invalid(f"tensor {tensor.name!r} has {length} bytes of external data; its shape needs {size}")


def _number(tensor: Any, key: str) -> int | None:
    text = _entries(tensor).get(key)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit():
        raise invalid(f"tensor {tensor.name!r}: the {key} of its external data must be a whole number; was {text!r}")
    return int(text)


def _read_into(target: memoryview, path: Path, offset: int, name: str) -> None:
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            done = 0
            while done < len(target):
                count = file.readinto(target[done:])
                if not count:
                    held = os.fstat(file.fileno()).st_size
                    raise invalid(
                        f"External data of tensor {name!r} are out of bounds: they are bytes {offset} to "
                        f"{offset + len(target)}, and {path.name} has {held} bytes"
                    )
                done += count
    except OSError as error:
        raise unreadable(path, error) from error
