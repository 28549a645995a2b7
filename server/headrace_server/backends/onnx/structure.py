"""Reads an ONNX model without the data of its weights, which are all that thousands of similar models differ in."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from headrace_protos.wire import read_varint
from headrace_server.backends.onnx.file_bytes import FileBytes
from headrace_server.backends.onnx.header import message_class
from headrace_server.backends.onnx.integers import INTEGERS
from headrace_server.backends.onnx.row_rules import Constant
from headrace_server.backends.onnx.rowwise import FEW, INT64, constant_of

# Fields of ONNX's messages, by ONNX's numbers.
MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE, GRAPH_INITIALIZER, _GRAPH_INPUT = 1, 5, 11
RAW_DATA = 9  # of a tensor

Content = bytes | FileBytes

_AT_ONCE = 1 << 20  # the bytes of a model up to which all of it is decoded, with its weights
_KEPT = 16 * FEW  # bytes of a field of a weight that are read in larger models

_VARINT, _LENGTH_DELIMITED = 0, 2
_FIXED = {1: 8, 5: 4}  # bytes of a value, by wire type


@dataclass(frozen=True)
class Structure:
    """A model's graph and functions, as messages that have only the fields which are read here.

    Attributes:
        graph: The graph. Its weights have no data, except a few integers, such as axes and shapes.
        functions: The functions that the model defines.
        key: Equal for models of the same structure: a digest of everything above.
    """

    graph: Any
    functions: list[Any]
    key: bytes

    @property
    def weights(self) -> dict[str, Constant]:
        """What is known about each weight, by name."""
        return {weight.name: constant_of(weight) for weight in self.graph.initializer}

    @property
    def integers(self) -> set[str]:
        """The names of the weights that are integers."""
        return {weight.name for weight in self.graph.initializer if weight.data_type in INTEGERS}


def read_structure(content: Content) -> Structure | None:
    """A serialized model's structure; None if it has no graph.

    Raises:
        google.protobuf.message.DecodeError, ValueError, IndexError: It is not an ONNX model.
    """
    model = _decoded(content) if len(content) <= _AT_ONCE else _without_data(content)
    if not model.HasField("graph"):
        return None
    graph, functions = model.graph, list(model.functions)
    for weight in graph.initializer:
        if is_left_out(weight):
            weight.ClearField("raw_data")
    digest = blake2b()
    for message in (graph, *functions):
        message.DiscardUnknownFields()  # nothing can be derived from a field that these classes do not have
        data = message.SerializeToString(deterministic=True)
        # The length marks where each message ends: the bytes of a function could otherwise be taken for nodes of the
        # graph.
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return Structure(graph, functions, digest.digest())


def is_left_out(weight: Any) -> bool:
    """Whether a structure does not depend on a weight's data, since they are neither axes nor a shape."""
    return bool(weight.data_type != INT64 or len(weight.raw_data) > _KEPT)


def _decoded(content: Content) -> Any:
    return message_class("ModelProto").FromString(content[: len(content)])


def _without_data(content: Content) -> Any:
    """A large model's message, without those fields of weights that are too large to be their names or shapes."""
    model = message_class("ModelProto")()
    for number, start, end in fields(content, 0, len(content)):
        if number == MODEL_GRAPH:
            model.graph.SetInParent()
            _add_graph(model.graph, content, start, end)
        elif number == _MODEL_FUNCTIONS:
            model.functions.add().MergeFromString(content[start:end])
    return model


def _add_graph(graph: Any, content: Content, start: int, end: int) -> None:
    for number, at, to in fields(content, start, end):
        if number == _GRAPH_NODE:
            graph.node.add().MergeFromString(content[at:to])
        elif number == _GRAPH_INPUT:
            graph.input.add().MergeFromString(content[at:to])
        elif number == GRAPH_INITIALIZER:
            graph.initializer.add().MergeFromString(_small_fields(content, at, to))


def _small_fields(content: Content, start: int, end: int) -> bytes:
    kept, at = bytearray(), start
    for _, begins, ends in fields(content, start, end):
        kept += content[at:ends] if ends - begins <= _KEPT else b""
        at = ends
    return bytes(kept)


def fields(content: Content, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The number of each field of a message, and the start and end of its value."""
    while at < end:
        key, at = read_varint(content, at)
        kind = key & 7
        if kind == _LENGTH_DELIMITED:
            size, at = read_varint(content, at)
        elif kind in _FIXED:
            size = _FIXED[kind]
        elif kind == _VARINT:
            size = read_varint(content, at)[1] - at
        else:
            raise ValueError("a field has a wire type that ONNX does not use")
        if at + size > end:
            raise ValueError("a field is longer than its message")
        yield key >> 3, at, at + size
        at += size
