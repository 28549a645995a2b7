"""Fixtures that show whether a call is answered without Python."""

from collections.abc import Iterator, Sequence
from threading import Event

import numpy as np
import pytest

from headrace_batching.task import Arrays
from headrace_server.backends.onnx.backend import OnnxBackend
from tests.support.running import LoopThread


@pytest.fixture
def blocked(loop_thread: LoopThread) -> Iterator[None]:
    """Blocks the event loop of the servers, so that no Python handler runs."""
    go_on = Event()
    loop_thread.loop.call_soon_threadsafe(go_on.wait)
    yield
    go_on.set()


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of the first axis of each run by Python, or 1 for a scalar."""
    runs, run = list[int](), OnnxBackend.run

    def seen(backend: OnnxBackend, signature: str, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        runs.append(np.atleast_1d(next(iter(inputs.values()))).shape[0])
        return run(backend, signature, inputs, outputs)

    monkeypatch.setattr(OnnxBackend, "run", seen)
    return runs
