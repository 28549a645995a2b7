"""Imports packages that an extra installs, and that may be missing."""

from collections.abc import Iterator
from contextlib import contextmanager

from headrace_protos import Code
from headrace_server.errors import ServingError


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """A context for imports: the error for a missing package names the extra that installs it.

    Raises:
        ServingError: FAILED_PRECONDITION if a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        text = f"the package {error.name} is not installed: pip install 'headrace[{extra}]' installs it"
        raise ServingError(Code.FAILED_PRECONDITION, text) from error
