"""The one failure that a user of the toolkit sees: a sentence that names what is wrong and what to do."""

import importlib
from typing import Any


class ToolkitError(Exception):
    """Something that the user gave cannot be used. The text is one line, and names the file, key or tensor."""


def require(module: str, purpose: str, extra: str) -> Any:
    """Imports a library that an extra brings.

    Args:
        module: Its import name.
        purpose: What it is needed for, as in "quantization".
        extra: The extra of the `headrace` distribution.

    Raises:
        ToolkitError: It is not installed. One that is installed and broken raises its own error.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or module.split(".")[0] != error.name.split(".")[0]:
            raise
        raise ToolkitError(
            f"{purpose} needs {error.name}, which is not installed: pip install 'headrace[{extra}]'"
        ) from error


def first_line(error: BaseException) -> str:
    """The first line of an exception's text that says something; its type where there is none."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if line), type(error).__name__)
