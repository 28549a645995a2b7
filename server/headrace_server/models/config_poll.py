"""Reads the model configuration file again at intervals, and applies it."""

import logging
from collections.abc import Callable
from threading import Event, Thread

from headrace_protos import ModelServerConfig
from headrace_server.config.files import check_can_be_read_again, read_text_proto
from headrace_server.errors import ServingError, status_of

log = logging.getLogger(__name__)


class ConfigPoll:
    """A thread that applies the file once per period, whether or not it changed; errors are only logged.

    `PollFilesystemAndReloadConfig` of TF Serving's server.cc does the same.

    Args:
        path: The model configuration file.
        seconds: The period in seconds; 0 or less starts no thread.
        apply: Replaces the configuration by the one that has been read.
    """

    def __init__(self, path: str, seconds: float, apply: Callable[[ModelServerConfig], None]) -> None:
        self._path = path
        self._seconds = seconds
        self._apply = apply
        self._said: list[str] = []
        self._stopping = Event()
        self._thread = Thread(target=self._watch, name="source-config", daemon=True)

    def start(self) -> None:
        """Starts the thread; it first reads the file one period from now."""
        if self._path and self._seconds > 0:
            self._thread.start()

    def stop(self) -> None:
        """Stops reading; an `apply` that waits for models must have been released before."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def poll(self) -> None:
        """Reads and applies the file once."""
        reasons: list[str] = []
        try:
            check_can_be_read_again(self._path)
            config = read_text_proto(self._path, ModelServerConfig(), complain=reasons.append)
        except ServingError as error:
            self._say(*reasons, f"Failed to read ModelServerConfig file: {error.message}")
            return
        try:
            self._apply(config)
        except Exception as error:
            self._say(f"PollFilesystemAndReloadConfig failed to ReloadConfig: {status_of(error)[1]}")
        else:
            if self._said:
                log.info("%s has been read and applied again", self._path)
            self._said = []

    def _watch(self) -> None:
        while not self._stopping.wait(self._seconds):
            self.poll()

    def _say(self, *complaints: str) -> None:
        """Logs complaints once instead of once per period."""
        if list(complaints) != self._said and not self._stopping.is_set():
            for complaint in complaints:
                log.error(complaint)
        self._said = list(complaints)
