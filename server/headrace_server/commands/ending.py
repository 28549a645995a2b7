"""Runs a command: prints its error, if there is one, as one line on stderr, and returns the exit status."""

import sys
from collections.abc import Callable
from typing import Any

from headrace_protos import Code
from headrace_server.errors import ServingError, status_of


def ending_of(command: str, act: Callable[[dict[str, Any]], object]) -> Callable[[Any, dict[str, Any]], int]:
    """The function that a parser calls for a command; it turns the parsed values into the exit status.

    Args:
        command: The command's name, which is printed before an error.
        act: Carries out the command.
    """

    def run(_: Any, values: dict[str, Any]) -> int:
        try:
            act(values)
        except ServingError as error:
            print(f"{command}: {error.message}", file=sys.stderr)
            return 1
        return 0

    return run


def status_of_run(failing: str, act: Callable[[], None]) -> int:
    """Runs a command and returns the exit status.

    Args:
        failing: The words for the command's failure, such as `cannot start`.
        act: Carries out the command.
    """
    try:
        act()
    except ServingError as error:
        code, text = status_of(error)
        print(f"headrace: {failing}: {Code.Name(code)}: {text}", file=sys.stderr)
        return 1
    return 0
