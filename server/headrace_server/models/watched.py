"""Functions that inspect the inputs and the outputs of a version's batches after their run."""

from collections.abc import Callable

from headrace_batching.contract import Run
from headrace_batching.task import Arrays

Take = Callable[[Arrays, Arrays], None]
"""Called with a batch's inputs and outputs on its batch thread; must not keep them, wait, or raise."""


def watched(run: Run, take: Take | None) -> Run:
    """The same function, with its batches inspected."""
    if take is None:
        return run

    def run_and_take(inputs: Arrays) -> Arrays:
        outputs = run(inputs)
        take(inputs, outputs)
        return outputs

    return run_and_take
