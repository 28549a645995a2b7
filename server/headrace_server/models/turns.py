"""Lets calls take their turn while versions are loaded and unloaded."""

import sys
from threading import Lock

SECONDS = 0.0001
"""Seconds after which a thread that runs Python code gives way to another one; Python's default is 5 ms."""


class ShortTurns:
    """A context in which the interpreter's lock changes hands more often; several may overlap. Any thread.

    A call takes the lock several times. Each time, it would wait for as long as a load runs Python code, which takes
    milliseconds. If turns are as short already, as in the loads of another server in the process, they stay as they
    are.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._count = 0
        self._usual: float | None = None  # to be restored

    def __enter__(self) -> None:
        with self._lock:
            self._count += 1
            if self._count == 1:
                usual = sys.getswitchinterval()
                self._usual = usual if usual > SECONDS else None
                if self._usual is not None:
                    sys.setswitchinterval(SECONDS)

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._count -= 1
            if not self._count and self._usual is not None:
                sys.setswitchinterval(self._usual)
