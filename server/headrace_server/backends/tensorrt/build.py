"""Builds a strongly typed TensorRT plan of an ONNX model, tuned on the current GPU, which takes minutes."""

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import tensorrt as trt

from headrace_batching.errors import let_go
from headrace_protos import Code, DataType
from headrace_server.backends.gpu.cuda import Device
from headrace_server.backends.onnx.header import OnnxHeader
from headrace_server.backends.tensorrt import cache as tensorrt_cache
from headrace_server.backends.tensorrt.engine import LOG
from headrace_server.backends.tensorrt.half import half
from headrace_server.backends.tensorrt.profiles import Profile
from headrace_server.config.tensorrt import TensorrtOptions
from headrace_server.errors import LoadError, invalid
from headrace_server.security.models.private_files import SHARED_MEMORY, stays_in_memory

log = logging.getLogger(__name__)

SAY_EVERY = 5.0
"""Seconds between two progress messages of a build."""


def build_plan(
    model: Path, header: OnnxHeader, profiles: Sequence[Profile], options: TensorrtOptions, device: Device
) -> bytes:
    """Builds a serialized engine for the device.

    Args:
        model: An ONNX file, with external data next to it if it has any.
        header: The header of the ONNX file.
        profiles: The profiles of the engine; empty if no input varies.
        options: The precision, and the other options of a build.
        device: The device on which the engine is tuned and will run.

    Raises:
        ServingError: INVALID_ARGUMENT if TensorRT cannot parse it, or it lacks the types that the precision needs;
            RESOURCE_EXHAUSTED if the GPU lacks memory; INTERNAL if TensorRT fails in another way.
    """
    check_precision(header, options.precision)
    timings = _timings(device, options)
    with device, _in_precision(model, options.precision) as file:
        try:
            return _build(file, Progress(str(model)), profiles, options, timings)
        except BaseException as error:
            let_go(error)  # otherwise the builder would be freed later, when the context is not current
            raise


def _build(
    file: Path, monitor: "Progress", profiles: Sequence[Profile], options: TensorrtOptions, timings: Path
) -> bytes:
    builder = LOG.made(trt.Builder)
    network = builder.create_network(_network_flags())
    _parse(network, file)
    config = _config(builder, options)
    config.progress_monitor = monitor
    _add_profiles(builder, config, profiles)
    _use_timings(config, timings)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise LOG.failure("TensorRT cannot build an engine of it")
    _keep_timings(config, timings)
    return bytes(plan)


def check_precision(header: OnnxHeader, precision: str) -> None:
    """Checks that a model has the types of a precision: a strongly typed engine computes in the file's own types.

    Raises:
        ServingError: INVALID_ARGUMENT if it does not have them; the text says how to get such a file.
    """
    if precision == "bf16" and DataType.DT_BFLOAT16 not in header.types:
        raise invalid(
            'precision = "bf16" needs a file that has bfloat16 weights, inputs or outputs, since engines are '
            "strongly typed: export the model in bfloat16"
        )
    if precision == "int8" and not header.operators & {"QuantizeLinear", "DynamicQuantizeLinear"}:
        raise invalid(
            'precision = "int8" needs a file that has QuantizeLinear and DequantizeLinear operators, since engines '
            "are strongly typed: quantize the model first, with NVIDIA's ModelOpt or onnxruntime.quantization"
        )


class Progress(trt.IProgressMonitor):  # type: ignore[misc]
    """Reports every few seconds how far a build has got.

    Args:
        what: The name of the engine that is being built.
        clock: Returns the time, in seconds.
    """

    def __init__(self, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._what = what
        self._clock = clock
        self._lock = Lock()
        self._phases: dict[str, _Phase] = {}
        self._said = clock()

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        """Called by TensorRT, on any thread."""
        with self._lock:
            self._phases[phase_name] = _Phase(parent_phase, num_steps)

    def step_complete(self, phase_name: str, step: int) -> bool:
        """Called by TensorRT, mostly for the innermost phases; returns whether the build should continue."""
        with self._lock:
            phase, now = self._phases.get(phase_name), self._clock()
            if phase is None:
                return True
            phase.done = step + 1
            due = now - self._said >= SAY_EVERY
            path = "; ".join(self._path(phase_name)) if due else ""
            self._said = now if due else self._said
        if due:
            log.info("building an engine of %s: %s", self._what, path)
        return True

    def phase_finish(self, phase_name: str) -> None:
        """Called by TensorRT."""
        with self._lock:
            self._phases.pop(phase_name, None)

    def _path(self, name: str | None) -> list[str]:
        """A phase and the phases around it, the outermost first."""
        path: list[str] = []
        while name is not None and (phase := self._phases.get(name)) and len(path) < len(self._phases):
            path.insert(0, f"{name}, {phase.done} of {phase.steps} steps")
            name = phase.parent
        return path


@dataclass
class _Phase:
    """A part of a build, alone or within another one."""

    parent: str | None
    steps: int
    done: int = 0


def _network_flags() -> int:
    """The flags that ask for a strongly typed network; TensorRT 11 and later always build such networks."""
    if int(trt.__version__.partition(".")[0]) >= 11:
        return 0
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def _parse(network: Any, file: Path) -> None:
    parser = trt.OnnxParser(network, LOG)
    if not parser.parse_from_file(str(file)):
        errors = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise LoadError(Code.INVALID_ARGUMENT, f"TensorRT cannot parse it: {errors}")


def _config(builder: Any, options: TensorrtOptions) -> Any:
    config = builder.create_builder_config()
    (config.set_flag if options.tf32 else config.clear_flag)(trt.BuilderFlag.TF32)
    config.builder_optimization_level = options.optimization_level
    if options.workspace_mb:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mb << 20)
    return config


def _add_profiles(builder: Any, config: Any, profiles: Sequence[Profile]) -> None:
    for profile in profiles:
        built = builder.create_optimization_profile()
        try:
            for name, bounds in profile.items():
                built.set_shape(name, bounds.least, bounds.usual, bounds.most)
            taken = config.add_optimization_profile(built) >= 0
        except RuntimeError as error:
            raise LOG.failure(f"TensorRT refuses the profile {dict(profile)}") from error
        if not taken:
            raise LOG.failure(f"TensorRT refuses the profile {dict(profile)}")


def _timings(device: Device, options: TensorrtOptions) -> Path:
    """The file of the layers' timings. These are valid for one version of TensorRT and one kind of GPU."""
    major, minor = device.compute_capability
    name = f"{device.name} {major}.{minor} TensorRT {trt.__version__}".replace("/", " ").replace(" ", "-")
    return options.cache / f"{name}.timings"


def _use_timings(config: Any, file: Path) -> None:
    cache = config.create_timing_cache(tensorrt_cache.read(file) or b"")
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def _keep_timings(config: Any, file: Path) -> None:
    try:
        tensorrt_cache.write(file, bytes(config.get_timing_cache().serialize()))
    except OSError as error:
        # As text: a log record with the error would keep the builder alive through the error's frames.
        log.warning("timings cannot be saved for the next build: %s", str(error))


@contextmanager
def _in_precision(model: Path, precision: str) -> Iterator[Path]:
    """The file to parse: the model's own, or one whose floats are converted to half floats."""
    if precision != "fp16":
        yield model
        return
    with tempfile.TemporaryDirectory(prefix="headrace-fp16-", dir=_folder_for(model)) as folder:
        yield half(model, Path(folder))


def _folder_for(model: Path) -> Path | None:
    """The folder for a copy of a model; None means the one for temporary files.

    Raises:
        LoadError: FAILED_PRECONDITION if the model was sealed, and there is no folder in memory.
    """
    if not stays_in_memory(model):
        return None
    if not os.access(SHARED_MEMORY, os.W_OK | os.X_OK):
        text = f'precision = "fp16" writes a copy of a sealed model only into {SHARED_MEMORY}, which cannot be written'
        raise LoadError(Code.FAILED_PRECONDITION, text)
    return SHARED_MEMORY
