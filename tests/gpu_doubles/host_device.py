"""A `Device` whose memory is the computer's own, so that the real ONNX Runtime can be bound to it."""

import ctypes
from typing import Any, Self

import numpy as np

from headrace_batching.task import Array


class HostDevice:
    """Does immediately, and without checks, what a GPU does later; the other doubles check the rules."""

    ordinal = 0

    def __init__(self) -> None:
        self.live = 0
        self.users = 1

    def retain(self) -> Self:
        self.users += 1
        return self

    def release(self) -> None:
        self.users -= 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def stream(self) -> Any:
        return object()

    def event(self) -> Any:
        return object()

    def record(self, event: Any, stream: Any) -> None:
        pass

    def wait(self, event: Any) -> None:
        pass

    def settle(self, stream: Any) -> None:
        pass

    def copy_in(self, address: int, array: Array, stream: Any) -> None:
        del stream
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def copy_out(self, array: Array, address: int, stream: Any) -> None:
        del stream
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def allocate(self, size: int) -> "Allocation":
        return Allocation(self, max(size, 1))

    def page_locked(self, size: int) -> Array:
        array: Array = np.asarray(Allocation(self, size))
        return array

    def free_memory(self) -> int:
        return 1 << 30


class Allocation:
    """Some bytes."""

    def __init__(self, device: HostDevice, size: int) -> None:
        self._device = device
        self._memory = np.full(size, 0xCD, np.uint8)
        self.__array_interface__ = self._memory.__array_interface__
        device.live += 1

    def __int__(self) -> int:
        return int(self._memory.ctypes.data)

    def free(self) -> None:
        self._device.live -= 1
