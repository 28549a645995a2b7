"""Loads that are not finished, and the errors of those that failed."""

import os
from dataclasses import dataclass
from pathlib import Path

from headrace_protos import Code
from headrace_server.errors import LoadError, ServingError, status_of, unreadable
from headrace_server.models.files_state import FilesState, files_state

FAULTY_FILES = frozenset({Code.INVALID_ARGUMENT, Code.UNIMPLEMENTED, Code.NOT_FOUND, Code.DATA_LOSS})
"""The codes of a `LoadError` that the version's files cause: they are corrupt, missing, or of an unsupported kind."""

LONGEST_PAUSE = 60.0
"""Seconds after which a failed version whose files have changed is tried again at the latest."""

CANCELLED = ServingError(Code.CANCELLED, "Loading of servable cancelled")
"""The error of a version that stopped being wanted while it was loaded."""


@dataclass(slots=True)
class Trouble:
    """The errors of a version since it last became wanted, or was last available.

    Attributes:
        said: The last error that was logged.
        rounds: How often all tries have failed.
        files: The state of the version's files before the last try.
        seen: The state of the files when they were last checked.
        failed_at: The time of the failure, on the manager's clock.
    """

    said: str = ""
    rounds: int = 0
    files: FilesState = ()
    seen: FilesState | None = None
    failed_at: float = 0.0

    def ready(self, files: FilesState, now: float) -> bool:
        """Whether files in this state are worth another try."""
        waited = now - self.failed_at
        if files == self.files or waited < min(2.0 ** (self.rounds - 1), LONGEST_PAUSE):
            return False
        return files == self.seen or waited >= LONGEST_PAUSE


@dataclass(slots=True)
class Attempt:
    """A load that is not finished: a try is running, or the next one is due later.

    Attributes:
        path: The version's folder.
        files: The state of the version's files before the last try.
        failures: The number of failed tries.
        error: The error of the last failed try.
        due: When the next try may begin, on the manager's clock; None while a try is running.
        cancelled: Whether the version stopped being wanted (aspired) at any time since the load began, even if it is
            wanted again now.
    """

    path: Path
    files: FilesState = ()
    failures: int = 0
    error: Exception | None = None
    due: float | None = None
    cancelled: bool = False

    def is_faulty(self, error: ServingError) -> bool:
        """Whether the last try failed with this error because of the version's files, which have not changed since."""
        is_theirs = isinstance(error, LoadError) and error.code in FAULTY_FILES
        return is_theirs and files_state(self.path) == self.files


def failure_of(error: BaseException) -> ServingError:
    """The error to report for an error that a load has raised.

    A new object is returned, since the traceback of the raised error holds what the load had in memory.
    """
    if isinstance(error, OSError) and error.filename is not None:
        return unreadable(os.fsdecode(error.filename), error)
    if isinstance(error, LoadError):
        return LoadError(error.code, error.message)
    if isinstance(error, Exception):
        return ServingError(*status_of(error))
    return ServingError(Code.INTERNAL, f"the model raised {error!r}")
