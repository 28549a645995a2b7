"""A machine with GPUs that does what CUDA may do at its latest, and complains of what CUDA would answer with nonsense.

Nothing that is put into a stream happens before somebody waits for it. So whoever reads too early reads what was there
before, and whoever reuses memory too early is seen to have changed it.
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

_ALIGNMENT = 256  # bytes; CUDA's is no less


_UNSAFE = {"mem_alloc", "mem_free", "pagelocked_empty", "host_free"}
"""Calls that a thread may not make while it captures."""


class Complaint(AssertionError):
    """A rule of CUDA's, or of TensorRT's, has been broken."""


class CudaError(Exception):
    """pycuda's base of all."""


class CudaMemoryError(CudaError):
    """There is no room."""


@dataclass(eq=False)
class Memory:
    """Bytes at an address: a device's, or page-locked (device None)."""

    address: int
    bytes: Array
    device: int | None
    live: bool = True

    @property
    def stop(self) -> int:
        """The address behind it."""
        return self.address + self.bytes.nbytes

    def at(self, address: int, size: int) -> Array:
        """Some of its bytes. Whoever holds these keeps nothing alive, as a copy that is on its way does not."""
        start = address - self.address
        return self.bytes[start : start + size]


@dataclass(frozen=True, eq=False)
class Work:
    """Something in a stream: what it does, and the memory that it needs until then."""

    run: Callable[[], None]
    uses: tuple[Memory, ...] = ()


@dataclass(eq=False)
class StreamState:
    """A stream's work, in order, and whether it is being captured instead."""

    device: int
    handle: int
    work: deque[Work] = field(default_factory=deque)
    captured: list[Work] | None = None
    lock: Any = field(default_factory=threading.RLock)


class Machine:
    """The state behind the doubles.

    Args:
        devices: GPUs.
        memory: Bytes of memory of each.

    Attributes:
        complaints: All of them, those included that were raised where nobody listens.
        failures: Names of calls that are to fail the next time, with what they raise.
        calls: How often each call was made.
        built_with: TensorRT's last configuration of a build.
        logger: TensorRT's.
        plugins: Whether TensorRT's own ones have been registered.
        shared: Memory of other processes, by the handle that they share it by.
        before_work: Called by a thread that waits for a stream, before the stream does anything.
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
        self.captures: dict[int, int] = {}  # by thread, the stream that it captures
        self.shared: dict[bytes, Memory] = {}
        self.before_work: Callable[[], object] = lambda: None
        self.may_spin = False  # whether a thread that waits for an event may keep a core busy
        self.retained = [0] * devices
        self.live: dict[int, str] = {}  # what must be gone after an unload, by a number of its own
        self.streams: dict[int, StreamState] = {}
        self.lock = threading.RLock()
        self.numbers = itertools.count(1)
        self._memories: list[Memory] = []
        self._next_address = itertools.count(0x7F0000000000, 1 << 32)
        self._threads = threading.local()

    def complain(self, text: str) -> Complaint:
        """Notes a broken rule; to be raised where somebody listens."""
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
        """Begins a call: the device whose context is current on this thread."""
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
            raise self.complain(f"{call}: this thread captures a stream, and CUDA gives the capture up")
        device: int = context.device
        return device

    @contextmanager
    def alive(self, what: str) -> Iterator[int]:
        """A number under which something is counted as live from here on, unless the block fails."""
        number = next(self.numbers)
        self.live[number] = what
        try:
            yield number
        except BaseException:
            del self.live[number]
            raise

    def one_logger(self, logger: Any) -> None:
        """TensorRT has one logger a process, and ignores another one while a builder or a runtime lives."""
        in_use = {"a builder", "a runtime"} & set(self.live.values())
        if in_use and logger is not self.logger:
            raise self.complain("another logger than the one of the builders and runtimes that live: it is ignored")
        self.logger = logger

    def new_memory(self, size: int, device: int | None) -> Memory:
        """Memory whose bytes are no zeros.

        Raises:
            CudaMemoryError: The device has no room for it.
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
        """Bytes of a device that nobody has taken."""
        with self.lock:
            return self.memory - sum(memory.bytes.nbytes for memory in self._memories if memory.device == device)

    def free_memory(self, memory: Memory) -> None:
        """Frees it, unless work that waits needs it."""
        with self.lock:
            if not memory.live:
                raise self.complain("memory is freed twice")
            if any(memory in work.uses for stream in self.streams.values() for work in stream.work):
                raise self.complain("memory is freed before the work that uses it has ended")
            memory.live = False
            memory.bytes[:] = 0xDD
            self._memories = [other for other in self._memories if other is not memory]

    def memory_at(self, address: int, size: int, what: str) -> Memory:
        """The device's memory that holds these bytes."""
        return self._find(address, size, f"{what}: {size} bytes at {address:#x} are not in one allocation of a device")

    def page_locked(self, array: Array, what: str) -> Memory:
        """The page-locked memory that an array lies in."""
        if not array.flags.c_contiguous:
            raise self.complain(f"{what}: the array is not contiguous")
        memory = self._find(array.ctypes.data, array.nbytes, f"{what}: the array is not in page-locked memory")
        if memory.device is not None:
            raise self.complain(f"{what}: the array is not in page-locked memory")
        return memory

    def stream(self, handle: int, device: int, what: str) -> StreamState:
        """A live stream of the device."""
        if not handle:
            raise self.complain(f"{what}: on the default stream, for which all others wait")
        stream = self.streams.get(handle)
        if stream is None:
            raise self.complain(f"{what}: there is no stream {handle}")
        if stream.device != device:
            raise self.complain(f"{what}: the stream is of GPU {stream.device}, the context of GPU {device}")
        return stream

    def put(self, stream: StreamState, work: Work) -> None:
        """Adds work to a stream, or to what is captured of it."""
        with stream.lock:
            if stream.captured is not None:
                stream.captured.append(work)
            else:
                stream.work.append(work)

    def drain(self, stream: StreamState, until: Work | None = None) -> None:
        """Does what waits in a stream, to the end or to one piece of work."""
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
        """Complains of all that has not been freed."""
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
    """A check, to be made when the work is done, that nobody has used the array in the meantime."""
    before = array.copy()

    def check() -> None:
        if not np.array_equal(before, array):
            raise machine.complain(f"{what}: the memory was used for something else before its event")

    return check
