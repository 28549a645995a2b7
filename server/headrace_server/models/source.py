"""Watches each model's base path and says which versions are aspired."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Condition, Lock, Thread

from headrace_server.config.run import ModelConfig, Specific
from headrace_server.models.version_policy import chosen

log = logging.getLogger(__name__)

Aspire = Callable[[str, Mapping[int, Path]], None]

_VERSION = re.compile(r"\s*[+-]?[0-9]+\s*", re.ASCII)
_INT64 = range(-(1 << 63), 1 << 63)


class Source:
    """A thread that looks at the base paths, at once, after each change of the models, and then every so often.

    TF Serving: file_system_storage_path_source.cc. Only the names of the children count, not what they hold; publish
    a version by renaming its finished folder.

    Args:
        models: The models and where they are.
        poll_seconds: Between two looks; 0 looks once for each set of models, a negative one never.
        aspire: Told, at each look, all versions of one model that should be served, each with its folder.
        looked: Told after each look, also one that could not be made.
    """

    def __init__(
        self,
        models: Sequence[ModelConfig],
        poll_seconds: float,
        aspire: Aspire,
        looked: Callable[[], None] = lambda: None,
    ) -> None:
        self._models = tuple(models)
        self._poll_seconds = poll_seconds
        self._aspire = aspire
        self._looked = looked
        self._said: str | None = None
        self._looking = Lock()
        self._woken = Condition()
        self._updated = True
        self._looked_at: tuple[ModelConfig, ...] | None = None
        self._stopping = False
        self._thread = Thread(target=self._watch, name="source", daemon=True)

    @property
    def names(self) -> set[str]:
        """The models' names."""
        return {model.name for model in self._models}

    @property
    def has_looked(self) -> bool:
        """Whether a look has ended since the models were named; also one that could not be made."""
        return self._looked_at is self._models

    def start(self) -> None:
        """Starts looking."""
        if self._poll_seconds >= 0:
            self._thread.start()
        else:
            log.warning("--file_system_poll_wait_seconds is negative: no version is ever looked for, nor any found")

    def stop(self) -> None:
        """Looks no more."""
        with self._woken:
            self._stopping = True
            self._woken.notify()
        if self._thread.is_alive():
            self._thread.join()

    def update(self, models: Sequence[ModelConfig]) -> None:
        """Watches these models instead; of those that are not among them, nothing is aspired any more. Any thread."""
        with self._looking:
            removed = self.names - {model.name for model in models}
            if tuple(models) != self._models:
                log.info("models to serve: %s", ", ".join(model.name for model in models) or "none")
            self._models = tuple(models)
            for name in removed:
                self._aspire(name, {})
        with self._woken:
            self._updated = True
            self._woken.notify()

    def poll(self) -> None:
        """One look at every base path. One that cannot be read spoils the whole look, as in TF Serving."""
        with self._looking:
            found: dict[str, dict[int, Path]] = {}
            complaints: list[str] = []
            for model in self._models:
                try:
                    found[model.name] = _aspired(model, complaints)
                except (OSError, ValueError) as error:  # a name that holds a zero byte is a ValueError
                    self._say(_not_found(model, error))
                    return
            self._say(" ".join(complaints) or None)
            for name, versions in found.items():
                self._aspire(name, versions)

    def _watch(self) -> None:
        while self._wait():
            models = self._models
            try:
                self.poll()
            except Exception as error:  # the next look may find what this one did not
                self._say(f"the base paths could not be looked at: {error!r}")
            self._looked_at = models
            self._looked()

    def _wait(self) -> bool:
        """Waits for the next look; False if there is none to come."""
        with self._woken:
            self._woken.wait_for(lambda: self._updated or self._stopping, self._poll_seconds or None)
            self._updated = False
            return not self._stopping

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


def _aspired(model: ModelConfig, complaints: list[str]) -> dict[int, Path]:
    """A model's versions that are there and wanted.

    Raises:
        OSError: Its base path cannot be listed.
    """
    found = versions_under(model.base_path)
    wanted = chosen(found, model.policy)
    if isinstance(model.policy, Specific):
        complaints.extend(_missing(model, version) for version in model.policy.versions if version not in found)
        if not model.policy.versions:
            complaints.append(f"No specific versions requested for servable {model.name}.")
    if not wanted and model.policy != Specific(()):
        complaints.append(_nothing_under(model))
    return {version: found[version] for version in wanted}


def _not_found(model: ModelConfig, error: OSError | ValueError) -> str:
    reason = error.strerror if isinstance(error, OSError) else error
    return (
        "FileSystemStoragePathSource encountered a filesystem access error: "
        f"Could not find base path {model.base_path} for servable {model.name} with error {reason}"
    )


def _nothing_under(model: ModelConfig) -> str:
    return (
        f"No versions of servable {model.name} found under base path {model.base_path}. "
        "Did you forget to name your leaf directory as a number (eg. '/1/')?"
    )


def _missing(model: ModelConfig, version: int) -> str:
    return (
        f"Version {version} of servable {model.name}, which was requested to be served as a 'specific' version in the "
        "servable's version policy, was not found in the file system"
    )
