"""Threads that load and unload versions until the loaded versions are the aspired ones."""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Thread

from headrace_protos import Code
from headrace_server.errors import ServingError
from headrace_server.models.action_threads import QUICK_SECONDS, ActionThread, ActionThreads
from headrace_server.models.agenda import Agenda
from headrace_server.models.attempts import Attempt, failure_of
from headrace_server.models.ensemble import Unready
from headrace_server.models.files_state import files_state
from headrace_server.models.freeing import free, free_in_time
from headrace_server.models.manager_options import ManagerOptions
from headrace_server.models.memory import Remains
from headrace_server.models.memory import release as release_memory
from headrace_server.models.preparing import SECONDS_EACH, Prepare, Preparing
from headrace_server.models.room import NoRoom, Rooms, TooLarge
from headrace_server.models.servable import Servable
from headrace_server.models.turns import ShortTurns
from headrace_server.models.version_policy import State
from headrace_server.models.versions import Clock, Model, Models

log = logging.getLogger(__name__)

LoadVersion = Callable[[str, int, Path], Servable]

UNREADY_SECONDS = 0.1
"""Seconds after which a version that waits for other models is tried again."""

CANCELLED = ServingError(Code.CANCELLED, "Loading of servable cancelled")


@dataclass(frozen=True, slots=True)
class _Action:
    item: tuple[str, int]
    run: Callable[[], None]
    threads: ActionThreads
    thread: ActionThread | None


class Acting:
    """A thread that carries out the next action of the models' policy, itself or on other threads.

    A load that failed is tried again later, and delays nothing else until then.

    Args:
        models: The aspired and the loaded versions of every model.
        load: Makes a servable from a model's name, a version and its folder.
        options: The number of loads at the same time, the number of tries, and the order of loads.
        clock: Measures the pauses between tries.
        publish: Called under the models' lock with a model whose versions in service have changed. The function
            may refuse a version that was added.
        rooms: Decides which versions are in memory; None if all of them may be.
        prepare: Prepares for several loads during the initial load; None if nothing can be prepared.
    """

    def __init__(
        self,
        models: Models,
        load: LoadVersion,
        options: ManagerOptions,
        clock: Clock,
        publish: Callable[[str], None],
        rooms: Rooms | None = None,
        prepare: Prepare | None = None,
    ) -> None:
        self._models = models
        self._rooms = rooms
        self._remains = Remains()
        self._agenda = Agenda(models.by_name, models.touched)
        self._preparing = None
        if prepare is not None and rooms is None:
            self._preparing = Preparing(models.by_name, self._agenda, prepare)
        self._changed = models.changed
        self._load = load
        self._options = options
        self._clock = clock
        self._publish = publish
        self._loads = ActionThreads("load", options.num_initial_load_threads)
        self._unloads = ActionThreads("unload", options.num_unload_threads)
        self._turns: AbstractContextManager[None] = nullcontext()
        self._starting = True  # the server may still exit because a version fails
        self._stopping = False
        self._thread = Thread(target=self._act, name="manager", daemon=True)

    def start(self) -> None:
        """Starts acting."""
        self._thread.start()

    def initial_load_done(self) -> None:
        """Limits concurrent loads to `num_load_threads` from now on, since calls are served at the same time."""
        with self._changed:
            self._starting = False
            self._loads.limit = self._options.num_load_threads
            self._turns = ShortTurns()
        self._end_preparing()

    def stop(self) -> None:
        """Waits until there is nothing left to do; nothing new may be aspired from now on.

        From now on, freed memory is not returned to the system after each version.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self._end_preparing()

    def _end_preparing(self) -> None:
        with self._changed:
            preparing, self._preparing = self._preparing, None
        if preparing is not None:
            preparing.drop()

    def _act(self) -> None:
        while (action := self._next_when_free()) is not None:
            if action.thread is None:
                self._run(action)
            else:
                action.thread.put(partial(self._run, action))
        self._loads.close()
        self._unloads.close()

    def _run(self, action: _Action | None) -> None:
        while action is not None:
            action = self._run_one(action)

    def _run_one(self, action: _Action) -> _Action | None:
        """Carries out an action, and returns the next one for this thread."""
        try:
            with self._turns:
                action.run()
        except BaseException:  # the thread must continue, since others wait for it
            log.exception("model %s version %d cannot be loaded or unloaded: it stays as it is", *action.item)
        with self._changed:
            action.threads.give_back(action.thread)
            if self._rooms is not None:
                self._rooms.settle(*action.item)
            following = self._following_load() if action.threads is self._loads else None
            if following is None:
                self._changed.notify_all()
        return following

    def _following_load(self) -> _Action | None:
        """The next load for a thread that has just ended one, which saves a switch between threads."""
        self._agenda.look(self._clock.now())
        if not self._loads.limit or self._rooms is not None or self._agenda.next_unload() is not None:
            return None
        load = self._agenda.next_load() if self._loads.free and not self._loads.are_quick else None
        if load is None:
            return None
        return self._begin_load(*load)  # on this thread, since it is the one that became idle last

    def _next_when_free(self) -> _Action | None:
        """Waits for an action; None once no action is left and none can follow."""
        with self._changed:
            while True:
                quick = self._loads.are_quick  # read before the search, during which it may become false
                if (action := self._next()) is not None:
                    return action
                if self._stopping and not self._loads.running and not self._unloads.running:
                    return None
                if quick and self._loads.free:
                    self._changed.wait(QUICK_SECONDS)
                else:
                    self._clock.wait(self._changed, self._pause())

    def _pause(self) -> float | None:
        """Seconds until the next retry of a load."""
        due = self._agenda.next_due()
        return None if due is None or not self._loads.free else max(0.0, due - self._clock.now())

    def _next(self) -> _Action | None:
        """The next action for any model, already marked as begun; unloads come first, since they free memory."""
        self._agenda.look(self._clock.now())
        if self._unloads.free and (unload := self._agenda.next_unload()) is not None:
            if self._rooms is not None:
                self._rooms.leave(*unload)
            return self._begin_unload(*unload)
        if self._loads.are_quick:
            return None
        while self._loads.free and (load := self._agenda.next_load()) is not None:
            if self._rooms is None:
                return self._begin_load(*load)
            try:
                return self._load_or_make_room(*load, self._rooms)
            except NoRoom as error:
                log.error("%s", error.message)
                self._models.by_name[load[0]].set(load[1], State.AT_REST, error)
            self._agenda.look(self._clock.now())
        return None

    def _begin_load(self, name: str, version: int) -> _Action:
        preparing = self._preparing
        together = () if preparing is None else preparing.before(name, version)
        attempt = self._models.by_name[name].begin_load(version)
        action = self._action(self._load_version, name, version, self._loads, attempt)
        if preparing is None or not together:
            return action
        self._loads.expect(SECONDS_EACH * len(together))
        return replace(action, run=partial(preparing.run_before, together, action.run))

    def _load_or_make_room(self, name: str, version: int, rooms: Rooms) -> _Action | None:
        """A load, or the unload that must come before it; None if something else must end first.

        Raises:
            NoRoom: Nothing can be unloaded.
        """
        model = self._models.by_name[name]
        try:
            room = rooms.for_load(name, version, model.aspired[version])
        except TooLarge as error:
            attempt = model.begin_load(version)
            return self._action(partial(self._refuse, error), name, version, self._loads, attempt)
        if room.evict is None:
            return None if room.wait else self._begin_load(name, version)
        if not self._unloads.free:
            return None
        rooms.leave(*room.evict, evicted=True)
        log.info("model %s version %d makes room for model %s version %d", *room.evict, name, version)
        return self._begin_unload(*room.evict)

    def _begin_unload(self, name: str, version: int) -> _Action:
        model = self._models.by_name[name]
        model.set(version, State.UNLOADING)
        return self._action(self._unload_version, name, version, self._unloads)

    def _refuse(self, error: ServingError, name: str, version: int, attempt: Attempt) -> None:
        """Records that a version cannot be loaded, and that another try would not help."""
        attempt.files = files_state(attempt.path)
        attempt.failures = self._options.max_num_load_retries
        self._load_failed(name, version, attempt, error)

    def _action(
        self, run: Callable[..., None], name: str, version: int, threads: ActionThreads, *rest: Attempt
    ) -> _Action:
        return _Action((name, version), partial(run, name, version, *rest), threads, threads.take())

    def _load_version(self, name: str, version: int, attempt: Attempt) -> None:
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
            release_memory()
            self._load_failed(name, version, attempt, failure_of(error))
            return
        if not admitted:
            self._end_cancelled(name, version, servable)

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
        release_memory()
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
            return "" if self._starting else " (will be tried again when its files change)"
        times = "once more" if left == 1 else f"up to {left} more times, {self._options.load_retry_interval:g} s apart"
        return f" (will be tried {times}, then again when its files change)"

    def _give_back(self, name: str, version: int) -> None:
        if version in self._models.by_name[name].evicted and self._rooms is not None:
            with self._changed:
                size = self._rooms.held[name, version].size
                loaded = self._rooms.memory - size
            self._remains.add(size, loaded)
        elif not self._stopping:
            release_memory()

    def _unload_version(self, name: str, version: int) -> None:
        with self._changed:
            servable = self._models.by_name[name].serving.pop(version)
            self._publish(name)
            self._models.tell(name)  # a caller may be waiting for the version to leave the map
        if free_in_time(servable):
            log.info("model %s version %d unloaded", name, version)
        self._give_back(name, version)
        with self._changed:
            self._models.by_name[name].end(version)
