"""Fixtures that show whether a call is answered without Python."""

from collections.abc import Iterator
from threading import Event

import pytest

from tests.support.running import LoopThread


@pytest.fixture
def blocked(loop_thread: LoopThread) -> Iterator[None]:
    """Blocks the event loop of the servers, so that no Python handler runs."""
    go_on = Event()
    loop_thread.loop.call_soon_threadsafe(go_on.wait)
    yield
    go_on.set()
