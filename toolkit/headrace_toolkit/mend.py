"""Corrects mistakes of exporters about a batch: an output declared with one row, or inconsistent dimension names."""

from collections.abc import Mapping
from pathlib import Path

from headrace_batching.task import Array
from headrace_server.backends.signature import Signature
from headrace_toolkit.errors import ToolkitError, require
from headrace_toolkit.graph import read
from headrace_toolkit.running import OnnxModel, rows_at_once

BATCH = "N"

ROWS = 7  # a number of rows that hardly any model has as another dimension


def mend_outputs(file: Path, rows: Mapping[str, Array]) -> tuple[str, ...]:
    """Declares an output's first dimension as variable if a run shows that it varies. Changes the file.

    Args:
        file: The model's file.
        rows: At least seven, for every input.

    Returns: A sentence for each corrected output.
    """
    model = OnnxModel(file, optimized=False)
    wrong = [name for name, spec in model.signature.outputs.items() if spec.shape and spec.shape[0] is not None]
    if not wrong or rows_at_once(model.signature) is not None:
        return ()
    try:
        outputs = model.run({name: array[:ROWS] for name, array in rows.items()})
    except ToolkitError:
        return ()
    mended = [name for name in wrong if outputs[name].ndim and len(outputs[name]) == ROWS]
    if mended:
        _declare(file, mended)
    return tuple(
        f"output {name} was declared with one row, but has as many as its inputs: corrected" for name in mended
    )


def name_batch(file: Path, signature: Signature) -> None:
    """Gives the first dimension of all inputs and outputs the same name, if rows are known to be independent."""
    specs = [*signature.inputs.values(), *signature.outputs.values()]
    if all(spec.shape and spec.shape[0] is None for spec in specs) and len({spec.dims[0] for spec in specs}) > 1:
        _declare(file, [spec.name for spec in specs])


def _declare(file: Path, names: list[str]) -> None:
    """Names the first dimension of these inputs and outputs `N`."""
    onnx = require("onnx", "ONNX models", "toolkit")
    model = read(file)
    for value in (*model.graph.input, *model.graph.output):
        if value.name in names:
            dimension = value.type.tensor_type.shape.dim[0]
            dimension.Clear()
            dimension.dim_param = BATCH
    del model.graph.value_info[:]  # inner values may repeat the mistake; ONNX Runtime infers their shapes again
    onnx.save(model, str(file))
