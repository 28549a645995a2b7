"""The CUDA calls that backends need, through pycuda: contexts, host and device memory, streams and events.

Every call must be made inside a `with device:` block, which makes the device's primary context current in the thread:
the one that ONNX Runtime and TensorRT also use. Objects that were created on a device must be dropped inside such a
block, too: dropping one frees its memory on the device.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock, Thread
from typing import Any, Self

import numpy as np

from headrace_batching.task import Array
from headrace_protos import Code
from headrace_server.backends.buffer_pool import LIMIT, Block, BufferPool
from headrace_server.errors import LoadError, ServingError

Stream = Any
"""A `pycuda.driver.Stream`; other libraries refer to it by `handle`."""

Event = Any
"""A `pycuda.driver.Event`."""


class Device:
    """One GPU. Any thread; `release` is called once for the creation of the object, and once for each call of `retain`.

    Args:
        ordinal: The GPU's number in CUDA.

    Raises:
        LoadError: FAILED_PRECONDITION if there is no driver or no such device. ModuleNotFoundError: pycuda is not
            installed.
    """

    def __init__(self, ordinal: int) -> None:
        self.ordinal = ordinal
        self._driver = driver = _driver()
        with self._failures():
            count = driver.Device.count()
            if ordinal >= count:
                raise LoadError(Code.FAILED_PRECONDITION, f"there is no GPU {ordinal}: CUDA sees {count}")
            device = driver.Device(ordinal)
            self._context = device.retain_primary_context()
            self.name: str = device.name()
            self.compute_capability: tuple[int, int] = tuple(device.compute_capability())
        self._lock = Lock()
        self._users = 1

    def retain(self) -> Self:
        """Adds a user."""
        with self._lock:
            self._users += 1
        return self

    def release(self) -> None:
        """Removes a user; after the last one, the primary context is released."""
        with self._lock:
            self._users -= 1
            last = not self._users
        if last:
            # pycuda releases a primary context only where it is current, and leaves it current there.
            thread = Thread(target=self._detach, name=f"cuda-{self.ordinal}")
            with suppress(RuntimeError):  # the interpreter is ending, and the driver frees what the process had
                thread.start()
                thread.join()

    def __enter__(self) -> Self:
        self._context.push()
        return self

    def __exit__(self, *exception: object) -> None:
        self._driver.Context.pop()

    def stream(self) -> Stream:
        """Creates a stream that the default stream does not wait for.

        Raises:
            ServingError: RESOURCE_EXHAUSTED if memory is missing, INTERNAL for other failures; the same for all calls
                here.
        """
        with self._failures():
            return self._driver.Stream(_NON_BLOCKING)

    def event(self, *, spin: bool = False) -> Event:
        """Creates an event whose `synchronize` either lets the thread sleep or makes it spin."""
        flags = self._driver.event_flags
        with self._failures():
            return self._driver.Event(flags.DISABLE_TIMING | (0 if spin else flags.BLOCKING_SYNC))

    def record(self, event: Event, stream: Stream) -> None:
        """Records an event after everything that has been put into a stream so far."""
        with self._failures():
            event.record(stream)

    def wait(self, event: Event) -> None:
        """Returns when the event has occurred; the interpreter lock is released during the wait."""
        with self._failures():
            event.synchronize()

    def finish(self, stream: Stream) -> None:
        """Returns when the stream has nothing left to do."""
        with self._failures():
            stream.synchronize()

    def settle(self, stream: Stream) -> None:
        """Like `finish`, but ignores errors: for use after a failure."""
        with suppress(self._driver.Error):
            stream.synchronize()

    def copy_in(self, address: int, array: Array, stream: Stream) -> None:
        """Copies page-locked memory to the device; it must not change until the stream has finished."""
        with self._failures():
            self._driver.memcpy_htod_async(address, _bytes(array), stream)

    def copy_out(self, array: Array, address: int, stream: Stream) -> None:
        """Copies from the device to page-locked memory; the data are there when the stream has finished."""
        with self._failures():
            self._driver.memcpy_dtoh_async(_bytes(array), address, stream)

    def allocate(self, size: int) -> Any:
        """Allocates device memory: its int value is its address, and `free` frees it."""
        with self._failures(f"{size:,} bytes"):
            return self._driver.mem_alloc(max(size, 1))

    def open_shared(self, handle: bytes) -> Any:
        """Maps memory that another process has shared: its int value is its address."""
        with self._failures():
            return self._driver.IPCMemoryHandle(bytearray(handle), self._driver.ipc_mem_flags.LAZY_ENABLE_PEER_ACCESS)

    def close_shared(self, opened: Any) -> None:
        """Unmaps memory that `open_shared` has mapped."""
        with self._failures():
            opened.close()

    def size_of(self, address: int) -> int:
        """The number of bytes from an address to the end of the allocation that contains it."""
        with self._failures():
            base, size = self._driver.mem_get_address_range(address)
        return int(base) + int(size) - address

    def read(self, target: bytearray, address: int) -> None:
        """Copies from the device into ordinary memory, and returns when the copy is complete."""
        if target:
            with self._failures():
                self._driver.memcpy_dtoh(target, address)

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Copies from ordinary memory to the device, and returns when the copy is complete."""
        if data:
            with self._failures():
                self._driver.memcpy_htod(address, data)

    def free_memory(self) -> int:
        """The size of the free device memory in bytes."""
        with self._failures():
            return int(self._driver.mem_get_info()[0])

    def page_locked(self, size: int) -> Block:
        """Allocates page-locked memory, for all devices."""
        with self._failures(f"{size:,} bytes of page-locked memory"):
            flags = self._driver.host_alloc_flags.PORTABLE
            block: Block = self._driver.pagelocked_empty((size,), np.uint8, mem_flags=flags)
            return block

    @contextmanager
    def _failures(self, wanted: str = "") -> Iterator[None]:
        """A context that turns CUDA's errors into ServingErrors."""
        driver = self._driver
        try:
            yield
        except driver.MemoryError as error:
            what = wanted or "this allocation"
            raise ServingError(
                Code.RESOURCE_EXHAUSTED, f"GPU {self.ordinal} has no room for {what}: {error}"
            ) from error
        except driver.Error as error:
            raise ServingError(Code.INTERNAL, f"GPU {self.ordinal}: {error}") from error

    def _detach(self) -> None:
        self._context.push()
        self._context.detach()


class PageLockedPool(BufferPool):
    """A pool of arrays in page-locked memory.

    A copy from ordinary memory to the device takes two steps, and blocks the thread.

    The pool keeps the device until its last block has returned, which may be after `close`.

    Args:
        device: The device in whose context the pool allocates.
        limit: The number of bytes above which idle blocks are freed before more is allocated.
    """

    def __init__(self, device: Device, limit: int = LIMIT) -> None:
        super().__init__(self._new_block, self._free_block, limit)
        self._device = device.retain()
        self._kept = True

    def trim(self) -> bool:
        """Frees idle blocks; returns whether there were any."""
        freed = super().trim()
        with self._lock:
            leave = self._kept and self._closed and not self._held
            self._kept = self._kept and not leave
        if leave:
            self._device.release()
        return freed

    def page_locked(self, array: Array) -> Array:
        """The same values in this pool's memory, contiguous; the array itself if it is there already."""
        if self.owns(array) and array.flags.c_contiguous:
            return array
        copy = self.empty(array.shape, array.dtype)
        copy[...] = array
        return copy

    def _new_block(self, size: int) -> Block:
        with self._device as device:
            return device.page_locked(size)

    def _free_block(self, block: Block) -> None:
        with self._device:
            allocation: Any = block.base
            allocation.free()


def _driver() -> Any:
    """The driver interface of pycuda, initialised.

    Raises:
        LoadError: FAILED_PRECONDITION if there is no NVIDIA driver or no GPU.
    """
    try:
        import pycuda.driver as driver
    except ModuleNotFoundError:
        raise
    except ImportError as error:  # libcuda.so.1 comes with the NVIDIA driver
        raise LoadError(Code.FAILED_PRECONDITION, f"there is no NVIDIA driver here: {error}") from error
    try:
        driver.init()
    except driver.Error as error:
        raise LoadError(Code.FAILED_PRECONDITION, f"there is no GPU here: {error}") from error
    return driver


def _bytes(array: Array) -> Array:
    """The same memory as bytes: pycuda takes buffers, and some dtypes have no buffer format."""
    return array.reshape(-1).view(np.uint8)


_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, for which pycuda has no name
