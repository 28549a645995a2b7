"""Watches each model's base path and announces which versions are aspired: these are the ones to serve."""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import cycle, islice
from pathlib import Path
from threading import Condition, Lock, Thread

from headrace_server.config.model_config import ModelConfig
from headrace_server.models.base_paths import BasePath

log = logging.getLogger(__name__)

Aspire = Callable[[str, Mapping[int, Path]], None]

LISTED_AT_A_LOOK = 50
"""The maximum number of seemingly unchanged base paths that each scan lists; with more models, they take turns."""

ASKED_AT_A_LOOK = 500
"""The maximum number of base paths that each scan checks for changes; with more models, they take turns.

New base paths are listed in the next scan, however many there are.
"""

TOGETHER_SECONDS = 0.05
"""Seconds of scanning after which the versions found so far are announced.

Loads that begin in the meantime would compete with the scan for the interpreter lock, and slow both down.
"""

Look = tuple[str, Mapping[int, Path] | None]
"""A model's name, and its versions; None if they cannot be determined now."""


class Source:
    """A thread that scans the base paths when it starts, after each change of the models, and at intervals.

    As in TF Serving's file_system_storage_path_source.cc, only the names of the folders matter, not their content, so
    publish a version by renaming its finished folder.

    It watches no model before `update`.

    Args:
        poll_seconds: Seconds between two scans; 0 means one scan for each set of models, a negative value none at all.
        aspire: Called at each scan with all versions of one model that should be served, each with its folder.
        looked: Called after each scan, even one that failed.
        together: A context in which `aspire` is called for several models, and whose changes take effect at its end.
    """

    def __init__(
        self,
        poll_seconds: float,
        aspire: Aspire,
        looked: Callable[[], None] = lambda: None,
        together: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._together = together
        self._models: tuple[ModelConfig, ...] = ()
        self._poll_seconds = poll_seconds
        self._aspire = aspire
        self._looked = looked
        self._base_paths: dict[str, BasePath] = {}
        self._take_turns()
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
        """Whether a scan, even one that failed, has ended since the models were set."""
        return self._looked_at is self._models

    def start(self) -> None:
        """Starts scanning the base paths."""
        if self._poll_seconds >= 0:
            self._thread.start()
        else:
            log.warning(
                "--file_system_poll_wait_seconds is negative: the server never looks for versions, and finds none"
            )

    def stop(self) -> None:
        """Stops scanning."""
        with self._woken:
            self._stopping = True
            self._woken.notify()
        if self._thread.is_alive():
            self._thread.join()

    def update(self, models: Sequence[ModelConfig]) -> None:
        """Watches these models instead; versions of other models are no longer aspired. Any thread."""
        with self._looking:
            removed = self.names - {model.name for model in models}
            if tuple(models) != self._models:
                log.info("models to serve: %s", ", ".join(model.name for model in models) or "none")
            self._models = tuple(models)
            self._base_paths = {model.name: self._base_path(model) for model in models}
            self._take_turns()
            for name in removed:
                self._aspire(name, {})
        self.look_again()

    def look_again(self) -> None:
        """Scans the base paths now. Any thread."""
        with self._woken:
            self._updated = True
            self._woken.notify()

    def poll(self, wanted: Collection[str] = ()) -> None:
        """Scans the base paths once. A path that cannot be read is reported and delays no other.

        In TF Serving, a path that cannot be read ends the scan, and the models after it are not updated.

        Args:
            wanted: The names of models whose base paths are listed even if it is not their turn.
        """
        with self._looking:
            listed = iter(self._to_list(wanted))
            while looks := _look_for_a_while(listed):
                with self._together():
                    for name, versions in looks:
                        if versions is not None:
                            self._aspire(name, versions)

    def _to_list(self, wanted: Collection[str]) -> list[BasePath]:
        """The base paths that are new or may have changed, and the next ones in turn, in the order of the models."""
        listed = {*wanted, *islice(self._listed, LISTED_AT_A_LOOK)}
        asked = set(islice(self._asked, ASKED_AT_A_LOOK))
        return [
            path
            for name, path in self._base_paths.items()
            if path.is_new or name in listed or (name in asked and path.may_have_changed())
        ]

    def _take_turns(self) -> None:
        self._listed, self._asked = cycle(self._base_paths), cycle(self._base_paths)

    def _base_path(self, model: ModelConfig) -> BasePath:
        """The base path of a model, with its state if it is watched already."""
        known = self._base_paths.get(model.name)
        return known if known is not None and known.model == model else BasePath(model)

    def _watch(self) -> None:
        while self._wait():
            models = self._models
            try:
                self.poll()
                self._said = None
            except Exception as error:  # the next scan may succeed
                complaint = f"the base paths could not be scanned: {error!r}"
                if complaint != self._said:
                    log.warning(complaint)
                self._said = complaint
            self._looked_at = models
            self._looked()

    def _wait(self) -> bool:
        """Waits until the next scan is due; False if there will be none."""
        with self._woken:
            self._woken.wait_for(lambda: self._updated or self._stopping, self._poll_seconds or None)
            self._updated = False
            return not self._stopping


def _look_for_a_while(listed: Iterator[BasePath]) -> list[Look]:
    """Scans the next base paths, and reports those that have a problem; empty if there are no more."""
    looks: list[Look] = []
    end = time.monotonic() + TOGETHER_SECONDS
    for base_path in listed:
        versions, complaint = base_path.look()
        if complaint and complaint != base_path.said:
            log.warning(complaint)
        base_path.said = complaint
        looks.append((base_path.model.name, versions))
        if time.monotonic() >= end:
            break
    return looks
