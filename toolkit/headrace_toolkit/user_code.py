"""Runs the user's function that `file.py:function` names."""

import hashlib
import importlib.util
import sys
import traceback
from pathlib import Path
from typing import Any

from headrace_toolkit.errors import ToolkitError, first_line


def names_function(text: str) -> bool:
    """Whether a text has the form `file.py:function`."""
    file, colon, function = text.rpartition(":")
    return bool(colon) and file.endswith(".py") and function.isidentifier()


def call(reference: str, *arguments: Any) -> Any:
    """The result of the function that `file.py:function` names.

    Raises:
        ToolkitError: There is no such file or function, or it raised; the text names the user's line.
    """
    function = _find(reference)
    try:
        return function(*arguments)
    except ToolkitError:
        raise
    except Exception as error:
        raise ToolkitError(_where(reference, error)) from error


def _find(reference: str) -> Any:
    file, _, name = reference.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise ToolkitError(f"{reference}: there is no file {path}")
    module = _module(path, reference)
    function = getattr(module, name, None)
    if function is None:
        raise ToolkitError(f"{reference}: {path.name} has no function {name}")
    if not callable(function):
        raise ToolkitError(f"{reference}: {name} must be a function; it is a {type(function).__name__}")
    return function


def _module(path: Path, reference: str) -> Any:
    """The module in a file, loaded once per process so that its classes stay the same."""
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    name = f"headrace_user_code_{digest}"  # an identifier, since TorchScript stores and parses it
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ToolkitError(f"{reference}: {path.name} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)  # for imports of modules next to it
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ToolkitError(_where(reference, error)) from error
    finally:
        sys.path.remove(folder)
    return module


def _where(reference: str, error: Exception) -> str:
    file = Path(reference.rpartition(":")[0])
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).name == file.name]
    line = lines[-1] if lines else getattr(error, "lineno", None)
    place = file.name if line is None else f"{file.name}, line {line}"
    return f"{reference} failed in {place}: {type(error).__name__}: {first_line(error)}"
