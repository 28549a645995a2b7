"""TFLite files, including quantized ones: their answers come from LiteRT."""

from pathlib import Path
from typing import Any

import numpy as np

from headrace_batching.task import Array, Arrays
from headrace_toolkit.errors import require
from headrace_toolkit.sources.base import Origin, Source, SourceOptions
from headrace_toolkit.sources.converted import converted
from headrace_toolkit.sources.files import sha256_of
from headrace_toolkit.sources.tensorflow import by_tf2onnx, name_tensors
from headrace_toolkit.steps.quiet import loading, stderr_aside


def read(file: Path, options: SourceOptions) -> Source:
    """A TFLite file.

    Raises:
        ToolkitError: LiteRT does not load it, or tf2onnx does not support an operator.
    """
    interpreter_of = require("ai_edge_litert.interpreter", "TFLite files", "keras").Interpreter
    from importlib.metadata import version

    with stderr_aside(), loading(file, "a model that LiteRT loads"):
        interpreter = interpreter_of(model_path=str(file))
    origin = Origin(
        name=file.name, kind="tflite", framework=f"LiteRT {version('ai-edge-litert')}", sha256=sha256_of(file)
    )
    inputs, outputs = _names(interpreter)
    graph = by_tf2onnx(file, "--tflite")
    tensors = {value.name: value.name for value in graph.graph.output}
    name_tensors(graph, [inputs.get(value.name, value.name) for value in graph.graph.input], outputs)
    named = {outputs.get(tensor, tensor): tensor for tensor in tensors}

    def answer(rows: Arrays) -> list[Array]:
        _feed(interpreter, rows, inputs)
        interpreter.invoke()
        details = {detail["name"]: detail["index"] for detail in interpreter.get_output_details()}
        return [np.array(interpreter.get_tensor(details[named[value.name]])) for value in graph.graph.output]

    return converted(origin, graph, answer, options)


def _names(interpreter: Any) -> tuple[dict[str, str], dict[str, str]]:
    """For each input and output tensor, its name in the file's signature, or its own name without prefixes."""
    signatures = interpreter.get_signature_list()
    if not signatures:
        given, made = interpreter.get_input_details(), interpreter.get_output_details()
        return {d["name"]: _plain(d["name"]) for d in given}, {d["name"]: _plain(d["name"]) for d in made}
    runner = interpreter.get_signature_runner(next(iter(signatures)))
    inputs = {detail["name"]: name for name, detail in runner.get_input_details().items()}
    return inputs, {detail["name"]: name for name, detail in runner.get_output_details().items()}


def _plain(tensor: str) -> str:
    return tensor.partition(":")[0].removeprefix("serving_default_")


def _feed(interpreter: Any, rows: Arrays, names: dict[str, str]) -> None:
    """Resizes each input to the given rows, and sets it."""
    details = interpreter.get_input_details()
    for detail in details:
        interpreter.resize_tensor_input(detail["index"], list(rows[names[detail["name"]]].shape))
    interpreter.allocate_tensors()
    for detail in details:
        interpreter.set_tensor(detail["index"], rows[names[detail["name"]]])
