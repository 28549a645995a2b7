"""Looks into an ONNX file for operators that make an answer depend on its neighbours, or on chance."""

from collections.abc import Iterator
from pathlib import Path

from headrace_protos.wire import read_varint
from headrace_server.backends.independence import Evidence
from headrace_server.backends.onnx.file_bytes import FileBytes
from headrace_server.backends.onnx.graph import fields

_ADVICE_QUANTIZE = "quantize it statically (onnxruntime.quantization.quantize_static), so that scales are fixed"
_ADVICE_EXPORT = "export it in inference mode"

_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
_DYNAMIC = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"})

# ONNX's messages, by field number: what leads from a model to a node, past all weights.
_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE, _FUNCTION_NODE = 1, 7
_NODE_TYPE, _NODE_ATTRIBUTE = 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS = 1, 3, 6, 11


def doubts(model: Path) -> tuple[Evidence, ...]:
    """What speaks against independent rows; nothing where the file is none that can be read, for others to say so.

    Args:
        model: The ONNX file. Its weights are passed over, not read.
    """
    try:
        with FileBytes(model) as content:
            return tuple(dict.fromkeys(_of_model(content)))
    except (OSError, ValueError, IndexError):
        return ()


def _of_model(content: FileBytes) -> Iterator[Evidence]:
    for field, start, end in fields(content, 0, len(content)):
        if field == _MODEL_GRAPH:
            yield from _of_nodes(content, start, end, _GRAPH_NODE)
        elif field == _MODEL_FUNCTIONS:
            yield from _of_nodes(content, start, end, _FUNCTION_NODE)


def _of_nodes(content: FileBytes, start: int, end: int, node: int) -> Iterator[Evidence]:
    for field, at, stop in fields(content, start, end):
        if field == node:
            yield from _of_node(content, at, stop)


def _of_node(content: FileBytes, start: int, end: int) -> Iterator[Evidence]:
    operator, training = "", False
    for field, at, stop in fields(content, start, end):
        if field == _NODE_TYPE:
            operator = content[at:stop].decode(errors="replace")
        elif field == _NODE_ATTRIBUTE:
            training = training or _says_training(content, at, stop)
            yield from _of_inner_graphs(content, at, stop)
    if operator in _DYNAMIC:
        yield Evidence(f"{operator} takes its scale from all rows of a batch", _ADVICE_QUANTIZE)
    elif operator in _RANDOM:
        yield Evidence(f"{operator} draws random numbers")
    elif training:
        yield Evidence(f"{operator} runs in training mode, on statistics of the batch", _ADVICE_EXPORT)


def _of_inner_graphs(content: FileBytes, start: int, end: int) -> Iterator[Evidence]:
    for field, at, stop in fields(content, start, end):
        if field in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
            yield from _of_nodes(content, at, stop, _GRAPH_NODE)


def _says_training(content: FileBytes, start: int, end: int) -> bool:
    """Whether an attribute is `training_mode` = 1."""
    name, value = b"", 0
    for field, at, stop in fields(content, start, end):
        if field == _ATTRIBUTE_NAME:
            name = content[at:stop]
        elif field == _ATTRIBUTE_INT:
            value = read_varint(content, at)[0]
    return name == b"training_mode" and value == 1
