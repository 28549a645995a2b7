"""A system that has no thread left."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from unittest.mock import patch


@contextmanager
def no_threads(beginning: str = "") -> Iterator[None]:
    """Within the context, threads whose names begin with a text cannot start, as under a limit of a container."""
    start = Thread.start

    def refused(thread: Thread) -> None:
        if thread.name.startswith(beginning):
            raise RuntimeError("can't start new thread")
        start(thread)

    with patch.object(Thread, "start", refused):
        yield
