"""Ends a command: computes its exit status and prints its error as one line on stderr."""

import sys
from collections.abc import Callable

from headrace_protos import Code
from headrace_server.errors import ServingError, status_of


def status_of_run(failing: str, act: Callable[[], None]) -> int:
    """Runs a command and returns the exit status.

    Args:
        failing: What to say if it fails, such as `cannot start`.
        act: What the command does.
    """
    try:
        act()
    except ServingError as error:
        code, text = status_of(error)
        print(f"headrace: {failing}: {Code.Name(code)}: {text}", file=sys.stderr)
        return 1
    return 0
