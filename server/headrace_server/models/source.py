"""Watches each model's base path and says which versions are aspired."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Event, Thread

from headrace_server.config import ModelConfig
from headrace_server.models.version_policy import latest

log = logging.getLogger(__name__)

Aspire = Callable[[str, Mapping[int, Path]], None]

_VERSION = re.compile(r"\s*[+-]?[0-9]+\s*", re.ASCII)
_INT64 = range(-(1 << 63), 1 << 63)


class Source:
    """A thread that looks at the base paths, at once and then every so often.

    TF Serving: file_system_storage_path_source.cc. Only the names of the children count, not what they hold; publish
    a version by renaming its finished folder.

    Args:
        models: The models and where they are.
        poll_seconds: Between two looks; 0 looks once, a negative one never.
        aspire: Told, at each look, all versions of one model that should be served, each with its folder.
    """

    def __init__(self, models: Sequence[ModelConfig], poll_seconds: float, aspire: Aspire) -> None:
        self._models = models
        self._poll_seconds = poll_seconds
        self._aspire = aspire
        self._said: str | None = None
        self._stopping = Event()
        self._thread = Thread(target=self._watch, name="source", daemon=True)

    def start(self) -> None:
        """Starts looking."""
        if self._poll_seconds >= 0:
            self._thread.start()

    def stop(self) -> None:
        """Looks no more."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def poll(self) -> None:
        """One look at every base path. One that cannot be read spoils the whole look, as in TF Serving."""
        found = {}
        for model in self._models:
            try:
                found[model] = versions_under(model.base_path)
            except OSError as error:
                self._say(_not_found(model, error))
                return
        empty = [model for model, versions in found.items() if not versions]
        self._say(" ".join(_nothing_under(model) for model in empty) or None)
        for model, versions in found.items():
            self._aspire(model.name, {version: versions[version] for version in latest(versions)})

    def _watch(self) -> None:
        self.poll()
        while self._poll_seconds > 0 and not self._stopping.wait(self._poll_seconds):
            self.poll()

    def _say(self, complaint: str | None) -> None:
        """Logs a complaint once, and not again at every look."""
        if complaint is not None and complaint != self._said:
            log.warning(complaint)
        self._said = complaint


def versions_under(base_path: Path) -> dict[int, Path]:
    """The children whose names are int64 numbers; of two with one number, the last in byte order of names.

    Raises:
        OSError: The folder cannot be listed.
    """
    children = sorted(child for child in base_path.iterdir() if _VERSION.fullmatch(child.name))
    return {int(child.name): child for child in children if int(child.name) in _INT64}


def _not_found(model: ModelConfig, error: OSError) -> str:
    return (
        "FileSystemStoragePathSource encountered a filesystem access error: "
        f"Could not find base path {model.base_path} for servable {model.name} with error {error.strerror}"
    )


def _nothing_under(model: ModelConfig) -> str:
    return (
        f"No versions of servable {model.name} found under base path {model.base_path}. "
        "Did you forget to name your leaf directory as a number (eg. '/1/')?"
    )
