"""Code for all of TensorFlow's formats: runs tf2onnx as a separate command, and restores inputs' and outputs' names."""

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace_toolkit.errors import ToolkitError, require
from headrace_toolkit.graph import read, rename
from headrace_toolkit.steps.quiet import stderr_aside

OPSET = 17

_ERROR = ("ERROR", "ValueError", "RuntimeError", "NotImplementedError")


def require_tensorflow(module: str, purpose: str) -> Any:
    """Imports a library that loads TensorFlow, whose C++ parts print a page to stderr while they load.

    Raises:
        ToolkitError: The library is not installed.
    """
    with stderr_aside():
        return require(module, purpose, "keras")


def by_tf2onnx(source: Path, flag: str, *more: str) -> Any:
    """The graph that tf2onnx's command makes of a SavedModel or a TFLite file, as an `onnx.ModelProto`.

    Args:
        source: The folder or file.
        flag: `--saved-model` or `--tflite`.
        more: Further arguments.

    Raises:
        ToolkitError: tf2onnx fails; the text has the last line of its output that gives a reason.
    """
    require("tf2onnx", f"converting {source.name}", "keras")
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        file = Path(folder) / "model.onnx"
        words = ["-m", "tf2onnx.convert", flag, str(source), "--output", str(file), "--opset", str(OPSET), *more]
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
        if done.returncode or not file.exists():
            raise ToolkitError(f"{source.name}: tf2onnx cannot convert it: {_why(done.stderr)}")
        return read(file)


def name_tensors(model: Any, inputs: Sequence[str], outputs: Mapping[str, str] | Sequence[str]) -> None:
    """Renames a graph's inputs and outputs to the names that its source has for them. Changes `model`.

    Args:
        model: The graph.
        inputs: The inputs' names, in the graph's order.
        outputs: The outputs' names: in the graph's order, or by the graph's own name.
    """
    given = [value.name for value in model.graph.input]
    made = [value.name for value in model.graph.output]
    wanted = [outputs.get(name, name) for name in made] if isinstance(outputs, Mapping) else list(outputs)
    if len(inputs) == len(given) and len(wanted) == len(made):
        rename(model, {**dict(zip(given, inputs, strict=True)), **dict(zip(made, wanted, strict=True))})


def _why(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line for line in lines if any(word in line for word in _ERROR)]
    return (said or lines or ["it gives no reason"])[-1]
