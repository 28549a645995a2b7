"""The part of `pycuda.driver` that headrace calls, on a `Machine`."""

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace_batching.task import Array

from .machine import CudaError, CudaMemoryError, Machine, Memory, StreamState, Work, unchanged


class Driver:
    """The module that `import pycuda.driver` returns; the names are pycuda's."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.Error = CudaError
        self.MemoryError = CudaMemoryError
        self.host_alloc_flags = SimpleNamespace(PORTABLE=1)
        self.event_flags = SimpleNamespace(DEFAULT=0, BLOCKING_SYNC=1, DISABLE_TIMING=2)
        self.ipc_mem_flags = SimpleNamespace(LAZY_ENABLE_PEER_ACCESS=1)
        self.IPCMemoryHandle = _bound(IPCMemoryHandle, machine)
        self.Device = _bound(Device, machine)
        self.Context = _bound(Context, machine)
        self.Stream = _bound(Stream, machine)
        self.Event = _bound(Event, machine)

    def init(self) -> None:
        if not self.machine.devices:
            raise CudaError("cuInit failed: no CUDA-capable device is detected")

    def mem_alloc(self, size: int) -> "DeviceAllocation":
        device = self.machine.enter("mem_alloc")
        return DeviceAllocation(self.machine, self.machine.new_memory(size, device))

    def mem_get_info(self) -> tuple[int, int]:
        device = self.machine.enter("mem_get_info")
        return self.machine.free(device), self.machine.memory

    def mem_get_address_range(self, address: int) -> tuple[int, int]:
        self.machine.enter("mem_get_address_range")
        memory = self.machine.memory_at(address, 1, "mem_get_address_range")
        return memory.address, len(memory.bytes)

    def memcpy_dtoh(self, target: bytearray, address: int) -> None:
        self.machine.enter("memcpy_dtoh")
        source = self.machine.memory_at(address, len(target), "memcpy_dtoh")
        target[:] = source.at(address, len(target)).tobytes()

    def memcpy_htod(self, address: int, data: bytes | memoryview) -> None:
        self.machine.enter("memcpy_htod")
        target = self.machine.memory_at(address, len(data), "memcpy_htod")
        target.at(address, len(data))[:] = np.frombuffer(data, np.uint8)

    def pagelocked_empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike, mem_flags: int = 0) -> Array:
        self.machine.enter("pagelocked_empty")
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if not mem_flags & self.host_alloc_flags.PORTABLE:
            raise self.machine.complain("pagelocked_empty: other devices would take it for ordinary memory")
        memory = self.machine.new_memory(size, None)
        layout = {"version": 3, "data": (memory.address, False), "shape": shape, "typestr": np.dtype(dtype).str}
        array: Array = np.asarray(HostAllocation(self.machine, memory, layout))
        return array

    def memcpy_htod_async(self, address: int, array: Array, stream: "Stream | None" = None) -> None:
        machine, call = self.machine, "memcpy_htod_async"
        device = machine.enter(call)
        source = machine.page_locked(array, call)
        target = machine.memory_at(address, array.nbytes, call)
        read, written = source.at(array.ctypes.data, array.nbytes), target.at(address, array.nbytes)
        check = unchanged(machine, read, call)

        def run() -> None:
            check()
            written[:] = read

        machine.put(machine.stream(_handle(stream), device, call), Work(run, (source, target)))

    def memcpy_dtoh_async(self, array: Array, address: int, stream: "Stream | None" = None) -> None:
        machine, call = self.machine, "memcpy_dtoh_async"
        device = machine.enter(call)
        target = machine.page_locked(array, call)
        source = machine.memory_at(address, array.nbytes, call)
        read, written = source.at(address, array.nbytes), target.at(array.ctypes.data, array.nbytes)
        written[:] = 0xEE  # a reader that does not wait will find this
        check = unchanged(machine, written, call)

        def run() -> None:
            check()
            written[:] = read

        machine.put(machine.stream(_handle(stream), device, call), Work(run, (source, target)))


class IPCMemoryHandle:
    """Memory of another process, opened in this one; `Machine.shared` maps the handle to that memory."""

    machine: Machine

    def __init__(self, handle: bytearray, flags: int) -> None:
        assert flags == 1
        self.machine.enter("ipc_open")
        if bytes(handle) not in self.machine.shared:
            raise CudaError("cuIpcOpenMemHandle failed: invalid argument")
        self._memory = self.machine.shared[bytes(handle)]
        self._open = True

    def __int__(self) -> int:
        return self._memory.address

    __index__ = __int__

    def close(self) -> None:
        self.machine.enter("ipc_close")
        if not self._open:
            raise self.machine.complain("ipc_close: twice")
        self._open = False


class Device:
    """A GPU."""

    machine: Machine

    def __init__(self, ordinal: int) -> None:
        assert ordinal < self.machine.devices
        self._ordinal = ordinal

    @classmethod
    def count(cls) -> int:
        return cls.machine.devices

    def name(self) -> str:
        return f"Double of a GPU {self._ordinal}"

    def compute_capability(self) -> tuple[int, int]:
        return (9, 0)

    def retain_primary_context(self) -> "Context":
        self.machine.retained[self._ordinal] += 1
        context: Context = _bound(Context, self.machine)(self._ordinal)
        return context


class Context:
    """A reference to a device's primary context."""

    machine: Machine

    def __init__(self, device: int) -> None:
        self.device = device
        self.valid = True
        self._maker = threading.get_ident()

    def push(self) -> None:
        if self.machine.stack and not self.machine.stack[-1].valid:
            raise self.machine.complain("push: a context that has been given back is current on this thread")
        self.machine.stack.append(self)

    @classmethod
    def pop(cls) -> None:
        if not cls.machine.stack:
            raise cls.machine.complain("pop: this thread has no context")
        cls.machine.stack.pop()

    def detach(self) -> None:
        """Gives the context back; it stays current.

        As in pycuda, a thread that has not made the context can do so only if the context is current there.
        """
        if not self.valid:
            raise self.machine.complain("detach: twice")
        self.valid = False
        if self in self.machine.stack or self._maker == threading.get_ident():
            self.machine.retained[self.device] -= 1


class _OfContext:
    """A resource that pycuda frees only while the context object in which it was made is current."""

    def belongs_to_current(self, machine: Machine) -> None:
        self._context = machine.stack[-1]

    def check_current(self, machine: Machine, call: str) -> None:
        if machine.stack[-1] is not self._context:
            raise machine.complain(f"{call}: the current context is not the one in which it was made")


class DeviceAllocation(_OfContext):
    """Memory of a device."""

    def __init__(self, machine: Machine, memory: Memory) -> None:
        self.belongs_to_current(machine)
        self._machine = machine
        self._memory = memory

    def __int__(self) -> int:
        return self._memory.address

    __index__ = __int__

    def free(self) -> None:
        self._machine.enter("mem_free")
        self.check_current(self._machine, "mem_free")
        self._machine.free_memory(self._memory)


class HostAllocation(_OfContext):
    """Page-locked memory: the base object of the array on it."""

    def __init__(self, machine: Machine, memory: Memory, layout: dict[str, Any]) -> None:
        self.belongs_to_current(machine)
        self.__array_interface__ = layout
        self._machine = machine
        self._memory = memory

    def free(self) -> None:
        self._machine.enter("host_free")
        self.check_current(self._machine, "host_free")
        self._machine.free_memory(self._memory)


class Stream(_OfContext):
    """A stream; it is destroyed when it is garbage collected."""

    machine: Machine

    def __init__(self, flags: int = 0) -> None:
        device = self.machine.enter("Stream")
        if flags != 1:
            raise self.machine.complain("Stream: the default stream would wait for it")
        with self.machine.alive("a stream") as number:
            self.handle = number
            self.belongs_to_current(self.machine)
            self.state = self.machine.streams[number] = StreamState(device, number)

    def synchronize(self) -> None:
        self.machine.enter("stream_synchronize")
        self.machine.drain(self.state)

    def __del__(self) -> None:
        if not hasattr(self, "state"):
            return
        if not self.machine.stack:
            self.machine.complain("a stream is dropped on a thread without a context")
        elif self.machine.stack[-1] is not self._context:
            self.machine.complain("a stream is dropped in another context than its own")
        elif self.state.work:
            self.machine.complain("a stream is dropped before its work has ended")
        else:
            del self.machine.live[self.handle], self.machine.streams[self.handle]


class Event(_OfContext):
    """An event; it is destroyed when it is garbage collected."""

    machine: Machine

    def __init__(self, flags: int = 0) -> None:
        self.machine.enter("Event")
        if not flags & 1 and not self.machine.may_spin:
            raise self.machine.complain("Event: waiting for it would keep a core busy")
        self._mark: Work | None = None
        self._stream: StreamState | None = None
        with self.machine.alive("an event") as number:
            self._number = number
            self.belongs_to_current(self.machine)

    def record(self, stream: Stream | None = None) -> "Event":
        device = self.machine.enter("event_record")
        self.check_current(self.machine, "event_record")
        self._stream = self.machine.stream(_handle(stream), device, "event_record")
        self._mark = Work(lambda: None)
        self.machine.put(self._stream, self._mark)
        return self

    def synchronize(self) -> "Event":
        self.machine.enter("event_synchronize")
        if self._mark is None or self._stream is None:
            raise self.machine.complain("event_synchronize: it was never recorded")
        if self._mark in self._stream.work:
            self.machine.drain(self._stream, self._mark)
        return self

    def __del__(self) -> None:
        if not hasattr(self, "_number"):
            return
        if not self.machine.stack:
            self.machine.complain("an event is dropped on a thread without a context")
        elif self.machine.stack[-1] is not self._context:
            self.machine.complain("an event is dropped in another context than its own")
        else:
            del self.machine.live[self._number]


def _bound(kind: type, machine: Machine) -> Any:
    return type(kind.__name__, (kind,), {"machine": machine})


def _handle(stream: Stream | None) -> int:
    return 0 if stream is None else stream.handle
