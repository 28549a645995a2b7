"""The execution contexts of the TensorRT double: which calls are allowed when, and a run of the model."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import prod
from typing import TYPE_CHECKING, Any

from headrace_batching.task import Array

from .machine import CudaMemoryError, Machine, Memory, StreamState, Work
from .owned import Owned

if TYPE_CHECKING:
    from .tensorrt import Engine


class Context(Owned):
    """An execution context: one thread uses it at a time, and none may use it after a graph was captured from it."""

    def __init__(self, machine: Machine, engine: "Engine") -> None:
        super().__init__(machine, "an execution context", 1)
        self._engine = engine
        self._profile = 0
        self._captured = False
        self._busy = threading.Lock()
        self._last: tuple[int, StreamState, Work] | None = None
        self._shapes = {name: t.shape for name, t in engine.inputs.items() if -1 not in t.shape}
        self._addresses: dict[str, int] = {}
        self._allocators: dict[str, Any] = {}
        self._activations: Memory | None = None

    def __del__(self) -> None:
        if hasattr(self, "_activations") and self._machine.stack:
            with suppress(AssertionError):  # the machine has recorded the complaint
                self._free_activations()
        super().__del__()

    def set_optimization_profile_async(self, index: int, stream_handle: int) -> bool:
        with self._used("set_optimization_profile_async"):
            stream = self._machine.stream(stream_handle, self._device, "set_optimization_profile_async")
            if index >= self._engine.num_optimization_profiles or not self._allocate():
                raise RuntimeError("Error in set optimization profile async.")
            self._machine.put(stream, Work(lambda: None, (self._own,)))
            self._profile = index
            return True

    def _allocate(self) -> bool:
        """Allocates the memory that the profile needs, in place of the previous profile's."""
        self._free_activations()
        try:
            self._activations = self._machine.new_memory(self._engine.plan.context_bytes, self._device)
        except CudaMemoryError:
            self._engine.fail("IExecutionContext: OutOfMemory: requested size of 1024")
            return False
        return True

    def _free_activations(self) -> None:
        if self._activations is not None:
            self._machine.free_memory(self._activations)
        self._activations = None

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        with self._used("set_input_shape"):
            if name not in self._engine.inputs or not self._admits(name, shape):
                text = f"IExecutionContext::setInputShape: Error Code 3: API Usage Error ({name} {shape} is outside)"
                self._engine.fail(text)
                return False
            self._shapes[name] = tuple(shape)
            return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        with self._used("get_tensor_shape", changes=False):
            if name in self._engine.inputs:
                return self._shapes.get(name, self._engine.inputs[name].shape)
            declared = self._engine.outputs[name].shape
            if self._engine.data_decide or set(self._shapes) != set(self._engine.inputs):
                return declared
            return self._engine.shapes_of_outputs(self._shapes)[name]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        with self._used("set_tensor_address"):
            if memory % 256:
                raise self._machine.complain(f"set_tensor_address: {name} at {memory:#x} is not aligned to 256 bytes")
            self._addresses[name] = memory
            return True

    def set_output_allocator(self, name: str, output_allocator: Any) -> bool:
        with self._used("set_output_allocator"):
            assert name in self._engine.outputs
            assert output_allocator.initialized
            if name in self._allocators:
                raise self._machine.complain(f"set_output_allocator: set again for {name}, which leaks a reference")
            self._allocators[name] = output_allocator
            return True

    def get_output_allocator(self, name: str) -> Any:
        return self._allocators.get(name)

    def execute_async_v3(self, stream_handle: int) -> bool:
        with self._used("execute_async_v3"):
            machine, engine = self._machine, self._engine
            stream = machine.stream(stream_handle, self._device, "execute_async_v3")
            if missing := [name for name in engine.inputs if name not in self._shapes]:
                raise machine.complain(f"execute_async_v3: the shape of {missing[0]} was never set")
            if engine.data_decide:
                if stream.captured is not None:
                    engine.fail("the network cannot be captured: its shapes depend on data")
                    return False
                return self._execute_now(stream)
            shapes = engine.shapes_of_outputs(self._shapes)
            inputs = {name: self._place(name, self._shapes[name]) for name in engine.inputs}
            outputs = {name: self._place(name, shapes[name]) for name in engine.outputs}

            def run() -> None:
                results = engine.session.run(None, {name: array for name, (_, array) in inputs.items()})
                for (_, place), result in zip(outputs.values(), results, strict=True):
                    place[...] = result

            uses = (self._own, *(memory for memory, _ in (*inputs.values(), *outputs.values())))
            work = Work(run, uses)
            machine.put(stream, work)
            self._captured = stream.captured is not None
            self._last = threading.get_ident(), stream, work
            return True

    def _execute_now(self, stream: StreamState) -> bool:
        """Waits, and asks for memory, as TensorRT does if an output's shape depends on the data."""
        self._machine.drain(stream)
        inputs = {name: self._place(name, self._shapes[name])[1] for name in self._engine.inputs}
        results = dict(zip(self._engine.outputs, self._engine.session.run(None, inputs), strict=True))
        for name, result in results.items():
            place = self._asked_for(name, result, stream)
            if place is None:
                return False
            self._machine.put(stream, _written(*place, result.copy()))
        return True

    def _asked_for(self, name: str, result: Array, stream: StreamState) -> tuple[Memory, Array] | None:
        allocator = self._allocators.get(name)
        if allocator is None:
            return self._place(name, result.shape)
        address = allocator.reallocate_output_async(name, 0, max(result.nbytes, 1), 256, stream.handle)
        if not address:
            self._engine.fail(f"reallocateOutput of {name} failed: out of memory")
            return None
        allocator.notify_shape(name, result.shape)
        self._addresses[name] = address
        return self._place(name, result.shape)

    def _place(self, name: str, shape: tuple[int, ...]) -> tuple[Memory, Array]:
        """The memory that a tensor was given, and the array in it."""
        if name not in self._addresses:
            raise self._machine.complain(f"execute_async_v3: the address of {name} was never set")
        dtype, address = self._engine.dtype(name), self._addresses[name]
        size = prod(shape) * dtype.itemsize
        memory = self._machine.memory_at(address, size, f"execute_async_v3: {name}")
        on_host = name in self._engine.plan.host
        if on_host != (memory.device is None) or (memory.device is not None and memory.device != self._device):
            raise self._machine.complain(f"execute_async_v3: {name} is in memory of another kind, or of another GPU")
        return memory, memory.at(address, size).view(dtype).reshape(shape)

    def _admits(self, name: str, shape: tuple[int, ...]) -> bool:
        declared = self._engine.inputs[name].shape
        if len(shape) != len(declared):
            return False
        if -1 not in declared:
            return tuple(shape) == declared
        if not self._engine.plan.profiles:
            return False
        low, _, high = self._engine.plan.profiles[self._profile][name]
        return all(least <= size <= most for least, size, most in zip(low, shape, high, strict=True))

    @contextmanager
    def _used(self, call: str, *, changes: bool = True) -> Iterator[None]:
        device = self._machine.enter(call)
        if device != self._device:
            raise self._machine.complain(f"{call}: the context of another GPU is current")
        if changes and self._captured:
            raise self._machine.complain(f"{call}: a graph was captured from this context, and would change with it")
        if self._last is not None and self._last[2] in self._last[1].work and self._last[0] != threading.get_ident():
            raise self._machine.complain(f"{call}: a context is used from two threads at once")
        if not self._busy.acquire(blocking=False):
            raise self._machine.complain(f"{call}: a context is used from two threads at once")
        try:
            yield
        finally:
            self._busy.release()


def _written(memory: Memory, place: Array, content: Array) -> Work:
    return Work(lambda: place.__setitem__(..., content), (memory,))
