"""A bounded number of threads that run batches: each one asks the queue for the next batch when it is free."""

import logging
from threading import Lock, Thread

from headrace_batching.contract import TaskQueue
from headrace_batching.queue import Queue
from headrace_batching.watchdog import Abandoned, Watchdog

log = logging.getLogger(__name__)


class BatchThreads:
    """The threads that run batches, shared by all schedulers. TF Serving: `num_batch_threads`.

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
        self._threads = [
            Thread(target=_run_batches, args=(self.queue,), name=f"batch-{number}", daemon=True)
            for number in range(count)
        ]

    def start(self) -> None:
        """Starts the threads."""
        for thread in self._threads:
            thread.start()

    def replace(self, thread: Thread) -> None:
        """Starts a thread to replace one whose run was abandoned."""
        with self._lock:
            self._threads.remove(thread)
            another = Thread(target=_run_batches, args=(self.queue,), name=thread.name, daemon=True)
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


def _run_batches(queue: TaskQueue) -> None:
    while _run_next(queue):
        pass


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
