"""`headrace build`: turns an ONNX model into a TensorRT plan, compares it with ONNX Runtime, and times it."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf, nan
from pathlib import Path
from typing import NamedTuple

import numpy as np

from headrace_batching import Options
from headrace_batching.task import Array
from headrace_protos import Code
from headrace_server.backends.auto import ONNX_FILE, PLAN_FILES, load, plan_of
from headrace_server.backends.base import Backend, BackendOptions, BatchMemory, FitsBatching
from headrace_server.backends.signature import DEFAULT_SIGNATURE
from headrace_server.backends.tensorrt import cache as tensorrt_cache
from headrace_server.commands.build_inputs import random_inputs, read_inputs, rows_between
from headrace_server.config.model_toml import read_model_options
from headrace_server.config.onnxruntime import OnnxruntimeOptions
from headrace_server.config.tensorrt import TensorrtOptions
from headrace_server.errors import ServingError, not_found
from headrace_server.models.rows import BatchSettings, Loaded, decide

RANDOM_ROWS = 64
WARM_UP_RUNS = 10


@dataclass(frozen=True, kw_only=True)
class BuildOrder:
    """A request to build a plan.

    Attributes:
        version: The folder that holds `model.onnx`; `model.toml` next to it says how to run it.
        output: The plan's file; None means `model.plan` in the same folder.
        inputs: An .npz or .npy file of inputs to test the plan with; None means random inputs.
        batching: The batching parameters that apply where `model.toml` sets no others.
        tensorrt: The other options, which apply where `model.toml` sets no others.
        max_difference: The largest difference from ONNX Runtime's floats at which the plan is still written; None means
            no limit.
        runs: The number of timed runs of each batch size.
    """

    version: Path
    output: Path | None = None
    inputs: Path | None = None
    batching: Options = field(default_factory=Options)
    tensorrt: TensorrtOptions = field(default_factory=TensorrtOptions)
    max_difference: float | None = None
    runs: int = 100


class Difference(NamedTuple):
    """One output compared with ONNX Runtime's, over all rows tested.

    Attributes:
        output: The output's alias.
        largest: The largest difference of two elements; infinity where only one of them is finite.
        mean: The mean difference of two elements.
        scale: The largest element of ONNX Runtime's output.
        equal: The share of elements that are equal.
    """

    output: str
    largest: float
    mean: float
    scale: float
    equal: float


class Latency(NamedTuple):
    """The runs of one batch size, including copies to and from the GPU.

    Attributes:
        rows: The number of rows of the batch.
        median: The median duration of a run, in seconds.
        p99: The duration that 99 of 100 runs stay below, in seconds.
    """

    rows: int
    median: float
    p99: float


@dataclass(frozen=True)
class Built:
    """The result of a build.

    Attributes:
        plan: The plan's file.
        size: The plan's size in bytes.
        seconds: The duration of the build.
        tried: The number of rows compared.
        differences: The comparison of each output.
        latencies: The timing of each batch size.
    """

    plan: Path
    size: int
    seconds: float
    tried: int
    differences: tuple[Difference, ...]
    latencies: tuple[Latency, ...]


@dataclass(frozen=True, slots=True)
class _Plan:
    """A loaded plan: its runtime, its build options, and whether its rows are independent."""

    backend: Backend
    options: BackendOptions
    batched: bool


def build(order: BuildOrder, clock: Callable[[], float] = time.perf_counter) -> Built:
    """Builds a plan, tests it, and moves the complete file into place.

    Raises:
        ServingError: There is no model or no GPU, TensorRT refuses the model, or the answers differ by more than is
            allowed. In each case, no plan is written.
    """
    model = order.version / ONNX_FILE
    if not model.is_file():
        raise not_found(f"{order.version} holds no {ONNX_FILE}: give the folder of one version")
    if order.inputs is not None and not order.inputs.is_file():  # reported now, not after minutes of building
        raise not_found(f"there is no file {order.inputs}")
    options = _options(order)
    began = clock()
    plan, backend = plan_of(model, options)
    seconds = clock() - began
    try:
        plan_run = _Plan(backend, options, _is_batched(order.version, backend, options, seconds))
        inputs = _inputs(order, plan_run)
        differences = _compare(order.version, plan_run, inputs)
        _check(order, differences)
        latencies = [_time(plan_run, rows_between(inputs, 0, rows), order.runs, clock) for rows in _sizes(plan_run)]
    finally:
        backend.close()
    file = order.output or order.version / PLAN_FILES[0]
    try:
        tensorrt_cache.write(file, plan)
    except OSError as error:
        raise ServingError(Code.PERMISSION_DENIED, f"{file} cannot be written: {error.strerror}") from error
    rows = _rows(plan_run, inputs)
    return Built(file, len(plan), seconds, rows, tuple(differences), tuple(latencies))


def _options(order: BuildOrder) -> BackendOptions:
    model = read_model_options(order.version.parent)
    tensorrt = replace(order.tensorrt, **{**model.tensorrt, "enabled": True, "instances": 1})
    return BackendOptions(tensorrt=tensorrt, batching=model.batching_over(order.batching), signatures=model.signatures)


def _inputs(order: BuildOrder, plan: _Plan) -> dict[str, Array]:
    signature = plan.backend.signatures[DEFAULT_SIGNATURE]
    if order.inputs is not None:
        return read_inputs(order.inputs, signature)
    return random_inputs(signature, max(RANDOM_ROWS, _most_rows(plan)), plan.options.tensorrt)


def _compare(version: Path, plan: _Plan, inputs: Mapping[str, Array]) -> list[Difference]:
    """Compares the engine's answers with ONNX Runtime's, in batches as large as the engine takes."""
    on_cpu = OnnxruntimeOptions(providers=("CPUExecutionProvider",))
    reference = load(version, replace(plan.options, tensorrt=TensorrtOptions(), onnxruntime=on_cpu))
    try:
        names = plan.backend.signatures[DEFAULT_SIGNATURE].every_output
        pairs: dict[str, list[tuple[Array, Array]]] = {name: [] for name in names}
        for part in _parts(plan, inputs):
            got, wanted = (one.run(DEFAULT_SIGNATURE, part, names) for one in (plan.backend, reference))
            for name in names:
                pairs[name].append((np.array(got[name], np.float64), np.array(wanted[name], np.float64)))
    finally:
        reference.close()
    return [_difference(name, of_one) for name, of_one in pairs.items()]


def _parts(plan: _Plan, inputs: Mapping[str, Array]) -> Iterator[Mapping[str, Array]]:
    if not plan.batched:
        yield inputs
        return
    most, rows = _most_rows(plan), _rows(plan, inputs)
    for start in range(0, rows, most):
        yield rows_between(inputs, start, min(start + most, rows))


def _difference(output: str, pairs: Sequence[tuple[Array, Array]]) -> Difference:
    if any(got.shape != wanted.shape for got, wanted in pairs):
        return Difference(output, inf, inf, nan, 0.0)
    got, wanted = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    if not wanted.size:
        return Difference(output, 0.0, 0.0, 0.0, 1.0)
    equal = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
    with np.errstate(invalid="ignore"):
        apart = np.where(equal, 0.0, np.nan_to_num(np.abs(got - wanted), nan=inf, posinf=inf))
    return Difference(output, apart.max(), apart.mean(), float(np.abs(np.nan_to_num(wanted)).max()), equal.mean())


def _check(order: BuildOrder, differences: Sequence[Difference]) -> None:
    for difference in differences:
        if order.max_difference is not None and difference.largest > order.max_difference:
            raise ServingError(
                Code.FAILED_PRECONDITION,
                f"output {difference.output} differs from ONNX Runtime's by up to {difference.largest:.3g}, which is "
                f"more than {order.max_difference:.3g}: no plan is written",
            )


def _sizes(plan: _Plan) -> tuple[int, ...]:
    """The batch sizes to time: those allowed, or powers of two up to the largest."""
    if not plan.batched:
        return (1,)
    fitting = _fitting(plan)
    most = fitting.execution_limit
    return fitting.allowed_batch_sizes or (*(1 << power for power in range((most - 1).bit_length())), most)


def _time(plan: _Plan, inputs: Mapping[str, Array], runs: int, clock: Callable[[], float]) -> Latency:
    """Times runs whose inputs are where the server would put a batch: in the backend's own memory."""
    backend = plan.backend
    names = backend.signatures[DEFAULT_SIGNATURE].every_output
    if isinstance(backend, BatchMemory):
        inputs = {alias: _copied(backend, array) for alias, array in inputs.items()}
    times = []
    for _ in range(WARM_UP_RUNS + runs):
        began = clock()
        backend.run(DEFAULT_SIGNATURE, inputs, names)
        times.append(clock() - began)
    timed = times[WARM_UP_RUNS:]
    return Latency(_rows(plan, inputs), float(np.median(timed)), float(np.percentile(timed, 99)))


def _copied(backend: BatchMemory, array: Array) -> Array:
    copy = backend.empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def _is_batched(version: Path, backend: Backend, options: BackendOptions, seconds: float) -> bool:
    settings = BatchSettings(batching=options.batching is not None)
    return decide(Loaded(str(version), version, backend, seconds, settings))[DEFAULT_SIGNATURE].batched


def _rows(plan: _Plan, inputs: Mapping[str, Array]) -> int:
    return len(next(iter(inputs.values()))) if plan.batched else 1


def _most_rows(plan: _Plan) -> int:
    return _fitting(plan).execution_limit if plan.batched else 1


def _fitting(plan: _Plan) -> Options:
    batching = plan.options.batching or Options(max_batch_size=1)
    return plan.backend.fit_batching(batching) if isinstance(plan.backend, FitsBatching) else batching
