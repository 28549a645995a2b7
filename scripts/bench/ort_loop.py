"""The bare InferenceSession.run loop: the speed of the runtime alone at each batch size."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from .cases import Case


@dataclass(frozen=True)
class LoopSample:
    """The loop at one batch size: its speed, the median time of a run, and the CPU per row."""

    batch: int
    rows_per_second: float
    run_us: float
    cpu_us_per_row: float


class Loop:
    """A session on the CPU with the case's threads; can run for a while at any batch size."""

    def __init__(self, case: Case, model: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = case.intra_op_threads
        options.inter_op_num_threads = 1
        self._case = case
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def answer(self, rows: np.ndarray) -> np.ndarray:
        """Returns the model's `y` for `rows`."""
        y: np.ndarray = self._session.run(["y"], {"x": rows})[0]
        return y

    def samples(self, seconds: float) -> Iterator[LoopSample]:
        """Runs for `seconds` at each of the case's batch sizes."""
        for batch in self._case.loop_batches:
            yield self._sample(batch, seconds)

    def _sample(self, batch: int, seconds: float) -> LoopSample:
        rows = self._case.rows(batch)
        self.answer(rows)
        cpu, started = time.process_time(), time.perf_counter()
        ends = [started]
        while ends[-1] - started < seconds:
            self.answer(rows)
            ends.append(time.perf_counter())
        cpu, elapsed, count = time.process_time() - cpu, ends[-1] - started, batch * (len(ends) - 1)
        return LoopSample(batch, count / elapsed, float(np.median(np.diff(ends))) * 1e6, cpu / count * 1e6)
