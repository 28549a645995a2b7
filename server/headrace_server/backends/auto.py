"""Determines from a version's files which backend it needs, and imports only that one."""

import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from headrace_protos import Code
from headrace_server.backends.base import Backend, BackendOptions
from headrace_server.errors import LoadError, unreadable
from headrace_server.security.models.names import SEALED_FILE

PYTHON_FILE = "model.py"
TFLITE_FILE = "model.tflite"
SESSION_BUNDLE_FILE = "export.meta"
ONNX_FILE = "model.onnx"
PLAN_FILES = ("model.plan", "model.engine")
SAVED_MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt")

MODEL_FILES = (PYTHON_FILE, TFLITE_FILE, *PLAN_FILES, ONNX_FILE, *SAVED_MODEL_FILES)
"""The files that show that a folder holds a model."""

_SUFFIXES = {Path(name).suffix for name in (ONNX_FILE, TFLITE_FILE, *PLAN_FILES)}

T = TypeVar("T")

Load = Callable[[Path, BackendOptions], T]


def load(version: Path, options: BackendOptions) -> Backend:
    """Loads the model in a version's folder.

    If there are several models, the first of these is loaded: `model.py`, which may use the other models itself; a
    preferred `model.tflite`; a TensorRT plan, unless TensorRT is turned off and there is a `model.onnx`; the
    `model.onnx`; the SavedModel.

    Args:
        version: The folder `<base path>/<version>`, or a model's file with any name and the suffix of its kind.
        options: Options of the runtime.

    Raises:
        LoadError: PERMISSION_DENIED if the server's user is not allowed to read the folder or a file; NOT_FOUND if no
            backend knows any of the files; FAILED_PRECONDITION if the runtime is not installed; INVALID_ARGUMENT and
            others if the runtime refuses the model.
    """
    if is_model_file(version) and version.is_file():
        return _load_file(version, options)
    if _holds(version, PYTHON_FILE):
        return _load_file(version / PYTHON_FILE, options)
    if options.prefer_tflite_model and _holds(version, TFLITE_FILE):
        return _load_file(version / TFLITE_FILE, options)
    for plan in PLAN_FILES:
        if _holds(version, plan) and (options.tensorrt.enabled or not _holds(version, ONNX_FILE)):
            return _load_file(version / plan, options)
    if _holds(version, ONNX_FILE):
        return _load_file(version / ONNX_FILE, options)
    if _holds(version, SESSION_BUNDLE_FILE):
        # TF Serving's session_bundle_util.cc has this text and the next.
        raise LoadError(Code.UNIMPLEMENTED, "Session Bundle is deprecated and removed.")
    if _holds(version, *SAVED_MODEL_FILES):
        return _load(_load_saved_model, version, options, needs=("tensorflow", "TensorFlow", "tensorflow"))
    if _holds(version, SEALED_FILE):
        text = f"{version / SEALED_FILE} is sealed: --model_keys_file or --model_keys_command must name its key"
        raise LoadError(Code.FAILED_PRECONDITION, text)
    message = (
        "Specified file path does not appear to contain a SavedModel bundle (should have a file called "
        f"`{SAVED_MODEL_FILES[0]}`)\nSpecified file path: {version}\n"
        f"It also contains no {ONNX_FILE}, {', '.join(PLAN_FILES)} or {PYTHON_FILE}, nor, with --prefer_tflite_model, "
        f"a {TFLITE_FILE}."
    )
    raise LoadError(Code.NOT_FOUND, message)


def prepare(versions: Iterable[Path], options: BackendOptions) -> object:
    """Begins, for several versions, the part of their loads that can be done in advance.

    Args:
        versions: The versions' folders.
        options: Options of the runtime, as for `load`.

    Returns: An object that must be kept until the versions have been loaded.
    """
    if options.tensorrt.enabled:
        return None
    models = (version / ONNX_FILE for version in versions if _holds_only_onnx(version))
    try:
        from headrace_server.backends.onnx.loading import prepare_onnx
    except ImportError:  # each load reports it
        return None
    return prepare_onnx(models, options)


def _holds_only_onnx(version: Path) -> bool:
    """Whether a folder holds an ONNX model and no other model."""
    try:
        names = os.listdir(version)
    except OSError:
        return False
    return [name for name in names if name in MODEL_FILES] == [ONNX_FILE]


def is_model_file(path: Path) -> bool:
    """Whether a file's name is that of a model that `load` accepts without a folder."""
    return path.name == PYTHON_FILE or path.suffix in _SUFFIXES


def is_python(version: Path) -> bool:
    """Whether a version's folder or file holds code that `load` would run."""
    return version.name == PYTHON_FILE or _holds(version, PYTHON_FILE)


def _load_file(model: Path, options: BackendOptions) -> Backend:
    if model.name == PYTHON_FILE:
        return _load_python(model, options)
    if model.suffix == Path(TFLITE_FILE).suffix:
        return _load(_load_tflite, model, options, needs=("ai_edge_litert", "LiteRT", "tflite"))
    if model.suffix != Path(ONNX_FILE).suffix:
        return _load_on_gpu(_load_plan, model, options)
    if options.tensorrt.enabled:
        return _load_on_gpu(_load_onnx_by_tensorrt, model, options)
    return _load(_load_onnx, model, options, needs=("onnxruntime", "ONNX Runtime", "cpu"))


def plan_of(model: Path, options: BackendOptions) -> tuple[bytes, Backend]:
    """The TensorRT plan of an ONNX file, from the cache or built now, and the backend that runs it.

    Raises:
        LoadError: As for `load`.
    """
    return _load_on_gpu(_build_plan, model, options)


def _holds(version: Path, *names: str) -> bool:
    """Whether a version has one of these files.

    Raises:
        LoadError: PERMISSION_DENIED if the server's user is not allowed to read the folder or the file.
    """
    try:
        held = next((path for name in names if _is_file(path := os.path.join(version, name))), None)
    except PermissionError as error:
        raise _unreadable(version, error) from error
    if held is None:
        return False
    try:
        os.close(os.open(held, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        raise _unreadable(Path(held), error) from error
    return True


def _is_file(path: str) -> bool:
    """Does the same as `Path.is_file`, but faster: six names are checked for each of thousands of models."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return False
    except OSError:
        return Path(path).is_file()


def _unreadable(path: Path, error: OSError) -> LoadError:
    refusal = unreadable(path, error)
    return LoadError(refusal.code, refusal.message)


def _load(load_model: Load[T], model: Path, options: BackendOptions, *, needs: tuple[str, str, str]) -> T:
    """Loads a model; `needs` has the package of its runtime, the runtime's name, and the extra that installs it."""
    package, runtime, extra = needs
    try:
        return load_model(model, options)
    except ImportError as error:
        if not (error.name or "").startswith(package):  # also tensorrt_bindings
            raise
        missing = isinstance(error, ModuleNotFoundError) and error.name == package
        why = f"not installed: pip install 'headrace[{extra}]'" if missing else f"installed but does not work: {error}"
        raise LoadError(Code.FAILED_PRECONDITION, f"{model} needs {runtime}, which is {why}") from error


def _load_on_gpu(load_model: Load[T], model: Path, options: BackendOptions) -> T:
    def load(model: Path, options: BackendOptions) -> T:
        return _load(load_model, model, options, needs=("tensorrt", "TensorRT", "gpu"))

    return _load(load, model, options, needs=("pycuda", "pycuda", "gpu"))


def _build_plan(model: Path, options: BackendOptions) -> tuple[bytes, Backend]:
    from headrace_server.backends.tensorrt.backend import planned

    return planned(model, options)


def _load_plan(model: Path, options: BackendOptions) -> Backend:
    from headrace_server.backends.tensorrt.backend import load_plan

    return load_plan(model, options)


def _load_onnx_by_tensorrt(model: Path, options: BackendOptions) -> Backend:
    from headrace_server.backends.tensorrt.backend import load_onnx

    return load_onnx(model, options)


def _load_onnx(model: Path, options: BackendOptions) -> Backend:
    from headrace_server.backends.onnx.loading import load_onnx

    return load_onnx(model, options)


def _load_saved_model(model: Path, options: BackendOptions) -> Backend:
    from headrace_server.backends.savedmodel_impl import load_saved_model

    return load_saved_model(model, options)


def _load_tflite(model: Path, options: BackendOptions) -> Backend:
    from headrace_server.backends.tflite_impl import load_tflite

    return load_tflite(model, options)


def _load_python(model: Path, options: BackendOptions) -> Backend:
    from headrace_server.backends.callable_impl import load_python

    del options  # a Python model needs no runtime except Python
    return load_python(model)
