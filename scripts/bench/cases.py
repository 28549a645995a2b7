"""The measured cases: three models, each with its load, batching and threads."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from .models import compute_model, image_model, small_model


@dataclass(frozen=True)
class Load:
    """How many calls are in flight at once: `connections` times `streams`."""

    connections: int
    streams: int

    def __str__(self) -> str:
        return f"{self.connections} connections x {self.streams} streams"


ONE_CALLER = Load(connections=1, streams=1)


@dataclass(frozen=True)
class Case:
    """One model under one load.

    Every model has one input `x` and one output `y`, both float32. `max_batch_size`, `batch_timeout_micros` and
    `intra_op_threads` apply to headrace and the bare loop alike; headrace has one batch thread.

    Attributes:
        name: The name of the case.
        title: The case's heading in the report.
        build: Creates the model.
        row: The shape of one request's input without its batch axis.
        outputs: The number of floats per row of the answer.
        load: The load.
        max_batch_size: The maximum number of rows of a batch.
        batch_timeout_micros: How long a batch that is not full waits, in microseconds.
        intra_op_threads: The number of threads of one run.
        responders: Whether the bare responders are also measured.
        longer: How many times as long as the usual load this one lasts.
    """

    name: str
    title: str
    build: Callable[[], onnx.ModelProto]
    row: tuple[int, ...]
    outputs: int
    load: Load
    max_batch_size: int
    batch_timeout_micros: int = 0
    intra_op_threads: int = 1
    responders: bool = True
    longer: float = 1

    def rows(self, count: int) -> np.ndarray:
        """Returns `count` rows of reproducible input, float32 [count, *row]."""
        return np.random.default_rng(7).standard_normal((count, *self.row), dtype=np.float32)

    def save(self, base_path: Path) -> Path:
        """Writes the model as version 1 under `base_path` and returns the path of its file."""
        path = base_path / "1" / "model.onnx"
        path.parent.mkdir(parents=True)
        onnx.save(self.build(), path)
        return path

    @property
    def loop_batches(self) -> tuple[int, ...]:
        """The batch sizes of the bare loop: powers of two up to the largest batch."""
        return tuple(2**i for i in range(self.max_batch_size.bit_length()))


CASES = (
    Case(
        name="small",
        title="Small model: 16 floats to 10, one Gemm",
        build=small_model,
        row=(16,),
        outputs=10,
        load=Load(connections=4, streams=16),
        max_batch_size=64,
    ),
    Case(
        name="image",
        title="Image model: 602,112 bytes, global average pool to 3 floats",
        build=image_model,
        row=(3, 224, 224),
        outputs=3,
        load=Load(connections=2, streams=4),
        max_batch_size=8,
    ),
    Case(
        name="compute",
        title="Compute-bound model: five convolutions, about 10 ms a row",
        build=compute_model,
        row=(3, 32, 32),
        outputs=10,
        load=Load(connections=4, streams=8),
        max_batch_size=8,
        responders=False,
        # The half-empty batches at both ends of a load must be few compared with its several hundred full ones.
        longer=2,
    ),
)
