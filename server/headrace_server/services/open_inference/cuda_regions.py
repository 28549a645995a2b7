"""Regions of GPU memory, registered by another process's CUDA handle, that requests read and write.

The codes and texts are those of Triton's shared_memory_manager.cc.
"""

import logging

from headrace_protos import Code
from headrace_server.backends.gpu.shared_memory import SharedMemory
from headrace_server.errors import LoadError, ServingError, invalid, not_found

log = logging.getLogger(__name__)


class CudaRegion:
    """The beginning of another process's GPU memory.

    Args:
        name: The region's name in requests.
        device_id: The GPU's number.
        byte_size: The region's size in bytes.
        memory: The memory, which the region now owns.
    """

    def __init__(self, name: str, device_id: int, byte_size: int, memory: SharedMemory) -> None:
        self.name = name
        self.device_id = device_id
        self.byte_size = byte_size
        self._memory: SharedMemory | None = memory

    def read(self, offset: int, size: int) -> bytearray:
        """A copy of some of the region's bytes."""
        return self._open().read(offset, size)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Writes bytes into the region."""
        self._open().write(offset, data)

    def close(self) -> None:
        """Unmaps the memory; a request that still names the region fails."""
        memory, self._memory = self._memory, None
        if memory is None:
            return
        try:
            memory.close()
        except ServingError as error:
            log.warning("CUDA shared memory region %s cannot be closed: %s", self.name, error.message)

    def _open(self) -> SharedMemory:
        if self._memory is None:
            raise not_found(f"Unable to find shared memory region: '{self.name}'")
        return self._memory


class CudaRegions:
    """The regions of GPU memory that callers have registered. In one event loop."""

    def __init__(self) -> None:
        self._regions: dict[str, CudaRegion] = {}

    def register(self, name: str, handle: bytes, device_id: int, byte_size: int) -> None:
        """Opens a region with a name.

        Raises:
            ServingError: ALREADY_EXISTS if the name is taken; INVALID_ARGUMENT if there is no GPU or the
                handle is bad.
        """
        if name in self._regions:
            raise ServingError(Code.ALREADY_EXISTS, f"shared memory region '{name}' already in manager")
        memory = _opened(name, handle, device_id)
        if not 0 < byte_size <= memory.size:
            memory.close()
            raise invalid(f"failed to register shared memory region '{name}': invalid args")
        self._regions[name] = CudaRegion(name, device_id, byte_size, memory)

    def find(self, name: str) -> CudaRegion | None:
        """Finds a region by its name."""
        return self._regions.get(name)

    def status(self, name: str) -> list[CudaRegion]:
        """One region, or all of them if the name is empty.

        Raises:
            ServingError: NOT_FOUND if there is no region with that name.
        """
        if not name:
            return list(self._regions.values())
        if name not in self._regions:
            raise not_found(f"Unable to find cuda shared memory region: '{name}'")
        return [self._regions[name]]

    def unregister(self, name: str) -> None:
        """Removes a region, or all of them if the name is empty; an unknown name is ignored."""
        for each in [name] if name else list(self._regions):
            if (region := self._regions.pop(each, None)) is not None:
                region.close()


def _opened(name: str, handle: bytes, device_id: int) -> SharedMemory:
    if device_id < 0:
        raise invalid(f"failed to register CUDA shared memory region: '{name}', there is no GPU {device_id}")
    try:
        return SharedMemory(device_id, handle)
    except (LoadError, ModuleNotFoundError) as error:
        text = f"failed to register CUDA shared memory region: '{name}', GPUs not supported"
        raise invalid(text) from error
    except ServingError as error:
        raise invalid(f"failed to register shared memory region: {error.message}") from error
