"""The load generator's error for its user: a sentence that names the mistake or the fault."""

import importlib
from typing import Any


class BenchError(Exception):
    """An argument or a file from the user cannot be used, or a server does not answer. The text is one line."""


def require(module: str, purpose: str, install: str) -> Any:
    """Imports an optional package.

    Args:
        module: The package's import name.
        purpose: What the package is needed for, such as "a chart".
        install: The argument of `pip install`.

    Raises:
        BenchError: The package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or module.split(".")[0] != error.name.split(".")[0]:
            raise
        package = module.split(".")[0]
        raise BenchError(f"{purpose} needs {package}, which is not installed: pip install {install}") from error
