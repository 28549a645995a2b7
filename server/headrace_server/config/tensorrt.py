"""An operator's settings for TensorRT: whether and where it runs, and how an engine is built."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace_batching.option import option
from headrace_server.config.flag import flag

Range = tuple[int, int, int]
"""The smallest, the usual and the largest size of a dimension."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorrtOptions:
    """Options for running engines; `precision` and later ones are for building them. In `model.toml`: `[tensorrt]`."""

    enabled: bool = flag(
        False,
        "build ONNX models into TensorRT engines, and run those; a version's model.plan then takes precedence over "
        "its model.onnx; model.toml can override this",
        name="tensorrt",
    )
    devices: tuple[int, ...] = flag(
        (0,),
        "GPUs that run each model on TensorRT, by CUDA's numbers, separated by commas",
        least=0,
        fits=lambda devices: 0 < len(devices) == len(set(devices)),
        words="a list of one or more different whole numbers of at least 0",
    )
    instances: int = option(
        2, "batches of a model that one GPU runs at the same time, each with its own memory", least=1
    )
    cuda_graphs: bool = option(False, "launch batches of the allowed sizes as CUDA graphs")
    spin: bool = option(
        False, "let a batch's thread keep a core busy while the GPU runs it, so that it notices the end sooner"
    )
    precision: str = option(
        "model",
        "model keeps the types of the ONNX file, fp16 turns its floats into half floats, and bf16 and int8 require a "
        "file that has these types",
        choices=("model", "fp16", "bf16", "int8"),
    )
    tf32: bool = option(True, "let float32 products be rounded to TF32")
    workspace_mb: int = option(0, "MB of memory that one layer may use while it runs; 0 lets TensorRT choose", least=0)
    optimization_level: int = option(
        3, "effort of a build: 0 ends soonest, 5 searches longest for the fastest engine", least=0, most=5
    )
    opt_batch_size: int = option(0, "rows that the engine is tuned for; 0 means the largest batch", least=0)
    dimensions: Mapping[str, Range] = option(
        dict,
        "range of each dimension that varies, apart from the batch: by the name that the model gives it, or by "
        "input.axis",
        fits=lambda table: all(map(_rises, table.values())),
        words="a table of ranges, each [least, usual, most] in increasing whole numbers",
    )
    cache_folder: str = flag(
        "",
        "folder in which built TensorRT engines are kept (default: headrace/tensorrt in the user's cache folder)",
        for_all=True,
    )

    @property
    def cache(self) -> Path:
        """The folder in which built engines are kept."""
        if self.cache_folder:
            return Path(self.cache_folder)
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headrace" / "tensorrt"


def _rises(sizes: Any) -> bool:
    return (
        isinstance(sizes, (list, tuple))
        and len(sizes) == 3
        and all(type(size) is int and size >= 0 for size in sizes)
        and list(sizes) == sorted(sizes)
    )
