"""Functions that inspect the inputs and the outputs of a version's batches after their run."""

from collections.abc import Callable

from headrace_batching.contract import Run
from headrace_batching.task import Arrays

Take = Callable[[Arrays, Arrays], int]
"""Called with a batch's inputs and outputs on its batch thread; must not keep them, wait, or raise.

Returns the number of further batches after which it must be called again.
"""


def watched(run: Run, take: Take | None) -> Run:
    """Wraps a function that runs batches, to inspect some of them; any other batch costs only the countdown."""
    if take is None:
        return run
    left = 1

    def run_and_take(inputs: Arrays) -> Arrays:
        nonlocal left
        outputs = run(inputs)
        left -= 1
        if left <= 0:
            left = take(inputs, outputs)
        return outputs

    return run_and_take
