"""A line in the log for every call that has ended."""

import logging
from contextvars import ContextVar
from typing import Protocol

from headrace_server.metrics.series import Tally

log = logging.getLogger(__name__)

REQUEST_ID: ContextVar[str] = ContextVar("headrace-request-id", default="-")
"""The id of the call that the running task answers."""


class Counts(Protocol):
    """Who counts the calls of one method; `calls.GrpcMethod`, whose docstrings say more."""

    def __call__(self, model: str, code: str, seconds: float) -> None:
        """One call."""

    def several(self, model: str, code: str, tally: Tally, total: float) -> None:
        """Calls that have ended alike."""


class LoggedMethod:
    """Logs the calls of one method, and has them counted.

    Args:
        name: The method's, with its service.
        counts: Counts them.
    """

    def __init__(self, name: str, counts: Counts) -> None:
        self._name = name
        self._counts = counts

    def __call__(self, model: str, code: str, seconds: float) -> None:
        """One call."""
        log_call(self._name, model, code, seconds)
        self._counts(model, code, seconds)

    def several(self, model: str, code: str, tally: Tally, total: float) -> None:
        """Calls that nobody has seen one by one, of which there are none while every call is logged."""
        self._counts.several(model, code, tally, total)


def log_call(method: str, model: str, code: str, seconds: float) -> None:
    """Logs a call that has ended; a caller's name of a model is cut."""
    log.info("%s model=%.100s code=%s ms=%.3f id=%s", method, model or "-", code, seconds * 1e3, REQUEST_ID.get())
