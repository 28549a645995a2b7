"""Keeps one worker process up, and says which of its slots are free for a run."""

import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from threading import Condition, Event, Lock, Thread
from typing import NamedTuple

from headrace_batching import Options
from headrace_server.processes.job import Job, Loaded
from headrace_server.processes.shared_memory import OwnedMemory
from headrace_server.processes.slot import Slot
from headrace_server.processes.streams import WorkerStreams
from headrace_server.processes.worker import Worker

log = logging.getLogger(__name__)

PAUSES = (0.0, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds before a process is started again: after the first that has not lasted, after the second, and so on."""

LASTING = 10.0
"""Seconds after which a process has lasted."""


class Place(NamedTuple):
    """Where a run may go.

    Attributes:
        worker: A process that was up when the place was taken.
        slot: The conversation with it.
    """

    worker: Worker
    slot: Slot


class StreamPlace(NamedTuple):
    """Where a request may be answered many times.

    Attributes:
        worker: A process that was up when it was asked for.
        streams: What goes on in it.
    """

    worker: Worker
    streams: WorkerStreams


class Places:
    """Those that no run has taken, and those of streams. Any thread.

    Attributes:
        hopeless: Whether none is there, and none to be expected soon.
    """

    def __init__(self) -> None:
        lock = Lock()
        self._changed = Condition(lock)
        self._free: deque[Place] = deque()
        self._streams_changed = Condition(lock)
        self._streams: list[StreamPlace] = []
        self.hopeless = False

    def take(self, patience: float) -> Place | None:
        """One of a process that is up.

        Args:
            patience: Seconds to wait for it while a process may come up.

        Returns:
            None where there is none in time, or none to be expected soon.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._free or self.hopeless, patience)
            return self._free.pop() if self._free else None

    def for_stream(self, patience: float) -> StreamPlace | None:
        """The process that answers the fewest streams now; as `take`."""
        with self._streams_changed:
            self._streams_changed.wait_for(lambda: self._streams or self.hopeless, patience)
            return min(self._streams, key=lambda place: place.streams.open, default=None)

    def add_streams(self, place: StreamPlace) -> None:
        """One more process answers streams."""
        with self._streams_changed:
            self._streams.append(place)
            self._streams_changed.notify_all()

    def put(self, place: Place) -> None:
        """The place is free; or gone, where its process has ended."""
        with self._changed:
            if place.worker.ended.is_set():
                place.slot.close()
                return
            self._free.append(place)
            self.hopeless = False
            self._changed.notify()

    def drop(self, worker: Worker) -> None:
        """Closes the free places of a process that has ended; who has taken one of the others closes it."""
        with self._changed:
            for place in [place for place in self._free if place.worker is worker]:
                self._free.remove(place)
                place.slot.close()
            for stream_place in [place for place in self._streams if place.worker is worker]:
                self._streams.remove(stream_place)
                stream_place.streams.close()

    def give_up(self) -> None:
        """Nobody need wait: there is none to be expected soon."""
        with self._changed:
            self.hopeless = True
            self._changed.notify_all()
            self._streams_changed.notify_all()


class Keeper:
    """A thread that starts a process with a model, and another one when it has ended.

    Args:
        name: The model's, for the log.
        job: What the process is to do.
        memory: Holds the inputs of runs.
        places: Told of the process's slots.
        restarted: Called whenever a process has ended that was not told to.

    Attributes:
        loaded: What the process says of the model, or why the first process could not load it.
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
        """Lets the model close, and ends the process; no run is under way, nor begins."""
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
            worker = self._worker = Worker(self._name, self._memory)
            if self._closing.is_set():
                worker.kill()
            try:
                self._bring_up(worker)
            except Exception as error:  # of whatever kind: a thread that ended would leave the model without a process
                worker.kill()
                worker.wait()
                worker.close_slots()
                if not self.loaded.done():
                    self.loaded.set_exception(error)
                    return
                self._report(f"could not load the model again: {error}")
                self._places.give_up()
            else:
                worker.wait()
                if self._closing.is_set():  # whoever closes it may be using its slots
                    return
                self._places.drop(worker)
                self._report(worker.how_it_ended())
            failures = 0 if time.monotonic() - began > LASTING else failures + 1

    def _bring_up(self, worker: Worker) -> None:
        """Loads the model, with a slot for each run that it bears at the same time."""
        loaded = worker.load(self._job)
        options = self._job.options.batching or Options(max_batch_size=1)
        at_once = worker.fit(options).max_running_batches or options.num_batch_threads
        slots = [worker.first, *(worker.open_slot() for _ in range(at_once - 1))]
        if not self.loaded.done():
            self.loaded.set_result(loaded)
        if loaded.streams:
            self._places.add_streams(StreamPlace(worker, worker.open_streams()))
        for slot in slots:
            self._places.put(Place(worker, slot))

    def _report(self, text: str) -> None:
        if not self._closing.is_set():
            log.error("%s: its worker process %s; it is started again", self._name, text)
            self._restarted()
