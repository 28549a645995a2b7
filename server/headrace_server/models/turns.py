"""Makes threads release the interpreter lock sooner while versions are loaded and unloaded, so that calls proceed."""

import sys
from threading import Lock

SECONDS = 0.00002
"""The switch interval in seconds: how long a thread may keep the interpreter lock while others wait (default: 5 ms)."""


class ShortTurns:
    """A context with a short switch interval; several may overlap. Any thread.

    A call takes the lock several times. Without this context, the call would wait for the default interval each time
    that a load runs Python code. If the interval is already that short, as during the loads of another server in the
    process, it is left unchanged.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._count = 0
        self._usual: float | None = None  # the interval to restore at the end

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
