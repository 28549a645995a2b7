"""How many threads each ONNX model computes an operator on, so that thousands of models do not have thousands.

ONNX Runtime gives each session a pool of a thread for each core. Its one pool for all sessions is no alternative from
Python: its threads cannot be kept from spinning after each run, on cores that the transport needs, and no session can
have a pool of its own beside it. So models whose operators are too small to be shared among threads get none, and the
others get the smaller ones the more there are of them.
"""

import weakref
from threading import Lock

from headrace_batching.cpus import schedulable_cpus

SMALL = 1 << 20
"""Bytes below which a model gets no threads: sharing out its operators would cost more than it gains."""

PER_CPU = 8
"""Threads of all pools together, for each CPU."""

_PART = 4  # of what is left, that a pool may have at most


class Pool:
    """The threads of one session; given back when nothing holds this any more.

    Attributes:
        threads: How many compute an operator, the caller's own among them.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads


class Pools:
    """Deals out threads to sessions. Any thread.

    Args:
        cpus: Those that there are.
    """

    def __init__(self, cpus: int | None = None) -> None:
        self._cpus = schedulable_cpus() if cpus is None else cpus
        self._lock = Lock()
        self._left = PER_CPU * self._cpus

    @property
    def left(self) -> int:
        """Threads that nobody has."""
        return self._left

    def take(self) -> Pool:
        """A pool: of a thread for each CPU for the first models, of fewer for later ones, down to the caller's own."""
        with self._lock:
            more = min(self._cpus - 1, self._left // _PART)
            self._left -= more
        pool = Pool(1 + more)
        weakref.finalize(pool, self._give_back, more)
        return pool

    def _give_back(self, threads: int) -> None:
        with self._lock:
            self._left += threads
