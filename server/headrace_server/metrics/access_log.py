"""A log line for every call that has ended."""

import json
import logging
from contextvars import ContextVar
from typing import Protocol

from headrace_server.metrics.counting import Tally

log = logging.getLogger(__name__)

REQUEST_ID: ContextVar[str] = ContextVar("headrace-request-id", default="-")
"""The ID of the call that the current task answers."""


MAX_NAME = 100
"""The maximum number of characters of a model's name that are written."""


class Counts(Protocol):
    """Counts the calls of one method; see the docstrings of `calls.GrpcMethod`."""

    def __call__(self, model: str, code: str, seconds: float) -> None:
        """Counts one call."""

    def several(self, model: str, code: str, tally: Tally, total: float) -> None:
        """Counts several calls with the same model and code."""


class LoggedMethod:
    """Logs the calls of one method, and passes them on to be counted.

    Args:
        name: The method's name, with its service.
        counts: Counts the calls.
    """

    def __init__(self, name: str, counts: Counts) -> None:
        self._name = name
        self._counts = counts

    def __call__(self, model: str, code: str, seconds: float) -> None:
        """Logs and counts one call."""
        log_call(self._name, model, code, seconds)
        self._counts(model, code, seconds)

    def several(self, model: str, code: str, tally: Tally, total: float) -> None:
        """Counts calls that the transport reports together; there are none while every call is logged."""
        self._counts.several(model, code, tally, total)


def log_call(method: str, model: str, code: str, seconds: float) -> None:
    """Logs a call that has ended."""
    log.info("%s model=%s code=%s ms=%.3f id=%s", method, _shown(model), code, seconds * 1e3, REQUEST_ID.get())


def _shown(model: str) -> str:
    """A model's name from a caller, truncated; as JSON if it could be taken for other parts of the line."""
    name = model[:MAX_NAME]
    return name or "-" if name.isprintable() and " " not in name and '"' not in name else json.dumps(name)
