"""What an operator decides about TensorRT: whether, where, and how an engine is built."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from headrace_server.errors import invalid

PRECISIONS = ("model", "fp16", "bf16", "int8")

Range = tuple[int, int, int]
"""The least, the usual and the largest size of a dimension."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorrtOptions:
    """For engines that are run, and from `precision` on for those that are built.

    Attributes:
        enabled: Whether a version's `model.onnx` is built and run by TensorRT, and its `model.plan` goes before it.
        devices: The GPUs that run it, by CUDA's numbers.
        instances: Batches of a model that one GPU holds at the same time, each with memory of its own.
        cuda_graphs: Whether batches of the allowed sizes are launched as CUDA graphs.
        spin: Whether the thread of a batch keeps a core busy while the GPU runs it, which hears of its end sooner.
        precision: `model` takes the types of the ONNX file as they are, `fp16` makes half floats of its floats, and
            `bf16` and `int8` demand a file that has such types.
        tf32: Whether float32 products may be rounded to TF32.
        workspace_mb: Memory that one layer may take while it runs; 0 leaves it to TensorRT.
        optimization_level: 0 builds fastest, 5 looks longest for the fastest engine.
        opt_batch_size: The rows that the engine is tuned for; 0 is the largest batch.
        dimensions: The range of each dimension that varies, beside the batch: by the name that the model gives it, or
            by `input.axis`.
        cache_folder: Where built engines are kept; empty is a folder of the user's.
    """

    enabled: bool = False
    devices: tuple[int, ...] = (0,)
    instances: int = 2
    cuda_graphs: bool = False
    spin: bool = False
    precision: str = "model"
    tf32: bool = True
    workspace_mb: int = 0
    optimization_level: int = 3
    opt_batch_size: int = 0
    dimensions: Mapping[str, Range] = field(default_factory=dict)
    cache_folder: str = ""

    @property
    def cache(self) -> Path:
        """Where built engines are kept."""
        if self.cache_folder:
            return Path(self.cache_folder)
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headrace" / "tensorrt"


def ordinals(devices: str) -> tuple[int, ...]:
    """The GPUs that `--tensorrt_devices` names.

    Raises:
        ServingError: INVALID_ARGUMENT: it names none, or one twice.
    """
    try:
        numbers = tuple(int(text) for text in devices.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise invalid(f"--tensorrt_devices={devices} is no list of GPUs: different whole numbers, separated by commas")
    return numbers
