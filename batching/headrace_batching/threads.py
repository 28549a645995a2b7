"""A bounded number of threads that run batches: each one asks the queue for the next batch when it is free."""

import logging
from threading import Lock, Thread, current_thread

from headrace_batching.contract import TaskQueue
from headrace_batching.queue import Queue
from headrace_batching.watchdog import Abandoned, Watchdog

log = logging.getLogger(__name__)


class BatchThreads:
    """The threads that run batches, shared by all schedulers: TF Serving's `num_batch_threads`.

    Args:
        count: The number of batches that run at the same time.
        queue: The queue of the batches.

    Attributes:
        watchdog: Abandons runs that take too long.
    """

    def __init__(self, count: int, queue: TaskQueue | None = None) -> None:
        self.queue: TaskQueue = queue or Queue()
        self.watchdog = Watchdog()
        self._lock = Lock()
        self._threads = [self._new(f"batch-{number}") for number in range(count)]
        self._surplus = 0

    @property
    def count(self) -> int:
        """The number of batches that may run at the same time."""
        return len(self._threads) - self._surplus

    def start(self) -> None:
        """Starts the threads."""
        for thread in self._threads:
            thread.start()

    def add(self, count: int) -> None:
        """Starts more threads, for batches that other processes run: waiting for them takes no CPU time. Any thread.

        Without these threads, all models would stop once there are as many models that hang as threads.

        Raises:
            RuntimeError: The system has no thread left. The number of threads then stays as it is.
        """
        with self._lock:
            kept = min(self._surplus, count)
            self._surplus -= kept
            for number in range(count - kept):
                thread = self._new(f"batch-{len(self._threads)}")
                try:
                    thread.start()
                except RuntimeError:
                    self._surplus += kept + number
                    raise
                self._threads.append(thread)

    def release(self, count: int) -> None:
        """Ends as many of the threads that `add` has started, each after its next batch. Any thread."""
        with self._lock:
            self._surplus += count

    def replace(self, thread: Thread) -> None:
        """Starts a thread to replace one whose run was abandoned."""
        with self._lock:
            self._threads.remove(thread)
            another = self._new(thread.name)
            self._threads.append(another)
            another.start()

    def close(self) -> None:
        """Runs the waiting tasks, and ends the threads, except those that hang and have been replaced."""
        self.queue.close()
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            if thread.is_alive():
                thread.join()
        self.watchdog.close()

    def _new(self, name: str) -> Thread:
        return Thread(target=self._run_batches, name=name, daemon=True)

    def _run_batches(self) -> None:
        while _run_next(self.queue):
            if self._surplus and self._leave():
                self.queue.wake()  # for the tasks that this thread would have taken next
                return

    def _leave(self) -> bool:
        with self._lock:
            if not self._surplus:
                return False
            self._surplus -= 1
            self._threads.remove(current_thread())
            return True


def _run_next(queue: TaskQueue) -> bool:
    """Runs one batch; returns false at the end.

    Its frame ends with the batch, so that a waiting thread keeps no arrays.
    """
    formed = queue.take()
    if formed is None:
        return False
    try:
        formed.lane.execute(formed.batch)
    except Abandoned:
        return False  # the lane already counts the batch as ended, and another thread has taken over
    except BaseException:  # all models share the threads, so none of them may end one
        log.exception("a batch has ended without answers to all of its tasks")
    formed.lane.finish()
    return True
