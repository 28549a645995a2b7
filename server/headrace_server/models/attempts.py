"""Loads that are not over, and what has gone wrong with those that have failed."""

from dataclasses import dataclass
from pathlib import Path

from headrace_server.models.files_state import FilesState

LONGEST_PAUSE = 60.0
"""Seconds after which a version that failed, and whose files have changed, is tried again at the latest."""


@dataclass(slots=True)
class Trouble:
    """What has gone wrong with a version since it was last wanted anew, or available.

    Attributes:
        said: The last error that was logged.
        rounds: Times that the last of its tries has failed.
        files: The state of its files before that try.
        seen: Their state when they were last looked at.
        failed_at: When that was, on the manager's clock.
    """

    said: str = ""
    rounds: int = 0
    files: FilesState = ()
    seen: FilesState | None = None
    failed_at: float = 0.0

    def ready(self, files: FilesState, now: float) -> bool:
        """Whether files of this state are worth another try."""
        waited = now - self.failed_at
        if files == self.files or waited < min(2.0 ** (self.rounds - 1), LONGEST_PAUSE):
            return False
        return files == self.seen or waited >= LONGEST_PAUSE


@dataclass(slots=True)
class Attempt:
    """A load that is not over: a try runs, or the next one is awaited.

    Attributes:
        path: The version's folder.
        files: The state of its files before the last try.
        failures: Tries that have failed.
        error: Of the last of them.
        due: When the next try may begin, on the manager's clock; None while one runs.
        cancelled: Whether the version was not aspired at some time since the load began.
    """

    path: Path
    files: FilesState = ()
    failures: int = 0
    error: Exception | None = None
    due: float | None = None
    cancelled: bool = False
