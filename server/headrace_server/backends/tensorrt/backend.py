"""TensorRT engines on one or several GPUs: from existing plans, or from ONNX models from which plans are built."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np
import tensorrt as trt

from headrace_batching import Options
from headrace_batching.task import Array, Arrays
from headrace_protos import Code
from headrace_server.backends.base import BackendOptions
from headrace_server.backends.batch_axis import may_be_batched
from headrace_server.backends.gpu.cuda import Device, PageLockedPool
from headrace_server.backends.independence import NO_HINTS, Evidence, Hints
from headrace_server.backends.onnx.header import OnnxHeader, read_header
from headrace_server.backends.onnx.signatures import make_signatures
from headrace_server.backends.signature import Signature, TensorSpec
from headrace_server.backends.tensorrt import cache as tensorrt_cache
from headrace_server.backends.tensorrt.build import build_plan
from headrace_server.backends.tensorrt.engine import Engine, Tensors
from headrace_server.backends.tensorrt.instance import Instance
from headrace_server.backends.tensorrt.profiles import fitted, least_rows, profiles_for
from headrace_server.errors import LoadError, ServingError
from headrace_server.security.models.private_files import stays_in_memory

log = logging.getLogger(__name__)

T = TypeVar("T")


def load_plan(plan: Path, options: BackendOptions) -> "TensorrtBackend":
    """Loads a serialized engine.

    Raises:
        LoadError: FAILED_PRECONDITION if there is no GPU, or the plan is for another GPU or TensorRT version;
            RESOURCE_EXHAUSTED if the GPU lacks memory. The text names the file, and says what to do.
    """
    return _named(plan, lambda: TensorrtBackend(plan.read_bytes(), options))


def load_onnx(model: Path, options: BackendOptions) -> "TensorrtBackend":
    """Loads an ONNX model: uses the engine that was built from it before, or builds one now.

    Raises:
        LoadError: As for `load_plan`; INVALID_ARGUMENT if TensorRT cannot parse the model or an option does not
            fit it.
    """
    return planned(model, options)[1]


def planned(model: Path, options: BackendOptions) -> tuple[bytes, "TensorrtBackend"]:
    """Like `load_onnx`, but also returns the plan."""

    def load() -> tuple[bytes, TensorrtBackend]:
        header = read_header(model.read_bytes())
        cached = CachedPlan(model, header, options)
        if cached.plan is not None:
            try:
                return cached.plan, TensorrtBackend(cached.plan, options, header)
            except LoadError as error:
                if error.code != Code.FAILED_PRECONDITION:
                    raise
                log.warning("%s: %s is damaged and will be built again: %s", model, cached.file, error.message)
        plan = cached.build()
        return plan, TensorrtBackend(plan, options, header)

    return _named(model, load)


class CachedPlan:
    """A model's plan for the first of its GPUs, stored under a key of everything that it depends on.

    Args:
        model: The ONNX file.
        header: The header of the ONNX file.
        options: The options of the model.

    Attributes:
        file: The file that holds the plan; None for a model that was sealed, whose weights the plan contains.
        plan: The plan itself; None if it has not been built yet.

    Raises:
        ServingError: INVALID_ARGUMENT if an option does not fit the model.
    """

    def __init__(self, model: Path, header: OnnxHeader, options: BackendOptions) -> None:
        self._model, self._header, self._options = model, header, options.tensorrt
        self._profiles = profiles_for(header.inputs, options.batching, self._options)
        with self._device() as device:
            chosen = self._options
            gpu = (trt.__version__, device.name, device.compute_capability)
            decide = (chosen.precision, chosen.tf32, chosen.workspace_mb, chosen.optimization_level, self._profiles)
            key = tensorrt_cache.model_key(model.parent, (*gpu, *decide))
        self.file = None if stays_in_memory(model) else chosen.cache / f"{key}.plan"
        self.plan = None if self.file is None else tensorrt_cache.read(self.file)

    def build(self) -> bytes:
        """Builds the plan, and stores it if it may be.

        Raises:
            ServingError: The plan cannot be built.
        """
        with self._device() as device:
            log.info("building an engine of %s with TensorRT %s on %s", self._model, trt.__version__, device.name)
            plan = build_plan(self._model, self._header, self._profiles, self._options, device)
        if self.file is None:
            return plan
        try:
            tensorrt_cache.write(self.file, plan)
        except OSError as error:
            log.warning(
                "%s: the engine could not be saved, so the next load must build it again: %s", self._model, error
            )
        return plan

    @contextmanager
    def _device(self) -> Iterator[Device]:
        device = Device(self._options.devices[0])
        try:
            yield device
        finally:
            device.release()


class TensorrtBackend:
    """One model as TensorRT engines, one on each of its GPUs, with instances that each run one batch.

    Args:
        plan: A serialized engine.
        options: The options of the model.
        header: The header of the ONNX file that the engine was built from, with names of dimensions, and metadata.

    Raises: LoadError, ServingError: The engine cannot be loaded.
    """

    runtime = "tensorrt"

    def __init__(self, plan: bytes, options: BackendOptions, header: OnnxHeader | None = None) -> None:
        self._graphs = options.tensorrt.cuda_graphs
        self._instances = options.tensorrt.instances * len(options.tensorrt.devices)
        self._free: SimpleQueue[Instance] = SimpleQueue()
        with ExitStack() as owned:
            devices = [_device(ordinal, owned) for ordinal in options.tensorrt.devices]
            free = {device.ordinal: _free_memory(device) for device in devices}
            engines = [_engine(device, plan, owned) for device in devices]
            self._tensors = engines[0].tensors
            self._most_rows = _most_rows(self._tensors)
            self._pool = PageLockedPool(engines[0].device)
            owned.callback(self._pool.close)
            # The instances of the GPUs alternate, so that consecutive batches run on different GPUs.
            for engine in chain.from_iterable([engines] * options.tensorrt.instances):
                graphs = self._graph_sizes(options.batching)
                instance = Instance(engine, self._pool, graphs, spin=options.tensorrt.spin)
                owned.callback(instance.close)
                self._free.put(instance)
            self._signatures = _signatures(self._tensors, options, header)
            # The difference includes memory that other users of the GPU have allocated or freed at the same time.
            self._device_memory = {d.ordinal: max(0, free[d.ordinal] - _free_memory(d)) for d in devices}
            self._signatures = {
                name: replace(each, batched=may_be_batched(each.inputs)) for name, each in self._signatures.items()
            }
            self._owned: ExitStack | None = owned.pop_all()

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """`serving_default`, and those that the ONNX file's metadata or an operator define."""
        return self._signatures

    def run(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        """Runs a batch on the next free instance. The outputs' memory is reused once nothing refers to them."""
        if self._owned is None:
            raise ServingError(Code.UNAVAILABLE, "the model has been unloaded")
        declared = self._signatures[signature]
        return self._run(declared, inputs, outputs, pad=declared.batched)

    try_run = run  # TensorRT writes only to headrace's log, and there only why it refuses a shape

    @property
    def exact(self) -> bool:
        """Always false: tactics differ between shapes, and the order of sums is not fixed."""
        return False

    @property
    def evidence(self) -> Sequence[Evidence]:
        """Always empty, since a plan cannot be inspected."""
        return ()

    @property
    def hints(self) -> Hints:
        """Always empty, like `evidence`."""
        return NO_HINTS

    @property
    def most_rows(self) -> int | None:
        """The maximum number of rows that the profiles accept."""
        return self._most_rows

    def settle(self, batched: Mapping[str, bool]) -> None:
        """Records for which signatures rows may be added to batches that are too short: those with independent rows."""
        self._signatures = {name: replace(each, batched=batched[name]) for name, each in self._signatures.items()}

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An array in page-locked memory, in which a batch is joined."""
        return self._pool.empty(shape, dtype)

    def fit_batching(self, options: Options) -> Options:
        """Limits running batches to the instances, rows to the profiles, and sizes to a few for CUDA graphs."""
        if self._most_rows is None:
            return replace(options, max_running_batches=self._instances)
        fitting = replace(fitted(options, self._most_rows, graphs=self._graphs), max_running_batches=self._instances)
        if fitting.execution_limit < options.execution_limit:
            log.warning(
                "batches have at most %d rows, not %d: the engine was built for no more",
                fitting.execution_limit,
                options.execution_limit,
            )
        return fitting

    def device_memory(self) -> Mapping[int, int]:
        """How much each GPU's free memory shrank when the engine and its contexts were created."""
        return self._device_memory

    def close(self) -> None:
        """Frees all GPU and page-locked memory, except that of answers in use, which is freed when they are dropped."""
        owned, self._owned = self._owned, None
        if owned is not None:
            owned.close()

    def _run(self, declared: Signature, inputs: Arrays, outputs: Sequence[str], *, pad: bool = True) -> Arrays:
        arrays = {declared.inputs[alias].name: array for alias, array in inputs.items()}
        names = {alias: declared.outputs[alias].name for alias in outputs}
        rows = _missing_rows(self._tensors, arrays) if pad and self._most_rows is not None else 0
        if rows:
            arrays = {name: _longer(array, rows) for name, array in arrays.items()}
        instance = self._free.get()
        try:
            results = instance.run(arrays, tuple(names.values()))
        finally:
            self._free.put(instance)
        if rows:
            results = {name: array[:-rows] for name, array in results.items()}
        return {alias: results[name] for alias, name in names.items()}

    def _graph_sizes(self, batching: Options | None) -> tuple[int, ...]:
        if not self._graphs or batching is None or self._most_rows is None:
            return ()
        return fitted(batching, self._most_rows, graphs=True).allowed_batch_sizes


def _device(ordinal: int, owned: ExitStack) -> Device:
    device = Device(ordinal)
    owned.callback(device.release)
    return device


def _free_memory(device: Device) -> int:
    with device:
        return device.free_memory()


def _engine(device: Device, plan: bytes, owned: ExitStack) -> Engine:
    engine = Engine(device, plan)
    owned.callback(engine.close)
    return engine


def _signatures(tensors: Tensors, options: BackendOptions, header: OnnxHeader | None) -> dict[str, Signature]:
    inputs, outputs = tensors.inputs, tensors.outputs
    if header is not None:
        inputs, outputs = _with_names(inputs, header.inputs), _with_names(outputs, header.outputs)
    return make_signatures(inputs, outputs, header.metadata if header else {}, options.signatures)


def _with_names(specs: Mapping[str, TensorSpec], named: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    """The same tensors, with the names of dimensions from the ONNX file."""

    def dims(spec: TensorSpec) -> tuple[str, ...]:
        names = named[spec.name].dims if spec.name in named else ()
        return names if len(names) == len(spec.shape) else spec.dims

    return {name: replace(spec, dims=dims(spec)) for name, spec in specs.items()}


def _most_rows(tensors: Tensors) -> int | None:
    """The maximum number of rows of a batch; None if the first dimension of an input does not vary."""
    if not tensors.inputs or any(not spec.shape or spec.shape[0] is not None for spec in tensors.inputs.values()):
        return None
    return max(min(bounds.most[0] for bounds in profile.values()) for profile in tensors.profiles)


def _missing_rows(tensors: Tensors, arrays: Arrays) -> int:
    """The number of rows by which a batch is too short for every profile."""
    shapes = {name: array.shape for name, array in arrays.items()}
    rows = {shape[0] for shape in shapes.values()}
    return least_rows(tensors.profiles, shapes) - rows.pop() if len(rows) == 1 else 0


def _longer(array: Array, rows: int) -> Array:
    """Adds rows: the last one again, which the model is known to accept, or zeros if there is none."""
    last = array[-1:] if len(array) else np.zeros((1, *array.shape[1:]), array.dtype)
    return np.concatenate([array, *[last] * rows])


def _named(model: Path, load: Callable[[], T]) -> T:
    """Calls a function that loads a model, and names the model's file in errors."""
    try:
        return load()
    except ServingError as error:
        raise LoadError(error.code, f"{model}: {error.message}") from error
    except OSError as error:
        raise LoadError(Code.NOT_FOUND, f"{model}: {error.strerror}") from error
