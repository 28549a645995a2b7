"""`tensorrt`, as far as headrace calls it, on a `Machine`: keeps TensorRT's rules, and computes with ONNX Runtime."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum, IntEnum
from math import prod
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from headrace_batching.task import Array

from . import builder
from .machine import CudaMemoryError, Machine, Memory, StreamState, Work
from .plans import DATA_DECIDE, VERSION, Plan, Tensor, tensors

DataType = Enum("DataType", "FLOAT HALF BF16 INT8 INT32 INT64 UINT8 BOOL FP8")
TensorIOMode = Enum("TensorIOMode", "NONE INPUT OUTPUT")
TensorLocation = Enum("TensorLocation", "DEVICE HOST")
TensorFormat = Enum("TensorFormat", "LINEAR CHW32")
ExecutionContextAllocationStrategy = Enum("ExecutionContextAllocationStrategy", "STATIC ON_PROFILE_CHANGE USER_MANAGED")

_TYPES = {
    onnx.TensorProto.FLOAT: DataType.FLOAT,
    onnx.TensorProto.FLOAT16: DataType.HALF,
    onnx.TensorProto.BFLOAT16: DataType.BF16,
    onnx.TensorProto.INT8: DataType.INT8,
    onnx.TensorProto.INT32: DataType.INT32,
    onnx.TensorProto.INT64: DataType.INT64,
    onnx.TensorProto.UINT8: DataType.UINT8,
    onnx.TensorProto.BOOL: DataType.BOOL,
    onnx.TensorProto.FLOAT8E4M3FN: DataType.FP8,
}


class Severity(IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class _Interface:
    """What Python overrides; TensorRT cannot call one whose own `__init__` has not been called."""

    initialized = False

    def __init__(self) -> None:
        self.initialized = True


class ILogger(_Interface):
    Severity = Severity

    def log(self, severity: IntEnum, msg: str) -> None:
        raise NotImplementedError


class IOutputAllocator(_Interface):
    pass


class IProgressMonitor(_Interface):
    pass


class Tensorrt:
    """What `import tensorrt` gives."""

    def __init__(self, machine: Machine, version: str = VERSION) -> None:
        self.machine = machine
        self.__version__ = version
        self.ILogger, self.IOutputAllocator, self.IProgressMonitor = ILogger, IOutputAllocator, IProgressMonitor
        self.DataType, self.TensorIOMode, self.TensorLocation = DataType, TensorIOMode, TensorLocation
        self.TensorFormat = TensorFormat
        self.ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy
        self.BuilderFlag = builder.BuilderFlag
        self.MemoryPoolType = builder.MemoryPoolType
        self.NetworkDefinitionCreationFlag = builder.NetworkDefinitionCreationFlag

    def Runtime(self, logger: ILogger) -> "Runtime":  # noqa: N802
        return Runtime(self.machine, logger, self.__version__)

    def Builder(self, logger: ILogger) -> builder.Builder:  # noqa: N802
        return builder.Builder(self.machine, logger, self.__version__)

    def OnnxParser(self, network: builder.Network, logger: ILogger) -> builder.OnnxParser:  # noqa: N802
        assert logger.initialized
        return builder.OnnxParser(network)


class _Freed:
    """Something of TensorRT's that has device memory, freed when it is dropped, where the context is current."""

    def __init__(self, machine: Machine, what: str, size: int) -> None:
        self._what = what
        self._device = machine.enter(what)
        self._machine = machine
        self._own = machine.new_memory(size, self._device)
        with machine.alive(what) as number:
            self._number = number

    def __del__(self) -> None:
        if not hasattr(self, "_number"):
            return
        if not self._machine.stack or self._machine.stack[-1].device != self._device:
            self._machine.complain(f"{self._what} is dropped on a thread without its context")
            return
        try:
            self._machine.free_memory(self._own)
            del self._machine.live[self._number]
        except AssertionError:
            pass  # noted


class Runtime(_Freed):
    def __init__(self, machine: Machine, logger: ILogger, version: str) -> None:
        assert logger.initialized
        super().__init__(machine, "a runtime", 1)
        self._logger = logger
        self._version = version

    def deserialize_cuda_engine(self, data: bytes) -> "Engine | None":
        self._machine.enter("deserialize_cuda_engine")
        try:
            plan = Plan.parse(data)
        except ValueError as error:
            self._refuse(str(error))
            return None
        if plan.version != self._version:
            self._refuse(
                f"The engine plan file is not compatible with this version of TensorRT, expecting library version "
                f"{self._version} got {plan.version}, please rebuild."
            )
            return None
        if plan.gpu != "9.0":
            self._refuse(
                f"The engine plan file is generated on an incompatible device, expecting compute 9.0 got compute "
                f"{plan.gpu}, please rebuild."
            )
            return None
        try:
            return Engine(self._machine, plan, self._logger)
        except CudaMemoryError:
            self._refuse("[defaultAllocator.cpp::allocate] Cuda Runtime (out of memory)")
            return None

    def _refuse(self, text: str) -> None:
        self._logger.log(Severity.ERROR, text)


class Engine(_Freed):
    def __init__(self, machine: Machine, plan: Plan, logger: ILogger) -> None:
        super().__init__(machine, "an engine", len(plan.model))
        self.plan = plan
        self.logger = logger
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        graph = onnx.load_model_from_string(plan.model).graph
        self.session = ort.InferenceSession(plan.model, options, providers=["CPUExecutionProvider"])
        self.inputs = tensors(graph.input, graph.initializer)
        self.outputs = tensors(graph.output)
        self.data_decide = bool(DATA_DECIDE & {node.op_type for node in graph.node}) or bool(plan.host)
        self._shapes: dict[tuple[tuple[int, ...], ...], list[tuple[int, ...]]] = {}
        self.num_io_tensors = len(self.inputs) + len(self.outputs)
        self.num_optimization_profiles = max(1, len(plan.profiles))

    def get_tensor_name(self, index: int) -> str:
        return [*self.inputs, *self.outputs][index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return next(kind for number, kind in _TYPES.items() if number == self.tensor(name).elem_type)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensor(name).shape

    def get_tensor_format(self, name: str) -> TensorFormat:
        assert self.tensor(name).name == name
        return TensorFormat.LINEAR

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.HOST if name in self.plan.host else TensorLocation.DEVICE

    def get_tensor_profile_shape(self, name: str, index: int) -> Sequence[Sequence[int]]:
        return self.plan.profiles[index][name]

    def create_execution_context(self, strategy: ExecutionContextAllocationStrategy) -> "Context | None":
        assert strategy is ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE
        try:
            return Context(self._machine, self)
        except CudaMemoryError:
            self.logger.log(Severity.ERROR, "IExecutionContext: OutOfMemory: requested size of 1024")
            return None

    def tensor(self, name: str) -> Tensor:
        return self.inputs[name] if name in self.inputs else self.outputs[name]

    def dtype(self, name: str) -> np.dtype[Any]:
        return onnx.helper.tensor_dtype_to_np_dtype(self.tensor(name).elem_type)

    def shapes_of_outputs(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        key = tuple(shapes[name] for name in self.inputs)
        if key not in self._shapes:
            zeros = {name: np.zeros(shape, self.dtype(name)) for name, shape in shapes.items()}
            self._shapes[key] = [array.shape for array in self.session.run(None, zeros)]
        return dict(zip(self.outputs, self._shapes[key], strict=True))


class Context(_Freed):
    """An execution context, which one thread uses at a time, and nobody once a graph has been captured of it."""

    def __init__(self, machine: Machine, engine: Engine) -> None:
        super().__init__(machine, "an execution context", engine.plan.context_bytes)
        self._engine = engine
        self._profile = 0
        self._captured = False
        self._busy = threading.Lock()
        self._last: tuple[int, StreamState, Work] | None = None
        self._shapes = {name: t.shape for name, t in engine.inputs.items() if -1 not in t.shape}
        self._addresses: dict[str, int] = {}
        self._allocators: dict[str, Any] = {}

    def set_optimization_profile_async(self, index: int, stream_handle: int) -> bool:
        with self._used("set_optimization_profile_async"):
            stream = self._machine.stream(stream_handle, self._device, "set_optimization_profile_async")
            self._machine.put(stream, Work(lambda: None, (self._own,)))
            self._profile = index
            return index < self._engine.num_optimization_profiles

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        with self._used("set_input_shape"):
            if name not in self._engine.inputs or not self._admits(name, shape):
                text = f"IExecutionContext::setInputShape: Error Code 3: API Usage Error ({name} {shape} is outside)"
                self._engine.logger.log(Severity.ERROR, text)
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
            self._addresses[name] = memory
            return True

    def set_output_allocator(self, name: str, output_allocator: Any) -> bool:
        with self._used("set_output_allocator"):
            assert name in self._engine.outputs
            assert output_allocator.initialized
            self._allocators[name] = output_allocator
            return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        with self._used("execute_async_v3"):
            machine, engine = self._machine, self._engine
            stream = machine.stream(stream_handle, self._device, "execute_async_v3")
            if missing := [name for name in engine.inputs if name not in self._shapes]:
                raise machine.complain(f"execute_async_v3: the shape of {missing[0]} was never set")
            if engine.data_decide:
                if stream.captured is not None:
                    engine.logger.log(Severity.ERROR, "the network cannot be captured: its shapes depend on data")
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
        """As TensorRT does where it must know the data before it knows a shape: it waits, and asks for memory."""
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
        address = allocator.reallocate_output_async(name, 0, result.nbytes, 256, stream.handle)
        if not address:
            self._engine.logger.log(Severity.ERROR, f"reallocateOutput of {name} failed: out of memory")
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
            raise self._machine.complain(f"{call}: a graph was captured of this context, and would change with it")
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
