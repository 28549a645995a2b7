"""The GPU resources of an ONNX model besides its session: the device, page-locked memory for batches, bound runs."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import onnxruntime as ort

from headrace_batching import Options
from headrace_batching.task import Array, Arrays
from headrace_server.backends.gpu.cuda import Device, PageLockedPool
from headrace_server.backends.onnx.binding import BoundSession, Slots
from headrace_server.backends.onnx.header import read_header
from headrace_server.backends.onnx.provider_options import Providers
from headrace_server.backends.onnx.providers import GPU_LIBRARIES
from headrace_server.backends.onnx.sizes import most_sizes, padded_to, sizes_for, wants_sizes
from headrace_server.backends.signature import Signature

log = logging.getLogger(__name__)

Open = Callable[[], ort.InferenceSession]
"""Loads the model once more."""


def device_for(providers: Providers, ordinal: int) -> Device | None:
    """The GPU of the preferred provider, which must be released; None for the CPU, or without pycuda.

    Raises:
        LoadError: FAILED_PRECONDITION if there is no such GPU.
    """
    if providers[0][0] not in GPU_LIBRARIES:
        return None
    try:
        return Device(ordinal)
    except ModuleNotFoundError:
        log.warning("pycuda is not installed: batches are copied to the GPU from pageable memory")
        return None


def free_memory(device: Device) -> int:
    """The size of the free device memory in bytes."""
    with device:
        return device.free_memory()


class OnGpu:
    """A model's share of a GPU, from its load to its `close`. Any thread.

    Args:
        session: The model, loaded on the GPU; it must not have string inputs or outputs.
        device: The GPU, which is retained until `close`.
        free_before: The number of bytes that were free before the session was created.
        instances: The number of batches that run at the same time.
    """

    def __init__(self, session: ort.InferenceSession, device: Device, free_before: int, instances: int) -> None:
        self._ordinal = device.ordinal
        self._taken = max(0, free_before - free_memory(device))
        self._pool = PageLockedPool(device)
        self._slots = Slots(device, instances)
        self._bound = BoundSession(session, self._slots, self._pool)
        self._open: Open | None = None
        self._sizes: tuple[int, ...] = ()
        self._sized: dict[int, BoundSession] = {}
        self._lock = Lock()

    @property
    def memory(self) -> Mapping[int, int]:
        """The bytes by which the device's free memory shrank during the load, by the device's number.

        This includes other models that were loaded there at the same time, but not the memory that the first runs add.
        """
        return {self._ordinal: self._taken}

    def open_sizes(
        self, model: Path, signatures: Mapping[str, Signature], batching: Options, open_session: Open
    ) -> None:
        """If changing shapes make a model slow, gives each batch size a session, opened when its first batch runs.

        Args:
            model: The model's file.
            signatures: All of the model's signatures.
            batching: The operator's parameters.
            open_session: Loads the model once more.
        """
        if wants_sizes(read_header(model.read_bytes()).operators, signatures.values()):
            weights = sum(file.stat().st_size for file in model.parent.iterdir() if file.is_file())
            self._sizes = sizes_for(batching, most_sizes(weights, free_memory(self._slots.device)))
            self._open = open_session
            shown = ", ".join(map(str, self._sizes))
            log.info("%s has convolutions, so each of these batch sizes gets its own session: %s", model, shown)

    def fit_batching(self, options: Options) -> Options:
        """The parameters, changed so that batches are padded to the sizes that have a session."""
        return padded_to(options, self._sizes) if self._sizes else options

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An array in page-locked memory, which returns to the pool with its last view.

        Raises:
            ServingError: RESOURCE_EXHAUSTED if no memory is left.
        """
        return self._pool.empty(shape, dtype)

    def run(self, names: Sequence[str], inputs: Arrays) -> list[Array]:
        """Computes the outputs with these names, from inputs by the graph's names.

        Raises:
            ServingError: RESOURCE_EXHAUSTED if no memory is left.
        """
        return self._bound_for(inputs).run(names, inputs)

    def close(self) -> None:
        """Frees the model's share. Nothing may be running; arrays that were handed out stay valid."""
        self._sized.clear()
        self._slots.close()
        self._pool.close()

    def _bound_for(self, inputs: Arrays) -> BoundSession:
        rows = {array.shape[0] for array in inputs.values()} if self._sizes else set()
        size = rows.pop() if len(rows) == 1 else 0
        if size not in self._sizes:
            return self._bound
        return self._sized.get(size) or self._opened(size)

    def _opened(self, size: int) -> BoundSession:
        with self._lock:
            if size not in self._sized:
                self._sized[size] = self._new(size)
            return self._sized[size]

    def _new(self, size: int) -> BoundSession:
        assert self._open is not None
        try:
            return BoundSession(self._open(), self._slots, self._pool)
        except Exception as error:  # ONNX Runtime's exceptions have no base class of their own
            log.warning("batches of %d rows have no session of their own and will be slow: %s", size, str(error))
            return self._bound
