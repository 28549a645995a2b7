"""A backend for tests: it adds a number to each row, records its inputs, and can be blocked during a run."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from threading import Event

import numpy as np

from headrace_batching import Options
from headrace_batching.task import Arrays
from headrace_protos import Code, DataType
from headrace_server.backends.signature import DEFAULT_SIGNATURE, Signature, TensorSpec
from headrace_server.errors import ServingError

PATIENCE = 20.0  # the longest wait in seconds; far more than any step takes

X = TensorSpec("x", DataType.DT_FLOAT, (None, 1), ("N", ""))
SUM = TensorSpec("sum", DataType.DT_FLOAT, (None, 1), ("N", ""))
ROWS = TensorSpec("rows", DataType.DT_INT64, (None,), ("N",))

HELD = 77.0  # an `x` that makes a run wait for `go_on`
REFUSED = -1.0  # an `x` that makes a run fail


class Adder:
    """`sum` float [N, 1] = `x` + `number`, and `rows` int64 [N], the number of rows of each row's batch.

    Attributes:
        runs: The values of `x` in each run, in the order in which they started.
        entered: Set once a run is blocked.
        go_on: Releases the blocked runs and all later ones.
        closed: Whether the backend has been closed.
    """

    def __init__(self, number: float = 0.0, *, batched: bool = True) -> None:
        self._number = number
        self._signature = Signature({"x": X}, {"sum": SUM, "rows": ROWS}, batched=batched)
        self.runs: list[list[float]] = []
        self.entered = Event()
        self.go_on = Event()
        self.closed = False

    @property
    def signatures(self) -> Mapping[str, Signature]:
        return {DEFAULT_SIGNATURE: self._signature}

    def run(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        assert signature == DEFAULT_SIGNATURE
        assert not self.closed
        x = inputs["x"]
        self.runs.append(x[:, 0].tolist())
        if HELD in x:
            self.entered.set()
            assert self.go_on.wait(PATIENCE)
        if REFUSED in x:
            raise ServingError(Code.OUT_OF_RANGE, "x is refused")
        results: Arrays = {"sum": x + np.float32(self._number), "rows": np.full(len(x), len(x), np.int64)}
        return {alias: results[alias] for alias in outputs}

    def close(self) -> None:
        assert not self.closed
        self.closed = True


class Narrow(Adder):
    """A backend that runs one batch at a time."""

    def fit_batching(self, options: Options) -> Options:
        return replace(options, max_running_batches=1)
