"""Keras models: .keras and .h5 files, and models that a function returns."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from headrace_batching.task import Array, Arrays
from headrace_toolkit.errors import ToolkitError, first_line, require
from headrace_toolkit.graph import read as read_graph
from headrace_toolkit.sources.base import Origin, Source, SourceOptions
from headrace_toolkit.sources.converted import SavedModel, converted
from headrace_toolkit.sources.files import sha256_of
from headrace_toolkit.sources.tensorflow import name_tensors, require_tensorflow
from headrace_toolkit.steps.quiet import quietly, stderr_aside

_SAFE_MODE = "safe_mode"

_EXPORTED = "serving_default"
"""Keras's name for the signature of a SavedModel that it exports."""


def read(file: Path, options: SourceOptions) -> Source:
    """A model that `model.save` wrote.

    Raises:
        ToolkitError: Keras does not load it, because it contains code (a Lambda layer) or is something else.
    """
    keras = require_tensorflow("keras", "Keras models")
    try:
        with quietly(f"{file}: loading"):
            model = keras.models.load_model(file, compile=False)
    except ToolkitError as error:
        said = first_line(error.__cause__ or error)
        if _SAFE_MODE in str(error.__cause__):
            said = "it has a Lambda layer with Python code, which Keras does not run from a file: " + said
        raise ToolkitError(f"{file} is not a model that Keras loads: {said}") from error
    return of_model(model, Origin(name=file.name, kind="", framework="", sha256=sha256_of(file)), options)


def of_model(model: Any, origin: Origin, options: SourceOptions) -> Source:
    """A model in memory.

    Raises:
        ToolkitError: The model has not been built, or ONNX does not support one of its layers.
    """
    keras = require_tensorflow("keras", "Keras models")
    require("tf2onnx", "converting Keras models", "keras")
    origin = Origin(name=origin.name, kind="keras", framework=f"Keras {keras.__version__}", sha256=origin.sha256)
    if not getattr(model, "inputs", None):
        raise ToolkitError(f"{origin.name}: the Keras model is not built: call it once, or give it an Input")
    inputs = [tensor.name.partition(":")[0] for tensor in model.inputs]

    def called(arrays: list[Any]) -> list[Array]:
        answers = model(arrays if len(arrays) > 1 else arrays[0], training=False)
        return [np.asarray(one) for one in (answers if isinstance(answers, list | tuple) else [answers])]

    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        file = Path(folder) / "model.onnx"
        with stderr_aside(), quietly(f"{origin.name}: the conversion of a Keras model"):
            # A model loaded from a file must be called once before Keras exports it.
            called([keras.ops.zeros([size or 1 for size in one.shape], one.dtype) for one in model.inputs])
            model.export(str(file), format="onnx", verbose=False)
        graph = read_graph(file)
    name_tensors(graph, inputs, _output_names(model))

    def answer(rows: Arrays) -> list[Array]:
        return called([keras.ops.convert_to_tensor(rows[name]) for name in inputs])

    def saved_model(folder: Path) -> SavedModel:
        with stderr_aside(), quietly(f"{origin.name}: writing it as a SavedModel"):
            model.export(str(folder), verbose=False)
        return SavedModel(folder, _EXPORTED)

    return converted(origin, graph, answer, options, saved_model=saved_model)


def _output_names(model: Any) -> list[str]:
    """The layers that the outputs come from; numbered if a layer has several outputs."""
    names: list[str] = []
    for tensor in model.outputs:
        history = getattr(tensor, "_keras_history", None)
        name = history.operation.name if history is not None else f"output_{len(names)}"
        names.append(name if name not in names else f"{name}_{len(names)}")
    return names
