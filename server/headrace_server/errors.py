"""The class of the errors that callers can see, its most general subclasses, and the status code of every exception."""

import errno
import logging
from pathlib import Path

from headrace_batching import (
    BatchingError,
    BatchOutputError,
    Closed,
    DeadlineExceeded,
    InvalidTask,
    NotRepeated,
    ObjectiveMissed,
    QueueFull,
    RunHangs,
    RunTimedOut,
    TaskTooLarge,
)
from headrace_protos import Code

log = logging.getLogger(__name__)


def as_unicode(text: str) -> str:
    r"""Escapes the bytes of a path that are not UTF-8 as `\udcff`; messages carry Unicode only."""
    return text.encode(errors="backslashreplace").decode()


_FAILURES = frozenset(range(1, 17))


class ServingError(Exception):
    """An error with the code and the text that the caller gets.

    The codes: INVALID_ARGUMENT if the same request can never succeed, FAILED_PRECONDITION if another model would accept
    it, NOT_FOUND if nothing with that name is served, UNAVAILABLE if trying again later may help, and INTERNAL if the
    fault is the server's. Where TF Serving answers with another code, so does headrace. A code that no failure has,
    such as 0 or 99 from a Python model, becomes INTERNAL.
    """

    def __init__(self, code: Code, message: str) -> None:
        message = as_unicode(message)
        super().__init__(message)
        self.code = code if code in _FAILURES else Code.INTERNAL
        self.message = message


class LoadError(ServingError):
    """A version that cannot be loaded; the text names its file."""


AT_REST = "not in memory: the next call loads it"
"""The state message of a version that will be loaded when it is called."""


class NotInMemory(ServingError):
    """Raised for a version that can be called once it has been loaded.

    Attributes:
        name: The model's name.
        version: The version's number.
    """

    def __init__(self, name: str, version: int) -> None:
        super().__init__(Code.UNAVAILABLE, f"model {name} version {version} is {AT_REST}")
        self.name = name
        self.version = version


class RunLost(ServingError, NotRepeated):
    """A run that had to be ended before it was complete.

    All its callers get this error: their requests are not run again, because they may be what made the run fail.
    """


def invalid(message: str) -> ServingError:
    """An error with the code INVALID_ARGUMENT."""
    return ServingError(Code.INVALID_ARGUMENT, message)


def not_found(message: str) -> ServingError:
    """An error with the code NOT_FOUND."""
    return ServingError(Code.NOT_FOUND, message)


def unimplemented(message: str) -> ServingError:
    """An error with the code UNIMPLEMENTED."""
    return ServingError(Code.UNIMPLEMENTED, message)


def timed_out() -> ServingError:
    """The error of a run that was ended by its deadline, as in TensorFlow's direct_session.cc."""
    return ServingError(Code.DEADLINE_EXCEEDED, "Timed out waiting for notification")


_FILES: dict[int | None, Code] = {
    # These are the codes of TensorFlow's POSIX file system (absl's ErrnoToStatusCode); any other errno is UNKNOWN.
    errno.ENOENT: Code.NOT_FOUND,
    errno.EACCES: Code.PERMISSION_DENIED,
    errno.EPERM: Code.PERMISSION_DENIED,
    errno.EISDIR: Code.FAILED_PRECONDITION,
    errno.ENOTDIR: Code.FAILED_PRECONDITION,
    errno.ENAMETOOLONG: Code.INVALID_ARGUMENT,
}


def unreadable(path: str | Path, error: OSError) -> ServingError:
    """The error for a file that cannot be read."""
    return ServingError(_FILES.get(error.errno, Code.UNKNOWN), f"{path}: {error.strerror}")


def misread(error: Exception) -> str:
    """Why a document cannot be parsed, or is not what its reader expects, in words."""
    return f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)


_SCARCE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors about resources that are free again when other calls have ended."""

_NO_THREAD = "can't start new thread"
"""Python's text if the system has no thread, or no memory for one."""

_BATCHING: dict[type[BatchingError], Code] = {
    # TF Serving's batching_session.cc and shared_batch_scheduler.h have these four codes.
    TaskTooLarge: Code.INVALID_ARGUMENT,
    InvalidTask: Code.INVALID_ARGUMENT,
    QueueFull: Code.UNAVAILABLE,
    ObjectiveMissed: Code.UNAVAILABLE,  # like a full queue: another server may have room now, or this one soon
    DeadlineExceeded: Code.RESOURCE_EXHAUSTED,
    BatchOutputError: Code.FAILED_PRECONDITION,
    Closed: Code.UNAVAILABLE,
    RunTimedOut: Code.DEADLINE_EXCEEDED,
    RunHangs: Code.UNAVAILABLE,
}


def status_of(error: Exception) -> tuple[Code, str]:
    """The code and the text of any exception: the single place where exceptions are mapped to statuses.

    Unexpected exceptions are INTERNAL, and their traceback is logged.
    """
    if isinstance(error, ServingError):
        return error.code, error.message
    if isinstance(error, OSError) and error.errno in _SCARCE:
        return Code.UNAVAILABLE, f"the server has run out of a system resource: {error.strerror}"
    if isinstance(error, RuntimeError) and str(error) == _NO_THREAD:
        return Code.UNAVAILABLE, f"the server has run out of a system resource: {error}"
    if isinstance(error, MemoryError):
        return Code.RESOURCE_EXHAUSTED, f"the server has too little memory: {error}".removesuffix(": ")
    if isinstance(error, BatchingError):
        return _BATCHING.get(type(error), Code.INTERNAL), str(error)
    log.error("a call failed unexpectedly", exc_info=error)
    return Code.INTERNAL, f"{type(error).__name__}: {error}"
