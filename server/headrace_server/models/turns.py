"""Lets calls take their turn while versions are loaded and unloaded."""

import sys
from threading import Lock

SECONDS = 0.0001
"""Seconds after which a thread that runs Python code gives way to another one; Python's default is 5 ms."""


class ShortTurns:
    """A context in which the interpreter's lock changes hands more often; several may overlap. Any thread.

    A call takes the lock several times. Each time, it would wait for as long as a load runs Python code, which takes
    milliseconds.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._count = 0
        self._usual = 0.0

    def __enter__(self) -> None:
        with self._lock:
            self._count += 1
            if self._count == 1:
                self._usual = sys.getswitchinterval()
                sys.setswitchinterval(min(SECONDS, self._usual))

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._count -= 1
            if not self._count:
                sys.setswitchinterval(self._usual)
