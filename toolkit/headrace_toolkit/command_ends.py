"""Runs a command so that it ends with an exit status and at most one line of error, whatever happens."""

import argparse
import contextlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from headrace_toolkit.errors import ToolkitError, first_line

Values = dict[str, Any]

_INTERRUPTED = "interrupted"


def lazily(function: str) -> Callable[[argparse.ArgumentParser, Values], int]:
    """Returns a function that imports and runs this function of `command_runs`, and turns its errors into a status."""

    def run(parser: argparse.ArgumentParser, values: Values) -> int:
        del parser
        with _signals() as came:
            try:
                return _run(function, values)
            except KeyboardInterrupt:
                return _end(_INTERRUPTED, 128 + signal.SIGINT)
            except Exception as error:
                if not came:
                    return _end(_sentence(error))
                # C code that a signal interrupts may replace the signal's exception with one of its own.
                if came[0] == signal.SIGINT:
                    return _end(_INTERRUPTED, 128 + signal.SIGINT)
                raise SystemExit(128 + came[0]) from error

    return run


def _run(function: str, values: Values) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for a terminal that cannot show a model's name
    _check_text(values)
    from headrace_toolkit import command_runs

    status: int = getattr(command_runs, function)(values)
    sys.stdout.flush()  # if this failed at Python's exit, a traceback would be printed
    return status


def _sentence(error: Exception) -> str:
    """The text of an error for the user; empty if none is to be printed."""
    if isinstance(error, ToolkitError):
        return str(error)
    if isinstance(error, BrokenPipeError):  # the program that reads the table, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ""
    if isinstance(error, OSError):  # such as a full disk or an invalid file name, anywhere
        said = error.strerror or first_line(error)
        return f"{error.filename}: {said}" if error.filename else f"a file cannot be read or written: {said}"
    if isinstance(error, MemoryError):
        return f"this machine has too little memory: {first_line(error)}"
    return _fault(error)


def _end(text: str, status: int = 1) -> int:
    """Prints an error, if any, as one line, whatever characters it contains, and returns the exit status."""
    line = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    if line:
        print(f"headrace: {line}", file=sys.stderr)
    return status


def _fault(error: Exception) -> str:
    """The text of an unexpected error, and the place in the toolkit that it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if "headrace_toolkit" in Path(frame.filename).parts]
    place = f"{Path(inside[-1].filename).name}, line {inside[-1].lineno}" if inside else "an unknown place"
    return (
        f"an error that headrace did not expect, in {place}: {type(error).__name__}: {first_line(error)}. "
        "Please report it"
    )


def _check_text(values: Values) -> None:
    """Refuses names that are not UTF-8, since reports and cards cannot contain them.

    Raises:
        ToolkitError: A name is not UTF-8.
    """
    for value in values.values():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and not text.isascii():
                try:
                    text.encode()
                except UnicodeEncodeError as error:
                    raise ToolkitError(
                        f"{os.fsencode(text)!r}: names must be UTF-8, since reports and cards contain them"
                    ) from error


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Makes signals end the work like exceptions, so that unfinished files are removed: SIGINT, SIGTERM and SIGHUP.

    A signal that is ignored, as SIGHUP is under nohup, stays ignored.

    Yields:
        The numbers of the signals that have come.
    """
    came: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        del frame
        came.append(number)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    numbers = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
