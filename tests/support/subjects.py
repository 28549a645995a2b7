"""Array functions that a trial of independence can test, with a run time that the test sets."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from headrace_batching.task import Array
from headrace_protos import DataType
from headrace_server.backends.independence import Subject, Verdict, try_rows
from headrace_server.backends.signature import TensorSpec

X = TensorSpec("x", DataType.DT_FLOAT, (None, 4), ("N", ""))
Y = TensorSpec("y", DataType.DT_FLOAT, (None, 4), ("N", ""))
IDS = TensorSpec("ids", DataType.DT_INT64, (None,), ("N",))

SLOW = 0.1  # seconds a row: no trial fits into the budget

BETWEEN = 1e-3  # seconds a row: most of a full trial fits, but no batch of 40 rows


def subject(function: Callable[..., object], *inputs: TensorSpec) -> Subject:
    specs = {spec.name: spec for spec in inputs or (X,)}
    return Subject(run=lambda arrays: {"y": np.asarray(function(**arrays))}, inputs=specs, outputs={"y": Y})


def timed(
    function: Callable[..., object], *inputs: TensorSpec, seconds: float, most_rows: int | None = None
) -> tuple[Verdict, list[int]]:
    """The verdict on a function that takes this long for each row, and the number of rows of each run."""
    now, rows = [0.0], list[int]()

    def model(**arrays: Array) -> object:
        rows.append(len(next(iter(arrays.values()))))
        now[0] += seconds * rows[-1]
        return function(**arrays)

    own = replace(subject(model, *inputs), most_rows=most_rows)
    verdict = try_rows(own, 0.05, clock=lambda: now[0])
    assert verdict.seconds == pytest.approx(now[0])
    return verdict, rows
