"""Suppresses what libraries print and log, and reduces their errors to one line."""

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from headrace_toolkit.errors import ToolkitError, first_line


@contextlib.contextmanager
def quietly(what: str) -> Iterator[None]:
    """Runs a library that prints and logs; its exception becomes one sentence.

    Args:
        what: What the library does, as the beginning of that sentence: `dynamic quantization`.

    Raises:
        ToolkitError: The library raised.
    """
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    except ToolkitError:
        raise
    except Exception as error:
        raise ToolkitError(f"{what} failed: {type(error).__name__}: {first_line(error)}") from error
    finally:
        logging.disable(level)


@contextlib.contextmanager
def loading(path: Path, what: str) -> Iterator[None]:
    """Makes a library load a file or folder, like `quietly`.

    Args:
        path: The file or folder.
        what: The end of the error `FILE is not ...` if the library raises, such as `a model that XGBoost loads`.

    Raises:
        ToolkitError: The library raised.
    """
    try:
        with quietly(f"{path}: loading"):
            yield
    except ToolkitError as error:
        raise ToolkitError(f"{path} is not {what}: {first_line(error.__cause__ or error)}") from error


@contextlib.contextmanager
def stderr_aside() -> Iterator[None]:
    """Discards what C++ libraries write to the process's stderr, which redirecting Python's own does not affect."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
