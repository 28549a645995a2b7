"""Ends runs of a trial that take too long: a generated value may be a loop's number of iterations."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Timer

import onnxruntime as ort

FIRST = 30.0
"""Seconds that the first run may take, when nothing is known about the model."""

LEAST = 1.0
"""Seconds that every run may take, however short the runs before it were."""

TIMES = 20
"""The factor by which a run may take longer than the longest run before it."""


class Patience:
    """How long the next run may take, judging by the runs that were not stopped. One thread at a time.

    Args:
        clock: Returns the time, in seconds.
        make_timer: Makes a timer from the arguments of `threading.Timer`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, make_timer: Callable[..., Timer] = Timer) -> None:
        self._clock = clock
        self._make_timer = make_timer
        self._limit = FIRST
        self._longest = 0.0

    @contextmanager
    def ends(self, options: ort.RunOptions) -> Iterator[None]:
        """Ends the run with these options once it has taken too long; the run then fails."""
        began = self._clock()
        timer = self._make_timer(self._limit, setattr, (options, "terminate", True))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
        self._longest = max(self._longest, self._clock() - began)
        self._limit = max(LEAST, TIMES * self._longest)
