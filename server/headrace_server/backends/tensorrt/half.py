"""Converts an ONNX model's floats to half floats, for engines that compute in the file's own types."""

from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from headrace_protos import Code
from headrace_server.errors import LoadError

_MOST_IN_ONE_FILE = 1 << 30  # bytes; a protobuf message is limited to two gigabytes


def half(model: Path, folder: Path) -> Path:
    """Writes a copy of a model that computes in half floats, except for its inputs and outputs, and returns its path.

    Raises:
        LoadError: FAILED_PRECONDITION if the converter is not installed; INVALID_ARGUMENT if the model cannot be
            converted.
    """
    try:
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16
    except ModuleNotFoundError as error:
        message = f'precision = "fp16" converts the file, which needs {error.name}: pip install onnx onnxruntime-gpu'
        raise LoadError(Code.FAILED_PRECONDITION, message) from error
    try:
        converted = convert_float_to_float16(onnx.load(str(model)), keep_io_types=True)
        _sort(converted.graph)
    except Exception as error:
        raise LoadError(Code.INVALID_ARGUMENT, f"it cannot be converted to half floats: {error}") from error
    path = folder / "model.onnx"
    large = any(file.stat().st_size > _MOST_IN_ONE_FILE for file in model.parent.iterdir() if file.is_file())
    onnx.save_model(converted, str(path), save_as_external_data=large)
    return path


def _sort(graph: Any) -> None:
    """Puts each node after the nodes that it needs, as ONNX requires; the converter leaves its casts at the end."""
    nodes = list(graph.node)
    for node in nodes:
        for inner in _graphs(node):
            _sort(inner)
    makers = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    needs = {
        index: {makers[name] for name in _needed(node) if makers.get(name, index) != index}
        for index, node in enumerate(nodes)
    }
    ordered = [nodes[index] for index in TopologicalSorter(needs).static_order()]
    graph.ClearField("node")
    graph.node.extend(ordered)


def _needed(node: Any) -> Iterator[str]:
    """The values that a node uses, including those that its subgraphs use from outside."""
    yield from node.input
    for inner in _graphs(node):
        yield from (output.name for output in inner.output)
        for within in inner.node:
            yield from _needed(within)


def _graphs(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        yield from [attribute.g] if attribute.HasField("g") else attribute.graphs
