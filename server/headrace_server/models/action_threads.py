"""Threads that load or unload versions; each thread is kept for the next version.

They have long time slices, so that Linux interrupts them when a thread that answers calls wakes.
"""

import logging
import time
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread

from headrace_server.processes.time_slices import give_way

log = logging.getLogger(__name__)

Act = Callable[[], None]

QUICK_SECONDS = 0.02
"""Seconds that the most recently begun function must have run before another one may begin."""


class ActionThread:
    """A thread that runs one function after another.

    Args:
        name: The thread's name.
    """

    def __init__(self, name: str) -> None:
        self._acts: SimpleQueue[Act | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, act: Act) -> None:
        """Runs a function when all earlier functions have ended. The function must not raise."""
        self._acts.put(act)

    def close(self) -> None:
        """Waits until the last function has ended, and ends the thread."""
        self._acts.put(None)
        self._thread.join()

    def _run(self) -> None:
        give_way()
        while self._run_next():
            pass

    def _run_next(self) -> bool:
        """Runs the next function; returns false at the end. No object of the function is kept after it."""
        act = self._acts.get()
        if act is not None:
            act()
        return act is not None


class ActionThreads:
    """The threads of one kind of action, such as loads; the caller holds a lock around `free`, `take` and `give_back`.

    The thread that became idle last is taken first. C's allocator gives each thread one of several heaps, so that a
    thread which loads one version after another reuses the memory of those that have been unloaded.

    Args:
        name: The beginning of the threads' names.
        limit: The number of threads; 0 means that the caller's own thread does the work.

    Attributes:
        limit: The argument, which may be changed.
        running: How many functions run now.
    """

    def __init__(self, name: str, limit: int) -> None:
        self.limit = limit
        self.running = 0
        self._begun = 0.0  # when the last function began, on the monotonic clock
        self._name = name
        self._all: list[ActionThread] = []
        self._idle: list[ActionThread] = []

    @property
    def free(self) -> bool:
        """Whether another function may run."""
        return self.running < max(1, self.limit)

    @property
    def are_quick(self) -> bool:
        """Whether a function began so recently that one more thread would mostly wait for the interpreter lock."""
        return bool(self.running) and time.monotonic() - self._begun < QUICK_SECONDS

    def take(self) -> ActionThread | None:
        """An idle thread, which counts as running until it is given back; None means the caller's own.

        It is the caller's own, too, if the system has no thread left.
        """
        self.running += 1
        self._begun = time.monotonic()
        if not self.limit:
            return None
        return self._idle.pop() if self._idle else self._start()

    def _start(self) -> ActionThread | None:
        try:
            thread = ActionThread(f"{self._name}-{len(self._all)}")
        except RuntimeError as error:
            log.warning("a model is loaded or unloaded without a thread of its own: %s", error)
            return None
        self._all.append(thread)
        return thread

    def expect(self, seconds: float) -> None:
        """Records that the function which began last takes this much longer than usual."""
        self._begun += seconds

    def give_back(self, thread: ActionThread | None) -> None:
        """Records that a function is about to end."""
        self.running -= 1
        if thread is not None:
            self._idle.append(thread)

    def close(self) -> None:
        """Waits until all functions have ended, and ends the threads."""
        for thread in self._all:
            thread.close()
