"""Every failure a caller can see, each with its canonical status code."""

import logging

from headrace_batching import (
    BatchingError,
    BatchOutputError,
    Closed,
    DeadlineExceeded,
    InvalidTask,
    QueueFull,
    TaskTooLarge,
)
from headrace_protos import Code

log = logging.getLogger(__name__)


class ServingError(Exception):
    """A failure with the code and the text that a caller gets.

    Which code: INVALID_ARGUMENT where the same request can never succeed, FAILED_PRECONDITION where another model
    would take it, NOT_FOUND where nothing of that name is served, UNAVAILABLE where trying again later may help,
    INTERNAL where the fault is ours. Where TF Serving answers otherwise, as TF Serving.
    """

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class LoadError(ServingError):
    """A version that cannot be loaded; the text names its file."""


def invalid(message: str) -> ServingError:
    """An INVALID_ARGUMENT."""
    return ServingError(Code.INVALID_ARGUMENT, message)


def not_found(message: str) -> ServingError:
    """A NOT_FOUND."""
    return ServingError(Code.NOT_FOUND, message)


_BATCHING: dict[type[BatchingError], Code] = {
    # TF Serving: batching_session.cc and shared_batch_scheduler.h have these four codes.
    TaskTooLarge: Code.INVALID_ARGUMENT,
    InvalidTask: Code.INVALID_ARGUMENT,
    QueueFull: Code.UNAVAILABLE,
    DeadlineExceeded: Code.RESOURCE_EXHAUSTED,
    BatchOutputError: Code.FAILED_PRECONDITION,
    Closed: Code.UNAVAILABLE,
}


def status_of(error: Exception) -> tuple[Code, str]:
    """The code and the text of any failure: the one mapping, at the edge.

    What nobody foresaw is INTERNAL, and its traceback is logged.
    """
    if isinstance(error, ServingError):
        return error.code, error.message
    if isinstance(error, BatchingError):
        return _BATCHING.get(type(error), Code.INTERNAL), str(error)
    log.error("unexpected failure of a call", exc_info=error)
    return Code.INTERNAL, f"{type(error).__name__}: {error}"
