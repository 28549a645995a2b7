"""Threads that load and unload versions until the loaded versions are the aspired ones."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from threading import Thread

from headrace_server.models.action_threads import QUICK_SECONDS, ActionThread, ActionThreads
from headrace_server.models.agenda import Agenda, Item
from headrace_server.models.loader import LoadVersion
from headrace_server.models.manager_options import ManagerOptions
from headrace_server.models.preparing import SECONDS_EACH, Prepare, Preparing
from headrace_server.models.room import NoRoom, Rooms, TooLarge
from headrace_server.models.turns import ShortTurns
from headrace_server.models.version_actions import VersionActions
from headrace_server.models.version_policy import State
from headrace_server.models.versions import Clock, Models
from headrace_server.processes.time_slices import give_way

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Action:
    item: Item
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
        self._actions = VersionActions(models, load, options, clock, publish, rooms)
        self._agenda = Agenda(models.by_name, models.touched)
        self._preparing = None
        if prepare is not None and rooms is None:
            self._preparing = Preparing(models.by_name, self._agenda, prepare)
        self._changed = models.changed
        self._options = options
        self._clock = clock
        self._loads = ActionThreads("load", options.num_initial_load_threads)
        self._unloads = ActionThreads("unload", options.num_unload_threads)
        self._own = ActionThreads("manager", 0)  # for actions that are too brief for another thread
        self._turns: AbstractContextManager[None] = nullcontext()
        self._thread = Thread(target=self._act, name="manager", daemon=True)

    def start(self) -> None:
        """Starts the thread that loads and unloads versions."""
        self._thread.start()

    def initial_load_done(self) -> None:
        """Limits concurrent loads to `num_load_threads` from now on, since calls are served at the same time."""
        with self._changed:
            self._actions.starting = False
            self._loads.limit = self._options.num_load_threads
            self._turns = ShortTurns()
        self._end_preparing()

    def stop(self) -> None:
        """Waits until there is nothing left to do; nothing new may be aspired from now on.

        From now on, freed memory is not returned to the system after each version.
        """
        with self._changed:
            self._actions.stopping = True
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
        give_way()  # this thread may load versions itself
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
        return self._begin_load(*load)  # on this thread: the thread that became idle last takes the next load

    def _next_when_free(self) -> _Action | None:
        """Waits for an action; None once no action is left and none can follow."""
        with self._changed:
            while True:
                quick = self._loads.are_quick  # read before the search, during which it may become false
                if (action := self._next()) is not None:
                    return action
                if self._actions.stopping and not self._loads.running and not self._unloads.running:
                    return None
                if quick and self._loads.free:
                    self._changed.wait(QUICK_SECONDS)
                else:
                    self._clock.wait(self._changed, self._pause())

    def _pause(self) -> float | None:
        """Seconds until the next retry of a load; None if no retry is due, or no load may begin now."""
        due = self._agenda.next_due()
        return None if due is None or not self._loads.free else max(0.0, due - self._clock.now())

    def _next(self) -> _Action | None:
        """The next action for any model, already marked as begun; unloads come first, since they free memory."""
        self._agenda.look(self._clock.now())
        if self._unloads.free and (unload := self._agenda.next_unload()) is not None:
            if self._rooms is not None:
                self._rooms.leave(*unload)
            return self._begin_unload(unload)
        if self._loads.are_quick or not self._loads.free or (load := self._agenda.next_load()) is None:
            return None
        return self._begin_load(*load) if self._rooms is None else self._load_or_make_room(load, self._rooms)

    def _begin_load(self, name: str, version: int) -> _Action:
        preparing = self._preparing
        together = () if preparing is None else preparing.before(name, version)
        attempt = self._models.by_name[name].begin_load(version)
        action = self._action((name, version), partial(self._actions.load, name, version, attempt), self._loads)
        if preparing is None or not together:
            return action
        self._loads.expect(SECONDS_EACH * len(together))
        return replace(action, run=partial(preparing.run_before, together, action.run))

    def _load_or_make_room(self, item: Item, rooms: Rooms) -> _Action | None:
        """A load, or what must come before it; None if a load, an unload or a call must end first."""
        name, version = item
        model = self._models.by_name[name]
        path = model.aspired[version]
        if not rooms.has_measured(item, path):
            return self._action(item, partial(rooms.measure, item, path), self._own)
        try:
            room = rooms.for_load(name, version)
        except TooLarge as error:
            refuse = partial(self._actions.refuse, name, version, model.begin_load(version), error)
            return self._action(item, refuse, self._loads)
        except NoRoom as error:
            return self._action(item, partial(self._actions.turn_away, name, version, error), self._own)
        if room.evict is None:
            return None if room.wait else self._begin_load(name, version)
        if not self._unloads.free:
            return None
        rooms.leave(*room.evict, evicted=True)
        return self._begin_unload(room.evict, item)

    def _begin_unload(self, item: Item, following: Item | None = None) -> _Action:
        name, version = item
        self._models.by_name[name].set(version, State.UNLOADING)
        return self._action(item, partial(self._actions.unload, name, version, following), self._unloads)

    def _action(self, item: Item, run: Callable[[], None], threads: ActionThreads) -> _Action:
        return _Action(item, run, threads, threads.take())
