"""A backend that owns the memory of its batches and limits their sizes, served on every transport."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace_batching import Options
from headrace_batching.task import Array, Arrays
from headrace_protos import Code
from headrace_server.backends import auto
from headrace_server.backends.base import Backend, BackendOptions
from headrace_server.backends.buffer_pool import Block, BufferPool
from headrace_server.backends.independence import NO_HINTS
from headrace_server.backends.onnx.loading import load_onnx
from headrace_server.errors import ServingError
from tests.conftest import Run
from tests.support import models
from tests.support.calls import Refusal, arrays, predict_request, refusal_of
from tests.support.running import RunningServer, eventually

TOGETHER = Options(num_batch_threads=2, max_batch_size=64, batch_timeout_micros=20_000, max_enqueued_batches=100)
POISON = -1.0
MOST = 8


class Owner:
    """An ONNX model whose joined inputs are in memory of a pool, and which runs only 4 or 8 rows at once.

    Attributes:
        runs: The number of rows of each run, and whether its input was from the pool.
        blocks: The blocks that the pool has allocated and not freed.
        allocated: The number of blocks that the pool has ever allocated.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.runs: list[tuple[int, bool]] = []
        self.blocks: list[Block] = []
        self.allocated = 0
        self.pool = BufferPool(self._allocate, self._free)
        self.signatures = backend.signatures

    def run(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        x = inputs["x"]
        self.runs.append((len(x), self.pool.owns(x)))
        if POISON in x:
            raise ServingError(Code.OUT_OF_RANGE, "x is refused")
        return self._backend.run(signature, inputs, outputs)

    exact = True
    evidence = ()
    hints = NO_HINTS
    most_rows = MOST

    def try_run(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        return self._backend.run(signature, inputs, outputs)

    def close(self) -> None:
        self._backend.close()
        self.pool.close()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        return self.pool.empty(shape, dtype)

    def fit_batching(self, options: Options) -> Options:
        return replace(options, max_batch_size=MOST, allowed_batch_sizes=(4, MOST))

    def _allocate(self, size: int) -> Block:
        self.allocated += 1
        self.blocks.append(np.full(size, 0xFF, np.uint8))
        return self.blocks[-1]

    def _free(self, block: Block) -> None:
        del self.blocks[next(i for i, own in enumerate(self.blocks) if own is block)]


@pytest.fixture
def owners(monkeypatch: pytest.MonkeyPatch) -> list[Owner]:
    made: list[Owner] = []

    def load(model: Path, options: BackendOptions) -> Owner:
        made.append(Owner(load_onnx(model, options)))
        return made[-1]

    monkeypatch.setattr(auto, "_load_onnx", load)
    return made


def sums(server: RunningServer, rows: Sequence[Array]) -> list[list[float] | Refusal]:
    """The answer to each request, all sent at once."""
    futures: list[Any] = [server.caller.begin(predict_request({"x": x})) for x in rows]

    def answer(future: Any) -> list[float] | Refusal:
        error = future.exception()
        return refusal_of(error) if error else arrays(future.result())["y"].ravel().tolist()

    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(answer, futures))


def test_batches_are_joined_in_the_backends_memory_and_padded_to_its_sizes(running: Run, owners: list[Owner]) -> None:
    server = running(models.linear, batching=TOGETHER, enable_synthetic_warmup=False)
    (owner,) = owners
    rows = [np.full((1 + number % 3, 4), number, np.float32) for number in range(60)]

    assert sums(server, rows) == [[4.0 * number] * (1 + number % 3) for number in range(60)]
    assert {size for size, _ in owner.runs} <= {4, MOST}
    assert all(own for _, own in owner.runs)
    assert owner.allocated <= 2  # one for each batch thread, which is used again and again
    server.stop()
    assert not owner.blocks


def test_a_failed_batch_returns_its_memory(running: Run, owners: list[Owner]) -> None:
    server = running(models.linear, batching=TOGETHER, enable_synthetic_warmup=False)
    (owner,) = owners
    bad = {5, 17, 30}
    rows = [np.full((1, 4), POISON if number in bad else number + 20, np.float32) for number in range(40)]

    answers = sums(server, rows)

    assert [number for number, answer in enumerate(answers) if isinstance(answer, Refusal)] == sorted(bad)
    assert [a for a in answers if not isinstance(a, Refusal)] == [
        [4.0 * (number + 20)] for number in range(40) if number not in bad
    ]
    assert len(owner.runs) > 10
    assert owner.allocated <= 4  # one for each thread and each of the two block sizes, for 4 and 8 rows
    eventually(lambda: owner.pool.held == sum(block.nbytes for block in owner.blocks))
    server.stop()
    assert not owner.blocks


def test_more_rows_than_the_backend_can_run_are_refused_before_they_wait(running: Run, owners: list[Owner]) -> None:
    server = running(models.linear, batching=TOGETHER, enable_synthetic_warmup=False)

    (answer,) = sums(server, [np.zeros((MOST + 1, 4), np.float32)])

    assert isinstance(answer, Refusal)
    assert "Task size 9 is larger than maximum input batch size 8" in answer.text
    assert not owners[0].runs
