"""Reads an ONNX model without the data of its weights; thousands of similar models differ only in these data."""

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

_VARINT, _LENGTH_DELIMITED = 0, 2
_FIXED = {1: 8, 5: 4}  # bytes of a value, by wire type


def _key(number: int) -> int:
    """The key of a field that has a length: protobuf ignores a field of that number with another wire type."""
    return number << 3 | _LENGTH_DELIMITED


# Fields of ONNX's messages, by ONNX's numbers.
_MODEL_GRAPH, _MODEL_FUNCTIONS = _key(7), _key(25)
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT = _key(1), _key(5), _key(11)
RAW_DATA = _key(9)  # a tensor's data as bytes

Content = bytes | FileBytes

_AT_ONCE = 1 << 20  # a model of at most this many bytes is decoded as a whole, with its weights
_KEPT = 16 * FEW  # in larger models, only fields of weights with at most this many bytes are read


@dataclass(frozen=True)
class Structure:
    """A model's graph and functions, as messages that have only the fields which are read here.

    Attributes:
        graph: The graph. Its weights have no data, except a few integers, such as axes and shapes.
        functions: The functions that the model defines.
        key: A digest of everything above, which is equal for models of the same structure.
    """

    graph: Any
    functions: list[Any]
    key: bytes

    @property
    def weights(self) -> dict[str, Constant]:
        """The properties of each weight, by name."""
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
    for node in graph.node:
        if node.op_type.startswith("TreeEnsemble"):  # which has a string for each of its nodes
            for attribute in node.attribute:
                attribute.ClearField("strings")
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
    """Whether a structure leaves out a weight's data. It keeps a few integers, since they may be axes or a shape."""
    return bool(weight.data_type != INT64 or len(weight.raw_data) > _KEPT)


def _decoded(content: Content) -> Any:
    return message_class("ModelProto").FromString(content[: len(content)])


def _without_data(content: Content) -> Any:
    """A large model's message, without the fields of weights that are too large to be their names or shapes."""
    model = message_class("ModelProto")()
    for key, start, end in fields(content, 0, len(content)):
        if key == _MODEL_GRAPH:
            model.graph.SetInParent()
            _add_graph(model.graph, content, start, end)
        elif key == _MODEL_FUNCTIONS:
            model.functions.add().MergeFromString(content[start:end])
    return model


def _add_graph(graph: Any, content: Content, start: int, end: int) -> None:
    for key, at, to in fields(content, start, end):
        if key == _GRAPH_NODE:
            graph.node.add().MergeFromString(content[at:to])
        elif key == _GRAPH_INPUT:
            graph.input.add().MergeFromString(content[at:to])
        elif key == _GRAPH_INITIALIZER:
            graph.initializer.add().MergeFromString(_small_fields(content, at, to))


def _small_fields(content: Content, start: int, end: int) -> bytes:
    kept, at = bytearray(), start
    for _, begins, ends in fields(content, start, end):
        kept += content[at:ends] if ends - begins <= _KEPT else b""
        at = ends
    return bytes(kept)


def initializers(content: Content) -> Iterator[tuple[int, int]]:
    """Where each weight of a serialized model begins and ends, in the order of the file.

    Raises:
        ValueError, IndexError: It is not a model.
    """
    for key, start, end in fields(content, 0, len(content)):
        if key == _MODEL_GRAPH:
            yield from ((at, to) for inner, at, to in fields(content, start, end) if inner == _GRAPH_INITIALIZER)


def fields(content: Content, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The key of each field of a message, with its number and wire type, and the start and end of its value."""
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
        yield key, at, at + size
        at += size
