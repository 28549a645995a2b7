"""Keeps one worker process running, and tracks which of its slots are free for a run."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from threading import Condition, Event, Lock, Thread
from typing import NamedTuple

from headrace_batching import Options
from headrace_server.processes.exchanges import Arena, Exchange, Free, FreeList
from headrace_server.processes.job import Job, Loaded
from headrace_server.processes.lending import Borrower
from headrace_server.processes.shared_memory import OwnedMemory
from headrace_server.processes.slot import Slot
from headrace_server.processes.streams import WorkerStreams
from headrace_server.processes.worker import Worker, fit_batching

log = logging.getLogger(__name__)

PAUSES = (0.0, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds before a process is restarted: after the first one that ended early, after the second, and so on."""

LASTING = 10.0
"""A process that has run for this many seconds does not count as having ended early."""


class Place(NamedTuple):
    """A place for one run at a time in a worker process.

    Attributes:
        worker: A process that was up when the place was taken.
        slot: The slot for messages to the process.
        borrower: Provides the arrays in the process's answers for as long as their readers need them.
        exchange: Repeats known exchanges without the interpreter; None if the slot has no link.
        arenas: The memory for the inputs of exchanges without the interpreter, by signature.
    """

    worker: Worker
    slot: Slot
    borrower: Borrower
    exchange: Exchange | None
    arenas: dict[str, Arena]

    def returned(self) -> tuple[int, ...]:
        """Removes and returns the numbers of answers that nothing refers to; the caller sends them back."""
        numbers = self.borrower.give_back()
        return numbers if self.exchange is None else (*numbers, *self.exchange.take_owed())


class StreamPlace(NamedTuple):
    """A place for requests with streamed answers in a worker process.

    Attributes:
        worker: A process that was up when the place was requested.
        streams: The requests that the process is answering.
    """

    worker: Worker
    streams: WorkerStreams


class Places:
    """The places that no run has taken, and those for streams. Any thread.

    Without waiting, a place is taken and put back without the lock, since the methods of `free` are atomic.

    Args:
        free: Holds the places that no run has taken: a FreeList, or a `headrace_native.FreePlaces`.

    Attributes:
        hopeless: Whether there is no place, and none is expected soon.
    """

    def __init__(self, free: Free | None = None) -> None:
        lock = Lock()
        self._changed = Condition(lock)
        self._waiting = 0
        self._free: Free = FreeList() if free is None else free
        self._streams_changed = Condition(lock)
        self._streams: list[StreamPlace] = []
        self._up: set[Worker] = set()
        self.hopeless = False

    @property
    def free(self) -> Free:
        """The places that no run has taken."""
        return self._free

    def take(self, patience: float) -> Place | None:
        """Takes a place in a process that is up.

        Args:
            patience: Seconds to wait for a place while a process may start.

        Returns: The place; None if no place becomes free in time, or no process is running or starting.
        """
        try:
            return self._free.pop()
        except IndexError:
            return self._wait_for_one(patience)

    def _wait_for_one(self, patience: float) -> Place | None:
        taken: list[Place] = []

        def take_one() -> bool:
            with suppress(IndexError):
                taken.append(self._free.pop())
            return bool(taken) or self.hopeless

        with self._changed:
            self._waiting += 1
            self._watch()
            self._changed.wait_for(take_one, patience)
            self._waiting -= 1
            self._watch()
        return taken[0] if taken else None

    def for_stream(self, patience: float) -> StreamPlace | None:
        """The process with the fewest current streams; parameters as for `take`."""
        with self._streams_changed:
            self._streams_changed.wait_for(lambda: self._streams or self.hopeless, patience)
            return min(self._streams, key=lambda place: place.streams.open, default=None)

    def add_streams(self, place: StreamPlace) -> None:
        """Adds a process that answers streams."""
        with self._streams_changed:
            self._streams.append(place)
            self._streams_changed.notify_all()

    def came_up(self, worker: Worker) -> None:
        """Records that a process is up: its places are expected back until they are dropped."""
        with self._changed:
            self._up.add(worker)

    def put(self, place: Place) -> None:
        """Frees the place, or drops it if its process has ended."""
        self._free.append(place)
        if place.worker.ended.is_set():  # checked after the place was added, so that it is dropped here or by `drop`
            self.drop(place.worker)
        elif self._waiting or self.hopeless:
            self._tell()

    def settle(self) -> None:
        """Does the rest of `put` for places that were put back into `free` directly.

        Called if `free.watched` is set or a process has ended.
        """
        ended = {place.worker for place in self._free if place.worker.ended.is_set()}
        for worker in ended:
            self.drop(worker)
        if self._waiting or self.hopeless:
            self._tell()

    def _tell(self) -> None:
        with self._changed:
            self.hopeless = False
            self._watch()
            self._changed.notify()

    def _watch(self) -> None:
        self._free.watched = self.hopeless or self._waiting > 0

    def drop(self, worker: Worker) -> None:
        """Closes the free places of a process that has ended; the user of any other place closes it."""
        with self._changed:
            self._up.discard(worker)
            for place in [place for place in list(self._free) if place.worker is worker]:
                with suppress(ValueError):  # another thread has taken it
                    self._free.remove(place)
                    place.slot.close()
            for stream_place in [place for place in self._streams if place.worker is worker]:
                self._streams.remove(stream_place)
                stream_place.streams.close()

    def give_up(self) -> None:
        """Ends all waits, as no place is expected soon. Does nothing if another process is up: its places come back."""
        with self._changed:
            if self._up:
                return
            self.hopeless = True
            self._watch()
            self._changed.notify_all()
            self._streams_changed.notify_all()


class Keeper:
    """A thread that starts a process with a model, and a new one whenever it has ended.

    Args:
        name: The model's name, for the log.
        job: The work of the process.
        memory: Holds the inputs of runs.
        places: Receives the process's slots.
        restarted: Called whenever a process has ended unexpectedly.

    Attributes:
        loaded: The process's report about the model, or the reason why the first process could not load it.
    """

    def __init__(self, name: str, job: Job, memory: OwnedMemory, places: Places, restarted: Callable[[], None]) -> None:
        self._name = name
        self._job = job
        self._memory = memory
        self._places = places
        self._restarted = restarted
        self._closing = Event()
        self._worker: Worker | None = None
        self.loaded: Future[Loaded] = Future()
        self._thread = Thread(target=self._keep, name=f"worker-{name}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Closes the model, and ends the process for good. No run may be under way or begin."""
        self._closing.set()
        worker = self._worker
        if worker is not None:
            if self.loaded.done() and self.loaded.exception() is None:
                worker.close()
            worker.kill()
        self._thread.join()
        if worker is not None:
            self._places.drop(worker)

    def _keep(self) -> None:
        failures = 0
        while not self._closing.wait(PAUSES[min(max(0, failures - 1), len(PAUSES) - 1)]):
            began = time.monotonic()
            try:
                worker = self._start()
            except Exception as error:  # any exception: if this thread ended, the model would have no process
                if not self.loaded.done():
                    self.loaded.set_exception(error)
                    return
                self._report(f"could not load the model again: {error}")
                self._places.give_up()
            else:
                worker.wait()
                if self._closing.is_set():  # the thread that closes the process may be using its slots
                    return
                self._places.drop(worker)
                self._report(worker.how_it_ended())
            failures = 0 if time.monotonic() - began > LASTING else failures + 1

    def _start(self) -> Worker:
        """Returns a new process that has loaded the model; if that fails, ends the process and raises the reason."""
        worker = self._worker = Worker(self._name, self._memory)
        if self._closing.is_set():
            worker.kill()
        try:
            self._bring_up(worker)
        except BaseException:
            worker.kill()
            worker.wait()
            worker.close_slots()
            raise
        return worker

    def _bring_up(self, worker: Worker) -> None:
        """Loads the model, with a slot for each run that it supports at the same time."""
        loaded = worker.load(self._job)
        options = self._job.options.batching or Options(max_batch_size=1)
        at_once = fit_batching(worker.first, options).batches_at_once
        slots = [worker.first, *(worker.open_slot() for _ in range(at_once - 1))]
        if self._job.linked:
            for slot in slots:
                slot.open_link()
        if not self.loaded.done():
            self.loaded.set_result(loaded)
        if loaded.streams:
            self._places.add_streams(StreamPlace(worker, worker.open_streams()))
        self._places.came_up(worker)
        for slot in slots:
            self._places.put(Place(worker, slot, Borrower(slot.mapped), slot.exchange(), {}))

    def _report(self, text: str) -> None:
        if not self._closing.is_set():
            log.error("%s: its worker process %s; restarting it", self._name, text)
            self._restarted()
