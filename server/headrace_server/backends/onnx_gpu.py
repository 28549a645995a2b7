"""What an ONNX model has on a GPU beside its session: the device, page-locked memory for batches, bound runs."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from headrace_batching.task import Array, Arrays
from headrace_server.backends.cuda import Device, PageLockedPool
from headrace_server.backends.onnx_binding import BoundSession
from headrace_server.backends.onnx_provider_options import Providers
from headrace_server.backends.onnx_providers import GPU_LIBRARIES

log = logging.getLogger(__name__)


def device_for(providers: Providers, ordinal: int) -> Device | None:
    """The GPU that the preferred provider computes on, to be released; None for the CPU, or where there is no pycuda.

    Raises:
        LoadError: FAILED_PRECONDITION: there is no such GPU.
    """
    if providers[0][0] not in GPU_LIBRARIES:
        return None
    try:
        return Device(ordinal)
    except ModuleNotFoundError:
        log.warning("pycuda is not installed: batches reach the GPU by way of ordinary memory")
        return None


def free_memory(device: Device) -> int:
    """Bytes of the device that nobody has taken."""
    with device:
        return device.free_memory()


class OnGpu:
    """A model's part of a GPU, from its load to its `close`. Any thread.

    Args:
        session: The model, loaded there; it must not take or give strings.
        device: Retained.
        free_before: Bytes that were free there before the session was made.
    """

    def __init__(self, session: ort.InferenceSession, device: Device, free_before: int) -> None:
        self._ordinal = device.ordinal
        self._taken = max(0, free_before - free_memory(device))
        self._pool = PageLockedPool(device)
        self._bound = BoundSession(session, device, self._pool)

    @property
    def memory(self) -> Mapping[int, int]:
        """The bytes by which the device had less to give after the load, by the device's number.

        Whatever was loaded there meanwhile is counted, too; what the first runs add is not.
        """
        return {self._ordinal: self._taken}

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An array of page-locked memory, which goes back with its last view.

        Raises:
            ServingError: RESOURCE_EXHAUSTED, there is no memory left.
        """
        return self._pool.empty(shape, dtype)

    def run(self, names: Sequence[str], inputs: Arrays) -> list[Array]:
        """Computes the outputs of these names, from inputs by the graph's names.

        Raises:
            ServingError: RESOURCE_EXHAUSTED, there is no memory left.
        """
        return self._bound.run(names, inputs)

    def close(self) -> None:
        """Frees it, when nothing runs any more; arrays that were given out stay valid."""
        self._bound.close()
        self._pool.close()
