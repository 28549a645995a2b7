"""Tells from a version's files which backend it wants, and imports that one only."""

from pathlib import Path

from headrace_protos import Code
from headrace_server.backends.base import Backend, BackendOptions
from headrace_server.errors import LoadError

ONNX_FILE = "model.onnx"


def load(version: Path, options: BackendOptions) -> Backend:
    """Loads the model in a version's folder.

    Args:
        version: The folder `<base path>/<version>`.
        options: For the runtime.

    Raises:
        LoadError: NOT_FOUND where no file is one that a backend knows; FAILED_PRECONDITION where its runtime is not
            installed; INVALID_ARGUMENT and others where the runtime refuses it.
    """
    model = version / ONNX_FILE
    if not model.is_file():
        message = f"{version} holds no model: expected a file called {ONNX_FILE}"
        raise LoadError(Code.NOT_FOUND, message)
    try:
        from headrace_server.backends.onnxruntime_impl import load_onnx
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        message = f"{model} needs ONNX Runtime, which is not installed: pip install 'headrace[cpu]'"
        raise LoadError(Code.FAILED_PRECONDITION, message) from error
    return load_onnx(model, options)
