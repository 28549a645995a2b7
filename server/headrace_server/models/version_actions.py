"""Loads, refuses and unloads single versions, and records the outcome of each."""

import logging
import time
from collections.abc import Callable

from headrace_server.errors import ServingError
from headrace_server.models.attempts import CANCELLED, Attempt, failure_of
from headrace_server.models.ensemble import Unready
from headrace_server.models.files_state import files_state
from headrace_server.models.freeing import free, free_in_time
from headrace_server.models.loader import LoadVersion
from headrace_server.models.manager_options import ManagerOptions
from headrace_server.models.memory import Remains, release
from headrace_server.models.room import Item, Rooms
from headrace_server.models.servable import Servable
from headrace_server.models.version_policy import State
from headrace_server.models.versions import Clock, Model, Models

log = logging.getLogger(__name__)

UNREADY_SECONDS = 0.1
"""Seconds after which a version that waits for other models is tried again."""


class VersionActions:
    """The actions of a thread on one version. They take the models' lock only to record their results.

    Args:
        models: The aspired and the loaded versions of every model.
        load: Makes a servable from a model's name, a version and its folder.
        options: The number of tries.
        clock: Measures the pauses between tries.
        publish: Called under the models' lock with a model whose versions in service have changed. The function
            may refuse a version that was added.
        rooms: Decides which versions are in memory; None if all of them may be.

    Attributes:
        starting: Whether the server may still exit because a version fails.
        stopping: Whether the server is stopping, so that freed memory need not be returned to the system.
    """

    def __init__(
        self,
        models: Models,
        load: LoadVersion,
        options: ManagerOptions,
        clock: Clock,
        publish: Callable[[str], None],
        rooms: Rooms | None,
    ) -> None:
        self.starting = True
        self.stopping = False
        self._models = models
        self._changed = models.changed
        self._load = load
        self._options = options
        self._clock = clock
        self._publish = publish
        self._rooms = rooms
        self._remains = Remains()

    def load(self, name: str, version: int, attempt: Attempt) -> None:
        """Loads a version and makes it available, or records why that failed."""
        began = time.monotonic()
        attempt.files = files_state(attempt.path)
        try:
            servable = self._load(name, version, attempt.path)
        except Unready as error:
            self._wait(name, version, attempt, error)
            return
        except BaseException as error:  # a model that calls sys.exit must not end the manager
            self._load_failed(name, version, attempt, failure_of(error))
            return
        # Logged before the version is AVAILABLE, since a program that waits for that may then read the log.
        took = (time.monotonic() - began) * 1e3
        log.info("model %s version %d loaded in %.0f ms%s", name, version, took, servable.where)
        for signature, declared in servable.signatures.items():
            log.info("model %s version %d, %s: %s%s", name, version, signature, declared, servable.batches(signature))
        try:
            admitted = self._admit(name, version, attempt, servable)
        except Exception as error:  # a version that a listener refuses must not end the manager
            free(servable)
            release()
            self._load_failed(name, version, attempt, failure_of(error))
            return
        if not admitted:
            self._end_cancelled(name, version, servable)

    def refuse(self, name: str, version: int, attempt: Attempt, error: ServingError) -> None:
        """Records that a version cannot be loaded, and that another try would not help."""
        attempt.files = files_state(attempt.path)
        attempt.failures = self._options.max_num_load_retries
        self._load_failed(name, version, attempt, error)

    def turn_away(self, name: str, version: int, error: ServingError) -> None:
        """Records that a version cannot be loaded for the calls that wait for it now; the next call tries again."""
        log.error("%s", error.message)
        with self._changed:
            self._models.by_name[name].turn_away(version, error)

    def unload(self, name: str, version: int, following: Item | None = None) -> None:
        """Unloads a version once its calls have been answered.

        Args:
            name: The model's name.
            version: The number of the version to unload.
            following: The version for which this one makes room; None if this one is unloaded for another reason.
        """
        if following is not None:
            log.info("model %s version %d makes room for model %s version %d", name, version, *following)
        with self._changed:
            servable = self._models.by_name[name].serving.pop(version)
            self._publish(name)
            self._models.tell(name)  # a caller may be waiting for the version to leave the map
        if free_in_time(servable):
            log.info("model %s version %d unloaded", name, version)
        self._give_back(name, version)
        with self._changed:
            self._models.by_name[name].end(version)

    def _admit(self, name: str, version: int, attempt: Attempt, servable: Servable) -> bool:
        """Makes a version available to requests, unless it is no longer wanted; returns whether it did."""
        with self._changed:
            if attempt.cancelled:
                return False
            model = self._models.by_name[name]
            model.serving[version] = servable
            if self._rooms is not None:
                self._rooms.loaded(name, version, servable)
            try:
                self._publish(name)
            except Exception:
                del model.serving[version]
                self._publish(name)
                raise
            del model.loading[version]
            model.set(version, State.AVAILABLE)
            return True

    def _end_cancelled(self, name: str, version: int, servable: Servable) -> None:
        free(servable)
        release()
        log.info("model %s version %d: its load was cancelled", name, version)
        with self._changed:
            self._models.by_name[name].end(version, CANCELLED)

    def _wait(self, name: str, version: int, attempt: Attempt, error: Unready) -> None:
        """Schedules another try soon, without counting a failure: other models come first."""
        with self._changed:
            if attempt.cancelled:
                self._models.by_name[name].end(version, error)
            else:
                self._models.by_name[name].wait(version, error, self._clock.now() + UNREADY_SECONDS)

    def _load_failed(self, name: str, version: int, attempt: Attempt, error: ServingError) -> None:
        attempt.failures += 1
        is_lasting = not self._options.retries_faulty_files and attempt.is_faulty(error)
        left = 0 if is_lasting else self._options.max_num_load_retries + 1 - attempt.failures
        with self._changed:
            model = self._models.by_name[name]
            is_news = attempt.cancelled or model.failed_again(version, error)
            plan = self._plan(left)
        # Logged without the lock, and before the failure is visible to a program that waits for the version.
        if is_news:
            log.error("model %s version %d cannot be loaded%s: %s", name, version, plan, error.message)
        with self._changed:
            if attempt.cancelled:
                model.end(version, error)
            else:
                self._try_again(model, version, error, left)

    def _try_again(self, model: Model, version: int, error: ServingError, left: int) -> None:
        if left <= 0:
            model.fail(version, error, self._clock.now())
        else:
            model.wait(version, error, self._clock.now() + self._options.load_retry_interval)

    def _plan(self, left: int) -> str:
        """Describes what will be done about a failed load; empty if that is not known yet."""
        if left <= 0:
            return "" if self.starting else " (will be tried again when its files change)"
        times = "once more" if left == 1 else f"up to {left} more times, {self._options.load_retry_interval:g} s apart"
        return f" (will be tried {times}, then again when its files change)"

    def _give_back(self, name: str, version: int) -> None:
        if version in self._models.by_name[name].evicted and self._rooms is not None:
            with self._changed:
                size = self._rooms.held[name, version].size
                loaded = self._rooms.memory - size
            self._remains.add(size, loaded)
        elif not self.stopping:
            release()
