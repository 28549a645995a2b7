"""The runtimes alone on a GPU, without a server: ONNX Runtime's CUDA provider and TensorRT, at a batch size."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from headrace_batching import Options
from headrace_server.backends import auto
from headrace_server.backends.base import BackendOptions
from headrace_server.config.onnxruntime import OnnxruntimeOptions
from headrace_server.config.tensorrt import TensorrtOptions

CUDA = "CUDAExecutionProvider"


@dataclass(frozen=True)
class Bare:
    """The result of one loop: its speed, and the mean time of a batch."""

    title: str
    batch: int
    rows_per_second: float
    milliseconds: float


def bare_cuda(version: Path, row: np.ndarray, batches: tuple[int, ...], seconds: float) -> Iterator[Bare]:
    """ONNX Runtime at each batch size: with plain arrays, and with inputs and outputs in the device's memory."""
    onnxruntime.preload_dlls()
    session = onnxruntime.InferenceSession(version / "model.onnx", providers=[CUDA], enable_fallback=0)
    for batch in batches:
        rows = np.repeat(row, batch, axis=0)
        yield _timed("CUDA, session.run", batch, partial(session.run, ["y"], {"x": rows}), seconds)
        yield _timed("CUDA, nothing copied", batch, _resident(session, rows), seconds)
    yield from _by_backend("CUDA", version, BackendOptions(onnxruntime=_ON_CUDA), row, batches[-1], seconds)


_ON_CUDA = OnnxruntimeOptions(providers=(CUDA, "CPUExecutionProvider"))


def bare_tensorrt(version: Path, cache: Path, row: np.ndarray, batch: int, seconds: float) -> Iterator[Bare]:
    """The TensorRT engine that the server has built, run by the server's backend."""
    tensorrt = TensorrtOptions(enabled=True, cache_folder=str(cache), instances=2)
    options = BackendOptions(batching=Options(max_batch_size=batch), tensorrt=tensorrt)
    yield from _by_backend("TensorRT", version, options, row, batch, seconds)


def _by_backend(
    title: str, version: Path, options: BackendOptions, row: np.ndarray, batch: int, seconds: float
) -> Iterator[Bare]:
    """The server's backend without the rest of the server, with inputs and outputs in page-locked memory."""
    backend: Any = auto.load(version, options)
    try:
        for threads in (1, 2, 3):
            rows = backend.empty((batch, *row.shape[1:]), row.dtype)
            rows[...] = row
            run = partial(backend.run, "serving_default", {"x": rows}, ["y"])
            yield _timed(f"{title}, headrace's backend, {threads} at once", batch, run, seconds, threads)
            del rows, run
    finally:
        backend.close()


def _resident(session: onnxruntime.InferenceSession, rows: np.ndarray) -> Callable[[], object]:
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(rows, "cuda", 0))
    binding.bind_output("y", "cuda", 0)
    return lambda: session.run_with_iobinding(binding)


def _timed(title: str, batch: int, run: Callable[[], object], seconds: float, threads: int = 1) -> Bare:
    for _ in range(5):
        run()
    started = time.perf_counter()
    until = started + seconds

    def loop(_: int) -> int:
        count = 0
        while time.perf_counter() < until:
            run()
            count += 1
        return count

    with ThreadPoolExecutor(threads) as pool:
        count = sum(pool.map(loop, range(threads)))
    elapsed = time.perf_counter() - started
    return Bare(title, batch, batch * count / elapsed, elapsed / count * 1e3)
