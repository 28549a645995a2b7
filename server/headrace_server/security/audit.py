"""The audit log: a line of JSON for every call, with its caller and how it ended, but never its content."""

import json
import logging
import os
import time
from dataclasses import dataclass
from io import TextIOWrapper
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any

from headrace_server.errors import unreadable

MAX_NAME = 256
"""The most characters of a model's name from a caller that are written."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One call that has ended, or was refused.

    Attributes:
        who: The principal; empty if it is not known.
        peer: The caller's address.
        method: A gRPC method with its service, or an HTTP method and the call's name.
        model: The model's name from the caller; empty if there is none.
        rows: The number of rows that were run.
        code: How it ended: the name of gRPC's status code.
        seconds: The duration in seconds.
    """

    who: str
    peer: str
    method: str
    model: str
    rows: int
    code: str
    seconds: float


class AuditLog:
    """Appends entries to a file of mode 0600, which is reopened when another file has taken its name. Any thread.

    Args:
        path: The file, which is appended to.

    Raises:
        ServingError: The file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = _File(path)
        except OSError as error:
            raise unreadable(path, error) from error

    def write(self, entry: Entry) -> None:
        """Adds an entry."""
        now = time.time()
        document: dict[str, Any] = {
            "ts": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e6):06}Z",
            "who": entry.who or None,
            "peer": entry.peer or None,
            "method": entry.method,
            "model": entry.model[:MAX_NAME] or None,
            "rows": entry.rows,
            "code": entry.code,
            "ms": round(entry.seconds * 1e3, 3),
        }
        self._file.handle(logging.makeLogRecord({"msg": json.dumps(document), "levelno": logging.INFO}))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class _File(WatchedFileHandler):
    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8")

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.fchmod(descriptor, 0o600)
        return os.fdopen(descriptor, "a", encoding="utf-8")
