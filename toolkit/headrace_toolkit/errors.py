"""The toolkit's error for its user: a sentence that names the fault and the remedy."""

import importlib
from typing import Any

_LONGEST = 300
"""The maximum number of characters of a library's error that a message quotes."""


class ToolkitError(Exception):
    """A file or a value of the user cannot be used. The text is one line, and names the file, key or tensor."""


def require(module: str, purpose: str, extra: str) -> Any:
    """Imports a library that an extra installs.

    Args:
        module: The library's import name.
        purpose: What the library is needed for, such as "quantization".
        extra: The extra of the `headrace` distribution.

    Raises:
        ToolkitError: The library is not installed. A broken installation raises its own error.
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
    """The first line of an exception's text that is not empty, shortened; the exception's type if there is none."""
    lines = [line.strip() for line in str(error).splitlines()]
    line = next((line for line in lines if line), type(error).__name__)
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
