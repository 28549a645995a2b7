"""Runs ONNX files for checks and measurements: on the CPU, with one thread, and many rows in parts."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from headrace_batching.task import Array, Arrays
from headrace_server.backends.onnx.mentions import mentioned
from headrace_server.backends.onnx.zipmaps import OPERATOR, ZipMap, without_zipmaps
from headrace_server.backends.signature import DEFAULT_SIGNATURE, Signature, TensorSpec
from headrace_server.errors import ServingError
from headrace_toolkit.errors import ToolkitError, first_line, require
from headrace_toolkit.graph import read, tensors_of

Run = Callable[[Arrays], Arrays]

_OF_NODE = re.compile(r"while running (\w+) node\. Name:'([^']*)' Status Message: (.*)")

_ON_CPU: Mapping[str, Any] = {"providers": ["CPUExecutionProvider"], "enable_fallback": 0}
"""Turns off ONNX Runtime's fallback: for a damaged model, it would only print that it tries the same provider again."""

PART = 128
"""The maximum number of rows per run, if the model fixes no number."""


class OnnxModel:
    """An ONNX file in a session of its own.

    An output that a ZipMap turns into dictionaries is the tensor from which they are made, as in the server.

    Args:
        file: The model, with its external data beside it.
        optimized: Whether ONNX Runtime may optimise the graph, as in the server; if not, its answers are those of the
            unchanged graph.

    Raises:
        ToolkitError: ONNX Runtime does not load it, or a tensor has a type that a request cannot contain.
    """

    def __init__(self, file: Path, *, optimized: bool = True) -> None:
        ort = require("onnxruntime", "ONNX models", "toolkit")
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        if not optimized:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        content, _ = without_dictionaries(file)
        try:
            self.session = ort.InferenceSession(content or str(file), options, **_ON_CPU)
        except Exception as error:  # ONNX Runtime's exceptions have no common base class
            raise ToolkitError(f"{file.name}: ONNX Runtime does not load it: {_said(error)}") from error
        self.signature = _signature(file.name, self.session)

    def run(self, inputs: Arrays) -> Arrays:
        """Runs the model on all rows.

        Raises:
            ToolkitError: ONNX Runtime refuses the inputs.
        """
        names = list(self.signature.outputs)
        try:
            return dict(zip(names, self.session.run(names, dict(inputs)), strict=True))
        except Exception as error:
            raise ToolkitError(f"ONNX Runtime refuses a run: {_said(error)}") from error


def without_dictionaries(file: Path) -> tuple[bytes | None, list[ZipMap]]:
    """The model without the ZipMaps that make its outputs; None if it has no ZipMaps, or has external data.

    Raises:
        ToolkitError: The file is not an ONNX file.
    """
    try:
        if not mentioned(file, {OPERATOR}):
            return None, []
        if any(tensor.external_data for tensor in tensors_of(read(file).graph)):
            return None, []
        content, zipmaps = without_zipmaps(file.read_bytes())
    except OSError:  # ONNX Runtime says what is wrong
        return None, []
    return (content if zipmaps else None), zipmaps


def in_parts(run: Run, signature: Signature, inputs: Arrays, advance: Callable[[int, int], None]) -> Arrays:
    """Runs all rows, as many at a time as the model accepts, and joins the outputs.

    A model with a fixed first dimension is run that many rows at a time.

    Args:
        run: Runs the model.
        signature: The model's signature.
        inputs: Arrays by name, all with the same axis 0.
        advance: Called with the number of finished rows and of all rows.

    Raises:
        ToolkitError: The rows cannot be divided by a fixed batch, or an output has a different number of rows.
    """
    rows = len(next(iter(inputs.values())))
    size = rows_at_once(signature) or PART
    if rows % size and rows_at_once(signature):
        raise ToolkitError(f"{rows} rows cannot be run {size} at a time, as the model's fixed first dimension requires")
    parts: list[Arrays] = []
    for start in range(0, rows, size):
        parts.append(run({name: array[start : start + size] for name, array in inputs.items()}))
        advance(min(start + size, rows), rows)
    return {name: _joined([part[name] for part in parts]) for name in parts[0]}


def rows_at_once(signature: Signature) -> int | None:
    """The fixed first dimension of a model's inputs; None if it varies."""
    sizes = {spec.shape[0] if spec.shape else None for spec in signature.inputs.values()}
    return next(iter(sizes)) if len(sizes) == 1 else None


def random_inputs(signature: Signature, rows: int, seed: int) -> dict[str, Array]:
    """Inputs for a model that came without data: normally distributed floats, and 0 and 1 for other types.

    Raises:
        ToolkitError: An input is a string.
    """
    draws = np.random.default_rng(seed)
    return {name: _random(name, spec, rows, draws) for name, spec in signature.inputs.items()}


def _random(name: str, spec: TensorSpec, rows: int, draws: np.random.Generator) -> Array:
    if spec.array_dtype.kind == "O":
        raise ToolkitError(f"input {name} takes strings, which cannot be generated: give rows with --data")
    shape = tuple((rows if axis == 0 else 8) if size is None else size for axis, size in enumerate(spec.shape))
    if spec.array_dtype.kind in "fV":
        return draws.standard_normal(shape).astype(spec.array_dtype)
    return draws.integers(0, 2, shape).astype(spec.array_dtype)


def _joined(parts: list[Array]) -> Array:
    if parts[0].ndim == 0:
        raise ToolkitError("an output is a single value for all rows, so rows cannot be compared")
    return np.concatenate(parts)


def signature_of(model: bytes, name: str) -> Signature:
    """The inputs and outputs of a model in memory.

    Args:
        model: The serialized model.
        name: The model's name in messages.

    Raises:
        ToolkitError: ONNX Runtime does not load it.
    """
    ort = require("onnxruntime", "ONNX models", "toolkit")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return _signature(name, ort.InferenceSession(model, options, **_ON_CPU))
    except ToolkitError:
        raise
    except Exception as error:
        raise ToolkitError(f"{name}: ONNX Runtime does not load the converted model: {_said(error)}") from error


def _signature(name: str, session: Any) -> Signature:
    from headrace_server.backends.onnx.signatures import signatures_of

    options: Mapping[str, Any] = {}
    try:
        return signatures_of(session, options)[DEFAULT_SIGNATURE]
    except ServingError as error:
        raise ToolkitError(f"{name}: {error.message}") from error
    except UnicodeDecodeError as error:
        raise ToolkitError(f"{name} is damaged: a name in it is not UTF-8: {first_line(error)}") from error


def _said(error: Exception) -> str:
    """ONNX Runtime's message without its code, the path of the file and the source location."""
    text = first_line(error).rsplit(" : ", 1)[-1]
    text = text.partition("failed:")[2] or text
    if found := _OF_NODE.search(text):
        name = f" {found[2]}" if found[2] else ""
        text = f"{found[1]}{name}: {found[3].rpartition(' was false. ')[2]}"
    return text.strip()
