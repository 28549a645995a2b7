"""A machine with GPUs that acts as late as CUDA may, and reports an error where CUDA's behaviour is undefined.

The work of a stream is done only when a thread waits for it. So a read that comes too early finds the old data, and a
check finds memory that was reused too early.
"""

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headrace_batching.task import Array

_ALIGNMENT = 256  # bytes; CUDA aligns at least as coarsely


_UNSAFE = {"mem_alloc", "mem_free", "pagelocked_empty", "host_free"}
"""Calls that a thread must not make while it captures a graph."""


class Complaint(AssertionError):
    """A rule of CUDA or TensorRT was broken."""


class CudaError(Exception):
    """pycuda's base class of all errors."""


class CudaMemoryError(CudaError):
    """The device is out of memory."""


@dataclass(eq=False)
class Memory:
    """Bytes at an address, on a device or page-locked (device None)."""

    address: int
    bytes: Array
    device: int | None
    live: bool = True

    @property
    def stop(self) -> int:
        """The first address after the block."""
        return self.address + self.bytes.nbytes

    def at(self, address: int, size: int) -> Array:
        """A part of the block's bytes. The array does not keep the block alive, just as a pending copy does not."""
        start = address - self.address
        return self.bytes[start : start + size]


@dataclass(frozen=True, eq=False)
class Work:
    """An item of a stream: what it does, and the memory that it needs until it is done."""

    run: Callable[[], None]
    uses: tuple[Memory, ...] = ()


@dataclass(eq=False)
class StreamState:
    """The work of a stream, in order, and whether it is being captured."""

    device: int
    handle: int
    work: deque[Work] = field(default_factory=deque)
    captured: list[Work] | None = None
    lock: Any = field(default_factory=threading.RLock)


class Machine:
    """The state that the doubles share.

    Args:
        devices: The number of GPUs.
        memory: Each device's memory in bytes.

    Attributes:
        complaints: All broken rules, including those raised where nothing catches the exception.
        failures: Names of calls that fail the next time, with the exceptions that they raise.
        calls: How often each call was made.
        built_with: The configuration of TensorRT's last build.
        logger: TensorRT's logger.
        plugins: Whether TensorRT's own plugins have been registered.
        shared: Memory of other processes, by its handle.
        before_work: Called by a thread that waits for a stream, before the stream's work is done.
    """

    def __init__(self, devices: int = 1, memory: int = 1 << 30) -> None:
        self.devices = devices
        self.memory = memory
        self.complaints: list[str] = []
        self.failures: dict[str, Exception] = {}
        self.calls: dict[str, int] = {}
        self.built_with: Any = None
        self.logger: Any = None
        self.plugins = False
        self.captures: dict[int, int] = {}  # the stream that each thread is capturing
        self.shared: dict[bytes, Memory] = {}
        self.before_work: Callable[[], object] = lambda: None
        self.may_spin = False  # whether a thread that waits for an event may spin
        self.retained = [0] * devices
        self.live: dict[int, str] = {}  # objects that must be freed by an unload, by number
        self.streams: dict[int, StreamState] = {}
        self.lock = threading.RLock()
        self.numbers = itertools.count(1)
        self._memories: list[Memory] = []
        self._next_address = itertools.count(0x7F0000000000, 1 << 32)
        self._threads = threading.local()

    def complain(self, text: str) -> Complaint:
        """Records a broken rule; the caller raises it."""
        self.complaints.append(text)
        return Complaint(text)

    @property
    def stack(self) -> list[Any]:
        """The contexts of this thread, the current one last."""
        if not hasattr(self._threads, "stack"):
            self._threads.stack = []
        stack: list[Any] = self._threads.stack
        return stack

    def enter(self, call: str) -> int:
        """Begins a call; returns the device whose context is current on this thread."""
        with self.lock:
            self.calls[call] = self.calls.get(call, 0) + 1
            if call in self.failures:
                raise self.failures.pop(call)
        if not self.stack:
            raise self.complain(f"{call}: this thread has no context")
        context = self.stack[-1]
        if not context.valid:
            raise self.complain(f"{call}: the context of this thread has been given back")
        if call in _UNSAFE and self.captures.get(threading.get_ident()):
            raise self.complain(f"{call}: this thread captures a stream, and CUDA abandons the capture")
        device: int = context.device
        return device

    @contextmanager
    def alive(self, what: str) -> Iterator[int]:
        """Counts something as alive from now on, unless the block fails; yields its number."""
        number = next(self.numbers)
        self.live[number] = what
        try:
            yield number
        except BaseException:
            del self.live[number]
            raise

    def one_logger(self, logger: Any) -> None:
        """TensorRT has one logger per process, and ignores others while a builder or a runtime is alive."""
        in_use = {"a builder", "a runtime"} & set(self.live.values())
        if in_use and logger is not self.logger:
            raise self.complain("a second logger, which is ignored while a builder or runtime of the first is alive")
        self.logger = logger

    def new_memory(self, size: int, device: int | None) -> Memory:
        """Memory whose bytes are not zero.

        Raises:
            CudaMemoryError: The device is out of memory.
        """
        with self.lock:
            if device is not None and size > self.free(device):
                raise CudaMemoryError("cuMemAlloc failed: out of memory")
            roomy = np.full(size + _ALIGNMENT, 0xCD, np.uint8)
            start = -roomy.ctypes.data % _ALIGNMENT
            block = roomy[start : start + size]
            address = block.ctypes.data if device is None else next(self._next_address)
            memory = Memory(address, block, device)
            self._memories.append(memory)
            return memory

    def free(self, device: int) -> int:
        """The number of free bytes of a device."""
        with self.lock:
            return self.memory - sum(memory.bytes.nbytes for memory in self._memories if memory.device == device)

    def free_memory(self, memory: Memory) -> None:
        """Frees the memory, which no pending work may need."""
        with self.lock:
            if not memory.live:
                raise self.complain("memory is freed twice")
            if any(memory in work.uses for stream in self.streams.values() for work in stream.work):
                raise self.complain("memory is freed before the work that uses it has ended")
            memory.live = False
            memory.bytes[:] = 0xDD
            self._memories = [other for other in self._memories if other is not memory]

    def memory_at(self, address: int, size: int, what: str) -> Memory:
        """The device's block with these bytes."""
        return self._find(address, size, f"{what}: {size} bytes at {address:#x} are not in one allocation of a device")

    def page_locked(self, array: Array, what: str) -> Memory:
        """The page-locked block that contains an array."""
        if not array.flags.c_contiguous:
            raise self.complain(f"{what}: the array is not contiguous")
        memory = self._find(array.ctypes.data, array.nbytes, f"{what}: the array is not in page-locked memory")
        if memory.device is not None:
            raise self.complain(f"{what}: the array is not in page-locked memory")
        return memory

    def stream(self, handle: int, device: int, what: str) -> StreamState:
        """The device's live stream with this handle."""
        if not handle:
            raise self.complain(f"{what}: on the default stream, for which all others wait")
        stream = self.streams.get(handle)
        if stream is None:
            raise self.complain(f"{what}: there is no stream {handle}")
        if stream.device != device:
            raise self.complain(f"{what}: the stream belongs to GPU {stream.device}, and the context to GPU {device}")
        return stream

    def put(self, stream: StreamState, work: Work) -> None:
        """Adds work to a stream, or to the graph that is being captured from it."""
        with stream.lock:
            if stream.captured is not None:
                stream.captured.append(work)
            else:
                stream.work.append(work)

    def drain(self, stream: StreamState, until: Work | None = None) -> None:
        """Does the pending work of a stream: all of it, or up to one item."""
        self.before_work()
        with stream.lock:
            if stream.captured is not None:
                raise self.complain("a stream that is being captured is waited for")
            while stream.work:
                work = stream.work[0]
                try:
                    work.run()
                finally:
                    stream.work.popleft()
                if work is until:
                    return

    def check_nothing_left(self) -> None:
        """Complains about everything that has not been freed."""
        left = sorted(self.live.values())
        left += [f"{m.bytes.nbytes} bytes of {'page-locked' if m.device is None else 'device'}" for m in self._memories]
        left += [f"{count} references to the context of GPU {n}" for n, count in enumerate(self.retained) if count]
        if left:
            raise self.complain(f"not freed: {', '.join(left)}")

    def _find(self, address: int, size: int, otherwise: str) -> Memory:
        with self.lock:
            for memory in self._memories:
                if memory.address <= address and address + size <= memory.stop:
                    return memory
        raise self.complain(otherwise)


def unchanged(machine: Machine, array: Array, what: str) -> Callable[[], None]:
    """Returns a check, to be called when the work is done, that nothing has changed the array in the meantime."""
    before = array.copy()

    def check() -> None:
        if not np.array_equal(before, array):
            raise machine.complain(f"{what}: the memory was used for something else before its event")

    return check
