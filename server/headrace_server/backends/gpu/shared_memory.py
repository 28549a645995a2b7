"""GPU memory that another process has allocated and shared, by the handle that CUDA gave it."""

from headrace_server.backends.gpu.cuda import Device
from headrace_server.errors import invalid

HANDLE_BYTES = 64
"""The size of a cudaIpcMemHandle_t in bytes."""


class SharedMemory:
    """A part of one GPU's memory that belongs to another process, mapped until it is closed. Any thread.

    Args:
        ordinal: The GPU's number.
        handle: The handle, HANDLE_BYTES bytes long.

    Raises:
        ServingError: The handle is invalid, or CUDA cannot open it.
        LoadError: FAILED_PRECONDITION if there is no such GPU. ModuleNotFoundError: pycuda is not installed.
    """

    def __init__(self, ordinal: int, handle: bytes) -> None:
        if len(handle) != HANDLE_BYTES:
            raise invalid(f"a CUDA IPC handle must have {HANDLE_BYTES} bytes; had {len(handle)}")
        self._device = Device(ordinal)
        try:
            with self._device as device:
                self._opened = device.open_shared(handle)
                self.size = device.size_of(int(self._opened))
        except BaseException:
            self._device.release()
            raise

    def read(self, offset: int, size: int) -> bytearray:
        """A copy of some of the memory's bytes.

        Raises:
            ServingError: CUDA failed: the memory's owner may have exited.
        """
        data = bytearray(size)
        with self._device as device:
            device.read(data, int(self._opened) + offset)
        return data

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Writes bytes into the memory.

        Raises:
            ServingError: As for `read`.
        """
        with self._device as device:
            device.write(int(self._opened) + offset, data)

    def close(self) -> None:
        """Unmaps the memory."""
        with self._device as device:
            device.close_shared(self._opened)
        self._device.release()
