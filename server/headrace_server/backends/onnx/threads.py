"""Decides how many threads each ONNX model uses for an operator, to limit the threads of thousands of models.

ONNX Runtime gives each session a pool with a thread per core. Its global pool for all sessions is not an alternative in
Python: its threads cannot be kept from spinning after each run, on cores that the transport needs, and no session can
have its own pool besides it. So models whose operators are too small to be split among threads get no pool. Each of the
other models gets a pool, which is smaller if many models already have one.
"""

import weakref
from threading import Lock

from headrace_batching.cpus import schedulable_cpus

SMALL = 1 << 20
"""The size in bytes below which a model gets no threads: splitting its operators would cost more time than it saves."""

PER_CPU = 8
"""The maximum number of threads of all pools together, per CPU."""

_PART = 4  # a pool gets at most the number of remaining threads divided by this


class Pool:
    """The threads of one session, which are returned to `Pools` once nothing refers to this object.

    Attributes:
        threads: The number of threads that compute an operator, including the caller's own.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads


class Pools:
    """Distributes threads among sessions. Any thread.

    Args:
        cpus: The number of CPUs.
    """

    def __init__(self, cpus: int | None = None) -> None:
        self._cpus = schedulable_cpus() if cpus is None else cpus
        self._lock = Lock()
        self._left = PER_CPU * self._cpus

    @property
    def left(self) -> int:
        """The number of threads that no session has taken."""
        return self._left

    def take(self) -> Pool:
        """A new pool: a thread per CPU for the first models, fewer for later models, at least the caller's thread."""
        with self._lock:
            more = min(self._cpus - 1, self._left // _PART)
            self._left -= more
        pool = Pool(1 + more)
        weakref.finalize(pool, self._give_back, more)
        return pool

    def _give_back(self, threads: int) -> None:
        with self._lock:
            self._left += threads
