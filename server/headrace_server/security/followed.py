"""Files that are read again when they change."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from headrace_server.config.files import check_can_be_read_again
from headrace_server.errors import ServingError

log = logging.getLogger(__name__)

T = TypeVar("T")


class FollowedFile(Generic[T]):
    """The content of a file, as of the last time when it could be read.

    Args:
        path: The file to follow.
        read: Reads the file, and returns its content.

    Raises:
        ServingError: The file cannot be read at the start.

    Attributes:
        value: The content, as `read` has returned it.
    """

    def __init__(self, path: Path, read: Callable[[Path], T]) -> None:
        self._path = path
        self._read = read
        self._failed: tuple[int, ...] | None = None  # the state in which reading failed last
        self._seen = _state(path)
        self.value = read(path)

    def look(self) -> bool:
        """Checks the file, and returns whether the content has changed.

        If the file cannot be read, the old content stays, and the next call tries again: the cause may be a lack of
        descriptors, which passes without a change of the file.
        """
        state = _state(self._path)
        if state == self._seen:
            return False
        try:
            check_can_be_read_again(self._path)
            value = self._read(self._path)
        except ServingError as error:
            if state != self._failed:
                log.error("the previous contents stay in use: %s", error.message)
            self._failed = state
            return False
        self._seen, self._failed = state, None
        log.info("%s read again", self._path)
        changed = value != self.value
        self.value = value
        return changed


def _state(path: Path) -> tuple[int, ...]:
    try:
        stat = os.stat(path)
    except OSError:
        return ()
    return stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size
