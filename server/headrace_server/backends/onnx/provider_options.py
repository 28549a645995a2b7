"""Translates options into those of ONNX Runtime's GPU providers."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnxruntime as ort

from headrace_server.backends.base import BackendOptions
from headrace_server.backends.gpu.nvidia_driver import device_memory
from headrace_server.backends.onnx.names import CPU
from headrace_server.backends.onnx.providers import CUDA, TENSORRT, open_session
from headrace_server.config.onnxruntime import OnnxruntimeOptions
from headrace_server.security.models.private_files import stays_in_memory

Providers = Sequence[tuple[str, Mapping[str, str]]]
"""The names of providers, the preferred one first, and the options of each."""

_ARENA = {"next_power_of_two": "kNextPowerOfTwo", "same_as_requested": "kSameAsRequested"}


def provider_options(name: str, model: Path, options: BackendOptions) -> dict[str, str]:
    """The options of one provider for one model; none for a provider that does not use the GPU.

    Raises:
        NoDriverError: A share of the GPU's memory was requested, but there is no GPU.
        OSError: The model cannot be read, or a cache folder cannot be created.
    """
    if name == CUDA:
        return cuda_options(options.onnxruntime, memory_limit(options))
    if name != TENSORRT:
        return {}
    values = tensorrt_options(options.onnxruntime, memory_limit(options))
    if options.batching is not None:
        values |= profile_shapes(_declared_inputs(model), options.batching.execution_limit)
    if stays_in_memory(model):
        values["trt_engine_cache_enable"] = "False"  # an engine contains the weights
    elif folder := options.onnxruntime.tensorrt_engine_cache:
        values["trt_engine_cache_path"] = str(Path(folder, engine_key(model.parent, values)))
    for kept in ("trt_engine_cache_path", "trt_timing_cache_path"):
        if kept in values:
            Path(values[kept]).mkdir(parents=True, exist_ok=True)  # ONNX Runtime creates only a path's last folder
    return values


def cuda_options(options: OnnxruntimeOptions, limit: int) -> dict[str, str]:
    """The options of the CUDA provider; the limit is in bytes, 0 means none."""
    values = {
        "device_id": str(options.device_id),
        "arena_extend_strategy": _ARENA[options.gpu_arena_strategy],
        "cudnn_conv_algo_search": options.gpu_convolution_search.upper(),
        "prefer_nhwc": _switch(options.gpu_prefer_nhwc),
        "use_tf32": _switch(options.gpu_tf32),
    }
    return values | ({"gpu_mem_limit": str(limit)} if limit else {})


def for_one_shape(providers: Providers) -> Providers:
    """The same providers for a session that sees only one shape: its arena takes no memory for larger ones."""
    exact = {"arena_extend_strategy": _ARENA["same_as_requested"]}
    return [(name, {**values, **exact} if name == CUDA else values) for name, values in providers]


def tensorrt_options(options: OnnxruntimeOptions, limit: int) -> dict[str, str]:
    """The options of the TensorRT provider that do not depend on the model; the limit is in bytes, 0 means none.

    For switches, the TensorRT provider accepts only `True` and `False`, unlike the CUDA provider.
    """
    values = {
        "device_id": str(options.device_id),
        "trt_fp16_enable": str(options.tensorrt_fp16),
        "trt_int8_enable": str(options.tensorrt_int8),
        "trt_engine_cache_enable": str(bool(options.tensorrt_engine_cache)),
        "trt_timing_cache_enable": str(bool(options.tensorrt_timing_cache)),
    }
    if options.tensorrt_timing_cache:
        values["trt_timing_cache_path"] = options.tensorrt_timing_cache
    return values | ({"trt_max_workspace_size": str(limit)} if limit else {})


def memory_limit(options: BackendOptions) -> int:
    """The number of bytes of GPU memory that a model may use; 0 means no limit.

    Raises:
        NoDriverError: A share of the GPU's memory was requested, but there is no GPU.
    """
    if options.onnxruntime.gpu_memory_limit_mb:
        return options.onnxruntime.gpu_memory_limit_mb << 20
    if not 0 < options.gpu_memory_fraction < 1:
        return 0
    return int(options.gpu_memory_fraction * device_memory(options.onnxruntime.device_id))


def profile_shapes(inputs: Mapping[str, Sequence[int | None]], most_rows: int) -> dict[str, str]:
    """The shapes that TensorRT builds for: 1 to `most_rows` rows, optimised for `most_rows`.

    Args:
        inputs: The shape of each input, None for a dimension that varies.
        most_rows: The maximum number of rows of a batch.

    Returns: Nothing if a dimension other than the first varies: TensorRT then builds for each shape when it first
        occurs.
    """
    if not all(shape and shape[0] is None and None not in shape[1:] for shape in inputs.values()):
        return {}
    rows = {"min": 1, "opt": most_rows, "max": most_rows}
    return {f"trt_profile_{which}_shapes": _shapes(inputs, count) for which, count in rows.items()}


def engine_key(folder: Path, options: Mapping[str, str]) -> str:
    """A name for the engines of one model with the same options: ONNX Runtime's own name ignores the weights.

    Raises:
        OSError: A file of the model cannot be read.
    """
    key = hashlib.sha256(repr((ort.__version__, sorted(options.items()))).encode())
    for file in sorted(file for file in folder.iterdir() if file.is_file()):
        with file.open("rb") as content:
            key.update(f"{file.name}\0".encode() + hashlib.file_digest(content, "sha256").digest())
    return key.hexdigest()[:32]


def _switch(on: bool) -> str:
    return "1" if on else "0"


def _shapes(inputs: Mapping[str, Sequence[int | None]], rows: int) -> str:
    return ",".join(f"{name}:{'x'.join(map(str, (rows, *shape[1:])))}" for name, shape in inputs.items())


def _declared_inputs(model: Path) -> dict[str, tuple[int | None, ...]]:
    """The inputs that a model declares, from an unoptimised session on the CPU: building an engine takes far longer."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    inputs = open_session(str(model), options, [(CPU, {})]).get_inputs()
    return {each.name: tuple(size if isinstance(size, int) else None for size in each.shape) for each in inputs}
