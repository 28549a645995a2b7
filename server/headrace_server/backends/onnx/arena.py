"""Frees memory of ONNX Runtime's arena, which doubles while large answers wait, and never shrinks on its own."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import numpy as np

from headrace_batching.task import Array, Arrays
from headrace_server.backends.onnx.names import CPU
from headrace_server.backends.onnx.native_session import Session, run_options
from headrace_server.backends.onnx.providers import FATAL

LARGE_OUTPUT = 256 << 10
"""After a run with an output of at least this many bytes, the arena is assumed to have grown."""

SECONDS = 0.5
"""The minimum time between two runs that free memory: after each, the next run must request it from the system again.
"""

_KEY, _ARENA = "memory.enable_memory_arena_shrinkage", "cpu:0"  # onnxruntime_run_options_config_keys.h


class Arena:
    """The arena of one session on the CPU. Any thread.

    Args:
        session: The session whose arena this is.
        clock: Returns the time, in seconds.
    """

    def __init__(self, session: Session, clock: Callable[[], float] = time.monotonic) -> None:
        self._session = session
        self._clock = clock
        self._has_grown = False
        self._freed = -SECONDS
        self._inputs: Mapping[str, tuple[tuple[int, ...], np.dtype]] = {}  # those of the last run with large outputs
        self._ran = 0.0  # when that run ended

    def before_run(self, inputs: Arrays) -> None:
        """Frees the unused parts of the arena if that is due; takes some 0.2 ms per MB that is returned."""
        if self._has_grown and self._clock() - self._freed >= SECONDS:
            self._free(inputs)

    def free_if_idle(self) -> None:
        """Frees the unused parts of the arena if no later run has done so."""
        if self._has_grown and self._clock() - self._ran >= SECONDS:
            self._free({name: _zeros(*each) for name, each in self._inputs.items()})

    def ran(self, inputs: Arrays, outputs: Sequence[Array]) -> None:
        """Records a run on these inputs with these outputs."""
        for array in outputs:  # `any` would take four times as long
            if array.nbytes >= LARGE_OUTPUT:
                self.grew({name: (each.shape, each.dtype) for name, each in inputs.items()})
                return

    def grew(self, inputs: Mapping[str, tuple[tuple[int, ...], np.dtype]]) -> None:
        """Records a run with large outputs, whose inputs had these shapes and dtypes."""
        self._inputs = inputs
        self._ran = self._clock()
        self._has_grown = True

    def _free(self, inputs: Arrays) -> None:
        """Frees the unused parts of the arena, by a run that ends before its first operator.

        At the end of a run, ONNX Runtime can free all parts except those that hold that run's outputs. This extra run
        has no outputs, so every unused part is freed.
        """
        self._freed, self._has_grown = self._clock(), False
        options = run_options(self._session)
        options.terminate = True
        options.log_severity_level = FATAL
        options.add_run_config_entry(_KEY, _ARENA)
        with suppress(Exception):  # the ended run raises; ONNX Runtime's exceptions have no base class of their own
            self._session.run(None, inputs, options)


def arena_of(session: Session) -> Arena | None:
    """The arena of a session; None if it has none, or also runs elsewhere."""
    on_cpu = session.get_providers() == [CPU]
    return Arena(session) if on_cpu and session.get_session_options().enable_cpu_mem_arena else None


def _zeros(shape: tuple[int, ...], dtype: np.dtype) -> Array:
    return np.full(shape, "", dtype) if dtype.hasobject else np.zeros(shape, dtype)
