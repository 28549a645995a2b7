"""The signature that is tested, and its runs, which use copies of the inputs and outputs and record what they show."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from headrace_batching.task import Array, Arrays
from headrace_server.backends.independence.evidence import Evidence
from headrace_server.backends.independence.hints import NO_HINTS, Hints
from headrace_server.backends.independence.verdict import EXPORT_AGAIN, RECORD_REQUESTS, Decided, Finding
from headrace_server.backends.signature import TensorSpec
from headrace_server.config.padding import PaddingOptions
from headrace_server.errors import RunLost

Run = Callable[[Arrays], Arrays]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The tested signature.

    Attributes:
        run: Runs the model: takes arrays by input alias, and returns arrays by output alias. May raise anything for
            inputs that the model refuses.
        inputs: The model's inputs, by alias; the first dimension of each varies.
        outputs: The model's outputs, by alias.
        exact: Whether equal rows at equal positions in batches of equal size give equal bits, as on a CPU.
        evidence: Reasons in the model's description to doubt that rows are independent.
        records: Real requests, which are the best inputs: each has an array with rows for every input.
        most_rows: The maximum number of rows of a batch; None means any number.
        padding: How inputs of different lengths may share a batch.
        hints: Facts from the model's file about inputs to try.
    """

    run: Run
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    exact: bool = True
    evidence: Sequence[Evidence] = ()
    records: Sequence[Arrays] = field(default_factory=tuple)
    most_rows: int | None = None
    padding: PaddingOptions = field(default_factory=PaddingOptions)
    hints: Hints = NO_HINTS


class Runs:
    """Runs the tested signature, and measures the runs.

    Attributes:
        count: The number of runs so far.
        quickest: The duration in seconds of the fastest run that the model did not refuse.
        quickest_row: The seconds per row in the run that was fastest per row.
        spent: The seconds that all runs took.
    """

    def __init__(self, subject: Subject, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.quickest = self.quickest_row = float("inf")
        self.spent = 0.0
        self._subject = subject
        self._constant = set(subject.outputs)  # outputs in which no two rows have differed
        self._not_finite = set(subject.outputs)
        self.count = 0

    @property
    def blind(self) -> str:
        """The reason why the outputs so far prove nothing, as the end of a sentence; empty if there is none."""
        if self._not_finite:
            return f"output {min(self._not_finite)!r} was not finite for any input that was tried"
        if self._constant == set(self._subject.outputs):
            return "no output changed with any input that was tried"
        return ""

    def run(self, inputs: Arrays) -> Arrays:
        """Runs the signature on copies, as a model may change its inputs. The outputs may have any number of rows.

        Raises:
            Decided: The run has crashed the model's process; further runs would do so again.
            Exception: The model refuses the inputs.
        """
        self.count += 1
        began = self._clock()
        with np.errstate(all="ignore"):
            try:
                outputs = self._subject.run({alias: array.copy() for alias, array in inputs.items()})
            except RunLost as lost:
                raise Decided(Finding.UNDECIDED, lost.message, advice=RECORD_REQUESTS) from lost
        took = self._clock() - began
        self.quickest, self.spent = min(self.quickest, took), self.spent + took
        self.quickest_row = min(self.quickest_row, took / max(1, rows_of(inputs)))
        return {alias: np.array(outputs[alias]) for alias in self._subject.outputs}

    def outputs(self, inputs: Arrays) -> Arrays:
        """Runs the signature, and checks that each output has as many rows as the inputs.

        Raises:
            Decided: An output has a different number of rows.
            Exception: The model refuses the inputs.
        """
        rows, outputs = rows_of(inputs), self.run(inputs)
        for alias, array in outputs.items():
            if array.ndim == 0 or len(array) != rows:
                has = f"has {len(array)} rows" if array.ndim else "has no rows"
                reason = f"output {alias!r} {has} where the inputs have {rows}"
                raise Decided(Finding.DEPENDENT, reason, (alias, float("inf")), advice=EXPORT_AGAIN)
            self._look(alias, array)
        return outputs

    def outputs_if_taken(self, inputs: Arrays) -> Arrays | None:
        """Like `outputs`, but returns None if the model refuses the inputs."""
        try:
            return self.outputs(inputs)
        except Decided:
            raise
        except Exception:
            return None

    def _look(self, alias: str, array: Array) -> None:
        if alias in self._not_finite and _has_finite(array):
            self._not_finite.remove(alias)
        if alias in self._constant and _rows_differ(array):
            self._constant.remove(alias)


def rows_of(inputs: Arrays) -> int:
    """The number of rows of inputs, which is the same for all."""
    return len(next(iter(inputs.values())))


def _rows_differ(array: Array) -> bool:
    """Whether some row differs from the first one."""
    if array.dtype.hasobject:  # a row of one string is the string itself
        first, *others = array.tolist()
        return any(row != first for row in others)
    return any(row.tobytes() != array[0].tobytes() for row in array[1:])


def _has_finite(array: Array) -> bool:
    if array.dtype.kind not in "fcV":
        return True
    return not array.size or bool(np.isfinite(array.astype(np.complex128)).any())
