"""One instance of an engine with its own contexts, stream and device memory, for one batch at a time."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import tensorrt as trt

from headrace_batching.errors import let_go
from headrace_batching.task import Array, Arrays
from headrace_protos import Code
from headrace_server.backends.gpu.cuda import PageLockedPool
from headrace_server.backends.gpu.cuda_graph import Graph
from headrace_server.backends.signature import TensorSpec
from headrace_server.backends.tensorrt.engine import Engine
from headrace_server.backends.tensorrt.profiles import Shape, choose, misfit
from headrace_server.errors import ServingError

log = logging.getLogger(__name__)

MAX_GRAPHS = 32


class Captured(NamedTuple):
    """A graph and the context that it was captured from; a change to that context would change what the graph does."""

    context: Any
    graph: Graph


class Instance:
    """Runs one batch at a time: copy in, compute, copy out, in sequence in its stream.

    Batches of several instances overlap, each on a batch thread of its own: while one waits for its event without the
    interpreter lock, the next one fills page-locked memory.

    Args:
        engine: The engine to run.
        pool: The page-locked memory of inputs and outputs.
        graph_rows: The numbers of rows of batches that are launched as CUDA graphs.
        spin: Whether the instance's thread stays awake while the GPU runs a batch.

    Raises:
        ServingError: RESOURCE_EXHAUSTED if the GPU has no memory left.
    """

    def __init__(
        self, engine: Engine, pool: PageLockedPool, graph_rows: Sequence[int] = (), *, spin: bool = False
    ) -> None:
        self._engine = engine
        self._device = engine.device
        self._pool = pool
        self._graph_rows = frozenset(graph_rows)
        self._memory: dict[str, _DeviceMemory] = {}
        self._graphs: dict[tuple[tuple[str, Shape], ...], Captured | None] = {}
        self._contexts: list[Any] = []
        self._stream = self._event = None
        self._outputs = {name: _Output(self._device.allocate) for name in engine.tensors.outputs}
        with self._device as device:
            try:
                self._stream, self._event = device.stream(), device.event(spin=spin)
                for index in range(len(engine.tensors.profiles)):
                    self._contexts.append(engine.context(index, self._stream))
            except BaseException as error:
                let_go(error)  # otherwise their resources would be freed later, when the context is not current
                self._drop()
                raise

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> dict[str, Array]:
        """Runs a batch. One thread at a time.

        Args:
            inputs: An array for every input, by the engine's names.
            outputs: Names of outputs.

        Returns: Arrays in page-locked memory, which returns to the pool with their last view.

        Raises:
            ServingError: INVALID_ARGUMENT if no profile accepts the shapes; RESOURCE_EXHAUSTED if no memory is left;
                INTERNAL if the GPU or TensorRT fails.
        """
        shapes = {name: array.shape for name, array in inputs.items()}
        index = choose(self._engine.tensors.profiles, shapes)
        if index is None:
            raise misfit(self._engine.tensors.profiles, shapes)
        with self._device:
            try:
                return self._run(index, inputs, outputs)
            except BaseException as error:
                # Work in the stream still uses this batch's memory.
                self._device.settle(self._stream)
                let_go(error)
                raise

    def close(self) -> None:
        """Frees all resources of the instance; nothing may be running."""
        with self._device:
            self._drop()

    def _run(self, index: int, inputs: Arrays, outputs: Sequence[str]) -> dict[str, Array]:
        device, on_host = self._device, self._engine.tensors.on_host
        held = {name: self._pool.page_locked(array) for name, array in inputs.items()}
        for name, array in held.items():
            if name not in on_host and array.nbytes:
                device.copy_in(self._address(name, array.nbytes), array, self._stream)
        captured = self._graph(index, held)
        context = captured.context if captured else self._contexts[index]
        if captured:
            captured.graph.launch(self._handle)
        else:
            self._prepare(context, held)
            self._execute(context)
        results = {name: self._copied_out(context, name) for name in self._engine.tensors.outputs if name in outputs}
        device.record(self._event, self._stream)
        device.wait(self._event)
        return results

    def _prepare(self, context: Any, held: Arrays) -> None:
        """Sets the shapes and all addresses in a context."""
        for name, array in held.items():
            if not context.set_input_shape(name, array.shape):
                raise self._engine.log.failure(f"input {name} cannot have the shape {list(array.shape)}")
            on_host = name in self._engine.tensors.on_host
            context.set_tensor_address(name, array.ctypes.data if on_host else self._address(name, array.nbytes))
        for name, output in self._outputs.items():
            self._place(context, name, output)

    def _place(self, context: Any, name: str, output: "_Output") -> None:
        shape, spec = tuple(context.get_tensor_shape(name)), self._engine.tensors.outputs[name]
        output.begin(data_decide=any(size < 0 for size in shape))
        if output.data_decide:
            if context.get_output_allocator(name) is None:  # each further call would add a reference to the allocator
                context.set_output_allocator(name, output)
        elif name in self._engine.tensors.on_host:
            output.array = self._pool.empty(shape, spec.array_dtype)
            context.set_tensor_address(name, output.array.ctypes.data)
        else:
            context.set_tensor_address(name, self._address(name, _size(spec, shape)))

    def _copied_out(self, context: Any, name: str) -> Array:
        """The array into which an output is being copied."""
        output, spec = self._outputs[name], self._engine.tensors.outputs[name]
        if output.array is not None:
            return output.array
        shape = output.shape if output.data_decide else tuple(context.get_tensor_shape(name))
        memory = output.memory if output.data_decide else self._memory[name]
        if shape is None:
            raise self._engine.log.failure(f"output {name} has no shape")
        array = self._pool.empty(shape, spec.array_dtype)
        if array.nbytes:
            self._device.copy_out(array, memory.address, self._stream)
        return array

    def _execute(self, context: Any) -> None:
        if not context.execute_async_v3(self._handle):
            raise self._engine.log.failure("TensorRT cannot run the batch")

    @property
    def _handle(self) -> int:
        stream: Any = self._stream
        handle: int = stream.handle
        return handle

    def _address(self, name: str, size: int) -> int:
        """The device address of a tensor; its memory is replaced if it has fewer than this many bytes."""
        memory = self._memory.setdefault(name, _DeviceMemory(self._device.allocate))
        if memory.size < size or not memory.size:
            self._drop_graphs()  # the graphs use the old address
            memory.reserve(size)
        return memory.address

    def _graph(self, index: int, held: Arrays) -> Captured | None:
        """The graph for these shapes, captured at their first use; None if there is none."""
        if not self._graph_rows or not all(array.ndim and len(array) in self._graph_rows for array in held.values()):
            return None
        key = tuple((name, array.shape) for name, array in held.items())
        if key not in self._graphs and len(self._graphs) < MAX_GRAPHS:
            captured = self._capture(index, held)
            self._graphs[key] = captured  # stored after the capture, which may drop all graphs if memory grows
        return self._graphs.get(key)

    def _capture(self, index: int, held: Arrays) -> Captured | None:
        context = None
        try:
            context = self._engine.context(index, self._stream)
            self._prepare(context, held)
            if self._engine.tensors.on_host or any(output.data_decide for output in self._outputs.values()):
                raise ServingError(Code.UNIMPLEMENTED, "its shapes depend on data")
            self._execute(context)  # in this normal run, TensorRT does work that it has postponed
            self._device.finish(self._stream)
            return Captured(context, Graph(self._handle, lambda: self._execute(context)))
        except ServingError as error:
            log.warning("batches like %s run without a CUDA graph: %s", _shown(held), error.message)
            return None

    def _drop_graphs(self) -> None:
        for captured in self._graphs.values():
            if captured is not None:
                captured.graph.close()
        self._graphs.clear()

    def _drop(self) -> None:
        with suppress(ServingError):
            self._drop_graphs()
        self._contexts.clear()
        for memory in self._memory.values():
            memory.free()
        for output in self._outputs.values():
            output.free()
        self._memory.clear()
        self._event = self._stream = None


class _DeviceMemory:
    """Device memory that grows as needed."""

    def __init__(self, allocate: Any) -> None:
        self._allocate = allocate
        self._allocation: Any = None
        self.size = 0

    @property
    def address(self) -> int:
        return int(self._allocation)

    def reserve(self, size: int) -> None:
        """Makes the memory at least this large; its content is lost."""
        self.free()
        self._allocation = self._allocate(size)
        self.size = max(size, 1)

    def free(self) -> None:
        if self._allocation is not None:
            self._allocation.free()
        self._allocation, self.size = None, 0


class _Output(trt.IOutputAllocator):  # type: ignore[misc]
    """The memory of an output: known in advance if input shapes determine its size, otherwise when TensorRT asks.

    Attributes:
        data_decide: Whether the output's shape depends on data, and not only on the shapes of the inputs.
        shape: The actual shape, which depends on the data.
        memory: The device memory for an output whose shape depends on data.
        array: The output itself, if TensorRT writes it into host memory.
    """

    def __init__(self, allocate: Any) -> None:
        super().__init__()
        self.memory = _DeviceMemory(allocate)
        self.data_decide = False
        self.shape: Shape | None = None
        self.array: Array | None = None

    def begin(self, *, data_decide: bool) -> None:
        """Begins a run."""
        self.data_decide, self.shape, self.array = data_decide, None, None

    def reallocate_output_async(self, tensor_name: str, memory: int, size: int, alignment: int, stream: int) -> int:
        """Called by TensorRT on the running thread with the number of bytes to allocate; returns 0 if that fails."""
        del tensor_name, memory, alignment, stream  # the driver's alignment is enough for any tensor
        try:
            if self.memory.size < size or not self.memory.size:
                self.memory.reserve(size)
        except ServingError as error:
            log.warning("%s", error.message)
            let_go(error)  # the frames of its traceback would keep all memory that the model has on the GPU
            return 0
        return self.memory.address

    def notify_shape(self, tensor_name: str, shape: Sequence[int]) -> None:
        """Called by TensorRT once the data have determined the shape."""
        del tensor_name
        self.shape = tuple(shape)

    def free(self) -> None:
        """Frees the memory that TensorRT has asked for."""
        self.memory.free()
        self.array = None


def _size(spec: TensorSpec, shape: Shape) -> int:
    return int(np.prod(shape, dtype=np.int64)) * spec.array_dtype.itemsize


def _shown(arrays: Mapping[str, Array]) -> str:
    return ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
