"""A TensorRT engine on one GPU: created from a plan, described by its tensors and profiles, with contexts to run it."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import RLock, get_ident
from typing import Any, TypeVar

import tensorrt as trt

from headrace_batching.errors import let_go
from headrace_protos import Code, DataType
from headrace_server.backends.gpu.cuda import Device, Stream
from headrace_server.backends.signature import TensorSpec
from headrace_server.backends.tensorrt.profiles import Bounds, Profile
from headrace_server.errors import LoadError, ServingError

log = logging.getLogger(__name__)

T = TypeVar("T")

_DTYPES: Mapping[str, DataType] = {
    "FLOAT": DataType.DT_FLOAT,
    "HALF": DataType.DT_HALF,
    "BF16": DataType.DT_BFLOAT16,
    "INT8": DataType.DT_INT8,
    "INT32": DataType.DT_INT32,
    "INT64": DataType.DT_INT64,
    "UINT8": DataType.DT_UINT8,
    "BOOL": DataType.DT_BOOL,
}


class Log(trt.ILogger):  # type: ignore[misc]
    """TensorRT's log: warnings go to headrace's log, and errors are kept for the code whose call has failed."""

    def __init__(self) -> None:
        super().__init__()
        self._errors: deque[tuple[int, str]] = deque(maxlen=64)
        self._lock = RLock()

    def log(self, severity: Any, msg: str) -> None:
        """Called by TensorRT, on any thread."""
        if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
            with self._lock:
                self._errors.append((get_ident(), msg))
        elif severity == trt.ILogger.Severity.WARNING:
            log.warning("TensorRT: %s", msg)

    def made(self, make: Callable[["Log"], T]) -> T:
        """Creates a runtime or a builder, with TensorRT's own plugins.

        Errors of earlier calls are discarded.

        Raises:
            ServingError: TensorRT, or CUDA below it, does not work.
        """
        self._take()
        trt.init_libnvinfer_plugins(self, "")
        try:
            return make(self)
        except TypeError as error:  # pybind11 raises it where TensorRT returns a null pointer
            raise self.failure("TensorRT cannot be started") from error

    def failure(self, what: str, hint: str = "") -> ServingError:
        """The error for a failure, with TensorRT's messages: RESOURCE_EXHAUSTED for lack of memory, else INTERNAL."""
        text = "; ".join(self._take()) or "TensorRT gives no reason"
        if "out of memory" in text.lower() or "outofmemory" in text.lower():
            advice = "fewer instances or a smaller max_batch_size would need less memory"
            return ServingError(Code.RESOURCE_EXHAUSTED, f"{what}: {text} ({advice})")
        return ServingError(Code.INTERNAL, f"{what}: {text}" + (f" ({hint})" if hint else ""))

    def _take(self) -> list[str]:
        """Removes and returns the errors of this thread and of TensorRT's own threads; those of other threads stay."""
        with self._lock:
            others = {thread.ident for thread in threading.enumerate()} - {get_ident()}
            taken = [msg for thread, msg in self._errors if thread not in others]
            left = [entry for entry in self._errors if entry[0] in others]
            self._errors.clear()
            self._errors.extend(left)
        return taken


LOG = Log()
"""The logger of this process.

TensorRT keeps a pointer to it, and ignores any other one while a builder or a runtime exists.
"""


@dataclass(frozen=True)
class Tensors:
    """The inputs and outputs of an engine.

    Attributes:
        inputs: Inputs by name.
        outputs: Outputs by name.
        on_host: Tensors that TensorRT reads or writes in host memory, because shapes depend on them.
        profiles: The profiles, each with the bounds of every input; if no input varies, there is a single profile.
    """

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    on_host: frozenset[str]
    profiles: tuple[Profile, ...]


class Engine:
    """One engine on one GPU; several instances may run it at the same time.

    Args:
        device: The engine's GPU. Only this class enters its context.
        plan: A serialized engine.

    Raises:
        LoadError: FAILED_PRECONDITION if the plan is for another TensorRT version or another GPU, or is damaged;
            RESOURCE_EXHAUSTED if no memory is left; UNIMPLEMENTED if it has a tensor that no request can contain.
    """

    def __init__(self, device: Device, plan: bytes) -> None:
        self.device = device
        self.log = LOG
        self._runtime = self._engine = None
        with device:
            try:
                self._runtime = self.log.made(trt.Runtime)
                self._engine = self._runtime.deserialize_cuda_engine(plan)
                if self._engine is None:
                    raise self._refused()
                self.tensors = _tensors(self._engine)
            except BaseException as error:
                let_go(error)
                self._engine = self._runtime = None
                raise

    def context(self, profile: int, stream: Stream) -> Any:
        """Creates a context in one of the profiles. The device's context must be current now, and when it is dropped.

        Raises:
            ServingError: RESOURCE_EXHAUSTED if there is no memory for the context.
        """
        engine: Any = self._engine
        only_what_it_needs = trt.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE
        failed = f"no context for profile {profile} on GPU {self.device.ordinal}"
        context = engine.create_execution_context(only_what_it_needs)
        if context is None:
            raise self.log.failure(failed)
        try:
            context.set_optimization_profile_async(profile, stream.handle)
        except RuntimeError as error:
            raise self.log.failure(failed) from error
        self.device.finish(stream)  # switching to the profile is also work in the stream
        return context

    def close(self) -> None:
        """Frees the engine; its contexts must have been dropped."""
        with self.device:
            self._engine = None
            self._runtime = None

    def _refused(self) -> LoadError:
        failure = self.log.failure("TensorRT cannot load it as an engine")
        if failure.code == Code.RESOURCE_EXHAUSTED:
            return LoadError(failure.code, failure.message)
        major, minor = self.device.compute_capability
        here = f"TensorRT {trt.__version__} and {self.device.name}, compute capability {major}.{minor}"
        return LoadError(
            Code.FAILED_PRECONDITION,
            f"{failure.message} (a plan works only with the TensorRT version and the kind of GPU that it was built "
            f"with; this machine has {here}: build the plan here from its ONNX file, with `headrace build`)",
        )


def _tensors(engine: Any) -> Tensors:
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    specs = {name: _spec(engine, name) for name in names}
    return Tensors(
        {name: specs[name] for name in inputs},
        {name: spec for name, spec in specs.items() if name not in inputs},
        frozenset(name for name in names if engine.get_tensor_location(name) == trt.TensorLocation.HOST),
        tuple(_profile(engine, specs, inputs, index) for index in range(engine.num_optimization_profiles)),
    )


def _spec(engine: Any, name: str) -> TensorSpec:
    dtype = engine.get_tensor_dtype(name).name
    if dtype not in _DTYPES:
        raise LoadError(Code.UNIMPLEMENTED, f"its tensor {name} is of {dtype}, which no request can contain")
    if engine.get_tensor_format(name) != trt.TensorFormat.LINEAR:
        raise LoadError(
            Code.UNIMPLEMENTED, f"its tensor {name} is not in a linear format: build the plan with linear formats"
        )
    shape = tuple(None if size < 0 else int(size) for size in engine.get_tensor_shape(name))
    return TensorSpec(name, _DTYPES[dtype], shape, ("",) * len(shape))


def _profile(engine: Any, specs: Mapping[str, TensorSpec], inputs: list[str], index: int) -> Profile:
    return {name: _bounds(engine, specs[name], index) for name in inputs}


def _bounds(engine: Any, spec: TensorSpec, index: int) -> Bounds:
    fixed = tuple(size for size in spec.shape if size is not None)
    if len(fixed) == len(spec.shape):
        return Bounds(fixed, fixed, fixed)
    return Bounds(*(tuple(map(int, shape)) for shape in engine.get_tensor_profile_shape(spec.name, index)))
