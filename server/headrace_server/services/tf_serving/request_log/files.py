"""Appends records to TFRecord files on a thread of its own, by prefix; a full file is followed by a new one."""

import logging
import os
import stat
import time
from contextlib import suppress
from threading import Event, Lock, Thread
from typing import NamedTuple

from headrace_protos import Code
from headrace_server.metrics.catalogue import Metrics
from headrace_server.models.tfrecord import frame

log = logging.getLogger(__name__)

WAITING_BYTES = 64 << 20
FILE_BYTES = 256 << 20
SECONDS = 0.2


class Entry(NamedTuple):
    """A record on its way to a file."""

    prefix: str
    model: str
    record: bytes


class RecordWriter:
    """Accepts records on any thread, never waits for the disk, and drops records for which it is too slow.

    The thread starts with the first record, and looks for more several times a second, so that `put` need not wake it.

    Args:
        metrics: Counts records by model and outcome: OK, RESOURCE_EXHAUSTED for a dropped one, DATA_LOSS for one that
            could not be written.
        waiting_bytes: The number of bytes that may wait for the disk; further records are dropped.
        file_bytes: The size at which a file is full.
    """

    def __init__(self, metrics: Metrics, waiting_bytes: int = WAITING_BYTES, file_bytes: int = FILE_BYTES) -> None:
        self._counts = metrics.request_log_count
        self._waiting_bytes = waiting_bytes
        self._files = RecordFiles(file_bytes)
        self._lock = Lock()
        self._waiting: list[Entry] = []
        self._bytes = 0
        self._due = Event()
        self._dropping = False
        self._stopping = False
        self._thread: Thread | None = None

    def put(self, prefix: str, model: str, record: bytes) -> None:
        """Appends a record to the file of a prefix, soon. Any thread.

        Raises:
            RuntimeError: The system has no thread for the first record.
        """
        if not self._accept(Entry(prefix, model, record)):
            self._drop(model, "the disk is too slow")
        elif 2 * self._bytes > self._waiting_bytes:
            self._due.set()

    def lose(self, model: str, error: Exception) -> None:
        """Counts a call whose record could not be made or put here. Any thread."""
        self._drop(model, f"{type(error).__name__}: {error}")

    def stop(self) -> None:
        """Writes the waiting records, and accepts no more."""
        with self._lock:
            self._stopping = True
        self._due.set()
        if self._thread is not None:
            self._thread.join()

    def _accept(self, entry: Entry) -> bool:
        """Adds a record to those that wait for the disk; returns False if there is no room for it."""
        with self._lock:
            if self._stopping or self._bytes + len(entry.record) > self._waiting_bytes:
                return False
            if self._thread is None:
                thread = Thread(target=self._write, name="request-log", daemon=True)
                thread.start()
                self._thread = thread
            self._bytes += len(entry.record)
            self._waiting.append(entry)
            return True

    def _drop(self, model: str, reason: str) -> None:
        self._counts.of(model, "RESOURCE_EXHAUSTED").add()
        if not self._dropping and not self._stopping:
            self._dropping = True
            log.warning("calls are not logged: %s", reason)

    def _write(self) -> None:
        while True:
            self._due.wait(SECONDS)
            self._due.clear()
            with self._lock:
                entries, self._waiting, stopping = self._waiting, [], self._stopping
                self._dropping = False
            self._append(entries)
            if stopping:
                return

    def _append(self, entries: list[Entry]) -> None:
        by_prefix: dict[str, list[Entry]] = {}
        for entry in entries:
            by_prefix.setdefault(entry.prefix, []).append(entry)
        for prefix, group in by_prefix.items():
            code = self._files.append(prefix, [entry.record for entry in group])
            with self._lock:
                self._bytes -= sum(len(entry.record) for entry in group)
            for entry in group:
                self._counts.of(entry.model, Code.Name(code)).add()


class RecordFiles:
    """The files of each prefix: `<prefix>-<UTC time>-<process>-<number>.tfrecord`. One thread.

    Files are open only while they are written to, so that anybody may move or delete them.

    Args:
        file_bytes: The size after which the next file is begun.
    """

    def __init__(self, file_bytes: int) -> None:
        self._file_bytes = file_bytes
        self._paths: dict[str, str] = {}
        self._begun = 0
        self._failing = False

    def append(self, prefix: str, records: list[bytes]) -> Code:
        """Appends records; returns OK, or DATA_LOSS if they cannot be written.

        A file ends at an error, since nothing after a partial record could be read.
        """
        path = self._paths.get(prefix) or self._next(prefix)
        try:
            with open(path, "ab", opener=_open_for_owner) as file:
                file.writelines(map(frame, records))
                size = file.tell()
        except Exception as error:  # also MemoryError: if this thread ended, no call would be logged anymore
            _remove_empty(path)
            if not self._failing:
                log.error("calls are not logged: %s", error if isinstance(error, OSError) else repr(error))
            self._failing = True
            del self._paths[prefix]
            return Code.DATA_LOSS
        self._failing = False
        if size >= self._file_bytes:
            del self._paths[prefix]
        return Code.OK

    def _next(self, prefix: str) -> str:
        self._begun += 1
        now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        self._paths[prefix] = f"{prefix}-{now}-{os.getpid()}-{self._begun:05}.tfrecord"
        return self._paths[prefix]


def _open_for_owner(path: str, flags: int) -> int:
    """Opens a file that no other user may read, since it contains what callers have sent.

    Never waits: a pipe at this path that nobody reads is an error.
    """
    return os.open(path, flags | os.O_NONBLOCK, 0o600)


def _remove_empty(path: str) -> None:
    """Removes the empty file that a full disk has left."""
    with suppress(OSError):
        found = os.lstat(path)
        if stat.S_ISREG(found.st_mode) and not found.st_size:
            os.unlink(path)
