"""The audit log: a line of JSON for every call, with its caller and how it ended, but never its content."""

import json
import logging
import os
import time
from dataclasses import dataclass
from io import TextIOWrapper
from logging.handlers import WatchedFileHandler
from pathlib import Path
from threading import Event, Thread
from typing import Any, Protocol

from headrace_server.errors import unreadable

MAX_NAME = 256
"""The maximum number of characters that are written of a model's name, which the caller may have invented."""

GATHER_SECONDS = 0.02
"""Seconds between two writes of lines that another source collects."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One call that has ended, or was refused.

    Attributes:
        who: The principal; empty if it is not known.
        peer: The caller's address.
        method: A gRPC method with its service, or an HTTP method and the call's name.
        model: The model's name from the caller; empty if there is none.
        rows: The number of rows that were run.
        code: The result of the call: the name of gRPC's status code.
        seconds: The duration in seconds.
    """

    who: str
    peer: str
    method: str
    model: str
    rows: int
    code: str
    seconds: float


class Lines(Protocol):
    """A source of finished lines. Any thread."""

    def take(self) -> bytes | None:
        """Waits for lines, and returns all of them with their line feeds; None once it has been closed and emptied."""

    def close(self) -> None:
        """Ends the source: no more lines will come."""


class AuditLog:
    """Appends entries to a file of mode 0600, which is reopened when another file has taken its name. Any thread.

    Args:
        path: The file to append to.

    Raises:
        ServingError: The file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = _File(path)
        except OSError as error:
            raise unreadable(path, error) from error
        self._followed: tuple[Lines, Thread] | None = None
        self._closing = Event()

    def follow(self, lines: Lines) -> None:
        """Starts a thread that appends the lines of this source, too, until the log is closed."""
        thread = Thread(target=self._follow, args=(lines,), name="audit", daemon=True)
        thread.start()
        self._followed = lines, thread

    def write(self, entry: Entry) -> None:
        """Adds an entry."""
        now = time.time()
        document: dict[str, Any] = {
            "ts": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e6):06}Z",
            "who": entry.who or None,
            "peer": entry.peer or None,
            "method": entry.method,
            "model": short(entry.model),
            "rows": entry.rows,
            "code": entry.code,
            "ms": round(entry.seconds * 1e3, 3),
        }
        self._append(json.dumps(document))

    def close(self) -> None:
        """Appends the remaining lines of the source, and closes the file."""
        self._closing.set()
        if self._followed is not None:
            lines, thread = self._followed
            lines.close()
            thread.join()
        self._file.close()

    def _follow(self, lines: Lines) -> None:
        while (taken := lines.take()) is not None:
            self._append(taken.decode().removesuffix("\n"))
            self._closing.wait(GATHER_SECONDS)

    def _append(self, lines: str) -> None:
        self._file.handle(logging.makeLogRecord({"msg": lines, "levelno": logging.INFO}))


def short(model: str) -> str | None:
    """A model's name, cut to the length that is written; None if it is empty."""
    return model[:MAX_NAME] or None


class _File(WatchedFileHandler):
    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8")

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.fchmod(descriptor, 0o600)
        return os.fdopen(descriptor, "a", encoding="utf-8")
