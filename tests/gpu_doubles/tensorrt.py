"""The part of `tensorrt` that headrace calls: checks TensorRT's rules, and computes with ONNX Runtime."""

from collections.abc import Mapping, Sequence
from enum import Enum, IntEnum
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from . import builder
from .context import Context
from .machine import CudaMemoryError, Machine
from .owned import Owned
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
    """A base class that Python code derives from; TensorRT cannot call an object if the base `__init__` did not run."""

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
    """The module that `import tensorrt` returns."""

    def __init__(self, machine: Machine, version: str = VERSION) -> None:
        self.machine = machine
        machine.plugins = False
        self.__version__ = version
        self.ILogger, self.IOutputAllocator, self.IProgressMonitor = ILogger, IOutputAllocator, IProgressMonitor
        self.DataType, self.TensorIOMode, self.TensorLocation = DataType, TensorIOMode, TensorLocation
        self.TensorFormat = TensorFormat
        self.ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy
        self.BuilderFlag = builder.BuilderFlag
        self.MemoryPoolType = builder.MemoryPoolType
        self.NetworkDefinitionCreationFlag = builder.NetworkDefinitionCreationFlag

    def Runtime(self, logger: ILogger) -> "Runtime":  # noqa: N802
        self.machine.one_logger(logger)
        return Runtime(self.machine, logger, self.__version__)

    def Builder(self, logger: ILogger) -> builder.Builder:  # noqa: N802
        self.machine.one_logger(logger)
        return builder.Builder(self.machine, logger, self.__version__)

    def init_libnvinfer_plugins(self, logger: ILogger, namespace: str) -> bool:
        assert logger.initialized
        self.machine.plugins = not namespace
        return True

    def OnnxParser(self, network: builder.Network, logger: ILogger) -> builder.OnnxParser:  # noqa: N802
        assert logger.initialized
        return builder.OnnxParser(network)


class Runtime(Owned):
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
        if plan.plugin and not self._machine.plugins:
            self._refuse(f"Error Code 4: API Usage Error (Cannot find plugin: {plan.plugin}, version: 1, namespace:.)")
            return None
        try:
            return Engine(self._machine, plan, self._logger, keeps=self)
        except CudaMemoryError:
            self._refuse("[defaultAllocator.cpp::allocate] Cuda Runtime (out of memory)")
            return None

    def _refuse(self, text: str) -> None:
        self._logger.log(Severity.ERROR, text)


class Engine(Owned):
    def __init__(self, machine: Machine, plan: Plan, logger: ILogger, keeps: Runtime) -> None:
        super().__init__(machine, "an engine", len(plan.model))
        self._keeps = keeps
        self.plan = plan
        self._logger = logger
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

    def create_execution_context(self, strategy: ExecutionContextAllocationStrategy) -> Context | None:
        assert strategy is ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE
        try:
            return Context(self._machine, self)
        except CudaMemoryError:
            self.fail("IExecutionContext: OutOfMemory: requested size of 1024")
            return None

    def fail(self, text: str) -> None:
        """Logs an error."""
        self._logger.log(Severity.ERROR, text)

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
