"""TensorFlow's SavedModels: the signature `serving_default`, or the only one."""

from pathlib import Path
from typing import Any

import numpy as np

from headrace_batching.task import Array, Arrays
from headrace_toolkit.errors import ToolkitError
from headrace_toolkit.sources.base import Origin, Source, SourceOptions
from headrace_toolkit.sources.converted import SavedModel, converted
from headrace_toolkit.sources.files import sha256_of
from headrace_toolkit.sources.tensorflow import by_tf2onnx, require_tensorflow
from headrace_toolkit.steps.quiet import loading

DEFAULT = "serving_default"


def read(folder: Path, options: SourceOptions) -> Source:
    """A folder with `saved_model.pb`.

    Raises:
        ToolkitError: TensorFlow cannot load the folder, the model has several signatures and no `serving_default`, or
            tf2onnx does not support an operator.
    """
    tensorflow = require_tensorflow("tensorflow", "SavedModels")
    with loading(folder, "a SavedModel that loads"):
        loaded = tensorflow.saved_model.load(str(folder))
    signature = _signature(folder, loaded)
    run = loaded.signatures[signature]
    origin = Origin(
        name=folder.name,
        kind="savedmodel",
        framework=f"TensorFlow {tensorflow.__version__}",
        sha256=sha256_of(folder),
    )
    graph = by_tf2onnx(folder, "--saved-model", "--signature_def", signature)
    outputs = [value.name for value in graph.graph.output]

    def answer(rows: Arrays) -> list[Array]:
        answers = run(**{name: tensorflow.constant(array) for name, array in rows.items()})
        return [np.asarray(answers[name]) for name in outputs]

    saved = SavedModel(folder, signature)
    return converted(origin, graph, answer, options, saved_model=lambda _: saved)


def _signature(folder: Path, loaded: Any) -> str:
    names = list(loaded.signatures)
    if DEFAULT in names:
        return DEFAULT
    if len(names) != 1:
        raise ToolkitError(f"{folder} has no signature {DEFAULT}; it has {', '.join(names) or 'none'}")
    return str(names[0])
